"""Key sources: no key is lost, shown or replaced by accident."""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from queue_kit import Crowd

from requests_silent_refresh import (
    EncryptedFileStore,
    StoreCorrupted,
    StoreError,
    StoreUnavailable,
    Token,
    WrongKey,
)
from requests_silent_refresh.keys import (
    KeyFile,
    Keys,
    KeySource,
    as_source,
    default_key_file,
    generate_key,
)
from requests_silent_refresh.secret_sources import FromEnvironment, FromFile


@pytest.fixture(autouse=True)
def data_home(tmp_path, monkeypatch):
    """Keep the tests away from the key file of the person who runs them."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "data"


def encrypted_by(key):
    cipher = Keys(as_source(key)).encrypting(None)
    return cipher.fernet.encrypt(b"content"), cipher.key_id, cipher.kdf


def decrypts(key, encrypted):
    content, key_id, kdf = encrypted
    return Keys(as_source(key)).decrypt(content, key_id, kdf) == b"content"


def parts_of(thing):
    """Yield a store and all that its attributes lead to, as far as that is ours or a collection."""
    if isinstance(thing, (list, tuple, dict)):
        inside = thing.values() if isinstance(thing, dict) else thing
    elif type(thing).__module__.startswith("requests_silent_refresh."):
        inside = getattr(thing, "__dict__", {}).values()
    else:
        return
    yield thing
    for part in inside:
        yield from parts_of(part)


class TestGiven:
    """Keys that are written into the program, or returned by a callable."""

    @pytest.mark.parametrize("form", [str, str.encode, lambda k: bytearray(k.encode())])
    def test_every_form_of_a_fernet_key(self, form):
        """A key is accepted as text and as bytes."""
        key = generate_key()
        assert decrypts(form(key), encrypted_by(key))

    def test_whitespace_around_a_key(self):
        """A key read with its line break is the same key."""
        key = generate_key()
        assert decrypts(f" {key}\n", encrypted_by(key))

    @pytest.mark.parametrize(
        "key",
        ["", "hunter2", "correct horse battery staple", b"\xff" * 32, "é" * 44, "A" * 43, "!" * 44],
    )
    def test_a_malformed_key(self, key):
        """A passphrase or a truncated key is rejected at construction and not quoted."""
        with pytest.raises(ValueError, match="Passphrase") as error:
            EncryptedFileStore("tokens", key=key)
        assert not key or str(key) not in str(error.value)

    @pytest.mark.parametrize("key", [7, 1.5, object(), {"a": 1}])
    def test_other_types(self, key):
        """Any other type is a TypeError that lists the accepted ones."""
        with pytest.raises(TypeError, match="KeyFile"):
            as_source(key)

    def test_no_keys(self):
        """An empty list of keys is rejected."""
        with pytest.raises(ValueError, match="empty"):
            as_source([])

    def test_the_first_encrypts_and_all_decrypt(self):
        """With [new, old], content of both keys can be read, and the new key encrypts."""
        old, new = generate_key(), generate_key()
        assert decrypts([new, old], encrypted_by(old))
        assert decrypts(new, encrypted_by([new, old]))
        with pytest.raises(WrongKey):
            decrypts(old, encrypted_by([new, old]))

    def test_a_callable(self):
        """A callable (a KMS) may return one key or several, and is called once."""
        old, new = generate_key(), generate_key()
        asked = []

        def kms():
            asked.append(1)
            return [new, old]

        keys = Keys(as_source(kms))
        for key in (old, new, old):
            content, key_id, kdf = encrypted_by(key)
            assert keys.decrypt(content, key_id, kdf) == b"content"
        assert keys.encrypting(None).key_id == encrypted_by(new)[1]
        assert len(asked) == 1

    def test_a_callable_is_called_again_for_an_unknown_key(self):
        """A key that was rotated elsewhere is picked up without a restart."""
        current = [generate_key()]
        keys = Keys(as_source(lambda: current[0]))
        keys.encrypting(None)
        current[0] = generate_key()
        content, key_id, kdf = encrypted_by(current[0])
        assert keys.decrypt(content, key_id, kdf) == b"content"
        assert keys.encrypting(None).key_id == key_id

    def test_a_callable_without_the_key(self):
        """For an unknown key the callable is called at most twice; then WrongKey is raised."""
        asked = []

        def kms():
            asked.append(1)
            return generate_key()

        with pytest.raises(WrongKey):
            decrypts(kms, encrypted_by(generate_key()))
        assert len(asked) == 2

    @pytest.mark.parametrize(
        ("raised", "expected"),
        [(ConnectionError("canary"), StoreUnavailable), (ValueError("canary"), StoreError)],
    )
    def test_a_callable_that_fails(self, raised, expected):
        """An unreachable KMS is a transient error; other errors are not. Neither is quoted."""

        def kms():
            raise raised

        with pytest.raises(expected) as error:
            Keys(as_source(kms)).encrypting(None)
        assert type(error.value) is expected
        assert "canary" not in str(error.value)
        assert error.value.__cause__.__traceback__ is None

    @pytest.mark.parametrize("answer", ["hunter2", 5, [None]])
    def test_a_callable_that_returns_no_key(self, answer):
        """A returned value that is not a key is an error that does not quote it."""
        with pytest.raises(StoreError, match="is not a Fernet key") as error:
            Keys(as_source(lambda: answer)).encrypting(None)
        assert "hunter2" not in str(error.value)

    @pytest.mark.parametrize("answer", [None, [], ""])
    def test_a_callable_that_returns_nothing(self, answer):
        """The error for an empty result says that the callable returned nothing."""
        with pytest.raises(StoreError, match="callable given for the key returned nothing"):
            Keys(as_source(lambda: answer)).encrypting(None)

    def test_the_environment(self, monkeypatch):
        """FromEnvironment provides the key; if the variable is not set, the error names it."""
        key = generate_key()
        source = FromEnvironment("APP_TOKEN_KEY")
        with pytest.raises(StoreError, match="APP_TOKEN_KEY is not set"):
            Keys(as_source(source)).encrypting(None)
        monkeypatch.setenv("APP_TOKEN_KEY", key)
        assert decrypts(source, encrypted_by(key))

    def test_a_mounted_secret(self, tmp_path):
        """FromFile accepts the links and open file modes that container platforms use."""
        key = generate_key()
        (tmp_path / "..data").mkdir()
        (tmp_path / "..data" / "key").write_text(key + "\n")
        (tmp_path / "..data" / "key").chmod(0o644)
        (tmp_path / "key").symlink_to(tmp_path / "..data" / "key")
        assert decrypts(FromFile(tmp_path / "key"), encrypted_by(key))


class TestSources:
    """FromEnvironment and FromFile on their own; they provide client secrets too."""

    def test_they_hold_no_value(self, tmp_path, monkeypatch):
        """P12: a source is printed and pickled by name, and works after unpickling."""
        monkeypatch.setenv("SECRET", " canary\n")
        (tmp_path / "secret").write_text("canary\n")
        for source in (FromEnvironment("SECRET"), FromFile(tmp_path / "secret")):
            assert source() == "canary"
            assert "canary" not in repr(source)
            assert b"canary" not in pickle.dumps(source)
            assert pickle.loads(pickle.dumps(source))() == "canary"

    @pytest.mark.parametrize("name", ["", "A=B", "A\0", None])
    def test_an_impossible_name(self, name):
        """A name that no variable can have is rejected at construction."""
        with pytest.raises((TypeError, ValueError), match="name of an environment variable"):
            FromEnvironment(name)

    @pytest.mark.parametrize("path", ["", None])
    def test_an_impossible_path(self, path):
        """A value that cannot be a path is rejected at construction."""
        with pytest.raises((TypeError, ValueError), match="path of a file"):
            FromFile(path)

    @pytest.mark.parametrize("value", [None, "", "  \n"])
    def test_an_unset_variable(self, monkeypatch, value):
        """An unset or empty variable is a LookupError that names it."""
        monkeypatch.delenv("SECRET", raising=False)
        if value is not None:
            monkeypatch.setenv("SECRET", value)
        with pytest.raises(LookupError, match="SECRET is not set"):
            FromEnvironment("SECRET")()

    @pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"x" * 70_000])
    def test_a_file_without_a_secret(self, tmp_path, content):
        """An empty, binary or huge file is a ValueError that names it and quotes nothing."""
        (tmp_path / "secret").write_bytes(content)
        with pytest.raises(ValueError, match="secret") as error:
            FromFile(tmp_path / "secret")()
        assert error.value.__cause__ is None

    def test_a_missing_file(self, tmp_path):
        """A missing file is the operating system's error."""
        with pytest.raises(FileNotFoundError):
            FromFile(tmp_path / "none")()


class TestKeyFile:
    """A key in a private file of the user."""

    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "keys" / "app.key"

    def test_it_is_made_once(self, path):
        """With make=True the first write creates the file; later ones read it."""
        encrypted = encrypted_by(KeyFile(path, make=True))
        content = path.read_bytes()
        assert decrypts(KeyFile(path, make=True), encrypted)
        assert encrypted_by(KeyFile(path))[1] == encrypted[1]
        assert path.read_bytes() == content

    def test_it_is_not_made_unless_requested(self, path):
        """Without make=True a missing key file is an error that names the file."""
        with pytest.raises(StoreError, match=r"app\.key is missing"):
            encrypted_by(KeyFile(path))
        assert not path.exists()

    def test_reading_makes_nothing(self, path):
        """P4: a lost key is never replaced while a state that it encrypted exists."""
        encrypted = encrypted_by(generate_key())
        with pytest.raises(WrongKey, match="is missing"):
            decrypts(KeyFile(path, make=True), encrypted)
        assert not path.parent.exists()

    def test_modes(self, path):
        """The file has mode 0600 and its directory 0700, whatever the umask."""
        for umask in (0o000, 0o777):
            old = os.umask(umask)
            try:
                name = path.with_name(f"{umask:o}") / "key"
                encrypted_by(KeyFile(name, make=True))
            finally:
                os.umask(old)
            assert stat.S_IMODE(name.stat().st_mode) == 0o600
            assert stat.S_IMODE(name.parent.stat().st_mode) == 0o700

    def test_many_lines(self, path):
        """The first line encrypts, all decrypt; comments and empty lines are ignored."""
        old, new = generate_key(), generate_key()
        path.parent.mkdir()
        path.write_text(f"# keys of the report\n\n{new}\r\n  {old}\n")
        path.chmod(0o600)
        assert decrypts(KeyFile(path), encrypted_by(old))
        assert decrypts(new, encrypted_by(KeyFile(path)))

    def test_a_file_that_needs_no_change_keeps_its_comments(self, path):
        """retire_keys() leaves a file alone that holds no key to remove."""
        path.parent.mkdir()
        path.write_text(f"# keys of the report\n{generate_key()}\n")
        path.chmod(0o600)
        before = path.read_bytes()
        KeyFile(path).retire_keys(1)
        assert path.read_bytes() == before

    def test_a_changed_file_is_read_again(self, path):
        """A running process picks up a key that was added."""
        keys = Keys(KeyFile(path, make=True))
        before = keys.encrypting(None).key_id
        added = KeyFile(path).add_key()
        assert added != before
        assert keys.encrypting(None).key_id == added
        content, key_id, kdf = encrypted_by(KeyFile(path))
        assert keys.decrypt(content, key_id, kdf) == b"content"

    def test_a_malformed_line(self, path):
        """The error gives the number of a damaged line and does not quote it."""
        path.parent.mkdir()
        path.write_text(f"{generate_key()}\nhunter2\n")
        path.chmod(0o600)
        with pytest.raises(StoreError, match="line 2") as error:
            encrypted_by(KeyFile(path))
        assert "hunter2" not in str(error.value)

    def test_an_open_mode_is_restricted(self, path, caplog):
        """P12: a key file that others can read is set to 0600, and that is logged."""
        path.parent.mkdir()
        path.write_text(generate_key())
        path.chmod(0o644)
        encrypted_by(KeyFile(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "could be opened by others" in caplog.text

    def test_a_link_is_not_followed(self, path, tmp_path):
        """A key file that is a link is rejected."""
        path.parent.mkdir()
        (tmp_path / "real").write_text(generate_key())
        path.symlink_to(tmp_path / "real")
        with pytest.raises(StoreError, match="symbolic link"):
            encrypted_by(KeyFile(path))

    @pytest.mark.skipif(os.name == "nt", reason="needs POSIX FIFOs")
    @pytest.mark.parametrize("ending", ["", ".lock"])
    def test_a_fifo_does_not_block(self, path, ending):
        """P8, P12: a FIFO in place of the key file or its lock is rejected at once."""
        path.parent.mkdir()
        os.mkfifo(f"{path}{ending}")
        uses = [lambda: encrypted_by(KeyFile(path, make=True)), KeyFile(path).add_key]
        if not ending:
            uses.append(lambda: encrypted_by(KeyFile(path)))
        for use in uses:
            (outcome,) = Crowd(use, size=1).outcomes(timeout=20)
            assert isinstance(outcome, StoreError)
            assert f"{path}{ending} is not a regular file" in str(outcome)

    @pytest.mark.skipif(os.name == "nt", reason="needs POSIX FIFOs")
    def test_a_fifo_in_place_of_the_new_file_is_replaced(self, path):
        """P8, P12: the key is not written into a planted FIFO, and the call does not block."""
        path.parent.mkdir()
        os.mkfifo(f"{path}.new")
        (encrypted,) = Crowd(lambda: encrypted_by(KeyFile(path, make=True)), 1).outcomes(timeout=20)
        assert decrypts(KeyFile(path), encrypted)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
    def test_racing_processes_make_one_key(self, path):
        """Eight processes that need the key at once all use the same key."""
        program = (
            "import os, sys; from requests_silent_refresh.keys import *\n"
            "start, go = os.pipe()\n"
            "for _ in range(8):\n"
            "    if os.fork() == 0:\n"
            "        os.close(go); os.read(start, 1)\n"
            "        id = Keys(KeyFile(sys.argv[1], make=True)).encrypting(None).key_id\n"
            "        os.write(1, id.encode() + b'\\n'); os._exit(0)\n"
            "os.close(go)\n"
            "for _ in range(8): assert os.wait()[1] == 0\n"
        )
        ran = subprocess.run(
            [sys.executable, "-c", program, path], capture_output=True, timeout=60, check=True
        )
        key_ids = ran.stdout.decode().split()
        assert len(key_ids) == 8
        assert set(key_ids) == {encrypted_by(KeyFile(path))[1]}

    def test_keys_added_at_once_all_stay(self, path):
        """Concurrent calls of add_key() lose no key."""
        encrypted_by(KeyFile(path, make=True))
        threads = [threading.Thread(target=KeyFile(path).add_key) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(set(path.read_text().split())) == 7

    def test_it_pickles_as_a_path(self, path):
        """P12: the pickle contains the path and not the keys that were read from it."""
        used = KeyFile(path, make=True)
        encrypted = encrypted_by(used)
        assert decrypts(used, encrypted)
        key = path.read_bytes().strip()
        assert key in pickle.dumps(vars(used))  # it is in memory, so it could get into the pickle
        pickled = pickle.dumps(used)
        assert key not in pickled
        again = pickle.loads(pickled)
        assert again.make
        assert decrypts(again, encrypted)
        assert repr(again) == f"KeyFile({str(path)!r})"


class TestDefaultKey:
    """A store without a key."""

    def test_it_is_in_the_data_directory(self, tmp_path, data_home):
        """The first save makes the key file, apart from the state; all stores share it."""
        store = EncryptedFileStore(tmp_path / "state" / "tokens")
        assert store.load() is None
        assert not data_home.exists()
        saved = store.save(Token("a", "r"), None)
        assert default_key_file().path.startswith(str(data_home))
        assert os.path.exists(default_key_file().path)
        assert saved.is_same(EncryptedFileStore(tmp_path / "state" / "tokens").load())
        EncryptedFileStore(tmp_path / "state" / "others").save(Token("b", "r"), None)
        assert len(Path(default_key_file().path).read_text().split()) == 1

    def test_a_lost_default_key_is_not_replaced(self, tmp_path):
        """P4: if the key file is lost, no new key is made and the state is not overwritten."""
        store = EncryptedFileStore(tmp_path / "state" / "tokens")
        store.save(Token("a", "r"), None)
        content = (tmp_path / "state" / "tokens").read_bytes()
        os.unlink(default_key_file().path)
        again = EncryptedFileStore(tmp_path / "state" / "tokens")
        for attempt in (again.load, lambda: again.save(Token("b"), None), again.rotate_key):
            with pytest.raises(WrongKey, match=r"default\.key is missing.*reset\(\)"):
                attempt()
        assert not os.path.exists(default_key_file().path)
        assert (tmp_path / "state" / "tokens").read_bytes() == content

    def test_a_state_beside_the_key_is_rejected(self):
        """The state must not be in the key's directory: copying it would copy both."""
        beside = os.path.join(os.path.dirname(default_key_file().path), "tokens")
        with pytest.raises(ValueError, match="beside the default key file"):
            EncryptedFileStore(beside)


class TestRotation:
    """Adding a new first key, encrypting everything again, removing the old key."""

    def test_explicit_keys(self, tmp_path):
        """rotate_key() encrypts the stored state with the first key and keeps its generation."""
        old, new = generate_key(), generate_key()
        path = tmp_path / "app" / "tokens"
        saved = EncryptedFileStore(path, key=old).save(Token("a", "r"), None)
        running = EncryptedFileStore(path, key=[new, old])
        key_id = running.rotate_key()
        loaded = EncryptedFileStore(path, key=new).load()
        assert saved.is_same(loaded)
        assert loaded.token.refresh_token.reveal() == "r"
        with pytest.raises(WrongKey) as error:
            EncryptedFileStore(path, key=old).load()
        assert error.value.stored_key_id == key_id
        running.save(Token("b", "r2"), saved)  # its state is still valid

    def test_a_key_file(self, tmp_path):
        """A process that runs during add_key() and rotate_key() keeps working after both."""
        path, key = tmp_path / "app" / "tokens", KeyFile(tmp_path / "k" / "key", make=True)
        running = EncryptedFileStore(path, key=KeyFile(key.path))
        saved = EncryptedFileStore(path, key=key).save(Token("a", "r"), None)
        assert saved.is_same(running.load())
        added = key.add_key()
        assert EncryptedFileStore(path, key=key).rotate_key() == added
        newest = Path(key.path).read_text().split()[0]
        assert saved.is_same(EncryptedFileStore(path, key=newest).load())
        assert saved.is_same(running.load())
        running.save(Token("b", "r2"), saved)
        assert EncryptedFileStore(path, key=newest).load().generation == 2

    def test_from_an_explicit_key_to_the_default(self, tmp_path):
        """Rotating from an explicit key to the default key file makes that file."""
        old, path = generate_key(), tmp_path / "app" / "tokens"
        EncryptedFileStore(path, key=old).save(Token("a"), None)
        EncryptedFileStore(path, key=[default_key_file(), old]).rotate_key()
        assert EncryptedFileStore(path).load().generation == 1

    def test_nothing_to_rotate(self, tmp_path):
        """rotate_key() on an empty store returns None and creates nothing."""
        assert (
            EncryptedFileStore(tmp_path / "app" / "tokens", key=generate_key()).rotate_key() is None
        )
        assert not (tmp_path / "app" / "tokens").exists()


class TestPickling:
    """Unpickling a store reopens it."""

    def test_it_reopens(self, tmp_path):
        """A store whose key is kept elsewhere can be unpickled and reads the stored state."""
        for key in (None, KeyFile(tmp_path / "key", make=True), [KeyFile(tmp_path / "key")]):
            store = EncryptedFileStore(tmp_path / "app" / f"tokens{key is None}", key=key)
            saved = store.load() or store.save(Token("a", "r"), None)
            assert saved.is_same(pickle.loads(pickle.dumps(store)).load())

    def test_a_callable_is_pickled(self, tmp_path, monkeypatch):
        """The pickle of FromEnvironment contains the name and not the value."""
        key = generate_key()
        monkeypatch.setenv("APP_TOKEN_KEY", key)
        store = EncryptedFileStore(
            tmp_path / "app" / "tokens", key=FromEnvironment("APP_TOKEN_KEY")
        )
        saved = store.save(Token("a"), None)
        pickled = pickle.dumps(store)
        assert key.encode() not in pickled
        assert saved.is_same(pickle.loads(pickled).load())

    @pytest.mark.parametrize("several", [False, True])
    def test_a_literal_key_is_not_pickled(self, tmp_path, several):
        """P12: pickling a store with a literal key fails and says what to use instead."""
        key = generate_key()
        store = EncryptedFileStore(tmp_path / "tokens", key=[key] if several else key)
        with pytest.raises(TypeError, match="KeyFile") as error:
            pickle.dumps(store)
        assert key not in str(error.value)

    def test_no_key_shows(self, tmp_path):
        """P12: no part of a store shows a key in its repr."""
        key = generate_key()
        store = EncryptedFileStore(tmp_path / "tokens", key=key)
        store.save(Token("a"), None)
        shown = repr(list(parts_of(store)))
        assert "Key(" in shown  # it got as far as the keys
        assert key not in shown


def test_a_custom_source():
    """A custom KeySource only needs to implement for_reading."""
    key = as_source(generate_key()).for_reading(None)

    class Mine(KeySource):
        def for_reading(self, kdf):
            return key

    assert decrypts(Mine(), encrypted_by(Mine()))
    with pytest.raises(WrongKey, match="the available keys"):
        decrypts(Mine(), encrypted_by(generate_key()))


def test_a_custom_source_without_a_key():
    """The error names a source that has no key."""

    class Mine(KeySource):
        def for_reading(self, kdf):
            return ()

        def __repr__(self):
            return "Mine()"

    with pytest.raises(StoreError, match=r"Mine\(\) has no key"):
        encrypted_by(Mine())


def test_every_source_without_a_key_is_named(tmp_path):
    """If several sources have no key, the error names each of them."""
    sources = [KeyFile(tmp_path / "one"), KeyFile(tmp_path / "two")]
    with pytest.raises(WrongKey, match=r"one is missing.*; .*two is missing"):
        decrypts(sources, encrypted_by(generate_key()))


def test_a_changed_key_id_is_damage():
    """A file whose key id was changed is corrupt, because the key itself still decrypts it."""
    key = generate_key()
    content, _, kdf = encrypted_by(key)
    with pytest.raises(StoreCorrupted):
        Keys(as_source(key)).decrypt(content, "0" * 12, kdf)
