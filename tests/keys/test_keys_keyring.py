"""``KeyringKey`` uses only a keyring that really keeps the key, and never waits for ever."""

from __future__ import annotations

import builtins
import os
import pickle
import threading

import keyring
import keyring.backend
import keyring.backends.chainer
import keyring.backends.fail
import keyring.backends.null
import keyring.errors
import pytest

from requests_silent_refresh import (
    EncryptedFileStore,
    RefreshTokenGrant,
    StoreError,
    StoreUnavailable,
    Token,
    TokenManager,
    WrongKey,
)
from requests_silent_refresh.keys import KeyringKey, generate_key


class Vault(keyring.backend.KeyringBackend):
    """A keyring in memory."""

    priority = 1

    def __init__(self):
        super().__init__()
        self.kept = {}
        self.asked = 0

    def get_password(self, service, username):
        self.asked += 1
        return self.kept.get((service, username))

    def set_password(self, service, username, password):
        self.kept[service, username] = password

    def delete_password(self, service, username):
        del self.kept[service, username]


class PlaintextVault(Vault):
    """A keyring whose name says that it stores plain text."""


class Locked(Vault):
    """A keyring that stays locked."""

    def get_password(self, service, username):
        raise keyring.errors.KeyringLocked("locked")


class Forgetful(Vault):
    """A keyring that silently keeps nothing."""

    def set_password(self, service, username, password):
        pass


class Broken(Vault):
    """A keyring without its service: no D-Bus on a machine without a desktop."""

    def get_password(self, service, username):
        raise keyring.errors.InitError("no D-Bus session")


class Asking(Vault):
    """A keyring that shows a dialogue nobody answers."""

    def __init__(self):
        super().__init__()
        self.answered = threading.Event()

    def get_password(self, service, username):
        super().get_password(service, username)
        self.answered.wait(30)


@pytest.fixture
def use():
    """Return a function that installs a backend as the current keyring."""
    before = keyring.get_keyring()
    yield lambda backend: keyring.set_keyring(backend) or backend
    keyring.set_keyring(before)


def test_only_the_key_is_kept(use, tmp_path):
    """P12: the first save makes the key; the keyring holds no token; a restart reads the key."""
    vault = use(Vault())
    path = tmp_path / "app" / "tokens"
    store = EncryptedFileStore(path, key=KeyringKey("report"))
    assert store.load() is None
    assert not vault.kept
    saved = store.save(Token("a", "r"), None)
    store.save(Token("b", "r2"), saved)
    assert list(vault.kept) == [("report", "token store key")]
    (key,) = vault.kept.values()
    assert EncryptedFileStore(path, key=key).load().generation == 2
    assert EncryptedFileStore(path, key=KeyringKey("report")).load().generation == 2


def test_it_is_read_once(use, tmp_path):
    """A process reads the key once, and again only for a state encrypted with another key."""
    vault = use(Vault())
    store = EncryptedFileStore(tmp_path / "app" / "tokens", key=KeyringKey("report"))
    state = store.save(Token("a"), None)
    asked = vault.asked
    for _ in range(3):
        state = store.save(Token("b"), state)
    assert vault.asked == asked
    name, new = ("report", "token store key"), generate_key()
    old, vault.kept[name] = vault.kept[name], new
    EncryptedFileStore(store.path, key=[new, old]).rotate_key()
    assert state.is_same(store.load())


def test_a_lost_key_is_not_replaced(use, tmp_path):
    """P4: if a state exists and the keyring has no key, none is made."""
    vault = use(Vault())
    path = tmp_path / "app" / "tokens"
    EncryptedFileStore(path, key=generate_key()).save(Token("a"), None)
    with pytest.raises(WrongKey, match="keyring holds no key for 'token store key' of 'report'"):
        EncryptedFileStore(path, key=KeyringKey("report")).save(Token("b"), None)
    assert not vault.kept


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        (keyring.backends.null.Keyring, "keeps nothing"),
        (keyring.backends.fail.Keyring, "keeps nothing"),
        (PlaintextVault, "plain text"),
        (type("Keyring", (Vault,), {"__module__": "keyrings.alt.file"}), "plain text"),
    ],
)
def test_untrustworthy_keyrings(use, backend, why):
    """P12: an unsafe keyring is rejected, and the error says what to use instead."""
    use(backend())
    with pytest.raises(StoreError, match=f"{why}.*KeyFile"):
        KeyringKey("report").for_writing(None)


def empty_chain(monkeypatch):
    """Return the chain backend of a machine without any usable keyring."""
    chain = keyring.backends.chainer.ChainerBackend()
    monkeypatch.setattr(type(chain), "backends", [], raising=False)
    return chain


@pytest.mark.parametrize(
    ("backend", "why", "transient"),
    [
        (keyring.backends.fail.Keyring, "keeps nothing", False),
        (keyring.backends.null.Keyring, "keeps nothing", False),
        (PlaintextVault, "plain text", False),
        (type("Keyring", (Vault,), {"__module__": "keyrings.alt.file"}), "plain text", False),
        (empty_chain, "did not keep", False),
        (Forgetful, "did not keep", False),
        (Locked, "KeyringLocked", True),
        (Broken, "InitError", True),
    ],
)
def test_a_sign_in_on_a_headless_machine(use, tmp_path, monkeypatch, backend, why, transient):
    """P12: without a safe keyring the sign-in fails, says what to use, and stores no token."""
    vault = use(backend(monkeypatch) if backend is empty_chain else backend())
    path = tmp_path / "app" / "tokens"
    manager = TokenManager(
        RefreshTokenGrant("https://auth.example.com/token", client_id="report"),
        store=EncryptedFileStore(path, key=KeyringKey("report")),
    )
    with pytest.raises(StoreError, match=f"{why}.*KeyFile") as refused:
        manager.sign_in(Token("canary-access", "canary-refresh"))
    assert isinstance(refused.value, StoreUnavailable) == transient
    assert not manager.signed_in
    assert not path.exists()
    assert not path.with_name("tokens.new").exists()
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"canary" not in written
    assert not getattr(vault, "kept", None)


def test_the_first_keyring_of_a_chain(use, monkeypatch):
    """Of several keyrings in a chain, the first is used and checked."""
    chain = keyring.backends.chainer.ChainerBackend()
    first = Vault()
    monkeypatch.setattr(type(chain), "backends", [first, PlaintextVault()], raising=False)
    use(chain)
    KeyringKey("report").for_writing(None)
    assert first.kept
    monkeypatch.setattr(type(chain), "backends", [PlaintextVault(), first], raising=False)
    with pytest.raises(StoreError, match="PlaintextVault"):
        KeyringKey("other").for_writing(None)


def test_a_keyring_that_forgets(use):
    """The key is read back, and the error says if the keyring did not keep it."""
    use(Forgetful())
    with pytest.raises(StoreError, match="did not keep"):
        KeyringKey("report").for_writing(None)


def test_a_locked_keyring(use):
    """A locked keyring is a transient error."""
    use(Locked())
    with pytest.raises(StoreUnavailable, match="KeyringLocked") as error:
        KeyringKey("report").for_reading(None)
    assert error.value.__cause__.__traceback__ is None


def test_a_dialogue_that_nobody_answers(use):
    """P8: a keyring that does not answer is given up after the timeout; one thread asks it."""
    asking = use(Asking())
    source = KeyringKey("report", timeout=0.05)
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="waiting to be unlocked"):
            source.for_reading(None)
    assert asking.asked == 1
    asking.answered.set()
    for thread in threading.enumerate():
        if thread.name == "keyring":
            thread.join(30)
    assert source.for_reading(None) == ()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_asks_again(use):
    """P8: a child that was forked during an unanswered dialogue asks the keyring itself."""
    asking = use(Asking())
    source = KeyringKey("report", timeout=0.05)
    with pytest.raises(StoreUnavailable):
        source.for_reading(None)
    child = os.fork()
    if child == 0:
        try:
            keyring.set_keyring(Vault())
            os._exit(0 if source.for_reading(None) == () else 1)
        finally:
            os._exit(2)
    status = os.waitpid(child, 0)[1]
    asking.answered.set()
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_foreign_value(use):
    """A value under that name that is not a key is an error that does not quote it."""
    vault = use(Vault())
    vault.kept["report", "token store key"] = "hunter2"
    with pytest.raises(StoreError, match="not a Fernet key") as error:
        KeyringKey("report").for_reading(None)
    assert "hunter2" not in str(error.value)


def test_without_the_extra(monkeypatch):
    """Without the keyring package the error names the extra."""
    really = builtins.__import__

    def lacking(name, *args):
        if name == "keyring":
            raise ImportError(name)
        return really(name, *args)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(StoreError, match=r"\[keyring\]"):
        KeyringKey("report").for_reading(None)


def test_it_pickles_by_name(use):
    """P12: the pickle contains the name of the key and not the key."""
    vault = use(Vault())
    source = KeyringKey("report", "account", timeout=3)
    key = source.for_writing(None)
    pickled = pickle.dumps(source)
    assert vault.kept["report", "account"].encode() not in pickled
    again = pickle.loads(pickled)
    assert again.timeout == 3
    assert again.for_reading(None) == (key,)
    assert repr(again) == "KeyringKey('report', 'account')"


@pytest.mark.parametrize(("service", "account"), [("", "a"), ("s", "")])
def test_names_are_required(service, account):
    """An empty name is rejected at construction."""
    with pytest.raises(ValueError, match="must not be empty"):
        KeyringKey(service, account)
