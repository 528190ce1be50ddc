"""Refreshes without an answer: what the next refresh is told about them."""

from __future__ import annotations

import os
import re
import time

import pytest

from requests_silent_refresh import (
    EncryptedFileStore,
    RefreshTokenGrant,
    RefreshUnavailable,
    SessionExpired,
    SilentRefreshError,
    Token,
    TokenManager,
)
from requests_silent_refresh.keys import generate_key
from requests_silent_refresh.testing import AuthorizationServer

KEY = generate_key()


@pytest.fixture
def server():
    with AuthorizationServer(access_token_lifetime=0.0) as server:
        yield server


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokens"


def manager_of(server, path, **options):
    """Return a manager as in another process: only the file is shared."""
    grant = RefreshTokenGrant(server.token_endpoint, "client", **options)
    return TokenManager(grant, EncryptedFileStore(path, key=KEY))


@pytest.fixture
def manager(server, path):
    manager = manager_of(server, path)
    manager.sign_in(server.sign_in()["refresh_token"])
    return manager


def interrupted_at(path):
    """Return when a refresh of the stored state began that was not answered, or ``None``."""
    with EncryptedFileStore(path, key=KEY).exclusive(5.0) as hold:
        return hold.interrupted_at


def test_a_refusal_after_a_lost_answer_says_so(server, manager, path):
    """P5: the server rotated and its answer was lost. The later error says when that refresh
    began."""
    server.fault("token", drop="after", times=1)
    server.fault("token", drop="before", times=1)
    with pytest.raises(RefreshUnavailable, match="closed the connection"):
        manager.token()
    assert interrupted_at(path) == pytest.approx(time.time(), abs=30)

    with pytest.raises(SessionExpired, match="was interrupted or not answered") as caught:
        manager_of(server, path).token()
    assert re.search(r"began at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", str(caught.value))
    assert [event.reason for event in server.log.of("exchange", outcome="refused")] == ["reuse"]


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 502},
        {"status": 504},
        {"garbage": True, "status": 500},
        {"raw": b"this is not HTTP\r\n\r\n"},
        {"drop": "before", "times": 2},
    ],
    ids=str,
)
def test_a_server_that_broke_down_may_have_rotated(server, manager, path, fault):
    """P5: without an answer this is unknown, so the store notes it until a refresh succeeds."""
    server.fault("token", **fault)
    with pytest.raises(SilentRefreshError):
        manager.token()
    assert interrupted_at(path) is not None
    manager_of(server, path).token()
    assert interrupted_at(path) is None
    assert [name for name in os.listdir(path.parent) if ".next." in name] == []


def test_a_server_that_does_not_answer_in_time(server, path):
    """P5: the same for an exchange that was cut off at its deadline."""
    manager = manager_of(server, path, timeout=0.2)
    manager.sign_in(server.sign_in()["refresh_token"])
    with server.token_gate(), pytest.raises(RefreshUnavailable, match="in time"):
        manager.token()
    assert interrupted_at(path) is not None


@pytest.mark.parametrize(
    "fault",
    [{"status": 503}, {"status": 429}, {"status": 403}, {"status": 404}],
    ids=str,
)
def test_a_server_that_answered_has_not_rotated(server, manager, path, fault):
    """P7: "busy", "forbidden" and "misconfigured" are answers, and the token stays valid."""
    server.fault("token", **fault)
    with pytest.raises(SilentRefreshError):
        manager.token()
    assert interrupted_at(path) is None
    assert manager_of(server, path).token()


def test_a_callable_that_raises_may_have_sent_the_token(path):
    """P5: its exception does not tell whether the server has rotated."""

    def refresh(token):
        raise KeyError("accessToken")

    manager = TokenManager(refresh, EncryptedFileStore(path, key=KEY))
    manager.sign_in(Token("old", "refresh", expires_at=1.0))
    with pytest.raises(SilentRefreshError, match="raised KeyError"):
        manager.token()
    assert interrupted_at(path) is not None


def test_the_first_of_several_unanswered_refreshes_is_reported(server, manager, path):
    """P5: the note keeps the time at which the first one began."""
    server.fault("token", status=500, times=2)
    with pytest.raises(RefreshUnavailable):
        manager.token()
    first = interrupted_at(path)
    with pytest.raises(RefreshUnavailable):
        manager_of(server, path).token()
    assert interrupted_at(path) == first
