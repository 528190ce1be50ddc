"""The file system as the store and the key files use it: private files, replaced whole.

Every system call goes through :func:`call`, so that tests can make each one fail
or kill the process there, and can run the Windows paths anywhere. What the
functions raise is the ``OSError`` of the call, or a ``StoreError`` where a file
breaks a rule: it is a link, no regular file, somebody else's, or too large.

A private file is 0600 whatever the umask. It is never written in place: its
next content goes to a file beside it, is synced, and is renamed over it, so
that readers (who take no lock) and crashes meet the whole old or the whole new
content.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import sys
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ..errors import StoreCorrupted, StoreError

WINDOWS = sys.platform == "win32"

SIZE_LIMIT = 1024 * 1024
"""Bytes a private file may hold; tokens are a few KiB, so more is something else."""

# On Windows a reader's open handle blocks a rename for as long as the read lasts.
_SHARING_VIOLATIONS = frozenset({5, 32, 33})
_SHARING_PATIENCE = 2.0  # seconds

_FOR_READING = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO planted under the name would hang the open
    | getattr(os, "O_BINARY", 0)
)
_FOR_WRITING = _FOR_READING & ~os.O_RDONLY | os.O_RDWR

_P = ParamSpec("_P")
_T = TypeVar("_T")

_logger = logging.getLogger("requests_silent_refresh")


def call(function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Make one system call: the seam at which tests inject faults."""
    return function(*args, **kwargs)


def read_private(path: str) -> bytes | None:
    """Return the content of the private file ``path``; ``None`` where there is none.

    Does not block. A wider mode than 0600 is mended and logged. Raises
    ``StoreError`` for a file that breaks a rule, ``StoreCorrupted`` for one
    that is too large.
    """
    try:
        fd = open_private(path, _FOR_READING)
    except FileNotFoundError:
        return None
    try:
        size = check(fd, path).st_size
        # One byte more than expected, so that the usual file needs a single read.
        content = call(os.read, fd, min(size, SIZE_LIMIT) + 1)
        while len(content) <= SIZE_LIMIT and (more := call(os.read, fd, SIZE_LIMIT)):
            content += more
    finally:
        close(fd)
    if len(content) > SIZE_LIMIT:
        raise StoreCorrupted(
            f"{path} is larger than {SIZE_LIMIT} bytes: it is not what this package wrote there"
        )
    return content


def write_private(path: str, content: bytes) -> None:
    """Create the private file ``path`` with ``content``, synced; an old one is removed.

    For a file nobody else looks at yet; the caller renames it and holds the
    lock that makes the name its own. On failure nothing stays.
    """
    fd = _create(path)
    try:
        try:
            write_all(fd, content)
            call(os.fsync, fd)
        finally:
            close(fd)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error says more
            remove(path)
        raise


def overwrite_private(path: str, content: bytes) -> None:
    """Write ``content`` into the existing private file ``path``, in the room it has, synced."""
    fd = open_private(path, _FOR_WRITING)
    try:
        check(fd, path)
        write_all(fd, content)
        call(os.ftruncate, fd, len(content))
        call(os.fsync, fd)
    finally:
        close(fd)


def reserve_private(path: str, content: bytes, size: int) -> None:
    """Create the private file ``path`` with ``content`` and really allocate ``size`` bytes."""
    fd = _create(path)
    try:
        try:
            _allocate(fd, size)
            call(os.lseek, fd, 0, os.SEEK_SET)
            write_all(fd, content)
            # A network file system may tell only now that there is no room.
            call(os.fsync, fd)
        finally:
            close(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            remove(path)
        raise


def _create(path: str) -> int:
    flags = _FOR_WRITING | os.O_CREAT | os.O_EXCL
    try:
        return open_private(path, flags)
    except FileExistsError:  # a dead process left it, or somebody planted it
        remove(path)
        return open_private(path, flags)


def open_private(path: str, flags: int = _FOR_WRITING | os.O_CREAT) -> int:
    """Open ``path`` without following a link and return the descriptor; a new file gets 0600."""
    try:
        fd = patient(os.open, path, flags, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) and os.path.islink(path):
            raise StoreError(
                f"{path} is a symbolic link, which is not followed: give the path it leads to"
            ) from None
        raise
    if flags & os.O_CREAT and not WINDOWS:
        try:
            # The umask may have taken bits from the owner; an old file may have more than ours.
            if stat.S_IMODE(call(os.fstat, fd).st_mode) != 0o600:
                call(os.fchmod, fd, 0o600)
        except BaseException:
            close(fd)
            raise
    return fd


def check(fd: int, path: str) -> os.stat_result:
    """Refuse the open file unless it is a regular file of this user's; mend its mode."""
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
            "%s could be opened by others (mode %o): tightened to 600",
            path,
            stat.S_IMODE(status.st_mode),
        )
        with contextlib.suppress(OSError):  # a file system without modes; content is encrypted
            call(os.fchmod, fd, 0o600)
    return status


def write_all(fd: int, content: bytes) -> None:
    """Write all of ``content`` at the descriptor's position."""
    left = memoryview(content)
    while left:
        left = left[call(os.write, fd, left) :]


def close(fd: int) -> None:
    """Close ``fd``; an error of close says nothing about data that was synced before."""
    with contextlib.suppress(OSError):
        call(os.close, fd)


def remove(path: str) -> None:
    """Remove ``path`` if it is there."""
    with contextlib.suppress(FileNotFoundError):
        patient(os.unlink, path)


def rename(source: str, target: str) -> None:
    """Put ``source`` in the place of ``target`` and make that durable."""
    patient(os.replace, source, target)
    sync_directory(os.path.dirname(target))


def sync_directory(path: str) -> None:
    """Make the renames in directory ``path`` durable. Windows has nothing of the kind."""
    if WINDOWS:
        return
    fd = call(os.open, path, os.O_RDONLY)
    try:
        call(os.fsync, fd)
    finally:
        close(fd)


def make_directories(path: str) -> None:
    """Make directory ``path`` and its missing parents, each 0700 whatever the umask.

    A directory that exists is left as it is: only what we made is ours to mend.
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
    """Return what changes when ``path`` is replaced, as a hint; ``None`` where there is none."""
    try:
        status = call(os.stat, path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def patient(function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Make a system call that Windows refuses while somebody else has the file open.

    Tries again for 2 s at most; anywhere else the first answer counts.
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
