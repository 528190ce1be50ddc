"""Faults at the system calls of the file store, by way of its seam ``private_files.call``."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from requests_silent_refresh.system import private_files


class Tap:
    """Counts the system calls that are made, and does something at one of them."""

    def __init__(self, at: int | str, act: Callable[[str], None]) -> None:
        self.calls: list[str] = []
        self._at = at
        self._act = act

    def __call__(self, function, /, *args, **kwargs):
        self.calls.append(function.__name__)
        if self._at in (len(self.calls), function.__name__):
            self._act(function.__name__)
        return function(*args, **kwargs)


@contextmanager
def tapped(at: int | str, act: Callable[[str], None]) -> Iterator[Tap]:
    """Put a tap on the seam: ``act`` at the call of that number, or at each of that name."""
    before, private_files.call = private_files.call, Tap(at, act)
    try:
        yield private_files.call
    finally:
        private_files.call = before


def fail_with(code: int) -> Callable[[str], None]:
    """Make the call fail with an error number."""

    def act(name: str) -> None:
        raise OSError(code, os.strerror(code))

    return act


def kill(name: str) -> None:
    """End the process at once, as the machine's memory or a person would."""
    os.kill(os.getpid(), signal.SIGKILL)
