"""``EncryptedFileStore``: a session in one encrypted file, for any number of processes."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from .. import files
from ..errors import StoreCorrupted, StoreError, StoreUnavailable, WrongKey
from ..forking import reset_in_child
from ..keys import KDFParameters, Keys, as_source
from ..locks import KernelLock, pause
from ..redaction import strip
from . import network
from .contract import Hold, State, StateMoved, TokenStore, must_write
from .envelope import Envelope, seal, unseal
from .reservation import Leftover, Reservation, leftovers

# The write lock is held for two syncs of a few KiB; longer is a disk that hangs.
_WRITE_LOCK_PATIENCE = 10.0  # seconds

# While it waits for the lock, a waiter reads the state again at least this often:
# a network file system may serve an old `stat` for longer.
_LOOK_AT_LEAST_EVERY = 1.0  # seconds

_RESERVED_NAME = re.compile(r".*(\.lock|\.write\.lock|\.new|\.next\.\d+|\.quarantine\.\d+)")


class _Stored(NamedTuple):
    state: State
    envelope: Envelope


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

    def __init__(self, path: str | os.PathLike[str], key: Any = None) -> None:
        text = os.fspath(path)
        if not isinstance(text, str) or not text or "\0" in text:
            raise ValueError("path is the path of a file, a str or a pathlib.Path")
        self.path = os.path.abspath(os.path.expanduser(text))
        self._directory, name = os.path.split(self.path)
        if not name or text.endswith(("/", os.sep)) or _RESERVED_NAME.fullmatch(name):
            raise ValueError(
                f"path names a file, and not one that ends as this store's own do: {text!r}"
            )
        # What a state is bound to: enough to notice a swap, little enough to move house.
        self._place = f"{os.path.basename(os.path.realpath(self._directory))}/{name}"
        source = as_source(key)
        self._source = None if key is None else source
        beside = getattr(source, "path", None)
        if key is None and beside is not None and os.path.dirname(beside) == self._directory:
            raise ValueError(
                f"{self.path} lies beside the default key file, so one copy would take both: "
                "give another path"
            )
        self._keys = Keys(source)
        self._reservation: Reservation | None = None
        # The same bytes are the same state: who only looks whether it moved need not decrypt.
        self._last_read: tuple[bytes, _Stored] | None = None
        self._write_lock_path = self.path + ".write.lock"
        reset_in_child(self)
        network.warn_once(self.path)

    def after_fork_in_child(self) -> None:
        self._reservation = None

    def load(self) -> State | None:
        with self._reporting("read"):
            stored = self._read()
        return None if stored is None else stored.state

    def replace(self, new: State, after: State | None) -> None:
        with self._reporting("save"), self._writing():
            stored = self._read()
            if must_write(new, after, None if stored is None else stored.state):
                self._write(new, None if stored is None else stored.envelope.kdf)
            else:
                # An earlier try came as far as the rename.
                files.sync_directory(self._directory)

    def exclusive(self, timeout: float, after: State | None = None) -> Hold | None:
        with self._reporting("lock"):
            lock = KernelLock(self.path + ".lock")
            try:
                if not self._wait_for(lock, timeout, after):
                    lock.release()
                    return None
                stored = self._read()
                interrupted_at, moved = self._recover(None if stored is None else stored.state)
                if moved:
                    stored = self._read()
                if after is not None and not after.is_same(
                    None if stored is None else stored.state
                ):
                    lock.release()
                    return None
                lock.sign()
            except BaseException:
                lock.release()
                raise
            return _FileHold(self, lock, interrupted_at)

    def close(self) -> None:
        self._last_read = None

    def rotate_key(self) -> str:
        """Encrypt what is stored with the first key, and return that key's identifier.

        The last step of a rotation, for each store that uses the key: give the
        new key in front of the old one (``KeyFile.add_key()`` does), call this,
        take the old one away. The session goes on undisturbed. Waits for
        no exchange. With nothing stored it only names the key. Raises as
        :meth:`replace` does.
        """
        with self._reporting("save"), self._writing():
            stored = self._read()
            if stored is None:
                return self._keys.encrypting(None).key_id
            return self._write(stored.state, None)  # a passphrase gets a new salt as well

    def reset(self) -> str | None:
        """Move what is stored aside for a new start, and return where it went.

        For a file whose key is lost or that is corrupt; nothing else ever gives
        it up. The path returned ends in ``.quarantine.<time>``; ``None`` where
        nothing was stored. The session that may be in it is not revoked.
        """
        aside = f"{self.path}.quarantine.{time.time_ns()}"
        with self._reporting("move aside"), self._writing():
            try:
                files.rename(self.path, aside)
            except FileNotFoundError:
                return None
        return aside

    def __repr__(self) -> str:
        return f"EncryptedFileStore({self.path!r})"

    def __reduce__(self) -> Any:
        return type(self), (self.path, self._source)

    def _read(self) -> _Stored | None:
        content = files.read_private(self.path)
        if content is None:
            return None
        last = self._last_read
        if last is not None and last[0] == content:
            return last[1]
        envelope = Envelope.from_bytes(content)
        stored = _Stored(unseal(envelope, self._keys, self._place), envelope)
        self._last_read = (content, stored)
        return stored

    def _write(self, new: State, kdf: KDFParameters | None) -> str:
        """Seal and store ``new``; the write lock is held and what is there was read under it."""
        self._last_read = None  # the next reader shows that it can read what we write
        cipher = self._keys.encrypting(kdf)
        content = seal(new, cipher, self._place).to_bytes()
        if len(content) > files.SIZE_LIMIT:
            raise StoreError(f"a token of {len(content)} bytes is too large to be stored")
        reservation = self._reservation
        if reservation is not None and reservation.take(new):
            source = reservation.path
            files.overwrite_private(source, content)
        else:
            source = self.path + ".new"
            files.write_private(source, content)
        files.rename(source, self.path)
        return cipher.key_id

    def _wait_for(self, lock: KernelLock, timeout: float, after: State | None) -> bool:
        """Take ``lock``; False as soon as the stored state is another one than ``after``."""
        deadline = time.monotonic() + timeout
        seen = None
        next_look = 0.0
        while True:
            now = time.monotonic()
            if after is not None:
                # The hint is taken before the state is read, so that a change in between shows.
                hint = files.signature(self.path)
                if hint != seen or now >= next_look:
                    stored = self._read()
                    if not after.is_same(None if stored is None else stored.state):
                        return False
                    seen, next_look = hint, now + _LOOK_AT_LEAST_EVERY
            if lock.try_acquire():
                return True
            if now >= deadline:
                raise lock.unavailable(timeout)
            pause(deadline - now)

    def _recover(self, stored: State | None) -> tuple[float | None, bool]:
        """Finish or remove what dead holders left; the exclusive lock is held.

        Returns when a refresh of ``stored`` was cut off (or ``None``), and
        whether a finished one was put in place instead.
        """
        interrupted_at = None
        for leftover in leftovers(self.path):
            if stored is not None and leftover.generation == stored.generation + 1:
                content = leftover.content()
                if self._put_in_place(leftover, content, stored):
                    return None, True
                interrupted_at = leftover.interrupted_at(content, stored)
                if interrupted_at is not None:
                    continue
            files.remove(leftover.path)
        return interrupted_at, False

    def _put_in_place(self, leftover: Leftover, content: bytes, stored: State) -> bool:
        try:
            state = unseal(Envelope.from_bytes(content), self._keys, self._place)
        except (StoreCorrupted, WrongKey):
            return False
        if (state.lineage, state.generation) != (stored.lineage, leftover.generation):
            return False
        with self._writing():
            present = self._read()
            if present is None or not stored.is_same(present.state):
                return False
            files.overwrite_private(leftover.path, content)
            files.rename(leftover.path, self.path)
        return True

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        lock = KernelLock(self._write_lock_path)
        lock.acquire(_WRITE_LOCK_PATIENCE)
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _reporting(self, doing: str) -> Iterator[None]:
        """Turn what the operating system says into the contract's error, naming the file."""
        try:
            yield
        except (StateMoved, StoreUnavailable):
            raise
        except StoreError as error:
            if self.path not in str(error):
                error.args = (f"{self.path}: {error}", *error.args[1:])
            raise
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StoreUnavailable(
                f"cannot {doing} {error.filename or self.path}: {reason}. The stored tokens are as "
                "they were; make it possible and try again"
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
        self._reservation = None  # the file is the parent's

    def begin(self, state: State) -> None:
        with self._store._reporting("reserve room for"):
            if not self._lock.is_in_place():
                raise StoreUnavailable(
                    f"the lock file {self._lock.path} was removed while it was held: "
                    "leave it where it is"
                )
            self._reservation = Reservation(self._store.path, state, self.interrupted_at)
            self._store._reservation = self._reservation

    def release(self) -> None:
        reservation, self._reservation = self._reservation, None
        if reservation is not None:
            if self._store._reservation is reservation:
                self._store._reservation = None
            with contextlib.suppress(OSError):
                reservation.discard(self.interrupted_at)
        self._lock.release()
