"""``JSONLogin``: a login is the refresh, alone or behind a ``JSONRefresh``."""

from __future__ import annotations

import json
import pickle
from collections import Counter

import pytest
import requests
from queue_kit import Clock
from signing_in import home  # noqa: F401 (a fixture)
from wire import at_once

from requests_silent_refresh import (
    JSONLogin,
    JSONRefresh,
    RefreshFailed,
    RefreshUnavailable,
    SilentRefreshAdapter,
    TokenManager,
    profiles,
)
from requests_silent_refresh.secret_sources import FromEnvironment, FromFile
from requests_silent_refresh.testing import Answer

THREADS = 64


class Login:
    """A login at ``/open/login`` of the test server; ``answer`` replaces its answers."""

    def __init__(self, server):
        self.server = server
        self.url = server.url + "/open/login"
        self.bodies = []
        self.answer = None
        server.on("/open/login", self._log_in)

    def _log_in(self, request, answer):
        self.bodies.append(json.loads(request.body))
        if self.answer is not None:
            return self.answer
        granted = self.server.sign_in()
        names = {"accessToken": "access_token", "refreshToken": "refresh_token"}
        return Answer.json(200, {"data": {name: granted[old] for name, old in names.items()}})


@pytest.fixture
def login(server):
    return Login(server)


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A user name in the environment, and a password in a file."""
    monkeypatch.setenv("SHOP_USER", "nightly")
    (tmp_path / "password").write_text("horse battery\n")
    return {"username": FromEnvironment("SHOP_USER"), "password": FromFile(tmp_path / "password")}


def crowd(manager, server, then):
    """Send 64 requests, after all of which have come the server does ``then()``."""
    with requests.Session() as session:
        SilentRefreshAdapter(manager, server.url, pool_maxsize=THREADS).mount_on(session)
        server.gate(THREADS, then=then)
        return at_once(THREADS, lambda _: session.get(server.resource).status_code)


def test_64_threads_cost_one_login(server, login, sources):
    """P1, P2: the first token and an early revocation cost one login each; nobody signs in."""
    manager = TokenManager(JSONLogin(login.url, sources), refresh_ahead=0)
    manager.token()
    assert login.bodies == [{"username": "nightly", "password": "horse battery"}]
    outcomes = crowd(manager, server, server.revoke_access_tokens)
    assert Counter(map(repr, outcomes)) == {"200": THREADS}
    assert len(login.bodies) == 2


def test_the_password_is_read_at_each_login(login, sources, tmp_path):
    """A changed password is used without a restart, also in a nested object."""
    grant = JSONLogin(login.url, {"auth": {"user": {**sources, "domain": "default"}}})
    grant()
    (tmp_path / "password").write_text("staple")
    grant()
    passwords = [body["auth"]["user"]["password"] for body in login.bodies]
    assert passwords == ["horse battery", "staple"]
    assert login.bodies[0]["auth"]["user"]["domain"] == "default"


@pytest.mark.parametrize(
    "refusal",
    [
        Answer.json(401, {"message": "Bad credentials"}),
        Answer.json(400, {"error": "invalid_grant"}),
        Answer.json(403, {"detail": "account locked"}),
        Answer.json(200, {"ok": False, "error": "invalid_token"}),
    ],
)
def test_a_refused_login_is_a_wrong_set_up(login, sources, refusal):
    """P7: not "sign in again", because nobody can; and the account is not locked by retries."""
    clock = Clock()
    manager = TokenManager(JSONLogin(login.url, sources), refresh_ahead=0, monotonic=clock)
    login.answer = refusal
    for _ in range(3):
        with pytest.raises((RefreshFailed, RefreshUnavailable)):
            manager.token()
    assert len(login.bodies) == 1
    if refusal.status in (400, 401):
        clock.advance(299)
        with pytest.raises(RefreshFailed, match="login"):
            manager.token()
        assert len(login.bodies) == 1
    clock.advance(2 if refusal.status in (400, 401) else 301)
    login.answer = None
    manager.token()
    assert len(login.bodies) == 2


def test_a_busy_login_keeps_the_token(server, login, sources):
    """P7: 503 is passed on as unavailable, and the token that is valid is used."""
    manager = TokenManager(JSONLogin(login.url, sources), refresh_ahead=0)
    token = manager.token()
    login.answer = Answer.json(503, {})
    with pytest.raises(RefreshUnavailable):
        manager.renew(token)
    assert manager.signed_in


def test_a_login_follows_a_dead_refresh_token(server, login, sources):
    """P10: 64 requests whose refresh token is dead go on after one refresh and one login."""
    refresh = JSONRefresh(server.json_endpoint + "/flat")
    manager = TokenManager(
        refresh, refresh_ahead=0, on_session_expired=JSONLogin(login.url, sources)
    )
    manager.token()  # the first token comes by the login, too
    assert len(login.bodies) == 1
    server.fault("json", status=401, body='{"error": "refresh token expired"}')
    outcomes = crowd(manager, server, server.revoke_access_tokens)
    assert Counter(map(repr, outcomes)) == {"200": THREADS}
    assert len(login.bodies) == 2
    outcomes = crowd(manager, server, server.revoke_access_tokens)
    assert Counter(map(repr, outcomes)) == {"200": THREADS}
    assert len(login.bodies) == 2  # the refresh token of the login was used


def test_a_login_that_is_down_does_not_end_the_session_for_good(server, login, sources):
    """A person who is asked declines once; a login that failed is tried again."""
    clock = Clock()
    manager = TokenManager(
        JSONRefresh(server.json_endpoint + "/flat"),
        refresh_ahead=0,
        monotonic=clock,
        on_session_expired=JSONLogin(login.url, sources),
    )
    login.answer = Answer.json(503, {})
    for _ in range(2):
        with pytest.raises(RefreshUnavailable):
            manager.token()
    assert len(login.bodies) == 1
    clock.advance(61)
    login.answer = Answer.json(401, {"message": "Bad credentials"})
    with pytest.raises(RefreshFailed):
        manager.token()
    clock.advance(299)
    with pytest.raises(RefreshFailed):
        manager.token()
    assert len(login.bodies) == 2
    clock.advance(2)
    login.answer = None
    manager.token()
    assert len(login.bodies) == 3


def test_the_password_is_never_shown(login, sources):
    """P12: not in a repr, an error that quotes it, or a pickle."""
    literal = {"username": "nightly", "login": {"password": "horse battery"}}
    grant = JSONLogin(login.url, literal)
    assert "horse" not in repr(grant) + repr(vars(grant))
    login.answer = Answer.json(401, {"message": "no user with password horse battery"})
    with pytest.raises(RefreshFailed) as caught:
        grant()
    assert "horse" not in str(caught.value) + repr(vars(caught.value))
    with pytest.raises(TypeError, match="password"):
        pickle.dumps(grant)
    pickle.loads(pickle.dumps(JSONLogin(login.url, sources)))


def test_another_user_is_another_session(login, sources):
    """What the fields say openly is part of the identity, a password never."""
    bob = JSONLogin(login.url, {"user": "bob", "password": "a"})
    assert bob.identity != JSONLogin(login.url, {"user": "eve", "password": "a"}).identity
    assert bob.identity == JSONLogin(login.url, {"user": "bob", "password": "b"}).identity


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ("user", TypeError),
        ({"user": object()}, TypeError),
        ({"user": {"name": object()}}, TypeError),
        ({"token": "{refresh_token}"}, ValueError),
        ({"user": str}, TypeError),
    ],
)
def test_wrong_fields_are_found_at_once(login, fields, error):
    """At construction, and not at night."""
    with pytest.raises(error):
        JSONLogin(login.url, fields)


@pytest.mark.usefixtures("home")
def test_a_profile_can_log_in(server, login, sources, tmp_path):
    """The settings refer to the user name and the password, also in nested objects."""
    grant = {
        "kind": "json_login",
        "url": login.url,
        "fields": {
            "user": {
                "name": {"environment": "SHOP_USER"},
                "password": {"file": str(tmp_path / "password")},
            }
        },
    }
    profiles.Profile("shop", [server.url], grant).save()
    with requests.Session() as session:
        profiles.load("shop").mount_on(session)
        assert session.get(server.resource).status_code == 200
    assert login.bodies == [{"user": {"name": "nightly", "password": "horse battery"}}]
    with pytest.raises(ValueError, match="password"):
        profiles.Profile(
            "shop", [server.url], {**grant, "fields": {"user": {"password": "x"}}}
        ).save()
