"""The Condition's own room: which token is current, and who waits for the next."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable

from .errors import (
    RefreshFailed,
    RefreshTimeout,
    SessionExpired,
    SilentRefreshError,
    StoreError,
)
from .forking import reset_in_child
from .freshness import NOT_LOADED, Current
from .token import Token

BACKOFF_CAP = 60.0
RETRY_AFTER_CAP = 300.0
STORE_BACKOFF = 1.0
LOOK_INTERVAL = 1.0


class Batch:
    """One refresh and everybody who waits for it. Its fields belong to the queue's Condition."""

    __slots__ = ("asking", "based_on", "deadline", "outcome", "over", "started", "worker")

    def __init__(self, based_on: Current, started: float, deadline: float) -> None:
        self.based_on = based_on
        self.started = started
        self.deadline = deadline
        self.asking = False
        self.over = False
        self.outcome: Token | SilentRefreshError | None = None
        self.worker: threading.Thread | None = None

    def has_lost_its_worker(self) -> bool:
        """Say whether nobody works on this batch: the thread died, or was never started."""
        return self.worker is None or not self.worker.is_alive()


class RefreshQueue:
    """Where parallel requests wait for one refresh. Owns one Condition and all that it guards.

    The states, and what leads from one to the next::

        IDLE       no batch, no verdict         enter() opens a batch  -> REFRESHING
        REFRESHING a batch is in flight         finish(token)          -> IDLE
                                                finish(error)          -> BACKOFF or DEAD
                                                deadline passes        -> LATE
        LATE       the batch outlived its       finish(...) as above; until then new
                   deadline                     requests fail at once, nobody leads
        ASKING     somebody is asked to sign    finish(...) as above; waiters stay
                   in                           until sign_in_timeout
        BACKOFF    a verdict until retry_at     time passes            -> IDLE
        DEAD       a verdict without end        publish(state with a token) -> IDLE

    The interleavings that matter:

    - *A late 401* (P3). The check "is the current token another one than mine?"
      and the decision to join or lead are made under one acquisition of the
      lock; ``publish`` is too. So a request sees either the old token and the
      batch that replaces it, or the new token; never the old one without batch.
    - *Publish, then finish.* The worker publishes before it finishes the batch.
      A waiter that wakes in between leaves with the published token; one that
      comes in between finds the token and never looks at the batch.
    - *A waiter is interrupted or times out.* It owns nothing, so it just leaves.
      The worker never learns of it (P5).
    - *The leader is interrupted between opening the batch and starting its
      worker.* Nobody would finish that batch: whoever finds it past its
      deadline without a living worker closes it.
    - *A sign-in while a batch is in flight* is published at once and wakes
      everybody; the batch goes on alone and its result meets another state.
    - *Two publishers.* ``publish`` takes effect only if the current state still
      is the one that the publisher started from, so a slow reader of the store
      cannot bring back an older session.

    Nothing is done under the lock but reading and writing these fields.
    """

    def __init__(
        self,
        wait_timeout: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current: Current = NOT_LOADED  # written under the lock, read without it
        self.wait_timeout = wait_timeout
        self._clock = clock
        self._monotonic = monotonic
        self.waits = 0
        self.wait_seconds = 0.0
        self.replays = 0
        self.after_fork_in_child()
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Start anew: threads that held the lock or led a batch exist in the parent only."""
        self._condition = threading.Condition()
        self._batch: Batch | None = None
        self._insiders: set[int] = set()
        self._verdict: SilentRefreshError | None = None
        self._retry_at = -math.inf
        self._failures = 0
        self._looked_at = -math.inf
        self.asked = False

    # -- for those who want a token ------------------------------------------

    def renew(self, rejected: Token | None, lead: Callable[[Batch], None]) -> Token:
        """Return a usable token other than ``rejected``, waiting for a refresh where needed.

        ``lead(batch)`` is called, without the lock, by the one caller that finds
        nobody refreshing; it starts the work and returns.
        """
        while True:
            entered = self._enter(rejected)
            if isinstance(entered, Token):
                return entered
            batch, leads = entered
            if leads:
                lead(batch)
            token = self._wait(batch, rejected)
            if token is not None:
                return token

    def open_if_idle(self) -> Batch | None:
        """Open a batch that nobody waits for; ``None`` while one is in flight or must not be."""
        with self._condition:
            if self._batch is not None or self._standing_verdict() is not None:
                return None
            return self._open()

    def _enter(self, rejected: Token | None) -> Token | tuple[Batch, bool]:
        with self._condition:
            token = self._usable(rejected)
            if token is not None:
                return token
            if threading.get_ident() in self._insiders:
                raise RefreshFailed(
                    "a refresh or sign-in callback asked for the token that it is to bring and "
                    "would wait for itself: give it a session of its own, without this adapter"
                )
            if self._batch is not None:
                self._depose_if_dead(self._batch)
            if self._batch is not None:
                return self._batch, False
            verdict = self._standing_verdict()
            if verdict is not None:
                return self._fall_back(rejected, verdict)
            return self._open(), True

    def _wait(self, batch: Batch, rejected: Token | None) -> Token | None:
        """Wait for the batch. ``None`` means that it settled nothing: enter again."""
        began = time.monotonic()
        with self._condition:
            self.waits += 1
            try:
                while not batch.over:
                    token = self._usable(rejected)
                    if token is not None:
                        return token
                    if self._is_dead() and not batch.asking:
                        break  # signed out meanwhile; the result of the batch will be dropped
                    left = batch.deadline - time.monotonic()
                    if left <= 0:
                        self._depose_if_dead(batch)
                        return self._fall_back(rejected, self._too_late(batch))
                    self._condition.wait(left)
            finally:
                self.wait_seconds += time.monotonic() - began
            outcome = batch.outcome
            if isinstance(outcome, Token):
                return outcome
            if outcome is None:
                outcome = self._standing_verdict()
            return None if outcome is None else self._fall_back(rejected, outcome)

    # -- helpers that need the lock held --------------------------------------

    def _usable(self, rejected: Token | None) -> Token | None:
        current = self.current
        if current.token is rejected or self._clock() >= current.wait_at:
            return None
        return current.token

    def _fall_back(self, rejected: Token | None, error: SilentRefreshError) -> Token:
        """Return the current token if it may still serve this waiter, else raise (P7)."""
        current = self.current
        if (
            current.token is not None
            and current.token is not rejected
            and self._clock() < current.expires_at
        ):
            return current.token
        raise error.again()

    def _open(self) -> Batch:
        now = time.monotonic()
        self._batch = Batch(self.current, now, now + self.wait_timeout)
        return self._batch

    def _standing_verdict(self) -> SilentRefreshError | None:
        return self._verdict if self._monotonic() < self._retry_at else None

    def _is_dead(self) -> bool:
        return self._retry_at == math.inf

    def _depose_if_dead(self, batch: Batch) -> None:
        if (
            self._batch is batch
            and time.monotonic() >= batch.deadline
            and batch.has_lost_its_worker()
        ):
            self._close(batch, None)

    def _close(self, batch: Batch, outcome: Token | SilentRefreshError | None) -> None:
        batch.outcome = outcome
        batch.over = True
        if self._batch is batch:
            self._batch = None
        self._condition.notify_all()

    def _too_late(self, batch: Batch) -> SilentRefreshError:
        if batch.asking:
            return SessionExpired("the session expired and nobody signed in in time")
        return RefreshTimeout(
            f"the refresh has not ended within {self.wait_timeout:g} s; it goes on in the "
            "background and its result will be used: try again"
        )

    # -- for the worker ------------------------------------------------------

    def publish(self, new: Current, replacing: Current) -> bool:
        """Make ``new`` what everybody uses, if ``replacing`` still is that; else say ``False``.

        A state with a token ends every verdict; one without makes the session
        dead only through :meth:`finish` or :meth:`end_session`.
        """
        with self._condition:
            if self.current is not replacing:
                return False
            self.current = new
            if new.token is not None:
                self._forget_failures()
                self.asked = False
            self._condition.notify_all()
            return True

    def end_session(self, error: SilentRefreshError) -> None:
        """Latch the dead session: everybody fails fast with ``error`` until a sign-in (P9)."""
        with self._condition:
            if self.current.token is None:
                self._latch(error)
                self._condition.notify_all()

    def ask(self, batch: Batch, timeout: float) -> None:
        """Let the batch's waiters stay ``timeout`` seconds: somebody is asked to sign in."""
        with self._condition:
            self.asked = True
            batch.asking = True
            batch.deadline = time.monotonic() + timeout

    def finish(self, batch: Batch, outcome: Token | SilentRefreshError | None) -> None:
        """End the batch and wake everybody who waits for it.

        A token clears all memory of failures; ``SessionExpired`` with no token
        current latches; another error starts or lengthens the backoff. ``None``
        sends the waiters round again.
        """
        with self._condition:
            if isinstance(outcome, Token):
                self._forget_failures()
            elif isinstance(outcome, SessionExpired):
                if self.current.token is None:
                    self._latch(outcome)
                else:
                    outcome = None  # somebody signed in meanwhile
            elif outcome is not None:
                self._back_off(outcome)
            self._close(batch, outcome)

    def _latch(self, error: SilentRefreshError) -> None:
        self._verdict = error
        self._retry_at = math.inf
        self._looked_at = self._monotonic()

    def _forget_failures(self) -> None:
        self._verdict = None
        self._retry_at = -math.inf
        self._failures = 0

    def _back_off(self, error: SilentRefreshError) -> None:
        if isinstance(error, StoreError):
            delay = STORE_BACKOFF  # the store is near, and its holder may be gone any moment
        else:
            # The factor spreads a fleet; the exponent stops before it overflows.
            ceiling = min(BACKOFF_CAP, 2.0 ** min(self._failures, 10))
            delay = ceiling * random.uniform(0.5, 1.0)  # noqa: S311
            delay = max(delay, min(error.retry_after or 0.0, RETRY_AFTER_CAP))
        self._failures += 1
        error.retry_after = delay
        self._verdict = error
        self._retry_at = self._monotonic() + delay

    # -- for the manager -------------------------------------------------------

    def time_for_a_look(self) -> bool:
        """Say, to one caller a second, that a dead session deserves a look into the store."""
        with self._condition:
            now = self._monotonic()
            if not self._is_dead() or now - self._looked_at < LOOK_INTERVAL:
                return False
            self._looked_at = now
            return True

    def wait_until_idle(self, timeout: float) -> bool:
        """Wait until no batch is in flight or it only waits for a person; for the exit handler."""
        deadline = time.monotonic() + timeout
        with self._condition:
            while (batch := self._batch) is not None:
                left = deadline - time.monotonic()
                if left <= 0 or batch.asking or batch.has_lost_its_worker():
                    return False
                self._condition.wait(min(left, 0.5))
            return True

    def count_replay(self) -> None:
        """Count a request that is sent again."""
        with self._condition:
            self.replays += 1

    def enter_callback(self) -> None:
        """Note that this thread runs a callback that a batch waits for."""
        with self._condition:
            self._insiders.add(threading.get_ident())

    def leave_callback(self) -> None:
        """Undo :meth:`enter_callback`."""
        with self._condition:
            self._insiders.discard(threading.get_ident())
