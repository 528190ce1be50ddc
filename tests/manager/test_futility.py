"""Futile refreshes: a path that rejects every token triggers few of them, and real revocations
are still noticed."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from queue_kit import Clock, Crowd, assert_no_token_was_spent_twice, session_for, signed_in

from requests_silent_refresh import Token
from requests_silent_refresh.manager.futility import (
    EXTRA_EVERY,
    FIRST_MUTE,
    FUTILE_PER_MINUTE,
    MINUTE,
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


def test_a_path_that_rejects_every_token_beside_good_ones_for_a_minute(server, clock):
    """Futile: at most 6 exchanges that did not help. A real revocation in that minute fails no
    request to a good path, whenever it comes and whichever path meets it first."""
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
        # Six that did not help, and one for the revocation.
        assert 2 < server.counters.exchanges - before <= 6 + 1
        clock.advance(600)
    assert_no_token_was_spent_twice(server)


def test_many_requests_to_a_path_that_rejects_every_token(server, clock):
    """Futile: two refreshes, however many requests there are; elsewhere 456 a second (mcp-remote
    PR 338)."""
    manager = signed_in(server, monotonic=clock)
    server.forbid("/resource/bad")
    with session_for(manager, server) as session:
        for _ in range(5):
            crowd = Crowd(lambda: session.get(server.resource + "/bad"), size=16)
            assert crowd.kinds() == {401: 16}
    assert server.counters.exchanges <= 2


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "among good ones"])
def test_many_uploads_to_a_path_that_rejects_every_token(server, clock, others):
    """Futile: two refreshes, however many uploads there are, although none is sent again."""
    manager = signed_in(server, monotonic=clock)
    server.forbid("/resource/bad")
    with session_for(manager, server) as session:
        for _ in range(10):
            assert session.post(server.resource + "/bad", data=iter([b"once"])).status_code == 401
            assert manager.finish(10)  # or the next upload would share its refresh
            for _ in range(others):
                assert session.post(server.resource, data=iter([b"once"])).status_code == 200
    assert server.counters.exchanges == 2


def test_many_paths_that_reject_every_token(server, clock):
    """Futile: six a minute over all paths of an API that rejects everything, besides the first
    refresh for each path, which does not count."""
    manager = signed_in(server, monotonic=clock)
    server.fault("resource", times=None, status=401)
    with session_for(manager, server) as session:
        for number in range(30):
            assert session.get(f"{server.resource}/{number}").status_code == 401
    assert server.counters.exchanges <= 2 * FUTILE_PER_MINUTE + 1


def test_a_token_that_is_dead_on_arrival_is_not_futile(server, clock):
    """Futile: servers that compute in whole seconds issue such tokens; the request refreshes a
    second time."""
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


# -- the guard alone -----------------------------------------------------------------------------


def test_the_first_rejection_does_not_count(guard):
    """Futile: one rejected fresh token mutes nothing."""
    strike(guard, "/bad")
    assert guard.allows("/bad", Token("next"))


def test_a_token_counts_once_however_many_requests_carried_it(guard):
    """Futile: 32 rejected requests with one fresh token count as one rejection."""
    token = Token("fresh")
    for _ in range(32):
        guard.rejected("/bad", token)
    assert guard.allows("/bad", Token("next"))


def test_the_mute_doubles_to_its_cap_and_never_overflows(guard, clock):
    """Futile: it grows to 60 s, and no power of two overflows in a program that runs for months."""
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
    """Futile: earlier rejections of a path that works again are forgotten."""
    strike(guard, "/bad", 2)
    assert not guard.allows("/bad", Token("t"))
    guard.accepted("/bad", Token("t"))
    assert guard.allows("/bad", Token("t"))
    assert not guard.active


def test_a_rejection_by_a_path_that_had_accepted_this_token_ends_all_mutes(guard):
    """Futile: this is a real revocation, so the other paths may try the new token, too."""
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
    clock.advance(MINUTE - EXTRA_EVERY - 1)
    assert not guard.allows("/0", Token("t"))
    clock.advance(1)
    assert guard.allows("/unknown", Token("t"))
    assert guard.allows("/0", Token("t"))


def test_the_requests_of_one_extra_exchange_do_not_delay_the_next(guard, clock):
    """Futile: beyond six, the 10 s count from the first request that asked because of a token."""
    for number in range(FUTILE_PER_MINUTE):
        strike(guard, f"/{number}", 2)
    extra = Token("extra")
    assert guard.allows("/unknown", extra)
    clock.advance(EXTRA_EVERY)
    assert guard.allows("/another", extra)
    assert guard.allows("/another", Token("next"))


def test_a_good_path_may_refresh_even_after_six_in_a_minute(guard):
    """Futile: a revocation may come before the good path has seen the newest token."""
    strike(guard, "/bad", 1)
    guard.accepted("/good", Token("older"))
    for number in range(FUTILE_PER_MINUTE):
        strike(guard, f"/{number}", 2)
    assert guard.allows("/good", Token("newest"))
    # Only once: if the fresh token does not help either, this path is treated like the others.
    strike(guard, "/good")
    assert not guard.allows("/good", Token("next"))


def test_the_memory_of_bad_paths_is_bounded(guard):
    """Futile: a scraper requests millions of paths. The oldest path and its mute are forgotten as
    soon as there is one more than are remembered."""
    strike(guard, "/oldest", 2)
    for number in range(PATHS_REMEMBERED - 1):
        strike(guard, f"/bad/{number}")
    assert not guard.allows("/oldest", Token("t"))
    strike(guard, "/one-more")
    assert guard.allows("/oldest", Token("t"))


def test_a_bad_path_that_is_still_requested_is_remembered(guard):
    """Futile: a path counts as old by its last rejection, so a scraper that goes on to a million
    others does not ask for more refreshes at the one that it comes back to."""
    strike(guard, "/bad", 2)
    for number in range(PATHS_REMEMBERED - 1):
        strike(guard, f"/other/{number}")
    strike(guard, "/bad")
    strike(guard, "/one-more")
    assert not guard.allows("/bad", Token("t"))


def test_the_memory_of_good_paths_is_bounded(guard):
    """Futile: the oldest good path is forgotten likewise, and counts as an unknown one."""
    for number in range(FUTILE_PER_MINUTE):
        strike(guard, f"/bad/{number}", 2)
    assert guard.allows("/unknown", Token("extra"))  # the one beyond six, which is used up now
    for number in range(PATHS_REMEMBERED):
        guard.accepted(f"/good/{number}", Token("t"))
    assert guard.allows("/good/0", Token("newer"))
    guard.accepted("/good/one-more", Token("t"))
    assert not guard.allows("/good/0", Token("newer"))
    assert guard.allows("/good/1", Token("newer"))


def test_the_query_string_is_not_part_of_the_path(server, clock):
    """Futile: ``?page=7`` makes no new path."""
    manager = signed_in(server, monotonic=clock)
    server.forbid("/resource/bad")
    with session_for(manager, server) as session:
        for page in range(20):
            session.get(server.resource + "/bad", params={"page": page})
    assert server.counters.exchanges == 2


def test_a_good_path_that_is_still_requested_is_remembered(guard):
    """Futile: likewise, by its last accepted token."""
    for number in range(FUTILE_PER_MINUTE):
        strike(guard, f"/bad/{number}", 2)
    assert guard.allows("/unknown", Token("extra"))  # the one beyond six, which is used up now
    for number in (*range(PATHS_REMEMBERED), 0):
        guard.accepted(f"/good/{number}", Token("t"))
    guard.accepted("/good/one-more", Token("t"))
    assert guard.allows("/good/0", Token("newer"))
    assert not guard.allows("/good/1", Token("newer"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_it_survives_a_fork_with_its_lock_held(clock):
    """P13: the child has no thread that would release the parent's lock."""
    held, go_on = threading.Event(), threading.Event()

    def stopping_clock():  # the guard asks for the time with its lock held
        if threading.current_thread().name == "holder":
            held.set()
            assert go_on.wait(60)
        return clock()

    guard = FutilityGuard(stopping_clock)
    strike(guard, "/bad", 2)
    holder = threading.Thread(target=strike, args=(guard, "/bad"), name="holder")
    holder.start()
    assert held.wait(10)
    blocked = threading.Thread(target=strike, args=(guard, "/bad"))
    blocked.start()
    blocked.join(0.1)
    assert blocked.is_alive()  # the lock is held
    if (pid := os.fork()) == 0:
        signal.alarm(30)  # fails instead of hanging
        try:
            strike(guard, "/bad", 2)
            os._exit(17 if not guard.allows("/bad", Token("t")) else 1)
        finally:
            os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    go_on.set()
    holder.join()
    blocked.join()
    assert status == 17
