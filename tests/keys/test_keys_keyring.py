"""``KeyringKey``: only with a keyring that keeps what it is given, and never waiting for ever."""

from __future__ import annotations

import builtins
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
    """One that says what it is."""


class Locked(Vault):
    """One whose owner does not unlock it."""

    def get_password(self, service, username):
        raise keyring.errors.KeyringLocked("locked")


class Forgetful(Vault):
    """One that keeps nothing and does not say so."""

    def set_password(self, service, username, password):
        pass


class Broken(Vault):
    """One whose service is not there: D-Bus on a machine without a desktop."""

    def get_password(self, service, username):
        raise keyring.errors.InitError("no D-Bus session")


class Asking(Vault):
    """One that shows a dialogue nobody answers."""

    def __init__(self):
        super().__init__()
        self.answered = threading.Event()

    def get_password(self, service, username):
        super().get_password(service, username)
        self.answered.wait(30)


@pytest.fixture
def use():
    """Make a backend the keyring in use."""
    before = keyring.get_keyring()
    yield lambda backend: keyring.set_keyring(backend) or backend
    keyring.set_keyring(before)


def test_only_the_key_is_kept(use, tmp_path):
    """P12: the first save makes the key; the keyring holds it and no token; a restart reads it."""
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


def test_it_is_asked_once(use, tmp_path):
    """A process reads the key once, and again only for a state of another key."""
    vault = use(Vault())
    store = EncryptedFileStore(tmp_path / "app" / "tokens", key=KeyringKey("report"))
    state = store.save(Token("a"), None)
    asked = vault.asked
    for _ in range(3):
        state = store.save(Token("b"), state)
    assert vault.asked == asked
    vault.kept["report", "token store key"] = new = generate_key()
    old = store._file._keys._source._keys[0].value
    EncryptedFileStore(store.path, key=[new, old]).rotate_key()
    assert state.is_same(store.load())


def test_a_lost_key_is_not_replaced(use, tmp_path):
    """P4: with a state there and no key in the keyring, none is made."""
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
    """P12: on a headless machine a keyring that is none is refused, and says what to use."""
    use(backend())
    with pytest.raises(StoreError, match=f"{why}.*KeyFile"):
        KeyringKey("report").for_writing(None)


def empty_chain(monkeypatch):
    """Return the chain of a machine where no keyring can be used."""
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
    """P12: where no keyring can be trusted, the sign-in says what to use and leaves no token."""
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


def test_a_chain_is_asked_at_its_first(use, monkeypatch):
    """Of several keyrings in a chain the first is used, and judged."""
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
    """What was given is read back; a keyring that did not keep it is named as that."""
    use(Forgetful())
    with pytest.raises(StoreError, match="did not keep"):
        KeyringKey("report").for_writing(None)


def test_a_locked_keyring(use):
    """A locked keyring is transient."""
    use(Locked())
    with pytest.raises(StoreUnavailable, match="KeyringLocked") as error:
        KeyringKey("report").for_reading(None)
    assert error.value.__cause__.__traceback__ is None


def test_a_dialogue_that_nobody_answers(use):
    """P8: a keyring that does not answer is left after the timeout; one thread asks it."""
    asking = use(Asking())
    source = KeyringKey("report", timeout=0.05)
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="waiting to be unlocked"):
            source.for_reading(None)
    assert asking.asked == 1
    asking.answered.set()
    source._pending.join(30)
    assert source.for_reading(None) == ()


def test_a_foreign_value(use):
    """What somebody else keeps under the name is no key, and is not repeated."""
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
    """P12: what travels is the name of the key."""
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
def test_names_are_needed(service, account):
    """An empty name is refused at construction."""
    with pytest.raises(ValueError, match="name"):
        KeyringKey(service, account)
