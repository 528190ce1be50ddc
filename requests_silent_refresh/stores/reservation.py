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

Only the holder of the exclusive lock makes, reads or removes these files. One
that belongs to another lineage or generation than the stored state is a
leftover of a session that was replaced meanwhile, and is removed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import time

from .. import files
from .contract import State

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
            room = max(_ROOM, 2 * files.call(os.stat, store_path).st_size)
        except FileNotFoundError:
            room = _ROOM
        # Beside and then renamed: the mark of an earlier refresh must not be lost to a full disk.
        files.reserve_private(self.path + ".new", json.dumps(mark).encode(), room)
        files.patient(os.replace, self.path + ".new", self.path)

    def take(self, new: State) -> bool:
        """Say, once, whether ``new`` is the result that this room was made for.

        A second try of a save goes elsewhere: after a failed write or sync
        nobody knows what a file holds.
        """
        fits = new.token is not None and not self._written
        fits = fits and (new.lineage, new.generation) == (self._lineage, self._generation)
        self._written = self._written or fits
        return fits

    def discard(self, interrupted_at: float | None) -> None:
        """Remove the file, unless it tells the next holder something.

        It does when a result was to be written into it, or when it took the
        place of an earlier mark: the stored token may be spent since then.
        """
        if not self._written and interrupted_at is None:
            files.remove(self.path)


@dataclasses.dataclass(frozen=True)
class Leftover:
    """A file that a dead holder left."""

    path: str
    generation: int
    """Of the state it was made for; 0 for one that was not finished."""

    def content(self) -> bytes:
        """Return what was written, without the room that was not used."""
        return (files.read_private(self.path) or b"").rstrip(b"\0")

    def interrupted_at(self, content: bytes, stored: State) -> float | None:
        """Read the mark: when a refresh of ``stored`` was first cut off; ``None`` for another's."""
        try:
            mark = json.loads(content)
            if mark["lineage"] != stored.lineage:
                return None
            return float(mark["interrupted_at"] or mark["started"])
        except (ValueError, KeyError, TypeError, RecursionError):
            # Cut off while the answer was written over the mark: about then.
            return files.call(os.stat, self.path).st_mtime


def leftovers(store_path: str) -> list[Leftover]:
    """List the files of this kind that lie beside the store's file."""
    folder, name = os.path.split(store_path)
    pattern = re.compile(re.escape(name) + r"\.next\.(\d{1,18})(\.new)?")
    found = []
    for entry in files.call(os.listdir, folder):
        match = pattern.fullmatch(entry)
        if match:
            generation = 0 if match[2] else int(match[1])
            found.append(Leftover(os.path.join(folder, entry), generation))
    return found
