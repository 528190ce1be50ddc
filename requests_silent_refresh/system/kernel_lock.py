"""A kernel lock on a file, held by one :class:`KernelLock` of one process at a time.

The kernel releases it when its holder dies, for whatever reason. The lock file is never
removed: unlinking it would let two later processes hold the lock at the same time. The lock
belongs to the open file description, which ``fork`` shares with the child. Therefore

- a child closes its copy at once and never unlocks it, so neither its garbage collector nor
  its exit can release the parent's lock;
- once the child has closed its copy, the parent's death releases the lock even if the child
  is still running;
- a file that was opened while another thread forked is closed and opened again, because a
  child may have inherited a descriptor that it cannot know of.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time

# Imported here and not at the first lock, because Python 3.10 cannot import it while exiting.
from filelock import lock_descriptor, unlock_descriptor

from ..errors import StoreUnavailable, printable
from . import private_files
from .forking import reset_in_child

# Seconds between two attempts. With a hundred processes waiting, each must use far less than a
# percent of a processor for its attempts (two system calls each).
_SHORTEST, _LONGEST = 0.005, 0.025

_forks = 0


def _count_fork() -> None:
    global _forks  # noqa: PLW0603 (one number per process, written only before a fork)
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_count_fork)


def pause(left: float) -> None:
    """Sleep until the next attempt: a random time, so that waiters mix, up to ``left`` s."""
    time.sleep(max(0.0, min(left, random.uniform(_SHORTEST, _LONGEST))))  # noqa: S311 (no secret)


class KernelLock:
    """The lock on the file ``path`` (created with ``mode``, and its directories, when first used).

    An object holds one acquisition at a time and can be used again after its release. Threads
    exclude each other as processes do if each has its own object. The methods raise ``OSError``
    if the file cannot be opened or its file system does not support locks.
    """

    def __init__(self, path: str, mode: int = private_files.PRIVATE) -> None:
        self.path = path
        self._mode = mode
        self._fd: int | None = None
        self._guard = threading.Lock()  # two threads may call release at the same time
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        fd, self._fd = self._fd, None
        self._guard = threading.Lock()
        if fd is not None:
            os.close(fd)  # do not unlock it: that would release the parent's lock

    def try_acquire(self) -> bool:
        """Take the lock if it is free, and return whether it was. Does not block."""
        self.open()
        fd = self._fd
        assert fd is not None  # noqa: S101 (for the type checker)
        if not private_files.call(lock_descriptor, fd, blocking=False):
            return False
        if self.is_in_place():
            return True
        self.release()  # the file was removed or replaced, so this lock protects nothing
        return False

    def acquire(self, timeout: float) -> None:
        """Take the lock; raises ``StoreUnavailable`` if it takes more than ``timeout`` s."""
        deadline = time.monotonic() + timeout
        while not self.try_acquire():
            left = deadline - time.monotonic()
            if left <= 0:
                raise self.unavailable(timeout)
            pause(left)

    def unavailable(self, waited: float) -> StoreUnavailable:
        """Close the lock's file and return the error for a waiter whose time is over."""
        holder = self.holder()
        self.release()
        return StoreUnavailable(
            f"{self.path} has been locked by {holder or 'another process or thread'} for longer "
            f"than {waited:g} s: try again later, or check what the holder is doing",
            holder=holder,
        )

    def is_in_place(self) -> bool:
        """Return whether the open file is still the one at ``path``, which others would lock."""
        try:
            there = private_files.call(os.stat, self.path)
        except FileNotFoundError:
            return False
        return self._fd is not None and os.path.samestat(
            private_files.call(os.fstat, self._fd), there
        )

    def sign(self) -> None:
        """Write into the file which process holds the lock, for :meth:`holder`; best effort."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        note = f"\nprocess {os.getpid()} on {socket.gethostname()} since {since}\n"
        try:
            if self._fd is not None:
                private_files.call(os.lseek, self._fd, 0, os.SEEK_SET)
                private_files.write_all(self._fd, note.encode())
                private_files.call(os.ftruncate, self._fd, len(note.encode()))
        except OSError:
            pass  # for example a full disk: the lock is held anyway

    def holder(self) -> str | None:
        """Return what the holder wrote about itself; ``None`` if it wrote nothing."""
        try:
            if self._fd is None:
                return None
            # Skip the first byte: on Windows it is locked, and others cannot read it.
            private_files.call(os.lseek, self._fd, 1, os.SEEK_SET)
            note = private_files.call(os.read, self._fd, 300).decode(errors="replace").strip()
        except OSError:
            return None
        return printable(note) or None

    def release(self) -> None:
        """Release the lock, or give up the attempt to take it. Safe to call twice."""
        with self._guard:
            if self._fd is None:
                return
            try:
                # Explicitly, and not by closing: a descriptor that a child inherited unnoticed
                # must not keep the lock.
                private_files.call(unlock_descriptor, self._fd)
            except OSError:
                pass
            finally:
                fd, self._fd = self._fd, None
                private_files.close(fd)

    def open(self) -> None:
        """Open the lock's file, without taking the lock; does nothing if it is open."""
        while self._fd is None:
            seen = _forks
            try:
                self._fd = private_files.open_private(self.path, mode=self._mode)
            except FileNotFoundError:
                private_files.make_directories(os.path.dirname(self.path), self._mode)
                self._fd = private_files.open_private(self.path, mode=self._mode)
            private_files.check(self._fd, self.path, self._mode)
            if seen != _forks:
                self.release()

    def __del__(self) -> None:
        fd = getattr(self, "_fd", None)
        if fd is not None:
            os.close(fd)
