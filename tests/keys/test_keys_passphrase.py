"""``Passphrase``: the key is derived once, with parameters that a planted file cannot change."""

from __future__ import annotations

import base64
import functools
import importlib
import os
import pickle
import threading
from types import SimpleNamespace

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.kdf import scrypt

from requests_silent_refresh import (
    EncryptedFileStore,
    StoreCorrupted,
    StoreError,
    StoreUnavailable,
    Token,
    WrongKey,
)
from requests_silent_refresh.keys import KeyFile, Passphrase, passphrase
from requests_silent_refresh.secret_sources import FromEnvironment
from requests_silent_refresh.stores.envelope import Envelope

SALT = base64.b64encode(bytes(range(16))).decode()
CHEAP = {"name": "argon2id", "memory_kib": 19 * 1024, "iterations": 1, "lanes": 1, "salt": SALT}
SCRYPT = {"name": "scrypt", "n": 2**15, "r": 8, "p": 1, "salt": SALT}
KDFS = [(scrypt, "Scrypt")]

try:  # an older cryptography has no Argon2id
    Passphrase("p").for_reading(CHEAP)
except StoreError:
    QUICK = SCRYPT
else:
    QUICK = CHEAP
    KDFS.append((importlib.import_module("cryptography.hazmat.primitives.kdf.argon2"), "Argon2id"))


def without_salt(kdf):
    return {name: value for name, value in kdf.items() if name != "salt"}


@pytest.fixture
def cheap(monkeypatch):
    """Derive with the lowest cost that is accepted, to be quick."""
    # There is no public setting for the cost: it would invite weak keys.
    monkeypatch.setattr(passphrase, "_ARGON2ID", without_salt(CHEAP))
    monkeypatch.setattr(passphrase, "_SCRYPT", without_salt(SCRYPT))


@pytest.fixture
def derivations(monkeypatch):
    """Return a list that gets the parameters of each derivation cryptography is asked for."""
    derived = []

    def counting(real, **parameters):
        kdf = real(**parameters)

        def derive(text):
            derived.append(parameters)
            return kdf.derive(text)

        return SimpleNamespace(derive=derive)

    for module, name in KDFS:
        monkeypatch.setattr(module, name, functools.partial(counting, getattr(module, name)))
    return derived


def header(path):
    return Envelope.from_bytes(path.read_bytes()).header


@pytest.mark.usefixtures("cheap")
class TestStore:
    """A store with a passphrase."""

    def test_two_processes_share_the_salt(self, tmp_path, derivations):
        """Each process derives the key once, from the salt of the first one."""
        path = tmp_path / "app" / "tokens"
        first = EncryptedFileStore(path, key=Passphrase("correct horse"))
        saved = first.save(Token("a", "r"), None)
        second = EncryptedFileStore(path, key=Passphrase("correct horse"))
        assert saved.is_same(second.load())
        again = second.save(Token("b", "r2"), saved)
        assert again.is_same(first.load())
        first.save(Token("c"), None)
        assert len(derivations) == 2
        assert derivations[0] == derivations[1]
        assert derivations[0]["salt"] == base64.b64decode(header(path)["kdf"]["salt"])

    def test_two_stores_have_two_salts(self, tmp_path):
        """One passphrase in two stores makes two keys."""
        for name in ("one", "two"):
            key = Passphrase("correct horse")
            EncryptedFileStore(tmp_path / "app" / name, key=key).save(Token("a"), None)
        one, two = (header(tmp_path / "app" / name) for name in ("one", "two"))
        assert one["kdf"]["salt"] != two["kdf"]["salt"]
        assert one["key"] != two["key"]

    def test_a_wrong_passphrase(self, tmp_path):
        """A wrong passphrase is a WrongKey that mentions the passphrase; nothing is overwritten."""
        path = tmp_path / "app" / "tokens"
        EncryptedFileStore(path, key=Passphrase("right")).save(Token("a"), None)
        content = path.read_bytes()
        store = EncryptedFileStore(path, key=Passphrase("wrong"))
        for attempt in (store.load, lambda: store.save(Token("b"), None)):
            with pytest.raises(WrongKey, match="derived from a passphrase") as error:
                attempt()
            assert error.value.stored_key_id == header(path)["key"]
            assert len(error.value.key_ids) == 1
        assert path.read_bytes() == content

    def test_from_a_key_file_to_a_passphrase_and_back(self, tmp_path):
        """A rotation can go from either kind of key to the other."""
        path, key = tmp_path / "app" / "tokens", KeyFile(tmp_path / "key", make=True)
        saved = EncryptedFileStore(path, key=key).save(Token("a"), None)
        with pytest.raises(WrongKey, match="were not encrypted with one"):
            EncryptedFileStore(path, key=Passphrase("p")).load()
        EncryptedFileStore(path, key=[Passphrase("p"), key]).rotate_key()
        assert saved.is_same(EncryptedFileStore(path, key=Passphrase("p")).load())
        salt = header(path)["kdf"]["salt"]
        EncryptedFileStore(path, key=Passphrase("p")).rotate_key()
        assert header(path)["kdf"]["salt"] != salt
        EncryptedFileStore(path, key=[key, Passphrase("p")]).rotate_key()
        assert header(path)["kdf"] is None
        assert saved.is_same(EncryptedFileStore(path, key=key).load())

    def test_threads_derive_once(self, derivations):
        """Many threads that need the key at the same time derive it once."""
        source = Passphrase("correct horse")
        start = threading.Barrier(8)

        def derive():
            start.wait(30)
            source.for_reading(QUICK)

        threads = [threading.Thread(target=derive) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(derivations) == 1

    def test_spellings_of_one_passphrase(self):
        """Two Unicode spellings of one text are the same passphrase."""
        one, two = Passphrase("caf\u00e9"), Passphrase("cafe\u0301")
        assert one.for_reading(QUICK) == two.for_reading(QUICK)

    def test_a_callable(self, monkeypatch):
        """A callable is called once; if it fails, the error names the missing variable."""
        monkeypatch.setenv("APP_PASSPHRASE", "correct horse")
        source = pickle.loads(pickle.dumps(Passphrase(FromEnvironment("APP_PASSPHRASE"))))
        assert source.for_reading(QUICK) == Passphrase("correct horse").for_reading(QUICK)
        monkeypatch.delenv("APP_PASSPHRASE")
        assert source.for_reading(QUICK)
        with pytest.raises(StoreError, match="APP_PASSPHRASE is not set"):
            Passphrase(FromEnvironment("APP_PASSPHRASE")).for_reading(QUICK)


def test_the_real_parameters(tmp_path):
    """New states use Argon2id with 64 MiB, as RFC 9106 recommends."""
    path = tmp_path / "app" / "tokens"
    EncryptedFileStore(path, key=Passphrase("correct horse")).save(Token("a"), None)
    kdf = dict(header(path)["kdf"])
    assert len(base64.b64decode(kdf.pop("salt"))) == 16
    if kdf["name"] == "argon2id":
        assert kdf == {"name": "argon2id", "memory_kib": 65536, "iterations": 3, "lanes": 4}
    else:  # an older cryptography
        assert kdf == {"name": "scrypt", "n": 131072, "r": 8, "p": 1}


@pytest.mark.usefixtures("cheap")
def test_scrypt_without_argon2id(monkeypatch):
    """Without Argon2id, scrypt is used; reading a key made with Argon2id says what it needs."""
    argon2 = pytest.importorskip("cryptography.hazmat.primitives.kdf.argon2")

    class Lacking:
        def __init__(self, **parameters):
            raise UnsupportedAlgorithm("no Argon2id")

    monkeypatch.setattr(argon2, "Argon2id", Lacking)
    key = Passphrase("p").for_writing(None)
    assert key.kdf["name"] == "scrypt"
    assert Passphrase("p").for_reading(key.kdf) == (key,)
    with pytest.raises(StoreError, match=r"OpenSSL 3\.2"):
        Passphrase("p").for_reading(CHEAP)


@pytest.mark.parametrize(
    "change",
    [
        {"memory_kib": 19 * 1024 - 1},
        {"memory_kib": 1024 * 1024 + 1},
        {"memory_kib": 10**12},
        {"iterations": 0},
        {"iterations": 17},
        {"lanes": 0},
        {"lanes": 2.0},
        {"lanes": True},
        {"lanes": None},
        {"salt": "AAAA"},
        {"salt": "not base64!"},
        {"salt": None},
    ],
)
def test_parameters_out_of_bounds(change, derivations):
    """A planted file can neither weaken the key of the next save nor use up the memory."""
    with pytest.raises(StoreCorrupted):
        Passphrase("p").for_reading({**CHEAP, **change})
    assert not derivations


@pytest.mark.parametrize("change", [{"n": 2**14}, {"n": 2**21}, {"r": 7}, {"r": 17}, {"p": 17}])
def test_scrypt_parameters_out_of_bounds(change):
    """The same for scrypt."""
    with pytest.raises(StoreCorrupted):
        Passphrase("p").for_reading({**SCRYPT, **change})


def test_an_unknown_derivation():
    """An unknown derivation, perhaps of a later release, is not reported as corrupt."""
    with pytest.raises(StoreError, match=r"'bcrypt'.*upgrade") as error:
        Passphrase("p").for_reading({"name": "bcrypt"})
    assert not isinstance(error.value, StoreCorrupted)


def test_too_little_memory(monkeypatch):
    """Too little memory for the derivation is a transient error."""

    class Hungry:
        def __init__(self, **parameters):
            pass

        def derive(self, text):
            raise MemoryError

    for module, name in KDFS:
        monkeypatch.setattr(module, name, Hungry)
    with pytest.raises(StoreUnavailable, match="memory"):
        Passphrase("p").for_reading(QUICK)


@pytest.mark.parametrize(
    ("given", "error"), [("", ValueError), (None, TypeError), (b"x", TypeError)]
)
def test_an_invalid_passphrase(given, error):
    """An empty passphrase or another type is rejected at construction."""
    with pytest.raises(error):
        Passphrase(given)


@pytest.mark.parametrize("answer", ["", None, b"bytes"])
def test_a_callable_that_returns_no_passphrase(answer):
    """A callable must return a non-empty str."""
    with pytest.raises(StoreError, match=r"returned (no passphrase|nothing)"):
        Passphrase(lambda: answer).for_reading(QUICK)


def test_it_does_not_show():
    """P12: a literal passphrase is never printed; pickling it fails and says what to use."""
    source = Passphrase("canary")
    assert "canary" not in repr([source, vars(source)])
    with pytest.raises(TypeError, match="FromEnvironment"):
        pickle.dumps(source)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_can_derive():
    """A child that was forked while another thread derived can derive the key itself."""
    parent, deriving, forked = os.getpid(), threading.Event(), threading.Event()

    def ask():
        if os.getpid() == parent:
            deriving.set()
            forked.wait(30)
        return "p"

    source = Passphrase(ask)
    thread = threading.Thread(target=source.for_reading, args=[SCRYPT])
    thread.start()
    assert deriving.wait(30)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if source.for_reading(SCRYPT) else 1)
        finally:
            os._exit(2)
    status = os.waitpid(child, 0)[1]
    forked.set()
    thread.join(30)
    assert os.waitstatus_to_exitcode(status) == 0
