"""The queue's interleavings, each forced: who leads, who waits, who is served by what."""

from __future__ import annotations

import gc
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
from requests_silent_refresh.errors import StoreUnavailable
from requests_silent_refresh.manager.backoff import Backoff
from requests_silent_refresh.manager.current import NOT_LOADED, current_of
from requests_silent_refresh.manager.refresh_queue import RefreshQueue
from requests_silent_refresh.stores.contract import Hold, State
from requests_silent_refresh.system.background_call import Call
from requests_silent_refresh.testing import AuthorizationServer


@pytest.fixture
def impatient(monkeypatch):
    """Waiters that look around often."""
    monkeypatch.setattr("requests_silent_refresh.manager.refresh_queue.LOOK_INTERVAL", 0.02)


def queue_holding(token, wait_timeout=5.0, monotonic=None):
    queue = RefreshQueue(wait_timeout, Clock(), monotonic or Clock())
    queue.publish(current_of(State.first(token), 0, 0), NOT_LOADED)
    return queue


def publish(queue, token):
    state = State.first(token) if token is not None else State("lineage", 9, None)
    assert queue.publish(current_of(state, 0, 0), queue.current)


def leader(queue, batches):
    """Return a ``lead`` that begins and leaves the finishing to the test."""

    def lead(batch):
        queue.begin(batch)
        batch.worker = threading.main_thread()  # alive, and not the one who waits
        batches.append(batch)

    return lead


# -- who leads and who is served -------------------------------------------------------


def test_one_of_a_crowd_leads():
    """P1: of 32 that are rejected at once, one leads and all get what it brings."""
    old, new = Token("old"), Token("new")
    queue, batches = queue_holding(old), []
    crowd = Crowd(lambda: queue.renew(old, leader(queue, batches)))
    until(lambda: queue.waits == CROWD)
    assert len(batches) == 1
    publish(queue, new)
    queue.finish(batches[0], new)
    assert set(crowd.outcomes()) == {new}
    assert queue.wait_seconds > 0


def test_a_late_401_takes_the_token_that_is_there():
    """P3: what counts is the token the request carried; another one is current, nobody leads."""
    old, new = Token("old"), Token("new")
    queue = queue_holding(new)
    assert queue.renew(old, lambda batch: pytest.fail("led a refresh")) is new


def test_a_token_is_told_from_another_by_identity_not_by_value():
    """P1: a server that reissues the very same string has issued a new token all the same."""
    old, same = Token("string"), Token("string")
    queue = queue_holding(same)
    assert queue.renew(old, lambda batch: pytest.fail("led a refresh")) is same


def test_a_waiter_leaves_with_what_is_published_though_the_batch_goes_on():
    """P2: a sign-in while a refresh is under way is everybody's at once."""
    old, new = Token("old"), Token("new")
    queue, batches = queue_holding(old), []
    crowd = Crowd(lambda: queue.renew(old, leader(queue, batches)), size=4)
    until(lambda: queue.waits == 4)
    publish(queue, new)
    assert set(crowd.outcomes()) == {new}
    assert not batches[0].over


def test_a_token_that_was_rejected_between_publish_and_finish_is_not_handed_out_again(server):
    """P2, P3: its request joins the batch that brought it, and is not served by that one."""

    class Slow(MemoryStore):
        """Takes its time between the save and the release of the lock."""

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


def test_a_sign_out_while_a_refresh_is_under_way_frees_its_waiters():
    """P9: nobody waits for a result that will be dropped."""
    old = Token("old")
    queue, batches = queue_holding(old), []
    crowd = Crowd(lambda: queue.renew(old, leader(queue, batches)), size=4)
    until(lambda: queue.waits == 4)
    with queue.sign_out(ends_session=True):
        publish(queue, None)
    assert crowd.kinds() == {"SessionExpired": 4}


def test_a_refusal_that_comes_after_a_sign_in_ends_nothing():
    """P7: the verdict was on the old session; who waits takes the new one."""
    old, new = Token("old"), Token("new")
    queue, batches = queue_holding(old), []
    crowd = Crowd(lambda: queue.renew(old, leader(queue, batches)), size=1)
    until(lambda: queue.waits == 1)
    publish(queue, new)
    queue.finish(batches[0], SessionExpired("refused"))
    assert crowd.outcomes() == [new]
    assert queue.renew(old, lambda batch: pytest.fail("led a refresh")) is new


# -- a leader that is gone ----------------------------------------------------------------


def test_a_leader_that_was_interrupted_before_it_began_is_replaced(server, monkeypatch, impatient):
    """P5, P8: an exception at the worst line leaves a batch to nobody; the next one leads anew."""
    monkeypatch.setattr("requests_silent_refresh.manager.batch.BEGIN_WITHIN", 0.05)
    manager = signed_in(server)
    first = manager.token()

    def interrupted(batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        manager._queue.renew(first, interrupted)
    crowd = Crowd(lambda: manager.renew(first))
    (token,) = set(crowd.outcomes())
    assert token is not first
    assert server.counters.exchanges == 1


def test_a_background_refresh_is_not_kept_from_running_by_an_abandoned_one(monkeypatch):
    """P15: what was abandoned is cleared by whoever comes next, also if nobody waits."""
    monkeypatch.setattr("requests_silent_refresh.manager.batch.BEGIN_WITHIN", -1)
    old = Token("old")
    queue = queue_holding(old)
    abandoned = queue.open_if_idle(old)
    assert queue.open_if_idle(old) is not None
    assert abandoned.over


def test_a_worker_that_begins_too_late_does_nothing(monkeypatch):
    """P1: a batch has one worker; one that was given up is not begun by the first after all."""
    monkeypatch.setattr("requests_silent_refresh.manager.batch.BEGIN_WITHIN", -1)
    old = Token("old")
    queue = queue_holding(old)
    late, second = queue.open_if_idle(old), queue.open_if_idle(old)
    assert queue.begin(second)
    assert not queue.begin(late)


def test_a_worker_whose_thread_died_is_replaced(impatient):
    """P8: a thread that ended without a word is noticed by its waiters within a second."""
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


def test_an_exception_thrown_into_the_leader_ends_its_wait_and_nothing_else(server, impatient):
    """P5: the head of the queue was cancelled and everybody behind it stalled (dio PR 2526)."""

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
    """P6, P5: nobody tries again in turn, and the answer that comes in the end is used."""

    class Thrown(BaseException):
        pass

    manager = signed_in(server)
    first = manager.token()
    with server.token_gate(processed=True) as held:
        crowd = Crowd(lambda: manager.renew(first))
        assert held.arrived.wait(10)
        until(lambda: manager.stats.waits == CROWD)
        (worker,) = [t for t in threading.enumerate() if t.name == "silent-refresh"]
        # It sleeps in the exchange, and looks up when that ends: so end it for this thread.
        throw_into(worker, Thrown)
    # Those who wake between the late result and the verdict have the token.
    assert set(crowd.kinds()) <= {"RefreshUnavailable", "Token"}
    worker.join(10)
    until(lambda: manager.token() is not first)
    assert server.counters.exchanges == 1


@pytest.mark.skipif(
    sys.gettrace() is not None,
    reason="CPython 3.11 spins while it traces and an exception waits for a thread that sleeps",
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exception_thrown_into_who_talks_to_the_endpoint_costs_no_session():
    """P5, P7: the server has rotated and its answer is lost: it is asked once more."""

    class Thrown(BaseException):
        pass

    with AuthorizationServer(grace=60) as server:
        manager = signed_in(server)
        first = manager.token()
        with server.token_gate(processed=True) as held:
            crowd = Crowd(lambda: manager.renew(first))
            assert held.arrived.wait(10)
            (talker,) = [t for t in threading.enumerate() if t.name == "token-endpoint"]
            # It sleeps in the read, and looks up when the answer is there.
            throw_into(talker, Thrown)
        assert set(crowd.outcomes()) == {manager.token()} != {first}
        talker.join(10)
        assert server.counters.exchanges == 2
        assert server.counters.reuse_detections == 0


def test_what_a_call_brought_is_not_lost_with_the_thread_that_waited_for_it():
    """P5: an exception thrown into that thread just when the call has ended."""

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
    """P6, P8: a store of the user's is called in the worker and may raise anything."""

    class Exiting(MemoryStore):
        def exclusive(self, timeout, after=None):
            raise SystemExit

    manager = signed_in(server, store=Exiting())
    first = manager.token()
    assert Crowd(lambda: manager.renew(first)).kinds() == {"RefreshUnavailable": CROWD}
    assert "interrupted" in str(outcome_of(lambda: manager.renew(first)))
    until(lambda: not any(t.name == "silent-refresh" for t in threading.enumerate()))


def test_a_store_that_raises_what_it_must_not_is_told(server):
    """P6, P8: a wrong set-up, with the place where it was raised."""

    class Wrong(MemoryStore):
        def exclusive(self, timeout, after=None):
            raise KeyError("typo")

    manager = signed_in(server, store=Wrong())
    with pytest.raises(RefreshFailed, match=r"KeyError at .*test_refresh_queue\.py") as caught:
        manager.renew(manager.token())
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_exception_whose_message_raises_is_told_by_its_type():
    """P8: whatever the method of another's class does."""

    class Broken(Exception):
        def __str__(self):
            raise ValueError

    def refresh(token):
        raise Broken

    manager = TokenManager(refresh)
    manager.sign_in(Token("old", "refresh"))
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
def test_what_requests_raises_in_a_callable(raised, seen):
    """P7: out of reach is no verdict; a URL that is none is mended by no retry."""

    def refresh(token):
        raise raised

    manager = TokenManager(refresh)
    manager.sign_in(Token("old", "refresh"))
    with pytest.raises(seen, match="cannot be reached"):
        manager.renew(manager.token())


# -- callables that raise what they like ---------------------------------------------------


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
    """P6, P8: the queue hung for ever after a refresh threw (fresh #119, ktor #3599), and with a
    BaseException each waiter tried in turn."""
    calls, hold = [], threading.Event()

    def refresh(token):
        calls.append(token)
        assert hold.wait(10)
        raise raised

    manager = TokenManager(refresh, refresh_ahead=0)
    manager.sign_in(Token("old", "refresh"))
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


def test_a_callable_that_returns_no_token_says_so():
    """P8: a wrong set-up is told, not guessed at."""
    manager = TokenManager(lambda token: {"access_token": "dictionary"}, refresh_ahead=0)
    manager.sign_in(Token("old", "refresh"))
    with pytest.raises(RefreshFailed, match="returned dict: it must return a Token"):
        manager.renew(manager.token())


def test_a_refresh_through_its_own_queue_is_noticed_at_once(server):
    """P8: the refresh went through its own queue and waited for itself (axios-auth-refresh #120,
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


def test_a_refresh_may_use_its_session_where_that_waits_for_nothing(server):
    """A callable that asks the API for something with the old token gets it."""
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
    """P6: 1 s, doubled up to 60 s, with a factor of 0.5 to 1; whatever the number of failures."""
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


def test_a_stores_trouble_is_tried_again_after_half_a_second():
    """P6: who locks the store may be gone any moment; and it says nothing about the endpoint."""
    clock = Clock()
    backoff = Backoff(clock)
    for _ in range(5):
        backoff.fail(error := StoreUnavailable("locked"))
        assert error.retry_after == 0.5
    backoff.fail(error := RefreshUnavailable("busy"))
    assert error.retry_after <= 1


def test_32_threads_through_an_outage_of_5_seconds(server):
    """P6, P7: at most 6 exchanges, the session survives, all recover within one backoff step."""
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
        if isinstance(error, RefreshUnavailable):  # else the last step ended just now
            assert error.retry_after <= 8
            clock.advance(error.retry_after)
        assert Crowd(lambda: session.get(server.resource)).kinds() == {200: CROWD}
        assert server.counters.exchanges == exchanges + 1
    assert_no_token_was_spent_twice(server)


# -- what stays behind ---------------------------------------------------------------------------


def test_nothing_stays_behind(server):
    """No thread, no batch, no exception outlives a refresh and its failures."""

    def working():
        names = {"silent-refresh", "silent-refresh-exchange", "token-endpoint"}
        return [thread for thread in threading.enumerate() if thread.name in names]

    clock = Clock()
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
    assert manager._queue._backoff.verdict is None
    until(lambda: not working())
    gone = weakref.ref(manager)
    del manager
    gc.collect()
    assert gone() is None


def test_a_signal_handler_may_ask_in_the_middle_of_a_change():
    """P8: it runs in a thread that holds the lock; that is reentrant."""
    queue = queue_holding(Token("old"))
    with queue._condition:
        assert queue.renew(None, lambda batch: None) is queue.current.token


def test_waiting_takes_no_connection_of_the_pool(server):
    """P8: waiters used up the connection pool, so the refresh never ran (okhttp #6747)."""
    manager = signed_in(server, wait_timeout=5)
    with session_for(manager, server, connections=1) as session:
        session.get_adapter(server.url).init_poolmanager(1, 1, block=True)
        server.revoke_access_tokens()
        assert Crowd(lambda: session.get(server.resource)).kinds() == {200: CROWD}
    assert server.counters.exchanges == 1


def test_the_time_out_says_what_goes_on():
    """P8: what a person reads when the token endpoint is slow."""
    queue = queue_holding(Token("old"), wait_timeout=0.05)
    with pytest.raises(RefreshTimeout, match=r"within 0.05 s; it goes on in the background"):
        queue.renew(queue.current.token, leader(queue, []))


def test_a_token_that_was_replaced_since_it_was_due_is_not_refreshed(server):
    """P1, P3: between finding a token due and beginning its refresh somebody may be faster."""
    clock, moments = Clock(time.time()), []

    def now():
        if moments and moments.pop(0) == "due":
            manager.sign_in(server.sign_in_token())
        return clock()

    manager = signed_in(server, refresh_ahead=0.5, clock=now)
    clock.advance(3400)
    # The fast path looks at the clock first; then the token that it had read is due.
    moments += ["fresh", "due"]
    manager.token()
    manager._worker.finish(5)
    assert server.counters.exchanges == 0


# -- waking ------------------------------------------------------------------------------


@pytest.fixture
def nobody_looks(monkeypatch):
    """Nobody looks by itself whether the wait is over: who is not woken waits for ever."""
    monkeypatch.setattr("requests_silent_refresh.manager.refresh_queue.LOOK_INTERVAL", 3600)


def test_the_end_of_a_batch_wakes_all_who_wait(server, nobody_looks):
    """P6, P8: a refresh that fails publishes nothing; its end alone wakes its batch."""
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


def test_a_sign_in_wakes_all_who_wait_for_an_exchange(server, nobody_looks):
    """P10: they go on with the token signed in, while the exchange they waited for goes on."""
    begun, answer = threading.Event(), threading.Event()

    def refresh(token):
        begun.set()
        assert answer.wait(30), "who waited was woken by the end of this exchange"
        raise requests.ConnectionError

    manager = signed_in(server, refresh=refresh, wait_timeout=3600)
    rejected = manager.token()
    crowd = Crowd(lambda: manager.renew(rejected), size=8)
    assert begun.wait(20)
    until(lambda: manager.stats.waits == 8)
    manager.sign_in(server.sign_in_token())
    assert crowd.outcomes(timeout=20) == [manager.token()] * 8
    answer.set()
