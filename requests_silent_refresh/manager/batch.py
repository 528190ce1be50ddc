"""``Batch``: one refresh and the threads that wait for it."""

from __future__ import annotations

import threading
import time

from ..errors import SilentRefreshError
from ..token import Token
from .current import Current

# Seconds after which a batch that nobody has begun is given up: its leader was interrupted.
BEGIN_WITHIN = 2.0


class Batch:
    """One refresh and the threads that wait for it. Its fields belong to the queue's Condition.

    Times are by ``time.monotonic``: threads wait in real time, whatever a test's clock says.
    """

    __slots__ = (
        *("asking", "awaited", "based_on", "deadline", "outcome", "over", "saves_only"),
        *("signed_out", "started", "worker"),
    )

    def __init__(
        self, based_on: Current, deadline: float, *, saves_only: bool, signed_out: bool
    ) -> None:
        self.based_on = based_on
        self.started = time.monotonic()
        self.deadline = deadline
        self.saves_only = saves_only
        """Whether it only saves a token that could not be saved before."""
        self.awaited = False
        """Whether a request has waited for it, so that its failure was one for somebody."""
        self.signed_out = signed_out
        """Whether a sign-out began after this batch did, or was under way at that time."""
        self.asking = False
        self.over = False
        self.outcome: Token | SilentRefreshError | None = None
        self.worker: threading.Thread | None = None

    def result(self) -> Token | SilentRefreshError | None:
        """Return the outcome; of an error a copy, so that each waiter raises its own (P6)."""
        return (
            self.outcome.again() if isinstance(self.outcome, SilentRefreshError) else self.outcome
        )

    def is_abandoned(self) -> bool:
        """Say whether nobody works on this batch: its thread died, or none ever began."""
        if self.worker is None:
            return time.monotonic() >= self.started + BEGIN_WITHIN
        return not self.worker.is_alive()


class Insiders:
    """The threads that run a callback which a batch waits for; a context manager for each.

    A token that such a thread asks the queue for would never come. May be entered again by
    the same thread. Takes no lock: each thread changes only the count under its own number.
    """

    def __init__(self) -> None:
        self._threads: dict[int, int] = {}

    def am_one(self) -> bool:
        """Say whether the calling thread is inside such a callback."""
        return threading.get_ident() in self._threads

    def __enter__(self) -> None:
        me = threading.get_ident()
        self._threads[me] = self._threads.get(me, 0) + 1

    def __exit__(self, *exception: object) -> None:
        me = threading.get_ident()
        self._threads[me] -= 1
        if not self._threads[me]:
            del self._threads[me]
