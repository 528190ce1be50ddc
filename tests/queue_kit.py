"""What the tests of the queue share: a clock that is wound by hand, and crowds of threads."""

from __future__ import annotations

import ctypes
import threading
from collections import Counter

import requests

from requests_silent_refresh import RefreshTokenGrant, SilentRefreshAdapter, TokenManager
from requests_silent_refresh.testing import AuthorizationServer

CROWD = 32


class Clock:
    """A clock that stands until it is advanced; for ``clock=`` and for ``monotonic=``."""

    def __init__(self, now: float = 1_000_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def signed_in(server, *, refresh=None, grant=None, **options):
    """Return a manager that holds a session of the server; nothing refreshes ahead."""
    if refresh is None:
        refresh = RefreshTokenGrant(
            server.token_endpoint,
            "client",
            **{"revocation_endpoint": server.revocation_endpoint, **(grant or {})},
        )
    manager = TokenManager(refresh, **{"refresh_ahead": 0, **options})
    manager.sign_in(server.sign_in_token())
    return manager


def session_for(manager, server, connections=CROWD):
    """Return a session that sends the manager's token to the server."""
    session = requests.Session()
    SilentRefreshAdapter(manager, server.url, pool_maxsize=connections).mount_on(session)
    return session


def outcome_of(work):
    """Return what ``work()`` returns or raises."""
    try:
        return work()
    except Exception as error:
        return error


class Crowd:
    """Threads that do the same thing at once; ``outcomes`` are what each returned or raised."""

    def __init__(self, work, size: int = CROWD) -> None:
        self._barrier = threading.Barrier(size)
        self._outcomes: list[object] = [None] * size
        self._threads = [
            threading.Thread(target=self._run, args=(work, n), daemon=True) for n in range(size)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, work, number) -> None:
        self._barrier.wait()
        self._outcomes[number] = outcome_of(work)

    def outcomes(self, timeout: float = 60.0) -> list:
        for thread in self._threads:
            thread.join(timeout)
            assert not thread.is_alive(), "a thread waits for ever"
        return self._outcomes

    def kinds(self) -> Counter:
        """Count the outcomes: statuses, and names of exceptions."""
        return Counter(
            outcome.status_code
            if isinstance(outcome, requests.Response)
            else type(outcome).__name__
            for outcome in self.outcomes()
        )


def until(condition, timeout: float = 30.0) -> None:
    """Wait until ``condition()`` holds; for what no event tells."""
    pause, left = threading.Event(), timeout
    while not condition():
        assert left > 0, "not in time"
        pause.wait(0.005)
        left -= 0.005


def assert_no_token_was_spent_twice(server) -> None:
    """P1, from the server's log."""
    assert server.counters.reuse_detections == 0
    assert server.log.overlapping_exchanges() == []
    granted = [e.refresh for e in server.log.of("exchange", outcome="granted") if not e.grace]
    assert len(granted) == len(set(granted))
    assert server.log.of("gate-timeout") == []


def refresh_and_meanwhile(store, work):
    """Refresh a session in ``store``; do ``work()`` while the server has rotated, not answered.

    Asserts that the one exchange's token came and was saved at the first attempt.
    """
    replace, failures = store.replace, []

    def watched(new, after):
        try:
            replace(new, after)
        except Exception as error:
            failures.append(error)
            raise

    store.replace = watched
    with AuthorizationServer() as server:
        manager = signed_in(server, store=store)
        old = manager.token()
        with server.token_gate(processed=True) as held:
            crowd = Crowd(lambda: manager.renew(old), size=1)
            assert held.arrived.wait(30)
            work()
        (token,) = crowd.outcomes()
        assert token is manager.token()
        assert token is not old
        assert failures == []
        stored = store.load()
        assert stored.generation == 2
        assert stored.token.refresh_token.reveal() == token.refresh_token.reveal()
        assert server.counters.exchanges == 1


def throw_into(thread, exception) -> None:
    """Raise ``exception`` in another thread, as soon as that executes Python again."""
    assert (
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(exception)
        )
        == 1
    )
