"""P11 on real sockets: no listener outside the origins receives a token, whatever the URL."""

from __future__ import annotations

import itertools
import socket
import threading
from contextlib import ExitStack

import pytest
import requests
from requests.adapters import HTTPAdapter
from wire import Recorder, bearer_of, session_of

from requests_silent_refresh import InsecureTransport, SilentRefreshAdapter, without_token


@pytest.fixture(scope="module")
def listeners():
    with Recorder() as api, Recorder() as stranger:
        yield api, stranger


@pytest.fixture
def api(listeners):
    listeners[0].heads.clear()
    return listeners[0]


@pytest.fixture
def stranger(listeners):
    listeners[1].heads.clear()
    return listeners[1]


def everywhere(manager, origins, **options):
    """Return a session whose adapter handles all requests, so that only its own check decides."""
    session = requests.Session()
    adapter = SilentRefreshAdapter(manager, origins, **options)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.mount("http+unix://", adapter)
    return session


# {api} and {stranger} are 127.0.0.1:PORT; {port} and {other} are just the ports.
SHAPES = [
    "http://{stranger}/",
    "http://{api}@{stranger}/",
    "http://{api}:pw@{stranger}/",
    "http://127.0.0.1:{port}@127.0.0.1:{other}/",
    "http://user:pw@{stranger}/http://{api}/",
    "http://{stranger}/{api}",
    "http://{stranger}/?http://{api}/",
    "http://{stranger}#@{api}/",
    "http://{stranger}?@{api}/",
    "http://{stranger}\\@{api}/",
    "http://{api}\\@{stranger}/",
    "http://{api}\\.{stranger}/",
    "http://{stranger}/\\@{api}/",
    "http:\\\\{stranger}/",
    "http:///{stranger}/",
    "http:/{stranger}/",
    "http://{stranger}\t@{api}/",
    "http://{api}\t@{stranger}/",
    "http://{api}\n@{stranger}/",
    "http://{api}%0a@{stranger}/",
    "http://{api}%2f@{stranger}/",
    "http://{api}%40{stranger}/",
    "http://{api}%5c@{stranger}/",
    "http://{api} @{stranger}/",
    "http://a@{api}@{stranger}/",
    "http://{stranger};@{api}/",
    "http://{api};@{stranger}/",
    "http://{api},{stranger}/",
    "http://localhost:{other}/",
    "http://127.0.0.1.:{other}/",
    "http://127.1:{other}/",
    "http://2130706433:{other}/",
    "http://0x7f.0.0.1:{other}/",
    "http://0177.0.0.1:{other}/",
    "http://0:{other}/",
    "http://127.0.0.2:{other}/",
    "http://127.0.0.1:0{other}/",
    "http://[::ffff:127.0.0.1]:{other}/",
    "http://LOCALHOST:{other}/",
    "http://\u2460\u2461\u2466.0.0.1:{other}/",
    "http://127\u3002 0.0.1:{other}/",
    "http://127\uff0e0\uff0e0\uff0e1:{other}/",
    "HTTP://{stranger}/",
    "//{stranger}/",
    " http://{stranger}/",
    "http://{stranger}/\r\nAuthorization: x",
    "http://{api}:@{stranger}/",
    "http://:{port}@{stranger}/",
    "http://%31%32%37.0.0.1:{other}/",
]


@pytest.mark.parametrize("shape", SHAPES)
def test_no_shape_of_a_url_takes_the_token_to_a_stranger(shape, manager, api, stranger):
    """P11: whether requests prepares the URL or not, the stranger receives no token."""
    canary = bearer_of(manager)
    url = shape.format(
        api=f"127.0.0.1:{api.port}",
        stranger=f"127.0.0.1:{stranger.port}",
        port=api.port,
        other=stranger.port,
    )
    with everywhere(manager, api.url) as session:
        # Once prepared by requests, and once set on the prepared request as it is.
        raw = requests.Request("GET", api.url).prepare()
        raw.url = url
        for send in (lambda: session.get(url, timeout=5), lambda: session.send(raw, timeout=5)):
            try:
                send()
            except (requests.RequestException, ValueError):
                pass
    assert stranger.heard(canary) == []


def test_the_shapes_do_reach_the_stranger(manager, api, stranger):
    """The control: most plain shapes connect, and the stranger can receive a token."""
    heard = 0
    for shape in SHAPES[:10]:
        url = shape.format(
            api=f"127.0.0.1:{api.port}",
            stranger=f"127.0.0.1:{stranger.port}",
            port=api.port,
            other=stranger.port,
        )
        before = len(stranger.heads)
        with everywhere(manager, [api.url, stranger.url]) as session:
            try:
                session.get(url, timeout=5)
            except (requests.RequestException, ValueError):
                pass
        heard += len(stranger.heads) > before
    assert heard >= 8
    assert stranger.heard(bearer_of(manager))


@pytest.mark.parametrize(
    "spelling",
    [
        "http://127.0.0.1:{port}/",
        "http://127.0.0.1:{port}",
        "HTTP://127.0.0.1:{port}/",
        "http://127.0.0.1:0{port}/",
        "http://user:pw@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}?x",
        "http://127.0.0.1:{port}#x",
        "http://127.0.0.1:{port}/\\@evil.example",
    ],
)
def test_other_spellings_of_the_origin_carry_the_token(spelling, manager, api):
    """P2, P11: any unambiguous spelling of the origin carries the token."""
    with everywhere(manager, api.url) as session:
        session.get(spelling.format(port=api.port))
    assert len(api.heard(f"Bearer {bearer_of(manager)}")) == 1


def test_a_port_is_part_of_the_origin(manager, api, stranger):
    """P11: another port of the same host is foreign, although the mount's prefix covers it."""
    with everywhere(manager, api.url) as session:
        session.get(stranger.url)
        session.get(api.url)
    assert stranger.heads
    assert stranger.heard("Authorization") == []
    assert len(api.heard("Authorization")) == 1


def test_a_mount_prefix_is_not_a_boundary(manager, api):
    """P11: a mount without a slash matches an evil suffix too; the adapter adds no token."""
    # A prefix of the real port, as api.example.com is a prefix of api.example.com.evil.com.
    shorter = f"http://127.0.0.1:{str(api.port)[:-1]}"
    with session_of(manager, shorter) as session:
        assert isinstance(session.get_adapter(api.url), SilentRefreshAdapter)
        session.get(api.url)
    assert len(api.heads) == 1
    assert api.heard("Authorization") == []


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6_literals(manager):
    """P11: any spelling of the same address is the origin; ``::1`` with another port is not."""
    try:
        api = Recorder("::1")
    except OSError:
        pytest.skip("no IPv6 loopback here")
    with api, Recorder("::1") as stranger, everywhere(manager, api.url) as session:
        session.get(f"http://[::1]:{api.port}/")
        session.get(f"http://[0:0:0:0:0:0:0:1]:{api.port}/")
        session.get(f"http://[::1]:{stranger.port}/")
        assert len(api.heard(bearer_of(manager))) == 2
        assert stranger.heads
        assert stranger.heard(bearer_of(manager)) == []


# -- proxies -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["argument", "session", "environment", "all_proxy"])
def test_a_plain_loopback_request_through_a_proxy_is_refused(
    how, manager, api, stranger, monkeypatch
):
    """P11: the proxy could read the token, so it receives nothing at all."""
    proxies = {"http": stranger.url}
    with session_of(manager, api.url) as session:
        options = {}
        if how == "argument":
            options["proxies"] = proxies
        elif how == "session":
            session.proxies = proxies
        else:
            monkeypatch.setenv("HTTP_PROXY" if how == "environment" else "ALL_PROXY", stranger.url)
        with pytest.raises(InsecureTransport, match="NO_PROXY") as caught:
            session.get(api.url + "/x", **options)
        assert caught.value.request.url == api.url + "/x"
        assert stranger.heads == []
        assert api.heads == []


def test_no_proxy_allows_plain_loopback(manager, api, stranger, monkeypatch):
    """P11: plain loopback carries the token if no proxy applies to the request."""
    monkeypatch.setenv("HTTP_PROXY", stranger.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with session_of(manager, api.url) as session:
        session.get(api.url)
    assert len(api.heard(bearer_of(manager))) == 1
    assert stranger.heads == []


def test_a_proxy_for_another_scheme_or_host_does_not_count(manager, api, stranger):
    """P11: only a proxy that would be used for the request counts."""
    proxies = {"https": stranger.url, "http://other.example": stranger.url}
    with session_of(manager, api.url) as session:
        session.get(api.url, proxies=proxies)
    assert len(api.heard(bearer_of(manager))) == 1


def test_a_request_without_a_token_may_use_the_proxy(manager, api, stranger):
    """P13: a request that carries no token goes through the proxy as before."""
    with session_of(manager, api.url) as session:
        session.get(api.url + "/x", auth=without_token, proxies={"http": stranger.url})
        session.get("http://elsewhere.example/", proxies={"http": stranger.url})
    assert len(stranger.heads) == 2
    assert stranger.heard("Authorization") == []


def test_allowing_plain_http_allows_the_proxy(manager, api, stranger):
    """P11: ``allow_insecure_http`` accepts that others can read the token."""
    with session_of(manager, api.url, allow_insecure_http=True) as session:
        session.get(api.url + "/x", proxies={"http": stranger.url})
    assert len(stranger.heard(bearer_of(manager))) == 1


def test_a_tunnel_does_not_receive_the_token(manager, stranger):
    """P11: https goes through a proxy as CONNECT, which has the host but not the header."""
    with (
        session_of(manager, "https://api.example.com") as session,
        pytest.raises(requests.exceptions.ProxyError),
    ):
        session.get("https://api.example.com/x", proxies={"https": stranger.url})
    assert len(stranger.heard("CONNECT api.example.com:443")) == 1
    assert stranger.heard("Authorization") == []
    assert stranger.heard(bearer_of(manager)) == []


# -- foreign requests are unchanged ------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_outside_the_origins_is_unchanged(method, manager, api, stranger):
    """P13: the bytes are those that requests' own adapter sends, the caller's header included."""
    options = {"headers": {"Authorization": "Mine", "X-A": "b"}, "cookies": {"c": "d"}}
    if method == "POST":
        options["data"] = {"e": "f"}
    with everywhere(manager, api.url) as ours, requests.Session() as plain:
        plain.mount("http://", HTTPAdapter())
        for session in (ours, plain):
            session.request(method, stranger.url + "/x?y=z", **options)
    assert stranger.heads[0] == stranger.heads[1]
    assert "Authorization: Mine" in stranger.heads[0]


def test_a_foreign_401_is_returned(manager, api, server):
    """P1, P13: a 401 from outside the origins is returned and starts no refresh."""
    with everywhere(manager, api.url) as session:
        assert session.get(server.resource).status_code == 401
    assert server.counters.exchanges == 0


def test_the_matrix_of_origins(manager):
    """P11: of all pairs of origin and listener, only the equal ones receive the token."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(Recorder()) for _ in range(3)]
        hosts = ["127.0.0.1", "localhost"]
        urls = [f"http://{host}:{one.port}" for host, one in itertools.product(hosts, listeners)]
        for origin in urls:
            with everywhere(manager, origin) as session:
                for one in listeners:
                    one.heads.clear()
                for url in urls:
                    session.get(url)
                heard = [head for one in listeners for head in one.heard(bearer_of(manager))]
                assert len(heard) == 1
                assert f"Host: {origin.removeprefix('http://')}" in heard[0]


def test_a_unix_socket_counts_as_local(manager, tmp_path, stranger):
    """P11: an ``http+unix`` origin is this machine, even if there is a proxy for http."""
    unixsocket = pytest.importorskip("requests_unixsocket.adapters")
    path = str(tmp_path / "api.sock")
    heard = []

    def serve():
        connection, _ = listener.accept()
        with connection:
            heard.append(connection.recv(65536).decode())
            connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        origin = "http+unix://" + path.replace("/", "%2F")
        transport = unixsocket.UnixAdapter()
        with session_of(manager, origin, transport=transport) as session:
            session.proxies = {"http": stranger.url}
            assert session.get(origin + "/v1/info").status_code == 204
        transport.close()
        thread.join(10)
    assert f"Bearer {bearer_of(manager)}" in heard[0]
    assert stranger.heads == []
