"""``EncryptedFileStore``: which files it makes, with which modes, and which it refuses."""

from __future__ import annotations

import errno
import os
import stat
import threading
import warnings
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
from requests_silent_refresh.keys import generate_key
from requests_silent_refresh.stores import network_file_systems
from requests_silent_refresh.stores.contract import State, StateMoved
from requests_silent_refresh.system import private_files

KEY = generate_key()

needs_posix = pytest.mark.skipif(os.name == "nt", reason="modes, owners and links of POSIX")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app" / "tokens"


@pytest.fixture
def store(path):
    return EncryptedFileStore(path, key=KEY)


@pytest.fixture
def signed_in(store):
    return store.save(Token("a", "r"), None)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def use(store, name):
    """Do what opens the file ``name``."""
    if name == "tokens.lock":
        store.exclusive(1.0)
    else:
        store.save(Token("a"), None)


class TestPath:
    """The path that is given."""

    def test_nothing_is_touched_at_construction(self, path):
        """A store that is only made, or only loads, leaves the disk alone."""
        assert EncryptedFileStore(path, key=KEY).load() is None
        assert not path.parent.exists()

    def test_home_and_working_directory(self, tmp_path, monkeypatch):
        """``~`` is expanded, and a relative path means the directory at construction."""
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        home = EncryptedFileStore("~/app/tokens", key=KEY)
        here = EncryptedFileStore("app/tokens", key=KEY)
        monkeypatch.chdir("/")
        assert home.path == here.path == str(tmp_path / "app" / "tokens")
        assert home.save(Token("a"), None).is_same(here.load())

    @pytest.mark.parametrize(
        "given",
        ["", "/", "app/", "a\0b", "tokens.lock", "tokens.new", "t.next.3", "t.quarantine.17"],
    )
    def test_what_is_no_path(self, given):
        """A path that cannot be meant, or would meet the files of another store, is refused."""
        with pytest.raises(ValueError, match="path"):
            EncryptedFileStore(given, key=KEY)

    def test_bytes_are_no_path(self):
        """A path of bytes is refused, not half supported."""
        with pytest.raises(ValueError, match="path"):
            EncryptedFileStore(b"tokens", key=KEY)

    def test_the_files_beside_it(self, store, signed_in, path):
        """What lies there is what is documented, and nothing more is left after a refresh."""
        with store.exclusive(1.0, signed_in) as hold:
            hold.begin(signed_in)
            assert sorted(os.listdir(path.parent)) == [
                "tokens",
                "tokens.lock",
                "tokens.next.2",
                "tokens.write.lock",
            ]
            store.save(Token("b", "r2"), signed_in)
        assert sorted(os.listdir(path.parent)) == ["tokens", "tokens.lock", "tokens.write.lock"]


@needs_posix
class TestModes:
    """0600 in 0700, whatever the umask."""

    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777])
    def test_what_is_made(self, tmp_path, umask):
        """P12: every file and directory that is made is the user's alone, and usable."""
        path = tmp_path / "one" / "two" / "tokens"
        store = EncryptedFileStore(path, key=KEY)
        old = os.umask(umask)
        try:
            state = store.save(Token("a", "r"), None)
            with store.exclusive(1.0, state) as hold:
                hold.begin(state)
                for name in os.listdir(path.parent):
                    assert mode(path.parent / name) == 0o600, name
                store.save(Token("b", "r"), state)
        finally:
            os.umask(old)
        assert mode(path) == 0o600
        assert mode(path.parent) == mode(path.parent.parent) == 0o700

    def test_directories_of_others_are_left(self, store, path, tmp_path):
        """Only a directory that we made is ours to change."""
        path.parent.mkdir()
        path.parent.chmod(0o755)
        store.save(Token("a"), None)
        assert mode(path.parent) == 0o755

    @pytest.mark.parametrize("name", ["tokens", "tokens.lock", "tokens.write.lock"])
    def test_an_old_wide_mode_is_tightened(self, store, signed_in, path, name, caplog):
        """P12: a file that others could open does not keep its mode, and that is logged."""
        store.exclusive(1.0).release()
        (path.parent / name).chmod(0o644)
        assert store.load() is not None
        if name == "tokens":
            assert mode(path) == 0o600  # by the load: who only reads makes no new file
        store.exclusive(1.0).release()
        store.save(Token("b"), signed_in)
        assert mode(path.parent / name) == 0o600
        if name == "tokens":
            assert f"{path} could be opened by others (mode 644)" in caplog.text

    def test_a_file_system_without_modes(self, store, signed_in, path, monkeypatch):
        """Where modes cannot be changed the content is still encrypted, so it is read."""
        path.chmod(0o666)

        def refuse(function, /, *args, **kwargs):
            if function is os.fchmod:
                raise PermissionError(errno.EPERM, "no modes here")
            return function(*args, **kwargs)

        monkeypatch.setattr(private_files, "call", refuse)
        assert signed_in.is_same(store.load())


def plant(kind, path, target):
    """Put what is no file of ours at ``path``: a link to ``target``, or a FIFO."""
    if kind == "link":
        path.symlink_to(target)
    else:
        os.mkfifo(path)


def promptly(work):
    """Return what ``work()`` returns or raises; fail where it hangs."""
    return Crowd(work, size=1).outcomes(timeout=20)[0]


@needs_posix
class TestPlanted:
    """Files that somebody else put there."""

    @pytest.mark.parametrize("name", ["tokens", "tokens.lock", "tokens.write.lock"])
    def test_a_link_is_not_followed(self, store, path, tmp_path, name):
        """P12: a link in the place of any file is refused, and what it leads to is left alone."""
        path.parent.mkdir()
        (tmp_path / "elsewhere").write_text("precious")
        (path.parent / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StoreError, match="is a symbolic link"):
            use(store, name)
        assert (tmp_path / "elsewhere").read_text() == "precious"
        assert mode(tmp_path / "elsewhere") == 0o644

    @pytest.mark.parametrize("kind", ["link", "fifo"])
    @pytest.mark.parametrize("name", ["tokens.new", "tokens.next.2", "tokens.next.2.new"])
    def test_what_is_in_the_place_of_a_new_file_is_replaced(
        self, store, signed_in, path, tmp_path, name, kind
    ):
        """P8, P12: where a file is made anew, what was planted goes and a link's target stays."""
        (tmp_path / "elsewhere").write_text("precious")
        hold = store.exclusive(1.0, signed_in)
        plant(kind, path.parent / name, tmp_path / "elsewhere")

        def refresh():
            with hold:
                if name != "tokens.new":
                    hold.begin(signed_in)
                store.save(Token("b", "r2"), signed_in)

        assert promptly(refresh) is None
        assert (tmp_path / "elsewhere").read_text() == "precious"
        assert stat.S_ISREG(path.lstat().st_mode)
        assert store.load().generation == 2

    @pytest.mark.parametrize("kind", ["link", "fifo"])
    @pytest.mark.parametrize("name", ["tokens.next.2", "tokens.next.77", "tokens.next.2.new"])
    def test_what_is_planted_as_a_mark_is_removed(
        self, store, signed_in, path, tmp_path, name, kind
    ):
        """P8, P12: what is in the place of a mark is neither read nor in the way."""
        (tmp_path / "elsewhere").write_text("precious")
        plant(kind, path.parent / name, tmp_path / "elsewhere")
        with promptly(lambda: store.exclusive(1.0, signed_in)) as hold:
            assert hold.interrupted_at is None
            assert not os.path.lexists(path.parent / name)
        assert (tmp_path / "elsewhere").read_text() == "precious"

    def test_a_dangling_link(self, store, path, tmp_path):
        """A link that leads nowhere is no empty store."""
        path.parent.mkdir()
        path.symlink_to(tmp_path / "nowhere")
        with pytest.raises(StoreError, match="is a symbolic link"):
            store.load()

    @pytest.mark.parametrize("name", ["tokens", "tokens.lock", "tokens.write.lock"])
    def test_a_fifo_does_not_hang_anybody(self, store, path, name):
        """P8: a FIFO in the place of any file is refused at once."""
        path.parent.mkdir()
        os.mkfifo(path.parent / name)
        refused = promptly(lambda: use(store, name))
        assert isinstance(refused, StoreError)
        assert "not a regular file" in str(refused)

    def test_a_directory(self, store, path):
        """A directory in the place of the file is refused."""
        path.mkdir(parents=True)
        with pytest.raises(StoreError, match="not a regular file"):
            store.load()

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="needs root to give away")
    def test_somebody_elses_file(self, store, signed_in, path):
        """A file of another user's is refused: he could change it, or lose it to us."""
        os.chown(path, 65534, 65534)
        with pytest.raises(StoreError, match="belongs to user id 65534"):
            store.load()
        with pytest.raises(StoreError, match="run it as that user"):
            store.save(Token("b"), None)

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="needs root to give away")
    def test_nothing_is_left_beside_somebody_elses_file(self, store, signed_in, path):
        """Run once as another user, no lock file is left that would lock the owner out."""
        os.chown(path, 65534, 65534)
        for name in ("tokens.lock", "tokens.write.lock"):
            (path.parent / name).unlink(missing_ok=True)
        for attempt in (lambda: store.exclusive(1.0), lambda: store.save(Token("b"), None)):
            with pytest.raises(StoreError, match="belongs to"):
                attempt()
        assert os.listdir(path.parent) == ["tokens"]

    def test_a_huge_file(self, store, signed_in, path):
        """A file that cannot be ours is not read into memory."""
        with open(path, "r+b") as file:
            file.truncate(10 * 1024**4)
        with pytest.raises(StoreCorrupted, match="larger than"):
            store.load()

    def test_a_huge_token(self, store, signed_in):
        """A token that would not be read again is not written."""
        with pytest.raises(StoreError, match="too large"):
            store.save(Token("b", extra={"x": "x" * 1_000_000}), signed_in)
        assert signed_in.is_same(store.load())


class TestUnreadable:
    """A state that cannot be read is never overwritten by itself."""

    def damage(self, path):
        content = bytearray(path.read_bytes())
        content[-20] ^= 1
        path.write_bytes(content)
        return bytes(content)

    def test_a_corrupt_file(self, store, signed_in, path):
        """P4: neither a load, nor a save, nor a sign-in, nor a rotation touches a corrupt file."""
        content = self.damage(path)
        for attempt in (
            store.load,
            lambda: store.save(Token("b"), signed_in),
            lambda: store.save(Token("b"), None),
            lambda: store.clear(signed_in),
            lambda: store.exclusive(1.0, signed_in),
            lambda: store.exclusive(1.0),
            store.rotate_key,
        ):
            with pytest.raises(StoreCorrupted) as error:
                attempt()
            assert str(path) in str(error.value)
        assert path.read_bytes() == content

    def test_the_lock_is_free_after_that(self, store, signed_in, path):
        """P8: who could not read the state does not keep the lock."""
        whole = path.read_bytes()
        self.damage(path)
        with pytest.raises(StoreCorrupted):
            store.exclusive(1.0, signed_in)
        path.write_bytes(whole)
        store.exclusive(0.0, signed_in).release()

    def test_a_wrong_key(self, store, signed_in, path):
        """P4: the same for a file of another key; the right key still reads it."""
        content = path.read_bytes()
        other = EncryptedFileStore(path, key=generate_key())
        for attempt in (other.load, lambda: other.save(Token("b"), None), other.rotate_key):
            with pytest.raises(WrongKey, match="tokens"):
                attempt()
        assert path.read_bytes() == content
        assert signed_in.is_same(EncryptedFileStore(path, key=KEY).load())

    def test_swapped_files(self, tmp_path):
        """P11: two profiles' files that were exchanged are noticed, in one directory and in two."""
        places = [tmp_path / "a" / "one", tmp_path / "a" / "two", tmp_path / "b" / "one"]
        stores = [EncryptedFileStore(place, key=KEY) for place in places]
        for number, store in enumerate(stores):
            store.save(Token(f"token-{number}"), None)
        for one, two in ((0, 1), (0, 2)):
            contents = [place.read_bytes() for place in places]
            places[one].write_bytes(contents[two])
            places[two].write_bytes(contents[one])
            for number in (one, two):
                with pytest.raises(StoreCorrupted, match="was made for"):
                    EncryptedFileStore(places[number], key=KEY).load()
            for place, content in zip(places, contents, strict=True):
                place.write_bytes(content)

    def test_a_home_that_moved(self, store, signed_in, path, tmp_path):
        """A directory restored under another home is read there."""
        (tmp_path / "new-home").mkdir()
        path.parent.rename(tmp_path / "new-home" / "app")
        moved = EncryptedFileStore(tmp_path / "new-home" / "app" / "tokens", key=KEY)
        assert signed_in.is_same(moved.load())

    @needs_posix
    def test_two_names_of_one_directory(self, store, signed_in, path, tmp_path):
        """A directory that is reached through a link is the same place."""
        (tmp_path / "alias").symlink_to(path.parent)
        assert signed_in.is_same(EncryptedFileStore(tmp_path / "alias" / "tokens", key=KEY).load())

    def test_reset_puts_it_aside(self, store, signed_in, path):
        """Only reset() makes room for a new start, and it keeps what was there."""
        content = self.damage(path)
        aside = store.reset()
        assert Path(aside).read_bytes() == content
        assert aside.startswith(f"{path}.quarantine.")
        assert store.load() is None
        anew = store.save(Token("b"), None)
        assert anew.is_same(store.load())

    def test_reset_of_a_file_that_lies_alone(self, store, signed_in, path):
        """The same for one that came out of a backup, without the lock files."""
        content = self.damage(path)
        for name in ("tokens.lock", "tokens.write.lock"):
            (path.parent / name).unlink(missing_ok=True)
        assert Path(store.reset()).read_bytes() == content
        assert store.load() is None

    def test_reset_of_nothing(self, store):
        """With nothing stored, reset() has nothing to put aside."""
        assert store.reset() is None

    def test_a_saver_meets_a_reset(self, store, signed_in):
        """A late save after a reset is told that nothing is stored, and brings nothing back."""
        store.reset()
        assert store.exclusive(1.0, signed_in) is None
        with pytest.raises(StateMoved) as moved:
            store.save(Token("late"), signed_in)
        assert moved.value.state is None
        assert store.load() is None


class TestTrouble:
    """What the operating system refuses."""

    def test_the_error_says_what_and_where(self, store, signed_in, path, monkeypatch):
        """An error of the system names the file and the reason, holds no frames, and is ours."""

        def full(function, /, *args, **kwargs):
            if function is os.fsync:
                raise OSError(errno.ENOSPC, "No space left on device")
            return function(*args, **kwargs)

        monkeypatch.setattr(private_files, "call", full)
        with pytest.raises(StoreUnavailable, match=r"cannot save .*tokens.*No space left") as error:
            store.save(Token("canary-b", "canary-r"), signed_in)
        assert error.value.__cause__.errno == errno.ENOSPC
        assert error.value.__cause__.__traceback__ is None
        assert "canary" not in repr(error.value)

    def test_a_directory_that_cannot_be_made(self, tmp_path):
        """A file in the place of a directory is named."""
        (tmp_path / "app").write_text("a file")
        with pytest.raises(StoreUnavailable, match="app"):
            EncryptedFileStore(tmp_path / "app" / "tokens", key=KEY).save(Token("a"), None)

    def test_a_full_disk_shows_before_the_exchange(self, store, signed_in, path, monkeypatch):
        """P4: begin() fails when there is no room, and leaves nothing behind."""

        def full(function, /, *args, **kwargs):
            if function is getattr(os, "posix_fallocate", None) or function is os.ftruncate:
                raise OSError(errno.ENOSPC, "No space left on device")
            return function(*args, **kwargs)

        monkeypatch.setattr(private_files, "call", full)
        with (
            store.exclusive(1.0, signed_in) as hold,
            pytest.raises(StoreUnavailable, match="No space left"),
        ):
            hold.begin(signed_in)
        assert sorted(os.listdir(path.parent)) == ["tokens", "tokens.lock", "tokens.write.lock"]

    @pytest.mark.parametrize("lacking", ["missing", errno.EOPNOTSUPP, errno.EINVAL])
    def test_room_without_fallocate(self, store, signed_in, path, monkeypatch, lacking):
        """Where the system cannot allocate, the room is written."""
        if lacking == "missing":
            monkeypatch.delattr(os, "posix_fallocate", raising=False)
        elif not hasattr(os, "posix_fallocate"):
            pytest.skip("no posix_fallocate here")
        else:
            fallocate = os.posix_fallocate

            def refuse(function, /, *args, **kwargs):
                if function is fallocate:
                    raise OSError(lacking, "not here")
                return function(*args, **kwargs)

            monkeypatch.setattr(private_files, "call", refuse)
        with store.exclusive(1.0, signed_in) as hold:
            hold.begin(signed_in)
            assert (path.parent / "tokens.next.2").stat().st_size >= 32 * 1024
            store.save(Token("b", "r2"), signed_in)
        assert store.load().generation == 2

    def test_room_for_what_was_never_stored(self, store, path):
        """A grant that starts from nothing can begin as well."""
        with store.exclusive(1.0) as hold:
            hold.begin(State("ab", 1, None))
            assert (path.parent / "tokens.next.2").exists()
        assert not (path.parent / "tokens.next.2").exists()

    def test_a_note_that_cannot_be_written(self, store, signed_in, monkeypatch):
        """A full disk does not keep anybody from the lock; its holder is just not named."""

        def full(function, /, *args, **kwargs):
            if function is os.write:
                raise OSError(errno.ENOSPC, "No space left on device")
            return function(*args, **kwargs)

        monkeypatch.setattr(private_files, "call", full)
        with (
            store.exclusive(1.0, signed_in),
            pytest.raises(StoreUnavailable, match="another process"),
        ):
            store.exclusive(0.0, signed_in)

    @needs_posix
    def test_the_room_is_real(self, store, signed_in, path):
        """P4: the room is allocated and not a hole."""
        with store.exclusive(1.0, signed_in) as hold:
            hold.begin(signed_in)
            assert (path.parent / "tokens.next.2").stat().st_blocks * 512 >= 32 * 1024

    def test_no_locks_there(self, store, monkeypatch):
        """A file system without locks is an error that says so, never a weaker lock."""
        import filelock

        def refuse(function, /, *args, **kwargs):
            if function is filelock.lock_descriptor:
                raise OSError(errno.ENOLCK, "No locks available")
            return function(*args, **kwargs)

        monkeypatch.setattr(private_files, "call", refuse)
        with pytest.raises(StoreUnavailable, match="No locks available"):
            store.exclusive(1.0)


class TestWindows:
    """The paths for Windows, by way of the seam."""

    @pytest.fixture(autouse=True)
    def windows(self, monkeypatch):
        monkeypatch.setattr(private_files, "WINDOWS", True)

    def sharing(self, monkeypatch, times, winerror=32):
        """Have the next ``times`` renames refused as Windows refuses them; returns the tries."""
        tries = []

        def refuse(function, /, *args, **kwargs):
            if function is os.replace:
                tries.append(1)
                if len(tries) <= times:
                    error = PermissionError(errno.EACCES, "The file is in use")
                    error.winerror = winerror
                    raise error
            return function(*args, **kwargs)

        monkeypatch.setattr(private_files, "call", refuse)
        return tries

    def test_a_reader_holds_up_a_rename(self, store, signed_in, monkeypatch):
        """P4: a rename that an open handle of a reader blocks is tried again."""
        tries = self.sharing(monkeypatch, 5)
        store.save(Token("b"), signed_in)
        assert len(tries) == 6
        assert store.load().generation == 2

    def test_not_for_ever(self, store, signed_in, monkeypatch):
        """P8: a file that stays in use is an error after a bounded time."""
        monkeypatch.setattr(private_files, "_SHARING_PATIENCE", 0.02)
        self.sharing(monkeypatch, 10_000)
        with pytest.raises(StoreUnavailable, match="in use"):
            store.save(Token("b"), signed_in)

    def test_other_refusals_count_at_once(self, store, signed_in, monkeypatch):
        """A refusal for another reason is not tried again."""
        tries = self.sharing(monkeypatch, 10_000, winerror=1314)
        with pytest.raises(StoreUnavailable):
            store.save(Token("b"), signed_in)
        assert len(tries) == 1

    def test_no_directory_is_synced(self, store, monkeypatch):
        """Windows opens no directories."""
        opened = []

        def watch(function, /, *args, **kwargs):
            if function is os.open:
                opened.append(args[0])
            return function(*args, **kwargs)

        monkeypatch.setattr(private_files, "call", watch)
        store.save(Token("a"), None)
        assert opened
        assert os.path.dirname(store.path) not in opened


class TestNetworkFileSystem:
    """Locks on a network file system."""

    MOUNTS = (
        "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
        "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        "31 27 0:30 / /home rw,relatime shared:2 master:1 - nfs4 server:/home rw\n"
        "32 31 0:31 / /home/local\\040disk rw - tmpfs tmpfs rw\n"
        "33 27 0:32 / /mnt rw - ext4 /dev/vdb rw\n"
        "34 27 0:33 / /mnt rw - cifs //server/share rw\n"
    )

    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            ("/home/me/app/tokens", "nfs4"),
            ("/homely/tokens", "ext4"),
            ("/home/local disk/tokens", "tmpfs"),
            ("/mnt/tokens", "cifs"),
            ("/tokens", "ext4"),
        ],
    )
    def test_the_file_system_of_a_path(self, path, kind):
        """The innermost mount counts, and of two on one point the later."""
        assert network_file_systems.file_system(path, self.MOUNTS) == kind

    def test_it_warns_once(self, tmp_path, monkeypatch):
        """A network file system is warned about once, at the line that made the store."""
        monkeypatch.setattr(network_file_systems, "file_system", lambda path, mounts: "nfs4")
        path = tmp_path / "app" / "tokens"
        with pytest.warns(UserWarning, match=r"\(nfs4\).*RedisStore") as caught:
            EncryptedFileStore(path, key=KEY)
        assert caught[0].filename == __file__
        EncryptedFileStore(path, key=KEY)

    def test_where_there_is_no_list_of_mounts(self, tmp_path, monkeypatch):
        """Elsewhere than on Linux nothing is known, and nothing said."""
        monkeypatch.setattr(network_file_systems, "MOUNTS", str(tmp_path / "none"))
        EncryptedFileStore(tmp_path / "tokens", key=KEY)

    def test_a_local_one_is_fine(self, tmp_path):
        """No warning for a local disk, nor where there is no list of mounts."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            EncryptedFileStore(tmp_path / "tokens", key=KEY)


def test_threads_and_modes_of_a_first_save(tmp_path):
    """Many threads whose first save makes the directories at once all come through."""
    start = threading.Barrier(8)
    failures = []

    def save(number):
        store = EncryptedFileStore(tmp_path / "a" / "b" / "c" / f"tokens{number % 2}", key=KEY)
        start.wait(30)
        try:
            store.save(Token(f"token-{number}"), None)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
