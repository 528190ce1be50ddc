"""Every line of "The queue" among the cases that broke other projects, named after what broke.

Where a line has a test of its own elsewhere that forces it harder, this one
shows the user's side of it: a session, a server, a count of exchanges.
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


def test_siblings_401s_are_not_rejected_but_wait(server, session):
    """P1, P2: axios-auth-refresh #90, #56, #117, #139."""
    server.gate(CROWD, then=server.revoke_access_tokens)
    assert Crowd(lambda: session.get(server.resource)).kinds() == {200: CROWD}
    assert server.counters.exchanges == 1


def test_three_401s_are_one_refresh_not_three_in_a_row(server, session):
    """P1: requests were serialised, not de-duplicated (fresh #126)."""
    server.gate(3, then=server.revoke_access_tokens)
    assert Crowd(lambda: session.get(server.resource), size=3).kinds() == {200: 3}
    assert server.counters.exchanges == 1
    assert server.counters.requests == 6


def late_401s(server, session, paths):
    """Start requests to ``paths`` whose 401s are held; returns the crowds and what lets one go."""
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
    """P3: ktor KTOR-5681; Alamofire RetriesRequestThatFailedWithOutdatedCredential."""
    server.revoke_access_tokens()
    (late,), (release,) = late_401s(server, session, ["late"])
    assert session.get(server.resource).status_code == 200
    release.set()
    assert late.kinds() == {200: 1}
    assert server.counters.exchanges == 1


def test_staggered_401s_do_not_invalidate_what_the_one_before_fetched(server, session):
    """P3: keystoneauth ``invalidate()``: each threw away the token of the previous one."""
    server.revoke_access_tokens()
    crowds, releases = late_401s(server, session, "abcdefgh")
    for crowd, release in zip(crowds, releases, strict=True):
        release.set()
        assert crowd.kinds() == {200: 1}
    assert server.counters.exchanges == 1


def test_a_server_that_reissues_the_very_same_token_string(server, session):
    """P1: its value says nothing; the exchange that answered it does."""
    first = {}

    def same_access_token(request, answer):
        first.setdefault("token", answer.payload["access_token"])
        return answer.but(payload=answer.payload | {"access_token": first["token"]})

    server.on("/token", same_access_token)
    server.gate(CROWD, then=server.revoke_access_tokens)
    assert Crowd(lambda: session.get(server.resource)).kinds() == {200: CROWD}
    assert server.counters.exchanges == 1
    server.revoke_access_tokens()
    # The next one carries a token that is the same string, and is rejected: two exchanges, both
    # answered with it, and the 401 is handed back.
    response = session.get(server.resource)
    assert (response.status_code, server.counters.exchanges) == (401, 3)
    assert_no_token_was_spent_twice(server)


@pytest.mark.parametrize("raised", [ValueError("synchronously"), SystemExit(1)], ids=repr)
def test_the_queue_does_not_hang_after_a_refresh_threw(server, clock, raised):
    """P8: fresh #119, ktor #3599, AppAuth mPendingActions; synchronously, or a BaseException."""

    def refresh(token):
        raise raised

    manager = signed_in(server, refresh=refresh, monotonic=clock)
    with session_for(manager, server) as session:
        for _ in range(2):
            server.revoke_access_tokens()
            assert Crowd(lambda: session.get(server.resource)).kinds() == {"RefreshFailed": CROWD}
            clock.advance(60)
    assert manager.stats.exchanges == 2


def test_the_head_of_the_queue_is_cancelled_and_nobody_stalls(server, manager, session):
    """P5, P8: dio PR 2526."""

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
    """P5: ktor PR 5193 testNonCancellableRefresh: the only caller gives up, the token is saved."""
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
    """P8: axios-auth-refresh #120, fresh #92."""
    sessions = []

    def refresh(token):
        return sessions[0].post(server.resource, json={"refresh": True}).json()

    manager = signed_in(server, refresh=refresh)
    with session_for(manager, server) as session:
        sessions.append(session)
        server.revoke_access_tokens()
        with pytest.raises(RefreshFailed, match="would wait for itself"):
            session.get(server.resource)


def test_waiters_do_not_use_up_the_pool_that_the_refresh_needs(server, manager):
    """P8: okhttp #6747, #6754: a blocking pool of two, a crowd, and a refresh by the same host."""
    session = requests.Session()
    SilentRefreshAdapter(manager, server.url, pool_maxsize=2, pool_block=True).mount_on(session)
    with session:
        server.revoke_access_tokens()
        assert Crowd(lambda: session.get(server.resource)).kinds() == {200: CROWD}
    assert server.counters.exchanges == 1


def test_a_shared_refresh_does_not_inherit_the_first_callers_deadline(server, session):
    """P8: golang/oauth2 #388."""
    server.latency = 0.15
    server.gate(CROWD, then=server.revoke_access_tokens)
    crowd = Crowd(lambda: session.get(server.resource, timeout=(1, 30)))
    assert crowd.kinds() == {200: CROWD}
    server.revoke_access_tokens()
    assert session.get(server.resource, timeout=0.1).status_code == 200


def test_replays_run_at_once_not_one_after_another(server, session):
    """P13: fresh_dio: they ran inside the queue's slot. Here all have to be in flight."""
    server.gate(CROWD, then=server.revoke_access_tokens)
    replays = threading.Barrier(CROWD)

    def all_at_once(request, answer):
        if answer.status == 200:
            replays.wait(10)

    server.on("/resource", all_at_once)
    assert Crowd(lambda: session.get(server.resource)).kinds() == {200: CROWD}
    assert server.log.of("error") == []


def test_a_callback_may_take_what_locks_it_likes(server):
    """P8: a user's callback ran under the lock and took it again (Alamofire PR 3322).

    The Condition is reentrant, so another thread has to try: none of ours is held in a callback,
    neither the queue's nor that which orders the callbacks.
    """
    called, got = [], []

    def take_all():
        for condition in (manager._queue._condition, manager._announcer._condition):
            if taken := condition.acquire(timeout=5):
                condition.release()
            got.append(taken)

    def on_anything(what):
        other = threading.Thread(target=take_all)
        other.start()
        other.join()
        called.append((manager.signed_in, manager.stats, repr(manager)))

    def on_refreshed(token):
        on_anything(token)
        if manager.stats.exchanges == 1:
            manager.start_refresh(token)

    def sign_in(error):
        on_anything(error)
        return server.sign_in_token()

    manager = signed_in(
        server, on_refreshed=on_refreshed, on_event=on_anything, on_session_expired=sign_in
    )
    with session_for(manager, server) as session:
        server.revoke_access_tokens()
        assert session.get(server.resource).status_code == 200
        # Each tells of a refresh in two callbacks; a replay in one, in the request's own thread.
        until(lambda: len(called) == 5)
        server.fault("token", status=400, body='{"error": "invalid_grant"}')
        server.revoke_access_tokens()
        assert session.get(server.resource).status_code == 200
        until(lambda: len(called) == 9)
    assert got == [True] * 18
    assert server.counters.exchanges == 3


def test_waiters_do_not_try_in_turn_when_the_first_failed(server, session):
    """P6: N waiters tried N refreshes (golang/oauth2, fresh_dio)."""
    server.fault("token", times=None, status=503)
    server.gate(CROWD, then=server.revoke_access_tokens)
    assert Crowd(lambda: session.get(server.resource)).kinds() == {"RefreshUnavailable": CROWD}
    assert server.counters.exchanges == 1


def test_late_members_of_a_failed_batch_do_not_refresh_again(server, session):
    """P6: Alamofire RethrowsRefreshErrorToAllPendingRetryRequests."""
    server.revoke_access_tokens()
    (late,), (release,) = late_401s(server, session, ["late"])
    server.fault("token", times=None, status=503)
    assert type(outcome_of(lambda: session.get(server.resource))) is RefreshUnavailable
    release.set()
    assert late.kinds() == {"RefreshUnavailable": 1}
    assert server.counters.exchanges == 1


def test_a_new_request_later_tries_again(server, session, clock):
    """P6: Alamofire AllowsNewRequestsToTriggerRefreshAfterPreviousRefreshFailure."""
    server.revoke_access_tokens()
    server.fault("token", status=503)
    error = outcome_of(lambda: session.get(server.resource))
    clock.advance(error.retry_after)
    assert session.get(server.resource).status_code == 200
    assert server.counters.exchanges == 2


def test_a_server_that_rejects_every_new_token(server, session, clock):
    """Futile: 456 refreshes a second (mcp-remote PR 338; Alamofire RefreshWindow)."""
    server.fault("resource", times=None, status=401)
    for _ in range(60):
        assert session.get(server.resource).status_code == 401
        clock.advance(1)
    assert server.counters.exchanges <= 6


def test_a_client_made_per_request_guards_all_the_same(server, manager):
    """P1: Authlib #673: a lock that lived in the client guarded nothing; here it is in the
    manager, however many adapters and sessions are made."""

    def one_shot():
        with session_for(manager, server) as session:
            return session.get(server.resource)

    server.gate(CROWD, then=server.revoke_access_tokens)
    assert Crowd(one_shot).kinds() == {200: CROWD}
    assert server.counters.exchanges == 1


def test_a_manager_made_per_request_guards_all_the_same(server, tmp_path):
    """P1: even so, if they share a store."""
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
    """P4: fresh, Alamofire; ktor testClearCalledWhileSettingTokens."""
    server.revoke_access_tokens()
    with server.token_gate(processed=True) as held:
        crowd = Crowd(lambda: session.get(server.resource))
        assert held.arrived.wait(10)
        manager.sign_out()
    assert crowd.kinds() == {"SessionExpired": CROWD}
    until(lambda: manager._queue._batch is None)
    assert type(outcome_of(lambda: session.get(server.resource))) is SessionExpired


def test_a_sign_in_during_a_refresh_is_not_overwritten(server, manager, session):
    """P4: the same, with another account signed in."""
    server.revoke_access_tokens()
    with server.token_gate(processed=True) as held:
        crowd = Crowd(lambda: session.get(server.resource))
        assert held.arrived.wait(10)
        manager.sign_in(other := server.sign_in_token())
        assert crowd.kinds() == {200: CROWD}
    until(lambda: manager._queue._batch is None)
    assert manager.token() is other


@pytest.mark.skipif(sys.platform == "win32", reason="a system without fork")
def test_a_fork_while_the_lock_is_held_is_not_dead_in_the_child(server, tmp_path):
    """P13: the child asks for a token while, in its parent's past, a thread holds the Condition."""
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
    with manager._queue._condition:
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
    """P13: what gevent puts in the place of threads and locks does as well."""
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


def test_the_loser_deleted_the_winners_tokens(server, tmp_path):
    """P1, P7 (buildkite/cli): refused while somebody signed in: theirs is used, and stays."""
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
