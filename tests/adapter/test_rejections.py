"""P8: the 401 leaves its connection before anybody waits, whatever its body, and can be read."""

from __future__ import annotations

import _thread
import contextlib
import gzip
import http.client
import io
import os
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


def narrow(server, **options):
    """Return a session with one connection, which requests wait for."""
    manager = manager_of_any(server)
    session = session_of(manager, server.url, pool_block=True, pool_maxsize=1, **options)
    session.verify = server.bundle
    session.trust_env = False
    return session


def manager_of_any(server):
    """Return a manager whose exchanges find the server's certificate."""
    manager = TokenManager(
        RefreshTokenGrant(server.token_endpoint, "client", verify=server.bundle), refresh_ahead=0
    )
    manager.sign_in(server.sign_in_token())
    return manager


def rejecting(server, body, **changes):
    """Have the server's 401s say ``body``, bytes or a function that makes an iterable."""

    def answer(request, answer):
        if answer.status != 401:
            return None
        return answer.but(body=body() if callable(body) else body, **changes)

    server.on("/resource", answer)


def endless():
    while True:
        yield b"x" * 1000


GZIP = [("Content-Encoding", "gzip")]

# What the 401 says, how, and whether its connection can be used again.
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
    """P8, P13: what came within the bound is there; only a whole one leaves its connection."""
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
    # The one connection is not held by who waits for the refresh.
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
def test_a_drained_401_is_read_as_any_response(reading, plain):
    """P13: ``content``, ``iter_content``, ``text``, and undecoded in ``raw``."""
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
def test_a_trickle_is_cut_off(name, server, monkeypatch):
    """P8: eight threads behind one connection, a 401 that never ends, and nobody hangs."""
    monkeypatch.setattr(drain, "DRAIN_SECONDS", 0.03)
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
def test_eight_threads_behind_one_connection(name, server):
    """P8: with short bodies too, and then the one connection serves them all."""
    changes = dict(BODIES[name][0])
    rejecting(server, changes.pop("body"), **changes)
    session = narrow(server)
    server.gate(1, then=server.revoke_access_tokens)
    outcomes = at_once(8, lambda n: session.get(server.resource))
    assert [o.status_code for o in outcomes] == [200] * 8
    (pool,) = session.get_adapter(server.url).poolmanager.pools._container.values()
    assert pool.num_connections == 1
    session.close()


def test_one_second_is_the_limit(plain):
    """P8: the bound that the documentation gives, and not much more, though a byte always comes."""
    rejecting(plain, endless, trickle=20)
    session = narrow(plain)
    plain.revoke_access_tokens()
    began = time.monotonic()
    response = session.get(plain.resource)
    assert 1.0 <= time.monotonic() - began < 3.0
    assert response.status_code == 200
    session.close()


class Crooked:
    """Answers the first request by ``script(connection)``, anything later properly."""

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
def test_a_server_that_means_harm_is_cut_off(name, plain, monkeypatch):
    """P8: a time limit for each ``recv`` would not end these; and memory stays bounded."""
    monkeypatch.setattr(drain, "DRAIN_SECONDS", 0.2)
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
    """P8, P13: the request's own ``timeout`` holds for its 401 as for any answer."""
    rejecting(plain, b"", headers=[("Content-Length", "9")])
    session = narrow(plain)
    plain.revoke_access_tokens()
    began = time.monotonic()
    assert session.get(plain.resource, timeout=0.2).status_code == 200
    assert time.monotonic() - began < drain.DRAIN_SECONDS
    session.close()


def test_a_default_timeout_of_the_process_does_no_harm(plain):
    """P13: the watch's own descriptor does not change how the connection blocks."""
    rejecting(plain, TEXT)
    socket.setdefaulttimeout(5)
    try:
        session = narrow(plain)
        for _ in range(2):
            plain.revoke_access_tokens()
            assert session.get(plain.resource, timeout=None).history[0].content == TEXT
        (pool,) = session.get_adapter(plain.url).poolmanager.pools._container.values()
        assert pool.num_connections == 1
        session.close()
    finally:
        socket.setdefaulttimeout(None)


# -- what the watch costs and leaves ---------------------------------------------------------


def drains():
    return {t.ident for t in threading.enumerate() if t.name == "silent-refresh-drain"}


@pytest.fixture
def watch(monkeypatch):
    """A watch of the test's own, that nobody used yet."""
    monkeypatch.setattr(drain, "_watch", drain._Watch())
    return drain._watch


def test_one_thread_watches_all_drains(plain, watch, monkeypatch):
    """P14: 64 parallel 401s do not start 64 threads, and the one ends soon after."""
    monkeypatch.setattr(drain, "DRAIN_SECONDS", 0.3)
    before = drains()
    session = session_of(manager_of(plain), plain.url, pool_maxsize=64)
    seen = set()
    rejecting(plain, lambda: seen.update(drains()) or iter([TEXT]))
    plain.gate(64, then=plain.revoke_access_tokens)
    outcomes = at_once(64, lambda n: session.get(plain.resource))
    assert [o.status_code for o in outcomes] == [200] * 64
    assert len((seen | drains()) - before - {None}) == 1  # None: starting
    session.close()
    until(lambda: not watch._runs)
    assert not watch._drains


def test_a_drain_that_begins_when_the_watch_would_end_is_watched(watch, monkeypatch):
    """P8: the thread's last wait times out, and before it has the lock again a drain begins."""
    monkeypatch.setattr(drain, "DRAIN_SECONDS", 0.01)
    near, far = socket.socketpair()
    slow = drain._Drain()

    class Late(threading.Condition):
        begun = False

        def wait(self, timeout=None):
            if self.begun:
                return super().wait(timeout)
            self.begun = True
            watch.begin(slow, near.fileno())
            return False

    with near, far:
        watch._changed = Late()
        watch._runs = True
        watch._run()
        assert not watch.end(slow)
        assert near.recv(1) == b""  # shut down


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors by /proc")
def test_no_descriptor_is_left(plain, monkeypatch):
    """P8: neither a drain that ended nor one that was cut off leaves a descriptor."""
    monkeypatch.setattr(drain, "DRAIN_SECONDS", 0.03)
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


def test_without_a_watch_nothing_is_drained(plain, watch, monkeypatch):
    """P8: where no thread can be started the connection is closed rather than read unbounded."""
    rejecting(plain, endless, trickle=20)
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "silent-refresh-drain":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    session = narrow(plain)
    plain.revoke_access_tokens()
    response = session.get(plain.resource)
    assert response.status_code == 200
    assert response.history[0].content == b""
    assert not watch._drains
    assert not watch._runs
    session.close()


def test_descriptors_that_are_short_fail_no_request(plain, monkeypatch):
    """P2: EMFILE at the watch costs a connection, not the request."""

    def refuse(descriptor):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "dup", refuse)
    session = narrow(plain)
    plain.revoke_access_tokens()
    assert session.get(plain.resource).status_code == 200
    session.close()


def test_an_interrupt_while_draining_frees_the_connection(plain, watch):
    """P8: Ctrl-C goes to the caller at once; the pool of one has its connection back."""
    rejecting(plain, endless, trickle=200)
    session = narrow(plain)
    plain.revoke_access_tokens()

    def interrupt():
        until(lambda: watch._drains)
        _thread.interrupt_main()

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt) as caught:
        session.get(plain.resource)
    plain.on("/resource", None)
    assert session.get(plain.resource, timeout=10).status_code == 200
    assert caught.value is not None  # and not because its frames were let go
    session.close()


def test_a_forked_child_watches_for_itself(plain):
    """P8, P13: a child that was forked during a drain has a watch of its own."""
    drain._watch.begin(slow := drain._Drain(), plain._listener._socket.fileno())
    try:
        fresh = drain._Watch.__new__(drain._Watch)
        fresh.after_fork_in_child()
        assert not fresh._drains
        assert not fresh._runs
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            ok = not drain._watch._drains and not drain._watch._runs
            os.write(write, b"y" if ok else b"n")
            os._exit(0)
        os.waitpid(pid, 0)
        assert os.read(read, 1) == b"y"
        os.close(read)
        os.close(write)
    finally:
        assert drain._watch.end(slow)


# -- other kinds of bodies ---------------------------------------------------------------------


def response_with(raw, **fields):
    response = requests.Response()
    response.status_code = 401
    response.raw = raw
    vars(response).update(fields)
    return response


def test_a_body_in_memory_needs_no_watch(watch):
    """P13: a stub's body is kept up to the bound, without a thread or a descriptor."""
    for size, kept in ((10, 10), (70_000, drain.DRAIN_BYTES)):
        raw = urllib3.HTTPResponse(
            body=io.BytesIO(b"x" * size), headers={}, status=401, preload_content=False
        )
        response = response_with(raw)
        drain.keep_body(response)
        assert len(response.content) == kept
    assert not watch._runs


def test_another_kind_of_raw_answers_for_its_size():
    """P13: what is no urllib3 response is read as requests reads it, and raises nothing."""
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
    """P13: an ``is_rejected`` that reads the content has it kept by requests already."""
    response = requests.get(plain.resource)
    raw = response.raw
    drain.keep_body(response)
    assert response.raw is raw
    assert response.json() == {"message": "unauthorized"}


def test_requests_says_whether_a_body_was_read(plain):
    """The name that the drain goes by, which ``requests`` does not promise, is still there."""
    response = requests.get(plain.resource, stream=True)
    assert response._content_consumed is False
    assert response.content
    assert response._content_consumed is True


def test_urllib3_keeps_the_response_that_cookies_come_from(plain):
    """The name that requests' cookies and our drain go by is still there, and of this very type."""
    with requests.get(plain.resource, stream=True) as response:
        assert type(response.raw._original_response) is http.client.HTTPResponse
