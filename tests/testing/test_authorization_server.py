"""Tests of the testing kit: other tests rely on what this server reports."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import os
import pickle
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from queue_kit import Clock, until

from requests_silent_refresh.testing import Answer, AuthorizationServer, EventLog, Gate, Request


@pytest.fixture
def clock() -> Clock:
    return Clock(1_800_000_000.0)


@pytest.fixture
def server(clock: Clock) -> Iterator[AuthorizationServer]:
    with AuthorizationServer(clock=clock) as server:
        yield server


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def exchange(server: AuthorizationServer, refresh_token: str, **form: str) -> requests.Response:
    fields = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": "client"}
    with requests.Session() as session:
        session.trust_env = False
        return session.post(server.token_endpoint, data=fields | form, timeout=10)


def get(server: AuthorizationServer, access_token: str, path: str = "") -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": f"Bearer {access_token}"}
        return session.get(server.resource + path, headers=headers, timeout=10)


def connect(server: AuthorizationServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), 10)


def in_threads(count: int, work: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(work) for _ in range(count)]]


# Rotation, reuse, grace


def test_an_exchange_spends_the_refresh_token_and_issues_another(server):
    """Rotation: each exchange issues a new access token and a new refresh token."""
    first = server.sign_in("read write")
    second = exchange(server, first["refresh_token"]).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert second["access_token"] != first["access_token"]
    assert (second["token_type"], second["expires_in"]) == ("Bearer", 3600)
    assert second["scope"] == "read write"
    assert get(server, second["access_token"]).status_code == 200
    assert get(server, first["access_token"]).status_code == 200  # rotation does not revoke it


def test_a_second_use_of_a_spent_refresh_token_revokes_the_family(server):
    """Reuse detection: both refresh tokens are refused afterwards; the log has one reuse."""
    first = server.sign_in()
    second = exchange(server, first["refresh_token"]).json()
    other = server.sign_in()
    for refresh_token in (first["refresh_token"], second["refresh_token"]):
        answer = exchange(server, refresh_token)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert get(server, second["access_token"]).status_code == 401
    assert get(server, other["access_token"]).status_code == 200
    assert server.counters.reuse_detections == 1
    assert [e.reason for e in server.log.of("exchange")] == [None, "reuse", "revoked"]


def test_of_many_simultaneous_exchanges_with_one_token_one_is_granted(server):
    """P1 can be tested here: of simultaneous uses only one succeeds, and the log shows all."""
    token = server.sign_in()
    statuses = Counter(
        r.status_code for r in in_threads(16, lambda: exchange(server, token["refresh_token"]))
    )
    assert statuses == {200: 1, 400: 15}
    assert server.counters.reuse_detections == 1
    assert {e.refresh for e in server.log.of("exchange")} == {1}


def test_inside_the_grace_window_the_preceding_token_gets_the_same_successor(server, clock):
    """Grace: a repeated exchange is not reuse and gets the refresh token of the first."""
    server.grace = 5.0
    first = server.sign_in()
    answers = [exchange(server, first["refresh_token"]).json() for _ in range(3)]
    assert len({a["refresh_token"] for a in answers}) == 1
    assert len({a["access_token"] for a in answers}) == 3
    assert [e.grace for e in server.log.of("exchange")] == [False, True, True]
    clock.now += 5.0
    assert exchange(server, first["refresh_token"]).status_code == 400
    assert server.counters.reuse_detections == 1


def test_grace_covers_the_immediately_preceding_token_only(server):
    """Grace: a spent token is reuse once its successor was also spent."""
    server.grace = 5.0
    first = server.sign_in()
    second = exchange(server, first["refresh_token"]).json()
    exchange(server, second["refresh_token"])
    assert exchange(server, first["refresh_token"]).status_code == 400
    assert server.counters.reuse_detections == 1


def test_without_rotation_the_refresh_token_stays(server):
    """rotate=False: the answer has no refresh token, and the old one can be used again."""
    server.rotate = False
    token = server.sign_in()
    for _ in range(2):
        assert "refresh_token" not in exchange(server, token["refresh_token"]).json()
    assert (server.counters.granted, server.counters.reuse_detections) == (2, 0)


def test_rotation_can_end_the_old_access_token(server):
    """The premise of P15: some servers revoke the old access token at rotation."""
    server.rotation_ends_access_token = True
    first = server.sign_in()
    second = exchange(server, first["refresh_token"]).json()
    assert get(server, first["access_token"]).status_code == 401
    assert get(server, second["access_token"]).status_code == 200


def test_a_refresh_may_narrow_its_scope_and_not_widen_it(server):
    """RFC 6749 section 6: an ungranted scope gets invalid_scope and spends no token."""
    token = server.sign_in("read write")
    assert exchange(server, token["refresh_token"], scope="admin").json() == {
        "error": "invalid_scope"
    }
    assert exchange(server, token["refresh_token"], scope="read").json()["scope"] == "read"


# Lifetime and revocation


def test_an_access_token_expires_by_the_servers_clock(server, clock):
    """Expiry: a token is accepted during its lifetime and gets 401 invalid_token after it."""
    token = server.sign_in_token()
    assert token.expires_at == clock.now + 3600
    access_token = token.access_token.reveal()
    assert get(server, access_token).status_code == 200
    clock.now += 3600
    answer = get(server, access_token)
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    assert server.log[-1].reason == "expired"


def test_without_a_token_the_challenge_names_no_error(server, session):
    """RFC 6750 section 3: the challenge has no error code if no token was sent."""
    assert session.get(server.resource).headers["WWW-Authenticate"] == 'Bearer realm="resource"'
    assert get(server, "no-such-token").headers["WWW-Authenticate"].count("error=") == 1
    assert [e.reason for e in server.log] == ["missing", "unknown"]


def test_fractional_and_unannounced_lifetimes(server):
    """expires_in may be a fraction, and is absent with announce_lifetime=False."""
    server.access_token_lifetime = 0.5
    assert server.sign_in()["expires_in"] == 0.5
    server.announce_lifetime = False
    assert "expires_in" not in server.sign_in()


def test_early_revocation_rejects_all_access_tokens_issued_so_far(server):
    """Early revocation: old access tokens are rejected; refresh tokens and later ones work."""
    token = server.sign_in()
    server.revoke_access_tokens()
    assert get(server, token["access_token"]).status_code == 401
    fresh = exchange(server, token["refresh_token"]).json()
    assert get(server, fresh["access_token"]).status_code == 200
    assert server.counters.early_revocations == 1


def test_a_forbidden_path_answers_401_to_a_good_token_until_allowed(server):
    """forbid(): a path rejects every token until allow(); other paths are unaffected."""
    access_token = server.sign_in()["access_token"]
    server.forbid("/resource/broken")
    assert get(server, access_token, "/broken").status_code == 401
    assert get(server, access_token).status_code == 200
    server.allow("/resource/broken")
    assert get(server, access_token, "/broken").status_code == 200


def test_rfc_7009_revocation(server, session):
    """RFC 7009: an access token is revoked alone, a refresh token with its family.

    An unknown token gets 200.
    """

    def revoke(token: str, **form: str) -> int:
        fields = {"token": token, "client_id": "client"} | form
        return session.post(server.revocation_endpoint, data=fields).status_code

    first = server.sign_in()
    second = exchange(server, first["refresh_token"]).json()
    assert revoke(first["access_token"]) == 200
    assert get(server, first["access_token"]).status_code == 401
    assert get(server, second["access_token"]).status_code == 200
    assert revoke(second["refresh_token"]) == 200
    assert get(server, second["access_token"]).status_code == 401
    assert exchange(server, second["refresh_token"]).json() == {"error": "invalid_grant"}
    assert revoke("unknown") == 200
    assert revoke("") == 400
    assert revoke("x", client_id="another client") == 401
    assert server.counters.revocations == 3


# The token endpoint


@pytest.fixture
def confidential() -> Iterator[AuthorizationServer]:
    with AuthorizationServer(client_id="a b", client_secret="s:/ü+%") as server:
        yield server


def basic(client_id: str, client_secret: str) -> dict[str, str]:
    return {
        "Authorization": "Basic "
        + base64.b64encode(f"{client_id}:{client_secret}".encode()).decode()
    }


@pytest.mark.parametrize(
    ("headers", "form", "status"),
    [
        (basic("a+b", "s%3A%2F%C3%BC%2B%25"), {}, 200),
        ({}, {"client_id": "a b", "client_secret": "s:/ü+%"}, 200),
        (basic("a b", "s:/ü+%"), {}, 401),  # not form-encoded: + stands for a space
        (basic("a+b", "wrong"), {}, 401),
        ({}, {"client_id": "a b"}, 401),
        ({}, {"client_id": "other", "client_secret": "s:/ü+%"}, 401),
        ({"Authorization": "Basic ???"}, {}, 401),
        ({"Authorization": "Bearer abc"}, {}, 401),
        (basic("a+b", "s%3A%2F%C3%BC%2B%25"), {"client_id": "a b", "client_secret": "s"}, 400),
    ],
)
def test_client_authentication(confidential, session, headers, form, status):
    """RFC 6749 section 2.3.1: Basic is form-encoded; two methods at once get invalid_request."""
    fields = {"grant_type": "client_credentials", "scope": "read"} | form
    answer = session.post(confidential.token_endpoint, data=fields, headers=headers)
    assert answer.status_code == status
    if status == 200:
        assert "refresh_token" not in answer.json()
        assert get(confidential, answer.json()["access_token"]).status_code == 200
    elif status == 401:
        assert answer.json() == {"error": "invalid_client"}
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
    else:
        assert answer.json() == {"error": "invalid_request"}
    assert confidential.log.of("exchange")[0].status == status


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({}, "invalid_request"),
        ({"grant_type": "refresh_token"}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "client_credentials"}, "unauthorized_client"),
        ({"grant_type": ["refresh_token"] * 2, "refresh_token": "x"}, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": "unknown"}, "invalid_grant"),
    ],
)
def test_errors_of_the_token_endpoint(server, session, form, error):
    """RFC 6749 section 5.2: each mistake gets its error code, and each attempt is recorded."""
    answer = session.post(server.token_endpoint, data={"client_id": "client"} | form)
    assert (answer.status_code, answer.json()) == (400, {"error": error})
    assert answer.headers["Cache-Control"] == "no-store"
    assert server.counters.refused == 1


def test_the_token_endpoint_requires_a_posted_form(server, session):
    """RFC 6749 section 3.2: only a POSTed form is accepted; anything else spends no token."""
    fields = {
        "grant_type": "refresh_token",
        "refresh_token": server.sign_in()["refresh_token"],
        "client_id": "client",
    }
    assert session.get(server.token_endpoint, params=fields).status_code == 400
    assert session.post(server.token_endpoint, json=fields).status_code == 400
    assert session.post(server.token_endpoint, data=fields).status_code == 200


def test_json_dialects(server, session, clock):
    """JSON endpoints: flat camelCase, nested, and four forms of lifetime, for the same families."""
    token = server.sign_in()["refresh_token"]
    flat = session.post(server.json_endpoint, json={"token": token}).json()
    assert set(flat) == {"accessToken", "refreshToken", "expiresIn"}
    token = flat["refreshToken"]
    expected = {
        "": 3600,
        "?expires=ms": 3_600_000,
        "?expires=unix": clock.now + 3600,
        "?expires=iso": "2027-01-15T09:00:00+00:00",
    }
    for query, expires in expected.items():
        url = f"{server.json_endpoint}/nested{query}"
        nested = session.post(url, json={"refresh_token": token}).json()["data"]
        assert nested["expires"] == expires
        token = nested["refresh_token"]
    assert get(server, nested["access_token"]).status_code == 200
    server.announce_lifetime = False
    nested = session.post(server.json_endpoint + "/nested", json={"refresh_token": token}).json()
    assert "expires" not in nested["data"]
    assert session.post(server.json_endpoint, json={"token": token}).status_code == 401
    assert server.counters.reuse_detections == 1
    for body in (b"no json", b"[]", b"{}"):
        assert session.post(server.json_endpoint, data=body).status_code == 400
    assert [e.status for e in server.log.of("exchange")][-4:] == [401, 400, 400, 400]


# Resources


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
def test_a_resource_describes_the_request(server, session, method):
    """A resource returns method, path, query, body and headers as received, but no token."""
    token = server.sign_in()
    body = os.urandom(100_000)
    answer = session.request(
        method,
        server.resource + "/a?b=c",
        data=iter([body[:1], body[1:]]),  # chunked
        headers={"Authorization": f"Bearer {token['access_token']}", "X-Twice": "1, 2"},
    )
    echo = answer.json()
    assert (echo["method"], echo["path"], echo["query"]) == (method, "/resource/a", {"b": ["c"]})
    assert echo["body_length"] == len(body)
    assert echo["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert echo["headers"]["x-twice"] == "1, 2"
    assert echo["headers"]["transfer-encoding"] == "chunked"
    assert echo["access_token_serial"] == 1
    assert token["access_token"] not in answer.text


def test_a_long_body_is_hashed_whole_and_kept_in_part(server, session):
    """The hash and length describe the whole body; only one MiB is kept."""
    seen: list[Request] = []
    server.on("/open/upload", lambda request, answer: seen.append(request))
    body = b"x" * (3 << 20)
    echo = session.put(server.url + "/open/upload", data=body).json()
    assert echo["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert (len(seen[0].body), seen[0].body_length) == (1 << 20, 3 << 20)


def test_head_open_and_unknown_paths(server, session):
    """HEAD has no body; /open needs no token, and the log shows if one was sent."""
    answer = session.head(server.url + "/open")
    assert (answer.status_code, answer.content) == (200, b"")
    session.get(server.url + "/open", headers={"Authorization": "Bearer astray"})
    assert [e.reason for e in server.log.of("open")] == [None, "authorization sent"]
    assert session.get(server.url + "/elsewhere").status_code == 404


def test_a_handler_changes_the_answers_of_its_path(server, session):
    """on(): a handler changes the 401 and the 200 of a path, and of the token endpoint."""

    def handler(request: Request, answer: Answer) -> Answer | None:
        if answer.status != 401:
            return None
        body = gzip.compress(b"x" * 10_000)
        return answer.but(
            headers=[("Content-Encoding", "gzip"), ("Set-Cookie", "seen=1; Path=/")], body=body
        )

    server.on("/resource/x", handler)
    answer = session.get(server.resource + "/x")
    assert (answer.status_code, len(answer.content)) == (401, 10_000)
    assert session.cookies["seen"] == "1"
    token = server.sign_in()
    assert get(server, token["access_token"], "/x").status_code == 200
    server.on("/resource/x", None)
    assert "Set-Cookie" not in session.get(server.resource + "/x").headers
    server.on("/token", lambda r, a: a.but(payload=a.payload | {"expires_in": "60"}))
    assert exchange(server, token["refresh_token"]).json()["expires_in"] == "60"


def test_a_handler_that_raises_gives_500_and_an_event(server, session):
    """on(): an exception in a handler gives 500 and an event; the client does not hang."""
    server.on("/open", lambda request, answer: 1 / 0)  # type: ignore[return-value]
    assert session.get(server.url + "/open").status_code == 500
    assert server.log.of("error")[0].reason == "ZeroDivisionError: division by zero"


# Gates


def test_a_gate_opens_when_all_are_in_flight_and_runs_then_first(server):
    """gate(): all 32 requests see the effect of ``then``, though they carried a valid token."""
    token = server.sign_in()
    gate = server.gate(32, server.revoke_access_tokens)
    statuses = in_threads(32, lambda: get(server, token["access_token"]).status_code)
    gate.wait()
    assert statuses == [401] * 32
    assert server.log.rejections() == {1: 32}
    assert get(server, token["access_token"]).status_code == 401  # not held: the gate is open
    gate.rearm(2, lambda: server.forbid("/resource"))
    assert gate.held == 0
    fresh = exchange(server, token["refresh_token"]).json()["access_token"]
    assert in_threads(2, lambda: get(server, fresh).status_code) == [401] * 2
    assert len(server.log.of("gate-opened")) == 2


def test_a_gate_that_does_not_fill_fails_loudly(server):
    """gate(): after its timeout it opens, and both the log and wait() report it."""
    gate = server.gate(2, timeout=0.05)
    assert get(server, "x").status_code == 401
    with pytest.raises(TimeoutError, match="1 of 2"):
        gate.wait()
    assert server.log.of("gate-timeout")
    gate.rearm()
    with pytest.raises(RuntimeError, match="already armed"):
        gate.rearm()
    with pytest.raises(TimeoutError, match="0 of 2"):
        gate.wait(0)


def test_a_gate_armed_again_at_once_strands_no_request():
    """gate(): requests held in one round continue even if the next begins before they wake."""
    gate = Gate(EventLog(time.time), 9, None, timeout=30)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            held = [pool.submit(gate.pass_through) for _ in range(8)]
            until(lambda: gate.held == 8)
            gate.release()
            gate.rearm()
            assert not wait(held, timeout=10).not_done
    assert gate.is_open is False


def test_a_gate_opens_even_if_then_raises(server):
    """gate(): if ``then`` raises, one request gets 500 and the others continue."""
    server.gate(3, lambda: 1 / 0)
    statuses = Counter(in_threads(3, lambda: get(server, "x").status_code))
    assert statuses == {401: 2, 500: 1}


@pytest.mark.parametrize("processed", [False, True])
def test_a_token_gate_holds_an_exchange_before_or_after_processing(server, processed):
    """token_gate(): a test sees that an exchange is under way and decides when it continues."""
    token = server.sign_in()
    with ThreadPoolExecutor(1) as pool, server.token_gate(processed=processed) as gate:
        assert not gate.arrived.is_set()
        answer = pool.submit(exchange, server, token["refresh_token"])
        assert gate.arrived.wait(10)
        assert gate.held == 1
        assert server.counters.granted == int(processed)
        assert not answer.done()
        gate.release()
        assert answer.result().status_code == 200
    assert exchange(server, answer.result().json()["refresh_token"]).status_code == 200


def test_a_token_gate_that_is_never_released_fails_loudly(server):
    """token_gate(): after its timeout the exchange continues, and the log reports it."""
    server.token_gate(timeout=0.01)
    assert exchange(server, server.sign_in()["refresh_token"]).status_code == 200
    assert server.log.of("gate-timeout", path="/token")


# Faults


def test_a_status_fault_processes_nothing(server):
    """fault(status=): the given number of answers, no token spent, every attempt counted."""
    token = server.sign_in()
    server.fault("token", status=503, headers={"Retry-After": "7"}, times=2, body="later")
    for _ in range(2):
        answer = exchange(server, token["refresh_token"])
        assert (answer.status_code, answer.text) == (503, "later")
        assert answer.headers["Retry-After"] == "7"
    assert exchange(server, token["refresh_token"]).status_code == 200
    assert (server.counters.exchanges, server.counters.faulted) == (3, 2)
    assert [(e.refresh, e.outcome, e.fault) for e in server.log.of("exchange")] == [
        (1, "faulted", "status 503"),
        (1, "faulted", "status 503"),
        (1, "granted", None),
    ]


def test_a_fault_lasts_until_cleared_and_keeps_to_its_path(server):
    """fault(times=None, path=): other paths and targets are unaffected; clear_faults ends it."""
    access_token = server.sign_in()["access_token"]
    server.fault("resource", path="/resource/bad", status=502, times=None)
    for _ in range(3):
        assert get(server, access_token, "/bad").status_code == 502
    assert get(server, access_token).status_code == 200
    server.clear_faults()
    assert get(server, access_token, "/bad").status_code == 200


@pytest.mark.parametrize(("drop", "granted"), [("before", 0), ("after", 1)])
def test_a_dropped_exchange_is_spent_or_not(server, drop, granted):
    """fault(drop=): the connection closes; the token is rotated only with "after"."""
    token = server.sign_in()
    server.fault("token", drop=drop)
    with pytest.raises(requests.ConnectionError):
        exchange(server, token["refresh_token"])
    assert server.counters.granted == granted
    assert server.log.of("exchange")[0].fault == f"drop {drop}"
    assert exchange(server, token["refresh_token"]).status_code == (400 if granted else 200)


def test_a_processed_fault_has_rotated(server):
    """fault(processed=True): like a proxy's 502 instead of the granted answer."""
    token = server.sign_in()
    server.fault("token", status=502, processed=True)
    assert exchange(server, token["refresh_token"]).status_code == 502
    assert server.counters.granted == 1
    assert exchange(server, token["refresh_token"]).status_code == 400


def test_garbage_redirect_and_raw_faults(server, session):
    """fault(garbage=, redirect=, raw=): a page, a redirect, and bytes that are not HTTP."""
    token = server.sign_in()
    server.fault("token", garbage=True)
    answer = exchange(server, token["refresh_token"])
    assert answer.headers["Content-Type"] == "text/html"
    server.fault("resource", redirect=server.url + "/open")
    assert session.get(server.resource).json()["path"] == "/open"
    server.fault("resource", redirect="/open", status=307)
    assert session.get(server.resource, allow_redirects=False).status_code == 307
    server.fault("json", raw=b"220 smtp.example.com ESMTP\r\n")
    with pytest.raises(requests.ConnectionError):
        session.post(server.json_endpoint, json={"token": token["refresh_token"]})
    assert [e.fault for e in server.log.of("exchange")] == ["garbage", "raw"]


def test_a_huge_answer_never_ends(server, session):
    """fault(huge=True): the body goes on until the client disconnects."""
    server.fault("resource", huge=True)
    with session.get(server.resource, stream=True) as answer:
        assert len(answer.raw.read(2_000_000)) == 2_000_000
    session.close()
    assert server.wait_for(lambda: server.connections == 0)


@pytest.mark.parametrize("where", ["trickle", "trickle_head"])
def test_a_trickling_answer_is_slow(server, where):
    """fault(trickle=): the body, or also the head, of the real answer is sent slowly."""
    token = server.sign_in()
    server.fault("token", **{where: 2_000})
    started = time.monotonic()
    answer = exchange(server, token["refresh_token"])
    assert time.monotonic() - started > 0.05 - 0.01
    assert answer.json()["access_token"]
    server.fault("resource", **{where: 0.001})
    # requests raises ConnectionError if the read of a body times out.
    with pytest.raises((requests.Timeout, requests.ConnectionError)):
        requests.get(server.resource, timeout=0.05)
    assert server.log[-1].fault == "trickle"


def test_a_delayed_answer_is_processed_first(server):
    """fault(delay=): the token is rotated before the delay, so a client that gives up loses it."""
    token = server.sign_in()
    server.fault("token", delay=30)
    with pytest.raises(requests.Timeout):
        requests.post(
            server.token_endpoint,
            data={
                "grant_type": "refresh_token",
                "refresh_token": token["refresh_token"],
                "client_id": "client",
            },
            timeout=0.05,
        )
    assert server.wait_for(lambda: server.counters.granted == 1)


def test_an_unknown_fault_is_a_valueerror(server):
    """fault(): a misspelt target or drop raises at once."""
    with pytest.raises(ValueError, match="token, json, revoke, resource"):
        server.fault("tokens", status=503)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="before"):
        server.fault("token", drop="midway")  # type: ignore[arg-type]


def test_an_answer_may_end_early_or_have_no_body(server, session):
    """Answer(close=) with too large a Content-Length truncates the body; 204 has none."""
    server.on(
        "/open",
        lambda r, a: Answer(200, {"Content-Length": "100"}, b"short", close=True),
    )
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        session.get(server.url + "/open")
    server.on("/open", lambda r, a: Answer(204))
    assert session.get(server.url + "/open").status_code == 204


# The log


def test_the_log_finds_unneeded_exchanges(server, clock):
    """The measure for P1: an exchange is needless if its token was neither rejected nor due."""
    token = server.sign_in()
    token = exchange(server, token["refresh_token"]).json()
    assert [e.refresh for e in server.log.unneeded_exchanges()] == [1]
    server.revoke_access_tokens()
    get(server, token["access_token"])
    token = exchange(server, token["refresh_token"]).json()  # rejected
    clock.now += 3599
    token = exchange(server, token["refresh_token"]).json()  # a second before its end
    assert [e.refresh for e in server.log.unneeded_exchanges()] == [1, 3]
    assert [e.refresh for e in server.log.unneeded_exchanges(leeway=1)] == [1]
    clock.now += 3600
    exchange(server, token["refresh_token"])  # expired
    assert len(server.log.unneeded_exchanges()) == 2


def test_the_log_finds_overlapping_exchanges(server):
    """The measure for P1: only simultaneous exchanges with one refresh token are reported."""
    token = server.sign_in()["refresh_token"]
    exchange(server, token)
    exchange(server, token)
    assert server.log.overlapping_exchanges() == []
    with ThreadPoolExecutor(2) as pool, server.token_gate() as gate:
        pool.submit(exchange, server, token)
        pool.submit(exchange, server, token)
        server.wait_for(lambda: gate.held == 2)
        gate.release()
    ((first, second),) = server.log.overlapping_exchanges()
    assert first.refresh == second.refresh == 1


def test_wait_for_is_woken_by_events_and_gives_up_loudly(server):
    """wait_for(): wakes on events, and a timeout shows the counters."""
    token = server.sign_in()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.wait_for, lambda: server.counters.rejected == 2, 10)
        get(server, "x")
        assert not waiting.done()
        get(server, "x")
        assert waiting.result() is True
    with pytest.raises(TimeoutError, match="rejected=2"):
        server.wait_for(lambda: False, timeout=0.01)
    assert token["access_token"]


def test_no_token_in_any_repr(server, session):
    """P12: the reprs of events, log, counters, requests and answers show no token."""
    seen: list[object] = []
    server.on("/resource", lambda request, answer: seen.extend([request, answer]))
    server.on("/token", lambda request, answer: seen.extend([request, answer]))
    token = server.sign_in("read")
    session.get(server.resource, params={"access_token": token["access_token"]})
    get(server, token["access_token"])
    fresh = exchange(server, token["refresh_token"]).json()
    printed = repr([seen, list(server.log), server.log, server.counters, server])
    assert "exchange" in printed
    assert "<Request POST /token>" in printed
    for secret in (token, fresh):
        assert secret["access_token"] not in printed
        assert secret["refresh_token"] not in printed
    assert server.log[0] == server.log[:1][0]
    assert len(server.log) == 4


# Starting, stopping, crowds, forks


def test_256_connections_at_once(server, session):
    """256 clients connect before the first is answered."""
    clients = [connect(server) for _ in range(256)]
    gate = server.gate(256)
    for client in clients:
        client.sendall(b"GET /resource HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    gate.wait(20)
    for client in clients:
        with client, client.makefile("rb") as file:
            assert file.readline() == b"HTTP/1.1 401 Unauthorized\r\n"
    assert server.wait_for(lambda: server.connections == 0)


def test_out_of_descriptors_it_continues_later(server):
    """Without free descriptors clients wait, and are served once there are some again."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fill: list[int] = []
    with socket.socket() as client:
        resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 16, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    fill.append(os.dup(client.fileno()))
            client.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
            client.sendall(b"GET /open HTTP/1.1\r\nHost: x\r\n\r\n")
            assert server.connections == 0
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in fill:
                os.close(descriptor)
        assert client.recv(12) == b"HTTP/1.1 200"


def test_out_of_threads_it_closes_the_connection(server):
    """If no thread can start, that client is disconnected; the next one is served."""
    before = threading.stack_size(1 << 46)  # more than the machine can address
    try:
        with connect(server) as client:
            assert client.recv(1) == b""
    finally:
        threading.stack_size(before)
    assert requests.get(server.url + "/open").status_code == 200


def test_connections_are_kept_alive(server, session):
    """HTTP/1.1: one client's requests share one connection."""
    for _ in range(5):
        session.post(server.resource, data=b"x" * 1000)
    assert server.connections == 1


def test_stop_is_prompt_even_if_requests_hang(session):
    """stop(): ends a trickle, a delay, a gate, a held exchange and an idle connection at once."""
    server = AuthorizationServer(latency=0.0).start()
    token = server.sign_in()
    session.get(server.url + "/open")
    server.fault("resource", path="/resource/a", trickle_head=0.001)
    server.fault("resource", path="/resource/b", delay=1000)
    server.token_gate()
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(get, server, "x", path) for path in ("/a", "/b")]
        server.wait_for(lambda: server.counters.rejected == 2)
        server.gate(2)
        futures += [pool.submit(get, server, "x")]
        futures += [pool.submit(exchange, server, token["refresh_token"])]
        server.wait_for(lambda: server.log.of("token-held"))
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 1
        for future in futures:
            with pytest.raises(requests.ConnectionError):
                future.result()
    assert server.counters.granted == 0  # as in a crash, the held exchange was not processed
    assert not [t for t in threading.enumerate() if t.name == "authorization-server"]
    server.stop()  # a second stop does nothing


def test_stop_leaves_a_hanging_handler_behind():
    """stop(): a handler that does not return delays it by a second at most."""
    release, entered = threading.Event(), threading.Event()

    def hang(request: Request, answer: Answer) -> None:
        entered.set()
        release.wait(60)

    with AuthorizationServer() as server:
        server.on("/open", hang)
        client = connect(server)
        client.sendall(b"GET /open HTTP/1.1\r\nHost: x\r\n\r\n")
        assert entered.wait(10)
        started = time.monotonic()
    assert time.monotonic() - started < 2
    release.set()
    client.close()


def test_a_server_started_again_continues(server):
    """An outage: connections are refused; after start() the port and the tokens are the same."""
    token = server.sign_in()
    url = server.url
    server.stop()
    with pytest.raises(requests.ConnectionError):
        get(server, token["access_token"])
    server.start()
    assert server.url == url
    assert get(server, token["access_token"]).status_code == 200
    assert exchange(server, token["refresh_token"]).status_code == 200


def test_it_has_no_address_before_start():
    """url: before start() the error says to call it."""
    with pytest.raises(RuntimeError, match="before start"):
        AuthorizationServer().url


def test_latency_applies_to_the_token_endpoint(server):
    """latency=: an exchange takes at least that long; a resource is not delayed."""
    server.latency = 0.05
    started = time.monotonic()
    exchange(server, server.sign_in()["refresh_token"])
    assert time.monotonic() - started >= 0.05
    server.latency = 3600.0
    assert get(server, "x").status_code == 401


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET " + b"x" * 70_000,
        b"POST /open HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc",
        b"POST /open HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /open HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /open HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"POST /open HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5",
        b"GET http://[ HTTP/1.1\r\n\r\n",
    ],
)
def test_junk_and_dropped_connections_write_nothing_to_stderr(server, capfd, junk):
    """Malformed requests and early disconnects are closed without output to stderr."""
    with connect(server) as client:
        client.sendall(junk)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass
    assert server.wait_for(lambda: server.connections == 0)
    assert requests.get(server.url + "/open").status_code == 200
    assert capfd.readouterr() == ("", "")


def test_a_proxied_request_line_finds_its_path(server):
    """Absolute form: a request sent as to a proxy is answered by its path."""
    with connect(server) as client:
        client.sendall(
            b"GET http://other.example/open/x?y=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
            b"X-A: 1\r\nX-A: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    echo = json.loads(answer.rpartition(b"\r\n\r\n")[2])
    assert (echo["path"], echo["headers"]["x-a"]) == ("/open/x", "1, 2")


def test_tls(capfd):
    """tls=: https with a real handshake; an idle or plain HTTP client does not block it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with (
        AuthorizationServer(tls=context) as server,
        authority.cert_pem.tempfile() as bundle,
        requests.Session() as session,
    ):
        session.trust_env = False  # the environment may name another bundle
        session.verify = bundle
        assert server.url.startswith("https://")
        with connect(server) as idle:
            assert session.get(server.url + "/open").status_code == 200
            idle.sendall(b"GET / HTTP/1.0\r\n\r\n")
            idle.recv(100)
        assert session.get(server.url + "/open").status_code == 200
    assert capfd.readouterr() == ("", "")


def test_a_forked_child_keeps_neither_port_nor_connections(server):
    """Fork: the child's copy is stopped; the parent's continues, and its stop closes everything."""
    access_token = server.sign_in()["access_token"]
    assert get(server, access_token).status_code == 200
    client = connect(server)
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert server.connections == 0
            server.sign_in()  # the locks were replaced
            server.stop()
            server.stop()
            os.write(tell, b"!")
            signal.pause()
            code = 0
        finally:
            os._exit(code)
    try:
        assert os.read(ready, 1) == b"!"
        assert get(server, access_token).status_code == 200
        url = server.url
        server.stop()
        assert client.recv(1) == b""
        with pytest.raises(requests.ConnectionError):
            requests.get(url, timeout=5)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for descriptor in (ready, tell):
            os.close(descriptor)
        client.close()


# The database


def test_a_database_lets_another_server_continue(tmp_path, clock):
    """database=: tokens, spent tokens and revocations are kept, so reuse is still detected."""
    path = tmp_path / "server.json"
    settings: dict[str, Any] = {
        "database": path,
        "clock": clock,
        "grace": 60,
        "client_secret": "secret",
    }
    with AuthorizationServer(**settings) as server:
        first = server.sign_in("read")
        second = exchange(server, first["refresh_token"], client_secret="secret").json()
        dead = server.sign_in()
        # The only access token without a refresh token:
        single = requests.post(
            server.token_endpoint,
            data={"grant_type": "client_credentials"},
            auth=("client", "secret"),
        ).json()
        requests.post(
            server.revocation_endpoint,
            data={"token": dead["refresh_token"]},
            auth=("client", "secret"),
        )
    text = path.read_text()
    for token in (first, second, dead):
        assert token["access_token"] not in text
        assert token["refresh_token"] not in text
    assert hashlib.sha256(dead["access_token"].encode()).hexdigest() not in text
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600
    with AuthorizationServer(**settings) as server:
        assert get(server, second["access_token"]).status_code == 200
        assert get(server, single["access_token"]).status_code == 200
        assert get(server, dead["access_token"]).status_code == 401
        third = exchange(server, second["refresh_token"], client_secret="secret").json()
        assert third["scope"] == "read"
        assert server.log.of("exchange")[0].refresh == 2
        assert server.sign_in()["access_token"]
        assert exchange(server, first["refresh_token"], client_secret="secret").status_code == 400
        assert server.counters.reuse_detections == 1
        assert exchange(server, third["refresh_token"], client_secret="secret").status_code == 400


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"serials": [1]}', "{", "\N{SNOWMAN}"])
def test_a_database_that_is_something_else_is_left_alone(tmp_path, text):
    """database=: another kind of file raises a ValueError that names it, and is not changed."""
    path = tmp_path / "server.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"server\.json is not an AuthorizationServer file"):
        AuthorizationServer(database=path)
    assert path.read_text(encoding="utf-8") == text


# Imports


def test_the_kit_is_loaded_when_it_is_used():
    """Importing the plugin loads neither the server nor http.server."""
    code = (
        "import sys, pytest\n"
        "had = set(sys.modules)\n"
        "import requests_silent_refresh.testing.plugin as plugin\n"
        "new = {m for m in sys.modules if m not in had}\n"
        "assert not {m for m in new if m.startswith(('http.server', 'requests.'))}, new\n"
        "import requests_silent_refresh.testing as testing\n"
        "assert 'requests_silent_refresh.testing.server' not in sys.modules\n"
        "assert 'AuthorizationServer' in dir(testing)\n"
        "assert testing.AuthorizationServer.__module__.endswith('.server')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_an_unknown_name_is_an_attributeerror():
    """A misspelt name raises AttributeError, as in any module."""
    from requests_silent_refresh import testing

    with pytest.raises(AttributeError, match="AuthorisationServer"):
        testing.AuthorisationServer


def test_a_server_is_not_pickled(server):
    """P12: pickling a server, which holds tokens, locks and sockets, raises TypeError."""
    with pytest.raises(TypeError):
        pickle.dumps(server)
