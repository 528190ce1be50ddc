"""Wrong arguments are refused where they are given, not at the first expiry at night."""

from __future__ import annotations

import contextlib
import inspect
import re
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keyring
import keyring.backends.fail
import pytest
import requests
from queue_kit import outcome_of

from requests_silent_refresh import (
    ClientCredentialsGrant,
    EncryptedFileStore,
    JSONLogin,
    JSONRefresh,
    MemoryStore,
    Origin,
    RedisStore,
    RefreshTokenGrant,
    SilentRefreshAdapter,
    SilentRefreshError,
    SQLStore,
    Token,
    TokenManager,
    copy_state,
)
from requests_silent_refresh.keys import KeyFile, KeyringKey, Passphrase, generate_key
from requests_silent_refresh.profiles import Profile
from requests_silent_refresh.secret_sources import FromEnvironment, FromFile

URL = "https://auth.example.com/token"
API = "https://api.example.com"


def refreshed(token: Token | None) -> Token:
    """Refresh without a server."""
    return Token("access-2", "refresh-2")


async def coroutine(*given: object) -> Token:
    """A coroutine function: calling it returns no token."""
    return Token("access-2", "refresh-2")


async def asynchronous_generator(*given: object) -> Any:
    yield Token("access-2", "refresh-2")


def generator(*given: object) -> Any:
    yield Token("access-2", "refresh-2")


class Awaitable:
    """An object whose call is a coroutine."""

    async def __call__(self, *given: object) -> Token:
        return Token("access-2", "refresh-2")


manager_of = partial(TokenManager, refreshed)
grant_of = partial(RefreshTokenGrant, URL, "client")
json_of = partial(JSONRefresh, URL)
adapter_of = partial(SilentRefreshAdapter, manager_of(), API)

CALLBACKS = [
    *((manager_of, name) for name in ("on_session_expired", "on_refreshed", "on_event", "clock")),
    *((adapter_of, name) for name in ("is_rejected", "skip")),
    *((grant_of, name) for name in ("client_secret", "classify", "clock")),
    (TokenManager, "refresh"),
    (Passphrase, "passphrase"),
    (partial(EncryptedFileStore, "tokens"), "key"),
    (partial(RedisStore, name="fleet", key=generate_key()), "client_or_url"),
    (partial(SQLStore, name="fleet", key=generate_key()), "engine_or_url"),
]


@pytest.mark.parametrize(
    "value", [coroutine, asynchronous_generator, generator, Awaitable(), Awaitable, MemoryStore]
)
@pytest.mark.parametrize(("make", "name"), CALLBACKS)
def test_a_callable_that_never_returns_a_value_is_refused(
    make: Callable[..., object], name: str, value: object
) -> None:
    """Issue 13.3: a coroutine function, a generator or a class is refused as a callable."""
    with pytest.raises(TypeError, match=rf"^{name} must be .*, not (a|the|Awaitable)"):
        make(**{name: value})


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (manager_of, "store", "~/.local/state/tokens"),
        (manager_of, "store", MemoryStore),
        (manager_of, "store", manager_of()),
        (manager_of, "wait_timeout", None),
        (manager_of, "wait_timeout", "10"),
        (manager_of, "wait_timeout", True),
        (manager_of, "wait_timeout", float("nan")),
        (manager_of, "sign_in_timeout", float("inf")),
        (manager_of, "sign_in_timeout", 1e300),
        (manager_of, "sign_in_timeout", -1),
        (manager_of, "refresh_ahead", "0.2"),
        (manager_of, "refresh_ahead", 1),
        (manager_of, "sign_in_hint", None),
        (adapter_of, "transport", requests.Session()),
        (adapter_of, "transport", requests.adapters.HTTPAdapter),
        (adapter_of, "header", "Authorization:"),
        (adapter_of, "header", " "),
        (adapter_of, "header", ""),
        (adapter_of, "header", b"Authorization"),
        (adapter_of, "scheme", "Bearer "),
        (adapter_of, "scheme", "Bearer:"),
        (adapter_of, "scheme", "Bearer\r\nX-Other: 1"),
        (adapter_of, "scheme", "Træger"),
        (adapter_of, "scheme", None),
        (adapter_of, "allow_insecure_http", "false"),
        (adapter_of, "pool_maxsize", "10"),
        (adapter_of, "pool_connections", 1.5),
        (adapter_of, "max_retries", "3"),
        (partial(SilentRefreshAdapter, manager_of()), "origins", None),
        (partial(SilentRefreshAdapter, manager_of()), "origin", [b"https://api.example.com"]),
        (partial(Origin, "https", "api.example.com"), "port", "443"),
        (partial(Origin, "https", port=443), "host", None),
        (partial(RefreshTokenGrant, URL), "client_id", b"client"),
        (partial(RefreshTokenGrant, URL), "client_id", "\ud800"),
        (partial(RefreshTokenGrant, URL), "client_id", " "),
        (partial(RefreshTokenGrant, client_id="c"), "token_endpoint", URL + "?a=b c"),
        (partial(RefreshTokenGrant, client_id="c"), "token_endpoint", RefreshTokenGrant),
        (grant_of, "revocation_endpoint", b"https://auth.example.com/revoke"),
        (grant_of, "client_secret", "caf\ud800"),
        (grant_of, "client_auth", []),
        (grant_of, "scope", [1, 2]),
        (grant_of, "scope", 5),
        (grant_of, "scope", "\ud800"),
        (grant_of, "extra", "audience=x"),
        (grant_of, "extra", {"audience": None}),
        (grant_of, "extra", {"audience": b"x"}),
        (grant_of, "extra", {"audience": {"a": "b"}}),
        (grant_of, "extra", {"audience": ["\ud800"]}),
        (grant_of, "extra", {"audience": coroutine}),
        (grant_of, "extra", {5: "x"}),
        (grant_of, "timeout", "30"),
        (grant_of, "ambiguous_retry", 0),
        (grant_of, "verify", 0),
        (grant_of, "verify", ""),
        (grant_of, "cert", ("a", "b", "c")),
        (grant_of, "cert", ("a", 5)),
        (grant_of, "proxies", "http://proxy"),
        (grant_of, "proxies", {"https": 3128}),
        (partial(ClientCredentialsGrant, URL, client_secret="s"), "client_id", None),
        (json_of, "refresh_field", ()),
        (json_of, "access_token_path", ["data", "token"]),
        (json_of, "expires_unit", []),
        (json_of, "extra", [("a", "b")]),
        (json_of, "extra", {"when": object()}),
        (json_of, "headers", {"X-Key": 5}),
        (json_of, "headers", {"X-Key": "a\r\nb"}),
        (json_of, "headers", {"X-Key": "\u20ac"}),
        (json_of, "headers", {"X Key": "a"}),
        (partial(Token, "access"), "scope", 5),
        (partial(Token, "access"), "scope", [5]),
        (partial(Token, "access"), "token_type", b"Bearer"),
        (partial(Token, "access"), "extra", None),
        (EncryptedFileStore, "path", MemoryStore()),
        (EncryptedFileStore, "path", Path),
        (EncryptedFileStore, "path", "\ud800"),
        (partial(EncryptedFileStore, "tokens"), "key", 5),
        (KeyFile, "path", ""),
        (KeyFile, "path", None),
        (partial(KeyFile, "keys"), "make", "no"),
        (KeyringKey, "service", 5),
        (partial(KeyringKey, "report"), "account", ""),
        (partial(KeyringKey, "report"), "timeout", "10"),
        (FromEnvironment, "name", "A=B"),
        (FromEnvironment, "name", 5),
        (FromFile, "path", "a\0b"),
        (FromFile, "path", b"/run/secrets/x"),
        (partial(Profile, "work", [API]), "grant", "json"),
        (partial(Profile, "work", [API], {}), "store", {5: "x"}),
        (partial(Profile, "work", [API], {}), "key", [object()]),
        (partial(Profile, "work", grant={}), "origins", None),
        (partial(copy_state, target=MemoryStore()), "source", "tokens"),
        (partial(copy_state, MemoryStore()), "target", MemoryStore),
        (partial(copy_state, MemoryStore(), MemoryStore()), "timeout", None),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(
    make: Callable[..., object], name: str, value: object
) -> None:
    """Issue 13.3: a wrong argument raises at construction, and the message names it."""
    expected = name
    if name == "origin":
        name = "origins"
    with pytest.raises((TypeError, ValueError), match=rf"\b{expected}\b"):
        make(**{name: value})


def test_swapped_arguments_are_refused() -> None:
    """Issue 13.3: store and grant, or origin and manager, in the wrong order."""
    with pytest.raises(TypeError, match="refresh must be a callable, not MemoryStore"):
        TokenManager(MemoryStore(), grant_of())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="manager must be a TokenManager, not str"):
        SilentRefreshAdapter(API, manager_of())  # type: ignore[arg-type]


def test_a_message_shows_no_secret() -> None:
    """P12: the message of a refused argument gives its type, not its value."""
    for wrong in ({"client_secret": b"canary"}, {"client_secret": "canary\ud800"}):
        with pytest.raises((TypeError, ValueError)) as caught:
            grant_of(**wrong)
        assert "canary" not in str(caught.value)


def test_objects_that_delegate_are_accepted() -> None:
    """Issue 13.3: a wrapper of a store, a manager or an adapter needs no base class."""

    class Wrapper:
        def __init__(self, inner: object) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    manager: Any = Wrapper(manager_of(store=Wrapper(MemoryStore())))
    manager.sign_in(Token("access", "refresh"))
    transport: Any = Wrapper(requests.adapters.HTTPAdapter())
    assert SilentRefreshAdapter(manager, API, transport=transport).manager.signed_in


def test_a_token_without_type_or_scope_is_kept() -> None:
    """P16: a refresh callable that passes on missing fields does not lose its token."""
    token = Token("access", "refresh", token_type=None, scope=None)  # type: ignore[arg-type]
    assert (token.token_type, token.scope) == ("Bearer", ())


# -- the same for all parameters ---------------------------------------------------------

TYPED = (SilentRefreshError, requests.RequestException)
WRONG = [
    *(None, 5, -1, float("nan"), float("inf"), True, b"x", "", " ", "é\r\n", "\ud800", "a:b"),
    *(object(), MemoryStore, RefreshTokenGrant, [], {}, [5], {"x": object()}, {5: 5}),
    *(coroutine, generator, MemoryStore(), requests.Session()),
]


def use_manager(manager: TokenManager) -> None:
    manager.sign_in(Token("access", "refresh"))
    manager.renew(manager.token())
    manager.sign_out()
    assert not manager.signed_in


def use_adapter(adapter: SilentRefreshAdapter) -> None:
    with requests.Session() as session:
        session.trust_env = False
        adapter.mount_on(session)
        for origin in adapter.origins:
            session.get(f"{origin}/me")


def use_grant(grant: RefreshTokenGrant) -> None:
    for step in (grant, grant.revoke):
        outcome = outcome_of(lambda step=step: step(Token("access", "refresh")))
        if isinstance(outcome, Exception) and not isinstance(outcome, SilentRefreshError):
            raise outcome
        # What escapes from a grant's own code is wrapped, and named in the message.
        assert not re.search("TypeError|AttributeError|KeyError|UnicodeEncode", str(outcome))


def use_token(token: Token) -> None:
    store = EncryptedFileStore("token-store", key=KeyFile("token-key", make=True))
    TokenManager(refreshed, store).sign_in(token)
    store.close()
    assert store.load() is not None


def use_store(store: EncryptedFileStore) -> None:
    store.load()
    store.save(Token("access", "refresh"), after=None)


def use_profile(profile: Profile) -> None:
    profile.save()
    for step in (profile.make_grant, profile.open_store):
        with contextlib.suppress(SilentRefreshError):
            step()
    assert profile.place
    assert profile.identity
    profile.mount_on(requests.Session())


def use_secret(source: Callable[[], str]) -> None:
    RefreshTokenGrant("https://127.0.0.1:1/token", "c", source)(Token("access", "refresh"))


def constructors(port: int) -> dict[Callable[..., Any], tuple[dict[str, Any], Callable[..., Any]]]:
    """Return for each public constructor its right arguments and a first use."""
    url = f"https://127.0.0.1:{port}/token"
    grant = {"client_id": "c", "client_secret": "s", "revocation_endpoint": url, "timeout": 0.2}
    manager = TokenManager(refreshed)
    manager.sign_in(Token("access", "refresh"))
    key = generate_key()
    nothing: Callable[..., Any] = repr
    settings = {"kind": "refresh_token", "token_endpoint": url, "client_id": "c"}
    return {
        TokenManager: ({"refresh": refreshed}, use_manager),
        SilentRefreshAdapter: (
            {"manager": manager, "origins": f"http://127.0.0.1:{port}"},
            use_adapter,
        ),
        RefreshTokenGrant: ({"token_endpoint": url, **grant}, use_grant),
        ClientCredentialsGrant: ({"token_endpoint": url, **grant}, use_grant),
        JSONRefresh: ({"url": url, "timeout": 0.2}, use_grant),
        JSONLogin: ({"url": url, "fields": {"user": "u"}, "timeout": 0.2}, use_grant),
        Token: ({"access_token": "access", "refresh_token": "refresh"}, use_token),
        EncryptedFileStore: ({"path": "tokens", "key": key}, use_store),
        MemoryStore: ({}, use_store),
        RedisStore: (
            {"client_or_url": f"redis://127.0.0.1:{port}", "name": "fleet", "key": key},
            lambda store: store.load(),
        ),
        SQLStore: (
            {"engine_or_url": "sqlite:///tokens.sqlite", "name": "fleet", "key": key},
            lambda store: (store.create_table(), use_store(store)),
        ),
        KeyFile: ({"path": "keys"}, lambda key: key.for_writing(None)),
        KeyringKey: ({"service": "report"}, lambda key: key.for_writing(None)),
        Passphrase: ({"passphrase": "p"}, lambda key: key.for_writing(None)),
        FromEnvironment: ({"name": "NO_SUCH_SECRET"}, use_secret),
        FromFile: ({"path": "secret"}, use_secret),
        Origin: (
            {"scheme": "https", "host": "api.example.com", "port": 443},
            lambda origin: (origin.prefix, origin.is_secure, origin.is_loopback, hash(origin)),
        ),
        Profile: ({"name": "work", "origins": [API], "grant": settings}, use_profile),
        copy_state: ({"source": MemoryStore(), "target": MemoryStore(), "timeout": 0.1}, nothing),
    }


PARAMETERS = [
    (make, name)
    for make in constructors(1)
    for name, parameter in inspect.signature(make).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD
] + [(SilentRefreshAdapter, name) for name in ("pool_connections", "pool_maxsize", "max_retries")]


@pytest.fixture
def closed_port() -> Any:
    """A port of this machine that refuses connections, and that nobody else gets meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    before = keyring.get_keyring()
    keyring.set_keyring(keyring.backends.fail.Keyring())
    yield
    keyring.set_keyring(before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "name"), PARAMETERS)
def test_what_is_accepted_can_be_used(
    make: Callable[..., Any], name: str, closed_port: int
) -> None:
    """Issue 13.3: an argument is refused by its name, or its use raises only typed errors."""
    right, use = constructors(closed_port)[make]
    for value in WRONG:
        try:
            made = make(**{**right, name: value})
        except SilentRefreshError:
            continue
        except (TypeError, ValueError) as error:
            refusal = error
        else:
            used = outcome_of(lambda made=made: use(made))
            assert not isinstance(used, Exception) or isinstance(used, TYPED), (value, used)
            continue
        assert not isinstance(refusal, UnicodeError), value
        assert name.removesuffix("s") in str(refusal), value
