"""Lines of "The token and its endpoint" among the cases that broke other projects.

Named after what broke, like ``test_edge_queue``: the user's side of each, over several refreshes
and through a store that is opened anew. What an answer means, field by field, is in
``test_token``, ``test_grants`` and ``test_outcomes_table``.
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
    """Open the session's file as the next process does."""
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
    """As people write it: the answer's access token is what they were after."""

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
def test_the_refresh_token_was_lost_when_the_answer_left_it_out(
    server, tmp_path, store, grant, said
):
    """P4: golang/oauth2 #84, #131; requests-oauth2client; requests_auth; botocore tokens.py.

    RFC 6749 section 6: a server that issues no new one leaves the old one in force.
    """

    def say_nothing_of_it(request, answer):
        payload = answer.payload
        if said is not NOT_SAID:
            inner = payload.get("data", payload)
            inner["refreshToken" if "accessToken" in inner else "refresh_token"] = said
        return answer.but(payload=payload)

    for path in ("/token", "/json", "/json/nested"):
        server.on(path, say_nothing_of_it)
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


def test_a_callables_late_answer_lost_the_refresh_token(server):
    """P4, P5: the same, of a call that was left behind and came back after all."""
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


def test_a_callable_that_needs_no_refresh_token_was_given_one(server):
    """P4: what starts from nothing has no use for the refresh token of a session before it."""

    def refresh(token):
        return Token("for-the-client-itself")

    refresh.needs_sign_in = False
    manager = signed_in(server, refresh=refresh)
    assert revealed(manager.renew(manager.token())) == ("for-the-client-itself", None)


def test_a_token_of_the_users_own_kind_stays_what_it_is(server):
    """P4, P13: with the old refresh token, whatever its constructor takes and else it holds."""

    class Own(Token):
        def __init__(self, answer):
            super().__init__(answer["access_token"])
            object.__setattr__(self, "tenant", answer["tenant"])

    manager = signed_in(server, refresh=lambda token: Own({"access_token": "new", "tenant": 5}))
    first = manager.token()
    renewed = manager.renew(first)
    assert revealed(renewed) == ("new", revealed(first)[1])
    assert (type(renewed), renewed.tenant) == (Own, 5)


def test_the_rotated_refresh_token_was_never_saved(server, tmp_path, store):
    """P4: golang/oauth2 #84: each process begins with what the one before it was given."""
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
def test_the_loser_deleted_the_tokens_that_the_winner_had_rotated_to(server, tmp_path, kind):
    """P1, P7 (buildkite/cli PR 852): refused because another process had rotated already.

    That is no end of the session: its token is used here too, and stays; nobody is asked to
    sign in.
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
    until(lambda: manager._queue._batch is None)
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
def test_an_odd_lifetime_refreshed_for_ever_or_could_not_be_stored(
    server, tmp_path, store, expires_in
):
    """P15: oauth2 TestExpiresInUpperBound; Bdaya-Dev/oidc #123.

    A number as a string, one beyond every calendar (which is cut to ten years), none at all: the
    token is used until it is rejected. So is one that by its own word is over already, since some
    servers say 0 for "never".
    """

    def say(request, answer):
        payload = answer.payload | {"expires_in": expires_in}
        if expires_in is NOT_SAID:
            del payload["expires_in"]
        return answer.but(payload=payload)

    server.on("/token", say)
    store.save(server.sign_in_token(), after=None)
    manager = TokenManager(by_rfc_6749(server), store)
    server.revoke_access_tokens()
    with session_for(manager, server) as session:
        assert {session.get(server.resource).status_code for _ in range(20)} == {200}
    assert server.counters.exchanges == 1
    # And by the next process, which reads it from the file.
    anew = TokenManager(by_rfc_6749(server), open_again(tmp_path))
    assert revealed(anew.token()) == revealed(manager.token())
    assert (anew.token().expires_at or 0) < time.time() + 11 * 366 * 86400
    with session_for(anew, server) as session:
        assert {session.get(server.resource).status_code for _ in range(20)} == {200}
    assert server.counters.exchanges == 1
    assert manager.stats.waits == 1
