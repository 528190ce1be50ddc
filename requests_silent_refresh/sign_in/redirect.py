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
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from .client import SignInFailed

_HOSTS = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}
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
        port, a free one is used (RFC 8252 section 7.3).
    ``state``
        The value that the response must contain (RFC 6749 section 10.12).

    A context manager. The constructor binds the port; entering starts the server. One Condition
    guards the states: WAITING until the first response to the path; ANSWERED while its code is
    being redeemed and its browser waits for the result; CONCLUDED. A later response gets a page
    that says so and changes nothing. A response with the wrong state also ends the wait: it
    comes from an attack or an older tab, and either way a person has to look.

    Raises ``ValueError`` for another kind of URI and :class:`SignInFailed` if the port is taken.
    """

    def __init__(self, redirect_uri: str, state: str) -> None:
        parts = urlsplit(redirect_uri)
        host, self._path = parts.hostname or "", parts.path or "/"
        has_more = parts.query or parts.fragment or "@" in parts.netloc
        if parts.scheme != "http" or host not in _HOSTS or has_more:
            raise ValueError(
                f"{redirect_uri!r} is not a redirect URI on this machine: give one such as "
                "'http://127.0.0.1:8400/callback', or without the port to use any free one"
            )
        self._state = state
        self._changed = threading.Condition()
        self._response: str | None = None
        self._failure: SignInFailed | None = None
        self._conclusion: tuple[str, str] | None = None
        self._answering = 0
        self._server = self._bind(_HOSTS[host], parts.port or 0)
        shown = f"[{host}]" if ":" in host else host
        self.uri = f"http://{shown}:{self._server.server_address[1]}{parts.path}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="loopback-redirect", daemon=True
        )

    def _bind(self, address: str, port: int) -> ThreadingHTTPServer:
        try:
            return (_Server6 if ":" in address else _Server)((address, port), self)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise SignInFailed(
                f"port {port} of {address} is taken, so the response could not be received there: "
                "free it, or give a --redirect-uri with another port or without one"
            ) from None

    def __enter__(self) -> LoopbackRedirect:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        # Has no effect after a success, which has been concluded already.
        self.conclude("Not signed in", "The sign-in failed. Go back to the terminal.")
        with self._changed:
            self._changed.wait_for(lambda: not self._answering, _LAST_WORDS)
        self._server.shutdown()
        self._server.server_close()

    def wait(self, timeout: float) -> str:
        """Wait for the response and return its query, whose ``state`` has been checked.

        Raises :class:`SignInFailed` after ``timeout`` seconds, or for a response that does not
        belong to this sign-in.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._response is None and self._failure is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise SignInFailed(
                        f"nobody signed in within {timeout:g} s: start the sign-in again"
                    )
                # In steps, because on Windows Ctrl-C does not interrupt a long wait.
                self._changed.wait(min(left, 0.5))
            if self._failure is not None:
                raise self._failure
            assert self._response is not None  # noqa: S101 (for the type checker)
            return self._response

    def conclude(self, title: str, text: str) -> None:
        """Show the result in the browser; only the first call has an effect."""
        with self._changed:
            self._conclusion = self._conclusion or (title, text)
            self._changed.notify_all()

    def page_for(self, target: str) -> tuple[int, str, str]:
        """Handle a request for ``target`` and return the status, title and text of its page.

        Called in the request's own thread. For the first valid response it blocks until
        :meth:`conclude`, or for at most 60 s.
        """
        parts = urlsplit(target)
        if parts.path != self._path:
            return 404, "Page not found", ""
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        fields = dict(pairs)
        with self._changed:
            if self._response is not None or self._failure is not None:
                return 409, "This sign-in has already been answered", "Go back to the terminal."
            problem = self._problem_with(fields, len(pairs))
            if problem is not None:
                self._failure = SignInFailed(
                    f"{problem}: it was ignored, and the sign-in was stopped. Start it again, and "
                    "use only the page that it opens"
                )
                self._changed.notify_all()
                return 400, "This response is not for your sign-in", "Go back to the terminal."
            self._response = parts.query
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._conclusion, _PATIENCE)
            return (200, *(self._conclusion or ("Still signing in", "Go back to the terminal.")))

    def _problem_with(self, fields: dict[str, str], count: int) -> str | None:
        if not hmac.compare_digest(fields.get("state", "").encode(), self._state.encode()):
            return "a response with the wrong state, which belongs to another sign-in, was received"
        if len(fields) != count:
            return "a response with a repeated field was received"
        return None

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


def _page(title: str, text: str) -> str:
    title, text = html.escape(title), html.escape(text)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<link rel="icon" href="data:,">'
        "<style>body{font:1.1em sans-serif;margin:4em auto;max-width:30em}</style>"
        f"<title>{title}</title><h1>{title}</h1><p>{text}</p></html>"
    )
