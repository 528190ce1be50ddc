"""A kernel lock on a file, held by one process (and one thread's purpose) at a time.

The kernel frees it when its holder dies, however it dies. The file itself stays
for ever: unlinking a lock file lets the next two come in together. The lock
belongs to the open file, which ``fork`` shares with the child; therefore

- a child closes its copy at once and never unlocks it, so neither its garbage
  collector nor its exit can free the parent's lock;
- with the child's copy gone, the parent's death frees the lock although the
  child lives;
- a file that was opened while another thread forked is given up and opened
  again, because a child may have a copy that nobody there knows of.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time

# With the store, not with the first lock: while Python 3.10 exits it can't be imported any more.
from filelock import lock_descriptor, unlock_descriptor

from ..errors import StoreUnavailable
from . import private_files
from .forking import reset_in_child

# Seconds between two looks at a lock. With a hundred processes waiting, a look
# (two system calls) must stay far below a percent of a processor each.
_SHORTEST, _LONGEST = 0.005, 0.025

_forks = 0


def _count_fork() -> None:
    global _forks  # noqa: PLW0603 (one number a process, written before each fork only)
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_count_fork)


def pause(left: float) -> None:
    """Sleep until the next look at a lock, ``left`` seconds at most; spread so that waiters mix."""
    time.sleep(max(0.0, min(left, random.uniform(_SHORTEST, _LONGEST))))  # noqa: S311 (no secret)


class KernelLock:
    """The lock on the file ``path`` (made 0600, with its directories, when first used).

    An object is for one acquisition; a released one can be used again. Threads
    exclude each other as processes do, each with an object of its own. Raises
    ``OSError`` where the file cannot be opened or its file system has no locks.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd: int | None = None
        self._guard = threading.Lock()  # release may be called by two threads
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        fd, self._fd = self._fd, None
        self._guard = threading.Lock()
        if fd is not None:
            os.close(fd)  # never unlock: that would reach the parent's lock

    def try_acquire(self) -> bool:
        """Take the lock if nobody has it. Does not block."""
        if self._fd is None:
            self._open()
        fd = self._fd
        assert fd is not None  # noqa: S101 (for the type checker)
        if not private_files.call(lock_descriptor, fd, blocking=False):
            return False
        if self.is_in_place():
            return True
        self.release()  # somebody removed the file: a lock on what is left guards nothing
        return False

    def acquire(self, timeout: float) -> None:
        """Take the lock, waiting ``timeout`` seconds at most; then ``StoreUnavailable``."""
        deadline = time.monotonic() + timeout
        while not self.try_acquire():
            left = deadline - time.monotonic()
            if left <= 0:
                raise self.unavailable(timeout)
            pause(left)

    def unavailable(self, waited: float) -> StoreUnavailable:
        """Make the error of a waiter that gives up; the lock's file is closed."""
        holder = self.holder()
        self.release()
        return StoreUnavailable(
            f"{self.path} has been locked by {holder or 'somebody else'} for longer than "
            f"{waited:g} s: try again later, or look at what that process is doing",
            holder=holder,
        )

    def is_in_place(self) -> bool:
        """Say whether the open file is still the one that others would lock."""
        try:
            there = private_files.call(os.stat, self.path)
        except FileNotFoundError:
            return False
        return self._fd is not None and os.path.samestat(
            private_files.call(os.fstat, self._fd), there
        )

    def sign(self) -> None:
        """Write into the file who holds the lock, for others to read; best effort."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        note = f"\nprocess {os.getpid()} on {socket.gethostname()} since {since}\n"
        try:
            if self._fd is not None:
                private_files.call(os.lseek, self._fd, 0, os.SEEK_SET)
                private_files.write_all(self._fd, note.encode())
                private_files.call(os.ftruncate, self._fd, len(note.encode()))
        except OSError:
            pass  # a full disk: the lock holds without its note

    def holder(self) -> str | None:
        """Return what the holder wrote about itself; ``None`` where it wrote nothing."""
        try:
            if self._fd is None:
                return None
            # Past the first byte: Windows lets nobody else read the one that is locked.
            private_files.call(os.lseek, self._fd, 1, os.SEEK_SET)
            note = private_files.call(os.read, self._fd, 300).decode(errors="replace").strip()
        except OSError:
            return None
        return "".join(c for c in note if c.isprintable()) or None

    def release(self) -> None:
        """Give the lock up, or the attempt to get it. Safe to call twice."""
        with self._guard:
            if self._fd is None:
                return
            try:
                # Said aloud and not left to the close: a copy that a child inherited
                # behind our back must not keep the lock.
                private_files.call(unlock_descriptor, self._fd)
            except OSError:
                pass
            finally:
                fd, self._fd = self._fd, None
                private_files.close(fd)

    def _open(self) -> None:
        while True:
            seen = _forks
            try:
                self._fd = private_files.open_private(self.path)
            except FileNotFoundError:
                private_files.make_directories(os.path.dirname(self.path))
                self._fd = private_files.open_private(self.path)
            private_files.check(self._fd, self.path)
            if seen == _forks:
                return
            self.release()

    def __del__(self) -> None:
        fd = getattr(self, "_fd", None)
        if fd is not None:
            os.close(fd)
