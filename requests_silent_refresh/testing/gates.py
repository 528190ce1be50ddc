"""Gates hold requests until a test is ready for their answers, so that no test sleeps."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .events import EventLog


class Gate:
    """Holds resource requests until ``count`` of them are in flight, then releases them all.

    >>> from requests_silent_refresh.testing import AuthorizationServer
    >>> with AuthorizationServer() as server:
    ...     gate = server.gate(1, then=server.revoke_access_tokens)
    ...     headers = {"Authorization": "Bearer " + server.sign_in()["access_token"]}
    ...     requests.get(server.resource, headers=headers).status_code
    401

    The states are *armed* (counting arrivals), *opening* (the last request to arrive
    runs ``then`` without the Condition held, while the others wait), and *open* (later
    requests pass). ``_rounds`` counts the openings: a request held in one round
    continues even if the gate is armed again before its thread wakes.

    A gate that is not full after ``timeout`` seconds opens, logs a ``"gate-timeout"``,
    and makes :meth:`wait` raise: a test fails instead of hanging.
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
        """Hold ``count`` requests again, or as many as before with ``None``.

        ``then`` replaces the function that runs when the gate opens; ``None`` keeps it.
        Raises ``RuntimeError`` if the gate has not opened since it was armed.
        """
        with self._changed:
            if not self._open:
                raise RuntimeError(f"the gate is already armed and holds {self._held} requests")
            self._arm(self._count if count is None else count, self._then if then is None else then)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the gate has opened, for at most ``timeout`` seconds.

        ``None`` means the gate's own timeout. Raises ``TimeoutError`` if the gate did not fill.
        """
        with self._changed:
            limit = self._timeout if timeout is None else timeout
            opened = self._changed.wait_for(lambda: self._open, limit)
            if not opened or self._timed_out:
                raise TimeoutError(f"{self._held} of {self._count} requests arrived at the gate")

    @property
    def is_open(self) -> bool:
        """Whether the gate has opened since it was armed."""
        return self._open

    @property
    def held(self) -> int:
        """The number of requests that have arrived since the gate was armed."""
        return self._held

    def pass_through(self) -> None:
        """Block until the gate opens; called in the thread of a request."""
        with self._changed:
            if self._open:
                return
            self._held += 1
            if self._held != self._count:  # if more have arrived, the gate is opening now
                this_round = self._rounds
                if not self._changed.wait_for(lambda: self._rounds > this_round, self._timeout):
                    self._timed_out = True
                    reason = f"{self._held} of {self._count} requests"
                    self._log.append("gate-timeout", reason=reason)
                    self.release()
                return
        self._log.append("gate-opened", reason=f"{self._count} requests in flight")
        try:
            if self._then is not None:
                self._then()
        finally:
            self.release()

    def release(self) -> None:
        """Open the gate, full or not, without running ``then``; it stays open until armed again."""
        with self._changed:  # reentrant: pass_through() may hold it
            self._open = True
            self._rounds += 1
            self._changed.notify_all()

    def _arm(self, count: int, then: Callable[[], object] | None) -> None:
        """Start to count arrivals; must be called with the Condition held."""
        self._count = count
        self._then = then
        self._held = 0
        self._timed_out = False
        self._open = False


class TokenGate:
    """Holds exchanges until :meth:`release`; a context manager that releases them on exit.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from requests_silent_refresh.testing import AuthorizationServer
    >>> with AuthorizationServer() as server, ThreadPoolExecutor() as pool:
    ...     with server.token_gate() as gate:
    ...         exchange = pool.submit(requests.post, server.token_endpoint)
    ...         gate.arrived.wait(10), exchange.done()
    (True, False)

    ``arrived`` is a ``threading.Event`` that is set when the first exchange is held.
    With ``processed`` an exchange is held after its processing and before its answer:
    the server has rotated the token, and the client does not know yet.
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
        """Let the held exchanges continue; later ones pass."""
        self._released.set()

    def pass_through(self, path: str) -> None:
        """Block until the release; called in the thread of an exchange."""
        if self._released.is_set():
            return
        with self._lock:
            self.held += 1
        self._log.append("token-held", path=path)
        self.arrived.set()
        if not self._released.wait(self._timeout):
            self._log.append("gate-timeout", path=path, reason="the token gate was not released")

    def __enter__(self) -> TokenGate:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()
