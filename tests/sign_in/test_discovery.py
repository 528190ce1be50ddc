"""Discovery: reading an issuer's endpoints from its metadata, and checking the issuer."""

from __future__ import annotations

import pytest

from requests_silent_refresh import InsecureTransport
from requests_silent_refresh.sign_in.discovery import DiscoveryFailed, Metadata, discover
from requests_silent_refresh.testing import Answer, AuthorizationServer

RFC_8414 = "/.well-known/oauth-authorization-server"
OIDC = "/.well-known/openid-configuration"


def publishes(server, path, **payload):
    server.on(path, lambda request, answer: Answer.json(200, payload))


def test_the_endpoints_are_those_that_the_issuer_publishes(server):
    """Discovery: every endpoint, the PKCE methods and the promise of an ``iss`` are read."""
    assert discover(server.issuer) == Metadata(
        issuer=server.url,
        token_endpoint=server.token_endpoint,
        authorization_endpoint=server.authorization_endpoint,
        device_authorization_endpoint=server.device_authorization_endpoint,
        revocation_endpoint=server.revocation_endpoint,
        code_challenge_methods=("S256",),
        iss_in_callback=True,
    )


@pytest.mark.parametrize("place", [RFC_8414 + "/realm", "/realm" + OIDC, OIDC + "/realm"])
def test_the_metadata_of_an_issuer_with_a_path_are_found_at_each_url(server, place):
    """Discovery: RFC 8414 appends the issuer's path, OpenID Connect prepends it; both work."""
    publishes(server, place, issuer=server.url + "/realm", token_endpoint=server.token_endpoint)
    assert discover(server.url + "/realm").token_endpoint == server.token_endpoint


@pytest.mark.parametrize("named", ["https://somebody-else.example", "", None, 7, ["a"], "x" * 5000])
def test_the_metadata_of_another_issuer_are_refused(server, named):
    """Discovery: metadata that name another issuer or none are rejected; the message names both."""
    publishes(server, RFC_8414, issuer=named, token_endpoint=server.token_endpoint)
    with pytest.raises(DiscoveryFailed, match="must be identical") as caught:
        discover(server.issuer)
    assert not caught.value.transient
    assert server.issuer in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_trailing_slash_makes_another_issuer(server):
    """Discovery: issuers are compared character by character (RFC 8414 section 3.3)."""
    with pytest.raises(DiscoveryFailed, match=r"not 'http://127.0.0.1:[0-9]+/'"):
        discover(server.issuer + "/")


@pytest.mark.parametrize(
    "issuer",
    ["auth.example.com", "https://a.example?x=1", "https://a.example#x", "https://u:p@a.example"],
)
def test_an_invalid_issuer_is_refused(issuer):
    """Discovery: an issuer must be a URL without a query, fragment or user."""
    with pytest.raises(ValueError, match="not a valid issuer"):
        discover(issuer)


def test_a_plain_http_issuer_is_refused():
    """P11: anyone on the network path could redirect people to another login page."""
    with pytest.raises(InsecureTransport, match="use https"):
        discover("http://auth.example.com")


@pytest.mark.parametrize("name", ["token_endpoint", "authorization_endpoint"])
def test_a_plain_http_endpoint_in_the_metadata_is_refused(server, name):
    """P11: the endpoints must also be https or loopback."""
    payload = {"issuer": server.issuer, "token_endpoint": server.token_endpoint}
    publishes(server, RFC_8414, **payload | {name: "http://auth.example.com/x"})
    with pytest.raises(InsecureTransport, match=name):
        discover(server.issuer)


def test_an_endpoint_that_is_not_a_url_is_refused(server):
    """Discovery: the message says which metadata are unusable, and why."""
    publishes(server, RFC_8414, issuer=server.issuer, token_endpoint="no url")
    with pytest.raises(DiscoveryFailed, match="are unusable: token_endpoint"):
        discover(server.issuer)


def test_metadata_without_a_token_endpoint_are_refused(server):
    """Discovery: a token endpoint is required, because tokens are refreshed there."""
    publishes(server, RFC_8414, issuer=server.issuer)
    with pytest.raises(DiscoveryFailed, match="no token_endpoint"):
        discover(server.issuer)


@pytest.mark.parametrize(
    ("answer", "said", "transient"),
    [
        (Answer(302, {"Location": "https://evil.example/"}), "302, and redirects are not", False),
        (Answer(200, {}, b"<html>"), "not a JSON object", False),
        (Answer(404), "404", False),
        (Answer(503), "503", True),
        (Answer(429), "429", True),
    ],
)
def test_an_answer_without_metadata_is_reported(server, answer, said, transient):
    """Discovery: the message describes the answer, and ``transient`` says if a retry may help."""
    for path in (RFC_8414, OIDC):
        server.on(path, lambda request, _: answer)
    with pytest.raises(DiscoveryFailed, match=said) as caught:
        discover(server.issuer)
    assert caught.value.transient is transient


def test_a_server_that_supports_only_openid_connect_is_found(server):
    """Discovery: the next URL is tried if a server answers 500 for an unknown path."""
    server.on(RFC_8414, lambda request, _: Answer(500))
    assert discover(server.issuer).token_endpoint == server.token_endpoint


def test_an_unreachable_issuer_is_transient():
    """Discovery: if no server is listening, trying again later may help."""
    with AuthorizationServer() as server:
        issuer = server.issuer
    with pytest.raises(DiscoveryFailed, match="no answer") as caught:
        discover(issuer, timeout=5)
    assert caught.value.transient


def test_a_trickling_issuer_is_left_at_the_deadline(server):
    """P8: the deadline also bounds metadata that arrive byte by byte."""
    server.on(RFC_8414, lambda request, answer: answer.but(trickle=1))
    with pytest.raises(DiscoveryFailed, match="no answer"):
        discover(server.issuer, timeout=0.3)
