"""Faults at the file store's system calls, through the hook ``private_files.call``.

No public way makes a system call fail or kills the process at one of them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from requests_silent_refresh.system import private_files


class Tap:
    """Records the system calls, and calls ``act`` before one of them."""

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
    """Install a tap: ``act`` runs before the call with that number, or each with that name."""
    before, private_files.call = private_files.call, Tap(at, act)
    try:
        yield private_files.call
    finally:
        private_files.call = before


def fail_with(code: int) -> Callable[[str], None]:
    """Return an ``act`` that makes the call fail with ``OSError(code)``."""

    def act(name: str) -> None:
        raise OSError(code, os.strerror(code))

    return act


def kill(name: str) -> None:
    """Kill the process, as the kernel does when out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
