"""Shared by the adapter's tests: a session for a server, and listeners that record heads."""

from __future__ import annotations

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests
from queue_kit import until  # noqa: F401 (imported from here by the adapter's tests)

from requests_silent_refresh import RefreshTokenGrant, SilentRefreshAdapter, TokenManager
from requests_silent_refresh.testing import AuthorizationServer


def manager_of(server: AuthorizationServer, **options: Any) -> TokenManager:
    """Return a manager that is signed in to ``server``."""
    options.setdefault("refresh_ahead", 0)
    manager = TokenManager(RefreshTokenGrant(server.token_endpoint, "client"), **options)
    manager.sign_in(server.sign_in_token())
    return manager


def session_of(manager: TokenManager, origins: Any, **options: Any) -> requests.Session:
    """Return a session whose requests to ``origins`` carry the manager's token."""
    session = requests.Session()
    adapter = SilentRefreshAdapter(manager, origins, **options)
    adapter.mount_on(session)
    return session


def bearer_of(manager: TokenManager) -> str:
    """Return the access token that requests currently carry."""
    return manager.token().access_token.reveal()


def at_once(threads: int, work: Any) -> list[Any]:
    """Run ``work(number)`` in that many threads; return what each returned or raised."""
    outcomes: list[Any] = [None] * threads
    barrier = threading.Barrier(threads)

    def run(number: int) -> None:
        barrier.wait()
        try:
            outcomes[number] = work(number)
        except Exception as error:
            outcomes[number] = error

    running = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(30)
        assert not thread.is_alive(), "a request hangs"
    return outcomes


def tunnel(client: socket.socket, authority: str) -> None:
    """Forward data between ``client`` and ``authority`` (host:port) until both have ended."""
    host, port = authority.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as upstream:
        client.sendall(b"HTTP/1.1 200 Connected\r\nVia: test\r\n\r\n")
        back = threading.Thread(target=_carry, args=(upstream, client), daemon=True)
        back.start()
        _carry(client, upstream)
        back.join()


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class Recorder:
    """A listener on loopback that records the head of every request; it may act as a proxy.

    ``redirects`` maps a path to its redirect's target (302, or the status given with it);
    other paths are answered 200. CONNECT gets 502 unless ``tunnels`` is set.
    """

    def __init__(self, host: str = "127.0.0.1", *, tunnels: bool = False) -> None:
        self.heads: list[str] = []
        self.redirects: dict[str, str | tuple[int, str]] = {}
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle_one_request()

            def answer(self) -> None:
                recorder.heads.append(f"{self.requestline}\n{self.headers}")
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                target = recorder.redirects.get(self.path)
                status = 200
                if self.command == "CONNECT" and tunnels:
                    self.close_connection = True
                    return tunnel(self.connection, self.path)
                if self.command == "CONNECT":
                    status = 502
                elif target is not None:
                    status, target = target if isinstance(target, tuple) else (302, target)
                self.send_response(status)
                if target is not None:
                    self.send_header("Location", target)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

            do_GET = do_POST = do_PUT = do_HEAD = do_OPTIONS = do_CONNECT = answer

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            daemon_threads = True

        self._server = Server((host, 0), Handler)
        self.port: int = self._server.server_address[1]
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self.port}"

    def __enter__(self) -> Recorder:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True
        ).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def heard(self, text: str) -> list[str]:
        """Return the recorded heads that contain ``text``."""
        return [head for head in self.heads if text in head]
