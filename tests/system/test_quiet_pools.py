"""The connection pools that never print what they send."""

from __future__ import annotations

import http.client
import pickle
import ssl
from typing import Any

import pytest
import requests
import trustme
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from wire import Recorder as Proxy

from requests_silent_refresh.system import quiet_pools
from requests_silent_refresh.system.quiet_pools import QuietHTTPAdapter, quiet
from requests_silent_refresh.testing import AuthorizationServer

CANARY = "canary-do-not-print"
HEADERS = {"Authorization": f"Bearer {CANARY}"}


@pytest.fixture(autouse=True)
def debug_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn on the debug output of ``http.client``, as an application does to see its traffic."""
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)


def session_with(adapter: HTTPAdapter) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def test_the_debug_output_would_show_the_token(server: Any, capsys: Any) -> None:
    """The control: requests' own adapter prints the token, so the tests below can fail."""
    with session_with(HTTPAdapter()) as session:
        session.get(server.url + "/open", headers=HEADERS)
    assert CANARY in capsys.readouterr().out


def test_nothing_is_printed(server: Any, capsys: Any) -> None:
    """P12: nothing is printed for a body, an iterable body or a reused connection."""
    with session_with(QuietHTTPAdapter()) as session:
        session.get(server.url + "/open", headers=HEADERS)
        session.post(server.url + "/open", headers=HEADERS, data={"refresh_token": CANARY})
        session.post(server.url + "/open", headers=HEADERS, data=iter([CANARY.encode()]))
    assert capsys.readouterr().out == ""


def test_nothing_is_printed_through_a_forwarding_proxy(server: Any, capsys: Any) -> None:
    """P12: the pool manager of a proxy creates quiet pools too."""
    adapter = QuietHTTPAdapter()
    with session_with(adapter) as session:
        # The server itself can act as the proxy: it answers a request for an absolute URL.
        session.get("http://api.invalid/open", headers=HEADERS, proxies={"http": server.url})
        assert list(adapter.proxy_manager) == [server.url]
    assert capsys.readouterr().out == ""


def test_nothing_is_printed_through_a_tunnel(capsys: Any) -> None:
    """P12: neither the CONNECT with the proxy's password nor the tunnelled request is printed."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with (
        AuthorizationServer(tls=context) as server,
        Proxy(tunnels=True) as proxy,
        authority.cert_pem.tempfile() as ca,
        session_with(QuietHTTPAdapter()) as session,
        session.get(
            server.url + "/open",
            headers=HEADERS | {"Connection": "close"},
            proxies={"https": proxy.url.replace("//", f"//user:{CANARY}@")},
            verify=ca,
        ) as answer,
    ):
        assert answer.status_code == 200
    assert proxy.heard("Proxy-Authorization: Basic")
    assert capsys.readouterr().out == ""


def test_everything_is_printed_on_demand(
    server: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``allow_debug_output`` turns the output on, including the token."""
    monkeypatch.setattr(quiet_pools, "allow_debug_output", True)
    with session_with(QuietHTTPAdapter()) as session:
        session.get(server.url + "/open", headers=HEADERS)
    assert CANARY in capsys.readouterr().out


def test_an_unpickled_adapter_is_quiet(server: Any, capsys: Any) -> None:
    """P12, P13: the pools that are created on unpickling are quiet as well."""
    with session_with(pickle.loads(pickle.dumps(QuietHTTPAdapter()))) as session:
        session.get(server.url + "/open", headers=HEADERS)
    assert capsys.readouterr().out == ""


def test_a_recorders_connection_class_is_kept(
    server: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P13: a tool that replaces urllib3's connection class still sees the traffic."""
    seen = []

    class Recorder(HTTPConnection):
        def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
            seen.append(url)
            super().request(method, url, *args, **kwargs)

    monkeypatch.setattr(urllib3.HTTPConnectionPool, "ConnectionCls", Recorder)
    with session_with(QuietHTTPAdapter()) as session:
        session.get(server.url + "/open", headers=HEADERS)
    assert seen == ["/open"]
    assert capsys.readouterr().out == ""


def test_quiet_keeps_the_kind_of_the_pools() -> None:
    """A manager made quiet twice keeps its pool class and its name, with QuietPool added once."""

    class OwnPool(urllib3.HTTPConnectionPool):
        pass

    manager = urllib3.PoolManager()
    manager.pool_classes_by_scheme = {"http": OwnPool}
    quiet(manager)
    once = dict(manager.pool_classes_by_scheme)
    quiet(manager)
    assert manager.pool_classes_by_scheme == once
    assert issubclass(once["http"], OwnPool)
    assert once["http"].__name__ == "OwnPool"
    assert "http" in urllib3.PoolManager().pool_classes_by_scheme
    assert not issubclass(urllib3.PoolManager().pool_classes_by_scheme["http"], OwnPool)
