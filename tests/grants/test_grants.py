"""The grants: what they send, and what each outcome of an exchange means (DESIGN section 5).

Issue numbers name the bugs of other libraries that a test guards against.
"""

from __future__ import annotations

import base64
import copy
import email.utils
import http.client
import json
import logging
import pickle
import re
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlencode

import pytest
import requests
import responses

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
from requests_silent_refresh.grants.answer import EndpointAnswer
from requests_silent_refresh.secret_sources import FromEnvironment, FromFile
from requests_silent_refresh.system import quiet_pools
from requests_silent_refresh.testing import Answer as Reply
from requests_silent_refresh.testing import AuthorizationServer, Request

NOW = 1_800_000_000.0
URL = "https://auth.example.com/token"
CANARY = "canary-0123456789"
# With characters that base64 and percent-encoding write in more than one way.
SENT = {
    "secret": "client~secret?>%+/0123",
    "refresh": "refresh-token/+?0123",
    "assertion": "assertion=0123456789",
}


@pytest.fixture
def server() -> Iterator[AuthorizationServer]:
    with AuthorizationServer() as running:
        yield running


@pytest.fixture
def web() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


def grant_for(server: AuthorizationServer, **options: Any) -> RefreshTokenGrant:
    return RefreshTokenGrant(server.token_endpoint, "client", **options)


def token(refresh_token: str | None = "rt-old") -> Token:
    return Token("at-old", refresh_token, scope="a b")


def form_of(call: Any) -> dict[str, str]:
    return dict(parse_qsl(call.request.body.decode(), strict_parsing=True))


def requests_at(server: AuthorizationServer, path: str) -> list[Request]:
    seen: list[Request] = []
    server.on(path, lambda request, answer: seen.append(request))
    return seen


class TestTheForm:
    def test_the_refresh_grant_of_a_public_client(self, web: Any) -> None:
        """RFC 6749 section 6: the fields, including the client ID of a client without a secret."""
        web.post(URL, json={"access_token": "at-new"})
        RefreshTokenGrant(URL, "me", scope=["a", "b"], extra={"audience": "x y"})(token())
        (call,) = web.calls
        assert form_of(call) == {
            "grant_type": "refresh_token",
            "refresh_token": "rt-old",
            "client_id": "me",
            "scope": "a b",
            "audience": "x y",
        }
        assert "Authorization" not in call.request.headers
        assert call.request.headers["Content-Type"] == "application/x-www-form-urlencoded"

    def test_no_scope_requests_what_was_granted(self, web: Any) -> None:
        """Without `scope` none is sent, and the old one stays valid (section 6)."""
        web.post(URL, json={"access_token": "at-new"})
        assert RefreshTokenGrant(URL, "me")(token()).scope == ("a", "b")
        assert "scope" not in form_of(web.calls[0])

    @pytest.mark.parametrize("secret", ["p:w%+/=& ~*", "äöü ключ", "%41", "a\nb"])
    def test_basic_credentials_are_form_encoded(self, web: Any, secret: str) -> None:
        """Client IDs and secrets are form-encoded for Basic (RFC 6749 section 2.3.1)."""
        web.post(URL, json={"access_token": "at-new"})
        RefreshTokenGrant(URL, "a:client ä", secret)(token())
        scheme, _, encoded = web.calls[0].request.headers["Authorization"].partition(" ")
        assert scheme == "Basic"
        name, _, word = base64.b64decode(encoded).decode("ascii").partition(":")
        decoded = dict(parse_qsl(f"name={name}&word={word}", strict_parsing=True))
        assert decoded == {"name": "a:client ä", "word": secret}
        assert "client_id" not in form_of(web.calls[0])

    @pytest.mark.parametrize("auth", [None, "basic", "post"])
    def test_a_real_server_accepts_an_odd_secret_both_ways(self, auth: Any) -> None:
        """A server decodes what the client encoded: a colon, a percent sign and an umlaut."""
        with AuthorizationServer(client_id="a:b", client_secret="p%41:ü +") as server:
            grant = RefreshTokenGrant(server.token_endpoint, "a:b", "p%41:ü +", client_auth=auth)
            grant(server.sign_in_token())
            wrong = RefreshTokenGrant(server.token_endpoint, "a:b", "p%41:u +", client_auth=auth)
            with pytest.raises(RefreshFailed) as caught:
                wrong(server.sign_in_token())
        assert (caught.value.error, caught.value.status_code) == ("invalid_client", 401)

    def test_client_secret_post_goes_into_the_form(self, web: Any) -> None:
        """`client_auth="post"` sends client ID and secret in the form, without a header."""
        web.post(URL, json={"access_token": "at-new"})
        RefreshTokenGrant(URL, "me", "s", client_auth="post")(token())
        form = form_of(web.calls[0])
        assert (form["client_id"], form["client_secret"]) == ("me", "s")
        assert "Authorization" not in web.calls[0].request.headers

    def test_extra_fields_may_come_from_a_callable_and_repeat(self, web: Any) -> None:
        """A callable for an extra field (Authlib #783) is called at each exchange."""
        web.post(URL, json={"access_token": "at-new"})
        numbers = iter("12")
        extra = {"client_assertion": lambda: "jwt-" + next(numbers), "resource": ["u:1", "u:2"]}
        grant = RefreshTokenGrant(URL, "me", client_auth="none", extra=extra)
        grant(token())
        grant(token())
        pairs = [parse_qsl(call.request.body.decode()) for call in web.calls]
        assert [dict(form)["client_assertion"] for form in pairs] == ["jwt-1", "jwt-2"]
        assert [v for k, v in pairs[0] if k == "resource"] == ["u:1", "u:2"]

    @pytest.mark.parametrize(
        "make",
        [
            lambda: RefreshTokenGrant(URL, ""),
            lambda: RefreshTokenGrant(URL, None),  # type: ignore[arg-type]
            lambda: RefreshTokenGrant(URL, "me", ""),
            lambda: RefreshTokenGrant(URL, "me", b"secret"),  # type: ignore[arg-type]
            lambda: RefreshTokenGrant(URL, "me", client_auth="basic"),
            lambda: RefreshTokenGrant(URL, "me", "s", client_auth="none"),
            lambda: RefreshTokenGrant(URL, "me", "s", client_auth="digest"),  # type: ignore[arg-type]
            lambda: RefreshTokenGrant(URL, "me", extra={"grant_type": "password"}),
            lambda: RefreshTokenGrant(URL, "me", timeout=0),
            lambda: RefreshTokenGrant(URL, "me", timeout=None),  # type: ignore[arg-type]
            lambda: RefreshTokenGrant(URL, "me", timeout=float("inf")),
            lambda: RefreshTokenGrant("auth.example.com", "me"),
            lambda: RefreshTokenGrant(URL, "me", revocation_endpoint="/revoke"),
            lambda: ClientCredentialsGrant(URL, "me", None),
            lambda: JSONRefresh("auth.example.com"),
            lambda: JSONRefresh(URL, refresh_field=""),
            lambda: JSONRefresh(URL, access_token_path="data..token"),
            lambda: JSONRefresh(URL, expires_unit="minutes"),  # type: ignore[arg-type]
        ],
    )
    def test_bad_input_is_refused_at_construction(self, make: Callable[[], object]) -> None:
        """Invalid arguments raise at construction, not at the first refresh."""
        with pytest.raises((TypeError, ValueError), match=r"\w"):
            make()

    def test_extra_that_is_not_json_is_refused_at_construction(self) -> None:
        """The TypeError of `json` is raised when the grant is made."""
        with pytest.raises(TypeError):
            JSONRefresh(URL, extra={"when": object()})

    def test_plain_http_is_refused_at_construction(self) -> None:
        """P11: plain http is refused for the token endpoint and the revocation endpoint."""
        for make in (
            lambda: RefreshTokenGrant("http://auth.example.com/token", "me"),
            lambda: RefreshTokenGrant(URL, "me", revocation_endpoint="http://a.example.com/"),
            lambda: JSONRefresh("http://auth.example.com/token"),
        ):
            with pytest.raises(InsecureTransport):
                make()

    def test_plain_loopback_behind_a_proxy_is_refused(self, server: Any) -> None:
        """P11: `InsecureTransport` is raised unchanged, before any request."""
        grant = grant_for(server, proxies={"http": "http://127.0.0.1:1"})
        with pytest.raises(InsecureTransport):
            grant(server.sign_in_token())


class TestGranted:
    def test_a_rotated_refresh_token_is_in_the_new_token(self, server: Any) -> None:
        """Each new token contains the rotated refresh token (golang/oauth2 #84)."""
        grant = grant_for(server)
        first = server.sign_in_token()
        second = grant(first)
        third = grant(second)
        assert third.refresh_token.reveal() not in (
            first.refresh_token.reveal(),
            second.refresh_token.reveal(),
        )
        assert server.counters.granted == 2
        assert server.counters.reuse_detections == 0

    def test_an_answer_without_refresh_token_keeps_the_old_one(self, web: Any) -> None:
        """The refresh token is kept if the answer has none (golang/oauth2 #131)."""
        web.post(URL, json={"access_token": "at-new"})
        assert RefreshTokenGrant(URL, "me")(token()).refresh_token.reveal() == "rt-old"

    def test_the_lifetime_counts_from_receipt(self, web: Any) -> None:
        """Only `expires_in` and our clock count, whatever the server's clock (AppAuth #747)."""
        headers = {"Date": "Thu, 01 Jan 2015 00:00:00 GMT"}
        web.post(URL, json={"access_token": "at-new", "expires_in": "60"}, headers=headers)
        granted = RefreshTokenGrant(URL, "me", clock=lambda: NOW)(token())
        assert (granted.issued_at, granted.expires_at) == (NOW, NOW + 60)

    def test_a_form_encoded_answer(self, web: Any) -> None:
        """An answer that is labelled as a form is parsed as a form."""
        web.post(
            URL,
            body="access_token=at-new&expires_in=60&scope=a+b&token_type=bearer",
            content_type="application/x-www-form-urlencoded",
        )
        granted = RefreshTokenGrant(URL, "me", clock=lambda: NOW)(token())
        assert granted.access_token.reveal() == "at-new"
        assert granted.expires_at == NOW + 60
        assert granted.scope == ("a", "b")

    @pytest.mark.parametrize("kind", ["DPoP", "bearer", "mac"])
    def test_another_token_type_is_kept(self, web: Any, kind: str) -> None:
        """Any token type is accepted and kept."""
        web.post(URL, json={"access_token": "at-new", "token_type": kind, "id_token": "x"})
        granted = RefreshTokenGrant(URL, "me")(token())
        assert granted.token_type == kind
        assert granted.extra == {"id_token": "x"}

    def test_a_null_error_is_not_an_error(self, web: Any) -> None:
        """Some servers send `"error": null` with every token."""
        web.post(URL, json={"access_token": "at-new", "error": None})
        assert RefreshTokenGrant(URL, "me")(token()).access_token.reveal() == "at-new"

    def test_client_credentials_need_no_token(self) -> None:
        """Client credentials need no sign-in, do not rotate, and exchange `None` for a token."""
        with AuthorizationServer(client_secret="s3cret") as server:
            grant = ClientCredentialsGrant(server.token_endpoint, "client", "s3cret", scope="a")
            granted = grant(None)
            again = grant(granted)
        assert granted.refresh_token is None
        assert again.access_token.reveal() != granted.access_token.reveal()
        assert (grant.rotates, grant.needs_sign_in, grant.timeout) == (False, False, 30.0)

    def test_client_credentials_with_an_assertion(self, web: Any) -> None:
        """RFC 7523: an assertion in `extra` replaces the secret."""
        web.post(URL, json={"access_token": "at-new"})
        extra = {
            "client_assertion": lambda: "jwt",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        }
        ClientCredentialsGrant(URL, "me", None, client_auth="none", extra=extra)(None)
        assert form_of(web.calls[0])["client_assertion"] == "jwt"


OAUTH = [
    # status, headers, body, error raised, .error
    (400, {}, {"error": "invalid_grant"}, SessionExpired, "invalid_grant"),
    (401, {}, {"error": "invalid_grant"}, SessionExpired, "invalid_grant"),
    (403, {}, {"error": "invalid_grant"}, SessionExpired, "invalid_grant"),
    (200, {}, {"error": "invalid_grant"}, SessionExpired, "invalid_grant"),
    (200, {}, {"error": "invalid_grant", "access_token": ""}, SessionExpired, "invalid_grant"),
    (
        200,
        {},
        {"ok": False, "error": "invalid_refresh_token"},
        SessionExpired,
        "invalid_refresh_token",
    ),
    (200, {}, {"error": "bad_refresh_token"}, SessionExpired, "bad_refresh_token"),
    (401, {}, {"error": "invalid_token"}, SessionExpired, "invalid_token"),
    (400, {}, {"error": "expired_token"}, SessionExpired, "expired_token"),
    (400, {}, {"error": "interaction_required"}, SessionExpired, "interaction_required"),
    (400, {}, {"error": "login_required"}, SessionExpired, "login_required"),
    (400, {}, {"error": "consent_required"}, SessionExpired, "consent_required"),
    (400, {}, {"error": {"code": "invalid_grant"}}, SessionExpired, "invalid_grant"),
    (
        400,
        {},
        {"error": {"type": "INVALID_TOKEN"}},
        SessionExpired,
        "INVALID_TOKEN",
    ),
    (400, {}, {"errors": [{"errorType": "invalid_grant"}]}, SessionExpired, "invalid_grant"),
    (401, {}, {"error": "invalid_client"}, RefreshFailed, "invalid_client"),
    (400, {}, {"error": "unauthorized_client"}, RefreshFailed, "unauthorized_client"),
    (400, {}, {"error": "unsupported_grant_type"}, RefreshFailed, "unsupported_grant_type"),
    (400, {}, {"error": "invalid_scope"}, RefreshFailed, "invalid_scope"),
    (400, {}, {"error": "invalid_request"}, RefreshFailed, "invalid_request"),
    (403, {}, {"error": "access_denied"}, RefreshFailed, "access_denied"),
    (400, {}, {"error": "something_of_their_own"}, RefreshFailed, "something_of_their_own"),
    (200, {}, {"error": "something_of_their_own"}, RefreshFailed, "something_of_their_own"),
    (404, {}, "not here", RefreshFailed, None),
    (405, {}, "", RefreshFailed, None),
    (410, {}, {"message": "gone"}, RefreshFailed, None),
    (302, {"Location": "https://evil.example.com/"}, "", RefreshFailed, None),
    (307, {"Location": "/token2"}, "", RefreshFailed, None),
    (304, {}, "", RefreshFailed, None),
    (403, {}, "<h1>Blocked by the firewall</h1>", RefreshUnavailable, None),
    (403, {}, {"error": "blocked"}, RefreshUnavailable, "blocked"),
    (400, {}, "<h1>Bad request</h1>", RefreshUnavailable, None),
    (401, {}, "<h1>Log in</h1>", RefreshUnavailable, None),
    (407, {}, "", RefreshUnavailable, None),
    (408, {}, "", RefreshUnavailable, None),
    (425, {}, "", RefreshUnavailable, None),
    (429, {}, {"error": "invalid_grant"}, RefreshUnavailable, "invalid_grant"),
    (500, {}, {"error": "invalid_grant"}, RefreshUnavailable, "invalid_grant"),
    (502, {}, "<h1>Bad gateway</h1>", RefreshUnavailable, None),
    (503, {}, {"error": "temporarily_unavailable"}, RefreshUnavailable, "temporarily_unavailable"),
    (400, {}, {"error": "server_error"}, RefreshUnavailable, "server_error"),
    (400, {}, {"error": "slow_down"}, RefreshUnavailable, "slow_down"),
    (200, {}, {}, RefreshUnavailable, None),
    (200, {}, {"access_token": ""}, RefreshUnavailable, None),
    (200, {}, {"access_token": None}, RefreshUnavailable, None),
    (200, {}, {"access_token": ["x"]}, RefreshUnavailable, None),
    (200, {}, {"access_token": "two\nlines"}, RefreshUnavailable, None),
    (200, {}, {"access_token": "", "error": {"code": 1}}, RefreshUnavailable, None),
    (200, {}, {"error": "slow_down"}, RefreshUnavailable, "slow_down"),
    (400, {}, {"error": "rate_limited"}, RefreshUnavailable, "rate_limited"),
    (400, {}, {"error": "x", "message": "Too many requests"}, RefreshUnavailable, "x"),
    (200, {}, ["access_token"], RefreshUnavailable, None),
    (200, {}, '{"access_token": "x"', RefreshUnavailable, None),
    (200, {}, "<h1>Welcome to our hotel</h1>", RefreshUnavailable, None),
    (200, {}, "", RefreshUnavailable, None),
    (204, {}, "", RefreshUnavailable, None),
    (400, {}, {"error": {"code": 400, "status": "INVALID_ARGUMENT"}}, RefreshUnavailable, None),
]


class TestOutcomes:
    """The table of DESIGN section 5."""

    @pytest.mark.parametrize(("status", "headers", "body", "kind", "error"), OAUTH)
    def test_each_answer_has_one_meaning(
        self, web: Any, status: int, headers: Any, body: Any, kind: Any, error: Any
    ) -> None:
        """P7: only the server's own verdict ends a session. In other libraries a 502
        (google-auth #1562) and a firewall's 403 did. An error in a 200 is an error (oauth2
        `TestTokenRetrieveError200`)."""
        text = body if isinstance(body, str) else json.dumps(body)
        web.post(URL, status=status, headers=headers, body=text)
        with pytest.raises(SilentRefreshError) as caught:
            RefreshTokenGrant(URL, "me")(token())
        raised = caught.value
        assert type(raised) is kind
        assert (raised.error, raised.status_code) == (error, status)
        assert raised.__cause__ is None
        assert raised.__context__ is None
        assert raised.response is None
        assert raised.request is None
        assert len(web.calls) == 1

    @pytest.mark.parametrize("code", ["invalid_request", "unauthorized_client", "access_denied"])
    @pytest.mark.parametrize(
        ("said", "kind"),
        [
            ("refresh_token is invalid", SessionExpired),
            ("The refresh token is invalid.", SessionExpired),
            ("Invalid refresh token (expired): x", SessionExpired),
            ("invalid or expired refresh_token", SessionExpired),
            ("The provided refresh token has expired", SessionExpired),
            ("refresh token expired", SessionExpired),
            ("Refresh token has been revoked by the user", SessionExpired),
            ("The refresh token was already used", SessionExpired),
            ("The refresh token 'x' is no longer valid", SessionExpired),
            ("", RefreshFailed),
            ("refresh_token is missing or invalid", RefreshFailed),
            ("The parameter refresh_token is required", RefreshFailed),
            ("Invalid client for this refresh token", RefreshFailed),
            ("The client may not use refresh tokens", RefreshFailed),
            ("the access token is invalid", RefreshFailed),
            ("Check the `refresh_token` parameter: invalid scope", RefreshFailed),
        ],
    )
    def test_a_vague_code_is_a_refusal_if_it_says_so_of_the_refresh_token(
        self, web: Any, code: str, said: str, kind: Any
    ) -> None:
        """P7: any other complaint about the request never ends the session."""
        web.post(URL, status=400, json={"error": code, "error_description": said})
        with pytest.raises(kind):
            RefreshTokenGrant(URL, "me")(token())

    @pytest.mark.parametrize("error", ["invalid_grant", {"code": 1}, "anything"])
    @pytest.mark.parametrize("kind", [RefreshTokenGrant, JSONRefresh])
    def test_a_token_beside_an_error_is_used(self, web: Any, kind: Any, error: Any) -> None:
        """P16: the refresh token behind it is spent; a 401 will tell if the new one is not good."""
        web.post(URL, json={"access_token": "at-new", "refresh_token": "rt-new", "error": error})
        grant = kind(URL, "me") if kind is RefreshTokenGrant else kind(URL)
        assert grant(token()).refresh_token.reveal() == "rt-new"

    def test_the_servers_words_are_cleaned_and_bounded(self, web: Any) -> None:
        """P12: a description cannot control the terminal or fill the log."""
        said = "no\x1b[31m more\r\nFATAL: " + "x" * 1000
        web.post(URL, status=400, json={"error": "invalid_grant", "error_description": said})
        with pytest.raises(SessionExpired) as caught:
            RefreshTokenGrant(URL, "me")(token())
        description = caught.value.error_description
        assert description is not None
        assert description.startswith("no [31m more FATAL: xxx")
        assert len(description) == 200
        assert "\n" not in str(caught.value)
        assert "\x1b" not in str(caught.value)
        assert "sign in again" in str(caught.value)

    def test_no_connection_is_unavailable(self) -> None:
        """P7: a network failure does not end the session; its cause is the system's error."""
        grant = RefreshTokenGrant("http://127.0.0.1:1/token", "me")
        with pytest.raises(RefreshUnavailable, match="cannot be reached") as caught:
            grant(token())
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)

    def test_a_wrong_ca_bundle_is_a_wrong_set_up(self) -> None:
        """An argument that can never work raises `RefreshFailed`, because no retry can help."""
        grant = RefreshTokenGrant("https://127.0.0.1:1/token", "me", verify="/no/such/ca.pem")
        with pytest.raises(RefreshFailed, match=r"/no/such/ca\.pem") as caught:
            grant(token())
        assert isinstance(caught.value.__cause__, OSError)

    @pytest.mark.parametrize(
        "fault",
        [{"garbage": True}, {"huge": True}, {"raw": b"220 smtp ready\r\n"}, {"status": 503}],
    )
    def test_a_real_server_that_misbehaves_is_unavailable(self, server: Any, fault: Any) -> None:
        """P7: garbage or an endless answer does not end the session; the next exchange works."""
        grant, old = grant_for(server), server.sign_in_token()
        server.fault("token", **fault)
        with pytest.raises(RefreshUnavailable):
            grant(old)
        assert grant(old).refresh_token is not None
        assert server.counters.reuse_detections == 0

    @pytest.mark.parametrize("crawl", [{"trickle": 1}, {"trickle_head": 1}, {"delay": 30}])
    def test_a_timeout_is_unavailable_and_not_tried_again(self, server: Any, crawl: Any) -> None:
        """P8: the timeout bounds a stalled endpoint, which blocked every caller of google-auth
        (#1602)."""
        server.fault("token", times=None, **crawl)
        started = time.monotonic()
        with pytest.raises(RefreshUnavailable, match="did not answer in time"):
            grant_for(server, timeout=0.3)(server.sign_in_token())
        assert time.monotonic() - started < 1.3
        assert server.counters.exchanges == 1

    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            ("7", 7.0),
            ("1.5", 1.5),
            ("0", 0.0),
            ("86400", 86400.0),
            ("9" * 400, float("9" * 20)),
            ("Fri, 15 Jan 2027 08:01:00 GMT", 60.0),
            ("Fri, 15 Jan 2027 08:00:00 -0000", 0.0),
            ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
            ("Sun, 06 Nov 2039 08:49:37 GMT", 404_182_177.0),
            ("Fri, 15 Jan 99999 08:01:00 GMT", None),
            ("-5", None),
            ("soon", None),
            ("", None),
            ("٣", None),
        ],
    )
    def test_retry_after(self, web: Any, value: str, seconds: float | None) -> None:
        """`Retry-After` is read in seconds or as a date; an invalid value is ignored."""
        web.post(URL, status=429, headers={"Retry-After": value.encode().decode("latin-1")})
        with pytest.raises(RefreshUnavailable) as caught:
            RefreshTokenGrant(URL, "me", clock=lambda: NOW)(token())
        assert caught.value.retry_after == seconds

    def test_retry_after_counts_from_the_servers_clock(self, web: Any) -> None:
        """A date is compared with the server's clock, as the user's may be wrong (AppAuth #830)."""
        date, then = (email.utils.formatdate(t, usegmt=True) for t in (NOW - 5000, NOW - 4980))
        web.post(URL, status=503, headers={"Retry-After": then, "Date": date})
        with pytest.raises(RefreshUnavailable) as caught:
            RefreshTokenGrant(URL, "me", clock=lambda: NOW)(token())
        assert caught.value.retry_after == 20.0

    @pytest.mark.parametrize("given", [None, token(refresh_token=None)])
    @pytest.mark.parametrize("kind", [RefreshTokenGrant, JSONRefresh])
    def test_without_a_refresh_token_nothing_is_sent(self, web: Any, kind: Any, given: Any) -> None:
        """P9: without a refresh token, `SessionExpired` is raised and nothing is sent."""
        grant = kind(URL, "me") if kind is RefreshTokenGrant else kind(URL)
        with pytest.raises(SessionExpired):
            grant(given)
        assert len(web.calls) == 0


class TestAmbiguous:
    def test_an_exchange_that_was_not_processed_is_sent_again(self, server: Any) -> None:
        """P2: a connection that is closed before the server processed anything fails nothing."""
        server.fault("token", drop="before")
        assert grant_for(server)(server.sign_in_token()).refresh_token is not None
        assert server.counters.reuse_detections == 0

    def test_an_exchange_that_was_processed_is_saved_by_the_grace_window(self) -> None:
        """P1: the second try comes at once, within the server's grace window."""
        with AuthorizationServer(grace=5.0) as server:
            server.fault("token", drop="after")
            grant = grant_for(server)
            renewed = grant(server.sign_in_token())
            assert grant(renewed).refresh_token is not None
            assert server.counters.reuse_detections == 0

    def test_without_grace_the_server_decides(self, server: Any) -> None:
        """The rotated token is lost in any case, and the second try shows it at once."""
        server.fault("token", drop="after")
        with pytest.raises(SessionExpired):
            grant_for(server)(server.sign_in_token())
        assert server.counters.reuse_detections == 1

    def test_weak_evidence_without_time_for_another_try_decides_nothing(self, server: Any) -> None:
        """P7: the first request may yet be granted, so its refusal does not end the session."""
        server.fault("token", drop="before")
        server.fault("token", status=400, body='{"error": "invalid_grant"}')
        with pytest.raises(RefreshUnavailable):
            grant_for(server, timeout=1.0)(server.sign_in_token())  # the pause alone takes 1 s
        assert server.counters.exchanges == 2

    def test_twice_is_unavailable(self, server: Any) -> None:
        """If the second try fails in the same way, the server counts as unavailable."""
        server.fault("token", drop="before", times=None)
        with pytest.raises(RefreshUnavailable, match="closed the connection") as caught:
            grant_for(server)(server.sign_in_token())
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        assert server.counters.exchanges == 2

    def test_it_can_be_turned_off(self, server: Any) -> None:
        """With `ambiguous_retry=False` a refresh token is sent only once."""
        server.fault("token", drop="before", times=None)
        with pytest.raises(RefreshUnavailable):
            grant_for(server, ambiguous_retry=False)(server.sign_in_token())
        assert server.counters.exchanges == 1

    def test_both_tries_share_one_deadline(self, server: Any) -> None:
        """P8: the second try has only the time that the first left."""
        server.fault("token", drop="before", delay=0.2)
        server.fault("token", delay=30)
        started = time.monotonic()
        with pytest.raises(RefreshUnavailable, match="did not answer in time"):
            grant_for(server, timeout=0.4)(server.sign_in_token())
        assert time.monotonic() - started < 1.4
        assert server.counters.exchanges == 2


class TestClassify:
    """P7: the hook is for servers that report a revoked token differently, for example as
    `invalid_request` (picard PR 3320)."""

    def test_a_server_with_its_own_errors(self, web: Any) -> None:
        """The hook can turn an error into a refusal, and a refusal into a temporary failure."""

        def classify(answer: EndpointAnswer) -> str | None:
            payload = answer.payload or {}
            if payload.get("error_description") == "token revoked" or answer.status == 403:
                return "refused"
            return "unavailable" if payload.get("error") == "invalid_grant" else None

        grant = RefreshTokenGrant(URL, "me", classify=classify)
        revoked = {"error": "invalid_request", "error_description": "token revoked"}
        for status, body, kind in [
            (400, revoked, SessionExpired),
            (403, {}, SessionExpired),
            (400, {"error": "invalid_grant"}, RefreshUnavailable),
            (400, {"error": "invalid_scope"}, RefreshFailed),
            (503, {}, RefreshUnavailable),  # None leaves it to the rule
        ]:
            web.upsert("POST", URL, status=status, json=body)
            with pytest.raises(kind):
                grant(token())

    def test_it_may_return_wrong_and_granted(self, web: Any) -> None:
        """`"granted"` overrides the status, but the answer must still contain a token."""
        for verdict, body, kind in [
            ("wrong", {"access_token": "x"}, RefreshFailed),
            ("granted", {"message": "x"}, RefreshUnavailable),
        ]:
            web.upsert("POST", URL, status=400, json=body)
            with pytest.raises(kind):
                RefreshTokenGrant(URL, "me", classify=lambda _, v=verdict: v)(token())
        web.upsert("POST", URL, status=418, json={"access_token": "at-new"})
        granted = RefreshTokenGrant(URL, "me", classify=lambda answer: "granted")(token())
        assert granted.access_token.reveal() == "at-new"

    def test_a_failing_hook_loses_no_granted_token(self, web: Any, caplog: Any) -> None:
        """P4: the old token is spent, so an error in the hook is logged and the new one is kept."""
        web.post(URL, json={"access_token": "at-new"})
        for classify in (lambda answer: 1 / 0, lambda answer: "yes"):
            grant = RefreshTokenGrant(URL, "me", classify=classify)  # type: ignore[arg-type, return-value]
            assert grant(token()).access_token.reveal() == "at-new"
        assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2

    def test_a_failing_hook_is_a_wrong_set_up(self, web: Any) -> None:
        """An error in the hook does not end the session; it becomes the cause, without frames."""
        web.post(URL, status=400, json={"error": "invalid_grant"})
        with pytest.raises(RefreshFailed, match="classify raised ZeroDivisionError") as caught:
            RefreshTokenGrant(URL, "me", classify=lambda answer: 1 / 0)(token())  # type: ignore[arg-type, return-value]
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert caught.value.__cause__.__traceback__ is None
        with pytest.raises(RefreshFailed, match="classify returned a str other than"):
            RefreshTokenGrant(URL, "me", classify=lambda answer: "no")(token())


class TestSecrets:
    @pytest.mark.parametrize(
        "quote",
        [
            lambda form, header: header,
            lambda form, header: f"bad credentials ({header.partition(' ')[2].rstrip('=')})",
            lambda form, header: quote_plus(header),
            lambda form, header: re.sub("%..", lambda c: c[0].lower(), quote_plus(header)),
            lambda form, header: header.translate(str.maketrans("+/", "-_")),
            lambda form, header: f"secret {SENT['secret']} does not match",
            lambda form, header: f"secret {quote_plus(SENT['secret'])} does not match",
            lambda form, header: base64.b64encode(SENT["secret"].encode()).decode(),
            lambda form, header: f"no such token: {form['refresh_token']}",
            lambda form, header: f"bad assertion {form['client_assertion']}",
            lambda form, header: urlencode(form),
        ],
    )
    @pytest.mark.parametrize("code", ["invalid_grant", "invalid_client", "server_error"])
    @pytest.mark.parametrize("auth", ["basic", "post"])
    def test_a_server_that_quotes_what_it_was_sent(
        self, web: Any, quote: Any, code: str, auth: Any
    ) -> None:
        """P12: the credentials are masked in any encoding, in the message and attributes."""
        shown = []

        def answer(request: Any) -> Any:
            form = dict(parse_qsl(request.body.decode()))
            header = request.headers.get("Authorization", "")
            shown.append(quote(form, header))
            body = {"error": code, "error_description": shown[0][:150]}
            return 400, {}, json.dumps(body)

        web.add_callback(responses.POST, URL, answer)
        extra = {"client_assertion": SENT["assertion"]}
        grant = RefreshTokenGrant(URL, "me", SENT["secret"], client_auth=auth, extra=extra)
        with pytest.raises(SilentRefreshError) as caught:
            grant(Token("at-old", SENT["refresh"]))
        told = str(caught.value) + repr(vars(caught.value))
        for piece in re.findall(r"[\w+/%~-]{12,}", shown[0]):
            if piece not in ("refresh_token", "client_assertion", "client_secret"):
                assert piece not in told
        assert not [name for name, secret in SENT.items() if secret in told]
        assert code in told

    @pytest.mark.parametrize("name", ["X-Api-Key", "Authorization", "Cookie"])
    def test_a_server_that_quotes_a_header_or_field(self, web: Any, name: str) -> None:
        """P12: values of `headers` and `extra` whose names suggest a secret are masked."""
        secret = f"Token {CANARY}"
        said = f"{CANARY}-1 or {CANARY}-2 is wrong"
        web.post(URL, status=401, json={"message": said})
        extra = {"device": {"apiKey": f"{CANARY}-2"}}
        grant = JSONRefresh(URL, headers={name: secret + "-1"}, extra=extra)
        with pytest.raises(SessionExpired, match=r"\*\*\* is wrong") as caught:
            grant(token())
        assert CANARY not in str(caught.value)

    def test_a_callable_is_called_at_each_exchange(self) -> None:
        """A rotated secret is used without a restart."""
        with AuthorizationServer(client_secret="second") as server:
            secrets = iter(["first", "second"])
            grant = grant_for(server, client_secret=lambda: next(secrets))
            signed_in = server.sign_in_token()
            with pytest.raises(RefreshFailed):
                grant(signed_in)
            grant(signed_in)

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (LookupError("not set"), RefreshFailed),
            (OSError("no such file"), RefreshFailed),
            (requests.ConnectionError("no KMS"), RefreshUnavailable),
        ],
    )
    def test_a_source_that_fails(self, web: Any, error: Exception, kind: Any) -> None:
        """A missing secret is a wrong set-up, an unreachable KMS is transient; nothing is sent."""

        def source() -> str:
            raise error

        with pytest.raises(kind, match="client_secret") as caught:
            RefreshTokenGrant(URL, "me", source)(token())
        assert caught.value.__cause__ is error
        assert caught.value.__cause__.__traceback__ is None
        assert len(web.calls) == 0

    def test_a_sources_text_is_told_only_if_this_package_wrote_it(self, monkeypatch: Any) -> None:
        """P12: a keyring's error, or one of a class derived from ours, may quote the secret."""

        class Mine(FromFile):
            def __call__(self) -> str:
                raise LookupError(CANARY)

        def broken(path: str, mode: str) -> Any:
            raise OSError(CANARY)

        told = []
        for source in (Mine("/x"), FromFile("/no/such/file"), FromEnvironment("NO_SUCH_NAME")):
            with pytest.raises(RefreshFailed) as caught:
                RefreshTokenGrant(URL, "me", source)(token())
            told.append(str(caught.value))
        monkeypatch.setattr("requests_silent_refresh.secret_sources.open", broken, raising=False)
        with pytest.raises(RefreshFailed) as caught:
            RefreshTokenGrant(URL, "me", FromFile("/x"))(token())
        assert CANARY not in str(caught.value) + told[0]
        assert "/no/such/file" in told[1]
        assert "NO_SUCH_NAME is not set" in told[2]

    @pytest.mark.parametrize("kind", [RefreshTokenGrant, ClientCredentialsGrant, JSONRefresh])
    @pytest.mark.parametrize(
        "wrong",
        [
            {"url": "http://auth.example.com/token"},
            {"url": f"https://user:{CANARY}@auth.example.com/token"},
            {"url": f"ftp://auth.example.com/token?key={CANARY}"},
            {"url": f"https://auth.example.com/token?key={CANARY}#part"},
            {"timeout": -1},
            {"client_id": ""},
            {"client_auth": "none"},
            {"client_secret": CANARY.encode()},
            {"client_secret": ""},
            {"extra": {"scope": CANARY, "key": {CANARY}}},
            {"extra": {"scope": "a", "key": CANARY, 1: float("nan"), (2,): CANARY}},
            {"revocation_endpoint": f"http://x/?key={CANARY}"},
            {"refresh_field": ""},
        ],
    )
    def test_a_constructor_that_raises_shows_nothing(self, kind: Any, wrong: Any) -> None:
        """P12: neither the message nor the locals of any frame below ours hold a secret."""
        known = {"headers", "refresh_field"} if kind is JSONRefresh else {"revocation_endpoint"}
        known |= {"url", "timeout", "extra", "proxies"}
        if kind is not JSONRefresh:
            known |= {"client_id", "client_secret", "client_auth"}
        if not wrong.keys() <= known:
            pytest.skip("no such argument")
        right = {
            "url": URL,
            "client_id": "me",
            "client_secret": CANARY,
            "extra": {"client_assertion": CANARY, "nested": {"key": CANARY}},
            "headers": {"X-Api-Key": CANARY},
            "proxies": {"https": f"http://u:{CANARY}@proxy:1"},
        }
        options = {name: value for name, value in (right | wrong).items() if name in known}
        address = options.pop("url")
        with pytest.raises((ValueError, TypeError, InsecureTransport)) as caught:
            kind(address, **options)
        error: BaseException | None = caught.value
        trace = caught.value.__traceback__
        assert trace is not None
        assert trace.tb_next is not None
        while error is not None:
            first = trace.tb_next if error is caught.value else error.__traceback__
            shown = traceback.TracebackException(type(error), error, first, capture_locals=True)
            assert CANARY not in "".join(shown.format())
            error = error.__context__

    @pytest.mark.parametrize("value", ["", None])
    def test_a_source_that_returns_nothing(self, web: Any, value: Any) -> None:
        """An empty secret is never sent."""
        with pytest.raises(RefreshFailed, match="returned nothing"):
            RefreshTokenGrant(URL, "me", lambda: value)(token())
        assert len(web.calls) == 0

    @pytest.mark.parametrize("value", [f"{CANARY}\udc80", [CANARY], {CANARY}])
    @pytest.mark.parametrize("auth", ["basic", "post"])
    def test_a_source_that_returns_no_text(self, web: Any, value: Any, auth: Any) -> None:
        """P12: Python's own error would contain the secret, so it is replaced, not chained."""
        web.post(URL, status=503, body="")
        with pytest.raises(SilentRefreshError) as caught:
            RefreshTokenGrant(URL, "me", lambda: value, client_auth=auth)(token())
        error = caught.value
        assert error.__cause__ is error.__context__ is None
        assert CANARY not in str(error) + repr(error) + repr(vars(error))
        if auth == "basic":
            assert type(error) is RefreshFailed
            assert "callables" in str(error)
        web.assert_all_requests_are_fired = False

    @pytest.mark.parametrize(
        "grant",
        [
            RefreshTokenGrant(URL, "me"),
            RefreshTokenGrant(URL, "me", FromEnvironment("NAME"), scope="a", extra={"a": "b"}),
            RefreshTokenGrant(URL, "me", extra={"client_assertion_type": "urn:x"}),
            ClientCredentialsGrant(URL, "me", FromFile("~/secret")),
            JSONRefresh(URL, headers={"X-Api-Key": FromEnvironment("KEY"), "X-Tenant": "7"}),
        ],
    )
    def test_a_grant_is_pickled_without_a_secret(
        self, grant: Any, web: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """P13: a grant without a literal secret can be pickled, and the copy works."""
        for name in ("NAME", "KEY"):
            monkeypatch.setenv(name, "s")
        secret = Path("~/secret").expanduser()  # in a home that only the tests have
        secret.parent.mkdir(parents=True, exist_ok=True)
        secret.write_text("s")
        again = pickle.loads(pickle.dumps(grant))
        assert repr(again) == repr(grant)
        web.post(URL, json={"access_token": "at-new"})
        assert again(token()).access_token.reveal() == "at-new"

    @pytest.mark.parametrize(
        ("grant", "what"),
        [
            (RefreshTokenGrant(URL, "me", CANARY), "client_secret"),
            (ClientCredentialsGrant(URL, "me", CANARY), "client_secret"),
            (RefreshTokenGrant(URL, "me", extra={"client_assertion": CANARY}), "client_assertion"),
            (JSONRefresh(URL, extra={"apiKey": CANARY}), "apiKey"),
            (JSONRefresh(URL, headers={"Authorization": CANARY}), "Authorization"),
            (JSONRefresh(URL, cookies={"session_token": CANARY}), "cookies"),
            (JSONRefresh(URL, query={"api_key": CANARY}), "query"),
            (
                RefreshTokenGrant(URL, "me", proxies={"https": f"http://u:{CANARY}@proxy:1"}),
                "proxy",
            ),
        ],
    )
    def test_a_literal_secret_is_not_pickled_or_shown(self, grant: Any, what: str) -> None:
        """P12: the pickle would contain the secret, so it is refused with the alternative named."""
        for attempt in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match=what) as caught:
                attempt(grant)
            assert "FromEnvironment" in str(caught.value)
            assert CANARY not in str(caught.value)
        assert CANARY not in repr(grant)
        if what == "client_secret":  # vars(): no public way shows what a crash reporter dumps
            assert CANARY not in str(vars(grant))

    def test_no_secret_reaches_an_error_a_log_or_a_print(
        self,
        caplog: pytest.LogCaptureFixture,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """P12: secrets are in no message, cause, frame variable, pickle, log record or output."""
        monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
        caplog.set_level(logging.DEBUG)
        secrets = [CANARY + name for name in ("-access", "-refresh", "-client", "-extra")]
        with AuthorizationServer(client_id="c", client_secret=secrets[2]) as server:
            signed_in = Token(secrets[0], secrets[1])
            grant = RefreshTokenGrant(
                server.token_endpoint,
                "c",
                secrets[2],
                extra={"assertion": secrets[3]},
                revocation_endpoint=server.revocation_endpoint,
                timeout=0.3,
            )
            raised: list[BaseException] = []
            echo = Reply.json(400, {"error": "invalid_grant", "token": secrets[0]})
            torn = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + secrets[1].encode()
            for fault in (
                {"status": 400, "body": echo.body},
                {"status": 200, "body": echo.body},
                {"status": 503, "body": secrets[1]},
                {"raw": torn, "times": 2},
                {"raw": secrets[0].encode() + b"\r\n\r\n"},
                {"drop": "before", "times": 2},
                {"delay": 5},
            ):
                server.clear_faults()
                for kind, call in (("token", grant), ("revoke", grant.revoke)):
                    if kind == "revoke" and fault.get("status") == 200:
                        continue  # a revocation that succeeds
                    server.fault(kind, **fault)
                    with pytest.raises(SilentRefreshError) as caught:
                        call(signed_in)
                    raised.append(caught.value)
            server.clear_faults()
            down = RefreshTokenGrant("http://127.0.0.1:1/", "c", secrets[2])
            with pytest.raises(SilentRefreshError) as caught:
                down(signed_in)
            raised.append(caught.value)
        assert len(raised) == 14
        for error in raised:
            # The first frame is this test's own, whose variables hold the secrets.
            trace = error.__traceback__
            assert trace is not None
            shown = traceback.TracebackException(
                type(error), error, trace.tb_next, capture_locals=True
            )
            text = "".join(shown.format()) + repr(error) + repr(vars(error)) + str(error.args)
            text += pickle.dumps(error).decode("latin-1")
            assert CANARY not in text
        assert CANARY not in caplog.text
        assert CANARY not in "".join(str(record.args) for record in caplog.records)
        captured = capsys.readouterr()
        assert CANARY not in captured.out + captured.err


class TestRevoke:
    def test_revoking_the_refresh_token_ends_the_session(self, server: Any) -> None:
        """RFC 7009: one request revokes the refresh token and with it the whole token family."""
        grant = grant_for(server, revocation_endpoint=server.revocation_endpoint)
        seen = requests_at(server, "/revoke")
        signed_in = server.sign_in_token()
        assert grant.revoke(signed_in) is True
        (request,) = seen
        form = dict(parse_qsl(request.body.decode()))
        assert form["token"] == signed_in.refresh_token.reveal()
        assert form["token_type_hint"] == "refresh_token"
        with pytest.raises(SessionExpired):
            grant(signed_in)

    def test_an_access_token_is_revoked_only_without_a_refresh_token(self) -> None:
        """On common servers, revoking an access token revokes the refresh token as well."""
        with AuthorizationServer(client_secret="s") as server:
            grant = ClientCredentialsGrant(
                server.token_endpoint, "client", "s", revocation_endpoint=server.revocation_endpoint
            )
            seen = requests_at(server, "/revoke")
            assert grant.revoke(grant(None)) is True
            assert dict(parse_qsl(seen[0].body.decode()))["token_type_hint"] == "access_token"
            assert "Authorization" in seen[0].headers

    @pytest.mark.parametrize("grant", [RefreshTokenGrant(URL, "me"), JSONRefresh(URL)])
    def test_without_an_endpoint_nothing_happens(self, web: Any, grant: Any) -> None:
        """Without a revocation endpoint, `revoke` returns False and sends nothing."""
        assert grant.revoke(token()) is False
        assert len(web.calls) == 0

    @pytest.mark.parametrize(
        ("status", "body", "kind"),
        [
            (503, {}, RefreshUnavailable),
            (400, {"error": "unsupported_token_type"}, RefreshFailed),
            (400, {"error": "invalid_grant"}, RefreshFailed),
            (404, {}, RefreshFailed),
        ],
    )
    def test_a_failure_is_raised(self, web: Any, status: int, body: Any, kind: Any) -> None:
        """A failed revocation raises, so that the caller can decide what to do."""
        web.post(URL + "/revoke", status=status, json=body)
        grant = RefreshTokenGrant(URL, "me", revocation_endpoint=URL + "/revoke")
        with pytest.raises(kind, match="could not be revoked") as caught:
            grant.revoke(token())
        assert caught.value.status_code == status

    def test_no_connection_is_unavailable(self) -> None:
        """An unreachable revocation endpoint raises RefreshUnavailable."""
        grant = RefreshTokenGrant(URL, "me", revocation_endpoint="http://127.0.0.1:1/")
        with pytest.raises(RefreshUnavailable):
            grant.revoke(token())


class TestJSONRefresh:
    """JSON bodies, camelCase, nested answers (requests-oauthlib #544, oauthlib #887)."""

    @pytest.mark.parametrize(
        ("path", "options"),
        [
            ("/flat", {}),
            ("/nested", {}),
            ("/nested?expires=iso", {}),
            ("/nested?expires=unix", {}),
            ("/nested?expires=ms", {"expires_unit": "ms"}),
        ],
    )
    def test_the_usual_dialects_need_no_settings(
        self, server: Any, path: str, options: Any
    ) -> None:
        """Flat and nested answers, lifetimes and points in time, over two rotations."""
        grant = JSONRefresh(server.json_endpoint + path, **options)
        renewed = grant(grant(server.sign_in_token()))
        assert abs(renewed.expires_at - time.time() - 3600) < 5
        assert server.counters.granted == 2
        with requests.get(
            server.resource, headers={"Authorization": "Bearer " + renewed.access_token.reveal()}
        ) as answer:
            assert answer.status_code == 200

    def test_a_refused_token(self, server: Any) -> None:
        """A 401 with a JSON object means that the session has ended."""
        grant = JSONRefresh(server.json_endpoint)
        spent = server.sign_in_token()
        grant(spent)
        with pytest.raises(SessionExpired) as caught:
            grant(spent)
        assert caught.value.status_code == 401

    @pytest.mark.parametrize(
        ("answer", "access", "refresh", "lifetime"),
        [
            ({"accessToken": "A"}, "A", "rt-old", None),
            ({"accessToken": "A", "refreshToken": "R", "expiresIn": 60}, "A", "R", 60),
            ({"access": "A", "refresh": "R"}, "A", "R", None),
            ({"access": True, "token": 7, "refresh": 8}, "7", "8", None),
            ({"access": "A", "refresh": {"id": 1}}, "A", "rt-old", None),
            ({"token": "A", "expires": "2027-01-15T08:01:00Z"}, "A", "rt-old", 60),
            ({"token": {"access_token": "A", "expires_in": "60"}}, "A", "rt-old", 60),
            ({"jwt": "A", "expiration": 1_800_000_060}, "A", "rt-old", 60),
            ({"data": {"access_token": "A", "refresh_token": "R"}, "expires_in": 9}, "A", "R", 9),
            ({"result": {"accessToken": "A", "expiresAt": 1_800_000_060_000}}, "A", "rt-old", 60),
            ({"tokens": {"access": "A"}, "refresh_token": "R"}, "A", "R", None),
            ({"data": [], "access_token": "A", "expires_in": None}, "A", "rt-old", None),
            ({"access_token": "A", "expires_in": True}, "A", "rt-old", None),
            ({"access_token": "A", "expires_in": "soon"}, "A", "rt-old", None),
            ({"access_token": "A", "expires_in": -5}, "A", "rt-old", 0),
        ],
    )
    def test_the_usual_names_are_known(
        self, web: Any, answer: Any, access: str, refresh: str, lifetime: float | None
    ) -> None:
        """The usual names of fields are recognised without settings."""
        web.post(URL, json=answer, status=201)
        granted = JSONRefresh(URL, clock=lambda: NOW)(token())
        assert granted.access_token.reveal() == access
        assert granted.refresh_token is not None
        assert granted.refresh_token.reveal() == refresh
        expected = None if lifetime is None else NOW + lifetime
        assert granted.expires_at == expected

    def test_paths_give_other_names(self, web: Any) -> None:
        """Names and paths of fields can be set, for the request and for the answer."""
        session = {"key": "A", "left": 900_000, "tenant": 7, "renewal": {"key": "R"}}
        web.post(URL, json={"ok": True, "session": session})
        nested = {"device": {"id": 1}}
        grant = JSONRefresh(
            URL,
            refresh_field="device.credentials.renewal",
            access_token_path="session.key",
            refresh_token_path="session.renewal.key",
            expires_path="session.left",
            expires_unit="ms",
            extra={**nested, "nonce": lambda: "n-1"},
            headers={"X-Api-Key": lambda: "k-1", "Content-Type": "application/vnd.api+json"},
            clock=lambda: NOW,
        )
        granted = grant(token())
        assert granted.access_token.reveal() == "A"
        assert granted.refresh_token is not None
        assert granted.refresh_token.reveal() == "R"
        assert granted.expires_at == NOW + 900
        assert granted.extra["tenant"] == 7
        request = web.calls[0].request
        assert json.loads(request.body) == {
            "device": {"id": 1, "credentials": {"renewal": "rt-old"}},
            "nonce": "n-1",
        }
        assert request.headers["X-Api-Key"] == "k-1"
        assert request.headers["Content-Type"] == "application/vnd.api+json"
        assert nested == {"device": {"id": 1}}

    def test_a_point_in_time_is_compared_with_the_servers_clock(self, web: Any) -> None:
        """A date counts from the server's clock, as the user's may be wrong (AppAuth #747)."""
        headers = {"Date": email.utils.formatdate(NOW - 5000, usegmt=True)}
        web.post(URL, json={"token": "A", "expires": NOW - 4940}, headers=headers)
        assert JSONRefresh(URL, clock=lambda: NOW)(token()).expires_at == NOW + 60

    @pytest.mark.parametrize(
        ("status", "body", "kind"),
        [
            (400, {"message": "bad"}, RefreshFailed),
            (400, {"message": "Session expired"}, SessionExpired),
            (400, {"non_field_errors": ["Signature has expired."]}, SessionExpired),
            (400, {"errors": {"deviceId": ["This field may not be blank."]}}, RefreshFailed),
            (401, {"msg": "Missing Authorization Header"}, RefreshFailed),
            (401, {"message": "invalid API key"}, RefreshFailed),
            (401, {}, SessionExpired),
            (400, "<h1>Bad request</h1>", RefreshUnavailable),
            (401, [], RefreshUnavailable),
            (403, {"message": "blocked"}, RefreshUnavailable),
            (429, {}, RefreshUnavailable),
            (500, {"error": "invalid_grant"}, RefreshUnavailable),
            (404, {}, RefreshFailed),
            (422, {"message": "no field token"}, RefreshFailed),
            (302, "", RefreshFailed),
            (200, {"error": "expired", "accessToken": ""}, RefreshFailed),
            (200, {"error": {"code": "invalid_refresh_token"}}, SessionExpired),
            (401, {"error": "invalid_client"}, RefreshFailed),
            (400, {"error": "invalid_request"}, RefreshFailed),
            (400, {"message": "missing field deviceId"}, RefreshFailed),
            (400, {"__type": "TooManyRequestsException"}, RefreshUnavailable),
            (400, {"code": "ThrottlingException"}, RefreshUnavailable),
            (401, {"error": "temporarily_unavailable"}, RefreshUnavailable),
            (200, {"nothing": "here"}, RefreshUnavailable),
            (200, {"data": {"access_token": None}}, RefreshUnavailable),
            (200, [], RefreshUnavailable),
            (200, "", RefreshUnavailable),
        ],
    )
    def test_each_answer_has_one_meaning(self, web: Any, status: int, body: Any, kind: Any) -> None:
        """P7: for non-standard APIs, a 401 with a JSON object is a refusal, and so is a 400 that
        says so of a token or session. A complaint about the request never ends the session."""
        text = body if isinstance(body, str) else json.dumps(body)
        web.post(URL, status=status, body=text)
        with pytest.raises(SilentRefreshError) as caught:
            JSONRefresh(URL)(token())
        assert type(caught.value) is kind
        assert caught.value.status_code == status

    @pytest.mark.parametrize("path", ["session.key", "missing", "session.key.deeper"])
    @pytest.mark.parametrize("kind", ["access_token_path", "refresh_token_path", "expires_path"])
    def test_a_path_that_leads_nowhere_is_named(
        self, web: Any, path: str, kind: str, caplog: Any
    ) -> None:
        """P16: the usual names are read then, and the log names the path."""
        session = {"accessToken": "A", "refreshToken": "R", "expiresIn": 60}
        web.post(URL, json={"session": {"key": ""}, **session})
        options: Any = {kind: path}
        granted = JSONRefresh(URL, clock=lambda: NOW, **options)(token())
        assert granted.access_token.reveal() == "A"
        assert granted.refresh_token is not None
        assert granted.refresh_token.reveal() == "R"
        assert granted.expires_at == NOW + 60
        assert f"nothing at {path}" in caplog.text


def test_a_grant_is_used_from_many_threads_at_once() -> None:
    """One grant makes parallel exchanges for different sessions without mixing them up."""
    with AuthorizationServer() as server:
        grant = grant_for(server)
        signed_in = [server.sign_in_token() for _ in range(16)]
        barrier = threading.Barrier(16)
        families: dict[int, bool] = {}

        def exchange(number: int) -> None:
            barrier.wait(10)
            renewed = grant(grant(signed_in[number]))
            families[number] = renewed.refresh_token is not None

        threads = [threading.Thread(target=exchange, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert families == dict.fromkeys(range(16), True)
        assert server.counters.granted == 32
        assert server.counters.reuse_detections == 0


PAGE = Path(__file__).parents[2] / "docs" / "grants.rst"


def test_the_page_on_grants_runs(monkeypatch: pytest.MonkeyPatch, web: Any) -> None:
    """Each block of docs/grants.rst runs, and its grants behave as the page says."""
    monkeypatch.setattr(quiet_pools, "allow_debug_output", False)
    monkeypatch.setenv("REPORT_SECRET", "s")
    monkeypatch.setenv("REPORT_API_KEY", "k")
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", page)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(textwrap.dedent(block), str(PAGE), "exec"), names)
    assert len(blocks) == 8
    assert quiet_pools.allow_debug_output

    oauth = "https://auth.example.com/oauth2/token"
    web.post(oauth, json={"access_token": "A"})
    for grant in ("public", "confidential", "machine"):
        assert names[grant](token()).access_token.reveal() == "A"
    web.post("https://auth.example.com/oauth2/token", json={"error": "session_gone"})
    with pytest.raises(SessionExpired):
        names["special"](token())
    for answer in (
        {"accessToken": "A", "expiresIn": 60},
        {"access": "A", "refresh": "R"},
        {"data": {"access_token": "A", "expires": "2027-01-15T08:00:00Z"}},
    ):
        web.upsert("POST", "https://api.example.com/refresh", json=answer)
        assert names["simple"](token()).access_token.reveal() == "A"
    session = {"key": "A", "renewal_key": "R", "milliseconds_left": 1000}
    web.post("https://api.example.com/v2/session/renew", json={"session": session})
    assert names["odd"](token()).refresh_token.reveal() == "R"
    web.post("https://api.example.com/renew", status=410)
    with pytest.raises(SessionExpired):
        names["renew"](token())
    web.upsert("POST", "https://api.example.com/renew", json={"access_token": "A"})
    assert names["renew"](token()).refresh_token.reveal() == "rt-old"
