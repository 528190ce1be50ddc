"""One POST to a token endpoint: what it sends, its deadline, and what it leaves behind."""

from __future__ import annotations

import contextlib
import gc
import gzip
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
import urllib3

from requests_silent_refresh.errors import InsecureTransport
from requests_silent_refresh.grants.answer import SIZE_LIMIT, EndpointAnswer, NoAnswer
from requests_silent_refresh.grants.answer import no_answer as why_not
from requests_silent_refresh.grants.token_endpoint import TokenEndpoint
from requests_silent_refresh.testing import AuthorizationServer

BODY = b"grant_type=refresh_token&client_id=client&refresh_token=canary"
CANARY = b"canary"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

Script = Callable[[socket.socket], None]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[AuthorizationServer]:
    with AuthorizationServer() as running:
        yield running


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


class RawServer:
    """Runs ``script`` on each connection, and records what it received."""

    def __init__(self, script: Script) -> None:
        self.received: list[bytes] = []
        self.ended = threading.Semaphore(0)
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/token"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                self._threads.append(
                    threading.Thread(target=self._serve, args=(connection,), daemon=True)
                )
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self._script(connection)
        self.ended.release()

    def read_request(self, connection: socket.socket) -> bytes:
        request = b""
        self.received.append(request)
        place = len(self.received) - 1
        while not request.endswith(BODY) and (data := connection.recv(65536)):
            request += data
            self.received[place] = request
        return request

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)


@contextlib.contextmanager
def raw_server(script: Callable[[RawServer, socket.socket], None]) -> Iterator[RawServer]:
    server = RawServer(lambda connection: script(server, connection))
    try:
        yield server
    finally:
        server.close()


def answering(*parts: bytes) -> Callable[[RawServer, socket.socket], None]:
    """Return a script: read the request, send ``parts``, close."""

    def script(server: RawServer, connection: socket.socket) -> None:
        server.read_request(connection)
        for part in parts:
            connection.sendall(part)

    return script


def reading_until_closed(server: RawServer, connection: socket.socket) -> None:
    """A script: answer nothing, and read until the client closes."""
    server.read_request(connection)
    while connection.recv(65536):
        pass


def trickling(start: bytes, drop: bytes) -> Callable[[RawServer, socket.socket], None]:
    """Return a script: read the request, send ``start``, then ``drop`` 50 times a second."""

    def script(server: RawServer, connection: socket.socket) -> None:
        server.read_request(connection)
        connection.sendall(start)
        while True:
            connection.sendall(drop)
            threading.Event().wait(0.02)

    return script


def tunnelling(server: RawServer, client: socket.socket) -> None:
    """A script: act as a proxy that tunnels each CONNECT, and record what it can read."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(65536)
    host, port = head.split()[1].decode().rsplit(":", 1)
    with socket.create_connection((host, int(port))) as upstream:
        client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        back = threading.Thread(target=copy, args=(upstream, client, []))
        back.start()
        seen = [head]
        copy(client, upstream, seen)
        back.join()
        server.received.append(b"".join(seen))


def copy(source: socket.socket, target: socket.socket, seen: list[bytes]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            seen.append(data)
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def ok(body: bytes, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def post(url: str, seconds: float = 10.0, **options: Any) -> EndpointAnswer | NoAnswer:
    endpoint = TokenEndpoint(url, **options)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return endpoint.post(BODY, headers, time.monotonic() + seconds)


def no_answer(url: str, seconds: float = 10.0, **options: Any) -> NoAnswer:
    outcome = post(url, seconds, **options)
    assert isinstance(outcome, NoAnswer), outcome
    return outcome


def talkers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "token-endpoint"]


def run_in_dev_mode(program: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program for which every warning is an error."""
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


class TestConstruction:
    @pytest.mark.parametrize(
        "url",
        [
            "",
            "auth.example.com/token",
            "/token",
            "https://",
            "https:///token",
            "ftp://auth.example.com/token",
            "http+unix://%2Fvar%2Frun%2Fauth.sock/token",
            "https://auth.example.com:port/token",
            "https://auth.example.com/token\n",
            " https://auth.example.com/token",
            "https://auth example.com/token",
            "https://auth.example.com/token#part",
            None,
            b"https://auth.example.com/token",
        ],
    )
    def test_an_invalid_url_is_refused_at_construction(self, url: Any) -> None:
        """An invalid URL raises an error that names the argument and gives an example."""
        expected = r"token_endpoint must be a URL such as 'https://"
        with pytest.raises((TypeError, ValueError), match=expected):
            TokenEndpoint(url)

    def test_a_url_with_a_password_is_refused_without_showing_it(self) -> None:
        """P12: a password in the URL raises a ValueError whose message omits it."""
        with pytest.raises(ValueError, match="client_secret") as caught:
            TokenEndpoint("https://user:canary@auth.example.com/token")
        assert "canary" not in str(caught.value)

    @pytest.mark.parametrize("host", ["auth.example.com", "127.0.0.1.example.com", "10.0.0.1", "2"])
    def test_plain_http_is_refused_at_construction(self, host: str) -> None:
        """P11: a token endpoint over plain http is refused, unless it is loopback."""
        with pytest.raises((InsecureTransport, ValueError)):
            TokenEndpoint(f"http://{host}/token")

    @pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "[::1]:1"])
    def test_plain_loopback_is_accepted(self, host: str) -> None:
        """P11: plain http within this machine, for tests, needs no flag."""
        assert str(TokenEndpoint(f"http://{host}/token?key=canary")) == f"http://{host}/token"


class TestWhatIsSent:
    def test_one_request_without_netrc_or_cookies(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """The token endpoint gets no password from netrc, no cookie, and each body once."""
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login me password other-canary\n")
        monkeypatch.setenv("NETRC", str(netrc))
        with raw_server(answering(ok(b"{}", "Set-Cookie: a=b"))) as server:
            assert requests.utils.get_netrc_auth(server.url) == ("me", "other-canary")
            post(server.url)
            post(server.url)
        assert len(server.received) == 2
        for request in server.received:
            head, _, body = request.partition(b"\r\n\r\n")
            assert body == BODY
            assert head.startswith(b"POST /token HTTP/1.1\r\n")
            assert b"authorization" not in head.lower()
            assert b"cookie" not in head.lower()
            assert b"Accept-Encoding: identity" in head
            assert b"Connection: close" in head

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_no_redirect_is_followed_nor_read(self, server: Any, status: int) -> None:
        """The refresh token is not sent to a redirect's target; the redirect's body is not read."""
        with raw_server(reading_until_closed) as other:
            server.fault("token", status=status, redirect=other.url, huge=True)
            outcome = post(server.token_endpoint, seconds=5)
            assert isinstance(outcome, EndpointAnswer)
            assert outcome.status == status
        assert other.received == []

    def test_nothing_is_retried(self) -> None:
        """A 503 with Retry-After or a closed connection leads to no second request."""
        busy = b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
        for parts in ([busy], []):
            with raw_server(answering(*parts)) as server:
                post(server.url)
            assert len(server.received) == 1


class TestTransport:
    """The token endpoint's TLS, proxy and CA are independent of the API's (Authlib PR 896)."""

    def test_tls_with_its_own_ca(self, server_tls: Any, ca: str) -> None:
        """P11: `verify` is for this endpoint; without it the certificate is rejected."""
        with AuthorizationServer(tls=server_tls) as server:
            assert isinstance(post(server.token_endpoint, verify=ca), EndpointAnswer)
            refused = no_answer(server.token_endpoint)
        assert refused.kind == "unreachable"
        assert "CERTIFICATE_VERIFY_FAILED" in refused.detail
        assert server.counters.exchanges == 1

    def test_the_environments_ca_bundle_applies_unless_given(
        self, server_tls: Any, ca: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """REQUESTS_CA_BUNDLE applies to the token endpoint too, and `verify` overrides it."""
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", ca)
        with AuthorizationServer(tls=server_tls) as server:
            assert isinstance(post(server.token_endpoint), EndpointAnswer)
            assert no_answer(server.token_endpoint, verify=True).kind == "unreachable"

    def test_a_client_certificate(self, authority: trustme.CA, ca: str, tmp_path: Path) -> None:
        """`cert` authenticates the client (RFC 8705); without it the server hangs up."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(
            tmp_path / "client.pem"
        )
        with AuthorizationServer(tls=context) as server:
            url = server.token_endpoint
            assert isinstance(
                post(url, verify=ca, cert=str(tmp_path / "client.pem")), EndpointAnswer
            )
            assert no_answer(url, verify=ca).kind in ("garbled", "cut off", "unreachable")

    @pytest.mark.parametrize("given", [True, False])
    def test_https_goes_through_the_proxy_unseen(
        self, server_tls: Any, ca: str, given: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The environment's proxy, or a given one, tunnels the exchange and cannot read it."""
        with raw_server(tunnelling) as proxy, AuthorizationServer(tls=server_tls) as server:
            address = f"http://127.0.0.1:{proxy.port}"
            monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1" if given else address)
            proxies = {"https": address} if given else None
            assert isinstance(
                post(server.token_endpoint, verify=ca, proxies=proxies), EndpointAnswer
            )
            assert proxy.ended.acquire(timeout=10)
        assert proxy.received[0].startswith(b"CONNECT 127.0.0.1:")
        assert CANARY not in proxy.received[0]

    def test_an_empty_mapping_of_proxies_means_none(
        self, server_tls: Any, ca: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`proxies={}` connects directly, although the environment names a proxy."""
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        with AuthorizationServer(tls=server_tls) as server:
            assert no_answer(server.token_endpoint, verify=ca).kind == "unreachable"
            assert isinstance(post(server.token_endpoint, verify=ca, proxies={}), EndpointAnswer)

    @pytest.mark.parametrize("how", ["environment", "argument"])
    def test_plain_loopback_is_never_sent_through_a_proxy(
        self, server: Any, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """P11: with HTTP_PROXY, the proxy would get the refresh token in clear text."""
        with raw_server(reading_until_closed) as proxy:
            address = f"http://127.0.0.1:{proxy.port}"
            proxies = None
            if how == "environment":
                monkeypatch.setenv("HTTP_PROXY", address)
            else:
                proxies = {"all": address}
            with pytest.raises(InsecureTransport, match="NO_PROXY"):
                post(server.token_endpoint, proxies=proxies)
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            if how == "environment":
                assert isinstance(post(server.token_endpoint), EndpointAnswer)
        assert proxy.received == []

    @pytest.mark.parametrize(
        ("options", "detail"),
        [
            ({"verify": "/does/not/exist.pem"}, "CA certificate bundle"),
            ({"proxies": {"https": "http://"}}, "InvalidProxyURL"),
            ({"proxies": {"https": "gopher://127.0.0.1:1"}}, ""),
        ],
    )
    def test_an_argument_that_cannot_work_is_a_set_up_error(
        self, options: dict[str, Any], detail: str
    ) -> None:
        """A missing CA bundle or a bad proxy is not an outage, because waiting cannot help."""
        outcome = no_answer("https://127.0.0.1:1/token", **options)
        assert outcome.kind == "set-up"
        assert detail in outcome.detail

    def test_a_header_that_cannot_be_sent_is_a_set_up_error_and_not_shown(self) -> None:
        """P12: a header value with a line break is neither sent nor shown in the outcome."""
        endpoint = TokenEndpoint("https://127.0.0.1:1/token")
        outcome = endpoint.post(BODY, {"X-Api-Key": "canary\r\nx: y"}, time.monotonic() + 5)
        assert isinstance(outcome, NoAnswer)
        assert outcome.kind == "set-up"
        assert "canary" not in repr(outcome)


class TestTheAnswer:
    def test_its_repr_shows_no_body(self, server: Any) -> None:
        """P12: printing an EndpointAnswer shows no token and no cookie."""
        server.fault("token", body='{"access_token": "canary"}', headers={"Set-Cookie": "canary=1"})
        outcome = post(server.token_endpoint)
        assert repr(outcome) == "EndpointAnswer(status=200, 26 bytes)"

    @pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "identity", "GZIP"])
    def test_an_encoding_that_was_not_requested_is_decoded(self, encoding: str) -> None:
        """An answer is decoded if the server compresses it without being asked."""
        plain = b'{"access_token": "a"}'
        packed = {"deflate": zlib.compress, "identity": bytes}.get(encoding, gzip.compress)(plain)
        with raw_server(answering(ok(packed, f"Content-Encoding: {encoding}"))) as server:
            outcome = post(server.url)
        assert isinstance(outcome, EndpointAnswer)
        assert outcome.payload == {"access_token": "a"}

    @pytest.mark.parametrize(
        ("encoding", "body"),
        [
            ("gzip", gzip.compress(b" " * SIZE_LIMIT * 8, mtime=0)),
            ("deflate", zlib.compress(b" " * SIZE_LIMIT * 8)),
            ("gzip, gzip", gzip.compress(gzip.compress(b" " * SIZE_LIMIT * 8, mtime=0), mtime=0)),
            ("br", b"whatever"),
            ("gzip", b"this is no gzip"),
            ("gzip", gzip.compress(b'{"access_token": "a"}', mtime=0)[:-4]),
        ],
    )
    def test_a_bomb_or_an_unknown_encoding_has_no_body(self, encoding: str, body: bytes) -> None:
        """P8: the decoded size is bounded too, and an incomplete body is discarded."""
        with raw_server(answering(ok(body, f"Content-Encoding: {encoding}"))) as server:
            outcome = post(server.url)
        assert isinstance(outcome, EndpointAnswer)
        assert outcome.body == b""
        assert outcome.payload is None

    def test_an_endless_answer_is_left_at_the_size_limit(self, server: Any) -> None:
        """P8: reading an endless answer stops after a megabyte, long before the deadline."""
        server.fault("token", huge=True)
        outcome = post(server.token_endpoint, seconds=60)
        assert isinstance(outcome, EndpointAnswer)
        assert outcome.body == b""

    @pytest.mark.parametrize(
        ("label", "body", "payload"),
        [
            ("application/json", b'{"a": 1}', {"a": 1}),
            ("text/html", b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
            (
                "application/x-www-form-urlencoded; charset=utf-8",
                b"a=1&b=%20",
                {"a": "1", "b": " "},
            ),
            ("application/x-www-form-urlencoded", b'{"a": "b=c"}', {"a": "b=c"}),
            ("application/x-www-form-urlencoded", b"\xff=1", {"\xff": "1"}),
            ("text/plain", b"access_token=a&scope=b", {"access_token": "a", "scope": "b"}),
            ("text/plain", b"access_token=a&name=\xff", {"access_token": "a", "name": "\xff"}),
            ("application/json", b'{"a": "two\nlines"}', {"a": "two\nlines"}),
            ("application/x-www-form-urlencoded", b"&".join([b"a=1"] * 200), None),
            ("application/json", b"a=1", None),
            ("application/json", b"[1]", None),
            ("application/json", b"[" * 100_000, None),
            ("application/json", b"\xff\xfe\xff", None),
            ("application/json", b"", None),
            ("text/html", b"<html>a=1</html>", None),
        ],
    )
    def test_what_counts_as_an_object(self, label: str, body: bytes, payload: Any) -> None:
        """P16: JSON is parsed under any content type, a form under its own or with a token."""
        headers = requests.structures.CaseInsensitiveDict({"content-type": label})
        assert EndpointAnswer(200, headers, body, 0.0).payload == payload

    @pytest.mark.parametrize(
        "charset", ["iso-8859-1", "ISO-8859-15", "cp1252", "utf-16", "utf-16-le", "utf-32", "cp037"]
    )
    @pytest.mark.parametrize("label", ["; charset={}", ';charset="{}"', "", "; charset=no-such"])
    def test_json_in_any_charset(self, charset: str, label: str) -> None:
        """P16: whatever the charset, and the label if it can be guessed, the token is read."""
        label = label.format(charset)
        if charset == "cp037" and charset not in label:
            pytest.skip("EBCDIC cannot be guessed")
        body = json.dumps({"a": "t", "name": "José"}, ensure_ascii=False).encode(charset)
        answer = EndpointAnswer(200, {"Content-Type": f"application/json{label}"}, body, 0.0)
        assert answer.payload == {"a": "t", "name": "José"}

    @pytest.mark.parametrize("label", ["iso-8859-1", "utf-16", "rot13", "\0", "ascii", "x" * 999])
    @pytest.mark.parametrize("start", ["", "\ufeff"])
    def test_a_wrong_charset_does_no_harm(self, label: str, start: str) -> None:
        """P16: UTF-8 with or without a mark is read under any label."""
        body = f'{start}{{"a": "José"}}'.encode()
        answer = EndpointAnswer(200, {"Content-Type": f"text/json;charset={label}"}, body, 0.0)
        assert answer.payload == {"a": "José"}

    @pytest.mark.parametrize(
        ("date", "expected"),
        [
            ("Thu, 01 Jan 1970 01:00:00 GMT", 3600.0),
            ("Thu, 01 Jan 1970 01:00:00 -0000", 3600.0),
            ("Thu, 01 Jan 1970 00:16:41 GMT", 1000.5),
            ("yesterday", 1000.5),
            (None, 1000.5),
        ],
    )
    def test_the_servers_clock(self, date: str | None, expected: float) -> None:
        """The server's Date is used, unless our clock agrees with it and is more exact."""
        headers = {} if date is None else {"Date": date}
        assert EndpointAnswer(200, headers, b"", 1000.5).server_time == expected


class TestNoAnswer:
    def test_nobody_listens(self) -> None:
        """A refused connection is "unreachable", with the system's error as the cause."""
        with socket.create_server(("127.0.0.1", 0)) as reserved:
            port = reserved.getsockname()[1]
        outcome = no_answer(f"http://127.0.0.1:{port}/token")
        assert outcome.kind == "unreachable"
        assert isinstance(outcome.cause, ConnectionRefusedError)

    def test_an_unknown_host(self) -> None:
        """A name that cannot be resolved is "unreachable"."""
        assert no_answer("https://auth.invalid/token").kind == "unreachable"

    def test_a_server_that_hangs_up_in_the_handshake(self) -> None:
        """Nothing is sent before the TLS handshake ends, so closing there is "unreachable"."""
        with raw_server(lambda server, connection: None) as server:
            assert no_answer(server.url.replace("http:", "https:")).kind == "unreachable"

    def test_a_proxy_that_hangs_up(self) -> None:
        """A proxy that closes after the CONNECT has not seen the request: "unreachable"."""
        with raw_server(lambda server, connection: connection.recv(1)) as server:
            proxies = {"https": f"http://127.0.0.1:{server.port}"}
            assert no_answer("https://auth.invalid/", proxies=proxies).kind == "unreachable"

    def test_the_cause_is_kept_alone(self) -> None:
        """P12: the system's error is kept without its own causes and without frames."""
        try:
            try:
                raise ValueError("canary")
            except ValueError as error:
                raise ConnectionResetError("reset") from error
        except ConnectionResetError as error:
            outcome = why_not(error, sent=True)
        cause = outcome.cause
        assert isinstance(cause, ConnectionResetError)
        assert cause.__cause__ is cause.__context__ is cause.__traceback__ is None

    @pytest.mark.parametrize(
        "parts",
        [
            (),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b'{"access_token": "canary'),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"18\r\n{canary"),
        ],
    )
    def test_a_connection_closed_after_sending_is_cut_off(self, parts: tuple[bytes, ...]) -> None:
        """P12: the server may have processed the request; a partial answer is not kept."""
        with raw_server(answering(*parts)) as server:
            outcome = no_answer(server.url)
        assert outcome.kind == "cut off"
        assert "canary" not in outcome.detail
        assert "canary" not in repr(vars(outcome.cause) if outcome.cause else None)

    def test_a_reset_after_sending_is_cut_off(self) -> None:
        """A reset counts as a closed connection."""

        def script(server: RawServer, connection: socket.socket) -> None:
            server.read_request(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        with raw_server(script) as server:
            outcome = no_answer(server.url)
        assert outcome.kind == "cut off"
        assert isinstance(outcome.cause, ConnectionResetError)

    def test_a_tls_connection_cut_after_sending_is_cut_off(self, server_tls: Any, ca: str) -> None:
        """The same applies to a TLS connection."""
        with AuthorizationServer(tls=server_tls) as server:
            server.fault("token", drop="after")
            assert no_answer(server.token_endpoint, verify=ca).kind == "cut off"

    def test_an_incomplete_503_is_still_a_503(self) -> None:
        """The status of a failure is enough, so it does not lead to an immediate retry."""
        torn = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 100\r\n\r\nx"
        with raw_server(answering(torn)) as server:
            outcome = post(server.url)
        assert isinstance(outcome, EndpointAnswer)
        assert (outcome.status, outcome.body) == (503, b"")

    @pytest.mark.parametrize(
        "start",
        [
            b'{"access_token": "canary"}\r\n\r\n',
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
            b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000,
        ],
    )
    def test_what_is_not_http_is_garbled_and_not_kept(self, start: bytes) -> None:
        """P12: an answer that is not HTTP is "garbled", not "cut off", and its text is dropped."""
        with raw_server(answering(start)) as server:
            outcome = no_answer(server.url)
        assert outcome.kind == "garbled"
        assert outcome.cause is None
        assert "canary" not in outcome.detail


class TestTheDeadline:
    """The deadline holds; a stalled token endpoint blocked every caller of google-auth (#1602)."""

    def left_in_time(self, url: str, **options: Any) -> None:
        started = time.monotonic()
        outcome = no_answer(url, seconds=0.3, **options)
        assert time.monotonic() - started < 1.3
        assert outcome.kind == "timeout"
        for talker in talkers():
            talker.join(5)
        assert talkers() == []

    @pytest.mark.parametrize(
        ("start", "drop"),
        [
            (b"", b"H"),
            (b"HTTP/1.1 200 OK\r\n", b"x"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" "),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
            (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
            (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ],
    )
    def test_a_trickle_does_not_extend_it(self, start: bytes, drop: bytes) -> None:
        """P8: 50 bytes a second, in the head or the body, are cut off at the deadline."""
        with raw_server(trickling(start, drop)) as server:
            self.left_in_time(server.url)

    def test_silence_does_not_extend_it(self) -> None:
        """P8: the connection to a server that never answers is closed at the deadline."""
        with raw_server(reading_until_closed) as server:
            self.left_in_time(server.url)
            assert server.ended.acquire(timeout=5)

    def test_a_stalled_handshake_does_not_extend_it(self) -> None:
        """P8: a server that never continues the TLS handshake gets no request."""
        with raw_server(reading_until_closed) as server:
            self.left_in_time(server.url.replace("http:", "https:"))
        assert CANARY not in server.received[0]

    def test_an_address_that_never_connects_leaves_time_for_the_next(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """P7: an address that a VPN swallows does not take the time of the host's other one."""
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(raw_server(answering(ok(b'{"access_token": "a"}'))))
            hole = stack.enter_context(socket.socket())
            hole.bind(("127.0.0.9", server.port))
            hole.listen(0)
            for _ in range(4):  # the backlog is full then, and the kernel drops what follows
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(hole.getsockname())
            addresses = [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, server.port))
                for host in ("127.0.0.9", "127.0.0.1")
            ]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: addresses)
            outcome = post(server.url.replace("127.0.0.1", "localhost"), 3.0, proxies={})
        assert isinstance(outcome, EndpointAnswer), outcome

    def test_a_slow_proxy_has_all_the_time_that_is_left(self) -> None:
        """P8: only connecting to an address is cut short; what the proxy says is cleaned (P12)."""

        def slow(server: RawServer, client: socket.socket) -> None:
            client.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                while client.recv(65536):
                    pass
            client.sendall(b"HTTP/1.1 403 Forbidden\x1b[31m\r\n\r\n")

        with raw_server(slow) as server:
            proxies = {"https": f"http://127.0.0.1:{server.port}"}
            outcome = no_answer("https://auth.invalid/token", seconds=1.2, proxies=proxies)
        assert (outcome.kind, "403 Forbidden" in outcome.detail) == ("unreachable", True)
        assert outcome.detail.isprintable()

    def test_a_stalled_proxy_does_not_extend_it(self) -> None:
        """P8: a proxy that never answers the CONNECT gets no request."""
        with raw_server(reading_until_closed) as server:
            proxies = {"https": f"http://127.0.0.1:{server.port}"}
            self.left_in_time("https://auth.invalid/token", proxies=proxies)
        assert server.received[0].startswith(b"CONNECT auth.invalid:443")
        assert CANARY not in server.received[0]

    def test_a_stalled_resolver_does_not_extend_it_and_nothing_is_sent_later(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """P8: getaddrinfo cannot be interrupted, but nothing is sent when it returns late."""
        asked, go_on = threading.Event(), threading.Event()
        resolve = socket.getaddrinfo

        def slow(*args: Any, **kwargs: Any) -> Any:
            asked.set()
            go_on.wait(10)
            return resolve(*args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", slow)
        with raw_server(reading_until_closed) as server:
            started = time.monotonic()
            assert no_answer(server.url, seconds=0.3).kind == "timeout"
            assert time.monotonic() - started < 1.3
            assert asked.is_set()
            (talker,) = talkers()
            go_on.set()
            talker.join(10)
            assert not talker.is_alive()
            assert server.ended.acquire(timeout=5)
        assert server.received == [b""]

    def test_many_dead_addresses_do_not_extend_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """P8: urllib3's connect timeout is for each address, the deadline for all of them."""
        with contextlib.ExitStack() as stack:
            full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            address = full.getsockname()
            for _ in range(4):  # fill the backlog, so that the kernel drops further connections
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(address)
            found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)] * 8
            monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
            started = time.monotonic()
            assert no_answer(f"http://127.0.0.1:{address[1]}/token", seconds=0.3).kind == "timeout"
            assert time.monotonic() - started < 1.3
        for talker in talkers():
            talker.join(10)

    def test_nothing_is_sent_after_it(self) -> None:
        """P8: if the deadline has already passed, as it may for a second try, nothing is sent."""
        with raw_server(reading_until_closed) as server:
            assert no_answer(server.url, seconds=0).kind == "timeout"
            for talker in talkers():
                talker.join(5)
        assert b"".join(server.received) == b""

    def test_an_interrupt_cuts_the_connection(self, server: Any) -> None:
        """P5: Ctrl-C in a direct call is raised at once, and the exchange ends with it."""
        gate = server.token_gate()

        def interrupt() -> None:
            gate.arrived.wait(10)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            post(server.token_endpoint, seconds=30)
        interrupter.join()
        for talker in talkers():
            talker.join(5)
        assert talkers() == []
        gate.release()


class TestWithoutThreads:
    """If no thread can be started, the exchange runs in the calling thread."""

    @pytest.fixture(autouse=True)
    def no_threads(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if thread.name == "token-endpoint":
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)

    def test_it_still_answers(self, server: Any) -> None:
        """P5: a token is still refreshed while the process is at its limit of threads."""
        outcome = post(server.token_endpoint)
        assert isinstance(outcome, EndpointAnswer)
        assert outcome.payload == {"error": "invalid_grant"}

    @pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\n\r\n"])
    def test_silence_and_a_trickling_body_end_at_the_deadline(self, start: bytes) -> None:
        """P8: each read is bounded by a timeout, and the body as a whole by the clock."""
        script = trickling(start, b" ") if start else reading_until_closed
        with raw_server(script) as server:
            started = time.monotonic()
            assert no_answer(server.url, seconds=0.3).kind == "timeout"
            assert time.monotonic() - started < 1.3

    def test_at_the_exit_of_the_interpreter(self, server: Any) -> None:
        """P5: an exchange that an atexit handler makes is completed."""
        program = f"""
            import atexit, time
            from requests_silent_refresh.grants.token_endpoint import TokenEndpoint

            endpoint = TokenEndpoint({server.token_endpoint!r})
            atexit.register(lambda: print(endpoint.post(b"", {{}}, time.monotonic() + 10)))
            """
        run = run_in_dev_mode(program)
        assert run.stdout.startswith("EndpointAnswer(status=400"), run.stderr
        assert run.stderr == ""


KINDS = (
    requests.Response,
    requests.PreparedRequest,
    requests.Session,
    urllib3.HTTPConnectionPool,
    urllib3.BaseHTTPResponse,
)


def open_connections_to(ports: set[int]) -> list[socket.socket]:
    """Return the open sockets of this process that are connected to one of the ports."""
    found = []
    for thing in gc.get_objects():
        if isinstance(thing, socket.socket) and thing.fileno() != -1:
            with contextlib.suppress(OSError):
                if thing.family == socket.AF_INET and thing.getpeername()[1] in ports:
                    found.append(thing)
    return found


class TestWhatIsLeftBehind:
    """A kept exception must not keep its response, the response's pool and the pool's socket."""

    def test_no_socket_and_no_pool_outlive_an_exchange(self, server_tls: Any, ca: str) -> None:
        """200 exchanges that fail in various ways leave no socket and no other object behind."""
        torn = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"
        keep_alive = b"HTTP/1.1 404 Not here\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"
        with (
            AuthorizationServer(tls=server_tls) as secure,
            AuthorizationServer() as plain,
            raw_server(answering(torn)) as tearing,
            raw_server(answering(keep_alive)) as keeping,
        ):
            plain.fault("token", huge=True, times=None)
            secure.fault("token", drop="after", times=None)
            ways: list[tuple[str, dict[str, Any]]] = [
                (plain.token_endpoint, {}),
                (plain.url + "/nothing-here", {}),
                (secure.token_endpoint, {"verify": ca}),
                (secure.token_endpoint, {}),
                (tearing.url, {}),
                (keeping.url, {}),
                ("http://127.0.0.1:1/token", {}),
            ]
            for url, options in ways:  # what is loaded once does not count
                post(url, **options)
            gc.collect()
            before = {id(thing) for thing in gc.get_objects() if isinstance(thing, KINDS)}
            kept = []
            for turn in range(200):
                url, options = ways[turn % len(ways)]
                kept.append(post(url, **options))
            for talker in talkers():
                talker.join(5)
            ours = {server.port for server in (tearing, keeping)}
            ours |= {int(server.url.rpartition(":")[2]) for server in (secure, plain)}
            assert open_connections_to(ours) == []
        gc.collect()
        assert len(kept) == 200
        now = [thing for thing in gc.get_objects() if isinstance(thing, KINDS)]
        assert [thing for thing in now if id(thing) not in before] == []

    @pytest.mark.parametrize("endless", [True, False])
    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_the_connection_is_closed_even_if_the_response_is_kept(
        self,
        scheme: str,
        endless: bool,
        server_tls: Any,
        ca: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The connection is closed without the garbage collector, even with keep-alive."""
        held = []
        build = requests.adapters.HTTPAdapter.build_response

        def holding(*args: Any) -> requests.Response:
            held.append(build(*args))
            return held[-1]

        def script(server: RawServer, connection: socket.socket) -> None:
            if scheme == "https":
                connection = server_tls.wrap_socket(connection, server_side=True)
            with connection:
                server.read_request(connection)
                if endless:
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * SIZE_LIMIT * 2)
                else:
                    connection.sendall(ok(b"{}", "Connection: keep-alive"))
                while connection.recv(65536):
                    pass

        monkeypatch.setattr(requests.adapters.HTTPAdapter, "build_response", holding)
        with raw_server(script) as server:
            url = server.url.replace("http:", f"{scheme}:")
            assert isinstance(post(url, verify=ca), EndpointAnswer)
            assert server.ended.acquire(timeout=5)
        assert len(held) == 1

    def test_dev_mode_reports_no_unclosed_resource(self, server: Any) -> None:
        """`python -X dev -W error` reports no unclosed socket, whatever the outcome."""
        server.fault("token", drop="after", times=5)
        server.fault("token", huge=True, times=5)
        server.fault("token", trickle=1, times=2)
        program = f"""
            import gc, threading, time
            from requests_silent_refresh.grants.token_endpoint import TokenEndpoint

            endpoint = TokenEndpoint({server.token_endpoint!r})
            kept = [endpoint.post(b"", {{}}, time.monotonic() + 0.2) for _ in range(20)]
            kept += [TokenEndpoint("http://127.0.0.1:1/").post(b"", {{}}, time.monotonic() + 5)]
            for thread in threading.enumerate():
                if thread is not threading.current_thread():
                    thread.join()
            gc.collect()
            """
        run = run_in_dev_mode(program)
        assert (run.returncode, run.stderr) == (0, "")
