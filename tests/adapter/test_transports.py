"""P13: the adapter works above other transports and in other session classes."""

from __future__ import annotations

import io
import ssl
import threading

import pytest
import requests
import requests_cache
import requests_mock
import responses
from cachecontrol import CacheControlAdapter
from cachecontrol.caches import FileCache
from requests.adapters import HTTPAdapter
from requests_futures.sessions import FuturesSession
from requests_toolbelt import sessions as toolbelt_sessions
from requests_toolbelt.adapters.host_header_ssl import HostHeaderSSLAdapter
from requests_toolbelt.adapters.source import SourceAddressAdapter
from requests_toolbelt.downloadutils import stream
from requests_toolbelt.multipart.encoder import MultipartEncoder
from requests_toolbelt.utils import dump
from wire import at_once, bearer_of, session_of

from requests_silent_refresh import (
    RefreshTokenGrant,
    RefreshUnavailable,
    SilentRefreshAdapter,
    Token,
    TokenManager,
)
from requests_silent_refresh.testing import AuthorizationServer

API = "https://api.example.com"


def manager_with(*tokens):
    later = iter(tokens[1:])
    manager = TokenManager(lambda token: Token(next(later)), refresh_ahead=0)
    manager.sign_in(Token(tokens[0]))
    return manager


# -- CacheControl ----------------------------------------------------------------------------


@pytest.fixture(params=["memory", "file"])
def cache(request, tmp_path):
    cache = None if request.param == "memory" else FileCache(str(tmp_path / "cache"))
    adapter = CacheControlAdapter(cache)
    yield adapter
    adapter.close()


def test_cachecontrol_below_caches_responses(server, manager, cache):
    """P2, P13: cacheable responses are cached; other requests still renew an expired token."""
    server.on(
        "/resource", lambda r, a: a.but(headers=[*a.headers, ("Cache-Control", "max-age=60")])
    )
    session = session_of(manager, server.url, transport=cache)
    server.revoke_access_tokens()
    first = session.get(server.resource)
    assert [r.status_code for r in first.history] == [401]
    second = session.get(server.resource)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert first.content == second.content
    assert server.counters.requests == 2
    assert second.connection is session.get_adapter(server.url)
    assert "Authorization" not in second.request.headers
    session.close()


def test_cachecontrol_below_revalidates(server, manager, cache):
    """P2, P13: a conditional request that gets a 401 is replayed, and its 304 is understood."""
    server.on(
        "/resource",
        lambda r, a: (
            a
            if a.status == 401
            else a.but(
                status=304 if r.headers.get("If-None-Match") == '"one"' else 200,
                headers=[("ETag", '"one"'), ("Cache-Control", "no-cache")],
                body=b"" if r.headers.get("If-None-Match") == '"one"' else b"cached",
            )
        ),
    )
    session = session_of(manager, server.url, transport=cache)
    assert session.get(server.resource).content == b"cached"
    server.revoke_access_tokens()
    again = session.get(server.resource)
    assert (again.status_code, again.content, again.from_cache) == (200, b"cached", True)
    assert server.counters.rejected == 1
    session.close()


def test_a_chunked_401_through_cachecontrol_is_drained(server, manager, cache):
    """P8: CacheControl's body wrapper keeps neither the connection nor the 401's text."""
    server.on(
        "/resource", lambda r, a: a.but(body=iter([b"un", b"authorized"])) if a.status == 401 else a
    )
    session = session_of(manager, server.url, transport=cache)
    server.revoke_access_tokens()
    response = session.get(server.resource)
    assert response.history[0].content == b"unauthorized"
    session.close()


# -- requests-cache ---------------------------------------------------------------------------


def test_requests_cache_above_stores_responses_but_no_token(server, manager):
    """P12, P13: the second request does not reach the adapter; the cache holds no token."""
    session = requests_cache.CachedSession(backend="memory")
    SilentRefreshAdapter(manager, server.url).mount_on(session)
    server.revoke_access_tokens()
    first, second = session.get(server.resource), session.get(server.resource)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert first.json() == second.json()
    assert server.counters.requests == 2
    assert "Authorization" not in second.request.headers
    kept = [str(vars(entry)) for entry in session.cache.responses.values()]
    assert kept
    assert not any(bearer_of(manager) in text for text in kept)
    session.close()


def test_requests_cache_above_does_not_cache_a_rejection(server, manager):
    """P7, P13: a failed refresh raises through it, and nothing is cached."""
    session = requests_cache.CachedSession(backend="memory", allowable_codes=(200, 401))
    SilentRefreshAdapter(manager, server.url).mount_on(session)
    server.revoke_access_tokens()
    server.fault("token", status=503)
    with pytest.raises(RefreshUnavailable):
        session.get(server.resource)
    assert len(session.cache.responses) == 0
    session.close()


# -- requests-toolbelt ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "transport", [SourceAddressAdapter("127.0.0.1"), HostHeaderSSLAdapter(), HTTPAdapter()]
)
def test_adapters_of_toolbelt_below(transport, server, manager):
    """P2, P13: adapters for a source address or a certificate by ``Host`` header renew too."""
    session = session_of(manager, server.url, transport=transport)
    server.revoke_access_tokens()
    assert session.get(server.resource).status_code == 200
    session.close()
    transport.close()


def test_a_base_url_session_of_toolbelt_above(server, manager):
    """P13: another package's session class works unchanged."""
    with toolbelt_sessions.BaseUrlSession(server.url + "/resource/") as session:
        SilentRefreshAdapter(manager, server.url).mount_on(session)
        server.revoke_access_tokens()
        assert session.get("v1/me").json()["path"] == "/resource/v1/me"


def test_downloads_and_dumps_of_toolbelt(server, manager):
    """P12, P13: a stream is saved to a file; a dump shows the caller's request."""
    with session_of(manager, server.url) as session:
        server.revoke_access_tokens()
        response = session.get(server.resource, stream=True)
        target = io.BytesIO()
        stream.stream_response_to_file(response, path=target)
        assert b'"/resource"' in target.getvalue()
        shown = dump.dump_all(session.get(server.resource))
        assert b"GET /resource" in shown
        assert bearer_of(manager).encode() not in shown


def test_an_encoder_of_toolbelt_is_uploaded(server, manager):
    """P13: a streamed multipart body is sent once, with a valid token."""
    with session_of(manager, server.url) as session:
        body = MultipartEncoder({"field": "value", "file": ("name", b"x" * 100_000, "x/y")})
        answer = session.post(
            server.resource, data=body, headers={"Content-Type": body.content_type}
        )
        assert answer.json()["body_length"] == body.len


# -- requests_mock, responses -------------------------------------------------------------------


def test_requests_mock_below():
    """P2, P12, P13: as a transport it records the token, which the caller does not see."""
    mock = requests_mock.Adapter()
    mock.register_uri(
        "GET",
        API + "/me",
        [
            {"status_code": 401, "text": "expired", "headers": {"Set-Cookie": "mine=yes"}},
            {"json": {"name": "Ada"}},
        ],
    )
    session = session_of(manager_with("old", "new"), API, transport=mock)
    response = session.get(API + "/me", params={"a": "1"})
    assert response.json() == {"name": "Ada"}
    assert response.history[0].text == "expired"
    assert response.history[0].cookies.get_dict() == {"mine": "yes"}
    sent = [request.headers["Authorization"] for request in mock.request_history]
    assert sent == ["Bearer old", "Bearer new"]
    assert "Authorization" not in response.request.headers


def test_requests_mock_raises_through():
    """P12, P13: a mocked failure reaches the caller with the caller's request."""
    mock = requests_mock.Adapter()
    mock.register_uri("GET", API, exc=requests.ConnectTimeout)
    session = session_of(manager_with("old"), API, transport=mock)
    with pytest.raises(requests.ConnectTimeout) as caught:
        session.get(API)
    assert "Authorization" not in getattr(caught.value.request, "headers", {})


@responses.activate
def test_responses_with_streams_cookies_and_errors():
    """P13: under ``responses`` the 401's cookies and body are kept too."""
    responses.get(API, status=401, body="expired", headers={"Set-Cookie": "a=b"})
    responses.get(API, body="fine")
    responses.get(API, body=requests.ConnectionError("down"))
    session = session_of(manager_with("old", "new"), API)
    response = session.get(API, stream=True)
    assert response.text == "fine"
    assert response.history[0].text == "expired"
    assert session.cookies.get_dict() == {"a": "b"}
    assert responses.calls[1].request.headers["Cookie"] == "a=b"
    with pytest.raises(requests.ConnectionError, match="down"):
        session.get(API)


# -- mTLS ----------------------------------------------------------------------------------------


class MutualAdapter(HTTPAdapter):
    """A typical adapter for a client certificate, with its own SSL context."""

    def __init__(self, context):
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args, **kwargs):
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)


@pytest.mark.parametrize("how", ["transport", "cert", "session"])
def test_a_client_certificate(how, mutual):
    """P2, P13: set by a custom adapter, by ``cert=`` or by ``session.cert``."""
    server, bundle, cert = mutual
    grant = RefreshTokenGrant(server.token_endpoint, "client", verify=bundle, cert=cert)
    manager = TokenManager(grant, refresh_ahead=0)
    manager.sign_in(server.sign_in_token())
    options = {}
    if how == "transport":
        context = ssl.create_default_context(cafile=bundle)
        context.load_cert_chain(cert)
        options["transport"] = MutualAdapter(context)
    session = session_of(manager, server.url, **options)
    session.trust_env = False
    session.verify = bundle
    if how == "session":
        session.cert = cert
    server.revoke_access_tokens()
    kwargs = {"cert": cert} if how == "cert" else {}
    response = session.get(server.resource, **kwargs)
    assert [r.status_code for r in response.history] == [401]
    assert response.status_code == 200
    session.close()
    if "transport" in options:
        options["transport"].close()


# -- requests-futures and many sessions ------------------------------------------------------------


def test_requests_futures(server, manager):
    """P1, P13: its threads share one refresh, and its hooks run."""
    hooked = []
    with FuturesSession(max_workers=16) as session:
        SilentRefreshAdapter(manager, server.url, pool_maxsize=16).mount_on(session)
        server.gate(16, then=server.revoke_access_tokens)
        futures = [
            session.get(
                server.resource,
                hooks={"response": lambda r, **how: hooked.append(r.status_code)},
            )
            for _ in range(16)
        ]
        assert [f.result(30).status_code for f in futures] == [200] * 16
    assert hooked == [200] * 16
    assert server.counters.exchanges == 1


def test_one_transport_below_many_adapters(server, manager):
    """P1, P13: threads share one pool below adapters of their own."""
    transport = HTTPAdapter(pool_maxsize=8)
    sessions = [session_of(manager, server.url, transport=transport) for _ in range(8)]
    server.gate(8, then=server.revoke_access_tokens)
    outcomes = at_once(8, lambda n: sessions[n].get(server.resource).status_code)
    assert outcomes == [200] * 8
    assert server.counters.exchanges == 1
    for session in sessions:
        session.close()
    assert (
        transport.send(requests.Request("GET", server.url + "/open").prepare()).status_code == 200
    )
    transport.close()


def test_foreign_requests_go_through_the_transport_too(server, manager):
    """P13: an adapter with a broad mount sends all requests through it, with a token or not."""
    with AuthorizationServer() as other:
        transport = HTTPAdapter()
        session = requests.Session()
        session.mount("http://", SilentRefreshAdapter(manager, server.url, transport=transport))
        session.get(other.url + "/open")
        assert len(transport.poolmanager.pools) == 1
        assert other.log.of("open", reason="authorization sent") == []
        transport.close()


def test_a_hook_that_sends_again_goes_through_the_transport(server, manager):
    """P13: ``response.connection`` is our adapter, with any transport below."""
    transport = HTTPAdapter()
    session = session_of(manager, server.url, transport=transport)
    again = threading.Event()

    def hook(response, **how):
        if again.is_set():
            return None
        again.set()
        server.revoke_access_tokens()
        return response.connection.send(response.request, **how)

    response = session.get(server.resource, hooks={"response": hook})
    assert response.status_code == 200
    assert [r.status_code for r in response.history] == [401]
    transport.close()
