"""The outcome of the last refresh, and when the next attempt is allowed."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable

from ..errors import RefreshFailed, SilentRefreshError, StoreError

BACKOFF_CAP = 60.0
# A server that asks for an hour would keep people off for an hour after it is back.
RETRY_AFTER_CAP = 300.0
STORE_BACKOFF = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Verdict:
    """The error that every request gets until ``until``, without a refresh. Immutable."""

    error: SilentRefreshError
    until: float
    """By the monotonic clock; infinity if the session is dead."""

    @property
    def is_final(self) -> bool:
        """Whether only a sign-in ends it."""
        return self.until == math.inf

    def to_raise(self, now: float) -> SilentRefreshError:
        """Return a copy of the error to raise, which says for how long this still holds."""
        error = self.error.again()
        if not self.is_final:
            error.retry_after = max(0.0, self.until - now)
        return error


class Backoff:
    """Turns failures into verdicts, each lasting longer than the one before.

    The first one lasts 1 s; the time doubles up to 60 s, and a random factor of 0.5 to 1
    spreads a fleet. A server's ``Retry-After`` lengthens it, up to 300 s. A store's error
    always holds for 0.5 s: the store is near, and its lock may be free at any moment.

    A refresh that no request waited for has a verdict of its own, which only keeps other
    refreshes ahead of time from beginning: the endpoint may be well again when the first
    request needs it. If the server answered that it is wrong, it holds until there is a new
    token, because some servers refuse every refresh before the expiry.

    Everything is called with the queue's lock held. ``verdict`` is replaced as a whole, so
    it may be read without it.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self.forget()

    def forget(self) -> None:
        """Forget every failure: there is a new token."""
        self.verdict: Verdict | None = None
        self._early: Verdict | None = None
        self._failures = {True: 0, False: 0}  # by whether a request waited

    @property
    def is_dead(self) -> bool:
        """Whether the verdict is that the session is over."""
        verdict = self.verdict
        return verdict is not None and verdict.is_final

    @property
    def holds(self) -> bool:
        """Whether a verdict holds now, so that no request may begin a refresh."""
        return self.verdict is not None and self._monotonic() < self.verdict.until

    @property
    def holds_early(self) -> bool:
        """Whether no refresh ahead of time may begin."""
        return self.holds or (self._early is not None and self._monotonic() < self._early.until)

    def fail(self, error: SilentRefreshError, *, awaited: bool = True) -> None:
        """Give every request ``error`` for a while, and note in it when to try again."""
        if isinstance(error, StoreError):
            delay = STORE_BACKOFF
        else:
            # The exponent stops before it overflows.
            ceiling = min(BACKOFF_CAP, 2.0 ** min(self._failures[awaited], 10))
            delay = ceiling * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
            self._failures[awaited] += 1
            if isinstance(error.retry_after, (int, float)):  # a user's callable may set anything
                delay = max(delay, min(error.retry_after, RETRY_AFTER_CAP))
        error.retry_after = delay
        verdict = Verdict(error, self._monotonic() + delay)
        if awaited:
            self.verdict = verdict
        else:
            is_wrong = isinstance(error, RefreshFailed)
            self._early = dataclasses.replace(verdict, until=math.inf) if is_wrong else verdict

    def end(self, error: SilentRefreshError) -> None:
        """Give every request ``error`` until :meth:`forget`: the session is over."""
        self.verdict = Verdict(error, math.inf)
