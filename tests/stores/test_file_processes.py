"""``EncryptedFileStore`` with several processes: forks, crashes and many at once."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import pickle
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from file_faults import fail_with, tapped
from queue_kit import until

from requests_silent_refresh import (
    EncryptedFileStore,
    RefreshTokenGrant,
    StoreUnavailable,
    Token,
    TokenManager,
)
from requests_silent_refresh.keys import KeyFile, generate_key
from requests_silent_refresh.system import kernel_lock
from requests_silent_refresh.testing import AuthorizationServer
from requests_silent_refresh.testing.store_fixtures import Neighbour

KEY = generate_key()

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    # Threads left by other tests do not affect the children here.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app" / "tokens"


@pytest.fixture
def store(path):
    return EncryptedFileStore(path, key=KEY)


@pytest.fixture
def state(store):
    return store.save(Token("old", "old-refresh"), None)


@pytest.fixture
def neighbour(path, state, tmp_path):
    key = tmp_path / "key"
    key.write_text(KEY)
    key.chmod(0o600)
    opener = functools.partial(pickle.loads, pickle.dumps(EncryptedFileStore(path, KeyFile(key))))
    neighbour = Neighbour(opener)
    yield neighbour
    if neighbour.process.poll() is None:
        neighbour.close()


class Child:
    """A forked child that calls ``act``, and stays alive until ``end()`` if ``stay``."""

    def __init__(self, act, *, stay=False, wait=True):
        self._result, result = os.pipe()
        gate, self._gate = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._gate)
            try:
                os.write(result, repr(act()).encode())
                if stay:
                    os.read(gate, 1)
            except BaseException as error:
                os.write(result, repr(error).encode())
            finally:
                os._exit(0)
        os.close(result)
        os.close(gate)
        self.answer = self.read() if wait else None

    def read(self):
        return os.read(self._result, 10_000).decode()

    def end(self):
        os.close(self._gate)
        os.close(self._result)
        os.waitpid(self.pid, 0)


def fork_a_survivor():
    """Fork a process that outlives this one (for a minute at most) and return its id."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        signal.pause()
    return pid


@contextlib.contextmanager
def survivor(act, path):
    """Kill a process that took the lock in ``act``, whose child (``act`` returns it) lives on."""
    parent = Child(act, stay=True)
    child = int(parent.answer)
    assert not is_free(path)
    os.kill(parent.pid, signal.SIGKILL)
    os.waitpid(parent.pid, 0)
    os.kill(child, 0)  # it is alive
    yield
    os.kill(child, signal.SIGKILL)


def is_free(path):
    """Return whether another store object gets the exclusive lock."""
    try:
        EncryptedFileStore(path, key=KEY).exclusive(0.0).release()
    except StoreUnavailable:
        return False
    return True


class TestFork:
    """A forked child does not hold its parent's locks and cannot release them."""

    def test_a_child_releases_nothing(self, store, state, path):
        """P1: release(), garbage collection and exit in a child do not free the parent's lock."""
        hold = store.exclusive(1.0, state)
        hold.begin(state)

        def act():
            nonlocal hold
            hold.release()
            hold = None
            gc.collect()
            return is_free(path)

        child = Child(act)
        child.end()
        assert child.answer == "False"
        assert not is_free(path)
        assert os.path.exists(f"{path}.next.2")
        hold.release()
        assert is_free(path)
        assert not os.path.exists(f"{path}.next.2")

    def test_a_child_can_use_the_store(self, store, state, path):
        """P1: in the child, the parent's store finds the lock taken, then free."""
        with store.exclusive(1.0, state):
            child = Child(lambda: store.exclusive(0.0, state))
            child.end()
            assert "StoreUnavailable" in child.answer
            assert f"process {os.getpid()} on" in child.answer
        child = Child(lambda: store.save(Token("child", "r2"), state).generation)
        child.end()
        assert child.answer == "2"
        assert store.load().token.access_token.reveal() == "child"

    def test_a_child_does_not_use_the_parents_room(self, store, state, path):
        """P4: a save in the child does not use the parent's reservation."""
        with store.exclusive(1.0, state) as hold:
            hold.begin(state)
            child = Child(lambda: store.save(Token("child", "r2"), state).generation)
            child.end()
            assert child.answer == "2"
            assert os.path.exists(f"{path}.next.2")

    def test_the_parents_death_frees_the_lock_while_a_child_lives(self, store, state, path):
        """P1: a child that outlives its killed parent does not keep the parent's lock."""

        def act():
            hold = store.exclusive(1.0, state)
            hold.begin(state)
            globals()["_kept"] = hold
            return fork_a_survivor()

        with survivor(act, path), EncryptedFileStore(path, KEY).exclusive(10.0, state) as hold:
            assert hold.interrupted_at is not None

    def test_a_fork_between_open_and_lock(self, store, state, path):
        """P1: a lock file that a fork copied before it was locked is opened again."""
        store.exclusive(1.0, state).release()
        with tapped("nothing", fail_with(0)) as tap:
            store.exclusive(1.0, state).release()
        before_lock = tap.calls[: tap.calls.index("lock_descriptor")]
        # The number, counted from 1, of the first call after the lock file was opened.
        just_opened = len(before_lock) - before_lock[::-1].index("open") + 1

        def act():
            grandchildren = []
            # As another thread may do at this moment.
            with tapped(just_opened, lambda name: grandchildren.append(fork_a_survivor())):
                globals()["_kept"] = store.exclusive(1.0, state)
            return grandchildren[0]

        with survivor(act, path):
            assert is_free(path)


class TestDeath:
    """A holder that dies."""

    def test_a_killed_holder_frees_at_once(self, store, state, neighbour):
        """P5: the next holder gets the lock at once and learns of the interruption."""
        neighbour.tell("hold 5 begin")
        neighbour.kill()
        with store.exclusive(0.0, state) as hold:
            assert hold.interrupted_at == pytest.approx(time.time(), abs=30)

    def test_a_holder_is_named(self, store, state, neighbour):
        """P4: after a timeout, the error says which process holds the lock, and since when."""
        neighbour.tell("hold 5")
        with pytest.raises(StoreUnavailable) as error:
            store.exclusive(0.0, state)
        assert error.value.holder.startswith(f"process {neighbour.process.pid} on ")
        assert " UTC" in error.value.holder
        assert error.value.holder in str(error.value)
        neighbour.tell("release")

    def test_a_foreign_note(self, store, state, path, neighbour):
        """The holder's note is truncated and cleaned before it is shown."""
        neighbour.tell("hold 5")
        with open(f"{path}.lock", "r+b") as file:
            file.write(b"\n\x1b[31mprocess\x00 " + b"x" * 5000)
        with pytest.raises(StoreUnavailable) as error:
            store.exclusive(0.0, state)
        assert error.value.holder.isprintable()
        assert len(error.value.holder) < 400
        neighbour.tell("release")

    def test_no_note(self, store, state, path, neighbour):
        """If the note is missing, the holder is unknown."""
        neighbour.tell("hold 5")
        os.truncate(f"{path}.lock", 0)
        with pytest.raises(StoreUnavailable, match="locked by another process") as error:
            store.exclusive(0.0, state)
        assert error.value.holder is None
        neighbour.tell("release")

    def test_a_garbage_collected_hold_is_released(self, store, state, path):
        """A hold that was not released frees the lock when it is garbage collected."""
        hold = store.exclusive(1.0, state)
        assert not is_free(path)
        del hold
        gc.collect()
        assert is_free(path)


class TestLockFile:
    """The lock files are never removed."""

    def test_they_are_not_removed(self, store, state, path):
        """P1: the lock files keep their inodes over each release."""
        store.exclusive(1.0, state).release()
        before = [os.stat(f"{path}.{name}").st_ino for name in ("lock", "write.lock")]
        with store.exclusive(1.0, state) as hold:
            hold.begin(state)
            store.save(Token("b", "r"), state)
        assert [os.stat(f"{path}.{name}").st_ino for name in ("lock", "write.lock")] == before

    def test_a_removed_lock_file_is_detected_before_the_exchange(self, store, state, path):
        """P1: a holder whose lock file was removed does not send the token."""
        with store.exclusive(1.0, state) as hold:
            os.unlink(f"{path}.lock")
            with pytest.raises(StoreUnavailable, match="was removed while it was locked"):
                hold.begin(state)

    def test_a_lock_on_a_removed_file_does_not_count(self, store, state, path):
        """P1: if the file is removed between open and lock, the lock is taken again."""
        removed = []

        def remove_once(name):
            if not removed:
                removed.append(os.unlink(f"{path}.lock"))

        with tapped("lock_descriptor", remove_once):
            hold = store.exclusive(5.0, state)
        with hold:
            assert os.path.exists(f"{path}.lock")
            assert not is_free(path)
        assert removed

    def test_a_removed_file_and_no_time(self, store, state, path):
        """P1: without time for another try, a lock on a removed file is a timeout."""
        with (
            tapped("lock_descriptor", lambda name: os.unlink(f"{path}.lock")),
            pytest.raises(StoreUnavailable) as error,
        ):
            store.exclusive(0.0, state)
        assert error.value.holder is None

    @pytest.mark.parametrize(
        "write",
        [
            lambda store, state: store.save(Token("b"), state),
            lambda store, state: store.reset(),
            lambda store, state: store.rotate_key(),
        ],
        ids=["save", "reset", "rotate_key"],
    )
    def test_a_stuck_writer(self, store, state, path, monkeypatch, write):
        """P1, P8: whatever writes waits a limited time for another save, and the error names its
        process."""
        from requests_silent_refresh.stores import state_file

        # No public way shortens the 10 s.
        monkeypatch.setattr(state_file, "_PATIENCE", 0.05)
        lock = kernel_lock.KernelLock(f"{path}.write.lock")
        assert lock.try_acquire()
        lock.sign()
        with pytest.raises(StoreUnavailable, match=rf"write\.lock.*process {os.getpid()}"):
            write(store, state)
        assert state.is_same(store.load())
        lock.release()
        write(store, state)

    def test_concurrent_writers_take_turns(self, store, state, path):
        """P1: concurrent saves all succeed, one after another."""
        stores = [EncryptedFileStore(path, key=KEY) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda s: s.save(Token("b"), None), stores))
        assert store.load().generation == 1


def test_many_processes_refresh_once(store, state, path):
    """P1: if forty processes find an expired token, one refreshes and all get the result."""
    start, go = os.pipe()

    def act():
        os.close(go)
        os.write(results, b"ready\n")
        os.read(start, 1)  # until the parent starts all of them
        mine = EncryptedFileStore(path, key=KEY)
        refreshed = 0
        while (found := mine.load()).generation == 1:
            hold = mine.exclusive(60.0, found)
            if hold is not None:
                with hold:
                    hold.begin(found)
                    mine.save(Token("new", "new-refresh"), found)
                    refreshed += 1
        return refreshed, found.token.access_token.reveal()

    ready, results = os.pipe()
    crowd = [Child(act, wait=False) for _ in range(40)]
    for _ in crowd:
        assert os.read(ready, 6) == b"ready\n"
    os.close(go)
    answers = [child.read() for child in crowd]
    for child in crowd:
        child.end()
    for fd in (start, ready, results):
        os.close(fd)
    assert sorted(answers) == [*["(0, 'new')"] * 39, "(1, 'new')"]
    assert store.load().generation == 2


@pytest.mark.parametrize("replaced", ["lock file", "directory"])
def test_a_lock_that_is_replaced_gives_no_second_exchange(tmp_path, monkeypatch, replaced):
    """P1: the lock is removed, or the directory put back from a copy, during an exchange."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    place = tmp_path / "state"
    with AuthorizationServer() as server:

        def manager():
            store = EncryptedFileStore(place / "tokens", key=KEY)
            grant = RefreshTokenGrant(server.token_endpoint, "client")
            return TokenManager(grant, store, refresh_ahead=0)

        mine, theirs = manager(), manager()
        mine.sign_in(server.sign_in_token())
        rejected = mine.token(), theirs.token()
        with server.token_gate() as gate, ThreadPoolExecutor(2) as pool:
            first = pool.submit(mine.renew, rejected[0])
            assert gate.arrived.wait(10)
            if replaced == "lock file":
                os.remove(place / "tokens.lock")
            else:
                shutil.copytree(place, tmp_path / "copy")
                place.rename(tmp_path / "old")
                (tmp_path / "copy").rename(place)
            second = pool.submit(theirs.renew, rejected[1])
            waiting = place / "tokens.lock"  # made again by the second, which then waits
            until(waiting.exists)
            gate.release()
            tokens = {future.result(30).access_token.reveal() for future in (first, second)}
        assert len(tokens) == 1
        assert (server.counters.exchanges, server.counters.reuse_detections) == (1, 0)


def test_without_a_home_the_lock_beside_the_file_is_enough(tmp_path, monkeypatch):
    """A container without a home that can be written: the second lock is left out."""
    (tmp_path / "data").write_text("not a directory")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    store = EncryptedFileStore(tmp_path / "state" / "tokens", key=KEY)
    state = store.save(Token("a", "r"), None)
    with store.exclusive(1.0, state) as hold:
        hold.begin(state)
        assert store.save(Token("b", "r2"), state).is_same(store.load())


def test_an_arriving_process_turns_no_holder_away(tmp_path, monkeypatch):
    """P8: the second lock is taken after the first, so a caller without time to wait gets both."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    store = EncryptedFileStore(tmp_path / "state" / "tokens", key=KEY)
    state = store.save(Token("a", "r"), None)
    acquire, taken = kernel_lock.KernelLock.try_acquire, []

    def ordered(lock):
        taken.append("second" if lock.path.startswith(str(tmp_path / "data")) else "first")
        return acquire(lock)

    monkeypatch.setattr(kernel_lock.KernelLock, "try_acquire", ordered)
    with store.exclusive(0.0, state):
        assert taken == ["first", "second"]
        with pytest.raises(StoreUnavailable):
            EncryptedFileStore(tmp_path / "state" / "tokens", key=KEY).exclusive(0.0, state)
        assert taken == ["first", "second", "first"]
