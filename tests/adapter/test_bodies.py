"""P13: a body is sent again completely or not at all; P15: no refresh disturbs an upload."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import mmap
import os
import threading
import time

import pytest
import requests
from requests_toolbelt.multipart.encoder import MultipartEncoder, MultipartEncoderMonitor
from wire import at_once, manager_of, session_of, until

from requests_silent_refresh import (
    MemoryStore,
    RefreshTokenGrant,
    SessionExpired,
    Token,
    TokenManager,
)
from requests_silent_refresh.adapter import resend
from requests_silent_refresh.manager.uploads import Uploads
from requests_silent_refresh.testing import AuthorizationServer

PAYLOAD = os.urandom(300_000)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


# -- what can be sent again ------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({}, 0),
        ({"data": b"bytes"}, 5),
        ({"data": "text"}, 4),
        ({"data": {"form": "field"}}, 10),
        ({"json": {"a": 1}}, 8),
        ({"data": bytearray(b"array")}, 5),
        ({"data": memoryview(b"view")}, 4),
        ({"files": {"file": b"multipart"}}, None),
        ({"data": b""}, 0),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_body_in_memory_is_sent_again(method, options, length, server, session):
    """P2, P13: the same bytes arrive before and after the refresh."""
    first = session.request(method, server.resource, **options).json()
    server.revoke_access_tokens()
    arrived = []
    server.on("/resource", lambda request, answer: arrived.append(request.body_length))
    response = session.request(method, server.resource, **options)
    assert [r.status_code for r in response.history] == [401]
    if length is not None:
        assert response.json()["body_sha256"] == first["body_sha256"]
        assert first["body_length"] == length
    assert arrived[0] == arrived[1] == first["body_length"]


@pytest.mark.parametrize("position", [0, 1234])
@pytest.mark.parametrize("kind", ["file", "BytesIO"])
def test_a_file_is_rewound_to_where_it_started(kind, position, server, session, tmp_path):
    """P13: a file that was partly read before is sent again from that position, not from 0."""
    if kind == "file":
        (tmp_path / "payload").write_bytes(PAYLOAD)
        body = open(tmp_path / "payload", "rb")  # noqa: SIM115 (closed below)
    else:
        body = io.BytesIO(PAYLOAD)
    with body:
        body.seek(position)
        server.revoke_access_tokens()
        answer = session.post(server.resource, data=body).json()
    assert answer["body_length"] == len(PAYLOAD) - position
    assert answer["body_sha256"] == sha256(PAYLOAD[position:])
    assert server.counters.exchanges == 1


def test_a_file_is_rewound_before_every_replay(server, session):
    """P13: each of two replays sends the whole file."""
    server.forbid("/resource")
    arrived = []
    server.on("/resource", lambda request, answer: arrived.append(request.body_sha256))
    session.post(server.resource, data=io.BytesIO(PAYLOAD))
    assert arrived == [sha256(PAYLOAD)] * 3


def test_a_file_of_unknown_length_is_sent_in_chunks_again(server, session):
    """P13: a seekable body without a length is sent as ``chunked`` both times."""

    class Unmeasured(io.RawIOBase):
        def __init__(self):
            self._inner = io.BytesIO(PAYLOAD)

        def read(self, size=-1):
            return self._inner.read(size)

        def readable(self):
            return True

        def seekable(self):
            return True

        def seek(self, *where):
            return self._inner.seek(*where)

        def tell(self):
            return self._inner.tell()

        def __iter__(self):
            return iter(lambda: self.read(8192), b"")

    body = Unmeasured()
    prepared = requests.Request("POST", server.resource, data=body).prepare()
    prepared.headers.pop("Content-Length", None)
    prepared.headers["Transfer-Encoding"] = "chunked"
    server.revoke_access_tokens()
    assert session.send(prepared).json()["body_sha256"] == sha256(PAYLOAD)


def test_requests_records_where_a_body_started():
    """``requests`` still has the private attribute that rewinding depends on."""
    # Only this attribute tells rewindable bodies from others; no public one does.
    body = io.BytesIO(b"0123456789")
    body.seek(3)
    prepared = requests.Request("POST", "https://api.example.com/", data=body).prepare()
    assert prepared._body_position == 3
    assert requests.Request("GET", "https://api.example.com/").prepare()._body_position is None


# -- what can't be sent again ------------------------------------------------------------


def generator():
    yield PAYLOAD[:1000]
    yield PAYLOAD[1000:]


def pipe():
    read, write = os.pipe()
    threading.Thread(target=lambda: (os.write(write, b"x" * 1000), os.close(write))).start()
    return open(read, "rb")


def deaf():
    """A file that refuses to seek once it has been read."""

    class Deaf(io.BytesIO):
        was_read = False

        def read(self, size=-1):
            self.was_read = True
            return super().read(size)

        def seek(self, *where):
            if self.was_read:
                raise OSError("cannot seek")
            return super().seek(*where)

    return Deaf(PAYLOAD)


def closing():
    """A body that closes itself once it has been read."""

    class Closing(io.BytesIO):
        def read(self, size=-1):
            data = super().read(size)
            if not data:
                self.close()
            return data

    return Closing(PAYLOAD)


def post(session, url, body, **options):
    """Post ``body`` and close it."""
    with contextlib.closing(body) if hasattr(body, "close") else contextlib.nullcontext():
        return session.post(url, data=body, **options)


ONE_SHOT = {
    "generator": generator,
    "pipe": pipe,
    "cannot seek": deaf,
    "closes itself": closing,
    "encoder": lambda: MultipartEncoder({"file": ("name", PAYLOAD)}),
    "monitor": lambda: MultipartEncoderMonitor.from_fields({"file": ("name", PAYLOAD)}),
}


@pytest.mark.parametrize("kind", ONE_SHOT)
def test_a_body_that_cannot_be_rewound_is_not_sent_again(kind, server, manager, session, caplog):
    """P13: the 401 is returned unread, the next request has a new token, and it is logged."""
    old = manager.token()
    server.revoke_access_tokens()
    gate = server.token_gate()
    with caplog.at_level(logging.WARNING, "requests_silent_refresh"):
        response = post(session, server.resource, ONE_SHOT[kind](), stream=True)
    assert response.status_code == 401
    assert response.raw.tell() == 0
    assert response.history == []
    assert server.counters.requests == 1
    assert gate.arrived.wait(10)  # in the background, because the caller already has the 401
    gate.release()
    assert manager.renew(old) is not old
    assert "cannot be sent again" in caplog.text
    assert server.url in caplog.text
    assert response.json() == {"message": "unauthorized"}
    assert post(session, server.resource, ONE_SHOT[kind]()).status_code == 200
    assert server.counters.exchanges == 1


def mapped(tmp_path):
    """A file that is mapped into memory: it can be rewound, but not iterated over."""
    path = tmp_path / "mapped"
    path.write_bytes(b"skipped" + PAYLOAD)
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class Reader:
    """The least that requests sends as a body and that can be rewound."""

    def __init__(self, tmp_path):
        self._inner = io.BytesIO(b"skipped" + PAYLOAD)
        self.read, self.tell, self.seek = self._inner.read, self._inner.tell, self._inner.seek


@pytest.mark.parametrize("kind", [mapped, Reader])
def test_a_body_whose_start_requests_does_not_record_is_sent_again(kind, server, session, tmp_path):
    """P2: it is rewound to where it stood before it was sent."""
    body = kind(tmp_path)
    body.seek(len(b"skipped"))
    server.revoke_access_tokens()
    response = session.post(server.resource, data=body)
    assert response.json()["body_sha256"] == sha256(PAYLOAD)
    assert [r.status_code for r in response.history] == [401]


def test_a_body_assigned_by_hand_is_sent_again(server, session):
    """P2: also a file that ``requests`` has not seen, from where it stood, not from 0."""
    prepared = requests.Request("POST", server.resource).prepare()
    prepared.body = io.BytesIO(b"skipped by hand")
    prepared.body.seek(len(b"skipped "))
    prepared.headers["Content-Length"] = "7"
    server.revoke_access_tokens()
    assert session.send(prepared).json()["body_sha256"] == sha256(b"by hand")
    assert server.counters.requests == 2


def test_rewinding_returns_false_when_it_fails():
    """P13: a closed file or one that refuses to seek does not raise out of a request."""
    for body in (deaf(), closing()):
        prepared = requests.Request("POST", "https://api.example.com/", data=body).prepare()
        assert resend.is_rewindable(prepared)
        while body.read(65536):
            pass
        assert not resend.rewind(prepared)


def test_uploads_that_are_always_rejected_do_not_refresh_for_ever(server, session):
    """Futile: a hundred uploads, each to its own path, and each path rejects every token."""
    for path in (f"/resource/{n}" for n in range(100)):
        server.forbid(path)
        # Each upload waits for the previous one's refresh, so that none shares another's.
        assert session.post(server.url + path, data=generator()).status_code == 401
    assert 1 <= server.counters.exchanges <= 6


def test_uploads_to_one_bad_path_among_good_ones_do_not_refresh_for_ever(server, session):
    """Futile: successful uploads in between do not reset the bad path's count."""
    server.forbid("/resource/bad")
    for _ in range(30):
        assert session.post(server.resource + "/bad", data=generator()).status_code == 401
        assert session.post(server.resource + "/good", data=generator()).status_code == 200
    assert 1 <= server.counters.exchanges <= 6


def test_an_accepted_upload_resets_the_count(server, session):
    """P2: each revocation gets its refresh if an upload succeeded in between."""
    for round_ in range(1, 6):
        server.revoke_access_tokens()
        assert session.post(server.resource, data=generator()).status_code == 401
        assert session.post(server.resource, data=generator()).status_code == 200
        assert server.counters.exchanges == round_


# -- P15: uploads and refreshes that can wait ----------------------------------------------


class Clock:
    """Unix time plus an offset that the test sets."""

    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        return time.time() + self.ahead


def ahead(server, clock):
    """Return a session that refreshes ahead, and its manager. The token lives for an hour."""
    manager = manager_of(server, refresh_ahead=0.2, clock=clock)
    return session_of(manager, server.url, pool_maxsize=4), manager


class HeldBody:
    """A body whose last byte is sent only after ``release``."""

    def __init__(self):
        self.begun, self.release = threading.Event(), threading.Event()

    def __iter__(self):
        yield b"first"
        self.begun.set()
        assert self.release.wait(20)
        yield b"last"


def test_a_token_close_to_its_end_is_refreshed_before_an_upload():
    """P15: the upload itself carries the new token; no refresh runs while it is sent."""
    clock = Clock()
    with AuthorizationServer(rotation_ends_access_token=True) as server:
        session, manager = ahead(server, clock)
        old = manager.token()
        clock.ahead = 3400
        answer = session.post(server.resource, data=generator())
        assert answer.status_code == 200
        clock.ahead = 0  # the new token is dated by this clock, so it is not due at once
        assert manager.token() is not old
        assert server.counters.exchanges == 1
        assert answer.json()["access_token_serial"] == 2
        session.close()


def test_a_process_that_begins_with_an_upload_refreshes_before_it_too():
    """P15: the token that it finds in the store is close to its end."""
    clock, store = Clock(), MemoryStore()
    with AuthorizationServer(rotation_ends_access_token=True) as server:
        store.save(server.sign_in_token(), after=None)
        clock.ahead = 3400
        grant = RefreshTokenGrant(server.token_endpoint, "client", clock=clock)
        manager = TokenManager(grant, store, refresh_ahead=0.2, clock=clock)
        session = session_of(manager, server.url)
        answer = session.post(server.resource, data=generator())
        assert answer.json()["access_token_serial"] == 2
        assert server.counters.exchanges == 1
        session.close()


def test_a_refresh_that_can_wait_is_held_back_while_an_upload_is_under_way():
    """P15: a server that revokes the old token at rotation does not fail the upload."""
    clock = Clock()
    with AuthorizationServer(rotation_ends_access_token=True) as server:
        session, _ = ahead(server, clock)
        body, outcome = HeldBody(), []
        upload = threading.Thread(
            target=lambda: outcome.append(session.post(server.resource, data=iter(body)))
        )
        upload.start()
        assert body.begun.wait(10)
        clock.ahead = 3400  # in the last fifth of the lifetime, but not in the leeway
        for _ in range(3):
            assert session.get(server.resource).status_code == 200
        # A second upload does not refresh first, which would revoke the first one's token.
        assert session.post(server.resource, data=generator()).status_code == 200
        assert server.counters.exchanges == 0
        body.release.set()
        upload.join(10)
        assert outcome[0].status_code == 200
        assert session.get(server.resource).status_code == 200
        assert server.wait_for(lambda: server.counters.granted == 1)
        session.close()


def test_within_the_hard_leeway_no_refresh_is_held_back():
    """P15: an endless upload does not let the other requests' token expire."""
    clock = Clock()
    with AuthorizationServer() as server:
        session, _ = ahead(server, clock)
        body = HeldBody()
        upload = threading.Thread(target=lambda: session.post(server.resource, data=iter(body)))
        upload.start()
        assert body.begun.wait(10)
        clock.ahead = 3598
        assert session.get(server.resource).status_code == 200
        assert server.counters.exchanges == 1
        body.release.set()
        upload.join(10)
        session.close()


def test_an_upload_goes_out_with_a_valid_token_while_the_endpoint_is_down():
    """P7, P15: the refresh before an upload may fail; the token is valid for three more minutes."""
    clock = Clock()
    with AuthorizationServer() as server:
        session, _ = ahead(server, clock)
        server.fault("token", status=503, times=None)
        clock.ahead = 3420
        assert session.post(server.resource, data=generator()).status_code == 200
        assert server.counters.exchanges == 1
        session.close()


def test_an_upload_with_an_expired_token_waits_for_the_refresh(server):
    """P2, P15: like any request. Without a session it raises, and the error has the request."""
    clock = Clock()
    session, _ = ahead(server, clock)
    clock.ahead = 7200
    assert session.post(server.resource, data=generator()).status_code == 200
    assert server.counters.exchanges == 1
    session.close()
    empty = session_of(TokenManager(RefreshTokenGrant(server.token_endpoint, "c")), server.url)
    with pytest.raises(SessionExpired) as caught:
        empty.post(server.resource, data=generator())
    assert caught.value.request.method == "POST"


def test_an_upload_waits_for_a_refresh_that_is_under_way(server, session):
    """P2, P15: a refresh that another request's 401 began is finished first; no upload fails."""
    server.revoke_access_tokens()
    gate, outcomes = server.token_gate(), []
    other = threading.Thread(target=lambda: outcomes.append(session.get(server.resource)))
    other.start()
    assert gate.arrived.wait(10)
    upload = threading.Thread(
        target=lambda: outcomes.append(session.post(server.resource, data=generator()))
    )
    upload.start()
    manager = session.get_adapter(server.url).manager
    until(lambda: manager.stats.waits == 2)
    gate.release()
    other.join(10)
    upload.join(10)
    assert [o.status_code for o in outcomes] == [200, 200]
    assert server.counters.rejected == 1
    assert server.counters.exchanges == 1


def test_a_failed_upload_ends_too(server):
    """P15: an upload that raised while its body was read holds no refresh back afterwards."""
    session, _ = ahead(server, clock := Clock())

    def broken():
        yield b"some"
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        session.post(server.resource, data=broken())
    clock.ahead = 3400
    assert session.get(server.resource).status_code == 200
    assert server.wait_for(lambda: server.counters.granted == 1)
    session.close()


def test_uploads_are_counted_in_one_step():
    """P15: if two uploads begin while a refresh is due, either both wait or neither does."""
    uploads = Uploads()
    token = Token("t")
    assert uploads.join(token) is uploads.join(token) is None
    first = uploads.begin(token)
    second = uploads.join(token)
    uploads.end(first)
    assert uploads.join(token).token is token  # and is over: nobody holds it
    assert uploads.under_way == 1
    del second
    assert uploads.under_way == 0
    third = uploads.begin(token)
    uploads.after_fork_in_child()
    assert uploads.join(token) is None
    uploads.end(third)


def test_two_uploads_at_once_share_the_refresh_that_is_due():
    """P1, P15: they wait for one exchange, and all carry the new token."""
    clock = Clock()
    with AuthorizationServer(rotation_ends_access_token=True) as server:
        session, _ = ahead(server, clock)
        clock.ahead = 3400
        outcomes = at_once(4, lambda n: session.post(server.resource, data=generator()))
        assert [o.json()["access_token_serial"] for o in outcomes] == [2] * 4
        assert server.counters.exchanges == 1
        session.close()
