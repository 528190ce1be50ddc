"""Requests that broke other projects. Each test is named after the failure."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import os
import pickle
import threading

import pytest
import requests
from wire import Recorder, at_once, bearer_of, manager_of, session_of

from requests_silent_refresh import EncryptedFileStore, SilentRefreshAdapter

PAYLOAD = os.urandom(200_000)


def test_an_upload_was_replayed_empty_and_answered_200(server, session, tmp_path):
    """P13 (google-auth): the file arrives whole the second time."""
    (tmp_path / "payload").write_bytes(PAYLOAD)
    server.revoke_access_tokens()
    with open(tmp_path / "payload", "rb") as body:
        answer = session.put(server.resource, data=body).json()
    assert answer["body_sha256"] == hashlib.sha256(PAYLOAD).hexdigest()
    assert server.counters.rejected == 1


def test_a_multipart_body_was_consumed(server, session):
    """P13 (fresh #52, dio #482): ``files=`` is sent twice with the same bytes."""
    arrived = []
    server.on("/resource", lambda r, a: arrived.append((r.body_sha256, r.body_length)))
    server.revoke_access_tokens()
    session.post(server.resource, files={"f": ("name", io.BytesIO(PAYLOAD))}, data={"a": "b"})
    assert arrived[0] == arrived[1]
    assert arrived[0][1] > len(PAYLOAD)


def test_a_one_shot_body_was_retried(server, session):
    """P13 (okhttp ``cannotRetryOneShotRequestBody``): one request, whose 401 is returned."""
    server.revoke_access_tokens()
    assert session.post(server.resource, data=iter([b"once"])).status_code == 401
    assert server.counters.requests == 1


def test_the_connection_of_the_401_was_not_released(server, manager):
    """P8 (okhttp ``failedAuthenticatorReleasesConnection``): released though the refresh fails."""
    session = session_of(manager, server.url, pool_block=True, pool_maxsize=1)
    server.on("/resource", lambda r, a: a.but(body=PAYLOAD) if a.status == 401 else a)
    server.fault("token", status=503)
    server.revoke_access_tokens()
    with pytest.raises(requests.RequestException) as caught:
        session.get(server.resource)
    assert session.get(server.url + "/open", timeout=10).status_code == 200
    assert caught.value.response.status_code == 401  # the error is alive and holds no connection
    session.close()


def test_a_gzipped_401(server, session):
    """P13: it is drained without decoding, and decoded when it is read."""
    zipped = {"body": gzip.compress(b"no" * 5000), "headers": {"Content-Encoding": "gzip"}}
    server.on("/resource", lambda r, a: a.but(**zipped) if a.status == 401 else a)
    server.revoke_access_tokens()
    response = session.get(server.resource)
    assert response.status_code == 200
    assert response.history[0].text == "no" * 5000


def test_a_chunked_upload(server, session):
    """P13: with a valid token it arrives complete."""
    chunks = (PAYLOAD[n : n + 1000] for n in range(0, len(PAYLOAD), 1000))
    answer = session.post(server.resource, data=chunks).json()
    assert answer["body_length"] == len(PAYLOAD)
    assert answer["headers"]["transfer-encoding"] == "chunked"


def test_a_streamed_download(server, session):
    """P13: the replay's response is streamed, and its connection is released when it is read."""
    server.on("/resource", lambda r, a: a if a.status == 401 else a.but(body=PAYLOAD))
    server.revoke_access_tokens()
    with session.get(server.resource, stream=True) as response:
        assert response.raw.tell() == 0
        assert b"".join(response.iter_content(1000)) == PAYLOAD
    assert server.wait_for(lambda: server.connections == 1)


def move_and_revoke(server, status):
    """Have ``/resource/here`` revoke the token and redirect to ``there``; record what arrives."""
    moved = {"status": status, "headers": {"Location": "/resource/there"}}
    arrived = []

    def leave(request, answer):
        if answer.status == 200:
            server.revoke_access_tokens()
            return answer.but(**moved)
        return None

    server.on("/resource/here", leave)
    server.on("/resource/there", lambda r, a: arrived.append((a.status, r.body_sha256)))
    return arrived


def test_a_401_on_a_redirects_second_hop(server, session):
    """P2, P13: each hop is a request of its own and is replayed."""
    move_and_revoke(server, 302)
    response = session.get(server.resource + "/here")
    assert response.status_code == 200
    assert response.url == server.resource + "/there"
    assert [r.status_code for r in response.history] == [302]
    assert server.counters.exchanges == 1


@pytest.mark.parametrize("status", [307, 308])
def test_an_upload_is_rejected_on_the_second_hop(server, session, tmp_path, status):
    """P2, P13: a file that was partly read before arrives from that position on every hop."""
    (tmp_path / "payload").write_bytes(PAYLOAD)
    arrived = move_and_revoke(server, status)
    with open(tmp_path / "payload", "rb") as body:
        body.seek(1234)
        response = session.put(server.resource + "/here", data=body, timeout=10)
    assert response.status_code == 200
    assert response.url == server.resource + "/there"
    assert response.request.method == "PUT"
    rest = hashlib.sha256(PAYLOAD[1234:]).hexdigest()
    assert arrived == [(401, rest), (200, rest)]
    assert response.json()["body_length"] == len(PAYLOAD) - 1234
    assert server.counters.exchanges == 1


class Pipe(io.BytesIO):
    """A body without a position, which raises if asked for one."""

    def tell(self):
        raise OSError("a pipe")

    def seek(self, *args):
        raise OSError("a pipe")


@pytest.mark.parametrize("status", [307, 308])
def test_a_pipe_is_not_sent_to_the_second_hop(server, session, status):
    """P13: requests does not send it again and raises its own error, which reaches the caller."""
    arrived = move_and_revoke(server, status)
    with pytest.raises(requests.exceptions.UnrewindableBodyError):
        session.put(server.resource + "/here", data=Pipe(b"once"), timeout=10)
    assert arrived == []
    assert (server.counters.requests, server.counters.exchanges) == (1, 0)


def test_a_generator_is_not_replayed_on_the_second_hop(server, session):
    """P13: requests sends an empty rest of it; a 401 to that is returned."""
    arrived = move_and_revoke(server, 307)
    response = session.put(server.resource + "/here", data=iter([b"once"]), timeout=10)
    assert response.status_code == 401
    assert arrived == [(401, hashlib.sha256(b"").hexdigest())]
    assert server.counters.requests == 2


def test_the_bearer_came_back_on_a_cross_host_redirect(server, manager):
    """P11 (golang/oauth2 #500, #805; keystoneauth): not even if the adapter sends that hop."""
    with Recorder() as stranger, requests.Session() as session:
        session.mount("http://", SilentRefreshAdapter(manager, server.url))
        moved = {"status": 302, "headers": {"Location": stranger.url}}
        server.on("/resource", lambda r, a: a.but(**moved))
        session.get(server.resource)
        assert len(stranger.heads) == 1
        assert stranger.heard("Authorization") == stranger.heard(bearer_of(manager)) == []


def test_twenty_retries_and_then_a_protocol_error_hid_the_401(server, session):
    """P13 (okhttp #960): at most three requests, and the 401 itself is returned."""
    server.forbid("/resource")
    response = session.get(server.resource)
    assert response.status_code == 401
    assert response.json() == {"message": "unauthorized"}
    assert server.counters.requests == 3


def test_netrc_replaced_the_token(server, session, manager, tmp_path, monkeypatch):
    """P13 (requests #3929): on its origins the adapter replaces the header, on every hop."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    moved = {"status": 302, "headers": {"Location": "/resource/there"}}
    server.on("/resource", lambda r, a: a if a.status == 401 else a.but(**moved))
    response = session.get(server.resource)
    assert response.url.endswith("/there")
    assert response.status_code == 200
    assert server.counters.rejected == 0
    assert response.request.headers["Authorization"].startswith("Basic")  # as requests made it


def test_pickled_sessions_broke_or_carried_the_secret(server, tmp_path):
    """P12, P13 (google-auth #1478): the pickle holds no token, and the unpickled session works."""
    store = EncryptedFileStore(tmp_path / "tokens")
    manager = manager_of(server, store=store)
    with session_of(manager, server.url) as session:
        session.get(server.resource)
        pickled = pickle.dumps(session)
    assert bearer_of(manager).encode() not in pickled
    with pickle.loads(pickled) as twin:
        assert twin.get(server.resource).status_code == 200


def test_tokens_in_debug_logs(server, session, manager, caplog):
    """P12 (requests-oauthlib #536): no record has a token, with all loggers at DEBUG."""
    token = manager.token()
    with caplog.at_level(logging.DEBUG):
        server.revoke_access_tokens()
        session.get(server.resource)
    new = manager.token()
    assert "refreshed" in caplog.text
    for secret in (token, new):
        assert secret.access_token.reveal() not in caplog.text
        assert secret.refresh_token.reveal() not in caplog.text


def test_tokens_in_reprs(server, manager):
    """P12 (requests-oauth2client, Authlib): no object that a request involves shows the token."""
    sent = []

    class Recording(requests.adapters.HTTPAdapter):
        def send(self, request, **how):
            sent.append(request)
            return super().send(request, **how)

    for transport in (None, Recording()):
        with session_of(manager, server.url, transport=transport) as session:
            response = session.get(server.resource)
        adapter = session.get_adapter(server.url)
        things = [manager, manager.token(), adapter, vars(adapter), session, response]
        things += [vars(response.request), *map(vars, sent), *[r.headers for r in sent]]
        assert not [thing for thing in things if bearer_of(manager) in repr(thing)]
    assert sent[0].headers["Authorization"] == f"Bearer {bearer_of(manager)}"
    transport.close()


def test_waiters_used_up_the_pool_so_that_the_refresh_never_ran(server, manager):
    """P8 (okhttp #6747): 16 threads share one connection, and the exchange has its own."""
    session = session_of(manager, server.url, pool_block=True, pool_maxsize=1)
    server.gate(1, then=server.revoke_access_tokens)
    outcomes = at_once(16, lambda n: session.get(server.resource).status_code)
    assert outcomes == [200] * 16
    assert server.counters.exchanges == 1
    session.close()


def test_replays_ran_one_after_another(server, manager):
    """P13 (fresh_dio): after the refresh, eight replays run at the same time."""
    session = session_of(manager, server.url, pool_maxsize=8)
    server.gate(8, then=server.revoke_access_tokens)
    together = threading.Barrier(8)

    def meet(request, answer):
        if answer.status == 200:
            together.wait(10)

    server.on("/resource", meet)
    outcomes = at_once(8, lambda n: session.get(server.resource).status_code)
    assert outcomes == [200] * 8
    assert not together.broken
    session.close()
