"""Bugs of other projects in handling tokens, one test for each, named after what broke.

As in ``test_edge_queue``, each test shows what a user sees, over several refreshes and through a
store that is reopened. ``test_token``, ``test_grants`` and ``test_outcomes_table`` check what
each field of an answer means.
"""

from __future__ import annotations

import threading
import time

import pytest
import requests
from queue_kit import (
    Crowd,
    assert_no_token_was_spent_twice,
    outcome_of,
    session_for,
    signed_in,
    until,
)

from requests_silent_refresh import (
    EncryptedFileStore,
    JSONRefresh,
    MemoryStore,
    RefreshTokenGrant,
    Token,
    TokenManager,
)

KEY = b"k" * 43 + b"="
NOT_SAID = object()


@pytest.fixture
def store(tmp_path):
    return open_again(tmp_path)


def open_again(tmp_path):
    """Open the session's file as the next process would."""
    return EncryptedFileStore(tmp_path / "tokens", KEY)


def revealed(token):
    return token.access_token.reveal(), token.refresh_token and token.refresh_token.reveal()


# -- the refresh token ---------------------------------------------------------------------


def by_rfc_6749(server):
    return RefreshTokenGrant(server.token_endpoint, "client")


def by_json(server):
    return JSONRefresh(server.json_endpoint)


def by_nested_json(server):
    return JSONRefresh(server.json_endpoint + "/nested")


def by_a_callable(server):
    """A callable as users write it: it returns the access token only."""

    def renew(token):
        form = {
            "grant_type": "refresh_token",
            "refresh_token": token.refresh_token.reveal(),
            "client_id": "client",
        }
        answer = requests.post(server.token_endpoint, data=form, timeout=10)
        answer.raise_for_status()
        return Token(answer.json()["access_token"])

    return renew


GRANTS = pytest.mark.parametrize(
    "grant",
    [by_rfc_6749, by_json, by_nested_json, by_a_callable],
    ids=lambda grant: grant.__name__.removeprefix("by_"),
)


@GRANTS
@pytest.mark.parametrize("said", [NOT_SAID, None, ""], ids=["left out", "null", "empty"])
def test_the_refresh_token_is_kept_if_the_answer_has_none(server, tmp_path, store, grant, said):
    """P4: it was lost (golang/oauth2 #84, #131; requests-oauth2client; requests_auth; botocore
    tokens.py).

    RFC 6749 section 6: if the server issues no new refresh token, the old one stays valid.
    """

    def leave_it_out(request, answer):
        payload = answer.payload
        if said is not NOT_SAID:
            inner = payload.get("data", payload)
            inner["refreshToken" if "accessToken" in inner else "refresh_token"] = said
        return answer.but(payload=payload)

    for path in ("/token", "/json", "/json/nested"):
        server.on(path, leave_it_out)
    server.rotate = False
    first = server.sign_in_token()
    store.save(first, after=None)
    for refreshes in (1, 2, 3):
        manager = TokenManager(grant(server), open_again(tmp_path))
        server.revoke_access_tokens()
        with session_for(manager, server) as session:
            assert session.get(server.resource).status_code == 200
        stored = open_again(tmp_path).load().token
        assert revealed(stored) == (revealed(manager.token())[0], revealed(first)[1])
        assert server.counters.exchanges == refreshes
    assert server.log.of("exchange", outcome="refused") == []
    assert server.log.of("exchange", outcome="faulted") == []


def test_the_refresh_token_is_kept_if_a_callable_returns_late(server):
    """P4, P5: the same for a call that outlived its timeout and returned in the end."""
    server.rotate = False
    grant, go_on = by_a_callable(server), threading.Event()

    def refresh(token):
        granted = grant(token)
        assert go_on.wait(10)
        return granted

    refresh.timeout = 0.02
    store = MemoryStore()
    manager = signed_in(server, refresh=refresh, store=store)
    first = manager.token()
    outcome_of(lambda: manager.renew(first))
    go_on.set()
    until(lambda: store.load().generation == 2)
    assert revealed(store.load().token)[1] == revealed(first)[1]
    assert revealed(store.load().token)[0] != revealed(first)[0]


def test_a_callable_that_needs_no_sign_in_gets_no_refresh_token(server):
    """P4: its tokens are not combined with the refresh token of an earlier session."""

    def refresh(token):
        return Token("for-the-client-itself")

    refresh.needs_sign_in = False
    manager = signed_in(server, refresh=refresh)
    assert revealed(manager.renew(manager.token())) == ("for-the-client-itself", None)


def test_an_application_subclass_of_token_keeps_its_class_and_attributes(server):
    """P4, P13: it gets the old refresh token, whatever arguments its constructor takes."""

    class Own(Token):
        def __init__(self, answer):
            super().__init__(answer["access_token"])
            object.__setattr__(self, "tenant", answer["tenant"])

    manager = signed_in(server, refresh=lambda token: Own({"access_token": "new", "tenant": 5}))
    first = manager.token()
    renewed = manager.renew(first)
    assert revealed(renewed) == ("new", revealed(first)[1])
    assert (type(renewed), renewed.tenant) == (Own, 5)


def test_the_rotated_refresh_token_is_saved(server, tmp_path, store):
    """P4: each process starts with the token that the one before it received (golang/oauth2
    #84)."""
    store.save(server.sign_in_token(), after=None)
    for generation in (2, 3, 4):
        manager = TokenManager(by_rfc_6749(server), open_again(tmp_path))
        server.revoke_access_tokens()
        with session_for(manager, server) as session:
            assert session.get(server.resource).status_code == 200
        assert open_again(tmp_path).load().generation == generation
    assert server.counters.granted == 3
    assert_no_token_was_spent_twice(server)


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_refused_refresh_does_not_delete_the_tokens_of_another_process(server, tmp_path, kind):
    """P1, P7: refused because another process had already rotated (buildkite/cli PR 852).

    The session goes on: this process uses the other one's token, the token stays stored, and
    nobody is asked to sign in.
    """
    asked = []
    store = MemoryStore() if kind == "memory" else open_again(tmp_path)
    manager = signed_in(server, store=store, on_session_expired=asked.append)
    rejected = manager.token()
    winners = server.sign_in_token()
    server.fault("token", status=400, body='{"error": "invalid_grant"}')
    with server.token_gate() as held:
        crowd = Crowd(lambda: manager.renew(rejected))
        assert held.arrived.wait(20)
        store.save(winners, after=store.load())
        held.release()
        outcomes = crowd.outcomes()
    assert {revealed(token) for token in outcomes} == {revealed(winners)}
    assert manager.finish(10)
    stored = store.load()
    assert (stored.generation, revealed(stored.token)) == (2, revealed(winners))
    assert manager.signed_in
    assert revealed(manager.token()) == revealed(winners)
    assert (server.counters.exchanges, manager.stats.failures, asked) == (1, 0, [])


# -- the lifetime ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expires_in",
    ["3600", "-5", -5, 0, "0", 2**31, 1e300, "soon", None, NOT_SAID],
    ids=lambda value: "missing" if value is NOT_SAID else repr(value),
)
def test_a_token_with_an_odd_lifetime_is_stored_and_used(server, tmp_path, store, expires_in):
    """P15: it was refreshed for ever or could not be stored (oauth2 TestExpiresInUpperBound;
    Bdaya-Dev/oidc #123).

    The lifetime is a number in a string, too large for a date (it is cut to ten years), or
    missing: the token is used until it is rejected. So is a token that is expired on arrival,
    because some servers send 0 for "never".
    """

    def set_lifetime(request, answer):
        payload = answer.payload | {"expires_in": expires_in}
        if expires_in is NOT_SAID:
            del payload["expires_in"]
        return answer.but(payload=payload)

    server.on("/token", set_lifetime)
    store.save(server.sign_in_token(), after=None)
    manager = TokenManager(by_rfc_6749(server), store)
    server.revoke_access_tokens()
    with session_for(manager, server) as session:
        assert {session.get(server.resource).status_code for _ in range(20)} == {200}
    assert server.counters.exchanges == 1
    # The next process reads it from the file.
    anew = TokenManager(by_rfc_6749(server), open_again(tmp_path))
    assert revealed(anew.token()) == revealed(manager.token())
    assert (anew.token().expires_at or 0) < time.time() + 11 * 366 * 86400
    with session_for(anew, server) as session:
        assert {session.get(server.resource).status_code for _ in range(20)} == {200}
    assert server.counters.exchanges == 1
    assert manager.stats.waits == 1
