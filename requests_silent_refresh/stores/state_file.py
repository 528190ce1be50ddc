"""NAME, the file that holds the state: read without a lock, replaced under the write lock."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import StoreError
from ..keys import KDFParameters, Keys, KeySource
from ..system import private_files
from ..system.kernel_lock import KernelLock
from .contract import State
from .envelope import Envelope, seal, unseal

# The write lock is held for two syncs of a few KiB; longer is a disk that hangs.
_PATIENCE = 10.0  # seconds


class Stored(NamedTuple):
    """What was read: the state and the envelope it came in."""

    state: State
    envelope: Envelope


class StateFile:
    """Reads and replaces the file at ``path``. Thread-safe.

    ``place`` is what a state is bound to, so that two files cannot be swapped:
    the file's name and its directory's. It is little enough to let a home
    directory move.
    """

    def __init__(self, path: str, source: KeySource) -> None:
        self.path = path
        self.lock_path = path + ".write.lock"
        self.directory, name = os.path.split(path)
        self.place = f"{os.path.basename(os.path.realpath(self.directory))}/{name}"
        self._keys = Keys(source)
        # The same bytes are the same state, read or written: who only looks whether it
        # moved need not decrypt.
        self._last_read: tuple[bytes, Stored] | None = None

    def read(self) -> Stored | None:
        """Return what is stored, whole; ``None`` where nothing ever was."""
        content = private_files.read_private(self.path)
        if content is None:
            return None
        last = self._last_read
        if last is not None and last[0] == content:
            return last[1]
        stored = self.open(content)
        self._last_read = (content, stored)
        return stored

    def state(self) -> State | None:
        """Return the stored state alone."""
        stored = self.read()
        return None if stored is None else stored.state

    def open(self, content: bytes) -> Stored:
        """Decrypt ``content`` as if it were in the file."""
        envelope = Envelope.from_bytes(content)
        return Stored(unseal(envelope, self._keys, self.place), envelope)

    def forget(self) -> None:
        """Drop what was read last."""
        self._last_read = None

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the write lock, for a compare and a replace. Waits 10 s at most."""
        lock = KernelLock(self.lock_path)
        lock.acquire(_PATIENCE)
        try:
            yield
        finally:
            lock.release()

    def seal(self, new: State, kdf: KDFParameters | None) -> Envelope:
        """Encrypt ``new``.

        ``kdf`` is what the state to be replaced was stored with; ``None`` lets a
        passphrase take a new salt. What is there was read before, under the
        write lock: so a key that is missing is never made anew over a state that
        it encrypted, and nothing unreadable is overwritten.
        """
        cipher = self._keys.encrypting(kdf)
        return seal(new, cipher, self.place)

    def put(self, new: State, envelope: Envelope, room: str | None = None) -> None:
        """Replace the file's content by ``new`` in its ``envelope``; the write lock is held.

        ``room`` is a file beside it to be used up for that; ``None`` makes one.
        """
        content = envelope.to_bytes()
        if len(content) > private_files.SIZE_LIMIT:
            raise StoreError(f"a token of {len(content)} bytes is too large to be stored")
        self.forget()
        if room is None:
            room = self.path + ".new"
            private_files.write_private(room, content)
        else:
            private_files.overwrite_private(room, content)
        private_files.rename(room, self.path)
        self._last_read = (content, Stored(new, envelope))

    def set_aside(self) -> str | None:
        """Rename the file out of the way and return its new name; the write lock is held."""
        self.forget()
        aside = f"{self.path}.quarantine.{time.time_ns()}"
        try:
            private_files.rename(self.path, aside)
        except FileNotFoundError:
            return None
        return aside
