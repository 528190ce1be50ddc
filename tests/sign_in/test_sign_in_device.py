"""Sign-in on another device: the polling rules of RFC 8628."""

from __future__ import annotations

import itertools
import json

import pytest
import requests

from requests_silent_refresh import InsecureTransport
from requests_silent_refresh.sign_in.client import Client, SignInFailed
from requests_silent_refresh.sign_in.device import with_device
from requests_silent_refresh.testing import Answer, AuthorizationServer
from requests_silent_refresh.testing.authorizations import challenge_of

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


class Clock:
    """A clock for client and server that advances only when the client pauses."""

    def __init__(self):
        self.now = 1_700_000_000.0
        self.pauses = []

    def __call__(self):
        return self.now

    def pause(self, seconds):
        assert seconds > 0
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def server(clock):
    with AuthorizationServer(clock=clock) as server:
        yield server


@pytest.fixture
def sign_in(server, clock):
    """Sign in; ``decide`` is called with the code before the first poll."""

    def sign_in(decide=lambda code: None, **options):
        client = Client(server.token_endpoint, "client", scope=("openid", "read"))
        left = []

        def waiting(seconds):
            left.append(seconds)

        sign_in.left = left
        endpoint = options.pop("endpoint", server.device_authorization_endpoint)
        return with_device(
            client, endpoint, decide, waiting, monotonic=clock, pause=clock.pause, **options
        )

    return sign_in


def polls(server):
    answered = [event for event in server.log if event.path == "/token" or event.kind == "sign-in"]
    return [event.wall for event in answered]


def gaps(server):
    times = polls(server)
    return [b - a for a, b in itertools.pairwise(times)]


def test_a_person_who_enters_the_code_is_signed_in(server, sign_in, clock):
    """RFC 8628: a code that is shown here and allowed on another device yields a token."""
    shown = []

    def show(code):
        shown.append(code)
        assert server.authorizations.decide(code.user_code.lower(), "ann")

    began = clock.now
    token = sign_in(show)
    assert token.scope == ("openid", "read")
    (code,) = shown
    assert code.verification_uri == server.url + "/device"
    assert code.user_code in code.verification_uri_complete
    assert polls(server) == [began + 5]


def test_pending_is_polled_at_the_interval_until_it_is_decided(server, sign_in):
    """RFC 8628 section 3.5: polling continues after authorization_pending, at the interval."""
    server.authorizations.device_interval = 7.0

    def show(code):
        def decide(request, answer):
            if len(polls(server)) == 4:
                server.authorizations.decide(code.user_code, "ann")

        server.on("/token", decide)

    assert sign_in(show)
    assert gaps(server) == [7.0] * 4
    errors = [event.error for event in server.log.of("sign-in-refused")]
    assert errors == ["authorization_pending"] * 4


def test_slow_down_adds_five_seconds_each_time(server, sign_in):
    """RFC 8628 section 3.5: each slow_down adds 5 s to the interval for all later polls."""
    for word in ("slow_down", "authorization_pending", "slow_down"):
        server.fault("token", status=400, body=json.dumps({"error": word}))

    def show(code):
        server.authorizations.decide(code.user_code, "ann")

    assert sign_in(show)
    assert gaps(server) == [10.0, 10.0, 15.0]


def test_a_poll_without_an_answer_doubles_the_interval(server, sign_in):
    """RFC 8628 section 3.5: a failing server is polled less and less often, and not given up."""
    server.fault("token", times=3, status=503)

    def show(code):
        server.authorizations.decide(code.user_code, "ann")

    assert sign_in(show)
    assert gaps(server) == [10.0, 20.0, 40.0]


def test_a_denied_consent_is_reported(server, sign_in):
    """RFC 8628: access_denied ends the sign-in with one clear line."""
    with pytest.raises(SignInFailed, match="denied on the other device") as caught:
        sign_in(lambda code: server.authorizations.decide(code.user_code, None))
    assert caught.value.error == "access_denied"


def test_a_code_that_expires_is_reported(server, sign_in, clock):
    """RFC 8628: when the code expires, the polling and the countdown end."""
    server.authorizations.device_code_lifetime = 23.0
    began = clock.now
    with pytest.raises(SignInFailed, match="nobody entered the code before it expired"):
        sign_in()
    assert len(polls(server)) == 4
    assert clock.now == began + 23
    assert sign_in.left[0] == 23.0
    assert sign_in.left == sorted(sign_in.left, reverse=True)
    assert max(clock.pauses) <= 1.0


def test_an_expired_token_error_is_reported_the_same_way(server, sign_in):
    """RFC 8628: expired_token ends the sign-in even if time is left by our clock."""
    server.on("/token", lambda request, real: Answer.json(400, {"error": "expired_token"}))
    with pytest.raises(SignInFailed, match="nobody entered the code before it expired"):
        sign_in()
    assert len(polls(server)) == 1


def test_a_timeout_can_end_the_wait_early(sign_in, clock):
    """P8: ``timeout`` ends the wait before the code expires."""
    began = clock.now
    with pytest.raises(SignInFailed, match="nobody entered"):
        sign_in(timeout=3)
    assert clock.now == began + 3


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({}, "device_code, user_code"),
        ({"device_code": "d", "user_code": "u"}, "verification_uri"),
        (
            {"device_code": "d", "user_code": "u", "verification_uri": "file:///etc/passwd"},
            "verification_uri",
        ),
        ({"error": "invalid_client"}, "invalid_client"),
    ],
)
def test_an_unusable_answer_is_reported(server, sign_in, payload, said):
    """RFC 8628 section 3.2: the error names the missing field."""
    server.on("/device_authorization", lambda request, real: Answer.json(200, payload or {"x": 1}))
    with pytest.raises(SignInFailed, match=said):
        sign_in()


def test_a_servers_text_does_not_control_the_terminal(server, sign_in):
    """Sign-in: control characters in a code or a URL are not printed."""
    payload = {
        "device_code": "d",
        "user_code": "AB\x1b[2JCD",
        "verification_url": "https://auth.example.com/device\x07",
        "expires_in": "1",
        "interval": "x",
    }
    server.on("/device_authorization", lambda request, real: Answer.json(200, payload))
    shown = []
    with pytest.raises(SignInFailed):
        sign_in(shown.append)
    assert shown[0].user_code.isprintable()
    assert shown[0].verification_uri.isprintable()
    assert shown[0].verification_uri_complete is None
    assert shown[0].expires_in == 1.0


def test_a_plain_http_endpoint_is_refused(sign_in):
    """P11: the device code is a secret and is sent only over https or to loopback."""
    with pytest.raises(InsecureTransport):
        sign_in(endpoint="http://auth.example.com/device")


def test_the_page_for_the_code_answers_each_code_once(server):
    """The testing server: allowing, denying, an unknown code, and a code already decided."""
    device = server.authorizations.new_device("")
    page = requests.get(
        server.url + "/device", params={"user_code": device["user_code"]}, timeout=10
    )
    assert device["user_code"] in page.text
    form = {"user_code": device["user_code"], "decision": "allow", "username": "ann"}
    assert requests.post(server.url + "/device", form, timeout=10).status_code == 200
    assert requests.post(server.url + "/device", form, timeout=10).status_code == 400
    wrong = form | {"user_code": "XXXX-XXXX", "decision": "deny"}
    assert requests.post(server.url + "/device", wrong, timeout=10).status_code == 400
    poll = {"grant_type": DEVICE_GRANT, "client_id": "client", "device_code": device["device_code"]}
    assert "access_token" in requests.post(server.token_endpoint, poll, timeout=10).json()
    assert requests.post(server.token_endpoint, poll, timeout=10).status_code == 400


def test_the_challenge_is_that_of_the_rfc():
    """RFC 7636 appendix B: the testing server computes the challenge of the RFC's example."""
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert challenge_of(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_the_testing_server_rejects_invalid_requests(server, clock):
    """The testing server: unknown clients, other grants, and codes that are reused or expired."""

    def get(**fields):
        return requests.get(
            server.authorization_endpoint, fields, timeout=10, allow_redirects=False
        )

    asked = {"client_id": "client", "redirect_uri": "http://127.0.0.1:1/", "state": "s"}
    assert get(**asked | {"client_id": "another"}).status_code == 400
    assert get(**asked | {"redirect_uri": "http://[::1"}).status_code == 400
    assert get(**asked | {"redirect_uri": "https://evil.example"}).status_code == 400
    wrong = get(**asked, response_type="token").headers["Location"]
    assert "error=unsupported_response_type&state=s" in wrong
    without = get(**asked, response_type="code").headers["Location"]
    assert "error=invalid_request" in without
    assert requests.get(server.url + "/device/else", timeout=10).status_code == 404
    assert requests.post(server.url + "/device_authorization", timeout=10).status_code == 400

    def redeem(code, **changes):
        form = {"grant_type": "authorization_code", "client_id": "client", "code": code}
        form |= {"redirect_uri": "http://127.0.0.1/", "code_verifier": "v", **changes}
        return requests.post(server.token_endpoint, form, timeout=10)

    code = server.authorizations.new_code("", "ann", "http://127.0.0.1/", challenge_of("v"))
    assert redeem(code, redirect_uri="http://127.0.0.1/x").status_code == 400
    first = redeem(code).json()
    again = redeem(code)
    assert again.json() == {"error": "invalid_grant"}
    refresh = {"grant_type": "refresh_token", "client_id": "client"}
    refresh["refresh_token"] = first["refresh_token"]
    assert requests.post(server.token_endpoint, refresh, timeout=10).status_code == 400
    late = server.authorizations.new_code("", "ann", "http://127.0.0.1/", challenge_of("v"))
    device = server.authorizations.new_device("")
    clock.now += 10_000
    assert redeem(late).json() == {"error": "invalid_grant"}
    poll = {"grant_type": DEVICE_GRANT, "client_id": "client", "device_code": device["device_code"]}
    assert requests.post(server.token_endpoint, poll, timeout=10).json() == {
        "error": "expired_token"
    }
    fast = server.authorizations.new_device("")
    poll["device_code"] = fast["device_code"]
    errors = [requests.post(server.token_endpoint, poll, timeout=10).json()["error"] for _ in "ab"]
    assert errors == ["authorization_pending", "slow_down"]
