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


@pytest.mark.parametrize(
    "named",
    [
        "https://somebody-else.example",
        "http://{tenantid}/",
        "{url}/other",
        "{url}/a/{tenantid}",
        "{url}.evil.example/{tenantid}",
        "",
        None,
        7,
        ["a"],
        "x" * 5000,
    ],
)
def test_the_metadata_of_another_issuer_are_refused(server, named):
    """Discovery: metadata of another issuer are not used (RFC 8414 section 3.3), but reported."""
    if isinstance(named, str):
        named = named.replace("{url}", server.url)
    for place in (RFC_8414 + "/common", "/common" + OIDC, OIDC + "/common"):
        publishes(server, place, issuer=named, token_endpoint=server.token_endpoint)
    told = repr(named[:50])[:-1] if isinstance(named, str) else "for no issuer"
    with pytest.raises(DiscoveryFailed, match="no metadata of its own") as caught:
        discover(server.issuer + "/common")
    assert not caught.value.transient
    assert told in str(caught.value)
    assert server.issuer in str(caught.value)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("named", "given"),
    [
        ("{url}", "{url}/"),
        ("{url}/", "{url}"),
        ("{url}/", "{url}/.well-known/openid-configuration"),
        ("{url}", "{url}/.well-known/oauth-authorization-server"),
        ("{url}/a", "{url}/a/.well-known/openid-configuration"),
        ("{url}/a/", "{url}/.well-known/oauth-authorization-server/a"),
        ("{url}/{tenantid}/v2.0", "{url}/common/v2.0"),
        ("{url}/{tenantid}/v2.0", "{url}/organizations/v2.0/"),
    ],
)
def test_an_issuer_may_be_written_as_people_write_it(server, named, given):
    """Discovery: a closing slash, the URL of the metadata, and Entra's tenants all work."""
    named, given = named.replace("{url}", server.url), given.replace("{url}", server.url)
    for place in ("", "/a", "/common/v2.0", "/organizations/v2.0"):
        publishes(server, place + OIDC, issuer=named, token_endpoint=server.token_endpoint)
    server.on(RFC_8414, lambda request, answer: Answer(404))
    assert discover(given).issuer == named


@pytest.mark.parametrize(
    "other",
    [
        Answer.json(200, {"message": "no such route", "status": 404}),
        Answer.json(200, {"issuer": "https://root.example", "token_endpoint": "https://x.example"}),
        Answer(200, {}, b"<html>"),
        Answer.json(200, ["x"]),
    ],
)
def test_another_answer_at_the_first_url_does_not_end_the_search(server, other):
    """Discovery: gateways answer an unknown path with 200 and something of their own."""
    server.on(RFC_8414 + "/tenant", lambda request, _: other)
    issuer = server.url + "/tenant"
    publishes(server, "/tenant" + OIDC, issuer=issuer, token_endpoint=server.token_endpoint)
    assert discover(issuer).token_endpoint == server.token_endpoint


def test_the_client_authentication_methods_are_read(server):
    """RFC 8414 section 2: ``token_endpoint_auth_methods_supported`` is optional."""
    assert discover(server.issuer).auth_methods is None
    methods = {"token_endpoint_auth_methods_supported": ["client_secret_post", 7]}
    server.on(RFC_8414, lambda request, real: real.but(payload={**real.payload, **methods}))
    assert discover(server.issuer).auth_methods == ("client_secret_post", "7")


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
