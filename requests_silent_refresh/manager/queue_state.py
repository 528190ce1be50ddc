"""``QueueState``: the states of the refresh queue, and the interleavings that matter.

- *A late 401* (P3). The check whether the current token is still the rejected one, and
  the decision to join or lead, are made in one critical section, and so is ``publish``.
  A request sees either the old token and the batch that replaces it, or the new token;
  never the old token without a batch.
- *Publish, then finish.* The worker publishes before it finishes the batch. A waiter
  that wakes in between leaves with the published token, and a request that comes in
  between finds that token and never looks at the batch. A request that had the new
  token rejected in between joins the old batch and is not served by it: it enters again
  and leads the next one.
- *A waiter is interrupted or times out.* It owns nothing, so it just leaves, and the
  worker never learns of it (P5).
- *The leader is interrupted before its worker has begun*, or the worker's thread dies.
  Waiters look at the batch once a second; the one that finds it abandoned closes it, and
  one of them leads the next. :meth:`begin` tells a worker that starts after that to do
  nothing.
- *A sign-in while a batch is in flight* is published at once and wakes all waiters. The
  batch goes on alone, and its result meets another state.
- *A sign-out while a batch is in flight* marks the batch, so that nobody is asked to
  sign in for it (P10), however late its refusal comes.
- *Two publishers.* ``publish`` takes effect only if the current state is still the one
  that the publisher started from, so a slow reader of the store cannot bring back an
  older session.
- *A signal handler* may run in a thread that holds the lock and ask for a token itself:
  the Condition's lock is reentrant, and every change under it may be cut off after any
  line. The state is worked out from the batch, the verdict and the time for that reason:
  one that was stored beside them could contradict them. A lost wake-up costs a second.
"""

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
    on as above. A sign-out fails the waiting threads when it begins: ``IDLE``."""

    BACKOFF = "backoff"
    """The last refresh failed. Threads get its error, until time passes: ``IDLE``."""

    DEAD = "dead"
    """The session is over: refused, or signed out. Threads get its error, until ``publish``
    brings a token: ``IDLE``."""
