"""Gates: hold requests until a test has what it waits for, without anybody sleeping."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from .events import EventLog


class Gate:
    """Holds resource requests until ``count`` of them are in flight, then lets them all go.

    Opens once; requests that come later pass. One Condition owns the state:
    *armed* (counting arrivals), then *opening* (the last one to arrive runs
    ``then``, outside the Condition, while the others still wait), then *open*.
    ``_rounds`` counts the openings, so that a request held in one round goes on
    although the gate may be armed again before its thread has woken.

    A gate that is not full after ``timeout`` seconds opens all the same, with a
    ``"gate-timeout"`` in the log, and :meth:`wait` says so: a test fails instead
    of hanging.
    """

    def __init__(
        self, log: EventLog, count: int, then: Callable[[], object] | None, timeout: float
    ) -> None:
        self._log = log
        self._timeout = timeout
        self._changed = threading.Condition()
        self._rounds = 0
        self._arm(count, then)

    def rearm(self, count: int | None = None, then: Callable[[], object] | None = None) -> None:
        """Hold requests again, ``count`` of them (``None``: as many as before).

        ``then`` replaces what runs when the gate opens; ``None`` keeps it.
        Raises ``RuntimeError`` where the gate has not opened since it was armed.
        """
        with self._changed:
            if not self._open:
                raise RuntimeError(f"this gate is armed already and holds {self._held} requests")
            self._arm(self._count if count is None else count, self._then if then is None else then)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the gate has opened; ``timeout`` in seconds, ``None``: the gate's own.

        Raises ``TimeoutError`` where it did not fill.
        """
        with self._changed:
            limit = self._timeout if timeout is None else timeout
            opened = self._changed.wait_for(lambda: self._open, limit)
            if not opened or self._timed_out:
                raise TimeoutError(f"{self._held} of {self._count} requests arrived at the gate")

    @property
    def is_open(self) -> bool:
        """Whether it has opened since it was armed."""
        return self._open

    @property
    def held(self) -> int:
        """How many requests have arrived since the gate was armed."""
        return self._held

    def pass_through(self) -> None:
        """Be held here, by the thread of a request, until the gate opens."""
        with self._changed:
            if self._open:
                return
            self._held += 1
            if self._held != self._count:  # more than that: it is opening just now
                self._be_held()
                return
        self._log.append("gate-opened", reason=f"{self._count} requests in flight")
        try:
            if self._then is not None:
                self._then()
        finally:
            with self._changed:
                self._let_go()

    def release(self) -> None:
        """Let the held go, full or not and without ``then``, and hold nobody until armed again."""
        with self._changed:
            self._let_go()

    # Each of the following is called with the Condition held.

    def _arm(self, count: int, then: Callable[[], object] | None) -> None:
        self._count = count
        self._then = then
        self._held = 0
        self._timed_out = False
        self._open = False

    def _be_held(self) -> None:
        this_round = self._rounds
        if not self._changed.wait_for(lambda: self._rounds > this_round, self._timeout):
            self._timed_out = True
            self._log.append("gate-timeout", reason=f"{self._held} of {self._count} requests")
            self._let_go()

    def _let_go(self) -> None:
        self._open = True
        self._rounds += 1
        self._changed.notify_all()


class TokenGate:
    """Holds exchanges until :meth:`release`; a context manager that releases at its end.

    ``arrived`` is a ``threading.Event`` set as soon as one is held. With
    ``processed`` the exchange is held between its processing and its answer:
    the server has rotated already, and the client does not know yet.
    """

    def __init__(self, log: EventLog, processed: bool, timeout: float) -> None:
        self.processed = processed
        self.arrived = threading.Event()
        self.held = 0
        self._log = log
        self._timeout = timeout
        self._released = threading.Event()
        self._lock = threading.Lock()

    def release(self) -> None:
        """Let the exchanges go; later ones pass."""
        self._released.set()

    def pass_through(self, path: str) -> None:
        """Be held here, by the thread of an exchange, until the release."""
        if self._released.is_set():
            return
        with self._lock:
            self.held += 1
        self._log.append("token-held", path=path)
        self.arrived.set()
        if not self._released.wait(self._timeout):
            self._log.append("gate-timeout", path=path, reason="nobody released the token gate")

    def __enter__(self) -> TokenGate:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
