"""``Passphrase``: derived once, with parameters that a file cannot bend."""

from __future__ import annotations

import base64
import os
import pickle
import threading

import pytest
from cryptography.exceptions import UnsupportedAlgorithm

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


# An older cryptography has no Argon2id.
QUICK = CHEAP if passphrase._has_argon2id() else SCRYPT


@pytest.fixture
def cheap(monkeypatch):
    """Derive with the least that is accepted, to be quick."""
    monkeypatch.setattr(passphrase, "_ARGON2ID", {k: v for k, v in CHEAP.items() if k != "salt"})
    monkeypatch.setattr(passphrase, "_SCRYPT", {k: v for k, v in SCRYPT.items() if k != "salt"})


@pytest.fixture
def derivations(monkeypatch):
    """What is derived, by its parameters."""
    derived = []
    really = passphrase._derive

    def derive(secret, kdf):
        derived.append(kdf)
        return really(secret, kdf)

    monkeypatch.setattr(passphrase, "_derive", derive)
    return derived


def header(path):
    return Envelope.from_bytes(path.read_bytes()).header


@pytest.mark.usefixtures("cheap")
class TestStore:
    """A store with a passphrase."""

    def test_two_processes_share_the_salt(self, tmp_path, derivations):
        """Who has the passphrase reads and writes; each derives once, with the first's salt."""
        path = tmp_path / "app" / "tokens"
        first = EncryptedFileStore(path, key=Passphrase("correct horse"))
        saved = first.save(Token("a", "r"), None)
        second = EncryptedFileStore(path, key=Passphrase("correct horse"))
        assert saved.is_same(second.load())
        again = second.save(Token("b", "r2"), saved)
        assert again.is_same(first.load())
        first.save(Token("c"), None)
        assert len(derivations) == 2
        assert derivations[0] == derivations[1] == header(path)["kdf"]

    def test_two_stores_have_two_salts(self, tmp_path):
        """One passphrase in two processes makes two keys."""
        for name in ("one", "two"):
            key = Passphrase("correct horse")
            EncryptedFileStore(tmp_path / "app" / name, key=key).save(Token("a"), None)
        one, two = (header(tmp_path / "app" / name) for name in ("one", "two"))
        assert one["kdf"]["salt"] != two["kdf"]["salt"]
        assert one["key"] != two["key"]

    def test_a_wrong_passphrase(self, tmp_path):
        """A wrong passphrase is a WrongKey that says it was one; nothing is overwritten."""
        path = tmp_path / "app" / "tokens"
        EncryptedFileStore(path, key=Passphrase("right")).save(Token("a"), None)
        content = path.read_bytes()
        store = EncryptedFileStore(path, key=Passphrase("wrong"))
        for attempt in (store.load, lambda: store.save(Token("b"), None)):
            with pytest.raises(WrongKey, match="made of a passphrase") as error:
                attempt()
            assert error.value.stored_key_id == header(path)["key"]
            assert len(error.value.key_ids) == 1
        assert path.read_bytes() == content

    def test_from_a_key_file_to_a_passphrase_and_back(self, tmp_path):
        """Sources of both kinds stand in one rotation."""
        path, key = tmp_path / "app" / "tokens", KeyFile(tmp_path / "key", make=True)
        saved = EncryptedFileStore(path, key=key).save(Token("a"), None)
        with pytest.raises(WrongKey, match="not what they were encrypted with"):
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
        """Many threads that need the key at once derive it once."""
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
        """What two keyboards send for one text is one passphrase."""
        one, two = Passphrase("caf\u00e9"), Passphrase("cafe\u0301")
        assert one.for_reading(QUICK) == two.for_reading(QUICK)

    def test_a_callable(self, monkeypatch):
        """The passphrase may come from elsewhere; it is asked for once, and named when missing."""
        monkeypatch.setenv("APP_PASSPHRASE", "correct horse")
        source = pickle.loads(pickle.dumps(Passphrase(FromEnvironment("APP_PASSPHRASE"))))
        assert source.for_reading(QUICK) == Passphrase("correct horse").for_reading(QUICK)
        monkeypatch.delenv("APP_PASSPHRASE")
        assert source.for_reading(QUICK)
        with pytest.raises(StoreError, match="APP_PASSPHRASE is not set"):
            Passphrase(FromEnvironment("APP_PASSPHRASE")).for_reading(QUICK)


def test_the_real_parameters(tmp_path):
    """What new states are made with is Argon2id with 64 MiB, as RFC 9106 has it."""
    path = tmp_path / "app" / "tokens"
    EncryptedFileStore(path, key=Passphrase("correct horse")).save(Token("a"), None)
    kdf = dict(header(path)["kdf"])
    assert len(base64.b64decode(kdf.pop("salt"))) == 16
    if kdf["name"] == "argon2id":
        assert kdf == {"name": "argon2id", "memory_kib": 65536, "iterations": 3, "lanes": 4}
    else:  # an older cryptography
        assert kdf == {"name": "scrypt", "n": 131072, "r": 8, "p": 1}


def test_scrypt_where_argon2id_lacks(monkeypatch):
    """Without Argon2id, scrypt is used; what Argon2id made says what it needs."""
    argon2 = pytest.importorskip("cryptography.hazmat.primitives.kdf.argon2")

    class Lacking:
        def __init__(self, **parameters):
            raise UnsupportedAlgorithm("no Argon2id")

    monkeypatch.setattr(argon2, "Argon2id", Lacking)
    monkeypatch.setattr(passphrase, "_SCRYPT", {k: v for k, v in SCRYPT.items() if k != "salt"})
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
    """A planted file neither weakens the key of the next save nor takes all the memory."""
    with pytest.raises(StoreCorrupted):
        Passphrase("p").for_reading({**CHEAP, **change})


@pytest.mark.parametrize("change", [{"n": 2**14}, {"n": 2**21}, {"r": 7}, {"r": 17}, {"p": 17}])
def test_scrypt_parameters_out_of_bounds(change):
    """The same for scrypt."""
    with pytest.raises(StoreCorrupted):
        Passphrase("p").for_reading({**SCRYPT, **change})


def test_an_unknown_derivation():
    """A derivation of the future is not called corrupt."""
    with pytest.raises(StoreError, match=r"'bcrypt'.*upgrade") as error:
        Passphrase("p").for_reading({"name": "bcrypt"})
    assert not isinstance(error.value, StoreCorrupted)


def test_too_little_memory(monkeypatch):
    """Too little memory for the derivation is transient."""

    class Hungry:
        def derive(self, text):
            raise MemoryError

    monkeypatch.setattr(passphrase, "_kdf", lambda kdf, salt: Hungry())
    with pytest.raises(StoreUnavailable, match="memory"):
        Passphrase("p").for_reading(CHEAP)


@pytest.mark.parametrize(
    ("given", "error"), [("", ValueError), (None, TypeError), (b"x", TypeError)]
)
def test_what_is_no_passphrase(given, error):
    """An empty passphrase or another type is refused at construction."""
    with pytest.raises(error):
        Passphrase(given)


@pytest.mark.parametrize("answer", ["", None, b"bytes"])
def test_a_callable_that_returns_none(answer):
    """A callable must return a passphrase."""
    with pytest.raises(StoreError, match=r"returned (no passphrase|nothing)"):
        Passphrase(lambda: answer).for_reading(QUICK)


def test_it_does_not_show():
    """P12: a literal passphrase is neither printed nor pickled, and what it would take is said."""
    source = Passphrase("canary")
    assert "canary" not in repr([source, vars(source)])
    with pytest.raises(TypeError, match="FromEnvironment"):
        pickle.dumps(source)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_can_derive():
    """A fork while another thread derives leaves the child a lock of its own."""
    source = Passphrase("p")
    with source._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if source.for_reading(SCRYPT) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
