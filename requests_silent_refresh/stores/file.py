"""``EncryptedFileStore``: a session in one encrypted file, for any number of processes."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from typing import Any

from ..errors import StoreError, StoreUnavailable
from ..keys import KeyLike, as_source
from ..redaction import strip
from ..system import private_files
from ..system.forking import reset_in_child
from ..system.kernel_lock import KernelLock, pause
from . import network_file_systems
from .contract import Hold, LockLost, State, TokenStore, must_write
from .reservation import Reservation, recover
from .state_file import StateFile

# While it waits for the lock, a waiter reads the state again at least this often:
# a network file system may serve an old `stat` for longer.
_LOOK_AT_LEAST_EVERY = 1.0  # seconds

_OWN_ENDINGS = re.compile(r".*\.(lock|new|next\.\d+|quarantine\.\d+)")


class EncryptedFileStore(TokenStore):
    """Keeps the session in the file ``path``, encrypted. Thread-safe and process-safe.

    ``path``
        A file's path; ``~`` is expanded. Its missing directories are made
        (0700) with the first save. Beside it lie ``NAME.lock`` and
        ``NAME.write.lock``, which stay for ever, during a refresh
        ``NAME.next.<generation>``, and during a save ``NAME.new``.
    ``key``
        See :mod:`requests_silent_refresh.keys`. ``None`` is the user's default
        key file, which protects tokens that leave the machine without their
        key, not from anyone who can run code as you.

    Raises ``ValueError`` or ``TypeError`` at construction for a key that is
    none or a path that cannot be meant, and warns where the path lies on a
    network file system. Touches no file until it is used.

    How it holds what the contract promises:

    - *A reader sees a whole state* and takes no lock: NAME is only ever renamed
      over. What has not been read cannot be overwritten, because every save
      reads first.
    - *Two savers*: each compares and renames under the write lock, so one of
      them is told :class:`StateMoved`.
    - *Killed during a save*: before the rename the old state is there, after it
      the new one. A result that was already whole in ``NAME.next`` is put in
      place by the next holder of the exclusive lock. ``NAME.new`` belongs to the
      holder of the write lock, who removes what an earlier one left.
    - *Killed during an exchange*: ``NAME.next`` tells the next holder
      (``Hold.interrupted_at``). It is kept until the state has moved on, over any
      number of holders who got no further.
    - *Power lost*: file and directory are synced before ``replace`` returns.
      Other processes may see a state some milliseconds before its directory
      is synced.
    - *fork*: a child has neither the locks nor the reservation of its parent.
    """

    def __init__(self, path: str | os.PathLike[str], key: KeyLike | None = None) -> None:
        text = os.fspath(path)
        if not isinstance(text, str) or not text or "\0" in text:
            raise ValueError("path is the path of a file, a str or a pathlib.Path")
        self.path = os.path.abspath(os.path.expanduser(text))
        directory, name = os.path.split(self.path)
        if not name or text.endswith(("/", os.sep)) or _OWN_ENDINGS.fullmatch(name):
            raise ValueError(f"path names a file, and not as the files beside it end: {text!r}")
        source = as_source(key)
        self._source = None if key is None else source
        if key is None and os.path.dirname(getattr(source, "path", "")) == directory:
            raise ValueError(
                f"{self.path} lies beside the default key file, so one copy would take both: "
                "give another path"
            )
        self._file = StateFile(self.path, source)
        self._reservation: Reservation | None = None
        reset_in_child(self)
        network_file_systems.warn_of(self.path)

    def after_fork_in_child(self) -> None:
        """Leave the room that was reserved to the parent."""
        self._reservation = None

    def load(self) -> State | None:
        with self._reporting("read"):
            return self._file.state()

    def replace(self, new: State, after: State | None) -> None:
        with self._reporting("save"):
            if private_files.signature(self._file.lock_path) is None:
                self._file.read()  # somebody else's file: no lock is made beside it
            with self._file.writing():
                self._compare_and_replace(new, after)

    def exclusive(self, timeout: float, after: State | None = None) -> Hold | None:
        with self._reporting("lock"):
            self._file.read()  # as in replace
            lock = KernelLock(self.path + ".lock")
            try:
                if self._wait_for(lock, timeout, after):
                    interrupted_at = recover(self._file)
                    if after is None or after.is_same(self._file.state()):
                        lock.sign()
                        return _FileHold(self, lock, interrupted_at)
            except BaseException:
                lock.release()
                raise
            lock.release()
            return None

    def close(self) -> None:
        self._file.forget()

    def rotate_key(self) -> str | None:
        """Encrypt what is stored with the first key, and return that key's identifier.

        The last step of a rotation, for each store that uses the key: give the
        new key in front of the old one (``KeyFile.add_key()`` does), call this,
        take the old one away. The session goes on undisturbed. Waits for
        no exchange. ``None`` with nothing stored. Raises as :meth:`replace` does.
        """
        with self._reporting("save"), self._file.writing():
            state = self._file.state()
            if state is None:
                return None
            envelope = self._file.seal(state, None)
            self._file.put(state, envelope)
            return envelope.key_id

    def reset(self) -> str | None:
        """Move what is stored aside for a new start, and return where it went.

        For a file whose key is lost or that is corrupt; nothing else ever gives
        it up. The path returned ends in ``.quarantine.<time>``; ``None`` where
        nothing was stored. The session that may be in it is not revoked.
        """
        with self._reporting("move aside"), self._file.writing():
            return self._file.set_aside()

    def __repr__(self) -> str:
        return f"EncryptedFileStore({self.path!r})"

    def __reduce__(self) -> Any:
        return type(self), (self.path, self._source)

    def _compare_and_replace(self, new: State, after: State | None) -> None:
        """Do it; the write lock is held."""
        stored = self._file.read()
        if must_write(new, after, None if stored is None else stored.state):
            kdf = None if stored is None else stored.envelope.kdf
            envelope = self._file.seal(new, kdf)
            reservation = self._reservation
            room = None if reservation is None else reservation.room_for(new)
            self._file.put(new, envelope, room)
        else:
            # An earlier try came as far as the rename.
            private_files.sync_directory(self._file.directory)

    def _wait_for(self, lock: KernelLock, timeout: float, after: State | None) -> bool:
        """Take ``lock``; False as soon as the stored state is another one than ``after``."""
        deadline = time.monotonic() + timeout
        seen = None
        next_look = 0.0
        while True:
            now = time.monotonic()
            if after is not None:
                # The hint is taken before the state is read, so that a change in between shows.
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

    def _reserve(self, state: State, interrupted_at: float | None) -> Reservation:
        self._reservation = Reservation(self.path, state, interrupted_at)
        return self._reservation

    def _give_up(self, reservation: Reservation, interrupted_at: float | None) -> None:
        if self._reservation is reservation:
            self._reservation = None
        with contextlib.suppress(OSError):
            reservation.discard(interrupted_at)

    @contextlib.contextmanager
    def _reporting(self, doing: str) -> Iterator[None]:
        """Turn what the operating system says into the contract's error, naming the file."""
        try:
            yield
        except StoreError as error:
            if self.path not in str(error):
                error.args = (f"{self.path}: {error}", *error.args[1:])
            raise
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StoreUnavailable(
                f"cannot {doing} {error.filename or self.path}: {reason}. What is stored is "
                "whole; mend that and try again"
            ) from strip(error)


class _FileHold(Hold):
    """The exclusive lock of an ``EncryptedFileStore``."""

    def __init__(
        self, store: EncryptedFileStore, lock: KernelLock, interrupted_at: float | None
    ) -> None:
        self.interrupted_at = interrupted_at
        self._store = store
        self._lock = lock
        self._reservation: Reservation | None = None
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Leave the file to the parent, whose refresh it marks."""
        self._reservation = None

    def begin(self, state: State, exchange_timeout: float = 30.0) -> None:
        with self._store._reporting("reserve room beside"):
            if not self._lock.is_in_place():
                raise LockLost(
                    f"{self._lock.path} was removed while it was locked: leave it where it is"
                )
            self._reservation = self._store._reserve(state, self.interrupted_at)

    def unanswered(self) -> None:
        self.interrupted_at = self.interrupted_at or time.time()

    def release(self) -> None:
        reservation, self._reservation = self._reservation, None
        if reservation is not None:
            self._store._give_up(reservation, self.interrupted_at)
        self._lock.release()
