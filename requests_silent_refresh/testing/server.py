"""``AuthorizationServer``: a real authorization and resource server on loopback."""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from ..system.forking import reset_in_child
from ..token import Token
from .answers import Headers
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

    >>> with AuthorizationServer(access_token_lifetime=60) as server:
    ...     manager.sign_in(server.sign_in_token())
    ...     token = manager.token().access_token.reveal()
    ...     requests.get(server.resource, headers={"Authorization": f"Bearer {token}"})
    <Response [200]>

    For tests and demos only: it binds 127.0.0.1 and lets any local program sign in. Use
    it as a context manager, or call :meth:`start` and :meth:`stop`. A stopped server can
    be started again with its port and tokens, as after an outage. Thread-safe.

    Paths below ``url``: ``/token``; ``/revoke``; ``/json`` and ``/json/flat``, which
    answer ``{"token": ...}`` with ``{"accessToken", "refreshToken", "expiresIn"}``;
    ``/json/nested``, which answers ``{"data": {"access_token", "refresh_token", "expires"}}``,
    with ``expires`` in seconds or as ``?expires=iso``, ``unix`` or ``ms`` asks;
    ``/resource...``, which requires a bearer token and answers any method with a
    description of the request; ``/open...``, the same without a token. For sign-in:
    ``/authorize``, ``/device_authorization``, ``/device`` (the page for a user code)
    and the metadata in ``/.well-known``.

    ``access_token_lifetime``
        Seconds, by ``clock``, which returns Unix time in seconds.
    ``rotate``, ``grace``
        Whether an exchange spends the refresh token, and for how many seconds the
        spent one is then still accepted, with the same successor. Any later use
        of it revokes the family.
    ``client_id``, ``client_secret``
        The only client. Without a secret it is public and has no
        ``client_credentials``; with one it authenticates by ``client_secret_basic``
        or ``client_secret_post``.
    ``latency``
        Seconds that the token and JSON endpoints take.
    ``announce_lifetime``, ``rotation_ends_access_token``
        Whether answers contain ``expires_in``, and whether an exchange revokes the old
        access token, as some servers do.
    ``tls``, ``port``
        A server-side :class:`ssl.SSLContext`, or ``None`` for plain HTTP; 0 picks a free port.
    ``database``
        A file in an existing directory that keeps the digests of the tokens for
        another server created later with the same file; ``None`` keeps the tokens
        in memory only. Raises ``ValueError`` if the file is not such a database.

    ``access_token_lifetime``, ``rotate``, ``grace``, ``latency``,
    ``announce_lifetime`` and ``rotation_ends_access_token`` may be assigned
    while the server runs; they apply from the next request on.
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
        """Pending device sign-ins: ``decide(user_code, subject)`` allows or denies one."""
        sign_in = SignInEndpoints(self.authorizations, self.log, lambda: self.url, client_id)
        endpoints = Endpoints(self._families, sign_in, client_id, client_secret)
        self._router = Router(self, self.log, self._families, endpoints, sign_in)
        reset_in_child(self)

    def start(self) -> AuthorizationServer:
        """Start to listen; returns at once. Raises ``OSError`` if the port is in use."""
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
        """Close the port and all connections, and open the gates. Blocks for about 1 s at most."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._router.close_down()
            listener.stop()

    def __enter__(self) -> AuthorizationServer:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def after_fork_in_child(self) -> None:
        """Stop the child's copy of the server; the parent's server continues."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.after_fork_in_child()
        for part in (self.log, self._families, self.authorizations, self._router.faults):
            part.after_fork_in_child()

    # Addresses.

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``, or https, without a trailing slash.

        Raises ``RuntimeError`` before the first :meth:`start` unless ``port`` was given.
        """
        if not self._port:
            raise RuntimeError("the server has no address before start(): call it first")
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def token_endpoint(self) -> str:
        """URL of the token endpoint (RFC 6749 section 3.2)."""
        return self.url + "/token"

    @property
    def issuer(self) -> str:
        """The issuer identifier, which is :attr:`url`; the metadata is below it (RFC 8414)."""
        return self.url

    @property
    def authorization_endpoint(self) -> str:
        """URL of the authorization endpoint: a login page; requires PKCE with S256."""
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
        """URL of the JSON endpoint; append ``/flat`` or ``/nested`` to choose a dialect."""
        return self.url + "/json"

    @property
    def resource(self) -> str:
        """URL of a protected resource; any path that starts with it is protected too."""
        return self.url + "/resource"

    # Tokens.

    def sign_in(self, scope: str = "") -> dict[str, Any]:
        """Start a token family and return what a token endpoint would answer."""
        return self._families.sign_in(scope)

    def sign_in_token(self, scope: str = "") -> Token:
        """Start a token family and return a :class:`~requests_silent_refresh.Token`."""
        return Token.from_response(self.sign_in(scope), received_at=self.clock())

    def revoke_access_tokens(self) -> None:
        """Reject every access token issued so far, before it expires."""
        self._families.revoke_access_tokens()

    # Behaviour on demand.

    def forbid(self, path: str) -> None:
        """Answer 401 at ``path`` from now on, even to a valid token."""
        self._router.forbidden |= {path}

    def allow(self, path: str) -> None:
        """Undo :meth:`forbid`."""
        self._router.forbidden -= {path}

    def on(self, path: str, handler: Handler | None) -> None:
        """Let ``handler(request, answer)`` change the answers at ``path``, at any endpoint.

        The handler receives the regular answer (the 401 or the 200 of a resource,
        the tokens of the token endpoint). It returns another one, or ``None`` to
        keep it; see :meth:`Answer.but`. It runs in the connection's thread without
        a lock held. Pass ``None`` to remove the handler.
        """
        handlers = {k: v for k, v in self._router.handlers.items() if k != path}
        self._router.handlers = handlers if handler is None else handlers | {path: handler}

    def gate(
        self, count: int, then: Callable[[], object] | None = None, timeout: float = 30.0
    ) -> Gate:
        """Hold resource requests until ``count`` are in flight, run ``then()``, answer them all.

        For example, with ``then=server.revoke_access_tokens`` every held request gets
        a 401. After ``timeout`` seconds the gate opens anyway; see :class:`Gate`.
        """
        gate = Gate(self.log, count, then, timeout)
        self._router.gates += (gate,)
        return gate

    def token_gate(self, *, processed: bool = False, timeout: float = 30.0) -> TokenGate:
        """Hold exchanges until ``.release()``; ``.arrived`` is set when one is held.

        ``processed=True`` holds them after processing and before the answer. Each is
        held for at most ``timeout`` seconds; see :class:`TokenGate`.
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
        headers: Headers = (),
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
        """Change the next ``times`` answers of ``target`` (``None``: until :meth:`clear_faults`).

        ``status``, ``headers``, ``body``: parts of the answer. ``redirect``: to that URL
        (302 unless ``status``). ``garbage``: an unrelated HTML page. ``huge``: an
        endless body. ``raw``: bytes that need not be HTTP. ``drop``: close the
        connection ``"before"`` the request is processed or ``"after"`` (the refresh
        token is then spent). With these, except for ``"after"``, the request is not
        processed unless ``processed=True``.

        ``delay`` (seconds before the first byte), ``trickle`` and ``trickle_head``
        (bytes per second of the body and the head) apply to any answer, by default
        the real one, whose request is processed first.

        ``path`` limits the fault to that path. Faults are used in the order given.
        Raises ``ValueError`` for an unknown ``target`` or ``drop``.
        """
        options = {k: v for k, v in locals().items() if k not in ("self", "target")}
        self._router.faults.add(Fault(target, **options))

    def clear_faults(self) -> None:
        """Remove all faults."""
        self._router.faults.clear()

    # Observation.

    @property
    def counters(self) -> Counters:
        """A snapshot of how often each thing has happened."""
        return self.log.counters

    @property
    def connections(self) -> int:
        """The number of connections that clients have open."""
        return 0 if self._listener is None else self._listener.connections

    def wait_for(self, predicate: Callable[[], object], timeout: float = 10.0) -> bool:
        """Wait until ``predicate()`` is true, then return True.

        It is checked after each event and each closed connection. Raises
        ``TimeoutError``, with the counters, after ``timeout`` seconds.
        """
        return self.log.wait_for(predicate, timeout)
