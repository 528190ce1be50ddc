"""The loopback redirect: a server on this machine that waits for one response (RFC 8252)."""

from __future__ import annotations

import contextlib
import errno
import hmac
import html
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ..errors import SilentRefreshError, printable
from .client import SignInFailed

# A browser tries both addresses of "localhost", so another user must not listen on either.
_HOSTS = {"127.0.0.1": ("127.0.0.1",), "localhost": ("127.0.0.1", "::1"), "::1": ("::1",)}
_NO_SUCH_FAMILY = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
_FREE_PORTS = 20  # attempts to find a port that is free at every address
STEP = 0.5  # seconds between calls of `waiting`; on Windows Ctrl-C does not interrupt a wait
_PATIENCE = 60.0  # seconds for which a browser waits for the code to be redeemed
_LAST_WORDS = 2.0  # seconds for which closing waits until the browser has its answer

_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",  # the page's own URL contains the code
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


class LoopbackRedirect:
    """Waits at a redirect URI on this machine for one authorization response.

    ``redirect_uri``
        ``http://127.0.0.1/callback``, or the same with ``localhost`` or ``[::1]``. Without a
        port, a free one is used (RFC 8252 section 7.3). ``localhost`` is served at both
        loopback addresses.
    ``state``
        The value that the response must contain (RFC 6749 section 10.12).
    ``bind``
        Another IP address to listen at, for a container whose port is forwarded to the machine
        with the browser; the URI then needs a port.

    A context manager. The constructor binds the port; entering starts the servers. One Condition
    guards the states: WAITING until the first response with ``state``; ANSWERED while its code
    is being redeemed and its browser waits for the result; CONCLUDED. Every other request to
    the path gets a page that says so and changes nothing: it comes from an attack, an older tab
    or a preview, and the right response can still arrive.

    Raises ``ValueError`` for another kind of URI and :class:`SignInFailed` if the port is taken.
    """

    def __init__(self, redirect_uri: str, state: str, bind: str | None = None) -> None:
        parts = urlsplit(redirect_uri)
        host, self._path = parts.hostname or "", parts.path or "/"
        has_more = parts.query or parts.fragment or "@" in parts.netloc
        if parts.scheme != "http" or host not in _HOSTS or has_more:
            raise ValueError(
                f"{redirect_uri!r} is not a redirect URI on this machine: give one such as "
                "'http://127.0.0.1:8400/callback', or without the port to use any free one"
            )
        if bind is not None and not parts.port:
            raise ValueError(f"give {redirect_uri!r} a port, the one that is forwarded to here")
        self._state = state
        self._changed = threading.Condition()
        self._response: str | None = None
        self._conclusion: tuple[str, str] | None = None
        self._answering = 0
        self._ignored = 0
        self._servers = self._bind((bind,) if bind else _HOSTS[host], parts.port or 0)
        shown = f"[{host}]" if ":" in host else host
        self.uri = f"http://{shown}:{self._servers[0].server_address[1]}{parts.path}"

    def _bind(self, addresses: tuple[str, ...], port: int) -> list[_Server]:
        for _ in range(1 if port else _FREE_PORTS):  # a free one may be free at one address only
            try:
                return self._bind_all(addresses, port)
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
        raise SignInFailed(
            f"port {port} of {' or '.join(addresses)} is taken, so the response could not be "
            "received there: free it, or give a --redirect-uri with another port or without one"
        )

    def _bind_all(self, addresses: tuple[str, ...], port: int) -> list[_Server]:
        """Bind one port at every address that this machine has; raises ``OSError``."""
        servers: list[_Server] = []
        try:
            for address in addresses:
                try:
                    server = (_Server6 if ":" in address else _Server)((address, port), self)
                except OSError as error:
                    if error.errno in _NO_SUCH_FAMILY and (servers or address != addresses[-1]):
                        continue
                    raise
                servers.append(server)
                port = server.server_address[1]
        except BaseException:
            for server in servers:
                server.server_close()
            raise
        return servers

    def __enter__(self) -> LoopbackRedirect:
        for server in self._servers:
            threading.Thread(
                target=server.serve_forever, args=(0.05,), name="loopback-redirect", daemon=True
            ).start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, *_: object) -> None:
        # Has no effect after a success, which has been concluded already.
        self.conclude("Not signed in", f"{_reason(error)}. Go back to the terminal.")
        with self._changed:
            self._changed.wait_for(lambda: not self._answering, _LAST_WORDS)
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def wait(self, timeout: float, waiting: Callable[[float], object]) -> str:
        """Wait for the response and return its query, whose ``state`` has been checked.

        Calls ``waiting`` with the seconds left, twice a second. Raises :class:`SignInFailed`
        after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            waiting(left)
            with self._changed:
                self._changed.wait_for(lambda: self._response is not None, min(left, STEP))
                if self._response is not None:
                    return self._response
        ignored = (
            f"; other requests to {self.uri} were ignored ({self._ignored}), because they did not "
            "contain the state of this sign-in: use only the page that it opens"
        )
        raise SignInFailed(
            f"nobody signed in within {timeout:g} s: start the sign-in again"
            + (ignored if self._ignored else "")
        )

    def conclude(self, title: str, text: str) -> None:
        """Show the result in the browser; only the first call has an effect."""
        with self._changed:
            self._conclusion = self._conclusion or (title, text)
            self._changed.notify_all()

    def page_for(self, target: str) -> tuple[int, str, str]:
        """Handle a request for ``target`` and return the status, title and text of its page.

        Called in the request's own thread. For the response, also if it is requested again, it
        blocks until :meth:`conclude`, or for at most 60 s.
        """
        parts = urlsplit(target)
        if parts.path != self._path:
            return 404, "Page not found", ""
        with self._changed:
            if not is_response(parts.query, self._state):
                self._ignored += 1
                return (
                    400,
                    "This is not the response to your sign-in",
                    "It does not contain the state of the sign-in, or repeats a field, and was "
                    "ignored. Use the page that the sign-in opened, or go back to the terminal.",
                )
            if self._response not in (None, parts.query):
                return 409, "This sign-in has already been answered", "Go back to the terminal."
            self._response = parts.query
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._conclusion, _PATIENCE)
            return (200, *(self._conclusion or ("Still signing in", "Go back to the terminal.")))

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Mark that a browser is being answered, so that closing waits for it."""
        with self._changed:
            self._answering += 1
        try:
            yield
        finally:
            with self._changed:
                self._answering -= 1
                self._changed.notify_all()


def is_response(query: str, state: str) -> bool:
    """Return whether a query is the response to the sign-in with ``state``, each field once."""
    pairs = parse_qsl(query, keep_blank_values=True)
    fields = dict(pairs)
    given = fields.get("state", "").encode(errors="surrogatepass")
    return hmac.compare_digest(given, state.encode()) and len(fields) == len(pairs)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # an idle spare connection of the browser would block it
    # On Windows the option would take over the port of a live listener; elsewhere it only
    # ignores connections that have ended.
    allow_reuse_address = sys.platform != "win32"

    def __init__(self, address: tuple[str, int], redirect: LoopbackRedirect) -> None:
        self.redirect = redirect
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: a client that disconnects early is not worth reporting."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    timeout = 10.0  # seconds for a request to arrive
    server: _Server
    server_version = "silent-refresh"
    sys_version = ""

    def do_GET(self) -> None:
        redirect = self.server.redirect
        with redirect.answering():
            self._send(*redirect.page_for(self.path))

    def _send(self, status: int, title: str, text: str) -> None:
        body = _page(title, text).encode()
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (http.server's name)
        """Print nothing: the request line contains the code."""


def _reason(error: BaseException | None) -> str:
    """Return why a sign-in failed, as the start of a sentence. Foreign errors are not quoted."""
    if isinstance(error, KeyboardInterrupt):
        return "The sign-in was interrupted in the terminal"
    if not isinstance(error, SilentRefreshError):
        return "The sign-in failed"
    reason = printable(str(error))[:500].rstrip(".")
    return reason[:1].upper() + reason[1:]


def _page(title: str, text: str) -> str:
    title, text = html.escape(title), html.escape(text)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<link rel="icon" href="data:,">'
        "<style>body{font:1.1em sans-serif;margin:4em auto;max-width:30em}</style>"
        f"<title>{title}</title><h1>{title}</h1><p>{text}</p></html>"
    )
