"""P8: every wait is bounded, and a late answer is not lost."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from queue_kit import (
    CROWD,
    Clock,
    Crowd,
    assert_no_token_was_spent_twice,
    outcome_of,
    session_for,
    signed_in,
    until,
)

from requests_silent_refresh import (
    MemoryStore,
    RefreshTimeout,
    RefreshTokenGrant,
    StoreUnavailable,
    Token,
    TokenManager,
)
from requests_silent_refresh.manager.current import current_of
from requests_silent_refresh.manager.refresh_queue import RefreshQueue
from requests_silent_refresh.stores.contract import Hold, State

WAIT = 0.3
SLACK = 1.0


@pytest.fixture
def never():
    """An event for callables that never return; it is set when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def timed(work):
    def run():
        began = time.monotonic()
        return outcome_of(work), time.monotonic() - began

    return run


def in_time(server, session):
    """Return what 32 requests ended with and after how long, having checked the longest wait."""
    outcomes = Crowd(timed(lambda: session.get(server.resource))).outcomes()
    ended = time.monotonic()
    # A wait begins with the 401. On a busy machine, 32 connections alone can take a second.
    assert ended - max(event.at for event in server.log.of("resource")) < WAIT + SLACK
    return outcomes


def assert_all_answered_in_time(server, manager):
    """Assert that 32 waiters get a ``RefreshTimeout`` at most a second after their deadline."""
    with session_for(manager, server) as session:
        server.revoke_access_tokens()
        outcomes = in_time(server, session)
        assert Counter(type(o).__name__ for o, _ in outcomes) == {"RefreshTimeout": CROWD}
        assert max(seconds for _, seconds in outcomes) >= WAIT
        assert all(o.response.status_code == 401 for o, _ in outcomes)
        # A request that arrives while that refresh is still in flight fails at once.
        error, seconds = timed(lambda: session.get(server.resource))()
        assert isinstance(error, RefreshTimeout)
        assert seconds < SLACK / 2


def test_a_token_endpoint_that_trickles_a_byte_a_second(server):
    """P8: each waiter fails within its deadline + 1 s, and the exchange at its own deadline."""
    manager = signed_in(server, wait_timeout=WAIT, grant={"timeout": 1.0})
    server.fault("token", trickle=1)
    assert_all_answered_in_time(server, manager)
    until(lambda: manager.stats.failures == 1, timeout=2.0)


def test_an_endless_answer(server):
    """P8: a slow, endless answer is cut off at the grant's deadline."""
    manager = signed_in(server, wait_timeout=WAIT, grant={"timeout": 1.0})
    server.fault("token", huge=True, trickle=1000)
    assert_all_answered_in_time(server, manager)
    until(lambda: manager.stats.failures == 1, timeout=2.0)


def test_a_callable_that_never_returns(server, never):
    """P8: the call is left behind at its deadline, and the next request may make another."""
    calls = []
    grant = RefreshTokenGrant(server.token_endpoint, "client")

    def refresh(token):
        calls.append(token)
        if len(calls) == 1:
            never.wait(60)
        return grant(token)

    refresh.timeout = 0.5
    clock = Clock()
    manager = signed_in(server, refresh=refresh, wait_timeout=WAIT, monotonic=clock)
    assert_all_answered_in_time(server, manager)
    until(lambda: manager.stats.failures == 1)
    clock.advance(1)
    with session_for(manager, server) as session:
        assert session.get(server.resource).status_code == 200
    assert len(calls) == 2


def test_a_store_whose_lock_is_never_free(server):
    """P8: waiters learn before their deadline who holds the lock, and no exchange is made."""
    store = MemoryStore()
    manager = signed_in(server, store=store, wait_timeout=WAIT)
    server.revoke_access_tokens()
    with store.exclusive(0), session_for(manager, server) as session:
        outcomes = in_time(server, session)
    assert Counter(type(o) for o, _ in outcomes) == {StoreUnavailable: CROWD}
    assert {o.holder for o, _ in outcomes} == {"this process"}
    assert server.counters.exchanges == 0


class HangingStore(MemoryStore):
    """A user's store that hangs at one step until the event ``go_on`` is set."""

    def __init__(self, step, go_on):
        super().__init__()
        self.armed = False
        self._step = step
        self._go_on = go_on

    def _at(self, step):
        if self.armed and step == self._step:
            self._go_on.wait(60)

    def replace(self, new, after):
        self._at("save")
        super().replace(new, after)

    def exclusive(self, timeout, after=None):
        self._at("lock")
        hold = super().exclusive(timeout, after)
        return hold if hold is None else _HangingHold(hold, lambda: self._at("release"))


class _HangingHold(Hold):
    def __init__(self, hold, before_release):
        self._hold = hold
        self._before_release = before_release

    def release(self):
        self._before_release()
        self._hold.release()


@pytest.mark.parametrize("step", ["lock", "save"])
def test_a_store_that_hangs(server, never, step):
    """P8: a waiter fails at its deadline whatever the store does, and a late save is used."""
    store = HangingStore(step, never)
    manager = signed_in(server, store=store, wait_timeout=WAIT)
    store.armed = True
    assert_all_answered_in_time(server, manager)
    never.set()
    until(lambda: manager.stats.exchanges == 1 and store.load().generation == 2)
    with session_for(manager, server) as session:
        assert session.get(server.resource).status_code == 200
    assert_no_token_was_spent_twice(server)


def test_a_late_answer_is_saved_and_used(server):
    """P5, P8: the session survives a server that rotates at once but answers after the deadline."""
    store = MemoryStore()
    manager = signed_in(server, store=store, wait_timeout=WAIT)
    server.revoke_access_tokens()
    with session_for(manager, server) as session:
        with server.token_gate(processed=True) as held:
            with pytest.raises(RefreshTimeout, match="goes on in the background"):
                session.get(server.resource)
            assert held.arrived.is_set()
            assert store.load().generation == 1
        until(lambda: store.load().generation == 2)
        assert session.get(server.resource).status_code == 200
    assert server.counters.exchanges == 1


def test_the_result_of_a_call_left_behind_is_saved_and_reported(server):
    """P4, P5: the token of a callable that returns long after its deadline is still used."""
    grant = RefreshTokenGrant(server.token_endpoint, "client")
    release, told = threading.Event(), []

    def refresh(token):
        granted = grant(token)
        release.wait(10)
        return granted

    refresh.timeout = 0.1
    store = MemoryStore()
    manager = signed_in(
        server, refresh=refresh, store=store, wait_timeout=5, on_refreshed=told.append
    )
    server.revoke_access_tokens()
    with session_for(manager, server) as session:
        error = outcome_of(lambda: session.get(server.resource))
        assert type(error).__name__ == "RefreshUnavailable"
        assert told == []
        release.set()
        until(lambda: told)
        assert store.load().generation == 2
        assert session.get(server.resource).status_code == 200
    assert manager.token() is told[0]
    assert server.counters.exchanges == 1


def test_the_result_of_a_call_left_behind_is_revoked_after_a_sign_out(server):
    """P4: the state has changed, so the late result is dropped, and its token is revoked."""
    grant = RefreshTokenGrant(
        server.token_endpoint, "client", revocation_endpoint=server.revocation_endpoint
    )
    release = threading.Event()

    def refresh(token):
        granted = grant(token)
        release.wait(10)
        return granted

    refresh.timeout = 0.1
    refresh.revoke = grant.revoke
    manager = signed_in(server, refresh=refresh)
    outcome_of(lambda: manager.renew(manager.token()))
    manager.sign_out()
    release.set()
    server.wait_for(lambda: server.counters.revocations == 2)
    assert not manager.signed_in


def test_a_late_answer_is_used_although_it_cannot_be_saved(server):
    """P4: the old token is spent, so the new one is used; the next refresh saves its successor."""
    grant = RefreshTokenGrant(server.token_endpoint, "client")
    release = threading.Event()

    def refresh(token):
        granted = grant(token)
        release.wait(10)
        return granted

    class Full(MemoryStore):
        full = False

        def replace(self, new, after):
            if self.full:
                raise OSError(28, "No space left on device")
            super().replace(new, after)

    refresh.timeout = 0.1
    store, clock = Full(), Clock()
    manager = signed_in(server, refresh=refresh, store=store, monotonic=clock)
    first = manager.token()
    outcome_of(lambda: manager.renew(first))
    store.full = True
    release.set()
    until(lambda: manager.token() is not first)
    store.full = False
    assert store.load().generation == 1
    clock.advance(2)
    manager.renew(manager.token())
    assert store.load().generation == 3
    assert_no_token_was_spent_twice(server)


def test_a_waiters_time_is_counted_over_all_refreshes_it_waits_for():
    """P8: a waiter whose batch brought nothing joins the next one under the same deadline."""
    batches = []
    queue = RefreshQueue(WAIT, time.time)
    first = Token("first", "refresh")
    assert queue.publish(current_of(State.first(first), 0, time.time()), queue.current)

    def lead_nowhere(batch):
        batches.append(batch)
        assert len(batches) < 100, "the waiter got a new deadline"
        queue.begin(batch)
        timer = threading.Timer(0.05, queue.finish, (batch, None))
        timer.daemon = True
        timer.start()

    began = time.monotonic()
    with pytest.raises(RefreshTimeout):
        queue.renew(first, lead_nowhere)
    assert time.monotonic() - began < WAIT + SLACK
    assert len(batches) > 1


def test_a_request_with_a_short_timeout_does_not_shorten_the_refresh(server):
    """P8: a shared refresh does not inherit the first caller's timeout (golang/oauth2 #388)."""
    manager = signed_in(server)
    server.latency = 0.2
    server.revoke_access_tokens()
    with session_for(manager, server) as session:
        assert session.get(server.resource, timeout=0.1).status_code == 200


def test_a_callables_timeout_must_be_seconds():
    """P8: a callable whose timeout is not a positive number is rejected at construction."""

    def refresh(token):
        raise AssertionError

    for timeout in (0, -1, float("inf"), float("nan"), "30", (3, 30)):
        refresh.timeout = timeout
        with pytest.raises((TypeError, ValueError), match=r"timeout must be .* seconds"):
            TokenManager(refresh)
