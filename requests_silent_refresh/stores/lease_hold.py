"""A lease while it is held, and the release of leases that were left in doubt."""

from __future__ import annotations

import functools
import math
import os
import secrets
import socket
import threading
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from ..errors import StoreError, StoreUnavailable
from ..system.forking import reset_in_child
from .contract import Hold, LockLost, State
from .engine import NOTHING, Engine, Held, Seen, Silent, Unanswered, steady

T = TypeVar("T")

# Seconds between two attempts to release a lease in doubt.
_RELEASE_PAUSE = 0.1
# Seconds by which the engine's clock may have drifted from ours since it was last asked for.
_DRIFT = 0.25


class _Doubt(NamedTuple):
    """A lease that may have been given, by a step that was not answered."""

    settled_at: float
    """By ``steady``. The engine does not carry out the step any more."""
    expired_at: float
    """By ``steady``. The lease has expired, if there is one."""
    keep_mark: bool


class Leases:
    """The leases of one store in this process. Thread-safe.

    A step that was not answered may have been carried out, or may still be until its deadline:
    a lease that nobody knows would then lock out all processes until it expires. So it is
    released as soon as the engine answers again, by a thread that exists while any lease is in
    doubt. A release that is sent after the deadline is the last word. Until then no other lease
    is asked for, so their number is bounded.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.after_fork_in_child()
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Leave the leases to the parent."""
        self.begun: Lease | None = None
        """The lease under which an exchange was begun last. Its save ends it."""
        self._lock = threading.Lock()
        self._in_doubt: dict[str, _Doubt] = {}
        self._releaser: threading.Thread | None = None

    def are_settled(self) -> bool:
        """Return whether no lease is in doubt."""
        with self._lock:
            settled = not self._in_doubt
            started = settled or self._start()
        if not started:  # there may be no threads any more, for example at exit
            self._release_once()
        return settled

    def release_later(self, owner: str, doubt: _Doubt) -> None:
        """Release the lease of ``owner``, if there is one, in the background."""
        with self._lock:
            self._in_doubt[owner] = doubt
            self._start()

    def _start(self) -> bool:
        """Start the thread unless it runs; must be called with the lock held."""
        if self._releaser is not None and self._releaser.is_alive():
            return True
        thread = threading.Thread(
            target=self._release_all, name="silent-refresh-release", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            return False
        self._releaser = thread
        return True

    def _release_all(self) -> None:
        pause = threading.Event()
        while True:
            self._release_once()
            with self._lock:
                if not self._in_doubt:
                    self._releaser = None
                    return
            pause.wait(_RELEASE_PAUSE)

    def _release_once(self) -> None:
        for owner, doubt in list(self._in_doubt.items()):
            sent_at = steady()
            try:
                self.engine.ask(functools.partial(self.engine.release, owner, doubt.keep_mark))
            except StoreUnavailable:
                settled = False
            except Exception:  # noqa: BLE001 (it would fail again; the next refresh reports it)
                settled = True
            else:
                settled = sent_at >= doubt.settled_at
            if settled or sent_at >= doubt.expired_at:
                self._in_doubt.pop(owner, None)


class Lease(Hold):
    """The exclusive lock of a ``LeasedStore``, until it expires.

    ``seconds`` is its length before ``begin``, and ``margin`` what it lasts longer than the
    exchange afterwards.

    The owner's name is the only item of a list, so only one of two threads that
    release, or of a save and a release, can take it.
    """

    def __init__(self, leases: Leases, seconds: float, margin: float) -> None:
        self._leases = leases
        self._engine = leases.engine
        self._owners = [secrets.token_hex(16)]
        self._margin = margin
        self._seconds = seconds
        self._good_until = -math.inf
        self._settled_at = -math.inf
        self._is_answered = True
        self._taken = False
        self._begun: Seen | None = None
        self._keep_mark = False
        reset_in_child(self)

    def after_fork_in_child(self) -> None:
        """Leave the lease to the parent."""
        self._owners = []
        self._good_until = -math.inf

    def take(self, after: State | None, left: float) -> Held | bool:
        """Ask for the lease; see :meth:`Engine.take`. Blocks for about ``left`` seconds at most.

        Raises ``StoreUnavailable`` while an earlier lease of this process is in doubt.
        """
        if not self._leases.are_settled():
            raise Unanswered(f"{self._engine} has not answered yet after an interruption")
        owner, seen = self.owner, None if after is None else seen_of(after)
        asked_at = steady()
        answer = self._ask(
            lambda deadline: self._engine.take(owner, _me(), self._seconds, seen, deadline),
            min(self._engine.patience, max(left, 1.0)),
        )
        if answer is True:
            self._taken = True
            self._good_until = asked_at + self._seconds / 2
        return answer

    @property
    def interrupted_at(self) -> float | None:  # type: ignore[override]  # read when needed
        """See :attr:`Hold.interrupted_at`. By the engine's clock; costs a round trip."""
        try:
            return self._engine.ask(lambda: self._engine.interrupted(self.owner))
        except StoreError:
            return None  # it only makes a message clearer

    def begin(self, state: State, exchange_timeout: float = 30.0) -> None:
        owner, seen, asked_at = self.owner, seen_of(state), steady()
        seconds = self._seconds = exchange_timeout + self._margin
        if not owner or not self._ask(
            lambda deadline: self._engine.begin(owner, seen, seconds, deadline)
        ):
            raise LockLost(
                f"the lease of {self._engine} expired before the refresh began, perhaps because "
                "this process was stopped or the machine is overloaded: try again"
            )
        self._good_until = asked_at + self._margin / 2
        self._begun = seen
        self._leases.begun = self

    def still_held(self) -> bool:
        return steady() < self._good_until

    def unanswered(self) -> None:
        self._keep_mark = True

    def extend(self) -> None:
        owner, seen, asked_at = self.owner, self._begun or NOTHING, steady()
        try:
            extended = self._ask(
                lambda deadline: self._engine.extend(owner, _me(), self._seconds, seen, deadline)
            )
        except StoreError:
            return  # the next save reports it
        if extended:
            self._good_until = asked_at + self._margin / 2

    def is_for(self, new: State) -> bool:
        """Return whether saving ``new`` ends this lease, because it was taken for that."""
        begun = self._begun
        return begun is not None and new.lineage == begun[0] and new.generation > begun[1]

    def doubt(self) -> None:
        """Treat the lease as lost until ``extend`` succeeds, because a save may end it."""
        self._good_until = -math.inf

    def given_back(self) -> None:
        """Record that the engine has ended the lease."""
        self._owners = []

    def release(self) -> None:
        try:
            owner = self._owners.pop()
        except IndexError:
            return  # already released
        in_doubt = not self._is_answered or steady() < self._settled_at
        if self._taken and not in_doubt:
            try:
                self._engine.ask(lambda: self._engine.release(owner, self._keep_mark))
            except StoreError:
                in_doubt = True
        if in_doubt:
            expired_at = max(self._settled_at, steady()) + self._seconds
            self._leases.release_later(owner, _Doubt(self._settled_at, expired_at, self._keep_mark))

    @property
    def owner(self) -> str:
        """The owner's name; empty after the lease has ended."""
        owners = self._owners
        return owners[0] if owners else ""

    def _ask(self, step: Callable[[int], T], patience: float | None = None) -> T:
        """Carry out a step with its deadline. The lease is in doubt while it is not answered."""
        limit = self._engine.patience if patience is None else patience
        deadline = self._engine.deadline(limit)
        settled_at = self._settled_at
        self._settled_at = steady() + limit + _DRIFT
        self._is_answered = False
        try:
            answer = self._engine.ask(lambda: step(deadline), limit)
        except Silent:
            raise
        except Unanswered:  # with its connection the engine has closed the matter
            self._settled_at = max(settled_at, steady())
            raise
        self._is_answered = True
        self._settled_at = settled_at
        return answer


def seen_of(state: State | None) -> Seen:
    """Return what a caller has seen that knows ``state``."""
    return NOTHING if state is None else (state.lineage, state.generation)


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
