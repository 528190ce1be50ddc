"""The refresh queue: the current token, and the threads waiting for the next one."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator

from ..errors import RefreshFailed, RefreshTimeout, SessionExpired, SilentRefreshError
from ..system.forking import reset_in_child
from ..token import Token
from .backoff import Backoff
from .batch import Batch, Insiders
from .current import NOT_LOADED, Current
from .queue_state import QueueState

# Seconds after which a waiter looks whether its batch was abandoned, without being woken.
LOOK_INTERVAL = 1.0


class RefreshQueue:
    """Where parallel requests wait for one refresh. Owns one Condition and all that it guards.

    :mod:`.queue_state` names the states, and the interleavings that matter.

    Nothing is done under the lock but reading and writing these fields. A request of a dead
    session fails without it (P9).
    """

    def __init__(
        self,
        wait_timeout: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current: Current = NOT_LOADED  # written under the lock, read without it
        self.wait_timeout = wait_timeout
        self.waits = 0
        self.wait_seconds = 0.0
        self.failures = 0
        self._clock = clock
        self._monotonic = monotonic
        self.after_fork_in_child()
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Start anew: threads that held the lock or led a batch exist in the parent only."""
        # `with` on the lock itself: a Condition's own `__enter__` is Python code, and an exception
        # that a signal handler raises in there would leave the lock taken for ever.
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        self._batch: Batch | None = None
        # Those under way; held weakly, since a signal handler's exception may end one anywhere.
        self._sign_outs: weakref.WeakSet[SessionExpired] = weakref.WeakSet()
        self.insiders = Insiders()
        self._backoff = Backoff(self._monotonic)

    @property
    def state(self) -> QueueState:
        """The state at this moment."""
        with self._lock:
            return self._settle()

    @property
    def is_dead(self) -> bool:
        """Whether the session is over; takes no lock (P9)."""
        return self._backoff.is_dead

    # -- for threads that want a token ----------------------------------------

    def renew(self, rejected: Token | None, lead: Callable[[Batch], None]) -> Token:
        """Return a usable token other than ``rejected``, waiting for a refresh if needed.

        ``lead(batch)`` is called, without the lock, by the one caller that finds nobody
        refreshing; it starts the work and returns.
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
            if batch.asking:  # the time that a person took is not the refresh's
                deadline = time.monotonic() + self.wait_timeout

    def open_if_idle(self, replacing: Token) -> Batch | None:
        """Open a batch that nobody waits for; ``None`` unless the queue is idle.

        ``replacing`` is the token that was found to be due or rejected; ``None`` is returned
        if it has been replaced since.
        """
        with self._lock:
            is_idle = self._settle() is QueueState.IDLE and not self._backoff.holds_early
            return self._open() if is_idle and self.current.token is replacing else None

    def open_if_unled(self) -> Batch | None:
        """Open a batch to save in, which backoff and a dead session do not forbid.

        ``None`` while another one is in flight.
        """
        with self._lock:
            self._settle()
            return None if self._batch is not None else self._open(saves_only=True)

    def _fail_if_dead(self) -> None:
        verdict = self._backoff.verdict
        if verdict is not None and verdict.is_final:
            raise verdict.error.again()

    def _enter(self, rejected: Token | None) -> Token | tuple[Batch, bool]:
        with self._lock:
            token = self._usable(rejected)
            if token is not None:
                return token
            if self.insiders.am_one():
                raise RefreshFailed(
                    "a refresh or sign-in callback asked for the token that it is to bring and "
                    "would wait for itself: give it a session of its own, without this adapter"
                )
            state, verdict = self._settle(), self._backoff.verdict
            if verdict is not None and state in (QueueState.DEAD, QueueState.BACKOFF):
                return self._fall_back(rejected, verdict.to_raise(self._monotonic()))
            leads = self._batch is None
            batch = self._batch or self._open()
            batch.awaited = True
            return batch, leads

    def _wait(self, batch: Batch, rejected: Token | None, deadline: float) -> Token | None:
        """Wait for the batch. ``None`` means that it settled nothing: enter again."""
        began = time.monotonic()
        with self._lock:
            self.waits += 1
            try:
                while not batch.over:
                    if self._usable(rejected) is not None or self._settle() is QueueState.DEAD:
                        return None  # published, or signed out, before the batch is over
                    if batch.over:
                        break
                    until = batch.deadline if batch.asking else min(batch.deadline, deadline)
                    left = until - time.monotonic()
                    if left <= 0:
                        return self._fall_back(rejected, self._too_late(batch))
                    self._sleep(min(left, LOOK_INTERVAL))
            finally:
                self.wait_seconds += time.monotonic() - began
            result = batch.result()
            if isinstance(result, SilentRefreshError):
                return self._fall_back(rejected, result)
            return None if result is rejected else result

    # -- helpers that must be called with the lock held -----------------------

    def _settle(self) -> QueueState:
        """Close a batch that was abandoned, and return the state: the one place that decides it."""
        batch = self._batch
        if batch is not None and batch.is_abandoned():
            self._close(batch, None)
            batch = None
        if self._backoff.is_dead:
            return QueueState.DEAD
        if batch is None:
            return QueueState.BACKOFF if self._backoff.holds else QueueState.IDLE
        if batch.asking:
            return QueueState.ASKING
        late = time.monotonic() >= batch.deadline
        return QueueState.LATE if late else QueueState.REFRESHING

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

    def _sleep(self, seconds: float) -> None:
        """Wait for a change, and hold the lock again afterwards, whatever a handler raised."""
        try:
            self._condition.wait(seconds)
        finally:
            if not self._condition._is_owned():  # type: ignore[attr-defined]  # has no public name
                self._lock.acquire()

    def _open(self, *, saves_only: bool = False) -> Batch:
        self._batch = Batch(
            self.current,
            time.monotonic() + self.wait_timeout,
            saves_only=saves_only,
            signed_out=any(True for _ in self._sign_outs),
        )
        return self._batch

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

    # -- for the worker -------------------------------------------------------

    def begin(self, batch: Batch) -> bool:
        """Note that this thread works on ``batch``; ``False`` if it was given up before."""
        with self._lock:
            if not batch.over:
                batch.worker = threading.current_thread()
            return not batch.over

    def publish(self, new: Current, replacing: Current) -> bool:
        """Make ``new`` the current state if ``replacing`` still is; return whether it was.

        A state with a token ends every verdict. One without makes the session dead only
        through :meth:`finish` or :meth:`sign_out`.
        """
        with self._lock:
            if self.current is not replacing:
                return False
            if new.token is not None:
                self._backoff.forget()  # first: a final verdict means that there is no token
            self.current = new
            self._condition.notify_all()
            return True

    def ask(self, batch: Batch, timeout: float) -> bool:
        """Let the batch's waiters stay ``timeout`` seconds while somebody is asked to sign in.

        ``False`` if nobody is to be asked, because the session was signed out.
        """
        with self._lock:
            if not batch.signed_out:
                batch.asking = True
                batch.deadline = time.monotonic() + timeout
            return not batch.signed_out

    def finish(self, batch: Batch, outcome: Token | SilentRefreshError | None) -> None:
        """End the batch and wake all that wait for it.

        A token must have been published before. ``SessionExpired`` makes the session dead, and
        may only be given once the refused token is not current any more. Another error starts
        or lengthens the backoff; if nobody waited, only that of refreshes ahead of time, which
        delays no request (P7). ``None`` makes the waiters enter again.
        """
        with self._lock:
            if batch.over:
                return  # a sign-out ended it
            if isinstance(outcome, SessionExpired) and self.current.token is not None:
                outcome = None  # somebody signed in meanwhile
            try:
                if isinstance(outcome, SilentRefreshError):
                    self.failures += 1
                    if isinstance(outcome, SessionExpired):
                        self._backoff.end(outcome)
                    else:
                        self._backoff.fail(outcome, awaited=batch.awaited)
            finally:
                self._close(batch, outcome)

    # -- for the manager ------------------------------------------------------

    @contextlib.contextmanager
    def sign_out(self, *, ends_session: bool) -> Iterator[None]:
        """End the session while the block runs: nobody is asked to sign in from here on (P10).

        A wait for a sign-in ends at once. ``ends_session`` tells whether requests fail from
        the end of the block until a sign-in, or may start from nothing.
        """
        over = SessionExpired("signed out")
        with self._lock:
            self._sign_outs.add(over)
            batch = self._batch
            if batch is not None:
                batch.signed_out = True
                if batch.asking:
                    self._close(batch, over)
        try:
            yield
        finally:
            with self._lock:
                self._sign_outs.discard(over)
                if ends_session and self.current.token is None:
                    self._backoff.end(over)
                    self._condition.notify_all()

    def is_replacing(self, current: Current) -> bool:
        """Say whether a batch is in flight for ``current``, or has replaced it.

        A batch that has published its token and is about to end replaces nothing any more,
        and one that only saves a token never does. Takes no lock: another thread may change
        the answer at once in any case.
        """
        batch = self._batch
        if batch is not None and batch.based_on is current and not batch.saves_only:
            return True
        return self.current is not current

    def wait_until_idle(self, timeout: float) -> bool:
        """Wait until no batch is in flight, or only one that waits for a person.

        Returns whether that is so after ``timeout`` seconds, and at once in the thread that
        works on the batch.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            while True:
                self._settle()
                batch = self._batch
                if batch is None or batch.asking:
                    return True
                left = deadline - time.monotonic()
                if left <= 0 or batch.worker is threading.current_thread():
                    return False
                self._sleep(min(left, LOOK_INTERVAL))
