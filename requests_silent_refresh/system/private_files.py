"""Private files, which are replaced atomically: file system access for stores and key files.

Every system call goes through :func:`call`, so that tests can make each one fail, kill the
process there, and run the Windows code paths anywhere. The functions raise the ``OSError`` of
the call, or a ``StoreError`` if a file is a link, is not a regular file, belongs to another
user, or is too large.

A private file has mode 0600 whatever the umask. It is never modified in place: new content is
written to another file, synced, and renamed over it, so that readers (which take no lock) and
crashes see the whole old or the whole new content.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from ..errors import StoreCorrupted, StoreError

WINDOWS = sys.platform == "win32"

SIZE_LIMIT = 1024 * 1024
"""The largest size of a private file in bytes. Tokens need only a few KiB."""

# On Windows a reader's open handle blocks a rename until the read has ended.
_SHARING_VIOLATIONS = frozenset({5, 32, 33})
_SHARING_PATIENCE = 2.0  # seconds

_FOR_READING = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # opening a FIFO at this path would otherwise block
    | getattr(os, "O_BINARY", 0)
)
_FOR_WRITING = _FOR_READING & ~os.O_RDONLY | os.O_RDWR

_P = ParamSpec("_P")
_T = TypeVar("_T")

_logger = logging.getLogger("requests_silent_refresh")


def call(function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Make one system call; tests replace this function to inject faults."""
    return function(*args, **kwargs)


def read_private(path: str) -> bytes | None:
    """Return the content of the private file ``path``; ``None`` if it does not exist.

    Does not wait for any lock. A mode wider than 0600 is corrected and logged. Raises
    ``StoreError`` for a file that breaks one of the rules above, and ``StoreCorrupted`` for one
    that is too large.
    """
    try:
        fd = open_private(path, _FOR_READING)
    except FileNotFoundError:
        return None
    try:
        size = check(fd, path).st_size
        # One byte above the limit is enough to see that a file is too large.
        content = call(os.read, fd, min(size, SIZE_LIMIT) + 1)
        while len(content) <= SIZE_LIMIT and (more := call(os.read, fd, SIZE_LIMIT)):
            content += more
    finally:
        close(fd)
    if len(content) > SIZE_LIMIT:
        raise StoreCorrupted(
            f"{path} is larger than {SIZE_LIMIT} bytes: it was not written by this package"
        )
    return content


def write_private(path: str, content: bytes) -> None:
    """Create the private file ``path`` with ``content``, synced; an old one is removed.

    For a temporary name that no other process reads; the caller must hold the lock that
    reserves the name, and renames the file. If writing fails, the file is removed.
    """
    with _new_file(path) as fd:
        write_all(fd, content)


def overwrite_private(path: str, content: bytes) -> None:
    """Write ``content``, synced, into the existing private file ``path``, whose space it reuses."""
    fd = open_private(path, _FOR_WRITING)
    try:
        check(fd, path)
        write_all(fd, content)
        call(os.ftruncate, fd, len(content))
        call(os.fsync, fd)
    finally:
        close(fd)


def reserve_private(path: str, content: bytes, size: int) -> None:
    """Like :func:`write_private`, with ``size`` bytes of disk space allocated for the file."""
    with _new_file(path) as fd:
        _allocate(fd, size)
        call(os.lseek, fd, 0, os.SEEK_SET)
        write_all(fd, content)


@contextlib.contextmanager
def _new_file(path: str) -> Iterator[int]:
    """Create a private file for the block to write; sync it at the end, remove it on failure."""
    flags = _FOR_WRITING | os.O_CREAT | os.O_EXCL
    try:
        fd = open_private(path, flags)
    except FileExistsError:  # left by a process that died, or created by an attacker
        remove(path)
        fd = open_private(path, flags)
    try:
        try:
            yield fd
            call(os.fsync, fd)  # a network file system may report a full disk only here
        finally:
            close(fd)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error says more
            remove(path)
        raise


def open_private(path: str, flags: int = _FOR_WRITING | os.O_CREAT) -> int:
    """Open ``path`` without following a link and return the descriptor; a new file gets 0600."""
    try:
        fd = patient(os.open, path, flags, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) and os.path.islink(path):
            raise StoreError(
                f"{path} is a symbolic link, which is not followed: give the path it points to"
            ) from None
        raise
    if flags & os.O_CREAT and not WINDOWS:
        try:
            # The umask may have removed the owner's bits; an existing file may have a wider mode.
            if stat.S_IMODE(call(os.fstat, fd).st_mode) != 0o600:
                call(os.fchmod, fd, 0o600)
        except BaseException:
            close(fd)
            raise
    return fd


def check(fd: int, path: str) -> os.stat_result:
    """Return the open file's status, after correcting its mode.

    Raises ``StoreError`` unless it is a regular file that belongs to this user.
    """
    status = call(os.fstat, fd)
    if not stat.S_ISREG(status.st_mode):
        raise StoreError(f"{path} is not a regular file: give another path")
    if WINDOWS:
        return status
    if status.st_uid != os.geteuid():
        raise StoreError(
            f"{path} belongs to user id {status.st_uid} and this process runs as {os.geteuid()}: "
            "run it as that user, or give another path"
        )
    if status.st_mode & 0o077:
        _logger.warning(
            "%s could be opened by others (mode %o): its mode was changed to 600",
            path,
            stat.S_IMODE(status.st_mode),
        )
        with contextlib.suppress(OSError):  # a file system without modes; the content is encrypted
            call(os.fchmod, fd, 0o600)
    return status


def write_all(fd: int, content: bytes) -> None:
    """Write all of ``content`` at the descriptor's current position."""
    left = memoryview(content)
    while left:
        left = left[call(os.write, fd, left) :]


def close(fd: int) -> None:
    """Close ``fd``, ignoring errors: they say nothing about data that is already synced."""
    with contextlib.suppress(OSError):
        call(os.close, fd)


def remove(path: str) -> None:
    """Remove ``path`` if it exists."""
    with contextlib.suppress(FileNotFoundError):
        patient(os.unlink, path)


def rename(source: str, target: str) -> None:
    """Rename ``source`` to ``target``, replacing it, and make that durable."""
    patient(os.replace, source, target)
    sync_directory(os.path.dirname(target))


def sync_directory(path: str) -> None:
    """Make the renames in directory ``path`` durable. Does nothing on Windows."""
    if WINDOWS:
        return
    fd = call(os.open, path, os.O_RDONLY)
    try:
        call(os.fsync, fd)
    finally:
        close(fd)


def make_directories(path: str) -> None:
    """Create directory ``path`` and its missing parents, each 0700 whatever the umask.

    An existing directory is not changed.
    """
    try:
        call(os.mkdir, path, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_directories(os.path.dirname(path))
        make_directories(path)
        return
    if not WINDOWS and stat.S_IMODE(call(os.stat, path).st_mode) != 0o700:
        call(os.chmod, path, 0o700)


def signature(path: str) -> tuple[int, ...] | None:
    """Return a value that changes when ``path`` is replaced, as a hint; ``None`` without a file."""
    try:
        status = call(os.stat, path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def patient(function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Make a system call that Windows refuses while another process has the file open.

    Retries for at most 2 s on Windows; other systems get a single attempt.
    """
    deadline = time.monotonic() + _SHARING_PATIENCE
    while True:
        try:
            return call(function, *args, **kwargs)
        except PermissionError as error:
            refused = getattr(error, "winerror", None) in _SHARING_VIOLATIONS
            if not (WINDOWS and refused) or time.monotonic() >= deadline:
                raise
        time.sleep(0.005)


def _allocate(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            call(os.posix_fallocate, fd, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
        else:
            return
    write_all(fd, bytes(size))
