"""How the grants ask: grant types, headers, client authentication, and where tokens travel."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import ssl
from typing import Any
from urllib.parse import parse_qsl

import pytest
import requests
import responses
import trustme
from requests.adapters import HTTPAdapter

from requests_silent_refresh import (
    ClientCredentialsGrant,
    InsecureTransport,
    JSONRefresh,
    RefreshFailed,
    RefreshTokenGrant,
    RefreshUnavailable,
    SessionExpired,
    SilentRefreshError,
    Token,
)
from requests_silent_refresh.grants import base
from requests_silent_refresh.testing import AuthorizationServer

URL = "https://auth.example.com/token"
OLD = Token("at-old", "rt-old")
GRANTED = {"access_token": "at-new", "refresh_token": "rt-new"}


@pytest.fixture
def web() -> Any:
    with responses.RequestsMock() as mock:
        yield mock


def form_of(web: Any) -> dict[str, str]:
    return dict(parse_qsl(web.calls[-1].request.body.decode(), keep_blank_values=True))


def test_another_grant_type(web: Any) -> None:
    """Zoom, JWT bearer and password: `grant_type`, its fields in `extra`, the secret optional."""
    web.post(URL, json=GRANTED)
    extra = {"account_id": "acc"}
    ClientCredentialsGrant(URL, "id", "s", grant_type="account_credentials", extra=extra)(None)
    assert form_of(web) == {"grant_type": "account_credentials", "account_id": "acc"}
    ClientCredentialsGrant(URL, "id", grant_type="password", extra={"username": "u"})(None)
    assert form_of(web) == {"grant_type": "password", "username": "u", "client_id": "id"}
    RefreshTokenGrant(URL, "id", grant_type="custom")(OLD)
    assert form_of(web)["grant_type"] == "custom"


@pytest.mark.parametrize(
    ("auth", "client_id", "secret", "sent"),
    [
        ("basic", "cf", "", "cf:"),
        ("raw-basic", "a|b", "x+/=", "a|b:x+/="),
        ("basic", "a|b", "x+/=", "a%7Cb:x%2B%2F%3D"),
    ],
)
def test_basic_credentials(web: Any, auth: Any, client_id: str, secret: str, sent: str) -> None:
    """An empty secret, and servers that do not decode what RFC 6749 has encoded."""
    web.post(URL, json=GRANTED)
    RefreshTokenGrant(URL, client_id, secret, client_auth=auth)(OLD)
    header = web.calls[0].request.headers["Authorization"]
    assert base64.b64decode(header.removeprefix("Basic ")).decode() == sent


@pytest.mark.parametrize("kind", [RefreshTokenGrant, ClientCredentialsGrant, JSONRefresh])
def test_headers_of_ones_own(web: Any, kind: Any) -> None:
    """Headers replace those of the grant; a callable is called at each exchange."""
    web.post(URL, json=GRANTED)
    keys = iter("12")
    headers = {"Origin": "https://app.example.com", "user-agent": "me", "X-Key": lambda: next(keys)}
    arguments = [URL] if kind is JSONRefresh else [URL, "id", "s"]
    grant = kind(*arguments, headers=headers)
    grant(OLD)
    grant(OLD)
    sent = [call.request.headers for call in web.calls]
    assert [headers["X-Key"] for headers in sent] == ["1", "2"]
    assert sent[0]["Origin"] == "https://app.example.com"
    assert sent[0]["User-Agent"] == "me"


SHAPES: dict[str, Any] = {
    "header": {"headers": {"Authorization": "Bearer {refresh_token}"}},
    "both": {"refresh_field": "r", "extra": {"nested": [{"a": "{access_token}"}]}},
    "cookie": {"cookies": {"refresh": "{refresh_token}", "theme": "dark"}},
    "query": {"method": "GET", "query": {"refresh": "{refresh_token}"}},
    "access token alone": {"headers": {"Authorization": "Bearer {access_token}"}},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_where_the_tokens_travel(web: Any, shape: str) -> None:
    """In a header, the body, a cookie or the query, and only there."""
    web.add("GET" if shape == "query" else "POST", URL, json={"access_token": "at-new"})
    grant = JSONRefresh(URL, **SHAPES[shape])
    assert grant(OLD).access_token.reveal() == "at-new"
    request = web.calls[0].request
    body = json.loads(request.body or "{}")
    places = {
        "header": request.headers.get("Authorization") == "Bearer rt-old",
        "both": body == {"r": "rt-old", "nested": [{"a": "at-old"}]},
        "cookie": request.headers.get("Cookie") == "refresh=rt-old; theme=dark",
        "query": shape == "query" and request.body is None,
        "access token alone": request.headers.get("Authorization") == "Bearer at-old",
    }
    assert [name for name, is_there in places.items() if is_there] == [shape]
    assert grant.needs_refresh_token is (shape != "access token alone")
    assert pickle.loads(pickle.dumps(grant)).needs_refresh_token is grant.needs_refresh_token
    if grant.needs_refresh_token:
        with pytest.raises(SessionExpired):
            grant(Token("at-old"))


def test_a_rotated_cookie_is_the_new_refresh_token() -> None:
    """P16: the refresh token that an answer sets as a cookie is kept."""
    with AuthorizationServer() as server:
        headers = {"Set-Cookie": "refresh=rt-new; Path=/x; Secure; HttpOnly"}
        body = '{"access_token": "at-new"}'
        server.fault("token", status=200, body=body, headers=headers)
        grant = JSONRefresh(server.token_endpoint, cookies={"refresh": "{refresh_token}"})
        granted = grant(OLD)
    assert granted.refresh_token is not None
    assert granted.refresh_token.reveal() == "rt-new"


def test_a_token_in_the_query_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """P12: urllib3 logs the URL, so the query is added below it."""
    caplog.set_level(logging.DEBUG)
    seen = []
    with AuthorizationServer() as server:
        server.on("/resource", lambda request, answer: seen.append(request.target))
        grant = JSONRefresh(server.url + "/resource", query={"refresh": "{refresh_token}"})
        with pytest.raises(SilentRefreshError):  # the server answers nothing useful there
            grant(Token("a", "canary-refresh"))
    assert seen[0] == "/resource?refresh=canary-refresh"
    assert "/resource" in caplog.text
    assert "canary" not in caplog.text


def test_a_sliding_token_is_its_own_refresh_token(web: Any) -> None:
    """P16: with one token for both, the new one is exchanged next."""
    web.post(URL, json={"token": "t1"})
    granted = JSONRefresh(URL)(Token("t0", "t0"))
    assert granted.refresh_token is not None
    assert granted.refresh_token.reveal() == "t1"


def test_the_words_of_a_dialect(web: Any) -> None:
    """P7: a server's own words mean what the dialect says, by code or in a description."""
    dialect = {"session_gone": "refused", "too early": "unavailable", "invalid_grant": "wrong"}
    grant = RefreshTokenGrant(URL, "id", dialect=dialect)
    for body, kind in [
        ({"error": "session_gone"}, SessionExpired),
        ({"error": "x", "message": "It is TOO EARLY to refresh"}, RefreshUnavailable),
        ({"error": "invalid_grant"}, RefreshFailed),
    ]:
        web.upsert("POST", URL, status=400, json=body)
        with pytest.raises(kind):
            grant(OLD)
    web.upsert("POST", URL, json={**GRANTED, "error": "session_gone"})
    assert grant(OLD).access_token.reveal() == "at-new"  # P16
    for wrong in ({"x": "granted"}, {"": "refused"}, ["x"]):
        with pytest.raises((ValueError, TypeError), match="dialect"):
            RefreshTokenGrant(URL, "id", dialect=wrong)  # type: ignore[arg-type]


def test_plain_http_inside_a_cluster() -> None:
    """P11: only if it is said, for every URL of the grant."""
    url = "http://keycloak:8080/token"
    with pytest.raises(InsecureTransport, match="allow_insecure_http"):
        RefreshTokenGrant(url, "id")
    RefreshTokenGrant(url, "id", allow_insecure_http=True, revocation_endpoint=url)
    JSONRefresh(url, allow_insecure_http=True)


def test_an_ssl_context(tmp_path: Any) -> None:
    """The context decides, is not changed, and no public CA is added to it."""
    ca = trustme.CA()
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(served)
    mine, empty = (ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) for _ in range(2))
    ca.configure_trust(mine)
    with AuthorizationServer(tls=served) as server:
        grant = RefreshTokenGrant(server.token_endpoint, "client", verify=mine)
        assert grant(server.sign_in_token()).refresh_token is not None
        with pytest.raises(RefreshUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            RefreshTokenGrant(server.token_endpoint, "client", verify=empty)(OLD)
    assert mine.cert_store_stats()["x509"] == 1
    assert empty.cert_store_stats()["x509"] == 0
    with pytest.raises(TypeError, match="SSLContext"):
        pickle.dumps(grant)


def test_a_transport_of_ones_own() -> None:
    """The exchange goes through it, and it is not closed."""

    class Counting(HTTPAdapter):
        sent = closed = 0

        def send(self, *args: Any, **kwargs: Any) -> requests.Response:
            self.sent += 1
            return super().send(*args, **kwargs)

        def close(self) -> None:
            self.closed += 1
            super().close()

    transport = Counting()
    with AuthorizationServer() as server:
        grant = RefreshTokenGrant(server.token_endpoint, "client", transport=transport)
        grant(grant(server.sign_in_token()))
    assert (transport.sent, transport.closed) == (2, 0)


class TestInDoubt:
    """P7: the refusal of a second try is weak evidence."""

    def test_a_last_try_decides(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first request is still being worked on when the second is refused."""
        monkeypatch.setattr(base, "PAUSE", 0.01)
        with AuthorizationServer() as server:
            signed_in = server.sign_in_token()
            server.fault("token", drop="before")
            busy = {"error": "invalid_grant", "error_description": "already being processed"}
            server.fault("token", status=400, body=json.dumps(busy))
            grant = RefreshTokenGrant(server.token_endpoint, "client")
            assert grant(signed_in).refresh_token is not None
            assert server.counters.exchanges == 3
            server.fault("token", status=400, body=json.dumps(busy), times=2)
            with pytest.raises(RefreshUnavailable, match="already being processed"):
                grant(signed_in)

    def test_without_time_for_it_nothing_is_decided(self) -> None:
        """The session is kept if the deadline comes before the pause is over."""
        with AuthorizationServer() as server:
            server.fault("token", drop="before")
            server.fault("token", status=400, body='{"error": "invalid_grant"}')
            with pytest.raises(RefreshUnavailable):
                RefreshTokenGrant(server.token_endpoint, "client", timeout=0.9)(OLD)
            assert server.counters.exchanges == 2
