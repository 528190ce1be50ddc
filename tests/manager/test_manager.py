"""The manager: the token it returns, refreshes ahead of time, callbacks, events and counters."""

from __future__ import annotations

import copy
import dataclasses
import gc
import logging
import math
import pickle
import threading
import types

import pytest
from queue_kit import CROWD, Clock, Crowd, outcome_of, session_for, signed_in, until

from requests_silent_refresh import (
    ClientCredentialsGrant,
    EncryptedFileStore,
    MemoryStore,
    RefreshFailed,
    RefreshTokenGrant,
    RefreshUnavailable,
    SessionExpired,
    Token,
    TokenManager,
)
from requests_silent_refresh.keys import KeyFile
from requests_silent_refresh.manager.current import current_of
from requests_silent_refresh.manager.events import Announcer, RefreshEvent
from requests_silent_refresh.redaction import Secret
from requests_silent_refresh.stores.contract import State
from requests_silent_refresh.testing import AuthorizationServer

KEY = b"k" * 43 + b"="


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def server(clock):
    with AuthorizationServer(clock=clock, access_token_lifetime=1000) as server:
        yield server


def managing(server, clock, **options):
    return signed_in(server, **{"clock": clock, "grant": {"clock": clock}, **options})


# -- P15: ahead of time -------------------------------------------------------------------


def test_a_routine_expiry_stalls_no_request(server, clock):
    """P15: the refresh runs in the background, and requests use the old token meanwhile."""
    manager = managing(server, clock, refresh_ahead=0.2)
    with session_for(manager, server) as session:
        clock.advance(850)
        with server.token_gate() as held:
            assert session.get(server.resource).json()["access_token_serial"] == 1
            assert held.arrived.wait(10)
            crowd = Crowd(lambda: session.get(server.resource))
            assert crowd.kinds() == {200: CROWD}  # none of them waited
        assert manager.finish(10)
        clock.advance(200)  # the first token has expired
        response = session.get(server.resource)
    assert (response.json()["access_token_serial"], response.history) == (2, [])
    assert server.counters.exchanges == 1
    assert server.counters.rejected == 0
    assert manager.stats.waits == 0


def test_a_refresh_ahead_of_time_is_jittered(server, clock):
    """P15: processes that signed in at the same time do not all refresh at the same time."""
    token = Token("t", "r", expires_at=clock.now + 1000, issued_at=clock.now)
    dues = [current_of(State.first(token), 0.2, clock.now).due_at - clock.now for _ in range(200)]
    assert 800 <= min(dues) < 810
    assert 830 < max(dues) <= 840


def test_a_refresh_ahead_of_time_is_at_most_5_minutes_ahead(clock):
    """P15: a token that lives a month is not replaced days before its expiry."""
    month = 30 * 86400
    token = Token("t", "r", expires_at=clock.now + month, issued_at=clock.now)
    currents = [current_of(State.first(token), 0.2, clock.now) for _ in range(1000)]
    ahead = [month - (current.due_at - clock.now) for current in currents]
    assert 240 <= min(ahead) < 241
    assert 299 < max(ahead) <= 300
    assert {current.wait_at - clock.now for current in currents} == {month - 5}


@pytest.mark.parametrize(
    ("expires_at", "issued_at", "due", "wait", "end"),
    [
        (None, None, math.inf, math.inf, math.inf),
        (1000, 1000, math.inf, math.inf, math.inf),  # expires_in: 0
        (900, 1000, math.inf, math.inf, math.inf),
        (1002, 1000, 1001.9, 1001.9, 1002),  # shorter than the leeway
        (1000.5, None, 1000.475, 1000.475, 1000.5),  # imported: it was issued before
        (500, None, 500, 500, 500),  # imported, and expired
        (1100, 1000, 1095, 1095, 1100),
    ],
    ids=str,
)
def test_when_a_token_is_due(expires_at, issued_at, due, wait, end):
    """P15: a token whose lifetime is shorter than the leeway is not refreshed for ever
    (Bdaya-Dev/oidc #123). One without an expiry is used until it is rejected."""
    token = Token("t", "r", expires_at=expires_at, issued_at=issued_at)
    current = current_of(State.first(token), 0, 1000.0)
    assert (current.due_at, current.wait_at, current.expires_at) == pytest.approx((due, wait, end))


def test_a_token_that_cannot_be_refreshed_is_never_due_ahead_of_time(server, clock):
    """P7: without a refresh token an access token is used until its last second, without a failed
    refresh; then the session is over."""
    told = []
    manager = TokenManager(
        RefreshTokenGrant(server.token_endpoint, "client"), on_event=told.append, clock=clock
    )
    token = Token("access", expires_at=clock.now + 1000, issued_at=clock.now)
    manager.sign_in(token)
    clock.advance(999)
    assert manager.token() is token
    assert manager.finish(10)
    assert (told, manager.stats.failures) == ([], 0)
    clock.advance(1)
    with pytest.raises(SessionExpired):
        manager.token()
    assert server.counters.exchanges == 0


def test_a_request_waits_if_the_token_is_about_to_expire(server, clock):
    """P2: within the leeway of 5 s, because the token could expire on the way to the server."""
    manager = managing(server, clock)
    with session_for(manager, server) as session:
        clock.advance(996)
        assert Crowd(lambda: session.get(server.resource)).kinds() == {200: CROWD}
    assert server.counters.exchanges == 1
    assert server.counters.rejected == 0


def test_a_token_with_expires_in_0_is_used(clock):
    """P15: it is not refreshed at every use; a 401 shows when it is rejected."""
    with AuthorizationServer(clock=clock, access_token_lifetime=0) as server:
        manager = managing(server, clock)
        assert manager.token() is manager.token()
        assert server.counters.exchanges == 0


def test_an_upload_right_after_a_refresh_starts_no_other(server, clock):
    """P1: it uses the token that was just published, and does not wait for the refresh to end."""
    manager = managing(server, clock)
    first = manager.token()
    published, go_on = threading.Event(), threading.Event()

    class Between(logging.Handler):
        def emit(self, record):
            if record.getMessage() == "refreshed":  # published, while the batch is in flight
                published.set()
                assert go_on.wait(10)

    logger, handler = logging.getLogger("requests_silent_refresh"), Between()
    level, _ = logger.level, logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        clock.advance(1000)
        second = manager.token()
        assert published.wait(10)
        waits = manager.stats.waits
        upload = manager.begin_upload().token
        assert manager.stats.waits == waits
    finally:
        go_on.set()
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert upload is manager.token() is second is not first
    assert manager.finish(10)
    assert server.counters.exchanges == 1


def test_a_fresh_token_costs_no_lock(server, clock):
    """P14: it takes none of the manager's locks, and does not read the store."""

    class Unread(MemoryStore):
        reads = 0

        def load(self):
            self.reads += 1
            return super().load()

    store = Unread()
    manager = managing(server, clock, store=store)
    store.reads = 0
    # No public call holds one of them at a chosen moment.
    locks = [manager._queue._condition, manager._announcer._condition, manager.futility._lock]
    for lock in locks:
        lock.acquire()
    try:
        assert len(set(Crowd(manager.token).outcomes())) == 1
    finally:
        for lock in locks:
            lock.release()
    assert store.reads == 0


def test_a_changed_clock_ends_no_session(server, clock):
    """P7: if the user sets the clock, it costs one exchange at most (AppAuth #747, #830)."""
    other = Clock(clock.now)  # this machine's, while the server's stands still
    manager = managing(server, other)
    with session_for(manager, server) as session:
        for jump in (-86400, 10 * 86400, -5 * 86400):
            other.advance(jump)
            assert session.get(server.resource).history == []
    assert server.counters.exchanges <= 2


# -- two managers, one session ----------------------------------------------------------------


def test_two_managers_on_one_store_are_one_session(server, clock, tmp_path):
    """P1: at its 401 the second manager adopts the token of the first, without an exchange."""
    managers = [
        managing(server, clock, store=EncryptedFileStore(tmp_path / "t", KEY)),
        TokenManager(
            RefreshTokenGrant(server.token_endpoint, "client"),
            EncryptedFileStore(tmp_path / "t", KEY),
            refresh_ahead=0,
            clock=clock,
        ),
    ]
    first = [manager.token() for manager in managers]
    server.gate(2 * CROWD, then=server.revoke_access_tokens)
    sessions = [session_for(manager, server) for manager in managers]
    crowds = [Crowd(lambda s=session: s.get(server.resource)) for session in sessions]
    assert [crowd.kinds() for crowd in crowds] == [{200: CROWD}] * 2
    assert server.counters.exchanges == 1
    assert sum(manager.stats.adopted for manager in managers) == 1
    assert [m.renew(t) for m, t in zip(managers, first, strict=True)] == [
        manager.token() for manager in managers
    ]
    for session in sessions:
        session.close()


def test_client_credentials_need_no_sign_in(clock):
    """Neither at the start nor after a sign-out, and a refusal does not end the session."""
    monotonic = Clock()
    with AuthorizationServer(client_secret="secret", clock=clock) as server:
        grant = ClientCredentialsGrant(server.token_endpoint, "client", "secret", clock=clock)
        manager = TokenManager(grant, clock=clock, monotonic=monotonic, refresh_ahead=0)
        with session_for(manager, server) as session:
            assert Crowd(lambda: session.get(server.resource)).kinds() == {200: CROWD}
            assert server.counters.exchanges == 1

            manager.sign_out()
            assert session.get(server.resource).status_code == 200
            assert server.counters.exchanges == 2

            server.revoke_access_tokens()
            server.fault("token", status=400, body='{"error": "invalid_grant"}')
            with pytest.raises(RefreshFailed) as caught:
                session.get(server.resource)
            assert (caught.value.error, caught.value.status_code) == ("invalid_grant", 400)
            monotonic.advance(2)
            assert session.get(server.resource).status_code == 200


def test_a_sign_out_of_client_credentials_during_an_exchange(clock):
    """P9: its result is dropped, and later requests start a new exchange."""
    monotonic = Clock()
    with AuthorizationServer(client_secret="secret", clock=clock) as server:
        grant = ClientCredentialsGrant(server.token_endpoint, "client", "secret", clock=clock)
        manager = TokenManager(grant, clock=clock, monotonic=monotonic, refresh_ahead=0)
        first = manager.token()
        with server.token_gate(processed=True) as held:
            crowd = Crowd(lambda: manager.renew(first), size=2)
            assert held.arrived.wait(10)
            manager.sign_out()
        assert set(crowd.kinds()) <= {"RefreshUnavailable", "Token"}
        monotonic.advance(2)
        assert manager.token() is not first


# -- callbacks, events and counters ---------------------------------------------------------------


def test_events_and_counters_show_what_happened(server, clock):
    """Events for refreshed, failed, expired and replayed; counters in an immutable snapshot."""
    events, tokens, monotonic = [], [], Clock()
    manager = managing(
        server,
        clock,
        monotonic=monotonic,
        on_event=events.append,
        on_refreshed=tokens.append,
    )
    before = manager.stats
    with session_for(manager, server) as session:
        server.gate(CROWD, then=server.revoke_access_tokens)
        with server.token_gate() as held:
            crowd = Crowd(lambda: session.get(server.resource))
            assert held.arrived.wait(10)
            until(lambda: manager.stats.waits == CROWD)
        assert crowd.kinds() == {200: CROWD}
        until(lambda: tokens)

        server.revoke_access_tokens()
        server.fault("token", status=503)
        outcome_of(lambda: session.get(server.resource))
        until(lambda: any(e.kind == "failed" for e in events))
        monotonic.advance(2)
        server.fault("token", status=400, body='{"error": "invalid_grant"}')
        outcome_of(lambda: session.get(server.resource))
        until(lambda: any(e.kind == "expired" for e in events))
    stats = manager.stats
    assert [e.kind for e in events if e.kind != "replayed"] == ["refreshed", "failed", "expired"]
    assert [e.kind for e in events].count("replayed") == stats.replays == CROWD
    assert [type(e.error) for e in events if e.error] == [RefreshUnavailable, SessionExpired]
    assert len(tokens) == 1
    assert (stats.exchanges, stats.failures, stats.adopted) == (3, 2, 0)
    assert stats.waits == CROWD + 2
    assert stats.wait_seconds > 0
    assert before.exchanges == before.waits == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.exchanges = 0


def test_on_refreshed_gets_adopted_tokens_too(server, clock):
    """A program that copies each token elsewhere needs those that another manager exchanged."""
    store, told = MemoryStore(), []
    manager = managing(server, clock, store=store, on_refreshed=told.append)
    other = TokenManager(RefreshTokenGrant(server.token_endpoint, "client"), store)
    old = manager.token()
    new = other.renew(other.token())
    assert manager.renew(old) is new
    until(lambda: told)
    assert told == [new]


def test_callbacks_come_in_the_order_of_the_refreshes(server, clock):
    """A program that writes the token down ends with the newest; no refresh waits for it."""
    told, go_on = [], threading.Event()

    def slowly(token):
        if not told:
            go_on.wait(10)
        told.append(token)

    manager = managing(server, clock, on_refreshed=slowly)
    tokens = [manager.token()]
    for _ in range(4):
        tokens.append(manager.renew(tokens[-1]))
    assert told == []
    go_on.set()
    until(lambda: len(told) == 4)
    assert told == tokens[1:]


def test_a_callback_that_raises_disturbs_no_request(server, clock, caplog):
    """P12: the error is logged with its place and without secrets; later events still come."""
    events = []

    def on_event(event):
        events.append(event)
        raise ValueError("access_token=very-secret-token")

    manager = managing(server, clock, on_event=on_event, on_refreshed=on_event)
    with session_for(manager, server) as session:
        for _ in range(2):
            server.revoke_access_tokens()
            assert session.get(server.resource).status_code == 200
    until(lambda: len(events) == 6)
    assert "ValueError at " in caplog.text
    assert "test_manager.py" in caplog.text
    assert "very-secret-token" not in caplog.text


def test_after_a_callback_that_ended_its_thread_the_next_thread_goes_on():
    """A ``SystemExit`` ends the calls of that thread only."""
    told = []

    def on_event(event):
        told.append(event)
        if len(told) == 1:
            raise SystemExit

    announcer = Announcer(None, on_event)
    with pytest.raises(SystemExit):
        announcer.failed(RefreshUnavailable("busy"))
    announcer.failed(RefreshUnavailable("busy"))
    announcer.wait(0)
    assert len(told) == 2


def texts_of(*things):
    """Return all text that ``things`` and their parts show or hold, except in secrets."""
    seen, texts, todo = {}, [], list(things)
    while todo:
        thing = todo.pop()
        if isinstance(thing, str):
            texts.append(thing)
        if id(thing) in seen or isinstance(thing, (str, Secret)):
            continue
        ours = type(thing).__module__.startswith("requests_silent_refresh")
        if ours or isinstance(thing, (list, tuple, set, dict, types.MethodType)):
            seen[id(thing)] = thing  # kept alive, so that its id is not reused
            todo += gc.get_referents(thing)
        if ours:
            texts += [repr(thing), str(thing)]
    return texts


def test_no_event_log_or_repr_shows_a_secret(server, clock, caplog):
    """P12: neither events, stats, logs at any level, nor the repr of anything a manager holds."""
    caplog.set_level(logging.DEBUG)
    monotonic, told = Clock(), []
    manager = managing(
        server,
        clock,
        monotonic=monotonic,
        on_event=told.append,
        on_session_expired=told.append,
    )
    tokens = [manager.token()]
    with session_for(manager, server) as session:
        server.revoke_access_tokens()
        session.get(server.resource)
        tokens.append(manager.token())
        secrets = [t.access_token.reveal() for t in tokens]
        secrets += [t.refresh_token.reveal() for t in tokens]
        server.revoke_access_tokens()
        server.fault("token", status=500, body=f'{{"error": "{secrets[-1]}"}}')
        told.append(outcome_of(lambda: session.get(server.resource)))
        monotonic.advance(2)
        server.fault(
            "token",
            status=400,
            body=f'{{"error": "invalid_grant", "error_description": "{secrets[-1]}"}}',
        )
        told.append(outcome_of(lambda: session.get(server.resource)))
    until(lambda: len(told) >= 6)
    texts = texts_of(manager, manager.stats, told)
    assert {"Current", "Verdict", "SessionExpired"} <= {text.partition("(")[0] for text in texts}
    shown = "\n".join([caplog.text, *texts])
    for secret in secrets:
        assert secret not in shown


def test_the_token_is_masked_if_a_callables_exception_quotes_it(clock, caplog):
    """P12: in the message, in the cause, and in the log."""
    secret = "refresh-token-in-an-exception"

    def refresh(token):
        raise ValueError(f"cannot parse {token.refresh_token.reveal()}")

    manager = TokenManager(refresh)
    manager.sign_in(Token("access", secret))
    with pytest.raises(RefreshFailed) as caught:
        manager.renew(manager.token())
    assert "ValueError at " in str(caught.value)
    assert "cannot parse" not in str(caught.value)
    assert secret not in f"{caught.value}{caught.value.__cause__!r}{caplog.text}"


def test_the_levels_of_logging(server, clock, caplog):
    """A refresh is logged at INFO, a failed one at WARNING; neither at ERROR."""
    caplog.set_level(logging.DEBUG, "requests_silent_refresh")
    monotonic = Clock()
    manager = managing(server, clock, monotonic=monotonic)
    manager.renew(manager.token())
    server.fault("token", status=503)
    outcome_of(lambda: manager.renew(manager.token()))
    until(lambda: len(caplog.records) >= 3)
    told = [(r.levelname, r.getMessage().partition(":")[0]) for r in caplog.records]
    assert told == [
        ("INFO", "signed in"),
        ("INFO", "refreshed"),
        ("WARNING", "the refresh failed"),
    ]


# -- construction ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"refresh": "https://auth.example.com"}, TypeError),
        ({"wait_timeout": 0}, ValueError),
        ({"wait_timeout": math.nan}, ValueError),
        ({"sign_in_timeout": -1}, ValueError),
        ({"refresh_ahead": 1}, ValueError),
        ({"refresh_ahead": -0.1}, ValueError),
    ],
    ids=str,
)
def test_invalid_arguments_are_refused(wrong, error):
    """At construction, not at the first expiry."""
    options = {"refresh": lambda token: token, **wrong}
    with pytest.raises(error):
        TokenManager(options.pop("refresh"), **options)


def test_it_pickles_to_one_that_reopens_its_store(server, clock, tmp_path):
    """P13: for a process pool. A session in memory raises an error that says what to use."""
    key = KeyFile(tmp_path / "keys" / "key", make=True)
    store = EncryptedFileStore(tmp_path / "tokens", key)
    manager = TokenManager(RefreshTokenGrant(server.token_endpoint, "client"), store)
    manager.sign_in(server.sign_in_token())
    twin = pickle.loads(pickle.dumps(manager))
    assert twin.token().access_token.reveal() == manager.token().access_token.reveal()
    assert manager.token().access_token.reveal().encode() not in pickle.dumps(manager)
    with pytest.raises(TypeError, match="EncryptedFileStore"):
        pickle.dumps(managing(server, clock))


def test_a_copy_of_it_is_itself(server, clock):
    """P1: a session that is copied refreshes through the same queue."""
    manager = managing(server, clock)
    assert copy.copy(manager) is copy.deepcopy(manager) is manager


def test_its_repr_shows_the_grant_and_the_store(server, clock):
    """For a person in a debugger."""
    manager = managing(server, clock)
    assert repr(manager) == (
        f"TokenManager(RefreshTokenGrant('{server.token_endpoint}', client_id='client'), "
        "store=MemoryStore())"
    )


def test_an_event_is_a_value():
    """Immutable, and equal to another event with the same fields."""
    assert RefreshEvent("refreshed") == RefreshEvent("refreshed")
    with pytest.raises(dataclasses.FrozenInstanceError):
        RefreshEvent("refreshed").kind = "failed"
