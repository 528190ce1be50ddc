"""``EncryptedFileStore`` between processes: forks, deaths and crowds."""

from __future__ import annotations

import functools
import gc
import os
import pickle
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from requests_silent_refresh import EncryptedFileStore, StoreUnavailable, Token
from requests_silent_refresh.keys import KeyFile, generate_key
from requests_silent_refresh.system import kernel_lock
from requests_silent_refresh.testing.store_fixtures import Neighbour

KEY = generate_key()

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes fork here"),
    # Threads that other tests have left behind do not matter to the children here.
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
    """A forked child that does one thing, and can be told to go on to its end."""

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


def is_free(path):
    """Whether a newcomer gets the exclusive lock."""
    try:
        EncryptedFileStore(path, key=KEY).exclusive(0.0).release()
    except StoreUnavailable:
        return False
    return True


class TestFork:
    """A forked child has none of its parent's locks, and cannot free them."""

    def test_a_child_frees_nothing(self, store, state, path):
        """P1: releasing, collecting and ending in a child leave the parent its lock."""
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

    def test_a_child_waits_like_anybody(self, store, state, path):
        """P1: the store of the parent works in the child, which finds the lock taken, then free."""
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
        """P4: a save in the child leaves the mark of the parent's refresh alone."""
        with store.exclusive(1.0, state) as hold:
            hold.begin(state)
            child = Child(lambda: store.save(Token("child", "r2"), state).generation)
            child.end()
            assert child.answer == "2"
            assert os.path.exists(f"{path}.next.2")

    def test_the_parents_death_frees_the_lock_although_a_child_lives(self, store, state, path):
        """P1: a worker that outlives its killed parent does not keep the lock it never had."""

        def act():
            hold = store.exclusive(1.0, state)
            hold.begin(state)
            grandchild = Child(lambda: "alive", stay=True)
            globals()["_kept"] = hold, grandchild
            return grandchild.pid

        parent = Child(act, stay=True)
        grandchild = int(parent.answer)
        assert not is_free(path)
        os.kill(parent.pid, signal.SIGKILL)
        os.waitpid(parent.pid, 0)
        os.kill(grandchild, 0)  # it lives
        with EncryptedFileStore(path, key=KEY).exclusive(0.0, state) as hold:
            assert hold.interrupted_at is not None
        os.kill(grandchild, signal.SIGKILL)

    def test_a_fork_between_open_and_lock(self, store, state, path, monkeypatch):
        """P1: a file that another thread's fork has copied meanwhile is opened anew."""
        children = []
        really = kernel_lock.private_files.open_private

        def opening(*args):
            fd = really(*args)
            if not children and args[0].endswith("tokens.lock"):
                # As if another thread forked here: this child knows nothing of the file.
                children.append(Child(lambda: os.fstat(fd).st_ino, stay=True))
            return fd

        monkeypatch.setattr(kernel_lock.private_files, "open_private", opening)
        hold = store.exclusive(1.0, state)
        assert not is_free(path)
        hold._lock._fd, fd = None, hold._lock._fd
        os.close(fd)  # as the kernel does when the holder dies, without unlocking
        assert is_free(path)
        children[0].end()


class TestDeath:
    """A holder that dies."""

    def test_a_killed_holder_frees_at_once(self, store, state, neighbour):
        """P5: the next one has the lock at once, and knows of the interruption."""
        neighbour.tell("hold 5 begin")
        neighbour.kill()
        with store.exclusive(0.0, state) as hold:
            assert hold.interrupted_at == pytest.approx(time.time(), abs=30)

    def test_a_holder_is_named(self, store, state, neighbour):
        """P4: who waits in vain is told which process holds the lock, where, and since when."""
        neighbour.tell("hold 5")
        with pytest.raises(StoreUnavailable) as error:
            store.exclusive(0.0, state)
        assert error.value.holder.startswith(f"process {neighbour.process.pid} on ")
        assert " UTC" in error.value.holder
        assert error.value.holder in str(error.value)
        neighbour.tell("release")

    def test_a_note_that_lies(self, store, state, path, neighbour):
        """A note that somebody else wrote is cut and cleaned before it is shown."""
        neighbour.tell("hold 5")
        with open(f"{path}.lock", "r+b") as file:
            file.write(b"\n\x1b[31mprocess\x00 " + b"x" * 5000)
        with pytest.raises(StoreUnavailable) as error:
            store.exclusive(0.0, state)
        assert error.value.holder.isprintable()
        assert len(error.value.holder) < 400
        neighbour.tell("release")

    def test_nothing_noted(self, store, state, path, neighbour):
        """Without a note the holder is unknown."""
        neighbour.tell("hold 5")
        os.truncate(f"{path}.lock", 0)
        with pytest.raises(StoreUnavailable, match="locked by another process") as error:
            store.exclusive(0.0, state)
        assert error.value.holder is None
        neighbour.tell("release")

    def test_a_dropped_hold_is_given_up(self, store, state, path):
        """A hold that nobody released is freed with the object."""
        hold = store.exclusive(1.0, state)
        assert not is_free(path)
        del hold
        gc.collect()
        assert is_free(path)


class TestLockFile:
    """The lock files stay."""

    def test_they_are_not_removed(self, store, state, path):
        """P1: the lock files outlive every release, under the same inode."""
        store.exclusive(1.0, state).release()
        before = [os.stat(f"{path}.{name}").st_ino for name in ("lock", "write.lock")]
        with store.exclusive(1.0, state) as hold:
            hold.begin(state)
            store.save(Token("b", "r"), state)
        assert [os.stat(f"{path}.{name}").st_ino for name in ("lock", "write.lock")] == before

    def test_a_removed_lock_file_is_noticed_before_the_exchange(self, store, state, path):
        """P1: a holder whose lock file was cleaned away does not send the token."""
        with store.exclusive(1.0, state) as hold:
            os.unlink(f"{path}.lock")
            with pytest.raises(StoreUnavailable, match="was removed while it was locked"):
                hold.begin(state)

    def test_a_lock_on_a_removed_file_is_none(self, store, state, path, monkeypatch):
        """P1: a file that is removed between open and lock is not taken for the lock."""
        really = kernel_lock.private_files.call
        removed = []

        def calling(function, /, *args, **kwargs):
            if function.__name__ == "lock_descriptor" and not removed:
                removed.append(os.unlink(f"{path}.lock"))
            return really(function, *args, **kwargs)

        monkeypatch.setattr(kernel_lock.private_files, "call", calling)
        with store.exclusive(5.0, state):
            assert os.path.exists(f"{path}.lock")
            assert not is_free(path)

    def test_a_removed_file_and_no_time(self, store, state, path, monkeypatch):
        """P1: with no time left for another try, the lock on a removed file is not given."""
        really = kernel_lock.private_files.call

        def calling(function, /, *args, **kwargs):
            if function.__name__ == "lock_descriptor":
                os.unlink(f"{path}.lock")
            return really(function, *args, **kwargs)

        monkeypatch.setattr(kernel_lock.private_files, "call", calling)
        with pytest.raises(StoreUnavailable) as error:
            store.exclusive(0.0, state)
        assert error.value.holder is None

    def test_a_stuck_writer(self, store, state, path, monkeypatch):
        """P8: a save waits a bounded time for another's save, and says who it was."""
        from requests_silent_refresh.stores import state_file

        monkeypatch.setattr(state_file, "_PATIENCE", 0.05)
        lock = kernel_lock.KernelLock(f"{path}.write.lock")
        assert lock.try_acquire()
        lock.sign()
        with pytest.raises(StoreUnavailable, match=rf"write\.lock.*process {os.getpid()}"):
            store.save(Token("b"), state)
        lock.release()
        store.save(Token("b"), state)

    def test_concurrent_writers_take_turns(self, store, state, path):
        """P1: writers that come at once all come through, one after another."""
        stores = [EncryptedFileStore(path, key=KEY) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda s: s.save(Token("b"), None), stores))
        assert store.load().generation == 1


def test_a_crowd_refreshes_once(store, state, path):
    """P1: forty processes find an expired token at once: one refreshes, all have the result."""
    start, go = os.pipe()

    def act():
        os.close(go)
        os.write(results, b"ready\n")
        os.read(start, 1)  # until the parent opens the gate for all
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
