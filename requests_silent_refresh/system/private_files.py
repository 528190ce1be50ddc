"""Private files, which are replaced atomically: file system access for stores and key files.

Every system call goes through :func:`call`, so that tests can make each one fail, kill the
process there, and run the Windows code paths anywhere. The functions raise the ``OSError`` of
the call, or a ``StoreError`` if a file is a link, is not a regular file, belongs to another
user, or is too large.

A private file has mode 0600 whatever the umask. It is never modified in place: new content is
written to another file, synced, and renamed over it, so that readers (which take no lock) and
crashes see the whole old or the whole new content.

``mode`` is :data:`PRIVATE` or, for users that share a volume, :data:`SHARED`: then files may
also belong to another user, if their group is one of this user's.
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

PRIVATE = 0o600
SHARED = 0o660

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

# What file systems say that cannot sync a directory, or keep no modes.
_UNSUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
_NO_MODES = (errno.EPERM, errno.EROFS, *_UNSUPPORTED)

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Target = TypeVar("_Target", int, str)

_logger = logging.getLogger("requests_silent_refresh")


def call(function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Make one system call; tests replace this function to inject faults."""
    return function(*args, **kwargs)


def read_private(path: str, mode: int = PRIVATE) -> bytes | None:
    """Return the content of the private file ``path``; ``None`` if it does not exist.

    Does not wait for any lock. A mode wider than ``mode`` is corrected and logged. Raises
    ``StoreError`` for a file that breaks one of the rules above, and ``StoreCorrupted`` for one
    that is too large.
    """
    try:
        fd = open_private(path, _FOR_READING, mode)
    except FileNotFoundError:
        return None
    try:
        size = check(fd, path, mode).st_size
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


def write_private(path: str, content: bytes, mode: int = PRIVATE) -> None:
    """Create the private file ``path`` with ``content``, synced; an old one is removed.

    For a temporary name that no other process reads; the caller must hold the lock that
    reserves the name, and renames the file. If writing fails, the file is removed.
    """
    with _new_file(path, mode) as fd:
        write_all(fd, content)


def overwrite_private(path: str, content: bytes, mode: int = PRIVATE) -> None:
    """Write ``content``, synced, into the existing private file ``path``, whose space it reuses."""
    fd = open_private(path, _FOR_WRITING, mode)
    try:
        check(fd, path, mode)
        write_all(fd, content)
        call(os.ftruncate, fd, len(content))
        _sync(fd)
    finally:
        close(fd)


def reserve_private(path: str, content: bytes, size: int, mode: int = PRIVATE) -> None:
    """Like :func:`write_private`, with ``size`` bytes of disk space allocated for the file."""
    with _new_file(path, mode) as fd:
        _allocate(fd, size)
        call(os.lseek, fd, 0, os.SEEK_SET)
        write_all(fd, content)


@contextlib.contextmanager
def _new_file(path: str, mode: int) -> Iterator[int]:
    """Create a private file for the block to write; sync it at the end, remove it on failure."""
    flags = _FOR_WRITING | os.O_CREAT | os.O_EXCL
    try:
        fd = open_private(path, flags, mode)
    except FileExistsError:  # left by a process that died, or created by an attacker
        remove(path)
        fd = open_private(path, flags, mode)
    try:
        try:
            yield fd
            _sync(fd)  # a network file system may report a full disk only here
        finally:
            close(fd)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error says more
            remove(path)
        raise


def open_private(path: str, flags: int = _FOR_WRITING | os.O_CREAT, mode: int = PRIVATE) -> int:
    """Open ``path`` without following a link and return the descriptor; a new file gets ``mode``.

    Where the file system keeps no modes, or another user owns the file, its mode stays as it is.
    """
    try:
        fd = patient(os.open, path, flags, mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) and os.path.islink(path):
            raise StoreError(
                f"{path} is a symbolic link, which is not followed: give the path it points to"
            ) from None
        raise
    if flags & os.O_CREAT and not WINDOWS:
        try:
            # The umask may have removed bits; an existing file may have a wider mode.
            if stat.S_IMODE(call(os.fstat, fd).st_mode) != mode:
                _change_mode(os.fchmod, fd, mode)
        except BaseException:
            close(fd)
            raise
    return fd


def check(fd: int, path: str, mode: int = PRIVATE) -> os.stat_result:
    """Return the open file's status, after correcting its mode.

    Raises ``StoreError`` unless it is a regular file that belongs to this user, or with
    ``SHARED`` to one of this user's groups.
    """
    status = call(os.fstat, fd)
    if not stat.S_ISREG(status.st_mode):
        raise StoreError(f"{path} is not a regular file: give another path")
    if WINDOWS:
        return status
    is_ours = status.st_uid == os.geteuid()
    if not is_ours and not (mode == SHARED and status.st_gid in (os.getegid(), *os.getgroups())):
        raise StoreError(
            f"{path} belongs to user id {status.st_uid} and this process runs as {os.geteuid()}: "
            "run it as that user, or give another path. If users of one group share the volume, "
            "open the store with shared_with_group=True"
        )
    found = stat.S_IMODE(status.st_mode)
    if found & 0o077 & ~mode:
        if is_ours and _change_mode(os.fchmod, fd, mode):
            _logger.warning(
                "%s could be opened by others (mode %o): its mode was changed to %o",
                path,
                found,
                mode,
            )
        elif path not in _left_open:
            _left_open.add(path)
            _logger.warning(
                "%s can be opened by others (mode %o), and its mode cannot be changed: use a "
                "file system that keeps modes, or have its owner change it",
                path,
                found,
            )
    return status


# The files whose mode could not be corrected, which is said once. One key each: no race matters.
_left_open: set[str] = set()


_looking_only = False


@contextlib.contextmanager
def looking_only() -> Iterator[None]:
    """Leave modes as they are while the body runs, for a program that only examines files.

    Not thread-safe.
    """
    global _looking_only  # noqa: PLW0603 (one examination at a time)
    _looking_only = True
    try:
        yield
    finally:
        _looking_only = False


def _change_mode(change: Callable[[_Target, int], None], target: _Target, mode: int) -> bool:
    """Change a mode, and return whether the file system took it."""
    if _looking_only:
        return False
    try:
        call(change, target, mode)
    except OSError as error:
        if error.errno not in _NO_MODES:
            raise
        return False
    return True


def _sync(fd: int) -> None:
    """Sync a file or directory, unless its file system has no such call."""
    try:
        call(os.fsync, fd)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


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
        _sync(fd)
    finally:
        close(fd)


def make_directories(path: str, mode: int = PRIVATE) -> None:
    """Create directory ``path`` and its missing parents, each 0700 whatever the umask.

    With ``SHARED`` each gets 2770, so that new files belong to its group. An existing directory
    is not changed.
    """
    parent = os.path.dirname(path)
    if parent != path and not os.path.isdir(parent):
        make_directories(parent, mode)
    wanted = 0o2770 if mode == SHARED else 0o700
    try:
        call(os.mkdir, path, wanted)
    except FileExistsError:
        return
    if not WINDOWS and stat.S_IMODE(call(os.stat, path).st_mode) != wanted:
        _change_mode(os.chmod, path, wanted)


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
