"""P8: a 401 is read off its connection before the request waits, whatever its body."""

from __future__ import annotations

import _thread
import contextlib
import gzip
import http.client
import io
import os
import signal
import socket
import ssl
import threading
import time
import zlib

import pytest
import requests
import trustme
import urllib3
from wire import at_once, manager_of, session_of, until

from requests_silent_refresh import RefreshTokenGrant, RefreshUnavailable, TokenManager
from requests_silent_refresh.adapter import drain
from requests_silent_refresh.testing import AuthorizationServer

TEXT = b"".join(b"%d unauthorized\n" % n for n in range(600))  # 10 kB
LONG = os.urandom(200_000)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(params=["http", "https"])
def server(request, authority):
    context = None
    if request.param == "https":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
    with AuthorizationServer(tls=context) as server, authority.cert_pem.tempfile() as bundle:
        server.bundle = bundle
        yield server


@pytest.fixture
def plain():
    with AuthorizationServer() as server:
        server.bundle = True
        yield server


@pytest.fixture
def drain_seconds(monkeypatch):
    """Set the time limit of a drain, which is not a setting, so that tests do not last as long."""
    return lambda seconds: monkeypatch.setattr(drain, "DRAIN_SECONDS", seconds)


def narrow(server, **options):
    """Return a session with a single connection, which requests wait for."""
    manager = manager_of_any(server)
    session = session_of(manager, server.url, pool_block=True, pool_maxsize=1, **options)
    session.verify = server.bundle
    session.trust_env = False
    return session


def manager_of_any(server):
    """Return a manager whose exchanges trust the server's certificate."""
    manager = TokenManager(
        RefreshTokenGrant(server.token_endpoint, "client", verify=server.bundle), refresh_ahead=0
    )
    manager.sign_in(server.sign_in_token())
    return manager


def rejecting(server, body, **changes):
    """Give the server's 401s this ``body``: bytes, or a function that returns an iterable."""

    def answer(request, answer):
        if answer.status != 401:
            return None
        return answer.but(body=body() if callable(body) else body, **changes)

    server.on("/resource", answer)


def connections_of(session, server):
    """Return how many connections the session has opened to ``server``."""
    request = requests.Request("GET", server.url).prepare()
    adapter = session.get_adapter(server.url)
    return adapter.get_connection_with_tls_context(request, server.bundle).num_connections


def endless():
    while True:
        yield b"x" * 1000


GZIP = [("Content-Encoding", "gzip")]

# The 401's body and how it is sent, the expected content, and whether the connection is reused.
BODIES = {
    "nothing": ({"body": b""}, b"", True),
    "text": ({"body": TEXT}, TEXT, True),
    "gzip": ({"body": gzip.compress(TEXT), "headers": GZIP}, TEXT, True),
    "deflate": (
        {"body": zlib.compress(TEXT), "headers": [("Content-Encoding", "deflate")]},
        TEXT,
        True,
    ),
    "chunked": ({"body": lambda: iter([TEXT[:10], TEXT[10:]])}, TEXT, True),
    "chunked gzip": (
        {"body": lambda: iter([gzip.compress(TEXT)]), "headers": GZIP},
        TEXT,
        True,
    ),
    "one byte chunks": (
        {"body": lambda: (TEXT[n : n + 1] for n in range(2000))},
        TEXT[:2000],
        True,
    ),
    "exactly the bound": ({"body": LONG[: 64 * 1024]}, LONG[: 64 * 1024], True),
    "one more": ({"body": LONG[: 64 * 1024 + 1]}, LONG[: 64 * 1024], False),
    "long": ({"body": LONG}, LONG[: 64 * 1024], False),
    "close": ({"body": TEXT, "close": True}, TEXT, False),
    "close, chunked": ({"body": lambda: iter([TEXT]), "close": True}, TEXT, False),
    "ends early": (
        {"body": TEXT, "headers": [("Content-Length", "20000")], "close": True},
        TEXT,
        False,
    ),
    "no HTTP": (
        {"raw": b"HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\nzz\r\n"},
        b"begun",
        False,
    ),
    "HTTP/1.0": ({"raw": b"HTTP/1.0 401 No\r\n\r\nuntil the end"}, b"until the end", False),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_401_can_be_read_and_its_connection_is_free(name, server, monkeypatch):
    """P8, P13: the body up to the limit is kept; a complete one leaves its connection usable."""
    changes, content, reused = BODIES[name]
    changes = dict(changes)
    rejecting(server, changes.pop("body", b""), **changes)
    session = narrow(server)
    session.get(server.url + "/open")
    server.revoke_access_tokens()
    gate = server.token_gate()
    outcome = []
    waiting = threading.Thread(target=lambda: outcome.append(session.get(server.resource)))
    waiting.start()
    assert gate.arrived.wait(10)
    # The waiting request does not hold the one connection.
    connect, connects = urllib3.util.connection.create_connection, []

    def counted(*args, **how):
        connects.append(args)
        return connect(*args, **how)

    monkeypatch.setattr(urllib3.util.connection, "create_connection", counted)
    assert session.get(server.url + "/open", timeout=10).status_code == 200
    assert len(connects) == (0 if reused else 1)
    gate.release()
    waiting.join(10)
    response = outcome[0]
    assert response.status_code == 200
    assert response.history[0].content == content
    session.close()


@pytest.mark.parametrize("reading", ["content", "iter_content", "iter_lines", "raw", "stream"])
def test_a_drained_401_is_read_like_any_response(reading, plain):
    """P13: with ``content``, ``iter_content`` and ``text``, and undecoded with ``raw``."""
    rejecting(plain, gzip.compress(TEXT), headers=GZIP)
    plain.fault("token", status=503)
    plain.revoke_access_tokens()
    with narrow(plain) as session:
        plain.revoke_access_tokens()
        with pytest.raises(RefreshUnavailable) as caught:
            session.get(plain.resource, stream=True)
    rejected = caught.value.response
    if reading == "content":
        assert rejected.content == TEXT
        assert rejected.text == TEXT.decode()
    elif reading == "iter_content":
        assert b"".join(rejected.iter_content(100)) == TEXT
    elif reading == "iter_lines":
        assert list(rejected.iter_lines()) == TEXT.splitlines()
    elif reading == "raw":
        assert gzip.decompress(rejected.raw.read()) == TEXT
    else:
        assert b"".join(rejected.raw.stream(100, decode_content=True)) == TEXT
    assert rejected.raw.status == 401
    assert rejected.headers["Content-Encoding"] == "gzip"


# -- bounds -------------------------------------------------------------------------------


TRICKLES = {
    "length": {"body": b"x" * 5000, "trickle": 20},
    "chunks": {"body": endless, "trickle": 20},
    "until closed": {"body": endless, "trickle": 20, "close": True},
    "nothing comes": {"body": b"", "headers": [("Content-Length", "9")]},
}


@pytest.mark.parametrize("name", TRICKLES)
def test_a_trickle_is_cut_off(name, server, drain_seconds):
    """P8: eight threads share one connection, a 401 never ends, and no thread hangs."""
    drain_seconds(0.03)
    changes = dict(TRICKLES[name])
    rejecting(server, changes.pop("body"), **changes)
    session = narrow(server)
    server.gate(1, then=server.revoke_access_tokens)
    outcomes = at_once(8, lambda n: session.get(server.resource))
    assert [o.status_code for o in outcomes] == [200] * 8
    assert server.counters.exchanges == 1
    assert all(len(o.history[0].content) <= drain.DRAIN_BYTES for o in outcomes)
    session.close()


@pytest.mark.parametrize("name", ["nothing", "gzip"])
def test_eight_threads_share_one_connection(name, server):
    """P8: with short bodies, the one connection serves them all."""
    changes = dict(BODIES[name][0])
    rejecting(server, changes.pop("body"), **changes)
    session = narrow(server)
    server.gate(1, then=server.revoke_access_tokens)
    outcomes = at_once(8, lambda n: session.get(server.resource))
    assert [o.status_code for o in outcomes] == [200] * 8
    assert connections_of(session, server) == 1
    session.close()


def test_one_second_is_the_limit(plain):
    """P8: the documented limit holds, and little more, although bytes keep arriving."""
    rejecting(plain, endless, trickle=20)
    session = narrow(plain)
    plain.revoke_access_tokens()
    began = time.monotonic()
    response = session.get(plain.resource)
    assert 1.0 <= time.monotonic() - began < 3.0
    assert response.status_code == 200
    session.close()


class Crooked:
    """A server that runs ``script`` for the first connection and answers 200 to later ones."""

    def __init__(self, script):
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.over = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            first = True
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    if first:
                        first = False
                        self._script(self, connection)
                    else:
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                        connection.recv(65536)

    def close(self):
        self.over.set()
        self._listener.close()


def drip(server, connection, text):
    while not server.over.wait(0.02):
        connection.sendall(text)


CHUNKED = b"HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n"

SCRIPTS = {
    "a chunk's size that never ends": (CHUNKED + b"5;", b"x"),
    "a chunk that never ends": (CHUNKED + b"fffff\r\n", b"x"),
    "trailers without end": (CHUNKED + b"0\r\n", b"X-Trailer: yes\r\n"),
    "a flood": (b"HTTP/1.1 401 No\r\nContent-Length: 999999999999\r\n\r\n", b"x" * 1_000_000),
    "chunks without end": (CHUNKED, b"1\r\nx\r\n"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_hostile_server_is_cut_off(name, plain, drain_seconds):
    """P8: a time limit for each ``recv`` would not end these, and memory stays bounded."""
    drain_seconds(0.2)
    head, more = SCRIPTS[name]
    crooked = Crooked(lambda server, c: (c.sendall(head), drip(server, c, more)))
    session = session_of(manager_of(plain), crooked.url, pool_block=True, pool_maxsize=1)
    try:
        response = session.get(crooked.url, timeout=30)
        assert response.status_code == 200
        assert len(response.history[0].content) <= drain.DRAIN_BYTES
    finally:
        crooked.close()
        session.close()


def test_a_read_timeout_of_the_callers_ends_a_drain_earlier(plain):
    """P8, P13: the request's own ``timeout`` applies to its 401 as to any response."""
    rejecting(plain, b"", headers=[("Content-Length", "9")])
    session = narrow(plain)
    plain.revoke_access_tokens()
    began = time.monotonic()
    assert session.get(plain.resource, timeout=0.2).status_code == 200
    assert time.monotonic() - began < drain.DRAIN_SECONDS
    session.close()


def test_a_default_timeout_of_the_process_has_no_effect(plain):
    """P13: the watch's descriptor does not change whether the connection blocks."""
    rejecting(plain, TEXT)
    socket.setdefaulttimeout(5)
    try:
        session = narrow(plain)
        for _ in range(2):
            plain.revoke_access_tokens()
            assert session.get(plain.resource, timeout=None).history[0].content == TEXT
        assert connections_of(session, plain) == 1
        session.close()
    finally:
        socket.setdefaulttimeout(None)


# -- the thread that watches drains ---------------------------------------------------------


def drains():
    return {t.ident for t in threading.enumerate() if t.name == "silent-refresh-drain"}


@pytest.fixture
def no_watch():
    """Wait until the thread of earlier tests has ended, when their last drain is due."""
    until(lambda: not drains(), timeout=30)


def test_one_thread_watches_all_drains(plain, no_watch, drain_seconds):
    """P14: 64 parallel 401s start one thread, not 64, and it ends soon after."""
    drain_seconds(0.3)
    session = session_of(manager_of(plain), plain.url, pool_maxsize=64)
    seen = set()
    rejecting(plain, lambda: seen.update(drains()) or iter([TEXT]))
    plain.gate(64, then=plain.revoke_access_tokens)
    outcomes = at_once(64, lambda n: session.get(plain.resource))
    assert [o.status_code for o in outcomes] == [200] * 64
    assert len((seen | drains()) - {None}) == 1  # None: starting
    session.close()
    until(lambda: not drains())


def test_a_drain_that_begins_as_the_watch_ends_is_watched(plain, no_watch, drain_seconds):
    """P8: a thread that has ended is replaced, and one that is about to end is not counted on."""
    drain_seconds(0.05)
    watch = drain._Watch()  # private, because no public call begins a drain and does not read
    for _ in range(3):
        near, far = socket.socketpair()
        with near, far:
            slow = drain._Drain()
            watch.begin(slow, near.fileno())
            near.settimeout(10)
            assert near.recv(1) == b""  # shut down
            until(lambda d=slow: not d.descriptors)  # also if a handler kept `end` from its call
            assert not watch.end(slow)
    until(lambda: not drains())


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors by /proc")
def test_no_descriptor_is_left(plain, drain_seconds):
    """P8: no descriptor is left open by a drain that ended or by one that was cut off."""
    drain_seconds(0.03)
    session = narrow(plain)

    def round_of(body, **changes):
        rejecting(plain, body, **changes)
        plain.revoke_access_tokens()
        assert session.get(plain.resource).status_code == 200

    round_of(TEXT)
    until(lambda: plain.connections == 1)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        round_of(TEXT)
        round_of(b"x" * 5000, trickle=20)
        until(lambda: plain.connections == 1)
    assert len(os.listdir("/proc/self/fd")) <= before
    session.close()


def test_without_a_watch_nothing_is_drained(plain, no_watch, drain_seconds, monkeypatch):
    """P8: if no thread can be started, the connection is closed; later drains work again."""
    drain_seconds(0.3)
    rejecting(plain, b"x" * 600, trickle=200)  # three seconds
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "silent-refresh-drain":
            raise RuntimeError("can't start new thread")
        start(thread)

    session = narrow(plain)
    for starting, kept in ((refuse, range(1)), (start, range(1, 600))):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", starting)
            plain.revoke_access_tokens()
            response = session.get(plain.resource)
        assert response.status_code == 200
        assert len(response.history[0].content) in kept
    session.close()


def test_running_out_of_descriptors_fails_no_request(plain, monkeypatch):
    """P2: EMFILE in the watch loses a connection, but not the request."""

    def refuse(descriptor):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "dup", refuse)
    session = narrow(plain)
    plain.revoke_access_tokens()
    assert session.get(plain.resource).status_code == 200
    session.close()


def test_an_interrupt_while_draining_frees_the_connection(plain, no_watch):
    """P8: Ctrl-C reaches the caller at once, and a pool of one gets its connection back."""
    rejecting(plain, endless, trickle=200)
    session = narrow(plain)
    plain.revoke_access_tokens()

    def interrupt():
        until(drains)
        _thread.interrupt_main()

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt) as caught:
        session.get(plain.resource)
    plain.on("/resource", None)
    assert session.get(plain.resource, timeout=10).status_code == 200
    assert caught.value is not None  # so it is not its frames that released it
    session.close()


# -- other kinds of bodies ---------------------------------------------------------------------


def response_with(raw, **fields):
    response = requests.Response()
    response.status_code = 401
    response.raw = raw
    vars(response).update(fields)
    return response


def test_a_body_in_memory_needs_no_watch(no_watch):
    """P13: a stub's body is kept up to the limit, without a thread or a descriptor."""
    for size, kept in ((10, 10), (70_000, drain.DRAIN_BYTES)):
        raw = urllib3.HTTPResponse(
            body=io.BytesIO(b"x" * size), headers={}, status=401, preload_content=False
        )
        response = response_with(raw)
        drain.keep_body(response)
        assert len(response.content) == kept
    assert not drains()


def test_another_type_of_raw_is_read_by_requests():
    """P13: a body that is not a urllib3 response is read as requests does; errors are ignored."""
    response = response_with(io.BytesIO(b"mine"))
    drain.keep_body(response)
    assert response.content == b"mine"

    class Broken:
        def read(self, *args, **how):
            raise LookupError("mine")

    drain.keep_body(response_with(Broken()))
    broken = urllib3.HTTPResponse(body=Broken(), headers={}, status=401, preload_content=False)
    response = response_with(broken)
    drain.keep_body(response)
    assert response.content == b""


def test_a_body_that_was_read_is_left_alone(plain):
    """P13: requests has already kept the content if ``is_rejected`` read it."""
    response = requests.get(plain.resource)
    raw = response.raw
    drain.keep_body(response)
    assert response.raw is raw
    assert response.json() == {"message": "unauthorized"}


def test_requests_records_whether_a_body_was_read(plain):
    """``requests`` still has the private attribute that the drain depends on."""
    response = requests.get(plain.resource, stream=True)
    # Only this attribute tells a body that was read; public ones read it first.
    assert response._content_consumed is False
    assert response.content
    assert response._content_consumed is True


def test_urllib3_keeps_the_original_response(plain):
    """urllib3 still has the private attribute, and its type, that cookies and the drain need."""
    with requests.get(plain.resource, stream=True) as response:
        # urllib3 has no public name for it; requests uses this one too.
        assert type(response.raw._original_response) is http.client.HTTPResponse


# -- a fork during a drain ----------------------------------------------------------------------


def test_a_forked_child_has_a_watch_of_its_own(plain, no_watch, drain_seconds):
    """P8, P13: a child forked during a drain cuts off its own, and leaves the parent's alone."""
    drain_seconds(5)
    done = threading.Event()

    def held():
        yield b"first"
        assert done.wait(20)
        yield b"last"

    bodies = iter([held(), endless()])
    rejecting(plain, lambda: next(bodies), trickle=200)
    outcome, session = [], narrow(plain)
    plain.revoke_access_tokens()
    draining = threading.Thread(target=lambda: outcome.append(session.get(plain.resource)))
    draining.start()
    until(drains)
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)  # ends a child that hangs
        failed = True
        try:
            drain.DRAIN_SECONDS = 0.2
            rejected = requests.get(plain.resource, stream=True)
            drain.keep_body(rejected)
            failed = b"xx" not in rejected.content
        finally:
            os._exit(failed)
    _, status = os.waitpid(pid, 0)
    done.set()
    draining.join(10)
    assert os.waitstatus_to_exitcode(status) == 0
    assert outcome[0].history[0].content == b"firstlast"
    session.close()
