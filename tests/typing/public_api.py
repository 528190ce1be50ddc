"""What a type checker makes of the public API. Checked by mypy, never run.

``assert_type`` holds what comes out; a ``type: ignore`` holds what must not go in,
since mypy complains where it ignores nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import requests

from requests_silent_refresh import (
    ClientCredentialsGrant,
    EncryptedFileStore,
    JSONRefresh,
    MemoryStore,
    Origin,
    RefreshTokenGrant,
    Secret,
    SessionExpired,
    SilentRefreshAdapter,
    SilentRefreshError,
    StoreUnavailable,
    Token,
    TokenManager,
    TokenStore,
    WrongIdentity,
    WrongKey,
    without_token,
)
from requests_silent_refresh.keys import KeyFile, KeyringKey, Passphrase
from requests_silent_refresh.secret_sources import FromEnvironment, FromFile
from requests_silent_refresh.stores import Hold, State

if TYPE_CHECKING:
    from typing_extensions import assert_type


def tokens() -> None:
    token = Token("a", "r", expires_at=1800000000, scope="read write")
    assert_type(token, Token)
    assert_type(token.access_token, Secret)
    assert_type(token.access_token.reveal(), str)
    assert_type(token.refresh_token, Secret | None)
    assert_type(token.expires_at, float | None)
    assert_type(token.scope, tuple[str, ...])
    assert_type(token.extra, Mapping[str, Any])
    assert_type(Token.from_response({"access_token": "a"}, received_at=1.0), Token)
    Token(b"a")  # type: ignore[arg-type]
    Token()  # type: ignore[call-arg]
    token.expires_at = 1.0  # type: ignore[misc]
    token.refresh_token.reveal()  # type: ignore[union-attr]


def refresh(token: Token | None) -> Token:
    return Token("new", token.refresh_token if token else None)


def ask(expired: SessionExpired) -> Token | None:
    return None if expired.status_code == 400 else Token("a")


def managers(store: TokenStore) -> None:
    grant = RefreshTokenGrant("https://a/token", "client", FromEnvironment("CLIENT_SECRET"))
    assert_type(grant(None), Token)
    manager = TokenManager(grant, store=store, wait_timeout=5)
    TokenManager(grant, on_session_expired=ask)
    assert_type(manager.token(), Token)
    assert_type(manager.signed_in, bool)
    assert_type(manager.renew(manager.token()), Token)
    assert_type(manager.stats.exchanges, int)
    manager.sign_in(Token("a", "r"))
    manager.sign_out()
    manager.sign_in({"access_token": "a", "expires_at": 5})
    manager.sign_in("r")
    manager.sign_in(5)  # type: ignore[arg-type]
    TokenManager(refresh)
    TokenManager(ClientCredentialsGrant("https://a/token", "client", FromFile("/run/secret")))
    TokenManager(JSONRefresh("https://a/refresh", access_token_path="data.access_token"))
    TokenManager(grant, store="tokens")  # type: ignore[arg-type]
    TokenManager("https://a/token")  # type: ignore[arg-type]
    RefreshTokenGrant("https://a/token", "client", client_auth="digest")  # type: ignore[arg-type]


def adapters(manager: TokenManager, session: requests.Session) -> None:
    adapter = SilentRefreshAdapter(manager, "https://a", pool_maxsize=64)
    SilentRefreshAdapter(manager, ["https://a", Origin.parse("https://b")])
    SilentRefreshAdapter(manager, "https://a", transport=requests.adapters.HTTPAdapter())
    SilentRefreshAdapter(
        manager,
        "https://a",
        is_rejected=lambda response: response.status_code == 403,
        skip=lambda request: request.method == "OPTIONS",
    )
    session.mount("https://a/", adapter)
    adapter.mount_on(session)
    assert_type(session.get("https://a/", auth=without_token), requests.Response)
    assert_type(Origin.of("https://a/"), Origin | None)
    SilentRefreshAdapter("https://a")  # type: ignore[call-arg, arg-type]


def stores(state: State) -> None:
    store: TokenStore = EncryptedFileStore("~/tokens")
    EncryptedFileStore("tokens", key=KeyFile("key"))
    EncryptedFileStore("tokens", key=[Passphrase("new"), KeyringKey("service")])
    MemoryStore()
    assert_type(store.load(), State | None)
    assert_type(store.save(Token("a"), after=None), State)
    assert_type(store.clear(after=state), State)
    assert_type(store.exclusive(1.0), Hold | None)
    assert_type(state.token, Token | None)


class OwnStore(TokenStore):
    """One that forgot a method cannot be made."""

    def load(self) -> State | None:
        return None


def own_stores() -> None:
    OwnStore()  # type: ignore[abstract]


def errors(session: requests.Session) -> None:
    try:
        session.get("https://a/")
    except WrongKey as error:
        assert_type(error.key_ids, tuple[str, ...])
    except WrongIdentity as error:
        assert_type(error.stored_identity, str | None)
    except StoreUnavailable as error:
        assert_type(error.holder, str | None)
    except SilentRefreshError as error:
        assert_type(error.retry_after, float | None)
        assert_type(error.status_code, int | None)
    as_before: type[requests.HTTPError] = SessionExpired
    del as_before
