"""The refresh queue's interleavings, each one forced: which thread leads and which ones wait."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
import weakref
from collections import Counter

import pytest
import requests
from queue_kit import (
    CROWD,
    Clock,
    Crowd,
    assert_no_token_was_spent_twice,
    outcome_of,
    session_for,
    signed_in,
    throw_into,
    until,
)

from requests_silent_refresh import (
    MemoryStore,
    RefreshFailed,
    RefreshTimeout,
    RefreshTokenGrant,
    RefreshUnavailable,
    SessionExpired,
    Token,
    TokenManager,
)
from requests_silent_refresh.errors import StoreError, StoreUnavailable
from requests_silent_refresh.manager.backoff import Backoff
from requests_silent_refresh.manager.current import NOT_LOADED, current_of
from requests_silent_refresh.manager.refresh_queue import RefreshQueue
from requests_silent_refresh.stores.contract import Hold, State
from requests_silent_refresh.system.background_call import Call
from requests_silent_refresh.testing import AuthorizationServer


@pytest.fixture
def look_often(monkeypatch):
    """Have waiting threads look at their batch often; no parameter sets the interval."""
    monkeypatch.setattr("requests_silent_refresh.manager.refresh_queue.LOOK_INTERVAL", 0.02)


def queue_holding(token, wait_timeout=5.0, monotonic=None):
    queue = RefreshQueue(wait_timeout, Clock(), monotonic or Clock())
    queue.publish(current_of(State.first(token), 0, 0), NOT_LOADED)
    return queue


def managing(refresh):
    """Return a manager that is signed in and refreshes by a callable."""
    manager = TokenManager(refresh, refresh_ahead=0)
    manager.sign_in(Token("old", "refresh"))
    return manager


def publish(queue, token):
    state = State.first(token) if token is not None else State("lineage", 9, None)
    assert queue.publish(current_of(state, 0, 0), queue.current)


def leader(queue, batches):
    """Return a ``lead`` that begins the batch and leaves it to the test to finish it."""

    def lead(batch):
        queue.begin(batch)
        batch.worker = threading.main_thread()  # it is alive, and does not wait
        batches.append(batch)

    return lead


# -- leading, waiting, publishing ------------------------------------------------------


def test_one_of_a_crowd_leads():
    """P1: of 32 requests rejected at once, one leads and all get its token."""
    old, new = Token("old"), Token("new")
    queue, batches = queue_holding(old), []
    crowd = Crowd(lambda: queue.renew(old, leader(queue, batches)))
    until(lambda: queue.waits == CROWD)
    assert len(batches) == 1
    publish(queue, new)
    queue.finish(batches[0], new)
    assert set(crowd.outcomes()) == {new}
    assert queue.wait_seconds > 0


def test_a_late_401_gets_the_current_token():
    """P3: the token that the request carried was already replaced, so no refresh starts."""
    old, new = Token("old"), Token("new")
    queue = queue_holding(new)
    assert queue.renew(old, lambda batch: pytest.fail("led a refresh")) is new


def test_tokens_are_compared_by_identity_not_by_value():
    """P1: a server that issues the same string again has issued a new token."""
    old, same = Token("string"), Token("string")
    queue = queue_holding(same)
    assert queue.renew(old, lambda batch: pytest.fail("led a refresh")) is same


def test_a_waiting_thread_gets_a_published_token_before_the_batch_ends():
    """P2: the token of a sign-in during a refresh is used by all at once."""
    old, new = Token("old"), Token("new")
    queue, batches = queue_holding(old), []
    crowd = Crowd(lambda: queue.renew(old, leader(queue, batches)), size=4)
    until(lambda: queue.waits == 4)
    publish(queue, new)
    assert set(crowd.outcomes()) == {new}
    assert not batches[0].over


def test_a_token_that_was_rejected_between_publish_and_finish_is_not_returned_again(server):
    """P2, P3: its request joins the batch that published it, enters again, and gets a new one."""

    class Slow(MemoryStore):
        """Takes long to release the lock after the save."""

        def exclusive(self, timeout, after=None):
            return _SlowHold(super().exclusive(timeout, after))

    releasing, go_on = threading.Event(), threading.Event()

    class _SlowHold(Hold):
        def __init__(self, hold):
            self._hold = hold

        def release(self):
            releasing.set()
            assert go_on.wait(10)
            self._hold.release()

    manager = signed_in(server, store=Slow())
    first = manager.token()
    leading = Crowd(lambda: manager.renew(first), size=1)
    assert releasing.wait(10)
    second = manager.token()
    assert second is not first
    late = Crowd(lambda: manager.renew(second), size=1)
    until(lambda: manager.stats.waits >= 2)
    go_on.set()
    assert leading.outcomes() == [second]
    (third,) = late.outcomes()
    assert third is not second
    assert server.counters.exchanges == 2
    assert_no_token_was_spent_twice(server)


def test_a_publisher_that_started_from_an_older_state_changes_nothing():
    """P4: a slow reader of the store cannot bring back an older session."""
    old, new = Token("old"), Token("new")
    queue = queue_holding(old)
    seen = queue.current
    publish(queue, new)
    assert not queue.publish(current_of(State.first(old), 0, 0), seen)
    assert queue.current.token is new


def test_a_sign_out_during_a_refresh_ends_the_wait():
    """P9: they fail at once, because the result will be dropped."""
    old = Token("old")
    queue, batches = queue_holding(old), []
    crowd = Crowd(lambda: queue.renew(old, leader(queue, batches)), size=4)
    until(lambda: queue.waits == 4)
    with queue.sign_out(ends_session=True):
        publish(queue, None)
    assert crowd.kinds() == {"SessionExpired": 4}


def test_a_refusal_that_comes_after_a_sign_in_ends_nothing():
    """P7: the refusal was about the old session, and waiting threads use the new one."""
    old, new = Token("old"), Token("new")
    queue, batches = queue_holding(old), []
    crowd = Crowd(lambda: queue.renew(old, leader(queue, batches)), size=1)
    until(lambda: queue.waits == 1)
    publish(queue, new)
    queue.finish(batches[0], SessionExpired("refused"))
    assert crowd.outcomes() == [new]
    assert queue.renew(old, lambda batch: pytest.fail("led a refresh")) is new


# -- leaders and workers that disappear ----------------------------------------------------


def test_a_leader_that_was_interrupted_before_it_began_is_replaced(server, monkeypatch, look_often):
    """P5, P8: Ctrl-C comes when the batch is open and has no worker yet; another request leads."""
    # No parameter sets this time.
    monkeypatch.setattr("requests_silent_refresh.manager.batch.BEGIN_WITHIN", 0.05)
    manager = signed_in(server)
    first = manager.token()

    def interrupted(thread):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            manager.renew(first)
    crowd = Crowd(lambda: manager.renew(first))
    (token,) = set(crowd.outcomes())
    assert token is not first
    assert server.counters.exchanges == 1


def test_an_abandoned_batch_does_not_block_a_background_refresh(monkeypatch):
    """P15: the next caller closes it, even if no thread waits."""
    # No parameter sets this time; below 0 a batch is abandoned at once.
    monkeypatch.setattr("requests_silent_refresh.manager.batch.BEGIN_WITHIN", -1)
    old = Token("old")
    queue = queue_holding(old)
    abandoned = queue.open_if_idle(old)
    assert queue.open_if_idle(old) is not None
    assert abandoned.over


def test_an_abandoned_batch_does_not_hold_up_the_exit(monkeypatch):
    """P8: nor ``finish``, which would wait for its whole time."""
    # As above.
    monkeypatch.setattr("requests_silent_refresh.manager.batch.BEGIN_WITHIN", -1)
    old = Token("old")
    queue = queue_holding(old)
    assert queue.open_if_idle(old) is not None
    assert queue.wait_until_idle(0)


def test_a_worker_that_begins_too_late_does_nothing(monkeypatch):
    """P1: its batch was given up, and another one was opened."""
    # As above.
    monkeypatch.setattr("requests_silent_refresh.manager.batch.BEGIN_WITHIN", -1)
    old = Token("old")
    queue = queue_holding(old)
    late, second = queue.open_if_idle(old), queue.open_if_idle(old)
    assert queue.begin(second)
    assert not queue.begin(late)


def test_a_worker_whose_thread_died_is_replaced(look_often):
    """P8: the waiting threads notice within a second that it has ended."""
    old, new = Token("old"), Token("new")
    queue = queue_holding(old)
    leads = []

    def lead(batch):
        leads.append(batch)
        if len(leads) == 1:  # begins and dies
            thread = threading.Thread(target=queue.begin, args=(batch,))
            thread.start()
            thread.join()
        else:
            queue.begin(batch)
            publish(queue, new)
            queue.finish(batch, new)

    assert queue.renew(old, lead) is new
    assert len(leads) == 2


def test_an_exception_thrown_into_the_leader_ends_only_its_wait(server, look_often):
    """P5: when the first request was cancelled, all others stalled (dio PR 2526)."""

    class Cancelled(BaseException):
        pass

    manager = signed_in(server)
    first, caught = manager.token(), []

    def lead():
        try:
            manager.renew(first)
        except Cancelled as cancelled:
            caught.append(cancelled)

    with server.token_gate(processed=True) as held:
        leading = threading.Thread(target=lead)
        leading.start()
        assert held.arrived.wait(10)
        behind = Crowd(lambda: manager.renew(first), size=8)
        until(lambda: manager.stats.waits == 9)
        throw_into(leading, Cancelled)
        leading.join(5)  # it wakes once a second
        assert not leading.is_alive()
        assert len(caught) == 1
    (token,) = set(behind.outcomes())
    assert token is manager.token() is not first
    assert server.counters.exchanges == 1


@pytest.mark.skipif(
    sys.gettrace() is not None,
    reason="CPython 3.11 spins while it traces and an exception waits for a thread that sleeps",
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exception_thrown_into_the_worker_fails_its_batch_once(server):
    """P5, P6: the waiting threads do not retry in turn, and a late answer is used."""

    class Thrown(BaseException):
        pass

    manager = signed_in(server)
    first = manager.token()
    with server.token_gate(processed=True) as held:
        crowd = Crowd(lambda: manager.renew(first))
        assert held.arrived.wait(10)
        until(lambda: manager.stats.waits == CROWD)
        (worker,) = [t for t in threading.enumerate() if t.name == "silent-refresh"]
        # It blocks until the exchange ends, and the exception is raised then.
        throw_into(worker, Thrown)
    # A thread that wakes between the late result and the verdict gets the token.
    assert set(crowd.kinds()) <= {"RefreshUnavailable", "Token"}
    worker.join(10)
    until(lambda: manager.token() is not first)
    assert server.counters.exchanges == 1


@pytest.mark.skipif(
    sys.gettrace() is not None,
    reason="CPython 3.11 spins while it traces and an exception waits for a thread that sleeps",
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exception_thrown_into_the_exchange_does_not_end_the_session():
    """P5, P7: the server has rotated and its answer is lost, so the request is sent once more."""

    class Thrown(BaseException):
        pass

    with AuthorizationServer(grace=60) as server:
        manager = signed_in(server)
        first = manager.token()
        with server.token_gate(processed=True) as held:
            crowd = Crowd(lambda: manager.renew(first))
            assert held.arrived.wait(10)
            (sender,) = [t for t in threading.enumerate() if t.name == "token-endpoint"]
            # It blocks until the answer comes, and the exception is raised then.
            throw_into(sender, Thrown)
        assert set(crowd.outcomes()) == {manager.token()} != {first}
        sender.join(10)
        assert server.counters.exchanges == 2
        assert server.counters.reuse_detections == 0


def test_the_result_of_a_call_survives_an_exception_in_the_waiting_thread():
    """P5: the exception comes at the moment at which the call has ended."""

    class Interrupted(Call):
        def wait(self, timeout):
            assert super().wait(10)
            raise SystemExit

    release, late = threading.Event(), []
    call = Interrupted(lambda: release.wait(10) and "token", late.append, "call")
    release.set()
    with pytest.raises(SystemExit):
        call.result(10)
    assert late == ["token"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_whose_store_ends_its_thread_fails_its_batch_once(server):
    """P6, P8: an application's store is called in the worker and may raise anything."""

    class Exiting(MemoryStore):
        def exclusive(self, timeout, after=None):
            raise SystemExit

    manager = signed_in(server, store=Exiting())
    first = manager.token()
    assert Crowd(lambda: manager.renew(first)).kinds() == {"RefreshUnavailable": CROWD}
    assert "interrupted" in str(outcome_of(lambda: manager.renew(first)))
    until(lambda: not any(t.name == "silent-refresh" for t in threading.enumerate()))


def test_an_unexpected_error_of_a_store_is_reported(server):
    """P6, P8: as ``StoreError``, with the place where it was raised."""

    class Wrong(MemoryStore):
        def exclusive(self, timeout, after=None):
            raise KeyError("typo")

    manager = signed_in(server, store=Wrong())
    with pytest.raises(StoreError, match=r"KeyError at .*test_refresh_queue\.py") as caught:
        manager.renew(manager.token())
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_exception_whose_str_raises_is_reported_by_its_type():
    """P8: the application's exception classes may do anything."""

    class Broken(Exception):
        def __str__(self):
            raise ValueError

    def refresh(token):
        raise Broken

    manager = managing(refresh)
    with pytest.raises(RefreshFailed, match="raised Broken at"):
        manager.renew(manager.token())


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (requests.ConnectionError("no route"), RefreshUnavailable),
        (requests.exceptions.InvalidURL("no host"), RefreshFailed),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_that_requests_raises_in_a_callable(raised, seen):
    """P7: an unreachable server is a temporary failure, an invalid URL a permanent one."""

    def refresh(token):
        raise raised

    manager = managing(refresh)
    with pytest.raises(seen, match="cannot be reached"):
        manager.renew(manager.token())


# -- callables that raise or misbehave -----------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (SystemExit(3), RefreshFailed),
        (KeyboardInterrupt(), RefreshFailed),
        (GeneratorExit(), RefreshFailed),
        (ValueError("synchronously"), RefreshFailed),
        (SessionExpired("over"), SessionExpired),
        (RefreshUnavailable("busy"), RefreshUnavailable),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_a_callable_that_raises_ends_the_wait_of_all(raised, seen):
    """P6, P8: the queue hung for ever after a refresh raised (fresh #119, ktor #3599), and after a
    BaseException each waiting thread retried in turn."""
    calls, hold = [], threading.Event()

    def refresh(token):
        calls.append(token)
        assert hold.wait(10)
        raise raised

    manager = managing(refresh)
    first = manager.token()
    crowd = Crowd(lambda: manager.renew(first))
    until(lambda: manager.stats.waits == CROWD)
    hold.set()
    outcomes = crowd.outcomes()
    assert Counter(map(type, outcomes)) == {seen: CROWD}
    assert len(calls) == manager.stats.exchanges == manager.stats.failures == 1
    if seen is RefreshFailed:
        assert type(raised).__name__ in str(outcomes[0])
        assert "test_refresh_queue.py" in str(outcomes[0])


def test_a_callable_that_returns_no_token_is_reported():
    """P8: as ``RefreshFailed``, which says what it must return."""
    manager = managing(lambda token: {"access_token": "dictionary"})
    with pytest.raises(RefreshFailed, match="returned dict: it must return a Token"):
        manager.renew(manager.token())


def test_a_refresh_through_its_own_queue_fails_at_once(server):
    """P8: a refresh that sent through its own session waited for itself (axios-auth-refresh #120,
    fresh #92)."""
    sessions = []

    def refresh(token):
        sessions[0].post(server.resource)
        raise AssertionError("the request came back")

    manager = signed_in(server, refresh=refresh, wait_timeout=5)
    with session_for(manager, server) as session:
        sessions.append(session)
        server.revoke_access_tokens()
        with pytest.raises(RefreshFailed, match="would wait for itself"):
            session.get(server.resource)
    assert manager.stats.exchanges == 1


def test_a_refresh_may_use_its_own_session_with_a_token_that_is_still_accepted(server):
    """A callable may send requests to the API with the old token."""
    sessions = []
    grant = RefreshTokenGrant(server.token_endpoint, "client")

    def refresh(token):
        assert sessions[0].get(server.resource).status_code == 200
        return grant(token)

    manager = signed_in(server, refresh=refresh)
    with session_for(manager, server) as session:
        sessions.append(session)
        manager.renew(manager.token())


# -- backoff ----------------------------------------------------------------------------------


def test_the_backoff_doubles_to_its_cap_and_never_overflows(monkeypatch):
    """P6: 1 s, doubled up to 60 s, times a factor of 0.5 to 1, after any number of failures."""
    monkeypatch.setattr("random.uniform", lambda low, high: (low + high) / 2)
    clock = Clock()
    backoff = Backoff(clock)
    delays = []
    for _ in range(2000):
        error = RefreshUnavailable("busy")
        backoff.fail(error)
        delays.append(error.retry_after)
        assert backoff.holds
        clock.advance(error.retry_after)
        assert not backoff.holds
    assert delays[:8] == [0.75, 1.5, 3, 6, 12, 24, 45, 45]
    assert set(delays[8:]) == {45}
    backoff.forget()
    backoff.fail(error := RefreshUnavailable("busy"))
    assert error.retry_after == 0.75


def test_a_failure_of_the_store_is_retried_after_half_a_second():
    """P6: its lock may be free at any moment, and the endpoint's backoff does not grow."""
    clock = Clock()
    backoff = Backoff(clock)
    for _ in range(5):
        backoff.fail(error := StoreUnavailable("locked"))
        assert error.retry_after == 0.5
    backoff.fail(error := RefreshUnavailable("busy"))
    assert error.retry_after <= 1


def test_32_threads_through_an_outage_of_5_seconds(server):
    """P6, P7: it costs at most 6 exchanges, the session survives, and all threads recover within
    one step of the backoff."""
    clock = Clock()
    manager = signed_in(server, monotonic=clock)
    server.revoke_access_tokens()
    server.fault("token", times=None, status=503)
    step, end = 0.25, clock.now + 5
    with session_for(manager, server) as session:
        while clock.now < end:
            crowd = Crowd(lambda: session.get(server.resource))
            assert crowd.kinds() == {"RefreshUnavailable": CROWD}
            clock.advance(step)
        assert 2 <= server.counters.exchanges <= 6
        server.clear_faults()
        exchanges = server.counters.exchanges
        error = outcome_of(lambda: session.get(server.resource))
        if isinstance(error, RefreshUnavailable):  # otherwise the last step ended just now
            assert error.retry_after <= 8
            clock.advance(error.retry_after)
        assert Crowd(lambda: session.get(server.resource)).kinds() == {200: CROWD}
        assert server.counters.exchanges == exchanges + 1
    assert_no_token_was_spent_twice(server)


# -- leaks, locks, time-outs ---------------------------------------------------------------------


def test_no_thread_exception_or_manager_is_left_after_a_refresh(server, caplog):
    """Neither after one that succeeded nor after one that failed."""

    before = threading.enumerate()

    def working():
        names = ("silent-refresh", "token-endpoint")
        threads = [thread for thread in threading.enumerate() if thread not in before]
        return [thread for thread in threads if thread.name.startswith(names)]

    def failures():
        gc.collect()
        return [thing for thing in gc.get_objects() if isinstance(thing, RefreshUnavailable)]

    # A record of the logged error would keep it alive.
    caplog.set_level(logging.ERROR, "requests_silent_refresh")
    left_by_others, clock = failures(), Clock()
    manager = signed_in(server, monotonic=clock)
    server.fault("token", status=503)
    with pytest.raises(RefreshUnavailable) as caught:
        manager.renew(manager.token())
    mine = weakref.ref(caught.value)
    until(lambda: not working())
    del caught
    gc.collect()
    assert mine() is None
    clock.advance(2)
    manager.renew(manager.token())
    until(lambda: not working())
    assert [e for e in failures() if not any(e is other for other in left_by_others)] == []
    gone = weakref.ref(manager)
    del manager
    gc.collect()
    assert gone() is None


def test_a_signal_handler_may_ask_for_a_token_while_its_thread_holds_the_lock():
    """P8: the lock is reentrant."""
    queue = queue_holding(Token("old"))
    with queue._condition:  # no public call holds it at a chosen moment
        assert queue.renew(None, lambda batch: None) is queue.current.token


def test_waiting_takes_no_connection_of_the_pool(server):
    """P8: waiting requests used up the connection pool, so the refresh never ran (okhttp #6747)."""
    manager = signed_in(server, wait_timeout=5)
    with session_for(manager, server, connections=1) as session:
        session.get_adapter(server.url).init_poolmanager(1, 1, block=True)
        server.revoke_access_tokens()
        assert Crowd(lambda: session.get(server.resource)).kinds() == {200: CROWD}
    assert server.counters.exchanges == 1


def test_the_time_out_says_that_the_refresh_goes_on():
    """P8: and that the request may be tried again."""
    queue = queue_holding(Token("old"), wait_timeout=0.05)
    with pytest.raises(RefreshTimeout, match=r"within 0.05 s; it goes on in the background"):
        queue.renew(queue.current.token, leader(queue, []))


def test_a_token_that_was_replaced_since_it_was_due_is_not_refreshed(server):
    """P1, P3: a sign-in comes between the check that a token is due and its refresh."""
    clock, moments = Clock(time.time()), []

    def now():
        if moments and moments.pop(0) == "due":
            manager.sign_in(server.sign_in_token())
        return clock()

    manager = signed_in(server, refresh_ahead=0.5, clock=now)
    clock.advance(3400)
    # The fast path reads the clock first, then the look. At the third reading the token is due.
    moments += ["fresh", "no look", "due"]
    manager.token()
    assert manager.finish(5)
    assert server.counters.exchanges == 0


# -- waking ------------------------------------------------------------------------------


@pytest.fixture
def never_look(monkeypatch):
    """Have waiting threads look at their batch only when woken; no parameter sets the interval."""
    monkeypatch.setattr("requests_silent_refresh.manager.refresh_queue.LOOK_INTERVAL", 3600)


def test_the_end_of_a_batch_wakes_all_waiting_threads(server, never_look):
    """P6, P8: a failed refresh publishes nothing, so the end of the batch must wake them."""
    answer = threading.Event()

    def refresh(token):
        answer.wait(30)
        raise requests.ConnectionError

    manager = signed_in(server, refresh=refresh, wait_timeout=3600)
    rejected = manager.token()
    crowd = Crowd(lambda: manager.renew(rejected), size=8)
    until(lambda: manager.stats.waits == 8)
    answer.set()
    assert crowd.kinds() == {"RefreshUnavailable": 8}


def test_a_sign_in_wakes_all_threads_that_wait_for_an_exchange(server, never_look):
    """P10: they use its token at once, while the exchange goes on."""
    begun, answer = threading.Event(), threading.Event()

    def refresh(token):
        begun.set()
        assert answer.wait(30), "the end of this exchange woke the waiting threads"
        raise requests.ConnectionError

    manager = signed_in(server, refresh=refresh, wait_timeout=3600)
    rejected = manager.token()
    crowd = Crowd(lambda: manager.renew(rejected), size=8)
    assert begun.wait(20)
    until(lambda: manager.stats.waits == 8)
    manager.sign_in(server.sign_in_token())
    assert crowd.outcomes(timeout=20) == [manager.token()] * 8
    answer.set()
