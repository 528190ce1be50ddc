"""``EncryptedFileStore``: the files it creates, their modes, and the files it rejects."""

from __future__ import annotations

import errno
import os
import stat
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from file_faults import fail_with, tapped
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
from requests_silent_refresh.system import kernel_lock, private_files

KEY = generate_key()

needs_posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX modes, owners and links")


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
    """Use the store in a way that opens the file ``name``."""
    if name == "tokens.lock":
        store.exclusive(1.0)
    else:
        store.save(Token("a"), None)


class TestPath:
    """The ``path`` argument."""

    def test_nothing_is_touched_at_construction(self, path):
        """Constructing a store and loading create no files."""
        assert EncryptedFileStore(path, key=KEY).load() is None
        assert not path.parent.exists()

    def test_home_and_working_directory(self, tmp_path, monkeypatch):
        """``~`` is expanded, and a relative path is resolved at construction."""
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
    def test_an_invalid_path(self, given):
        """An impossible path, or one that could be another store's file, is rejected."""
        with pytest.raises(ValueError, match="path"):
            EncryptedFileStore(given, key=KEY)

    def test_a_path_of_bytes(self):
        """A path of type bytes is rejected."""
        with pytest.raises(TypeError, match="path"):
            EncryptedFileStore(b"tokens", key=KEY)

    def test_the_files_beside_it(self, store, signed_in, path):
        """Only the documented files exist, and a refresh leaves no other ones."""
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
    """Files are 0600 in directories of 0700, whatever the umask."""

    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777])
    def test_new_files(self, tmp_path, umask):
        """P12: each new file and directory is usable by this user and nobody else."""
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

    def test_an_existing_directory_keeps_its_mode(self, store, path, tmp_path):
        """The mode of a directory that the store did not create is not changed."""
        path.parent.mkdir()
        path.parent.chmod(0o755)
        store.save(Token("a"), None)
        assert mode(path.parent) == 0o755

    @pytest.mark.parametrize("name", ["tokens", "tokens.lock", "tokens.write.lock"])
    def test_an_open_mode_is_restricted(self, store, signed_in, path, name, caplog):
        """P12: a file that others could open is set to 0600, and that is logged."""
        store.exclusive(1.0).release()
        (path.parent / name).chmod(0o644)
        assert store.load() is not None
        if name == "tokens":
            assert mode(path) == 0o600  # loading is enough
        store.exclusive(1.0).release()
        store.save(Token("b"), signed_in)
        assert mode(path.parent / name) == 0o600
        if name == "tokens":
            assert f"{path} could be opened by others (mode 644)" in caplog.text

    def test_a_file_system_without_modes(self, store, signed_in, path):
        """If the mode cannot be changed the file is read anyway, because it is encrypted."""
        path.chmod(0o666)
        with tapped("fchmod", fail_with(errno.EPERM)) as tap:
            assert signed_in.is_same(store.load())
        assert "fchmod" in tap.calls


def plant(kind, path, target):
    """Create a link to ``target``, or a FIFO, at ``path``."""
    if kind == "link":
        path.symlink_to(target)
    else:
        os.mkfifo(path)


def promptly(work):
    """Return what ``work()`` returns or raises; fail if it hangs."""
    return Crowd(work, size=1).outcomes(timeout=20)[0]


@needs_posix
class TestPlanted:
    """Files planted by another program."""

    @pytest.mark.parametrize("name", ["tokens", "tokens.lock", "tokens.write.lock"])
    def test_a_link_is_not_followed(self, store, path, tmp_path, name):
        """P12: a link in place of any file is rejected, and its target is not changed."""
        path.parent.mkdir()
        (tmp_path / "elsewhere").write_text("precious")
        (path.parent / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StoreError, match="is a symbolic link"):
            use(store, name)
        assert (tmp_path / "elsewhere").read_text() == "precious"
        assert mode(tmp_path / "elsewhere") == 0o644

    @pytest.mark.parametrize("kind", ["link", "fifo"])
    @pytest.mark.parametrize("name", ["tokens.new", "tokens.next.2", "tokens.next.2.new"])
    def test_a_planted_file_in_place_of_a_new_one_is_replaced(
        self, store, signed_in, path, tmp_path, name, kind
    ):
        """P8, P12: a planted file is replaced by the new one, and a link's target stays."""
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
    def test_a_planted_mark_is_removed(self, store, signed_in, path, tmp_path, name, kind):
        """P8, P12: a planted file in place of a mark is removed without being read."""
        (tmp_path / "elsewhere").write_text("precious")
        plant(kind, path.parent / name, tmp_path / "elsewhere")
        with promptly(lambda: store.exclusive(1.0, signed_in)) as hold:
            assert hold.interrupted_at is None
            assert not os.path.lexists(path.parent / name)
        assert (tmp_path / "elsewhere").read_text() == "precious"

    def test_a_dangling_link(self, store, path, tmp_path):
        """A link without a target is not treated as an empty store."""
        path.parent.mkdir()
        path.symlink_to(tmp_path / "nowhere")
        with pytest.raises(StoreError, match="is a symbolic link"):
            store.load()

    @pytest.mark.parametrize("name", ["tokens", "tokens.lock", "tokens.write.lock"])
    def test_a_fifo_does_not_block(self, store, path, name):
        """P8: a FIFO in place of any file is rejected at once."""
        path.parent.mkdir()
        os.mkfifo(path.parent / name)
        refused = promptly(lambda: use(store, name))
        assert isinstance(refused, StoreError)
        assert "not a regular file" in str(refused)

    def test_a_directory(self, store, path):
        """A directory in place of the file is rejected."""
        path.mkdir(parents=True)
        with pytest.raises(StoreError, match="not a regular file"):
            store.load()

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="needs root to give away")
    def test_another_users_file(self, store, signed_in, path):
        """A file owned by another user is rejected: that user could change it, or lose it."""
        os.chown(path, 65534, 65534)
        with pytest.raises(StoreError, match="belongs to user id 65534"):
            store.load()
        with pytest.raises(StoreError, match="run it as that user"):
            store.save(Token("b"), None)

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="needs root to give away")
    def test_nothing_is_left_beside_another_users_file(self, store, signed_in, path):
        """No lock file is left beside it, which would lock the owner out."""
        os.chown(path, 65534, 65534)
        for name in ("tokens.lock", "tokens.write.lock"):
            (path.parent / name).unlink(missing_ok=True)
        for attempt in (lambda: store.exclusive(1.0), lambda: store.save(Token("b"), None)):
            with pytest.raises(StoreError, match="belongs to"):
                attempt()
        assert os.listdir(path.parent) == ["tokens"]

    def test_a_huge_file(self, store, signed_in, path):
        """A file that is too large is not read into memory."""
        with open(path, "r+b") as file:
            file.truncate(10 * 1024**4)
        with pytest.raises(StoreCorrupted, match="larger than"):
            store.load()

    def test_a_huge_token(self, store, signed_in):
        """A token that is too large to be read again is not written."""
        with pytest.raises(StoreError, match="too large"):
            store.save(Token("b", extra={"x": "x" * 1_000_000}), signed_in)
        assert signed_in.is_same(store.load())


class TestUnreadable:
    """A state that cannot be read is overwritten only after reset()."""

    def damage(self, path):
        content = bytearray(path.read_bytes())
        content[-20] ^= 1
        path.write_bytes(content)
        return bytes(content)

    def test_a_corrupt_file(self, store, signed_in, path):
        """P4: no load, save, sign-in or key rotation changes a corrupt file."""
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

    def test_the_lock_is_free_after_an_unreadable_state(self, store, signed_in, path):
        """P8: exclusive() does not keep the lock if it cannot read the state."""
        whole = path.read_bytes()
        self.damage(path)
        with pytest.raises(StoreCorrupted):
            store.exclusive(1.0, signed_in)
        path.write_bytes(whole)
        store.exclusive(0.0, signed_in).release()

    def test_a_wrong_key(self, store, signed_in, path):
        """P4: nor a file encrypted with another key; the right key still reads it."""
        content = path.read_bytes()
        other = EncryptedFileStore(path, key=generate_key())
        for attempt in (other.load, lambda: other.save(Token("b"), None), other.rotate_key):
            with pytest.raises(WrongKey, match="tokens"):
                attempt()
        assert path.read_bytes() == content
        assert signed_in.is_same(EncryptedFileStore(path, key=KEY).load())

    def test_swapped_files(self, tmp_path):
        """P11: swapped files of one directory are detected by their names."""
        places = [tmp_path / "one", tmp_path / "two"]
        for place in places:
            EncryptedFileStore(place, key=KEY).save(Token(f"token-{place.name}"), None)
        contents = [place.read_bytes() for place in places]
        for place, content in zip(places, reversed(contents), strict=True):
            place.write_bytes(content)
            with pytest.raises(StoreCorrupted, match="was made for"):
                EncryptedFileStore(place, key=KEY).load()

    def test_a_directory_under_another_name(self, store, signed_in, path):
        """A directory that is renamed, or mounted under another name, is read there."""
        moved = path.parent.rename(path.parent.with_name("data"))
        assert signed_in.is_same(EncryptedFileStore(moved / path.name, key=KEY).load())

    def test_a_moved_home(self, store, signed_in, path, tmp_path):
        """A directory that was moved to another home directory can be read."""
        (tmp_path / "new-home").mkdir()
        path.parent.rename(tmp_path / "new-home" / "app")
        moved = EncryptedFileStore(tmp_path / "new-home" / "app" / "tokens", key=KEY)
        assert signed_in.is_same(moved.load())

    @needs_posix
    def test_two_names_of_one_directory(self, store, signed_in, path, tmp_path):
        """A directory reached through a link is the same place."""
        (tmp_path / "alias").symlink_to(path.parent)
        assert signed_in.is_same(EncryptedFileStore(tmp_path / "alias" / "tokens", key=KEY).load())

    def test_reset_renames_the_file(self, store, signed_in, path):
        """reset() makes a new sign-in possible and keeps the old content."""
        content = self.damage(path)
        aside = store.reset()
        assert Path(aside).read_bytes() == content
        assert aside.startswith(f"{path}.quarantine.")
        assert store.load() is None
        anew = store.save(Token("b"), None)
        assert anew.is_same(store.load())

    def test_reset_without_lock_files(self, store, signed_in, path):
        """reset() works for a file from a backup, without the lock files."""
        content = self.damage(path)
        for name in ("tokens.lock", "tokens.write.lock"):
            (path.parent / name).unlink(missing_ok=True)
        assert Path(store.reset()).read_bytes() == content
        assert store.load() is None

    def test_reset_of_nothing(self, store):
        """reset() of an empty store returns None."""
        assert store.reset() is None

    def test_a_late_save_after_a_reset(self, store, signed_in):
        """A save that was begun before a reset gets StateMoved and stores nothing."""
        store.reset()
        assert store.exclusive(1.0, signed_in) is None
        with pytest.raises(StateMoved) as moved:
            store.save(Token("late"), signed_in)
        assert moved.value.state is None
        assert store.load() is None


def test_a_waiter_looks_into_a_file_that_changed(tmp_path, monkeypatch):
    """P1: at once; the look once a second is for file systems that hide changes."""
    monkeypatch.setattr("requests_silent_refresh.stores.file._LOOK_AT_LEAST_EVERY", 3600.0)
    waits = threading.Event()

    def pause(left):
        waits.set()
        kernel_lock.pause(left)

    monkeypatch.setattr("requests_silent_refresh.stores.file.pause", pause)
    store, other = (EncryptedFileStore(tmp_path / "tokens", key=KEY) for _ in range(2))
    state = store.save(Token("a"), None)
    with store.exclusive(1.0, state), ThreadPoolExecutor(1) as pool:
        waiter = pool.submit(other.exclusive, 5.0, state)
        assert waits.wait(10)
        store.save(Token("b"), state)
        assert waiter.result(10) is None


def test_an_unchanged_file_is_not_decrypted_again(tmp_path):
    """P9: a process that waits for another one's refresh reads it many times a second."""
    store = EncryptedFileStore(tmp_path / "tokens", key=KEY)
    store.save(Token("a"), None)
    store.close()
    assert store.load() is store.load()


class TestTrouble:
    """Errors of the operating system."""

    def test_the_error_names_file_and_reason(self, store, signed_in):
        """P12: the error names the file and the reason, and its cause has no frames."""
        with (
            tapped("fsync", fail_with(errno.ENOSPC)),
            pytest.raises(StoreUnavailable, match=r"cannot save .*tokens.*No space left") as error,
        ):
            store.save(Token("canary-b", "canary-r"), signed_in)
        assert error.value.__cause__.errno == errno.ENOSPC
        assert error.value.__cause__.__traceback__ is None
        assert "canary" not in repr(error.value)

    def test_a_directory_that_cannot_be_made(self, tmp_path):
        """The error names a file in place of a directory."""
        (tmp_path / "app").write_text("a file")
        with pytest.raises(StoreUnavailable, match="app"):
            EncryptedFileStore(tmp_path / "app" / "tokens", key=KEY).save(Token("a"), None)

    def test_a_full_disk_shows_before_the_exchange(self, store, signed_in, path):
        """P4: begin() fails when there is no room, and leaves no file behind."""
        allocate = "posix_fallocate" if hasattr(os, "posix_fallocate") else "write"
        with (
            store.exclusive(1.0, signed_in) as hold,
            tapped(allocate, fail_with(errno.ENOSPC)),
            pytest.raises(StoreUnavailable, match="No space left"),
        ):
            hold.begin(signed_in)
        assert sorted(os.listdir(path.parent)) == ["tokens", "tokens.lock", "tokens.write.lock"]

    @pytest.mark.parametrize("lacking", ["missing", errno.EOPNOTSUPP, errno.EINVAL])
    def test_room_without_fallocate(self, store, signed_in, path, monkeypatch, lacking):
        """If the system cannot allocate room, zeros are written instead."""
        code = 0
        if lacking == "missing":
            monkeypatch.delattr(os, "posix_fallocate", raising=False)
        elif not hasattr(os, "posix_fallocate"):
            pytest.skip("needs posix_fallocate")
        else:
            code = lacking
        with store.exclusive(1.0, signed_in) as hold:
            with tapped("posix_fallocate", fail_with(code)) as tap:
                hold.begin(signed_in)
            assert ("posix_fallocate" in tap.calls) == (lacking != "missing")
            assert (path.parent / "tokens.next.2").stat().st_size >= 32 * 1024
            store.save(Token("b", "r2"), signed_in)
        assert store.load().generation == 2

    def test_room_without_a_stored_state(self, store, path):
        """begin() works with an empty store, for a grant that needs no refresh token."""
        with store.exclusive(1.0) as hold:
            hold.begin(State("ab", 1, None))
            assert (path.parent / "tokens.next.2").exists()
        assert not (path.parent / "tokens.next.2").exists()

    def test_a_note_that_cannot_be_written(self, store, signed_in):
        """On a full disk the lock can still be taken, but its holder is not named."""
        with (
            tapped("write", fail_with(errno.ENOSPC)),
            store.exclusive(1.0, signed_in),
            pytest.raises(StoreUnavailable, match="another process"),
        ):
            store.exclusive(0.0, signed_in)

    @needs_posix
    def test_the_room_is_real(self, store, signed_in, path):
        """P4: the room is allocated and not sparse."""
        with store.exclusive(1.0, signed_in) as hold:
            hold.begin(signed_in)
            assert (path.parent / "tokens.next.2").stat().st_blocks * 512 >= 32 * 1024

    def test_a_file_system_without_locks(self, store):
        """A file system without locks is an error, and no weaker lock is used."""
        with (
            tapped("lock_descriptor", fail_with(errno.ENOLCK)),
            pytest.raises(StoreUnavailable, match="No locks available"),
        ):
            store.exclusive(1.0)


class TestWindows:
    """The code for Windows, run elsewhere."""

    @pytest.fixture(autouse=True)
    def windows(self, monkeypatch):
        # No public way selects the code for another operating system.
        monkeypatch.setattr(private_files, "WINDOWS", True)

    def sharing(self, times, winerror=32):
        """Make the next ``times`` renames fail as they do on Windows."""
        tries = []

        def refuse(name):
            tries.append(1)
            if len(tries) <= times:
                error = PermissionError(errno.EACCES, "The file is in use")
                error.winerror = winerror
                raise error

        return tapped("replace", refuse)

    def test_a_rename_that_a_reader_blocks(self, store, signed_in):
        """P4: a rename that fails because a reader has the file open is tried again."""
        with self.sharing(5) as tap:
            store.save(Token("b"), signed_in)
        assert tap.calls.count("replace") == 6
        assert store.load().generation == 2

    def test_a_rename_is_not_tried_for_ever(self, store, signed_in, monkeypatch):
        """P8: a file that stays in use is an error after a limited time."""
        # No public way shortens the 2 s.
        monkeypatch.setattr(private_files, "_SHARING_PATIENCE", 0.02)
        with self.sharing(10_000), pytest.raises(StoreUnavailable, match="in use"):
            store.save(Token("b"), signed_in)

    def test_other_errors_of_a_rename(self, store, signed_in):
        """A rename that fails for another reason is not tried again."""
        with self.sharing(10_000, winerror=1314) as tap, pytest.raises(StoreUnavailable):
            store.save(Token("b"), signed_in)
        assert tap.calls.count("replace") == 1

    def test_no_directory_is_synced(self, store):
        """Only the file is synced, because Windows cannot open directories."""
        with tapped("nothing", fail_with(0)) as tap:
            store.save(Token("a"), None)
        assert tap.calls.count("fsync") == 1
        assert "open" not in tap.calls[tap.calls.index("replace") :]


class TestNetworkFileSystem:
    """The warning about network file systems."""

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
        """The innermost mount counts; of two on the same mount point, the later one."""
        assert network_file_systems.file_system(path, self.MOUNTS) == kind

    def test_it_warns_once(self, tmp_path, monkeypatch):
        """A network file system is a warning, once, at the line that made the store."""
        # No public way puts the test's directory on a network file system.
        mounts = tmp_path / "mounts"
        mounts.write_text(f"31 27 0:30 / {tmp_path} rw,relatime - nfs4 server:/home rw\n")
        monkeypatch.setattr(network_file_systems, "MOUNTS", str(mounts))
        path = tmp_path / "app" / "tokens"
        with pytest.warns(UserWarning, match=r"\(nfs4\).*RedisStore") as caught:
            EncryptedFileStore(path, key=KEY)
        assert caught[0].filename == __file__
        EncryptedFileStore(path, key=KEY)

    def test_without_a_list_of_mounts(self, tmp_path, monkeypatch):
        """There is no warning on systems other than Linux."""
        # No public way removes /proc.
        monkeypatch.setattr(network_file_systems, "MOUNTS", str(tmp_path / "none"))
        EncryptedFileStore(tmp_path / "tokens", key=KEY)

    def test_a_local_file_system(self, tmp_path):
        """There is no warning for a local disk."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            EncryptedFileStore(tmp_path / "tokens", key=KEY)


def test_concurrent_first_saves(tmp_path):
    """Concurrent first saves that all create the same directories succeed."""
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
