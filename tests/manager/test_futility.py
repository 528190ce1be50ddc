"""Futile refreshes: a path that takes no token asks for few, and hides no real revocation."""

from __future__ import annotations

import threading

import pytest
from queue_kit import Clock, Crowd, assert_no_token_was_spent_twice, session_for, signed_in

from requests_silent_refresh import Token
from requests_silent_refresh.manager.futility import (
    EXTRA_EVERY,
    FIRST_MUTE,
    FUTILE_PER_MINUTE,
    MUTE_CAP,
    PATHS_REMEMBERED,
    FutilityGuard,
)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def guard(clock):
    return FutilityGuard(clock)


def strike(guard, path, times=1):
    for _ in range(times):
        guard.rejected(path, Token("fresh"))


# -- against the server ------------------------------------------------------------------


def test_a_path_that_takes_no_token_beside_good_ones_for_a_minute(server, clock):
    """Futile: at most 6 exchanges that did not help; a real revocation in the middle of it costs
    no failed request on the good ones, whenever it comes and whoever meets it first."""
    for revoke_at, first in [(20, "good"), (20, "bad"), (31, "other"), (52, "good")]:
        manager = signed_in(server, monotonic=clock)
        server.forbid("/resource/bad")
        before = server.counters.exchanges
        with session_for(manager, server) as session:

            def get(path, session=session):
                return session.get(f"{server.resource}/{path}")

            for second in range(60):
                paths = ["bad", "good", "other"]
                if second == revoke_at:
                    server.revoke_access_tokens()
                    paths.sort(key=lambda path, first=first: path != first)
                for path in paths:
                    assert get(path).status_code == (401 if path == "bad" else 200)
                clock.advance(1)
        # Six that did not help, and the one for the revocation.
        assert 2 < server.counters.exchanges - before <= 6 + 1
        clock.advance(600)
    assert_no_token_was_spent_twice(server)


def test_a_storm_of_requests_to_a_path_that_takes_no_token(server, clock):
    """456 refreshes a second (mcp-remote PR 338); here two, however many ask."""
    manager = signed_in(server, monotonic=clock)
    server.forbid("/resource/bad")
    with session_for(manager, server) as session:
        for _ in range(5):
            crowd = Crowd(lambda: session.get(server.resource + "/bad"), size=16)
            assert crowd.kinds() == {401: 16}
    assert server.counters.exchanges <= 2


def test_many_paths_that_take_no_token(server, clock):
    """Futile: over all paths of an API that rejects everything, six a minute and the first each."""
    manager = signed_in(server, monotonic=clock)
    server.fault("resource", times=None, status=401)
    with session_for(manager, server) as session:
        for number in range(30):
            assert session.get(f"{server.resource}/{number}").status_code == 401
    assert server.counters.exchanges <= 2 * FUTILE_PER_MINUTE + 1


def test_a_token_that_is_dead_on_arrival_is_not_futile(server, clock):
    """Futile: servers that reckon in whole seconds do that: one request asks a second time."""
    manager = signed_in(server, monotonic=clock)
    with session_for(manager, server) as session:
        for _ in range(10):
            server.revoke_access_tokens()
            first = server.counters.granted + 1

            def dead_on_arrival(request, answer, first=first):
                if server.counters.granted == first:
                    server.revoke_access_tokens()

            server.on("/token", dead_on_arrival)
            response = session.get(server.resource)
            assert response.status_code == 200
            assert [r.status_code for r in response.history] == [401, 401]
            clock.advance(61)


# -- by itself -----------------------------------------------------------------------------------


def test_the_first_time_never_counts(guard):
    """Futile: one rejected fresh token mutes nothing."""
    strike(guard, "/bad")
    assert guard.allows("/bad", Token("next"))


def test_a_token_counts_once_however_many_requests_carried_it(guard):
    """Futile: 32 requests with one fresh token are one attempt."""
    token = Token("fresh")
    for _ in range(32):
        guard.rejected("/bad", token)
    assert guard.allows("/bad", Token("next"))


def test_the_mute_doubles_to_its_cap_and_never_overflows(guard, clock):
    """Futile: growing to 60 s; a program that runs for months crashes over no power of two."""
    strike(guard, "/bad", 2)
    mutes = []
    for _ in range(1100):
        began = clock.now
        while not guard.allows("/bad", Token("t")):
            clock.advance(1)
        mutes.append(clock.now - began)
        strike(guard, "/bad")
    assert mutes[:4] == [FIRST_MUTE, 10, 20, 40]
    assert set(mutes[5:]) == {MUTE_CAP}


def test_accepting_a_token_clears_the_path(guard):
    """Futile: nothing is held against a path that works again."""
    strike(guard, "/bad", 2)
    assert not guard.allows("/bad", Token("t"))
    guard.accepted("/bad", Token("t"))
    assert guard.allows("/bad", Token("t"))
    assert not guard.active


def test_a_path_that_had_accepted_this_token_ends_all_mutes(guard):
    """Futile: that is a real revocation, so the others may try the new token, too."""
    strike(guard, "/bad", 2)
    token = Token("good")
    guard.accepted("/good", token)
    assert not guard.allows("/bad", token)
    assert guard.allows("/good", token)
    assert guard.allows("/bad", token)


def test_after_six_in_a_minute_few_paths_ask(guard, clock):
    """Futile: a cap over all paths, for a minute; beyond it an unknown path asks now and then."""
    for number in range(FUTILE_PER_MINUTE):
        strike(guard, f"/{number}", 2)
    extra = Token("extra")
    assert guard.allows("/unknown", extra)
    assert guard.allows("/another", extra)  # the same exchange
    assert not guard.allows("/unknown", Token("t"))
    clock.advance(EXTRA_EVERY)
    assert guard.allows("/unknown", Token("t"))
    assert not guard.allows("/0", Token("t"))
    clock.advance(61)
    assert guard.allows("/unknown", Token("t"))
    assert guard.allows("/0", Token("t"))


def test_a_good_path_asks_even_after_six_in_a_minute(guard):
    """Futile: the revocation may come before the good path has seen the newest token."""
    strike(guard, "/bad", 1)
    guard.accepted("/good", Token("older"))
    for number in range(FUTILE_PER_MINUTE):
        strike(guard, f"/{number}", 2)
    assert guard.allows("/good", Token("newest"))
    # ... once: if the fresh one does not help either, it is like the others.
    strike(guard, "/good")
    assert not guard.allows("/good", Token("next"))


def test_the_memory_is_bounded(guard):
    """Futile: a scraper meets millions of paths."""
    for number in range(3 * PATHS_REMEMBERED):
        strike(guard, f"/bad/{number}")
        guard.accepted(f"/good/{number}", Token("t"))
    assert len(guard._paths) == PATHS_REMEMBERED
    assert len(guard._accepted) == PATHS_REMEMBERED


def test_query_strings_are_one_path(server, clock):
    """Futile: ``?page=7`` is no path of its own."""
    manager = signed_in(server, monotonic=clock)
    server.forbid("/resource/bad")
    with session_for(manager, server) as session:
        for page in range(20):
            session.get(server.resource + "/bad", params={"page": page})
    assert server.counters.exchanges == 2


def test_it_survives_a_fork_with_its_lock_held(guard):
    """P13: a fork while the lock was held: dead in the child."""
    strike(guard, "/bad", 2)
    held, go_on = threading.Event(), threading.Event()

    def hold():
        with guard._lock:
            held.set()
            assert go_on.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    from requests_silent_refresh.system.forking import _objects

    assert guard in _objects.values()
    guard.after_fork_in_child()  # as the child does it
    assert guard.allows("/bad", Token("t"))
    go_on.set()
    thread.join()
