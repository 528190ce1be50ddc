"""The loopback redirect: a server on this machine that waits for one answer (RFC 8252)."""

from __future__ import annotations

import errno
import hmac
import html
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from .client import SignInFailed

_HOSTS = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}
_PATIENCE = 60.0  # seconds a browser waits for the code to be redeemed
_LAST_WORDS = 2.0  # seconds that closing waits for the browser to be answered

_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",  # the page's own URL holds the code
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


class LoopbackRedirect:
    """Waits at a redirect URI on this machine for one authorization response.

    ``redirect_uri``
        ``http://127.0.0.1/callback``, or with ``localhost`` or ``[::1]``.
        Without a port a free one is taken (RFC 8252 section 7.3).
    ``state``
        What the response must bring back (RFC 6749 section 10.12).

    A context manager; entering it binds the port. One Condition guards the
    states: WAITING until the first response to the path; ANSWERED while its code
    is being redeemed, and its browser waits to hear what came of it; CONCLUDED.
    Whatever comes after the first is told so and changes nothing. A response
    with the wrong state ends the waiting too: it is an attack or an older tab,
    and in either case it is a person who has to look.

    Raises ``ValueError`` for another kind of URI and :class:`SignInFailed` where
    the port is taken.
    """

    def __init__(self, redirect_uri: str, state: str) -> None:
        parts = urlsplit(redirect_uri)
        host, self._path = parts.hostname or "", parts.path or "/"
        if (
            parts.scheme != "http"
            or host not in _HOSTS
            or parts.query
            or parts.fragment
            or "@" in parts.netloc
        ):
            raise ValueError(
                f"{redirect_uri!r} is no redirect to this machine: give one such as "
                "'http://127.0.0.1:8400/callback', without a port for any free one"
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
            return _server_class(address)((address, port), self)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise SignInFailed(
                f"port {port} of {address} is taken, so the answer could not come back there: "
                "free it, or give a --redirect-uri with another port or without one"
            ) from None

    def __enter__(self) -> LoopbackRedirect:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.conclude("Nothing came of it", "The sign-in was given up. Go back to the terminal.")
        with self._changed:
            self._changed.wait_for(lambda: not self._answering, _LAST_WORDS)
        self._server.shutdown()
        self._server.server_close()

    def wait(self, timeout: float) -> str:
        """Wait for the response and return its query, whose ``state`` is the right one.

        Raises :class:`SignInFailed` after ``timeout`` seconds, or for a response
        that is not this sign-in's.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._response is None and self._failure is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise SignInFailed(
                        f"nobody signed in within {timeout:g} s: start it again when you are ready"
                    )
                # In steps, because on Windows a long wait is deaf to Ctrl-C.
                self._changed.wait(min(left, 0.5))
            if self._failure is not None:
                raise self._failure
            assert self._response is not None  # noqa: S101 (for the type checker)
            return self._response

    def conclude(self, title: str, text: str) -> None:
        """Tell the browser what came of it; only the first conclusion counts."""
        with self._changed:
            self._conclusion = self._conclusion or (title, text)
            self._changed.notify_all()

    def page_for(self, target: str) -> tuple[int, str, str]:
        """Take in a request for ``target`` and return status, title and text of its page.

        Called in the request's own thread; for the response that counts it blocks
        until :meth:`conclude`.
        """
        parts = urlsplit(target)
        if parts.path != self._path:
            return 404, "There is nothing here", ""
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        fields = dict(pairs)
        with self._changed:
            if self._response is not None or self._failure is not None:
                return 409, "This sign-in has had its answer", "Go back to the terminal."
            problem = self._problem_with(fields, len(pairs))
            if problem is not None:
                self._failure = SignInFailed(
                    f"{problem}: it was ignored, and the sign-in given up. Start it again, and use "
                    "only the page that it opens"
                )
                self._changed.notify_all()
                return 400, "This is not the answer to your sign-in", "Go back to the terminal."
            self._response = parts.query
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._conclusion, _PATIENCE)
            return (200, *(self._conclusion or ("This takes long", "Go back to the terminal.")))

    def _problem_with(self, fields: dict[str, str], count: int) -> str | None:
        if not hmac.compare_digest(fields.get("state", "").encode(), self._state.encode()):
            return "an answer with the wrong state came back, one to another sign-in"
        if len(fields) != count:
            return "an answer came back in which a field stands twice"
        return None

    def begin_answer(self) -> None:
        """Note that a browser is being answered, so that closing waits for it."""
        with self._changed:
            self._answering += 1

    def end_answer(self) -> None:
        """Undo :meth:`begin_answer`."""
        with self._changed:
            self._answering -= 1
            self._changed.notify_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a browser's idle spare connection would hold it up
    # Elsewhere it only passes over connections that have ended; there, over a living listener.
    allow_reuse_address = sys.platform != "win32"

    def __init__(self, address: tuple[str, int], redirect: LoopbackRedirect) -> None:
        self.redirect = redirect
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: whoever hangs up in the middle is no news for the terminal."""


class _Server6(_Server):
    address_family = socket.AF_INET6


def _server_class(address: str) -> type[_Server]:
    return _Server6 if ":" in address else _Server


class _Handler(BaseHTTPRequestHandler):
    timeout = 10.0  # seconds for a request to come in
    server: _Server
    server_version = "silent-refresh"
    sys_version = ""

    def do_GET(self) -> None:
        redirect = self.server.redirect
        redirect.begin_answer()
        try:
            status, title, text = redirect.page_for(self.path)
            self._send(status, title, text)
        finally:
            redirect.end_answer()

    def _send(self, status: int, title: str, text: str) -> None:
        body = _page(title, text).encode()
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (http.server's name)
        """Say nothing: the request line holds the code."""


def _page(title: str, text: str) -> str:
    title, text = html.escape(title), html.escape(text)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<link rel="icon" href="data:,">'
        "<style>body{font:1.1em sans-serif;margin:4em auto;max-width:30em}</style>"
        f"<title>{title}</title><h1>{title}</h1><p>{text}</p></html>"
    )
