"""Lines on a terminal that are rewritten while they change, or plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TextIO

_TICK = 0.05  # seconds between two looks

_CLEAR_LINE = "\r\x1b[2K"


class Screen:
    """Writes to ``stream``; on a terminal it shows counts while they grow.

    ``stream=None`` says nothing. One thread uses it.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._live = stream is not None and stream.isatty()
        self._never = threading.Event()

    def say(self, text: str) -> None:
        """Write one line."""
        if self._stream is not None:
            print(text, file=self._stream, flush=True)

    def follow(self, line: Callable[[], str], done: Callable[[], bool], timeout: float) -> bool:
        """Show ``line()`` until ``done()``, or for ``timeout`` seconds; say whether it was done."""
        deadline = time.monotonic() + timeout
        while not (is_done := done()) and time.monotonic() < deadline:
            if self._live and self._stream is not None:
                self._stream.write(_CLEAR_LINE + line())
                self._stream.flush()
            self._never.wait(_TICK)
        if self._live and self._stream is not None:
            self._stream.write(_CLEAR_LINE)
        self.say(line())
        return is_done
