"""Discovery: an issuer's endpoints from its metadata, and whose metadata they are."""

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
    """Discovery: every endpoint, what the server knows of PKCE, and that it names itself."""
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
def test_an_issuer_with_a_path_is_found_at_each_of_its_places(server, place):
    """Discovery: RFC 8414 puts the path behind, OpenID Connect in front; both are asked."""
    publishes(server, place, issuer=server.url + "/realm", token_endpoint=server.token_endpoint)
    assert discover(server.url + "/realm").token_endpoint == server.token_endpoint


@pytest.mark.parametrize("named", ["https://somebody-else.example", "", None, 7, ["a"], "x" * 5000])
def test_the_metadata_of_another_issuer_are_refused(server, named):
    """Discovery: what names another issuer (or none) is not taken, and the message names both."""
    publishes(server, RFC_8414, issuer=named, token_endpoint=server.token_endpoint)
    with pytest.raises(DiscoveryFailed, match="must be identical") as caught:
        discover(server.issuer)
    assert not caught.value.transient
    assert server.issuer in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_slash_at_the_end_makes_another_issuer(server):
    """Discovery: the comparison is of characters (RFC 8414 section 3.3)."""
    with pytest.raises(DiscoveryFailed, match=r"not 'http://127.0.0.1:[0-9]+/'"):
        discover(server.issuer + "/")


@pytest.mark.parametrize(
    "issuer",
    ["auth.example.com", "https://a.example?x=1", "https://a.example#x", "https://u:p@a.example"],
)
def test_what_is_no_issuer_is_refused(issuer):
    """Discovery: an issuer is a URL without query, fragment and user."""
    with pytest.raises(ValueError, match="not a valid issuer"):
        discover(issuer)


def test_a_plain_http_issuer_is_refused():
    """P11: who is on the way could send people to his own login page."""
    with pytest.raises(InsecureTransport, match="use https"):
        discover("http://auth.example.com")


@pytest.mark.parametrize("name", ["token_endpoint", "authorization_endpoint"])
def test_a_plain_http_endpoint_in_the_metadata_is_refused(server, name):
    """P11: the endpoints must be https (or loopback) as well."""
    payload = {"issuer": server.issuer, "token_endpoint": server.token_endpoint}
    publishes(server, RFC_8414, **payload | {name: "http://auth.example.com/x"})
    with pytest.raises(InsecureTransport, match=name):
        discover(server.issuer)


def test_an_endpoint_that_is_no_url_is_refused(server):
    """Discovery: the message says which metadata are unusable, and why."""
    publishes(server, RFC_8414, issuer=server.issuer, token_endpoint="no url")
    with pytest.raises(DiscoveryFailed, match="are unusable: token_endpoint"):
        discover(server.issuer)


def test_metadata_without_a_token_endpoint_are_refused(server):
    """Discovery: without one there is nothing to refresh at."""
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
def test_what_is_no_metadata_is_said(server, answer, said, transient):
    """Discovery: the message names what came, and whether to try again."""
    for path in (RFC_8414, OIDC):
        server.on(path, lambda request, _: answer)
    with pytest.raises(DiscoveryFailed, match=said) as caught:
        discover(server.issuer)
    assert caught.value.transient is transient


def test_a_server_that_only_knows_openid_connect_is_found(server):
    """Discovery: a 500 at a path that a server does not know is no verdict."""
    server.on(RFC_8414, lambda request, _: Answer(500))
    assert discover(server.issuer).token_endpoint == server.token_endpoint


def test_an_issuer_out_of_reach_is_transient():
    """Discovery: nobody listens there; trying again may help."""
    with AuthorizationServer() as server:
        issuer = server.issuer
    with pytest.raises(DiscoveryFailed, match="no answer") as caught:
        discover(issuer, timeout=5)
    assert caught.value.transient


def test_a_trickling_issuer_is_left_at_the_deadline(server):
    """P8: metadata that crawl in hold nobody for ever."""
    server.on(RFC_8414, lambda request, answer: answer.but(trickle=1))
    with pytest.raises(DiscoveryFailed, match="no answer"):
        discover(server.issuer, timeout=0.3)
