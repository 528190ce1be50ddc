"""P11: the tokens of one server or client are never used for another, whatever the store holds."""

from __future__ import annotations

import threading

import pytest
from queue_kit import outcome_of

from requests_silent_refresh import (
    EncryptedFileStore,
    JSONRefresh,
    MemoryStore,
    RefreshTokenGrant,
    SessionExpired,
    Token,
    TokenManager,
    WrongIdentity,
)
from requests_silent_refresh.keys import generate_key
from requests_silent_refresh.stores.contract import State
from requests_silent_refresh.testing import AuthorizationServer

KEY = generate_key()


@pytest.fixture
def other():
    """Another server."""
    with AuthorizationServer() as other:
        yield other


@pytest.fixture
def store(tmp_path):
    return EncryptedFileStore(tmp_path / "app" / "tokens", key=KEY)


def grant_for(server, **options):
    options.setdefault("revocation_endpoint", server.revocation_endpoint)
    return RefreshTokenGrant(server.token_endpoint, "client", **options)


def manager_for(server, store, **options):
    return TokenManager(grant_for(server), store, refresh_ahead=0, **options)


def handed_over(store, other):
    """Sign out of the session in ``store``, and in to ``other``."""
    store.clear(store.load())
    manager_for(other, store).sign_in(other.sign_in_token())


def test_a_sign_in_over_another_servers_session_is_refused(server, other, store):
    """The error names both servers, and the session that is stored stays."""
    manager_for(server, store).sign_in(server.sign_in_token())
    before = store.load()
    with pytest.raises(WrongIdentity) as error:
        manager_for(other, store).sign_in(other.sign_in_token())
    assert server.token_endpoint in error.value.stored_identity
    assert other.token_endpoint in error.value.identity
    for word in (store.path, server.token_endpoint, other.token_endpoint, "reset()"):
        assert word in str(error.value)
    assert before.is_same(store.load())


@pytest.mark.parametrize(
    "use", [TokenManager.token, TokenManager.sign_out, lambda manager: manager.signed_in]
)
def test_another_servers_session_is_not_used(server, other, store, use):
    """A program that opens another server's store is told so, and the session is not revoked."""
    manager_for(other, store).sign_in(other.sign_in_token())
    manager = manager_for(server, store)
    with pytest.raises(WrongIdentity, match="is set up for"):
        use(manager)
    assert store.load().token is not None
    assert server.counters.exchanges == server.counters.revocations == 0


def test_another_client_is_another_identity(server, store):
    """P11: so is the same server with another client, to which the tokens were not issued."""
    manager_for(server, store).sign_in(server.sign_in_token())
    with pytest.raises(WrongIdentity, match="client 'other'"):
        TokenManager(RefreshTokenGrant(server.token_endpoint, "other"), store).token()


def test_a_running_program_notices_that_its_store_was_handed_over(server, other, store, caplog):
    """P11, P17: it uses neither the new server's tokens nor its own old one, and says why."""
    running = manager_for(server, store)
    running.sign_in(server.sign_in_token())
    rejected = running.token()
    handed_over(store, other)
    with pytest.raises(WrongIdentity, match="is set up for"):
        running.renew(rejected)
    with pytest.raises(WrongIdentity):
        running.token()  # which would be fresh
    assert server.counters.exchanges == 0
    assert [r.levelname for r in caplog.records if "over here" in r.message] == ["ERROR"]


def test_a_running_program_goes_on_when_its_store_comes_back(server, other, store):
    """P9: a sign-in to its own server ends the error."""
    running = manager_for(server, store, monotonic=iter(range(0, 10**6, 1000)).__next__)
    running.sign_in(server.sign_in_token())
    handed_over(store, other)
    with pytest.raises(WrongIdentity):
        running.renew(running.token())
    handed_over(store, server)
    assert running.signed_in
    running.renew(running.token())
    assert server.counters.exchanges == 1


def test_a_store_that_is_handed_over_during_an_exchange(server, other, store):
    """P11: the result is not saved over the other server's session; it is revoked."""
    running = manager_for(server, store)
    running.sign_in(server.sign_in_token())
    token, outcome = running.token(), []
    with server.token_gate() as gate:
        thread = threading.Thread(
            target=lambda: outcome.append(outcome_of(lambda: running.renew(token)))
        )
        thread.start()
        assert gate.arrived.wait(30)
        handed_over(store, other)
    thread.join(30)
    assert isinstance(outcome[0], WrongIdentity)
    assert other.token_endpoint in store.load().identity
    assert server.counters.revocations == 1


def test_a_first_save_over_another_servers_session_is_refused(server, other, store):
    """P11: a grant that starts from nothing does not replace what was saved meanwhile."""

    class StartsFromNothing:
        needs_sign_in = False
        identity = "https://auth.example.com/token"

        def __call__(self, token):
            manager_for(other, store).sign_in(other.sign_in_token())
            return Token("granted")

    with pytest.raises(WrongIdentity):
        TokenManager(StartsFromNothing(), store).token()
    assert other.token_endpoint in store.load().identity


def test_a_state_without_identity_is_adopted_and_bound(server, store):
    """States of earlier versions, and of callables, get the identity with the next save."""
    store.save(server.sign_in_token(), None)
    manager = manager_for(server, store)
    manager.renew(manager.token())
    assert store.load().identity == grant_for(server).identity


def test_a_callable_without_identity_accepts_any_session(server, store):
    """It goes on as before, and keeps the identity that is stored."""
    manager_for(server, store).sign_in(server.sign_in_token())
    manager = TokenManager(grant_for(server).__call__, store, refresh_ahead=0)
    manager.renew(manager.token())
    assert store.load().identity == grant_for(server).identity


def test_an_ended_session_of_another_server_does_not_matter(server, other, store):
    """After a sign-out the place is free for any server."""
    manager_for(server, store).sign_in(server.sign_in_token())
    store.clear(store.load())
    manager = manager_for(other, store)
    with pytest.raises(SessionExpired):
        manager.token()
    manager.sign_in(other.sign_in_token())
    assert manager.token()


@pytest.mark.parametrize(
    "url",
    [
        "https://auth.example.com/token",
        "https://AUTH.example.com:443/token/",
        "https://auth.example.com/token?key=canary",
    ],
)
def test_one_server_in_several_spellings(url):
    """Spelling and query, which may hold a key that changes, are no part of the identity."""
    assert RefreshTokenGrant(url, "c").identity == "https://auth.example.com/token, client 'c'"
    assert JSONRefresh(url).identity == "https://auth.example.com/token"


def test_every_store_compares(server):
    """The comparison is part of the contract's compare-and-set, so no store can forget it."""
    store = MemoryStore()
    mine = State.first(Token("mine"), "https://one.example.com/token")
    store.replace(mine, None)
    for after in (None, mine):
        with pytest.raises(WrongIdentity):
            store.replace(State.first(Token("theirs"), "https://two.example.com/token"), after)
