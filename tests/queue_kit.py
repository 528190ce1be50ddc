"""Shared by the tests of the queue: a clock that is set by hand, and crowds of threads."""

from __future__ import annotations

import ctypes
import threading
import time
from collections import Counter

import requests

from requests_silent_refresh import RefreshTokenGrant, SilentRefreshAdapter, TokenManager
from requests_silent_refresh.testing import AuthorizationServer

CROWD = 32


class Clock:
    """A clock that only moves when it is advanced; for ``clock=`` and for ``monotonic=``."""

    def __init__(self, now: float = 1_000_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def signed_in(server, *, refresh=None, grant=None, **options):
    """Return a manager that is signed in to the server, without refreshes ahead of time."""
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
    """Threads that run ``work`` at the same time; ``outcomes`` has what each returned or raised."""

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
            assert not thread.is_alive(), "a thread is still waiting"
        return self._outcomes

    def kinds(self) -> Counter:
        """Count the outcomes by status or by the name of the exception."""
        return Counter(
            outcome.status_code
            if isinstance(outcome, requests.Response)
            else type(outcome).__name__
            for outcome in self.outcomes()
        )


def until(condition, timeout: float = 30.0) -> None:
    """Poll until ``condition()`` is true; for changes that no event announces."""
    pause, deadline = threading.Event(), time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        pause.wait(0.005)


def assert_no_token_was_spent_twice(server) -> None:
    """Assert P1 from the server's log."""
    assert server.counters.reuse_detections == 0
    assert server.log.overlapping_exchanges() == []
    granted = [e.refresh for e in server.log.of("exchange", outcome="granted") if not e.grace]
    assert len(granted) == len(set(granted))
    assert server.log.of("gate-timeout") == []


def refresh_and_meanwhile(store, work):
    """Refresh a session in ``store``; run ``work()`` after the rotation and before the answer.

    Asserts that there is one exchange, and that its token is saved at the first attempt.
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
    """Raise ``exception`` in ``thread`` as soon as it executes Python code again."""
    assert (
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(exception)
        )
        == 1
    )
