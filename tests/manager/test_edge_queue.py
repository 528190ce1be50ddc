"""Bugs of other projects' refresh queues, one test for each, named after what broke.

If a bug has a stricter test of its own elsewhere, the test here shows what a user
sees: a session, a server, and the number of exchanges.
"""

from __future__ import annotations

import subprocess
import sys
import threading

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
    EncryptedFileStore,
    MemoryStore,
    RefreshFailed,
    RefreshTokenGrant,
    RefreshUnavailable,
    SessionExpired,
    SilentRefreshAdapter,
    Token,
    TokenManager,
)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def manager(server, clock):
    return signed_in(server, monotonic=clock)


@pytest.fixture
def session(server, manager):
    with session_for(manager, server) as session:
        yield session


def test_parallel_401s_wait_for_one_refresh(server, session):
    """P1, P2: elsewhere they were rejected (axios-auth-refresh #90, #56, #117, #139)."""
    server.gate(CROWD, then=server.revoke_access_tokens)
    assert Crowd(lambda: session.get(server.resource)).kinds() == {200: CROWD}
    assert server.counters.exchanges == 1


def test_three_401s_cause_one_refresh(server, session):
    """P1: the refreshes ran one after another instead of only once (fresh #126)."""
    server.gate(3, then=server.revoke_access_tokens)
    assert Crowd(lambda: session.get(server.resource), size=3).kinds() == {200: 3}
    assert server.counters.exchanges == 1
    assert server.counters.requests == 6


def late_401s(server, session, paths):
    """Start a request to each path and hold its 401; return the crowds and the releasing events."""
    crowds, releases = [], []
    for path in paths:
        held, release = threading.Event(), threading.Event()

        def hold(request, answer, held=held, release=release):
            if answer.status == 401 and not held.is_set():
                held.set()
                assert release.wait(10)

        server.on(f"/resource/{path}", hold)
        crowds.append(Crowd(lambda p=path: session.get(f"{server.resource}/{p}"), size=1))
        assert held.wait(10)
        releases.append(release)
    return crowds, releases


def test_a_late_401_does_not_refresh_again(server, session):
    """P3: its token was already replaced (ktor KTOR-5681; Alamofire
    RetriesRequestThatFailedWithOutdatedCredential)."""
    server.revoke_access_tokens()
    (late,), (release,) = late_401s(server, session, ["late"])
    assert session.get(server.resource).status_code == 200
    release.set()
    assert late.kinds() == {200: 1}
    assert server.counters.exchanges == 1


def test_staggered_401s_do_not_invalidate_the_token_just_fetched(server, session):
    """P3: each 401 discarded the token that the one before had fetched (keystoneauth
    ``invalidate()``)."""
    server.revoke_access_tokens()
    crowds, releases = late_401s(server, session, "abcdefgh")
    for crowd, release in zip(crowds, releases, strict=True):
        release.set()
        assert crowd.kinds() == {200: 1}
    assert server.counters.exchanges == 1


def test_a_server_that_issues_the_same_token_string_again(server, session):
    """P1: two tokens of two exchanges are different, even if their value is the same."""
    first = {}

    def same_access_token(request, answer):
        first.setdefault("token", answer.payload["access_token"])
        return answer.but(payload=answer.payload | {"access_token": first["token"]})

    server.on("/token", same_access_token)
    server.gate(CROWD, then=server.revoke_access_tokens)
    assert Crowd(lambda: session.get(server.resource)).kinds() == {200: CROWD}
    assert server.counters.exchanges == 1
    server.revoke_access_tokens()
    # The next request carries a new token with the same string, which is rejected. Two exchanges
    # return that string again, and the caller gets the 401.
    response = session.get(server.resource)
    assert (response.status_code, server.counters.exchanges) == (401, 3)
    assert_no_token_was_spent_twice(server)


@pytest.mark.parametrize("raised", [ValueError("synchronously"), SystemExit(1)], ids=repr)
def test_the_queue_does_not_hang_after_a_refresh_raised(server, clock, raised):
    """P8: whether it raised an Exception or a BaseException (fresh #119, ktor #3599, AppAuth
    mPendingActions)."""

    def refresh(token):
        raise raised

    manager = signed_in(server, refresh=refresh, monotonic=clock)
    with session_for(manager, server) as session:
        for _ in range(2):
            server.revoke_access_tokens()
            assert Crowd(lambda: session.get(server.resource)).kinds() == {"RefreshFailed": CROWD}
            clock.advance(60)
    assert manager.stats.exchanges == 2


def test_cancelling_the_leader_does_not_stall_the_waiting_requests(server, manager, session):
    """P5, P8: the queue stalled when its first request was cancelled (dio PR 2526)."""

    class Cancelled(BaseException):
        pass

    cancelled = threading.Event()

    def be_the_head():
        try:
            session.get(server.resource)
        except Cancelled:
            cancelled.set()

    server.revoke_access_tokens()
    with server.token_gate() as held:
        head = threading.Thread(target=be_the_head)
        head.start()
        assert held.arrived.wait(10)
        crowd = Crowd(lambda: session.get(server.resource))
        until(lambda: manager.stats.waits == CROWD + 1)
        throw_into(head, Cancelled)
        assert cancelled.wait(10)
    assert crowd.kinds() == {200: CROWD}
    head.join()
    assert server.counters.exchanges == 1


def test_a_cancelled_caller_does_not_lose_the_rotated_token(server):
    """P5: the only caller times out, and the token is saved all the same (ktor PR 5193
    testNonCancellableRefresh)."""
    store = MemoryStore()
    manager = signed_in(server, store=store, wait_timeout=0.05)
    with session_for(manager, server) as session:
        server.revoke_access_tokens()
        with server.token_gate(processed=True):
            assert type(outcome_of(lambda: session.get(server.resource))).__name__ == (
                "RefreshTimeout"
            )
        until(lambda: store.load().generation == 2)
        assert session.get(server.resource).status_code == 200
    assert server.counters.exchanges == 1


def test_a_refresh_through_its_own_queue_does_not_wait_for_itself(server):
    """P8: a callable that sends through its own session (axios-auth-refresh #120, fresh #92)."""
    sessions = []

    def refresh(token):
        return sessions[0].post(server.resource, json={"refresh": True}).json()

    manager = signed_in(server, refresh=refresh)
    with session_for(manager, server) as session:
        sessions.append(session)
        server.revoke_access_tokens()
        with pytest.raises(RefreshFailed, match="would wait for itself"):
            session.get(server.resource)


def test_waiting_requests_do_not_use_up_the_pool_that_the_refresh_needs(server, manager):
    """P8: a blocking pool of two, a crowd, and a token endpoint on the same host (okhttp #6747,
    #6754)."""
    session = requests.Session()
    SilentRefreshAdapter(manager, server.url, pool_maxsize=2, pool_block=True).mount_on(session)
    with session:
        server.revoke_access_tokens()
        assert Crowd(lambda: session.get(server.resource)).kinds() == {200: CROWD}
    assert server.counters.exchanges == 1


def test_a_shared_refresh_does_not_inherit_the_first_callers_deadline(server, session):
    """P8: a request's own timeout does not limit the refresh for all (golang/oauth2 #388)."""
    server.latency = 0.15
    server.gate(CROWD, then=server.revoke_access_tokens)
    crowd = Crowd(lambda: session.get(server.resource, timeout=(1, 30)))
    assert crowd.kinds() == {200: CROWD}
    server.revoke_access_tokens()
    assert session.get(server.resource, timeout=0.1).status_code == 200


def test_replays_run_in_parallel(server, session):
    """P13: they ran one after another, inside the queue (fresh_dio). The barrier here needs all of
    them in flight at once."""
    server.gate(CROWD, then=server.revoke_access_tokens)
    replays = threading.Barrier(CROWD)

    def all_at_once(request, answer):
        if answer.status == 200:
            replays.wait(10)

    server.on("/resource", all_at_once)
    assert Crowd(lambda: session.get(server.resource)).kinds() == {200: CROWD}
    assert server.log.of("error") == []


def test_no_lock_is_held_while_a_callback_runs(server):
    """P8: a callback ran under the lock and took it again (Alamofire PR 3322).

    The Condition is reentrant, so another thread calls what needs the queue's lock and the one
    that orders the callbacks; the callback waits for that thread.
    """
    called, ended = [], []

    def take_both_locks():
        manager.start_refresh(Token("another"))  # not the current one: does nothing else
        manager.replayed()

    def on_anything(what):
        if threading.current_thread() in others:
            return
        other = threading.Thread(target=take_both_locks, daemon=True)
        others.add(other)
        other.start()
        other.join(5)
        ended.append(not other.is_alive())
        called.append((manager.signed_in, manager.stats, repr(manager)))

    def on_refreshed(token):
        on_anything(token)
        if manager.stats.exchanges == 1:
            manager.start_refresh(token)

    def sign_in(error):
        on_anything(error)
        return server.sign_in_token()

    others = set()
    manager = signed_in(
        server, on_refreshed=on_refreshed, on_event=on_anything, on_session_expired=sign_in
    )
    with session_for(manager, server) as session:
        server.revoke_access_tokens()
        assert session.get(server.resource).status_code == 200
        # Two refreshes with two callbacks each, and one for the replay, in the request's thread.
        until(lambda: len(called) == 5)
        server.fault("token", status=400, body='{"error": "invalid_grant"}')
        server.revoke_access_tokens()
        assert session.get(server.resource).status_code == 200
        until(lambda: len(called) == 9)
    assert ended == [True] * 9
    assert server.counters.exchanges == 3


def test_waiting_requests_do_not_retry_a_failed_refresh_in_turn(server, session):
    """P6: N waiting requests tried N refreshes (golang/oauth2, fresh_dio)."""
    server.fault("token", times=None, status=503)
    server.gate(CROWD, then=server.revoke_access_tokens)
    assert Crowd(lambda: session.get(server.resource)).kinds() == {"RefreshUnavailable": CROWD}
    assert server.counters.exchanges == 1


def test_late_members_of_a_failed_batch_do_not_refresh_again(server, session):
    """P6: they get its error (Alamofire RethrowsRefreshErrorToAllPendingRetryRequests)."""
    server.revoke_access_tokens()
    (late,), (release,) = late_401s(server, session, ["late"])
    server.fault("token", times=None, status=503)
    assert type(outcome_of(lambda: session.get(server.resource))) is RefreshUnavailable
    release.set()
    assert late.kinds() == {"RefreshUnavailable": 1}
    assert server.counters.exchanges == 1


def test_a_new_request_later_tries_again(server, session, clock):
    """P6: after the backoff (Alamofire
    AllowsNewRequestsToTriggerRefreshAfterPreviousRefreshFailure)."""
    server.revoke_access_tokens()
    server.fault("token", status=503)
    error = outcome_of(lambda: session.get(server.resource))
    clock.advance(error.retry_after)
    assert session.get(server.resource).status_code == 200
    assert server.counters.exchanges == 2


def test_a_server_that_rejects_every_new_token(server, session, clock):
    """Futile: it caused 456 refreshes a second (mcp-remote PR 338; Alamofire RefreshWindow)."""
    server.fault("resource", times=None, status=401)
    for _ in range(60):
        assert session.get(server.resource).status_code == 401
        clock.advance(1)
    assert server.counters.exchanges <= 6


def test_a_session_made_for_each_request_refreshes_once(server, manager):
    """P1: a lock in each client guarded nothing (Authlib #673). Here the manager has it, however
    many adapters and sessions are made."""

    def one_shot():
        with session_for(manager, server) as session:
            return session.get(server.resource)

    server.gate(CROWD, then=server.revoke_access_tokens)
    assert Crowd(one_shot).kinds() == {200: CROWD}
    assert server.counters.exchanges == 1


def test_a_manager_made_for_each_request_refreshes_once(server, tmp_path):
    """P1: if the managers share a store."""
    store = EncryptedFileStore(tmp_path / "tokens", b"k" * 43 + b"=")
    store.save(server.sign_in_token(), after=None)

    def one_shot():
        grant = RefreshTokenGrant(server.token_endpoint, "client")
        with session_for(TokenManager(grant, store, refresh_ahead=0), server) as session:
            return session.get(server.resource)

    server.gate(8, then=server.revoke_access_tokens)
    assert Crowd(one_shot, size=8).kinds() == {200: 8}
    assert server.counters.exchanges == 1


def test_a_sign_out_during_a_refresh_is_not_undone_by_its_result(server, manager, session):
    """P4: the session came back to life (fresh, Alamofire; ktor
    testClearCalledWhileSettingTokens)."""
    server.revoke_access_tokens()
    with server.token_gate(processed=True) as held:
        crowd = Crowd(lambda: session.get(server.resource))
        assert held.arrived.wait(10)
        manager.sign_out()
    assert crowd.kinds() == {"SessionExpired": CROWD}
    server.wait_for(lambda: server.counters.revocations == 2)  # the result was dropped
    assert manager.finish(10)
    assert type(outcome_of(lambda: session.get(server.resource))) is SessionExpired


def test_a_sign_in_during_a_refresh_is_not_overwritten(server, manager, session):
    """P4: the new account's token stays, and the result of the refresh is dropped."""
    server.revoke_access_tokens()
    with server.token_gate(processed=True) as held:
        crowd = Crowd(lambda: session.get(server.resource))
        assert held.arrived.wait(10)
        manager.sign_in(other := server.sign_in_token())
        assert crowd.kinds() == {200: CROWD}
    assert manager.finish(10)
    assert manager.token() is other


@pytest.mark.skipif(sys.platform == "win32", reason="a system without fork")
def test_a_fork_while_the_lock_is_held_leaves_a_free_lock_in_the_child(server, tmp_path):
    """P13: a thread of the parent held the Condition at the fork, and the child has no such
    thread to release it."""
    path = tmp_path / "tokens"
    EncryptedFileStore(path, b"k" * 43 + b"=").save(server.sign_in_token(), after=None)
    code = """
import os, sys, threading, warnings
from requests_silent_refresh import EncryptedFileStore, RefreshTokenGrant, TokenManager

warnings.simplefilter("ignore", DeprecationWarning)
store = EncryptedFileStore(sys.argv[1], b"k" * 43 + b"=")
manager = TokenManager(RefreshTokenGrant(sys.argv[2], "client"), store)
first = manager.token()
held = threading.Event()

def hold():
    with manager._queue._condition:  # no public call holds it at a chosen moment
        held.set()
        threading.Event().wait(20)

threading.Thread(target=hold, daemon=True).start()
held.wait()
if (pid := os.fork()) == 0:
    os._exit(0 if manager.renew(first) is not first else 1)
os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    subprocess.run(
        [sys.executable, "-c", code, str(path), server.token_endpoint], check=True, timeout=60
    )
    assert server.counters.exchanges == 1


def test_a_scraper_patched_by_gevent(server, tmp_path):
    """P13: the queue works with the threads and locks that gevent puts in place."""
    pytest.importorskip("gevent")
    path = tmp_path / "tokens"
    EncryptedFileStore(path, b"k" * 43 + b"=").save(server.sign_in_token(), after=None)
    code = """
from gevent import monkey, pool; monkey.patch_all()
import sys, requests
from requests_silent_refresh import *

url, path = sys.argv[1:]
store = EncryptedFileStore(path, b"k" * 43 + b"=")
manager = TokenManager(RefreshTokenGrant(url + "/token", "client"), store)
session = requests.Session()
SilentRefreshAdapter(manager, url, pool_maxsize=32).mount_on(session)
statuses = pool.Pool(32).map(lambda n: session.get(url + "/resource").status_code, range(32))
sys.exit(0 if statuses == [200] * 32 else 1)
"""
    server.gate(32, then=server.revoke_access_tokens)
    subprocess.run([sys.executable, "-c", code, server.url, str(path)], check=True, timeout=60)
    assert server.counters.exchanges == 1


def test_a_refused_refresh_does_not_delete_a_new_sign_in(server, tmp_path):
    """P1, P7: a refresh is refused while another process signs in. Its token is used and stays
    stored (buildkite/cli)."""
    path, key = tmp_path / "tokens", b"k" * 43 + b"="
    ours = signed_in(server, store=EncryptedFileStore(path, key))
    theirs = TokenManager(
        RefreshTokenGrant(server.token_endpoint, "client"), EncryptedFileStore(path, key)
    )
    rejected = ours.token()
    server.fault("token", status=400, body='{"error": "invalid_grant"}')
    with server.token_gate() as held:
        crowd = Crowd(lambda: ours.renew(rejected), size=4)
        assert held.arrived.wait(20)
        theirs.sign_in(server.sign_in_token())
        held.release()
        outcomes = crowd.outcomes()
    winner = theirs.token().access_token.reveal()
    assert {token.access_token.reveal() for token in outcomes} == {winner}
    assert ours.token().access_token.reveal() == winner
    assert EncryptedFileStore(path, key).load().token.access_token.reveal() == winner
    assert server.counters.exchanges == 1
