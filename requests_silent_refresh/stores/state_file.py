"""NAME, the file with the state: read without a lock, replaced with the write lock held."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from ..keys import KDFParameters, Keys, KeySource
from ..system import private_files
from ..system.kernel_lock import KernelLock
from .contract import State
from .envelope import Envelope, seal, unseal

# The write lock is held for two syncs of a few KiB; if it takes longer, the disk hangs.
_PATIENCE = 10.0  # seconds


class Stored(NamedTuple):
    """A state and the envelope it was read from."""

    state: State
    envelope: Envelope


class StateFile:
    """Reads and replaces the file at ``path``. Thread-safe.

    A state is bound to the name of its file, so that two files of a directory cannot be
    swapped. The directory can be moved, or mounted under another name.
    """

    def __init__(self, path: str, source: KeySource, mode: int) -> None:
        self.path = path
        self.mode = mode
        self.lock_path = path + ".write.lock"
        self.directory, self.place = os.path.split(path)
        self._keys = Keys(source)
        # The same bytes are the same state, so an unchanged file is not decrypted again.
        self._last_read: tuple[bytes, Stored] | None = None

    def read(self) -> Stored | None:
        """Return what is stored; ``None`` if the file does not exist."""
        content = private_files.read_private(self.path, self.mode)
        if content is None:
            return None
        last = self._last_read
        if last is not None and last[0] == content:
            return last[1]
        stored = self.open(content)
        self._last_read = (content, stored)
        return stored

    def state(self) -> State | None:
        """Return the stored state without its envelope."""
        stored = self.read()
        return None if stored is None else stored.state

    def open(self, content: bytes) -> Stored:
        """Decrypt ``content`` as if it had been read from the file."""
        envelope = Envelope.from_bytes(content)
        # Earlier versions stored the name of the directory as well.
        return Stored(unseal(envelope, self._keys, self.place, any_folder=True), envelope)

    def forget(self) -> None:
        """Drop the cached state."""
        self._last_read = None

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the write lock, for a compare and a replace. Blocks for at most 10 s."""
        lock = KernelLock(self.lock_path, self.mode)
        lock.acquire(_PATIENCE)
        try:
            yield
        finally:
            lock.release()

    def seal(self, new: State, kdf: KDFParameters | None) -> Envelope:
        """Encrypt ``new``.

        ``kdf`` holds the parameters of the state to replace; ``None`` makes a
        passphrase use a new salt. Must be called after that state was read with the
        write lock held: then a missing key is never replaced while a state exists
        that it encrypted, and an unreadable state is never overwritten.
        """
        return seal(new, self._keys.encrypting(kdf), self.place)

    def put(self, new: State, envelope: Envelope, room: str | None = None) -> None:
        """Replace the content by ``envelope``. Must be called with the write lock held.

        ``room`` is a file in the same directory to write to and rename; ``None`` creates one.
        """
        content = envelope.to_bytes()
        self.forget()
        if room is None:
            room = self.path + ".new"
            private_files.write_private(room, content, self.mode)
        else:
            private_files.overwrite_private(room, content, self.mode)
        private_files.rename(room, self.path)
        self._last_read = (content, Stored(new, envelope))

    def set_aside(self) -> str | None:
        """Rename the file and return its new name. Must be called with the write lock held."""
        self.forget()
        aside = f"{self.path}.quarantine.{time.time_ns()}"
        try:
            private_files.rename(self.path, aside)
        except FileNotFoundError:
            return None
        return aside
