"""``NAME.next.<generation>``: the mark of a running refresh, and room for its result.

The holder of the exclusive lock creates the file just before the refresh token is
sent. Its space is really allocated, so a full disk is found while the token is
still valid. The result is written into the file, which is then renamed to NAME.
The next holder of the exclusive lock learns this from it:

=====================================  ==========================================
the process died                       what the next holder finds
=====================================  ==========================================
between mark and answer                the mark: the token may be spent
while it wrote the answer              neither mark nor state: the same
after it wrote, before it renamed      the complete new state, which it renames
after the rename                       nothing: the new state is in place
=====================================  ==========================================

A refresh that was not answered leaves its mark too, with the same meaning.

Only the holder of the exclusive lock creates, reads or removes these files. A file
of another lineage or of an earlier generation than the next one is a leftover of a
session that was replaced, and is removed.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time

from ..errors import StoreCorrupted, StoreError
from ..system import private_files
from .contract import State
from .envelope import Envelope
from .state_file import StateFile, Stored

_ROOM = 32 * 1024  # bytes; a token answer with two JWTs is about 10 KiB


class Reservation:
    """The file that one hold has created. Used only by the holder."""

    def __init__(self, file: StateFile, state: State, interrupted_at: float | None) -> None:
        self.path = f"{file.path}.next.{state.generation + 1}"
        self._lineage = state.lineage
        self._generation = state.generation + 1
        self._written = False
        mark = {
            "lineage": state.lineage,
            "process": os.getpid(),
            "host": socket.gethostname(),
            "started": time.time(),
            "interrupted_at": interrupted_at,
        }
        try:
            room = max(_ROOM, 2 * private_files.call(os.stat, file.path).st_size)
        except FileNotFoundError:
            room = _ROOM
        # Created beside and renamed: a full disk must not destroy the mark of an earlier refresh.
        content = json.dumps(mark).encode()
        private_files.reserve_private(self.path + ".new", content, room, file.mode)
        private_files.patient(os.replace, self.path + ".new", self.path)

    def room_for(self, new: State) -> str | None:
        """Return the path, once, if ``new`` is the result that this room was made for.

        A second attempt to save uses another file, because the content of a file is
        unknown after a failed write or sync.
        """
        if self._written or (new.lineage, new.generation) != (self._lineage, self._generation):
            return None
        self._written = True
        return self.path

    def discard(self, interrupted_at: float | None) -> None:
        """Remove the file, unless the stored token may be spent.

        It may be if a result was to be written into the file, if there was no answer,
        or if the file replaced an earlier mark. The next holder needs to know then.
        """
        if not self._written and interrupted_at is None:
            private_files.remove(self.path)


def recover(file: StateFile) -> float | None:
    """Finish or remove what dead holders left. Must be called with the exclusive lock held.

    Returns the Unix time at which a refresh of the stored state was interrupted, or
    ``None`` if none was. A complete result is put in place; if it cannot be read, that is an
    error, because the stored refresh token is spent.
    """
    stored = file.state()
    interrupted_at = None
    for generation, path in _leftovers(file.path):
        content = _content(path, file.mode)
        if stored is not None and generation > stored.generation and content is not None:
            envelope = _whole(content)
            if envelope is None:
                began_at = _began_at(path, content, stored)
                if began_at is not None:
                    interrupted_at = began_at if interrupted_at is None else interrupted_at
                    continue
            elif envelope.header["lineage"] == stored.lineage and (
                envelope.header["generation"] > stored.generation
            ):
                _put_in_place(file, path, _finished(file, path, content), stored)
                stored, interrupted_at = file.state(), None
                continue
        private_files.remove(path)
    return interrupted_at


def _leftovers(path: str) -> list[tuple[int, str]]:
    """List the ``NAME.next`` files beside ``path``, the oldest generation first."""
    folder, name = os.path.split(path)
    pattern = re.compile(re.escape(name) + r"\.next\.(\d{1,18})(\.new)?")
    found = []
    for entry in private_files.call(os.listdir, folder):
        match = pattern.fullmatch(entry)
        if match:
            unfinished = match[2] is not None  # it had not become a mark yet
            found.append((0 if unfinished else int(match[1]), os.path.join(folder, entry)))
    return sorted(found)


def _content(path: str, mode: int) -> bytes | None:
    """Return what was written into the file; ``None`` if the file cannot be one of ours."""
    try:
        return (private_files.read_private(path, mode) or b"").rstrip(b"\0")
    except StoreError:  # a link, a FIFO, or owned by another user
        return None


def _whole(content: bytes) -> Envelope | None:
    """Return a complete envelope; ``None`` for a mark, or a result that was being written."""
    try:
        return Envelope.from_bytes(content)
    except StoreCorrupted:
        return None


def _finished(file: StateFile, path: str, content: bytes) -> Stored:
    """Decrypt a complete result. Raises ``WrongKey`` or ``StoreCorrupted``."""
    try:
        return file.open(content)
    except StoreError as error:
        error.args = (
            f"{path} holds the result of a finished refresh, and the refresh token in {file.path} "
            f"is spent, but it cannot be read: {error}",
            *error.args[1:],
        )
        raise


def _put_in_place(file: StateFile, path: str, finished: Stored, stored: State) -> None:
    with file.writing():
        if stored.is_same(file.state()):
            # Written again, because it is unknown how much of it was synced.
            file.put(finished.state, finished.envelope, room=path)


def _began_at(path: str, content: bytes, stored: State) -> float | None:
    """Return when an unfinished refresh began; ``None`` if it is of another lineage."""
    try:
        # Either the mark, or the header of a result that was being written over it.
        mark = json.loads(content.partition(b"\n")[0])
        if mark["lineage"] != stored.lineage:
            return None
        return float(mark["interrupted_at"] or mark["started"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return private_files.call(os.stat, path).st_mtime  # about the time of the interruption
