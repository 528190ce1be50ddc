"""P9, P10: a dead session causes no traffic, and after one sign-in all requests go on."""

from __future__ import annotations

import logging
import threading
import time

import pytest
import requests
from queue_kit import CROWD, Clock, Crowd, outcome_of, session_for, signed_in, until

from requests_silent_refresh import (
    EncryptedFileStore,
    MemoryStore,
    RefreshFailed,
    RefreshUnavailable,
    SessionExpired,
    SilentRefreshError,
    StoreUnavailable,
    Token,
    TokenManager,
)
from requests_silent_refresh.stores.contract import State, StateMoved
from requests_silent_refresh.testing import AuthorizationServer

KEY = b"k" * 43 + b"="


class CountingStore(MemoryStore):
    """Counts calls of ``load`` and ``exclusive``."""

    def __init__(self):
        super().__init__()
        self.loads = 0
        self.locks = 0

    def load(self):
        self.loads += 1
        return super().load()

    def exclusive(self, timeout, after=None):
        self.locks += 1
        return super().exclusive(timeout, after)


def refuse(server):
    """Let the server end the session: it refuses every refresh token."""
    server.fault("token", times=None, status=400, body='{"error": "invalid_grant"}')
    server.revoke_access_tokens()


# -- the dead session -----------------------------------------------------------------


def test_a_dead_session_costs_no_traffic_and_one_read_of_the_store_a_second(server):
    """P9: no exchange and no lock (58 exchanges in 47 minutes in memry PR 850)."""
    clock, store = Clock(), CountingStore()
    manager = signed_in(server, store=store, monotonic=clock)
    refuse(server)
    with session_for(manager, server) as session:
        assert type(outcome_of(lambda: session.get(server.resource))) is SessionExpired
        assert server.counters.exchanges == 1
        store.loads = store.locks = 0
        for _ in range(10):
            crowd = Crowd(lambda: session.get(server.resource))
            assert crowd.kinds() == {"SessionExpired": CROWD}
            clock.advance(0.5)
    assert store.locks == 0
    assert store.loads <= 5
    assert server.counters.exchanges == 1
    assert server.counters.requests == 1
    assert manager.stats.waits == 1


def test_a_dead_session_takes_no_lock_of_the_process(server):
    """P9: requests fail at once even while another thread holds the Condition."""
    manager = signed_in(server, monotonic=Clock())
    refuse(server)
    outcome_of(lambda: manager.renew(manager.token()))
    with manager._queue._condition:  # no public call holds it at a chosen moment
        assert Crowd(manager.token).kinds() == {"SessionExpired": CROWD}


def test_a_store_that_cannot_be_read_does_not_hide_the_end_of_the_session(server, caplog):
    """P9: the failure of the read is logged, and requests go on raising ``SessionExpired``."""

    class Broken(MemoryStore):
        broken = False

        def load(self):
            if self.broken:
                raise StoreUnavailable("the disk is gone")
            return super().load()

    clock, store = Clock(), Broken()
    manager = signed_in(server, store=store, monotonic=clock)
    refuse(server)
    outcome_of(lambda: manager.renew(manager.token()))
    store.broken = True
    clock.advance(2)
    with pytest.raises(SessionExpired):
        manager.token()
    assert "the disk is gone" in caplog.text


def test_a_sign_in_here_revives_every_session(server):
    """P9: without a restart or a new adapter."""
    manager = signed_in(server)
    refuse(server)
    with session_for(manager, server) as one, session_for(manager, server) as other:
        for session in (one, other):
            assert type(outcome_of(lambda s=session: s.get(server.resource))) is SessionExpired
        manager.sign_in(server.sign_in())
        for session in (one, other):
            assert session.get(server.resource).history == []


def test_a_sign_in_by_another_process_revives_the_session(server, tmp_path):
    """P9: it is noticed in the store within a second."""
    clock = Clock()
    manager = signed_in(server, store=EncryptedFileStore(tmp_path / "t", KEY), monotonic=clock)
    refuse(server)
    with session_for(manager, server) as session:
        for _ in range(2):  # refused, and the first look after that
            assert type(outcome_of(lambda: session.get(server.resource))) is SessionExpired
        # As another process would: nothing of this manager knows.
        EncryptedFileStore(tmp_path / "t", KEY).save(server.sign_in_token(), after=None)
        assert type(outcome_of(lambda: session.get(server.resource))) is SessionExpired
        clock.advance(1)
        assert session.get(server.resource).history == []


def test_a_sign_in_elsewhere_is_adopted_at_the_next_401(server):
    """P9: the old session's token, which may be another person's, is not exchanged."""
    store = MemoryStore()
    manager = signed_in(server, store=store)
    with session_for(manager, server) as session:
        assert session.get(server.resource).history == []
        server.revoke_access_tokens()
        store.save(server.sign_in_token(), after=None)
        assert session.get(server.resource).status_code == 200
    assert server.counters.exchanges == 0
    assert manager.stats.adopted == 1


def test_a_sign_out_elsewhere_is_adopted_at_the_next_401(server):
    """P9: the tombstone counts as a refusal, without a request to the server."""
    store = MemoryStore()
    manager = signed_in(server, store=store)
    server.revoke_access_tokens()
    store.clear(after=store.load())
    with session_for(manager, server) as session, pytest.raises(SessionExpired) as caught:
        session.get(server.resource)
    assert server.counters.exchanges == 0
    assert caught.value.response.status_code == 401


def test_an_empty_store_counts_as_a_refusal_without_a_request(server):
    """P9: before the first sign-in the same error is raised. It holds the request, for sending it
    again later."""
    with (
        session_for(TokenManager(lambda token: pytest.fail("called")), server) as session,
        pytest.raises(SessionExpired, match="nobody is signed in") as caught,
    ):
        session.post(server.resource, json={"resume": "me"})
    assert caught.value.request.body == b'{"resume": "me"}'
    assert caught.value.response.status_code == 401  # made here
    assert isinstance(caught.value, requests.HTTPError)
    assert server.counters.requests == 0


# -- on_session_expired -----------------------------------------------------------------


def test_32_waiting_requests_are_signed_in_once(server):
    """P10: one callback for all, without any lock, in a thread of its own; then all go on."""
    calls = []

    def sign_in(error):
        calls.append((error, threading.current_thread()))
        until(lambda: manager.stats.waits == CROWD)
        # These calls need the store's lock for exchanges, its write lock, and the queue's lock.
        store.exclusive(1).release()
        with pytest.raises(StateMoved):
            store.replace(other, after=other)
        manager.start_refresh(other.token)
        return server.sign_in_token()

    store, other = MemoryStore(), State.first(Token("another"))
    manager = signed_in(server, store=store, on_session_expired=sign_in)
    server.fault("token", status=400, body='{"error": "invalid_grant"}')
    server.gate(CROWD, then=server.revoke_access_tokens)
    with session_for(manager, server) as session:
        assert Crowd(lambda: session.get(server.resource)).kinds() == {200: CROWD}
    ((error, thread),) = calls
    assert isinstance(error, SessionExpired)
    assert error.error == "invalid_grant"
    assert thread.daemon
    assert thread.name == "silent-refresh-sign-in"
    assert server.counters.exchanges == 1


def test_a_callback_that_returns_none(server):
    """P10: nobody signed in. It is not called again until somebody signs in."""
    calls = []
    manager = signed_in(server, on_session_expired=calls.append)
    refuse(server)
    with session_for(manager, server) as session:
        assert Crowd(lambda: session.get(server.resource)).kinds() == {"SessionExpired": CROWD}
        assert Crowd(lambda: session.get(server.resource)).kinds() == {"SessionExpired": CROWD}
        assert len(calls) == 1
        manager.sign_in(server.sign_in())
        refuse(server)
        outcome_of(lambda: session.get(server.resource))
    assert len(calls) == 2


@pytest.mark.parametrize("raised", [ValueError("no terminal"), SystemExit(1)], ids=repr)
def test_a_callback_that_raises(server, raised):
    """P10: each request raises a ``SessionExpired`` of its own, with that error as its cause."""

    def sign_in(error):
        raise raised

    manager = signed_in(server, on_session_expired=sign_in)
    server.fault("token", status=400, body='{"error": "invalid_grant"}')
    server.gate(CROWD, then=server.revoke_access_tokens)
    with session_for(manager, server) as session:
        outcomes = Crowd(lambda: session.get(server.resource)).outcomes()
    assert {type(o) for o in outcomes} == {SessionExpired}
    assert all(type(raised).__name__ in str(o) for o in outcomes)
    assert all(o.response.status_code == 401 and o.request.url for o in outcomes)
    if isinstance(raised, Exception):
        assert all(o.__cause__ is raised for o in outcomes)
        assert raised.__traceback__ is None
    assert server.counters.exchanges == 1


def test_a_callback_that_returns_something_else(server):
    """P10: a mapping, for example: the error says what it must return."""
    manager = signed_in(server, on_session_expired=lambda error: server.sign_in())
    refuse(server)
    with pytest.raises(SessionExpired, match="it returned a dict, neither a Token nor None"):
        manager.renew(manager.token())


def test_a_callback_that_hangs(server):
    """P8, P10: requests wait for it until ``sign_in_timeout``, and its late token is used."""
    release = threading.Event()

    def sign_in(error):
        assert release.wait(10)
        return server.sign_in_token()

    manager = signed_in(server, on_session_expired=sign_in, sign_in_timeout=1.5, wait_timeout=1)
    refuse(server)
    with session_for(manager, server) as session:
        began = time.monotonic()
        assert Crowd(lambda: session.get(server.resource)).kinds() == {"SessionExpired": CROWD}
        assert 1.5 <= time.monotonic() - began < 2.5
        release.set()
        until(lambda: manager.signed_in)
        assert session.get(server.resource).history == []


def test_a_late_token_does_not_replace_a_sign_in(server):
    """P10: the sign-in may be another person's."""
    release, returned = threading.Event(), threading.Event()

    def sign_in(error):
        assert release.wait(10)
        returned.set()
        return server.sign_in_token()

    manager = signed_in(server, on_session_expired=sign_in, sign_in_timeout=0.1)
    refuse(server)
    outcome_of(lambda: manager.renew(manager.token()))
    mine = server.sign_in_token()
    manager.sign_in(mine)
    release.set()
    assert returned.wait(10)
    until(lambda: not any(t.name == "silent-refresh-sign-in" for t in threading.enumerate()))
    assert manager.token() is mine


def test_a_token_that_comes_just_after_a_sign_in_does_not_replace_it(server, monkeypatch):
    """P10: the same if the callback returns before the worker has noticed the sign-in."""
    # No parameter sets this interval.
    monkeypatch.setattr("requests_silent_refresh.manager.sign_in_again.LOOK_INTERVAL", 30)
    asked, release = threading.Event(), threading.Event()

    def sign_in(error):
        asked.set()
        assert release.wait(10)
        return server.sign_in_token()

    manager = signed_in(server, on_session_expired=sign_in)
    first = manager.token()
    refuse(server)
    crowd = Crowd(lambda: manager.renew(first), size=2)
    assert asked.wait(10)
    manager.sign_in(mine := server.sign_in_token())
    release.set()
    assert crowd.outcomes() == [mine, mine]
    until(lambda: not any(t.name == "silent-refresh" for t in threading.enumerate()))
    assert manager.token() is mine


def test_a_callback_that_signs_in_itself(server):
    """P10: it may call ``sign_in``, ``signed_in`` and ``stats``."""

    def sign_in(error):
        assert not manager.signed_in
        assert manager.stats.exchanges == 1
        manager.sign_in(server.sign_in())

    manager = signed_in(server, on_session_expired=sign_in)
    refuse(server)
    with session_for(manager, server) as session:
        assert session.get(server.resource).status_code == 200


@pytest.mark.parametrize("call", ["token", "renew", "request"])
def test_a_callback_that_asks_for_a_token(server, call):
    """P8, P10: the call would wait for the callback, so it raises at once."""
    sessions, caught = [], []

    def sign_in(error):
        calls = {
            "token": manager.token,
            "renew": lambda: manager.renew(None),
            "request": lambda: sessions[0].get(server.resource),
        }
        caught.append(outcome_of(calls[call]))

    manager = signed_in(server, on_session_expired=sign_in, wait_timeout=5)
    refuse(server)
    with session_for(manager, server) as session:
        sessions.append(session)
        assert type(outcome_of(lambda: session.get(server.resource))) is SessionExpired
    assert type(caught[0]) is RefreshFailed
    assert "would wait for itself" in str(caught[0])


def test_a_sign_in_elsewhere_ends_the_wait(server, tmp_path):
    """P10: a sign-in in another process does; the callback goes on alone."""
    asked, release = threading.Event(), threading.Event()

    def sign_in(error):
        asked.set()
        release.wait(10)

    manager = signed_in(
        server, store=EncryptedFileStore(tmp_path / "t", KEY), on_session_expired=sign_in
    )
    refuse(server)
    with session_for(manager, server) as session:
        crowd = Crowd(lambda: session.get(server.resource))
        assert asked.wait(10)
        EncryptedFileStore(tmp_path / "t", KEY).save(server.sign_in_token(), after=None)
        assert crowd.kinds() == {200: CROWD}
    release.set()


def test_a_sign_in_in_this_process_ends_the_wait_at_once(server):
    """P10: all requests use the token of another thread's sign-in before the callback returns."""
    asked, release = threading.Event(), threading.Event()

    def sign_in(error):
        asked.set()
        assert release.wait(10)

    manager = signed_in(server, on_session_expired=sign_in)
    refuse(server)
    with session_for(manager, server) as session:
        crowd = Crowd(lambda: session.get(server.resource))
        assert asked.wait(10)
        manager.sign_in(server.sign_in())
        assert crowd.kinds() == {200: CROWD}
        assert not release.is_set()
        # The new token is revoked before the worker has noticed that the wait is over.
        server.clear_faults()
        server.revoke_access_tokens()
        release.set()
        assert session.get(server.resource).status_code == 200


def test_a_callbacks_token_that_cannot_be_saved_is_not_used(server):
    """P4, P10: only this process would know of that session."""

    class Full(MemoryStore):
        full = False

        def replace(self, new, after):
            if self.full:
                raise OSError(28, "No space left on device")
            super().replace(new, after)

    store = Full()
    manager = signed_in(server, store=store, on_session_expired=lambda e: server.sign_in_token())
    refuse(server)
    store.full = True
    with pytest.raises(SessionExpired, match="OSError") as caught:
        manager.renew(manager.token())
    assert isinstance(caught.value.__cause__, OSError)


def test_a_refused_background_refresh_calls_it_too(server):
    """P10, P15: before any request has to wait."""
    clock, asked = Clock(), []

    def sign_in(error):
        asked.append(error)
        return server.sign_in_token()

    with AuthorizationServer(clock=clock, access_token_lifetime=1000) as server:
        manager = signed_in(
            server,
            clock=clock,
            refresh_ahead=0.2,
            on_session_expired=sign_in,
            grant={"clock": clock},
        )
        first = manager.token()
        server.fault("token", status=400, body='{"error": "invalid_grant"}')
        clock.advance(900)
        assert manager.token() is first
        until(lambda: manager.token() is not first)
    assert len(asked) == 1


def test_the_error_says_what_to_do(server):
    """P10: the message ends with ``sign_in_hint``, for example a program's own command."""
    manager = signed_in(server, sign_in_hint="run 'report login'")
    manager.sign_out()
    with pytest.raises(SessionExpired, match=r"signed out; run 'report login'$"):
        manager.token()


# -- sign-in and sign-out during an exchange -----------------------------------------------


def test_a_sign_in_during_an_exchange_wins(server):
    """P4: elsewhere the result of the refresh overwrote it (fresh, Alamofire)."""
    store = MemoryStore()
    manager = signed_in(server, store=store)
    first = manager.token()
    mine = server.sign_in_token()
    with server.token_gate(processed=True) as held:
        crowd = Crowd(lambda: manager.renew(first))
        assert held.arrived.wait(10)
        manager.sign_in(mine)  # does not wait for the exchange
        assert set(crowd.outcomes()) == {mine}
    assert manager.finish(10)
    assert manager.token() is mine
    assert store.load().token is mine
    assert server.counters.revocations == 0


@pytest.mark.parametrize("signs", ["in", "out"])
def test_a_sign_in_or_out_elsewhere_during_an_exchange_wins(server, tmp_path, signs):
    """P4, P17: another process's is found when the result is saved, which is dropped then."""
    store, elsewhere = (EncryptedFileStore(tmp_path / "tokens", KEY) for _ in range(2))
    manager = signed_in(server, store=store)
    first = manager.token()
    theirs = server.sign_in_token()
    with server.token_gate(processed=True) as held:
        crowd = Crowd(lambda: manager.renew(first))
        assert held.arrived.wait(10)
        if signs == "in":
            stored = elsewhere.save(theirs, after=None)
        else:
            stored = elsewhere.clear(elsewhere.load())
    if signs == "in":
        assert set(crowd.outcomes()) == {manager.token()}
        assert manager.token().access_token.reveal() == theirs.access_token.reveal()
    else:
        assert crowd.kinds() == {"SessionExpired": CROWD}
        assert server.counters.revocations == 1  # of the granted token, which nobody else knows
    assert stored.is_same(store.load())
    assert server.counters.exchanges == 1


def test_a_sign_out_during_an_exchange_wins(server):
    """P4: the result of the refresh is dropped and revoked; elsewhere it undid the sign-out (ktor
    testClearCalledWhileSettingTokens)."""
    store = MemoryStore()
    manager = signed_in(server, store=store)
    first = manager.token()
    with server.token_gate(processed=True) as held:
        crowd = Crowd(lambda: manager.renew(first))
        assert held.arrived.wait(10)
        manager.sign_out()
        assert crowd.kinds() == {"SessionExpired": CROWD}
    server.wait_for(lambda: server.counters.revocations == 2)
    granted = server.log.of("exchange", outcome="granted")[0]
    revoked = server.log.of("revocation")
    assert [e.refresh for e in revoked] == [granted.refresh, granted.issued_refresh]
    assert store.load().token is None
    assert not manager.signed_in


def test_nobody_is_asked_after_a_sign_out_during_an_exchange(server):
    """P10: however long after it the refusal comes, which the sign-out's revocation causes."""
    asked = []
    manager = signed_in(server, on_session_expired=asked.append)
    first = manager.token()
    with server.token_gate() as held:
        crowd = Crowd(lambda: manager.renew(first))
        assert held.arrived.wait(10)
        manager.sign_out()
        assert crowd.kinds() == {"SessionExpired": CROWD}
    until(lambda: server.log.of("exchange"))
    until(lambda: "silent-refresh" not in {thread.name for thread in threading.enumerate()})
    assert asked == []
    assert server.log.of("exchange")[0].reason == "revoked"


def test_a_reset_during_an_exchange_wins(server, tmp_path):
    """P17: as a sign-out does; the granted token is dropped and revoked."""
    store, elsewhere = (EncryptedFileStore(tmp_path / "tokens", KEY) for _ in range(2))
    manager = signed_in(server, store=store)
    first = manager.token()
    with server.token_gate(processed=True) as held:
        crowd = Crowd(lambda: manager.renew(first))
        assert held.arrived.wait(10)
        elsewhere.reset()
    assert crowd.kinds() == {"SessionExpired": CROWD}
    assert store.load() is None
    assert server.counters.revocations == 1


def test_a_sign_out_revokes_before_it_wipes(server):
    """RFC 7009: it revokes the refresh token, and with it the whole family."""
    manager = signed_in(server)
    access = manager.token().access_token.reveal()
    manager.sign_out()
    (event,) = server.log.of("revocation")
    assert event.refresh is not None
    headers = {"Authorization": f"Bearer {access}"}
    assert requests.get(server.resource, headers=headers).status_code == 401
    with pytest.raises(SessionExpired, match="signed out"):
        manager.token()


def test_a_sign_out_wipes_the_store_even_if_the_revocation_fails(server, caplog):
    """The failure is logged, and the session is over."""
    store = MemoryStore()
    manager = signed_in(server, store=store)
    server.fault("revoke", status=503)
    manager.sign_out()
    assert store.load().token is None
    assert "could not be revoked" in caplog.text


@pytest.mark.parametrize("raised", [ValueError, SilentRefreshError])
def test_a_revocation_whose_error_quotes_the_token(caplog, raised):
    """P12: the application's callable may raise anything. The log shows the type and place of a
    foreign error only, and never the token."""

    def refresh(token):
        raise AssertionError

    def revoke(token):
        raise raised(f"cannot revoke {token.refresh_token.reveal()}")

    refresh.revoke = revoke
    manager = TokenManager(refresh)
    manager.sign_in(Token("opaque-access", "opaque-refresh"))
    manager.sign_out()
    assert "could not be revoked" in caplog.text
    assert "opaque-refresh" not in caplog.text
    assert ("cannot revoke" in caplog.text) is (raised is SilentRefreshError)
    assert (f"ValueError at {__file__}" in caplog.text) is (raised is ValueError)


def test_a_revocation_that_asks_for_a_token():
    """P8: it fails at once, and the token that is to be revoked is not exchanged."""
    exchanged, outcomes = [], []

    def refresh(token):
        exchanged.append(token)
        return Token("next", "next")

    refresh.revoke = lambda token: outcomes.append(outcome_of(manager.token))
    manager = TokenManager(refresh, refresh_ahead=0)
    manager.sign_in(Token("access", "refresh", expires_at=time.time() - 10))
    manager.sign_out()
    assert [type(outcome) for outcome in outcomes] == [RefreshFailed]
    assert exchanged == []


def test_a_sign_out_after_a_refresh_that_failed(server, tmp_path):
    """The store is wiped, whatever the failed refresh had prepared in it."""
    store = EncryptedFileStore(tmp_path / "tokens", KEY)
    manager = signed_in(server, store=store)
    server.fault("token", status=503)
    assert type(outcome_of(lambda: manager.renew(manager.token()))) is RefreshUnavailable
    manager.sign_out()
    assert store.load().token is None


def test_a_sign_out_asks_nobody_to_sign_in(server):
    """P10: nor does an exchange that is refused because of the revocation."""
    asked = []
    manager = signed_in(server, on_session_expired=asked.append)
    first = manager.token()
    refused = threading.Event()
    server.on("/revoke", lambda request, answer: (refused.wait(10), None)[1])
    signing_out = Crowd(manager.sign_out, size=1)
    until(lambda: server.log.of("revocation"))  # processed, but not answered yet
    assert type(outcome_of(lambda: manager.renew(first))) is SessionExpired
    refused.set()
    assert signing_out.outcomes() == [None]
    assert asked == []
    assert server.log.of("exchange")[0].reason == "revoked"


def test_a_sign_out_that_cannot_change_the_store(server):
    """It raises ``StoreError``, and the session is over in this process all the same."""

    class ReadOnly(MemoryStore):
        broken = None

        def load(self):
            if self.broken == "load":
                raise StoreUnavailable("unreadable")
            return super().load()

        def replace(self, new, after):
            if self.broken == "replace":
                raise StoreUnavailable("read-only")
            super().replace(new, after)

    for step in ("load", "replace"):
        store = ReadOnly()
        manager = signed_in(server, store=store)
        store.broken = step
        with pytest.raises(StoreUnavailable):
            manager.sign_out()
        with pytest.raises(SessionExpired, match="signed out"):
            manager.token()


def test_a_sign_out_without_a_session(server):
    """After another sign-out or before any sign-in there is nothing to revoke."""
    manager = signed_in(server)
    manager.sign_out()
    manager.sign_out()
    TokenManager(lambda token: token).sign_out()
    assert server.counters.revocations == 1


def test_a_revocation_that_hangs_does_not_block_the_sign_out(server):
    """P8: the sign-out waits for it only until the callable's ``timeout``."""
    release = threading.Event()

    def refresh(token):
        raise AssertionError

    refresh.timeout = 0.05
    refresh.revoke = lambda token: release.wait(10)
    manager = signed_in(server, refresh=refresh)
    began = time.monotonic()
    manager.sign_out()
    assert time.monotonic() - began < 1.5
    release.set()


def test_after_parallel_sign_ins_the_stored_token_is_current(server):
    """P4: in whatever order they are saved and published."""
    store = MemoryStore()
    manager = signed_in(server, store=store)
    for _ in range(20):
        tokens = [Token(f"token-{n}", "refresh") for n in range(8)]
        queue = list(tokens)
        Crowd(lambda queue=queue: manager.sign_in(queue.pop()), size=8).outcomes()
        assert manager.token() is store.load().token
        assert manager.token() in tokens


def test_sign_in_accepts_the_answer_of_a_token_endpoint(server):
    """An answer without a token raises ``ValueError`` and changes nothing."""
    manager = signed_in(server)
    before = manager.token()
    with pytest.raises(ValueError, match="access_token"):
        manager.sign_in({"error": "invalid_grant"})
    assert manager.token() is before
    manager.sign_in({"access_token": "a", "expires_in": "3600", "refresh_token": "r"})
    assert manager.token().access_token.reveal() == "a"


def test_the_levels_of_logging(server, caplog):
    """A sign-in or sign-out is logged at INFO, the end of a session once at WARNING."""
    caplog.set_level(logging.INFO, "requests_silent_refresh")
    manager = signed_in(server)
    refuse(server)
    outcome_of(lambda: manager.renew(manager.token()))
    manager.sign_in(server.sign_in())
    manager.sign_out()
    told = [(r.levelname, r.getMessage()) for r in caplog.records]
    assert [t for t in told if t[0] == "INFO"] == [
        ("INFO", "signed in"),
        ("INFO", "signed in"),
        ("INFO", "signed out"),
    ]
    assert [level for level, _ in told if level != "INFO"] == ["WARNING"]


def test_the_end_of_a_session_is_a_silent_refresh_error():
    """``except SilentRefreshError`` catches it."""
    assert issubclass(SessionExpired, SilentRefreshError)
