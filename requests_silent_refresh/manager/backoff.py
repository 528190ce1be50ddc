"""What the last refresh came to, and until when nobody tries again."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable

from ..errors import SilentRefreshError, StoreError

BACKOFF_CAP = 60.0
# A server that asks for an hour would keep people off for an hour after it is back.
RETRY_AFTER_CAP = 300.0
STORE_BACKOFF = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Verdict:
    """The error that everybody gets until ``until``, without a refresh. Immutable."""

    error: SilentRefreshError
    until: float
    """By the monotonic clock; infinity where the session is dead."""

    @property
    def is_final(self) -> bool:
        """Whether only a sign-in ends it."""
        return self.until == math.inf

    def to_raise(self, now: float) -> SilentRefreshError:
        """Return an error of one's own to raise, which says how long this still holds."""
        error = self.error.again()
        if not self.is_final:
            error.retry_after = max(0.0, self.until - now)
        return error


class Backoff:
    """Turns failures into verdicts, each lasting longer than the one before.

    1 s at first, doubled up to 60 s, and a random factor of 0.5 to 1, which
    spreads a fleet. A server's ``Retry-After`` makes it longer, up to 300 s.
    A store's error holds for 0.5 s always: the store is near, and who locks it may
    be gone any moment.

    Everything is called with the queue's lock held. ``verdict`` is replaced
    whole, so it may be read without.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.verdict: Verdict | None = None
        self._monotonic = monotonic
        self._failures = 0

    @property
    def is_dead(self) -> bool:
        """Whether the verdict is that the session is over."""
        verdict = self.verdict
        return verdict is not None and verdict.is_final

    def standing(self) -> SilentRefreshError | None:
        """Return the error to raise now, if a verdict holds; ``None`` where one may try."""
        verdict, now = self.verdict, self._monotonic()
        return None if verdict is None or now >= verdict.until else verdict.to_raise(now)

    def fail(self, error: SilentRefreshError) -> None:
        """Give everybody ``error`` for a while. Notes in it when trying again makes sense."""
        if isinstance(error, StoreError):
            delay = STORE_BACKOFF
        else:
            # The exponent stops before it overflows.
            ceiling = min(BACKOFF_CAP, 2.0 ** min(self._failures, 10))
            delay = ceiling * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
            delay = max(delay, min(error.retry_after or 0.0, RETRY_AFTER_CAP))
            self._failures += 1
        error.retry_after = delay
        self.verdict = Verdict(error, self._monotonic() + delay)

    def end(self, error: SilentRefreshError) -> None:
        """Give everybody ``error`` until :meth:`forget`."""
        self.verdict = Verdict(error, math.inf)

    def forget(self) -> None:
        """Forget every failure: there is a new token."""
        self.verdict = None
        self._failures = 0
