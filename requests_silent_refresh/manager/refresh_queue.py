"""The Condition's own room: which token is current, and who waits for the next."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from ..errors import RefreshFailed, RefreshTimeout, SessionExpired, SilentRefreshError
from ..system.forking import reset_in_child
from ..token import Token
from .backoff import Backoff
from .batch import Batch, Insiders
from .current import NOT_LOADED, Current

LOOK_INTERVAL = 1.0


class RefreshQueue:
    """Where parallel requests wait for one refresh. Owns one Condition and all that it guards.

    The states, and what leads from one to the next::

        IDLE       no batch, no verdict         renew() opens a batch  -> REFRESHING
        REFRESHING a batch is in flight         finish(token)          -> IDLE
                                                finish(error)          -> BACKOFF or DEAD
                                                deadline passes        -> LATE
        LATE       the batch outlived its       finish(...) as above; until then new
                   deadline                     requests fail at once, nobody leads
        ASKING     somebody is asked to sign    finish(...) as above; waiters stay
                   in                           until sign_in_timeout
        BACKOFF    a verdict until some time    time passes            -> IDLE
        DEAD       a verdict without end        publish(state with a token) -> IDLE

    The interleavings that matter:

    - *A late 401* (P3). The check "is the current token another one than mine?"
      and the decision to join or lead are made under one acquisition of the
      lock; ``publish`` is too. So a request sees either the old token and the
      batch that replaces it, or the new token; never the old one without batch.
    - *Publish, then finish.* The worker publishes before it finishes the batch.
      A waiter that wakes in between leaves with the published token; one that
      comes in between finds the token and never looks at the batch. One that had
      the new token rejected already, in between, joins the old batch and is not
      served by it: it goes round again and leads the next.
    - *A waiter is interrupted or times out.* It owns nothing, so it just leaves.
      The worker never learns of it (P5).
    - *The leader is interrupted before its worker has begun*, or the worker's
      thread dies. Waiters look at it once a second; whoever finds the batch
      abandoned closes it, and one of them leads anew. A worker that begins after
      that is told so by :meth:`begin` and does nothing.
    - *A sign-in while a batch is in flight* is published at once and wakes
      everybody; the batch goes on alone and its result meets another state.
    - *Two publishers.* ``publish`` takes effect only if the current state still
      is the one that the publisher started from, so a slow reader of the store
      cannot bring back an older session.
    - *A signal handler* may run in a thread that holds the lock and ask for a
      token itself: the Condition's lock is reentrant, and each change under it
      is one that may be cut off after any line. A wake-up lost so costs a second.

    Nothing is done under the lock but reading and writing these fields. A dead
    session is told without it (P9).
    """

    def __init__(
        self,
        wait_timeout: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current: Current = NOT_LOADED  # written under the lock, read without it
        self.wait_timeout = wait_timeout
        self.ending = False  # a sign-out is under way: nobody is to be asked to sign in
        self.waits = 0
        self.wait_seconds = 0.0
        self.failures = 0
        self._clock = clock
        self._monotonic = monotonic
        self.after_fork_in_child()
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Start anew: threads that held the lock or led a batch exist in the parent only."""
        self._condition = threading.Condition()
        self._batch: Batch | None = None
        self.insiders = Insiders()
        self._backoff = Backoff(self._monotonic)
        self._looked_at = -math.inf
        self.ending = False

    # -- for those who want a token ------------------------------------------

    def renew(self, rejected: Token | None, lead: Callable[[Batch], None]) -> Token:
        """Return a usable token other than ``rejected``, waiting for a refresh where needed.

        ``lead(batch)`` is called, without the lock, by the one caller that finds
        nobody refreshing; it starts the work and returns.
        """
        deadline = time.monotonic() + self.wait_timeout
        while True:
            self._fail_if_dead()
            entered = self._enter(rejected)
            if isinstance(entered, Token):
                return entered
            batch, leads = entered
            if leads:
                lead(batch)
            token = self._wait(batch, rejected, deadline)
            if token is not None:
                return token
            if batch.asking:  # a person's time is not the refresh's
                deadline = time.monotonic() + self.wait_timeout

    def open_if_idle(
        self, *, replacing: Token | None = None, whatever_the_verdict: bool = False
    ) -> Batch | None:
        """Open a batch that nobody waits for; ``None`` while one is in flight or must not be.

        ``replacing`` is the token that somebody found to be due or rejected: it may
        have been replaced since. A verdict is a reason not to refresh, but none not
        to save.
        """
        with self._condition:
            if replacing is not None and self.current.token is not replacing:
                return None
            self._drop_abandoned()
            if self._batch is not None:
                return None
            if self._backoff.standing() is not None and not whatever_the_verdict:
                return None
            return self._open()

    def _fail_if_dead(self) -> None:
        # In this order: a sign-in is published before the verdict is forgotten.
        verdict = self._backoff.verdict
        if verdict is not None and verdict.is_final and self.current.token is None:
            raise verdict.error.again()

    def _enter(self, rejected: Token | None) -> Token | tuple[Batch, bool]:
        with self._condition:
            token = self._usable(rejected)
            if token is not None:
                return token
            if self.insiders.am_one():
                raise RefreshFailed(
                    "a refresh or sign-in callback asked for the token that it is to bring and "
                    "would wait for itself: give it a session of its own, without this adapter"
                )
            self._drop_abandoned()
            if self._batch is not None:
                return self._batch, False
            error = self._backoff.standing()
            if error is not None:
                return self._fall_back(rejected, error)
            return self._open(), True

    def _wait(self, batch: Batch, rejected: Token | None, deadline: float) -> Token | None:
        """Wait for the batch. ``None`` means that it settled nothing: enter again."""
        began = time.monotonic()
        with self._condition:
            self.waits += 1
            try:
                while not batch.over:
                    token = self._usable(rejected)
                    if token is not None:
                        return token
                    if self._backoff.is_dead and not batch.asking:
                        return None  # signed out meanwhile; the batch's result will be dropped
                    self._drop_abandoned()
                    until = batch.deadline if batch.asking else min(batch.deadline, deadline)
                    left = until - time.monotonic()
                    if left <= 0:
                        return self._fall_back(rejected, self._too_late(batch))
                    self._condition.wait(min(left, LOOK_INTERVAL))
            finally:
                self.wait_seconds += time.monotonic() - began
            if isinstance(batch.outcome, SilentRefreshError):
                return self._fall_back(rejected, batch.outcome.again())
            return None if batch.outcome is rejected else batch.outcome

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
        raise error

    def _open(self) -> Batch:
        now = time.monotonic()
        self._batch = Batch(self.current, now, now + self.wait_timeout)
        return self._batch

    def _drop_abandoned(self) -> None:
        batch = self._batch
        if batch is not None and batch.is_abandoned():
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

    def begin(self, batch: Batch) -> bool:
        """Note that this thread works on ``batch``; ``False`` if it was given up before."""
        with self._condition:
            if not batch.over:
                batch.worker = threading.current_thread()
            return not batch.over

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
                self._backoff.forget()
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
                self._backoff.forget()
            elif outcome is not None:
                self.failures += 1
                if not isinstance(outcome, SessionExpired):
                    self._backoff.fail(outcome)
                elif self.current.token is None:
                    self._latch(outcome)
                else:
                    outcome = None  # somebody signed in meanwhile
            self._close(batch, outcome)

    def _latch(self, error: SilentRefreshError) -> None:
        self._backoff.end(error)
        self._looked_at = self._monotonic()

    # -- for the manager -------------------------------------------------------

    def is_replacing(self, current: Current) -> bool:
        """Say whether a batch is in flight for ``current``, or has replaced it.

        A batch that has published its token, and is about to end, replaces nothing
        any more. Takes no lock: the answer is old at once in any case.
        """
        batch = self._batch
        return self.current is not current or (batch is not None and batch.based_on is current)

    def time_for_a_look(self) -> bool:
        """Say, to one caller a second, that a dead session deserves a look into the store."""
        if not self._backoff.is_dead or self._monotonic() - self._looked_at < LOOK_INTERVAL:
            return False
        with self._condition:
            now = self._monotonic()
            if now - self._looked_at < LOOK_INTERVAL:
                return False
            self._looked_at = now
            return True

    def wait_until_idle(self, timeout: float) -> None:
        """Wait until no batch is in flight, or only one that waits for a person (at exit)."""
        deadline = time.monotonic() + timeout
        with self._condition:
            while (batch := self._batch) is not None and not batch.asking:
                left = deadline - time.monotonic()
                # Who is here does not work on it: an interrupt cut its work short.
                if left <= 0 or batch.worker is threading.current_thread():
                    return
                self._condition.wait(min(left, LOOK_INTERVAL))
                self._drop_abandoned()
