"""``StandardInput``: lines from standard input, with a time limit."""

from __future__ import annotations

import os
import select
import sys


class StandardInput:
    """Reads lines from standard input; a call waits for one for at most ``seconds``.

    Reads the file descriptor itself, because a thread that waits in ``sys.stdin`` would abort
    the interpreter at its exit. On Windows a call waits for as long as it takes.
    """

    def __init__(self) -> None:
        self._unread = b""

    def __call__(self, seconds: float) -> str | None:
        """Return a line, ``""`` at the end of the input, or ``None`` if there was none in time."""
        if sys.stdin is None or sys.stdin.closed:
            return ""
        source = sys.stdin.fileno()
        while b"\n" not in self._unread:
            if os.name == "posix" and not select.select([source], [], [], seconds)[0]:
                return None
            more = os.read(source, 65536)
            if not more:
                line, self._unread = self._unread, b""
                return line.decode(errors="replace")
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode(errors="replace") + "\n"
