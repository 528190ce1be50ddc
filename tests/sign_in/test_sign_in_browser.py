"""Sign-in with a browser: authorization code, PKCE, state, loopback redirect, issuer."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
from signing_in import answer, come_back

from requests_silent_refresh import Token
from requests_silent_refresh.sign_in.browser import with_browser
from requests_silent_refresh.sign_in.client import Client, SignInFailed
from requests_silent_refresh.sign_in.redirect import LoopbackRedirect
from requests_silent_refresh.testing import AuthorizationServer


@pytest.fixture
def signing_in(server):
    """Begin a sign-in; returns its URL, a future of its token and the list of stored tokens."""
    with ThreadPoolExecutor(8) as pool:

        def begin(**options):
            shown, kept = threading.Event(), []
            urls = []

            def show(url, opening):
                urls.append(url)
                shown.set()

            client = options.pop("client", Client(server.token_endpoint, "client", scope=("read",)))
            endpoint = options.pop("endpoint", server.authorization_endpoint)
            keep = options.pop("keep", kept.append)
            options = {"issuer": server.issuer, "open_browser": False, "timeout": 10.0, **options}
            future = pool.submit(with_browser, client, endpoint, show, keep, **options)
            while not shown.wait(0.01):
                if future.done():
                    return None, future, kept
            return urls[0], future, kept

        yield begin


def test_a_person_who_consents_is_signed_in(server, signing_in):
    """Sign-in: code and PKCE yield a token with the requested scope, and the browser shows it."""
    url, future, kept = signing_in()
    asked = dict(parse_qsl(urlsplit(url).query))
    assert asked["code_challenge_method"] == "S256"
    assert asked["scope"] == "read"
    page = answer(url)
    token = future.result()
    assert kept == [token]
    assert token.scope == ("read",)
    assert "Signed in" in page.text
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["Cache-Control"] == "no-store"
    assert server.log.of("sign-in")[0].grant == "authorization_code"


def test_two_sign_ins_share_no_state_and_no_verifier(signing_in):
    """Sign-in: each sign-in has a new state and a new challenge."""
    asked = []
    for _ in range(2):
        url, future, _ = signing_in()
        asked.append(dict(parse_qsl(urlsplit(url).query)))
        answer(url)
        future.result()
    assert asked[0]["state"] != asked[1]["state"]
    assert asked[0]["code_challenge"] != asked[1]["code_challenge"]
    assert len(asked[0]["state"]) >= 32


def test_the_browser_shows_success_only_when_the_token_is_stored(signing_in):
    """P4: "Signed in" is shown after the save, and not if the save failed."""

    def fail(token):
        raise OSError("no room")

    url, future, _ = signing_in(keep=fail)
    assert "Not signed in" in answer(url).text
    with pytest.raises(OSError, match="no room"):
        future.result()


def test_a_denied_consent_is_reported(signing_in):
    """Sign-in: a denial is reported in one clear line, and nothing is stored."""
    url, future, kept = signing_in()
    page = answer(url, decision="deny").text
    assert "Not signed in" in page
    assert "The sign-in was denied in the browser. Go back to the terminal." in page
    with pytest.raises(SignInFailed, match="denied in the browser") as caught:
        future.result()
    assert caught.value.error == "access_denied"
    assert kept == []


@pytest.mark.parametrize(
    "fields",
    [
        {"state": ""},
        {"state": "wrong"},
        {"state": "\u00e9"},
        {"state": None},
        {"state": None, "code": None},
        {"state": "wrong", "code": None, "error": "access_denied"},
        {"code": ["one", "two"]},
    ],
)
def test_a_stray_or_forged_response_is_ignored(server, signing_in, fields):
    """Sign-in: only a response with this sign-in's state counts (RFC 6749 section 10.12)."""
    url, future, kept = signing_in()
    page = come_back(url, **fields)
    assert (page.status_code, "not the response to your sign-in" in page.text) == (400, True)
    assert "Signed in" in answer(url).text
    assert kept == [future.result()]
    assert not server.log.of("sign-in-refused")


@pytest.mark.parametrize("redirect_uri", ["http://localhost", "http://127.0.0.1/callback"])
def test_what_browsers_and_tools_send_by_themselves_is_ignored(signing_in, redirect_uri):
    """Sign-in: previews, icons, spare connections and port scans do not end it."""
    url, future, _ = signing_in(redirect_uri=redirect_uri)
    redirect = dict(parse_qsl(urlsplit(url).query))["redirect_uri"]
    parts = urlsplit(redirect)
    for method, path in (("GET", "/"), ("HEAD", "/callback"), ("GET", "/favicon.ico")):
        requests.request(method, f"http://{parts.netloc}{path}", timeout=10)
    requests.get(redirect, timeout=10)
    assert requests.post(redirect, timeout=10).status_code == 501
    for sent in (
        b"",
        b"GET /callback?x HTTP/1.0\r\n",
        b"\x16\x03\x01",
        b"GET //[ HTTP/1.0\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", parts.port)) as spare:
            spare.sendall(sent)
    answer(url)
    assert future.result()


def test_the_response_may_be_requested_again(server, signing_in):
    """Sign-in: a preview or a reload of the response's page gets the same result."""
    gate = server.token_gate()
    url, future, kept = signing_in()
    fields = {**dict(parse_qsl(urlsplit(url).query)), "username": "ann", "decision": "allow"}
    action = url.partition("?")[0]
    location = requests.post(action, fields, timeout=10, allow_redirects=False).headers["Location"]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(requests.get, location, timeout=10)
        assert gate.arrived.wait(10)
        again = pool.submit(requests.get, location, timeout=10)
        gate.release()
        assert "Signed in" in first.result().text
        assert "Signed in" in again.result().text
    assert kept == [future.result()]
    assert server.counters.sign_ins == 1


def test_a_second_callback_changes_nothing(server, signing_in):
    """Sign-in: while the first code is being redeemed, a second one is rejected."""
    gate = server.token_gate()
    url, future, kept = signing_in()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(answer, url)
        assert gate.arrived.wait(10)
        second = come_back(url)
        gate.release()
        assert (second.status_code, "already been answered" in second.text) == (409, True)
        assert "Signed in" in first.result().text
    assert kept == [future.result()]
    assert server.counters.sign_ins == 1


@pytest.mark.parametrize(
    ("iss", "required", "said"),
    [
        ("https://evil.example", False, "names the issuer 'https://evil.example'"),
        (None, True, "names no issuer"),
    ],
)
def test_another_issuers_answer_is_refused(server, signing_in, iss, required, said):
    """RFC 9207: a response of another server (a mix-up attack) is not redeemed."""
    url, future, kept = signing_in(iss_required=required)
    come_back(url, iss=iss)
    with pytest.raises(SignInFailed, match=said):
        future.result()
    assert kept == []
    assert not server.log.of("sign-in-refused")


def test_a_tenants_own_issuer_belongs_to_the_issuer_of_all_tenants(server, signing_in):
    """RFC 9207: Entra's metadata name ``{tenantid}``, and its answers the tenant."""
    url, future, _ = signing_in(issuer=server.url + "/{tenantid}/v2.0", iss_required=True)
    come_back(url, iss=server.url + "/72f988bf/v2.0")  # with a made-up code, which was sent
    with pytest.raises(SignInFailed, match="invalid_grant"):
        future.result()


def test_a_missing_issuer_is_accepted_unless_the_server_promises_one(server, signing_in):
    """RFC 9207: people can still sign in to servers that do not support it."""
    url, future, _ = signing_in(iss_required=False)
    come_back(url)  # the code is made up, so the error of the token endpoint shows that it was sent
    with pytest.raises(SignInFailed, match="invalid_grant"):
        future.result()


def test_an_answer_without_a_code_is_refused(signing_in, server):
    """Sign-in: the error names what is missing."""
    url, future, _ = signing_in()
    come_back(url, code=None, iss=server.issuer)
    with pytest.raises(SignInFailed, match="missing_code"):
        future.result()


@pytest.mark.parametrize(
    ("fault", "said", "transient"),
    [
        ({"status": 503}, "503", True),
        ({"drop": "before"}, "no answer", True),
        ({"status": 400, "body": '{"error": "invalid_client"}'}, "invalid_client", False),
        ({"status": 200, "body": "{}"}, "answered 200", False),
        ({"status": 200, "body": '{"id": 1}'}, "no access_token", False),
    ],
)
def test_a_code_that_cannot_be_redeemed_is_reported(server, signing_in, fault, said, transient):
    """Sign-in: whatever the token endpoint does, the code is sent once and the error reported."""
    server.fault("token", times=None, **fault)
    url, future, kept = signing_in()
    assert "Not signed in" in answer(url).text
    with pytest.raises(SignInFailed, match=said) as caught:
        future.result()
    assert caught.value.transient is transient
    assert kept == []
    assert server.counters.exchanges == 1


def test_a_server_that_refuses_the_request_is_quoted(server, signing_in):
    """Sign-in: the message quotes the authorization server, in one printable line."""
    url, future, _ = signing_in()
    come_back(url, code=None, error="invalid_scope", error_description="no such\n scope\x1b[31m")
    with pytest.raises(SignInFailed, match=r"\(invalid_scope: no such scope \[31m\)"):
        future.result()


def test_a_sign_in_without_a_response_times_out(signing_in):
    """P8: a sign-in that nobody completes ends after its timeout."""
    _, future, kept = signing_in(timeout=0.05)
    with pytest.raises(
        SignInFailed, match=r"nobody signed in within 0\.05 s: start the sign-in again$"
    ):
        future.result()
    assert kept == []


def test_the_time_out_names_what_was_ignored(signing_in):
    """Sign-in: with a server that does not return the state, a person learns what came."""
    left, step = [], threading.Event()

    def waiting(seconds):
        left.append(seconds)
        if len(left) == 2:
            step.set()

    url, future, _ = signing_in(timeout=1.0, waiting=waiting)
    come_back(url, state=None)
    with pytest.raises(SignInFailed, match=r"requests to http://127\.0\.0\.1:\d+/callback .*\(1\)"):
        future.result()
    assert step.is_set()
    assert 0 < left[-1] < left[0] <= 1.0


@pytest.mark.parametrize("taken", ["127.0.0.1", "::1"])
def test_localhost_is_both_loopback_addresses(signing_in, taken):
    """RFC 8252 section 8.3: a browser may use either, so another user must hold neither."""
    family = socket.AF_INET6 if ":" in taken else socket.AF_INET
    with socket.create_server((taken, 0), family=family) as other:
        port = other.getsockname()[1]
        url, future, _ = signing_in(redirect_uri=f"http://localhost:{port}/callback")
        assert url is None
        with pytest.raises(SignInFailed, match=f"port {port} of 127.0.0.1 or ::1 is taken"):
            future.result()
    url, future, _ = signing_in(redirect_uri="http://localhost/callback")
    port = urlsplit(dict(parse_qsl(urlsplit(url).query))["redirect_uri"]).port
    for address in ("127.0.0.1", "[::1]"):
        assert requests.get(f"http://{address}:{port}/callback", timeout=10).status_code == 400
    answer(url)
    assert future.result()


def test_a_port_that_is_taken_is_reported(signing_in):
    """Sign-in: the error names the port and what to do, and no URL is shown."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        url, future, _ = signing_in(redirect_uri=f"http://127.0.0.1:{port}/callback")
        assert url is None
        with pytest.raises(SignInFailed, match=f"port {port} of 127.0.0.1 is taken"):
            future.result()


def test_a_given_port_serves_one_sign_in_after_the_other(signing_in):
    """Sign-in: servers that compare redirect URIs exactly get the same URI each time."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for _ in range(2):
        url, future, _ = signing_in(redirect_uri=f"http://localhost:{port}/cb")
        asked = dict(parse_qsl(urlsplit(url).query))
        assert asked["redirect_uri"] == f"http://localhost:{port}/cb"
        answer(url)
        assert isinstance(future.result(), Token)


def test_it_listens_on_ipv6_if_told(signing_in):
    """RFC 8252 section 7.3: the redirect may use either loopback address."""
    url, future, _ = signing_in(redirect_uri="http://[::1]/callback")
    answer(url)
    assert isinstance(future.result(), Token)


@pytest.mark.parametrize(
    "uri",
    [
        "https://127.0.0.1/callback",
        "http://0.0.0.0/callback",
        "http://192.0.2.1/callback",
        "http://evil.example/callback",
        "http://user@127.0.0.1/callback",
        "http://127.0.0.1/callback?x=1",
        "http://127.0.0.1/callback#x",
        "callback",
    ],
)
def test_a_redirect_to_another_machine_is_refused(uri):
    """RFC 8252: the code must be sent only to this machine, and not over the network."""
    with pytest.raises(ValueError, match="not a redirect URI on this machine"):
        LoopbackRedirect(uri, "state")


def test_a_plain_http_authorization_endpoint_is_refused(signing_in):
    """P11: a login page that can be changed on the network path is not opened."""
    url, future, _ = signing_in(endpoint="http://auth.example.com/authorize")
    assert url is None
    with pytest.raises(requests.RequestException, match="use https"):
        future.result()


def test_parameters_are_sent(server, signing_in):
    """Sign-in: parameters such as ``audience`` are added to the authorization request."""
    client = Client(server.token_endpoint, "client", parameters={"audience": "https://a.example"})
    url, future, _ = signing_in(client=client)
    assert dict(parse_qsl(urlsplit(url).query))["audience"] == "https://a.example"
    answer(url)
    future.result()


def test_the_sign_ins_own_parameters_cannot_be_given():
    """RFC 6749 section 10.12: nothing may replace the state, the redirect URI or the challenge."""
    for name in ("state", "redirect_uri", "scope", "code_challenge", "client_id"):
        with pytest.raises(ValueError, match=f"the parameter {name} is set by the sign-in itself"):
            Client("https://auth.example.com/token", "client", parameters={name: "x"})


def test_a_confidential_client_authenticates():
    """RFC 6749 section 4.1.3: with a secret, the code is redeemed with Basic authentication."""
    with AuthorizationServer(client_secret="s:%") as server:
        for secret, good in (("s:%", True), ("wrong", False)):
            client = Client(server.token_endpoint, "client", lambda secret=secret: secret)
            outcome = []

            def show(url, opening):
                threading.Thread(target=answer, args=(url,)).start()

            def go(client=client, outcome=outcome, show=show):
                with_browser(
                    client, server.authorization_endpoint, show, outcome.append, open_browser=False
                )

            if good:
                go()
                assert outcome
            else:
                with pytest.raises(SignInFailed, match="invalid_client"):
                    go()


def test_a_code_works_once_and_only_with_its_verifier(server):
    """RFC 7636: the testing server enforces PKCE, so these tests can fail."""
    code = server.authorizations.new_code("", "ann", "http://127.0.0.1/", "challenge")
    form = {
        "grant_type": "authorization_code",
        "client_id": "client",
        "code": code,
        "redirect_uri": "http://127.0.0.1/",
        "code_verifier": "another",
    }
    response = requests.post(server.token_endpoint, form, timeout=10)
    assert response.json() == {"error": "invalid_grant"}
    assert server.log.of("sign-in-refused")[0].reason == "wrong code_verifier"
