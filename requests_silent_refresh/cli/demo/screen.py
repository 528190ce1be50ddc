"""Output of the demo: lines rewritten in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

_TICK = 0.05  # seconds between two updates

_CLEAR_LINE = "\r\x1b[2K"


class Screen:
    """Writes to ``stream``; on a terminal, counts are updated in place.

    Writes nothing if ``stream`` is ``None``. Not thread-safe.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._terminal = stream if stream is not None and stream.isatty() else None

    def say(self, text: str) -> None:
        """Write one line."""
        if self._stream is not None:
            print(text, file=self._stream, flush=True)

    def follow(self, line: Callable[[], str], done: Callable[[], bool], timeout: float) -> bool:
        """Show ``line()`` until ``done()``, for at most ``timeout`` seconds; return ``done()``."""
        deadline = time.monotonic() + timeout
        while not (is_done := done()) and time.monotonic() < deadline:
            if self._terminal is not None:
                self._terminal.write(_CLEAR_LINE + line())
                self._terminal.flush()
            time.sleep(_TICK)
        if self._terminal is not None:
            self._terminal.write(_CLEAR_LINE)
        self.say(line())
        return is_done
