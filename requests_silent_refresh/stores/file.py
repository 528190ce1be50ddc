"""``EncryptedFileStore``: a session in an encrypted file, for any number of processes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import time
from collections.abc import Iterator
from typing import Any

from .. import arguments
from ..errors import StoreError, StoreUnavailable
from ..keys import KeyLike, as_source
from ..redaction import strip
from ..system import directories, private_files
from ..system.forking import reset_in_child
from ..system.kernel_lock import KernelLock, pause
from ..system.paths import user_directory
from ..system.warnings_once import warn_once
from . import network_file_systems
from .contract import Hold, LockLost, State, TokenStore, must_write
from .reservation import Reservation, recover
from .state_file import StateFile

# While waiting for the lock, read the state at least this often: a network file
# system may return an outdated `stat` for longer.
_LOOK_AT_LEAST_EVERY = 1.0  # seconds

_OWN_ENDINGS = re.compile(r".*\.(lock|new|next\.\d+|quarantine\.\d+)")


class EncryptedFileStore(TokenStore):
    """Keeps the session in the encrypted file ``path``. Thread-safe and process-safe.

    >>> store = EncryptedFileStore("~/.local/state/nightly-report/tokens")

    ``path``
        The path of a file; ``~`` is expanded. The first save creates missing directories (0700).
        ``NAME.lock`` and ``NAME.write.lock`` are created beside the file and never removed.
        ``NAME.next.<generation>`` exists during a refresh, and ``NAME.new`` during a save.
    ``key``
        See :mod:`requests_silent_refresh.keys`. ``None`` uses the user's default key file, which
        protects tokens that leave the machine without their key, not from anyone who can run
        code as you.
    ``shared_with_group``
        Whether users of one group share the file, as containers with changing user ids share a
        volume: files get mode 0660 (directories 2770), and may belong to another user of the
        group. They need a common ``key`` too.

    Raises ``ValueError`` or ``TypeError`` at construction if an argument is invalid, and warns if
    the path is on a network file system or in a directory where other users can replace files.
    No file is touched until the store is used.

    How it keeps the contract:

    - *Readers* see a complete state without a lock, because NAME is only replaced by renaming.
      Each save reads NAME first, so an unreadable state is not overwritten.
    - *Two savers* compare and rename with the write lock held, so one of them gets
      :class:`StateMoved`.
    - *Killed during a save*: the file holds the old state before the rename, and the new state
      after it. If ``NAME.next`` holds a complete result, the next holder of the exclusive lock
      puts it in place. ``NAME.new`` belongs to the holder of the write lock, who replaces what
      an earlier one left.
    - *Killed during an exchange*: ``NAME.next`` tells the next holder (``Hold.interrupted_at``).
      It is kept until the state has changed, also if further holders fail.
    - *Power loss*: file and directory are synced before ``replace`` returns. Other processes may
      see a state some milliseconds before its directory is synced.
    - *A replaced lock*: if the lock file or the directory is replaced during an exchange, a
      second lock in the user's data directory still excludes this user's other processes.
    - *fork*: a child has neither the locks nor the reservation of its parent.
    """

    look_interval = 1.0

    def __init__(
        self,
        path: str | os.PathLike[str],
        key: KeyLike | None = None,
        *,
        shared_with_group: bool = False,
    ) -> None:
        self.path = arguments.path("path", path)
        directory, name = os.path.split(self.path)
        if not name or os.fspath(path).endswith(("/", os.sep)) or _OWN_ENDINGS.fullmatch(name):
            raise ValueError(
                f"path must name a file, without an ending that this store uses: {path!r}"
            )
        source = as_source(key)
        self._source = None if key is None else source
        if key is None and os.path.dirname(getattr(source, "path", "")) == directory:
            raise ValueError(
                f"{self.path} is beside the default key file, so a copy of the directory would "
                "contain both: use another path"
            )
        arguments.flags(shared_with_group=shared_with_group)
        self._mode = private_files.SHARED if shared_with_group else private_files.PRIVATE
        self._file = StateFile(self.path, source, self._mode)
        self._reservation: Reservation | None = None
        reset_in_child(self)
        network_file_systems.warn_of(self.path)
        danger = directories.weakness(directory, self._mode)
        if danger is not None:
            warn_once(
                f"{self.path} can be replaced by others, for example with an older copy: {danger}. "
                "Use a directory of your own",
                stacklevel=2,
            )

    def after_fork_in_child(self) -> None:
        """Leave the reservation to the parent."""
        self._reservation = None

    def load(self) -> State | None:
        with self._reporting("read"):
            return self._file.state()

    def replace(self, new: State, after: State | None) -> None:
        with self._reporting("save"):
            if private_files.signature(self._file.lock_path) is None:
                self._file.read()  # raises for another user's file before a lock file is made
            with self._file.writing():
                self._compare_and_replace(new, after)

    def exclusive(self, timeout: float, after: State | None = None) -> Hold | None:
        with self._reporting("lock"):
            self._file.read()  # as in replace
            deadline = time.monotonic() + timeout
            locks = [KernelLock(self.path + ".lock", self._mode), *_second_lock(self.path)]
            try:
                if all(self._wait_for(lock, deadline, timeout, after) for lock in locks):
                    interrupted_at = recover(self._file)
                    if after is None or after.is_same(self._file.state()):
                        for lock in locks:
                            lock.sign()
                        return _FileHold(self, locks, interrupted_at)
            except BaseException:
                _release(locks)
                raise
            _release(locks)
            return None

    def close(self) -> None:
        self._file.forget()

    def rotate_key(self) -> str | None:
        """Encrypt the stored state with the first key, and return that key's identifier.

        To rotate a key, add the new key before the old one (``KeyFile.add_key()``),
        call this method on each store that uses the key, and remove the old key. The
        session is not affected. Does not wait for an exchange. Returns ``None`` if
        nothing is stored. Raises the same exceptions as :meth:`replace`.
        """
        with self._reporting("save"), self._file.writing():
            state = self._file.state()
            if state is None:
                return None
            envelope = self._file.seal(state, None)
            self._file.put(state, envelope)
            return envelope.key_id

    def reset(self) -> str | None:
        """Rename the file so that a new sign-in is possible, and return its new path.

        Use this if the key is lost or the file is corrupt; no other method abandons
        such a file. The path returned ends in ``.quarantine.<time>``. Returns
        ``None`` if nothing was stored. A session in the file is not revoked.
        """
        with self._reporting("move aside"), self._file.writing():
            return self._file.set_aside()

    def __repr__(self) -> str:
        return f"EncryptedFileStore({self.path!r})"

    def __reduce__(self) -> Any:
        is_shared = self._mode == private_files.SHARED
        opened = functools.partial(type(self), shared_with_group=is_shared)
        return opened, (self.path, self._source)

    def _compare_and_replace(self, new: State, after: State | None) -> None:
        """Carry out :meth:`replace`. Must be called with the write lock held."""
        stored = self._file.read()
        if must_write(new, after, None if stored is None else stored.state):
            kdf = None if stored is None else stored.envelope.kdf
            envelope = self._file.seal(new, kdf)
            reservation = self._reservation
            room = None if reservation is None else reservation.room_for(new)
            self._file.put(new, envelope, room)
        else:
            # An earlier attempt failed after the rename.
            private_files.sync_directory(self._file.directory)

    def _wait_for(
        self, lock: KernelLock, deadline: float, timeout: float, after: State | None
    ) -> bool:
        """Take ``lock``. Returns False as soon as the stored state is not ``after``."""
        seen = None
        next_look = 0.0
        while True:
            now = time.monotonic()
            if after is not None:
                # Taken before the state is read, so that a change in between is noticed.
                hint = private_files.signature(self.path)
                if hint != seen or now >= next_look:
                    if not after.is_same(self._file.state()):
                        return False
                    seen, next_look = hint, now + _LOOK_AT_LEAST_EVERY
            if lock.try_acquire():
                return True
            if now >= deadline:
                raise lock.unavailable(timeout)
            pause(deadline - now)

    @contextlib.contextmanager
    def _reporting(self, doing: str) -> Iterator[None]:
        """Turn ``OSError`` into ``StoreUnavailable``, and name the file in each error."""
        try:
            yield
        except StoreError as error:
            if self.path not in str(error):
                error.args = (f"{self.path}: {error}", *error.args[1:])
            raise
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StoreUnavailable(
                f"cannot {doing} {error.filename or self.path}: {reason}. The stored state is "
                "intact; fix the cause and try again"
            ) from strip(error)


def _second_lock(path: str) -> Iterator[KernelLock]:
    """Yield a second lock for the file ``path``, in another directory. It is taken after the first.

    It keeps a second exchange off if the lock beside the file, or the whole directory, is replaced
    during an exchange. Best effort: there is none without a home that can be written.
    """
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32] + ".lock"
    try:
        lock = KernelLock(os.path.join(user_directory("data"), "locks", name))
        lock.open()
    except OSError:  # includes StoreError, for a home that is not known
        return
    yield lock


def _release(locks: list[KernelLock]) -> None:
    for lock in reversed(locks):
        lock.release()


class _FileHold(Hold):
    """The exclusive lock of an ``EncryptedFileStore``; ``locks[0]`` is beside the file."""

    def __init__(
        self, store: EncryptedFileStore, locks: list[KernelLock], interrupted_at: float | None
    ) -> None:
        self.interrupted_at = interrupted_at
        self._store = store
        self._locks = locks
        self._reservation: Reservation | None = None
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Leave the reservation to the parent."""
        self._reservation = None

    def begin(self, state: State, exchange_timeout: float = 30.0) -> None:
        with self._store._reporting("reserve room beside"):
            if not self._locks[0].is_in_place():
                raise LockLost(
                    f"{self._locks[0].path} was removed while it was locked: do not delete lock "
                    "files"
                )
            self._reservation = Reservation(self._store._file, state, self.interrupted_at)
            self._store._reservation = self._reservation

    def unanswered(self) -> None:
        self.interrupted_at = self.interrupted_at or time.time()

    def release(self) -> None:
        reservation, self._reservation = self._reservation, None
        if reservation is not None:
            if self._store._reservation is reservation:
                self._store._reservation = None
            with contextlib.suppress(OSError):
                reservation.discard(self.interrupted_at)
        _release(self._locks)
