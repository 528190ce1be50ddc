"""Users' callables and stores that do odd things: a bounded outcome, typed, and shared by all."""

from __future__ import annotations

import functools
import threading
import time

import pytest
import requests
from queue_kit import CROWD, Clock, Crowd, outcome_of, session_for, signed_in, until

from requests_silent_refresh import (
    ClientCredentialsGrant,
    MemoryStore,
    RefreshFailed,
    RefreshTokenGrant,
    RefreshUnavailable,
    SessionExpired,
    StoreError,
    StoreUnavailable,
    Token,
    TokenManager,
)

SECRET = "refresh-token-that-nobody-may-see"


# -- the same token again ------------------------------------------------------------------


def test_a_callable_that_returns_the_rejected_token(server):
    """P8: the request gets its 401 after two exchanges, not after thousands."""
    cached = Token("cached", "refresh", expires_at=time.time() + 3600)
    calls = []
    manager = signed_in(server, refresh=lambda token: calls.append(token) or cached)
    manager.sign_in(cached)
    with session_for(manager, server) as session:
        assert session.get(server.resource).status_code == 401
    assert len(calls) == 2


def test_a_sign_in_with_the_rejected_token(server):
    """P10: somebody is asked once for each of the two exchanges that one request may cost."""
    fallback, asked = Token("static", "static-refresh"), []
    manager = signed_in(server, on_session_expired=lambda error: asked.append(error) or fallback)
    manager.sign_in(fallback)
    with session_for(manager, server) as session:
        assert session.get(server.resource).status_code == 401
    assert len(asked) == 2


# -- a session without a refresh token -----------------------------------------------------


@pytest.fixture
def unrefreshable(server):
    """A manager with an access token for an hour, and nothing to refresh it with."""
    clock = Clock(time.time())
    asked = []
    manager = TokenManager(
        RefreshTokenGrant(server.token_endpoint, "client"),
        clock=clock,
        monotonic=clock,
        on_session_expired=asked.append,
    )
    token = server.sign_in_token().access_token.reveal()
    manager.sign_in(Token(token, None, expires_at=clock() + 3600, issued_at=clock()))
    manager.asked = asked
    return manager, clock


def test_it_is_used_until_it_expires(server, unrefreshable):
    """P7: nothing refreshes it ahead of its expiry, and nobody is asked before."""
    manager, clock = unrefreshable
    with session_for(manager, server) as session:
        clock.advance(3599)
        assert session.get(server.resource).status_code == 200
        assert manager.stats.failures == 0
        clock.advance(1)
        assert type(outcome_of(lambda: session.get(server.resource))) is SessionExpired
    assert len(manager.asked) == 1
    assert server.counters.exchanges == 0


def test_a_path_that_rejects_it_gets_its_401(server, unrefreshable):
    """P7: one odd path does not end the session for the others."""
    manager, _ = unrefreshable
    server.forbid("/resource/odd")
    with session_for(manager, server) as session:
        for _ in range(3):
            assert session.get(server.resource + "/odd").status_code == 401
            assert session.get(server.resource).status_code == 200
    assert manager.asked == []
    assert manager.signed_in


def test_a_sign_in_elsewhere_is_noticed_at_a_401(server):
    """P17: at most a second after the last look, without an exchange."""
    store, clock = MemoryStore(), Clock()
    manager = TokenManager(
        RefreshTokenGrant(server.token_endpoint, "client"), store, monotonic=clock
    )
    manager.sign_in(Token(server.sign_in_token().access_token.reveal()))
    with session_for(manager, server) as session:
        server.revoke_access_tokens()
        assert session.get(server.resource).status_code == 401
        store.save(server.sign_in_token(), after=None)
        clock.advance(1)
        assert session.get(server.resource).status_code == 200
    assert server.counters.exchanges == 0


def test_asked_for_a_refresh_it_says_why_there_is_none(unrefreshable):
    """The session is kept: the error is not a refusal."""
    manager, _ = unrefreshable
    with pytest.raises(RefreshFailed, match="no refresh token"):
        manager.renew(manager.token())
    assert manager.signed_in


# -- errors of the user's ------------------------------------------------------------------


@pytest.mark.parametrize("wish", ["120", "soon", object(), None])
def test_a_wish_to_wait_of_any_kind_closes_the_batch(server, wish):
    """P6: one call, and its error for each waiter at once."""
    calls = []

    def refresh(token):
        calls.append(token)
        until(lambda: manager.stats.waits == CROWD)
        error = RefreshUnavailable("busy")
        error.retry_after = wish
        raise error

    manager = signed_in(server, refresh=refresh)
    first = manager.token()
    assert Crowd(lambda: manager.renew(first)).kinds() == {"RefreshUnavailable": CROWD}
    assert len(calls) == 1


def test_an_exception_of_the_users_is_told_by_type_and_place(caplog):
    """P12: its text may quote anything, whatever callable raised it."""

    def raising(*arguments):
        raise LookupError(SECRET)

    def refresh(token):
        return Token("new", SECRET)

    manager = TokenManager(refresh, on_refreshed=raising, on_event=raising)
    manager.sign_in(Token("old", "first"))
    manager.renew(manager.token())
    assert manager.finish(10)
    assert "LookupError at" in caplog.text
    assert SECRET not in caplog.text


def test_its_repr_shows_nothing_that_is_not_ours():
    """P12: the ``repr`` of a ``partial`` shows its arguments."""

    def refresh(token, *, client_secret):
        raise NotImplementedError

    class Vault(MemoryStore):
        def __repr__(self):
            return SECRET

    manager = TokenManager(functools.partial(refresh, client_secret=SECRET), Vault())
    assert SECRET not in repr(manager)
    assert "partial" in repr(manager)


# -- stores of the user's ------------------------------------------------------------------


class Hanging(MemoryStore):
    """A store that does not answer while ``held`` is not set; counts how often it is read."""

    def __init__(self, token=None):
        super().__init__()
        self.held, self.read, self.loads = threading.Event(), threading.Event(), 0
        self.held.set()
        if token is not None:
            self.save(token, after=None)

    def load(self):
        self.loads += 1
        self.read.set()
        assert self.held.wait(60)
        return super().load()


def test_a_first_read_that_hangs_is_bounded():
    """P8: the request fails after ``wait_timeout``, and a late answer is used."""
    store = Hanging(Token("kept", "refresh"))
    store.held.clear()
    manager = TokenManager(lambda token: pytest.fail("refreshed"), store, wait_timeout=0.2)
    for ask in (manager.token, lambda: manager.signed_in):
        assert type(outcome_of(ask)) is StoreUnavailable
    store.held.set()
    until(lambda: not isinstance(outcome_of(manager.token), Exception))
    assert manager.token().access_token.reveal() == "kept"
    assert store.loads <= 2


def test_a_look_for_a_sign_in_that_hangs_is_bounded():
    """P9: a dead session fails fast, whatever the store does."""
    store, clock = Hanging(), Clock()
    manager = TokenManager(
        lambda token: pytest.fail("refreshed"), store, wait_timeout=0.2, monotonic=clock
    )
    manager.sign_in(Token("old", "refresh"))
    manager.sign_out()
    store.held.clear()
    for _ in range(2):
        clock.advance(1)
        assert type(outcome_of(manager.token)) is SessionExpired
    store.held.set()


def test_threads_that_come_first_share_one_read():
    """64 threads, one passphrase to derive, one connection to make."""
    store = Hanging(Token("kept", "refresh"))
    store.held.clear()
    manager = TokenManager(lambda token: pytest.fail("refreshed"), store)
    crowd = Crowd(manager.token, size=64)
    assert store.read.wait(10)
    store.held.set()
    assert {token.access_token.reveal() for token in crowd.outcomes()} == {"kept"}
    assert store.loads <= 2


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (RuntimeError(SECRET), StoreError),
        (OSError(SECRET), StoreUnavailable),
        (SystemExit(SECRET), StoreError),
    ],
)
def test_what_a_read_raises_is_a_store_error(raised, seen):
    """P12: typed, with the place and without the text; each caller gets one of its own."""

    class Broken(MemoryStore):
        def load(self):
            raise raised

    manager = TokenManager(lambda token: pytest.fail("refreshed"), Broken())
    errors = Crowd(manager.token, size=4).outcomes()
    assert {type(error) for error in errors} == {seen}
    assert len({id(error) for error in errors}) == 4
    assert all(SECRET not in str(error) for error in errors)
    assert all("test_odd_callables.py" in str(error) for error in errors)


def test_a_grant_that_needs_no_store_goes_on_without(server):
    """P2: client credentials start from nothing, so a store that hangs delays them once."""
    store = Hanging()
    store.held.clear()
    grant = ClientCredentialsGrant(server.token_endpoint, "client", "secret")
    manager = TokenManager(grant, store, wait_timeout=0.5)
    outcome = outcome_of(manager.token)
    store.held.set()
    assert isinstance(outcome, (Token, StoreError, requests.Timeout))


@pytest.mark.parametrize("method", ["exclusive", "load", "replace"])
def test_a_store_that_uses_the_session_is_told_at_once(server, method):
    """P8: what it waits for is the refresh that waits for it."""
    errors = []

    class Vault(MemoryStore):
        session = None

        def use(self, *arguments):
            session, self.session = self.session, None
            if session is not None:
                errors.append(outcome_of(lambda: session.put(server.resource)))

    def using(self, *arguments, **options):
        self.use()
        return getattr(MemoryStore, method)(self, *arguments, **options)

    setattr(Vault, method, using)
    store = Vault()
    manager = signed_in(server, store=store)
    with session_for(manager, server) as session:
        server.revoke_access_tokens()
        store.session = session
        assert session.get(server.resource).status_code == 200
    assert [type(error) for error in errors] == [RefreshFailed]
    assert "wait for itself" in str(errors[0])


def test_an_upload_during_the_retries_of_a_save_exchanges_nothing(server, quick):
    """P1: the token in memory is fresh; what is under way only saves it."""
    saving, go_on = threading.Event(), threading.Event()

    class Slow(MemoryStore):
        full = False

        def replace(self, new, after):
            if self.full:
                saving.set()
                assert go_on.wait(30)
                raise StoreUnavailable("full")
            super().replace(new, after)

    store = Slow()
    manager = signed_in(server, store=store)
    with session_for(manager, server) as session:
        first = manager.token()
        store.full = True
        go_on.set()
        manager.renew(first)
        go_on.clear()
        saving.clear()
        assert saving.wait(30)  # the thread that saves leads a batch now
        assert session.post(server.resource, data=iter([b"x"])).status_code == 200
        go_on.set()
    assert server.counters.exchanges == 1
    store.full = False
    assert manager.finish(30)
