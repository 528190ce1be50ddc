"""Servers that refuse a refresh while the access token is still valid (P15)."""

from __future__ import annotations

import pytest
from queue_kit import Clock

from requests_silent_refresh import RefreshFailed, RefreshTokenGrant, Token, TokenManager

LIFETIME = 600


class Punctual:
    """A refresh callable that answers only in the last 30 s of a token, as Exact Online does."""

    def __init__(self, clock):
        self.clock = clock
        self.issued_at = clock.now
        self.early = self.granted = 0

    def token(self):
        self.issued_at = self.clock.now
        return Token("a", "r", expires_at=self.clock.now + LIFETIME, issued_at=self.clock.now)

    def __call__(self, token):
        if self.clock.now < self.issued_at + LIFETIME - 30:
            self.early += 1
            raise RefreshFailed("access_denied: access_token not expired", status_code=400)
        self.granted += 1
        return self.token()


def through(lives, manager, clock):
    """Ask for the token every 2 s, for the time that ``lives`` tokens are valid."""
    for _ in range(lives * LIFETIME // 2):
        clock.advance(2)
        manager.token()
        assert manager.finish(10)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def refresh(clock):
    return Punctual(clock)


def test_a_server_that_is_known_to_refuse_early_is_never_asked_early(clock, refresh):
    """``refuses_early``: each token is refreshed once, when a request needs the next one."""
    refresh.refuses_early = True
    manager = TokenManager(refresh, clock=clock, monotonic=clock)
    manager.sign_in(refresh.token())
    through(5, manager, clock)
    assert (refresh.early, refresh.granted) == (0, 5)


def test_a_server_that_refuses_early_is_asked_early_once_for_each_token(clock, refresh):
    """Without it: one refusal for each token, and no request ever fails."""
    manager = TokenManager(refresh, clock=clock, monotonic=clock)
    manager.sign_in(refresh.token())
    through(5, manager, clock)
    assert (refresh.early, refresh.granted) == (5, 5)


def test_a_grant_says_what_it_was_told():
    """The argument is the attribute that the manager reads."""
    grant = RefreshTokenGrant("https://auth.example.com/token", "c", refuses_early=True)
    assert grant.refuses_early
    assert not RefreshTokenGrant("https://auth.example.com/token", "c").refuses_early
