"""Engines that stop answering and go on: leases in doubt, late steps, hanging threads (P8)."""

from __future__ import annotations

import threading
import time

import pytest
import redis
from engines.fleet import KEY
from engines.processes import freeze, thaw, wait_until

from requests_silent_refresh import RedisStore, SQLStore, StoreUnavailable, Token
from requests_silent_refresh.stores.contract import LockLost
from requests_silent_refresh.stores.engine import TOO_LATE, steady
from requests_silent_refresh.stores.lease_hold import seen_of


def opened(url, **lengths):
    """Open a store; ``lengths`` overrides the lengths of its leases."""
    kind = RedisStore if url.startswith("redis") else SQLStore
    store = type(kind.__name__, (kind,), lengths)(url, "nightly", key=KEY)
    if isinstance(store, SQLStore):
        store.create_table()
    return store


@pytest.fixture(params=["redis_server", "postgres", "mariadb"])
def server(request):
    engine = request.getfixturevalue(request.param)
    engine.empty()
    yield engine
    thaw(engine.process.pid)


@pytest.fixture(params=["redis_server", "postgres", "mariadb", "sqlite"])
def engine(request):
    engine = request.getfixturevalue(request.param)
    engine.empty()
    return engine


def threads(name):
    return [thread for thread in threading.enumerate() if thread.name == f"silent-refresh-{name}"]


def test_a_step_that_comes_late_takes_no_lease(engine):
    """P8: its caller has gone, so nobody would release what it takes."""
    store = opened(engine.url)
    state = store.save(Token("a", "r"), None)
    late = store._engine.deadline(-0.1)
    steps, seen = store._engine, seen_of(state)
    assert steps.take("late", "me", 10, seen, late) == TOO_LATE
    assert steps.take("late", "me", 10, None, late) == TOO_LATE
    assert not steps.extend("late", "me", 10, seen, late)
    with store.exclusive(5, state) as hold:
        assert not steps.begin(hold.owner, seen, 60, late)
    store.exclusive(0, state).release()
    store.close()


def test_a_clock_that_was_misjudged_is_asked_again(engine):
    """P8: a failover to a machine with another clock costs one more round trip."""
    store = opened(engine.url)
    state = store.save(Token("a", "r"), None)
    store.load()
    for wrong in (-3600, 3600):
        store._engine._ahead += wrong
        with store.exclusive(5, state) as hold:
            assert store.load().is_same(state)
            hold.begin(state)
    store.close()


def test_a_lease_asked_for_during_a_stall_locks_nobody_out(server):
    """P8: the process stopped waiting, and the engine finds the request when it goes on."""
    mine, theirs = opened(server.url), opened(server.url)
    state = mine.save(Token("a", "r"), None)
    assert theirs.load().is_same(state)
    freeze(server.process.pid)
    with pytest.raises(StoreUnavailable):
        mine.exclusive(0.5, state)
    thaw(server.process.pid)
    began = time.monotonic()
    with theirs.exclusive(30, state):
        assert time.monotonic() - began < 2
    with mine.exclusive(30, state):
        assert time.monotonic() - began < 4
    mine.close()
    theirs.close()


def test_a_client_that_gives_up_before_the_deadline_locks_nobody_out(redis_server):
    """P8: its own timeout closes the connection, but the engine still finds the request."""
    redis_server.empty()
    with redis.Redis(port=redis_server.port, socket_timeout=0.1, retry=None) as client:
        mine, theirs = RedisStore(client, "nightly", key=KEY), opened(redis_server.url)
        state = mine.save(Token("a", "r"), None)
        freeze(redis_server.process.pid)
        with pytest.raises(StoreUnavailable):
            mine.exclusive(0.0, state)
        lease = next(iter(mine._leases._in_doubt.values()))
        thaw(redis_server.process.pid)
        assert lease.settled_at > steady() + 1
        with theirs.exclusive(5, state):
            pass
    theirs.close()


def test_a_stall_at_begin_locks_nobody_out(server):
    """P8: begin() makes the lease last for the exchange, which does not take place."""
    mine, theirs = opened(server.url), opened(server.url)
    state = mine.save(Token("a", "r"), None)
    with mine.exclusive(5, state) as hold:
        freeze(server.process.pid)
        with pytest.raises(LockLost):
            hold.begin(state)
        began = time.monotonic()
    assert time.monotonic() - began < 1  # released in the background
    thaw(server.process.pid)
    began = time.monotonic()
    with theirs.exclusive(30, state):
        assert time.monotonic() - began < 2
    mine.close()
    theirs.close()


def test_leases_in_doubt_are_bounded(server):
    """P8: while one is in doubt no other is asked for, and one thread releases them."""
    store = opened(server.url)
    state = store.save(Token("a", "r"), None)
    freeze(server.process.pid)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            store.exclusive(0.1, state)
    assert len(store._leases._in_doubt) == 1
    assert len(threads("release")) == 1
    thaw(server.process.pid)
    wait_until(lambda: threads("release") == [], "the end of the thread that releases")
    store.exclusive(5, state).release()
    store.close()


def test_a_lease_is_not_in_doubt_for_longer_than_it_lasts(server):
    """P8: a thread that releases it ends although the engine stays away."""
    store = opened(server.url, take=0.5)
    state = store.save(Token("a", "r"), None)
    freeze(server.process.pid)
    with pytest.raises(StoreUnavailable):
        store.exclusive(0.1, state)
    wait_until(lambda: threads("release") == [], "the end of the thread that releases")
    thaw(server.process.pid)
    store.exclusive(10, state).release()
    store.close()


def test_a_lease_in_doubt_is_released_without_a_thread(redis_server, monkeypatch):
    """At the system's limit of threads the next refresh releases it."""
    redis_server.empty()
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "silent-refresh-release":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    store = opened(redis_server.url)
    state = store.save(Token("a", "r"), None)
    freeze(redis_server.process.pid)
    with pytest.raises(StoreUnavailable):
        store.exclusive(0.1, state)
    thaw(redis_server.process.pid)
    store.exclusive(10, state).release()
    store.close()


def test_threads_that_hang_are_bounded(redis_server):
    """P8: a client without timeouts, whose calls return only when the engine goes on."""
    redis_server.empty()
    with redis.Redis(port=redis_server.port) as client:
        store = RedisStore(client, "nightly", key=KEY)
        state = store.save(Token("a", "r"), None)
        assert store.load().is_same(state)
        store._engine.patience = 0.05
        freeze(redis_server.process.pid)
        for _ in range(12):
            with pytest.raises(StoreUnavailable):
                store.load()
        assert 1 <= len(threads("store")) <= 4
        thaw(redis_server.process.pid)
        wait_until(lambda: threads("store") == [], "the calls that hung")
        assert store.load().is_same(state)


def test_a_lease_whose_connection_was_closed_is_in_doubt_until_the_engine_answers(redis_server):
    """P8: a restarted engine carries out nothing old, so the next answer settles the lease."""
    redis_server.empty()
    mine = opened(redis_server.url)
    state = mine.save(Token("a", "r"), None)
    redis_server.kill()
    with pytest.raises(StoreUnavailable):
        mine.exclusive(0.1, state)
    redis_server.start()
    began = time.monotonic()
    mine.exclusive(30, state).release()
    assert time.monotonic() - began < 1
    mine.close()
