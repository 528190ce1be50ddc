"""``AuthorizationServer``: a real authorization and resource server on loopback."""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from ..system.forking import reset_in_child
from ..token import Token
from .authorizations import Authorizations
from .endpoints import Endpoints
from .events import Counters, EventLog
from .faults import Fault
from .gates import Gate, TokenGate
from .listener import Listener
from .routing import Handler, Router
from .sign_in_endpoints import SignInEndpoints
from .tokens import TokenFamilies


class AuthorizationServer:
    """A threaded HTTP/1.1 server that issues, rotates, revokes and checks tokens.

    For tests and demos only: it binds 127.0.0.1, and whoever reaches it may do
    what its tokens allow. A context manager; or :meth:`start` and :meth:`stop`.
    A stopped server can be started again: on its old port, with its old tokens,
    as after an outage. Everything here may be called from any thread.

    Where things are (below ``url``): ``/token``, ``/revoke``, ``/json`` (also as
    ``/json/flat``: ``{"token": ...}`` is answered with ``{"accessToken": ...,
    "refreshToken": ..., "expiresIn": ...}``), ``/json/nested`` (``{"data":
    {"access_token", "refresh_token", "expires"}}``; ``?expires=iso``, ``unix``
    or ``ms`` in place of seconds to go), ``/resource...`` (asks for a bearer
    token, any method, and answers with what it got), ``/open...`` (the same
    without a token). Where people sign in: ``/authorize``, ``/device_authorization``,
    ``/device`` (the page for a user code) and the metadata in ``/.well-known``.

    ``access_token_lifetime``
        Seconds; counted on ``clock`` (Unix time in seconds).
    ``rotate``, ``grace``
        Whether an exchange spends the refresh token; and for how many seconds
        after that the spent one is still answered, with the same successor.
        Any later use of it revokes the family.
    ``client_id``, ``client_secret``
        The one client. Without a secret it is a public one (no
        ``client_credentials``); with one it authenticates by ``client_secret_basic``
        or ``client_secret_post``.
    ``latency``
        Seconds that the token and JSON endpoints take.
    ``announce_lifetime``
        Whether answers hold ``expires_in``.
    ``rotation_ends_access_token``
        Whether an exchange ends the old access token, as some servers do.
    ``tls``
        A server-side :class:`ssl.SSLContext`; ``None`` is plain HTTP.
    ``port``
        0 picks a free one.
    ``database``
        A file that keeps the tokens (their digests) for another server, made
        later with the same file; ``None`` forgets them with this object. Its
        directory must exist. ``ValueError`` where it is no such file.

    ``access_token_lifetime``, ``rotate``, ``grace``, ``latency``,
    ``announce_lifetime`` and ``rotation_ends_access_token`` may be assigned
    while it runs; they hold from the next request on.
    """

    def __init__(
        self,
        *,
        access_token_lifetime: float = 3600.0,
        rotate: bool = True,
        grace: float = 0.0,
        client_id: str = "client",
        client_secret: str | None = None,
        latency: float = 0.0,
        announce_lifetime: bool = True,
        rotation_ends_access_token: bool = False,
        clock: Callable[[], float] = time.time,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
        database: str | os.PathLike[str] | None = None,
    ) -> None:
        self.access_token_lifetime = access_token_lifetime
        self.rotate = rotate
        self.grace = grace
        self.client_id = client_id
        self.client_secret = client_secret
        self.latency = latency
        self.announce_lifetime = announce_lifetime
        self.rotation_ends_access_token = rotation_ends_access_token
        self.clock = clock
        self.log = EventLog(clock)
        """Every :class:`~requests_silent_refresh.testing.Event` so far."""
        self._tls = tls
        self._port = port
        self._listener: Listener | None = None
        self._families = TokenFamilies(self, self.log, None if database is None else Path(database))
        self.authorizations = Authorizations(self._families, lambda: self.url, client_id)
        """What people were asked: ``decide(user_code, subject)`` answers for one of them."""
        sign_in = SignInEndpoints(self.authorizations, self.log, lambda: self.url, client_id)
        endpoints = Endpoints(self._families, sign_in, client_id, client_secret)
        self._router = Router(self, self.log, self._families, endpoints, sign_in)
        reset_in_child(self)

    def start(self) -> AuthorizationServer:
        """Listen; returns at once. Raises ``OSError`` where the port is taken."""
        if self._listener is None:
            stopping = self._router.stopping = threading.Event()
            self._listener = Listener(
                self._router.answer,
                self._port,
                self._tls,
                self.clock,
                stopping,
                closed=self.log.wake,
            )
            self._port = self._listener.port
        return self

    def stop(self) -> None:
        """Close the port and all connections; gates open. Takes about a second at most."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._router.close_down()
            listener.stop()

    def __enter__(self) -> AuthorizationServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def after_fork_in_child(self) -> None:
        """Be stopped in a forked child; the parent's server goes on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.after_fork_in_child()
        for part in (self.log, self._families, self.authorizations, self._router.faults):
            part.after_fork_in_child()

    # Where it is.

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``, or https; no closing slash. The server was started once."""
        if not self._port:
            raise RuntimeError("the server has no address before start()")
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def token_endpoint(self) -> str:
        """URL of the token endpoint (RFC 6749 section 3.2)."""
        return self.url + "/token"

    @property
    def issuer(self) -> str:
        """The issuer identifier, which is :attr:`url`; its metadata are below it (RFC 8414)."""
        return self.url

    @property
    def authorization_endpoint(self) -> str:
        """URL of the authorization endpoint: a login page for a browser; PKCE with S256."""
        return self.url + "/authorize"

    @property
    def device_authorization_endpoint(self) -> str:
        """URL of the device authorization endpoint (RFC 8628)."""
        return self.url + "/device_authorization"

    @property
    def revocation_endpoint(self) -> str:
        """URL of the revocation endpoint (RFC 7009)."""
        return self.url + "/revoke"

    @property
    def json_endpoint(self) -> str:
        """URL of the JSON endpoint; ``/flat`` and ``/nested`` below it name the dialect."""
        return self.url + "/json"

    @property
    def resource(self) -> str:
        """URL of a protected resource; any path that starts so is protected too."""
        return self.url + "/resource"

    # Tokens.

    def sign_in(self, scope: str = "") -> dict[str, Any]:
        """Start a family of tokens; returns what a token endpoint would answer."""
        return self._families.sign_in(scope)

    def sign_in_token(self, scope: str = "") -> Token:
        """Start a family of tokens; returns it as a :class:`~requests_silent_refresh.Token`."""
        return Token.from_response(self.sign_in(scope), received_at=self.clock())

    def revoke_access_tokens(self) -> None:
        """Reject every access token issued so far, before its time."""
        self._families.revoke_access_tokens()

    # What it does on demand.

    def forbid(self, path: str) -> None:
        """Answer 401 at ``path`` from now on, however good the token."""
        self._router.forbidden |= {path}

    def allow(self, path: str) -> None:
        """Undo :meth:`forbid`."""
        self._router.forbidden -= {path}

    def on(self, path: str, handler: Handler | None) -> None:
        """Have ``handler(request, answer)`` change what ``path`` answers, at any endpoint.

        It gets the answer that would be given (the 401 or the 200 of a
        resource, the tokens of the token endpoint) and returns another one, or
        ``None`` to leave it; see :meth:`Answer.but`. Runs in the connection's
        thread, no lock held. ``None`` takes the handler away.
        """
        handlers = {k: v for k, v in self._router.handlers.items() if k != path}
        self._router.handlers = handlers if handler is None else handlers | {path: handler}

    def gate(
        self, count: int, then: Callable[[], object] | None = None, timeout: float = 30.0
    ) -> Gate:
        """Hold resource requests until ``count`` are in flight, run ``then()``, answer them all.

        ``then`` is, for example, ``server.revoke_access_tokens``: each of the
        requests held then gets its 401.
        """
        gate = Gate(self.log, count, then, timeout)
        self._router.gates += (gate,)
        return gate

    def token_gate(self, *, processed: bool = False, timeout: float = 30.0) -> TokenGate:
        """Hold exchanges until ``.release()``; ``.arrived`` is set when one is held.

        ``processed=True`` holds them after they were processed and before they
        are answered.
        """
        gate = TokenGate(self.log, processed, timeout)
        self._router.token_gates += (gate,)
        return gate

    def fault(
        self,
        target: Literal["token", "json", "revoke", "resource"],
        *,
        times: int | None = 1,
        path: str | None = None,
        status: int | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes | str | None = None,
        delay: float = 0.0,
        trickle: float | None = None,
        trickle_head: float | None = None,
        drop: Literal["before", "after"] | None = None,
        garbage: bool = False,
        huge: bool = False,
        redirect: str | None = None,
        raw: bytes | None = None,
        processed: bool = False,
    ) -> None:
        """Spoil the next ``times`` answers of ``target`` (``None``: until :meth:`clear_faults`).

        ``status``, ``headers``, ``body``: answer so. ``redirect``: to that URL
        (302 unless ``status``). ``garbage``: a page that is no answer to this.
        ``huge``: a body without end. ``raw``: bytes that need not be HTTP.
        ``drop``: close the connection, ``"before"`` the request was processed or
        ``"after"`` (the refresh token is spent by then). Except for the latter,
        and unless ``processed=True``, nothing of these is processed.

        ``delay`` (seconds before the first byte), ``trickle`` and
        ``trickle_head`` (bytes per second, of the body and the head) are
        processed first and apply to any answer, the real one by default.

        ``path`` limits it to that path. Faults are spent in the order given.
        """
        options = {k: v for k, v in locals().items() if k not in ("self", "target")}
        self._router.faults.add(Fault(target, **options))

    def clear_faults(self) -> None:
        """Spoil no more answers."""
        self._router.faults.clear()

    # What has happened.

    @property
    def counters(self) -> Counters:
        """A snapshot of how often each thing has happened."""
        return self.log.counters

    @property
    def connections(self) -> int:
        """How many connections clients have open now."""
        return 0 if self._listener is None else self._listener.connections

    def wait_for(self, predicate: Callable[[], object], timeout: float = 10.0) -> bool:
        """Wait until ``predicate()`` is true, asked anew after each event and each closed
        connection; then return True.

        Raises ``TimeoutError``, with the counters, after ``timeout`` seconds.
        """
        return self.log.wait_for(predicate, timeout)
