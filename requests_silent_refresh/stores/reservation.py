"""``NAME.next.<generation>``: room for a refresh's result, and the mark that it is under way.

Made just before the refresh token is sent, by the holder of the exclusive lock,
and really allocated, so a full disk shows while the token is still good. The
result is written into it and it is renamed to NAME. What its being there tells
whoever takes the exclusive lock next:

=====================================  ==========================================
the process died                       what is found
=====================================  ==========================================
between mark and answer                the mark: the token may be spent
while it wrote the answer              neither mark nor state: the same
after it wrote, before it renamed      the whole new state: the holder renames it
after the rename                       nothing: the new state is in place
=====================================  ==========================================

A mark is also left by a refresh that no answer came to: what it says is the same.

Only the holder of the exclusive lock makes, reads or removes these files. One
that belongs to another lineage or generation than the stored state is a
leftover of a session that was replaced meanwhile, and is removed.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time

from ..errors import StoreCorrupted, StoreError, WrongKey
from ..system import private_files
from .contract import State
from .state_file import StateFile, Stored

_ROOM = 32 * 1024  # bytes; a token answer with two JWTs is about 10 KiB


class Reservation:
    """The file that one hold has made. Used by its holder only."""

    def __init__(self, store_path: str, state: State, interrupted_at: float | None) -> None:
        self.path = f"{store_path}.next.{state.generation + 1}"
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
            room = max(_ROOM, 2 * private_files.call(os.stat, store_path).st_size)
        except FileNotFoundError:
            room = _ROOM
        # Beside and then renamed: the mark of an earlier refresh must not be lost to a full disk.
        private_files.reserve_private(self.path + ".new", json.dumps(mark).encode(), room)
        private_files.patient(os.replace, self.path + ".new", self.path)

    def room_for(self, new: State) -> str | None:
        """Return the path, once, if ``new`` is the result that this room was made for.

        A second try of a save goes elsewhere: after a failed write or sync
        nobody knows what a file holds.
        """
        if self._written or (new.lineage, new.generation) != (self._lineage, self._generation):
            return None
        self._written = True
        return self.path

    def discard(self, interrupted_at: float | None) -> None:
        """Remove the file, unless it tells the next holder something.

        It does when a result was to be written into it, when no answer came, or
        when it took the place of an earlier mark: the stored token may be spent
        since then.
        """
        if not self._written and interrupted_at is None:
            private_files.remove(self.path)


def recover(file: StateFile) -> float | None:
    """Finish or remove what dead holders left; the exclusive lock is held.

    Returns the Unix time at which a refresh of the stored state was cut off,
    ``None`` where none was. A result that was already whole is put in place.
    """
    stored = file.state()
    interrupted_at = None
    for generation, path in _leftovers(file.path):
        content = _content(path)
        if stored is not None and generation > stored.generation and content is not None:
            finished = _finished(file, content)
            if finished is None:
                began_at = _began_at(path, content, stored)
                if began_at is not None:
                    interrupted_at = began_at if interrupted_at is None else interrupted_at
                    continue
            elif _follows(finished.state, stored):
                _put_in_place(file, path, finished, stored)
                stored, interrupted_at = file.state(), None
                continue
        private_files.remove(path)
    return interrupted_at


def _leftovers(path: str) -> list[tuple[int, str]]:
    """List the files of this kind beside ``path``, the oldest generation first."""
    folder, name = os.path.split(path)
    pattern = re.compile(re.escape(name) + r"\.next\.(\d{1,18})(\.new)?")
    found = []
    for entry in private_files.call(os.listdir, folder):
        match = pattern.fullmatch(entry)
        if match:
            unfinished = match[2] is not None  # it was not yet the mark of anything
            found.append((0 if unfinished else int(match[1]), os.path.join(folder, entry)))
    return sorted(found)


def _content(path: str) -> bytes | None:
    """Return what was written into the room; ``None`` for a file that cannot be one of ours."""
    try:
        return (private_files.read_private(path) or b"").rstrip(b"\0")
    except StoreError:  # a link, a FIFO, or somebody else's
        return None


def _finished(file: StateFile, content: bytes) -> Stored | None:
    try:
        return file.open(content)
    except (StoreCorrupted, WrongKey):
        return None


def _follows(state: State, stored: State) -> bool:
    return state.lineage == stored.lineage and state.generation > stored.generation


def _put_in_place(file: StateFile, path: str, finished: Stored, stored: State) -> None:
    with file.writing():
        if stored.is_same(file.state()):
            # Written again, because nobody knows how much of it has been synced.
            file.put(finished.state, finished.envelope, room=path)


def _began_at(path: str, content: bytes, stored: State) -> float | None:
    """Read the mark of an unfinished refresh; ``None`` for one of another lineage."""
    try:
        # The mark, or the header of an answer that was being written over it.
        mark = json.loads(content.partition(b"\n")[0])
        if mark["lineage"] != stored.lineage:
            return None
        return float(mark["interrupted_at"] or mark["started"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return private_files.call(os.stat, path).st_mtime  # cut off about then
