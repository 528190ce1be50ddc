"""The token endpoint has its own TLS, proxy and CA (Authlib PR 896, requests-oauthlib PR 555)."""

from __future__ import annotations

import ssl
from urllib.parse import urlsplit

import pytest
import requests
import trustme
from urllib3.exceptions import InsecureRequestWarning
from wire import Recorder, session_of

from requests_silent_refresh import (
    ClientCredentialsGrant,
    JSONRefresh,
    RefreshTokenGrant,
    RefreshUnavailable,
    TokenManager,
)
from requests_silent_refresh.sign_in.client import Client, SignInFailed, as_client
from requests_silent_refresh.sign_in.discovery import DiscoveryFailed, discover
from requests_silent_refresh.testing import Answer, AuthorizationServer

SECRET = "canary-secret"
MACHINE = "grant_type=client_credentials"
NOBODY = "http://127.0.0.1:1"  # a proxy that does not exist


@pytest.fixture(autouse=True)
def _no_bundle(monkeypatch):
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


class Authority:
    """A certificate authority: its bundle, and contexts of servers that it has certified."""

    def __init__(self, directory):
        self._ca = trustme.CA()
        self.bundle, self.client = str(directory / "ca.pem"), str(directory / "client.pem")
        self._ca.cert_pem.write_to_path(self.bundle)
        self._ca.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(self.client)

    def server(self, *, asks_for_certificate=False):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._ca.issue_cert("127.0.0.1", "localhost").configure_cert(context)
        if asks_for_certificate:
            self._ca.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Return the authority of the token endpoint."""
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Return the authority of the API."""
    return Authority(tmp_path_factory.mktemp("theirs"))


@pytest.fixture
def auth(ours):
    with AuthorizationServer(tls=ours.server()) as auth:
        yield auth


@pytest.fixture
def first(auth):
    """Return the token of the sign-in, which the API no longer accepts."""
    return auth.sign_in_token()


@pytest.fixture
def api(theirs, first):
    """Start an API on a server of its own that accepts any token but the first."""
    with AuthorizationServer(tls=theirs.server()) as api:
        refuse(api, first)
        yield api


def refuse(api, token):
    """Make the API accept any token but this one."""
    ended = token.access_token.reveal()
    api.on("/resource", lambda r, a: None if r.bearer == ended else a.but(status=200))


def session_for(auth, first, *origins, **network):
    """Return a session for ``origins`` that gets its tokens from ``auth`` by way of ``network``."""
    manager = TokenManager(
        RefreshTokenGrant(auth.token_endpoint, "client", **network), refresh_ahead=0
    )
    manager.sign_in(first)
    return session_of(manager, list(origins))


def port_of(url):
    return urlsplit(url).port


class TestTwoAuthorities:
    """The certificates of the API and of the token endpoint are from different authorities."""

    def test_each_is_checked_by_its_own(self, auth, api, first, ours, theirs):
        """P2: the session's bundle checks the API, and the grant's checks the token endpoint."""
        with session_for(auth, first, api.url, verify=ours.bundle) as session:
            session.verify = theirs.bundle
            response = session.get(api.resource)
        assert response.status_code == 200
        assert [r.status_code for r in response.history] == [401]
        assert auth.counters.exchanges == 1

    @pytest.mark.parametrize("given", [True, False])
    def test_the_apis_bundle_does_not_check_the_token_endpoint(
        self, auth, api, first, theirs, given
    ):
        """P7: the token endpoint's certificate is rejected, and the session is kept."""
        network = {"verify": theirs.bundle} if given else {}
        with session_for(auth, first, api.url, **network) as session:
            session.verify = theirs.bundle
            with pytest.raises(RefreshUnavailable, match="CERTIFICATE_VERIFY_FAILED") as caught:
                session.get(api.resource)
            assert session.get_adapter(api.url).manager.signed_in
        assert caught.value.response.status_code == 401
        assert auth.counters.exchanges == 0

    def test_the_token_endpoints_bundle_does_not_check_the_api(self, auth, api, first, ours):
        """P13: the session does not trust the authority that the grant trusts."""
        with (
            session_for(auth, first, api.url, verify=ours.bundle) as session,
            pytest.raises(requests.exceptions.SSLError),
        ):
            session.get(api.resource)
        assert (api.counters.requests, auth.counters.exchanges) == (0, 0)

    def test_an_unchecked_api_leaves_the_token_endpoint_checked(self, auth, api, first):
        """P11: ``session.verify = False`` applies only to the API."""
        with session_for(auth, first, api.url) as session:
            session.verify = False
            with (
                pytest.warns(InsecureRequestWarning),
                pytest.raises(RefreshUnavailable, match="CERTIFICATE_VERIFY_FAILED"),
            ):
                session.get(api.resource)
        assert auth.counters.exchanges == 0

    @pytest.mark.parametrize("given", [True, False])
    def test_a_client_certificate_for_the_api_is_not_sent_to_the_token_endpoint(
        self, api, ours, theirs, given
    ):
        """P13: ``session.cert`` goes to the API, and the grant's goes to the token endpoint."""
        network = {"verify": ours.bundle, **({"cert": ours.client} if given else {})}
        with AuthorizationServer(tls=ours.server(asks_for_certificate=True)) as auth:
            ended = auth.sign_in_token()
            refuse(api, ended)
            with session_for(auth, ended, api.url, **network) as session:
                session.verify, session.cert = theirs.bundle, ours.client
                if given:
                    assert session.get(api.resource).status_code == 200
                else:
                    with pytest.raises(RefreshUnavailable):
                        session.get(api.resource)
            assert auth.counters.exchanges == given


class TestTwoWays:
    """A proxy is used for only one of the API and the token endpoint."""

    def test_an_empty_mapping_overrides_the_environments_proxy(
        self, auth, api, first, ours, theirs, monkeypatch
    ):
        """P2: ``proxies={}`` connects directly, although the environment names a proxy."""
        monkeypatch.setenv("HTTPS_PROXY", NOBODY)
        monkeypatch.setenv("NO_PROXY", "localhost")
        url = f"https://localhost:{port_of(api.url)}"
        for network, expected in ({"proxies": {}}, 200), ({}, RefreshUnavailable):
            with session_for(auth, first, url, verify=ours.bundle, **network) as session:
                session.verify = theirs.bundle
                if expected == 200:
                    assert session.get(url + "/resource").status_code == 200
                else:
                    with pytest.raises(expected, match="token"):
                        session.get(url + "/resource")
        assert auth.counters.exchanges == 1

    def test_the_sessions_proxy_is_only_for_the_api(self, auth, api, first, ours, theirs):
        """P13: ``session.proxies`` apply to the API and not to the exchange."""
        with Recorder(tunnels=True) as proxy:
            with session_for(auth, first, api.url, verify=ours.bundle) as session:
                session.verify, session.proxies = theirs.bundle, {"https": proxy.url}
                assert session.get(api.resource).status_code == 200
            assert len(proxy.heads) == len(proxy.heard(f"CONNECT 127.0.0.1:{port_of(api.url)} "))
            assert proxy.heads
        assert auth.counters.exchanges == 1

    def test_the_grants_proxy_is_only_for_the_token_endpoint(self, auth, api, first, ours, theirs):
        """P13: the grant's proxy applies to the exchange and not to the session's requests."""
        with Recorder(tunnels=True) as proxy:
            proxies = {"https": proxy.url}
            with session_for(auth, first, api.url, verify=ours.bundle, proxies=proxies) as session:
                session.verify = theirs.bundle
                assert session.get(api.resource).status_code == 200
            (head,) = proxy.heads
            assert head.startswith(f"CONNECT 127.0.0.1:{port_of(auth.url)} ")
        assert auth.counters.exchanges == 1


def revoking(kind):
    """Return a factory of callables that revoke a token by a grant of ``kind``."""
    return lambda server, **network: (
        kind(
            server.token_endpoint,
            "client",
            SECRET,
            revocation_endpoint=server.revocation_endpoint,
            **network,
        ).revoke
    )


def signing_in(step):
    """Return a factory of callables that do ``step`` of a sign-in."""

    def way(server, **network):
        client = Client(server.token_endpoint, "client", lambda: SECRET, network=network)
        return lambda token: step(server, client)

    return way


# Everything that talks to an authorization server: how it is made, and what it raises if the
# server cannot be reached.
WAYS = {
    "RefreshTokenGrant": (
        lambda s, **n: RefreshTokenGrant(s.token_endpoint, "client", SECRET, **n),
        RefreshUnavailable,
    ),
    "ClientCredentialsGrant": (
        lambda s, **n: ClientCredentialsGrant(s.token_endpoint, "client", SECRET, **n),
        RefreshUnavailable,
    ),
    "JSONRefresh": (lambda s, **n: JSONRefresh(s.json_endpoint, **n), RefreshUnavailable),
    "RefreshTokenGrant.revoke": (revoking(RefreshTokenGrant), RefreshUnavailable),
    "ClientCredentialsGrant.revoke": (revoking(ClientCredentialsGrant), RefreshUnavailable),
    "discover": (lambda s, **n: lambda token: discover(s.issuer, **n), DiscoveryFailed),
    "Client.redeem": (signing_in(lambda s, client: as_client(client)), SignInFailed),
    "Client.post": (
        signing_in(lambda s, client: client.post(s.token_endpoint, MACHINE, "token_endpoint")),
        SignInFailed,
    ),
}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


class TestEachConstructor:
    """``verify``, ``cert`` and ``proxies`` take effect in everything that talks to the server."""

    def test_verify(self, way, ours):
        """The given bundle is used; without it the certificate is rejected."""
        make, out_of_reach = way
        with AuthorizationServer(tls=ours.server(), client_secret=SECRET) as server:
            assert make(server, verify=ours.bundle)(server.sign_in_token())
            with pytest.raises(out_of_reach, match="CERTIFICATE_VERIFY_FAILED"):
                make(server)(server.sign_in_token())

    def test_cert(self, way, ours):
        """The client certificate is sent (RFC 8705); without it the server hangs up."""
        make, out_of_reach = way
        context = ours.server(asks_for_certificate=True)
        with AuthorizationServer(tls=context, client_secret=SECRET) as server:
            assert make(server, verify=ours.bundle, cert=ours.client)(server.sign_in_token())
            with pytest.raises(out_of_reach):
                make(server, verify=ours.bundle)(server.sign_in_token())

    def test_a_client_that_authenticates_by_its_certificate_alone(self, ours):
        """A cert takes the place of the client_secret (RFC 8705 section 2)."""
        with AuthorizationServer(tls=ours.server(asks_for_certificate=True)) as server:
            grant = ClientCredentialsGrant(
                server.token_endpoint, "client", verify=ours.bundle, cert=ours.client
            )
            granted = Answer.json(200, {"access_token": "new"})
            server.on("/token", lambda request, answer: granted)  # not for this server's clients
            assert grant(None).access_token.reveal() == "new"

    def test_proxies(self, way, ours, monkeypatch):
        """A given proxy replaces the environment's, and an empty mapping means no proxy."""
        make, out_of_reach = way
        monkeypatch.setenv("HTTPS_PROXY", NOBODY)
        with (
            AuthorizationServer(tls=ours.server(), client_secret=SECRET) as server,
            Recorder(tunnels=True) as proxy,
        ):
            for proxies in {"https": proxy.url}, {}:
                assert make(server, verify=ours.bundle, proxies=proxies)(server.sign_in_token())
            assert len(proxy.heads) == 1
            with pytest.raises(out_of_reach):
                make(server, verify=ours.bundle)(server.sign_in_token())
