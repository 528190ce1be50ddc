"""Putting signal handlers off while something runs that must not be cut short."""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

# Ctrl-C first: it is the one that comes in bursts.
_NUMBERS = sorted(
    signal.valid_signals() - {getattr(signal, "SIGKILL", 0), getattr(signal, "SIGSTOP", 0)},
    key=lambda number: (number != signal.SIGINT, number),
)


class _PutOff:
    """A signal handler that records a signal, and hands it to the real one when it is over.

    From then on it behaves like the handler that it replaces, after those whose signals
    came before. So nothing is lost if an exception that a handler raises interrupts the
    code that calls the others and puts them back.
    """

    def __init__(self) -> None:
        self.over = False
        self.came: list[Callable[[], object]] = []
        self.replaced: dict[int, Any] = {}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.came.append(functools.partial(self.replaced[number], number, frame))
        if self.over:
            self._hand_over()

    def begin(self) -> None:
        """Replace every handler that is written in Python; raises ``ValueError`` if none may be."""
        for number in _NUMBERS:
            handler = signal.getsignal(number)
            if callable(handler) and handler is not self:
                self.replaced[number] = handler
                signal.signal(number, self)

    def end(self) -> None:
        """Call the handlers whose signals came, whatever they raise; put all of them back."""
        try:
            self.over = True
            self._hand_over()
        finally:
            for number, handler in self.replaced.items():
                if signal.getsignal(number) is self:  # or somebody has set another one
                    signal.signal(number, handler)

    def _hand_over(self) -> None:
        try:
            while self.came:
                self.came.pop(0)()
        finally:
            if self.came:
                self._hand_over()


def uninterrupted(work: Callable[[], T]) -> T:
    """Return ``work()``, with every signal handler that is written in Python put off meanwhile.

    Python runs those in the main thread only, so in any other thread, and where the
    interpreter lets no handler be set, this just calls ``work``. The handlers whose signals
    came are called after it, in the order of arrival; what they raise, this raises. An
    exception that a handler raises before ``work`` begins is raised, too.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    put_off = _PutOff()
    try:
        with contextlib.suppress(ValueError):  # in a subinterpreter
            put_off.begin()
        return work()
    finally:
        put_off.end()
