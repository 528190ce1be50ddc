"""``Batch``: one refresh and everybody who waits for it."""

from __future__ import annotations

import threading
import time

from ..errors import SilentRefreshError
from ..token import Token
from .current import Current

# Within so many seconds a leader has begun; else it was interrupted before it could.
BEGIN_WITHIN = 2.0


class Batch:
    """One refresh and everybody who waits for it. Its fields belong to the queue's Condition.

    Times are by ``time.monotonic``: people really wait, whatever a test's clock says.
    """

    __slots__ = ("asking", "based_on", "deadline", "outcome", "over", "started", "worker")

    def __init__(self, based_on: Current, started: float, deadline: float) -> None:
        self.based_on = based_on
        self.started = started
        self.deadline = deadline
        self.asking = False
        self.over = False
        self.outcome: Token | SilentRefreshError | None = None
        self.worker: threading.Thread | None = None

    def is_abandoned(self) -> bool:
        """Say whether nobody works on this batch: its thread died, or none ever began."""
        if self.worker is None:
            return time.monotonic() >= self.started + BEGIN_WITHIN
        return not self.worker.is_alive()


class Insiders:
    """The threads that run a callback which a batch waits for; a context manager for each.

    What such a thread asks of the queue would wait for itself. It takes no lock:
    each thread adds and removes nothing but its own number.
    """

    def __init__(self) -> None:
        self._threads: set[int] = set()

    def am_one(self) -> bool:
        """Say whether the calling thread is inside such a callback."""
        return threading.get_ident() in self._threads

    def __enter__(self) -> None:
        self._threads.add(threading.get_ident())

    def __exit__(self, *exception: object) -> None:
        self._threads.discard(threading.get_ident())
