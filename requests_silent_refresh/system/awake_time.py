"""A time limit that does not run while the process is stopped."""

from __future__ import annotations

import time

# A wait takes at most this many seconds before the clock is looked at again.
STEP = 0.25
# A wait that takes this much longer than it should was not only delayed by a busy machine.
_FROZEN = 0.5
# A wait that took this much longer may have kept other threads from running as well.
_DELAYED = 0.1


class AwakeTime:
    """Seconds to wait, of which those in which the process did not run are not counted.

    A process may be stopped at any time, for any time: by SIGSTOP, ``docker pause``, a lid that is
    closed, or AWS Lambda between invocations. What it waited for may be there when it goes on, and
    the other threads need a moment to take it. Used by one thread.

    >>> limit = AwakeTime(30.0)
    >>> limit.next_step()
    0.25
    """

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self._step = 0.0
        self._at = time.monotonic()
        self._graces = 1
        self._delayed = False

    def next_step(self) -> float:
        """Return the seconds to wait until the next call; 0 if the time is over."""
        now = time.monotonic()
        passed, self._at = now - self._at, now
        late = passed - self._step
        if late > _FROZEN:
            self._graces += 1
            passed = self._step
        self._left -= passed
        self._delayed = self._delayed or late > _DELAYED
        if self._left <= 0 and self._delayed and self._graces:
            self._graces -= 1
            self._delayed = False
            self._left = 2 * STEP
        self._step = max(0.0, min(self._left, STEP))
        return self._step
