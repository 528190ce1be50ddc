"""``QueueState``: the states of the refresh queue."""

from __future__ import annotations

import enum


class QueueState(enum.Enum):
    """What a thread that needs another token meets, and what leads on from there."""

    IDLE = "idle"
    """Nobody refreshes. ``renew`` opens a batch and leads it: ``REFRESHING``."""

    REFRESHING = "refreshing"
    """A batch is in flight, and threads join it. ``finish`` with a token leads to ``IDLE``,
    with an error to ``BACKOFF`` or ``DEAD``; ``ask`` to ``ASKING``; its deadline to ``LATE``."""

    LATE = "late"
    """The batch has outlived its deadline. Threads fail at once and nobody leads, until it
    ends as above."""

    ASKING = "asking"
    """Somebody is asked to sign in, and threads stay for ``sign_in_timeout``. ``finish`` leads
    on as above; a sign-out fails the waiting threads and leads to ``IDLE``."""

    BACKOFF = "backoff"
    """The last refresh failed. Threads get its error, until time passes: ``IDLE``."""

    DEAD = "dead"
    """The session is over. Threads get its error, until ``publish`` brings a token: ``IDLE``."""
