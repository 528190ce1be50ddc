"""One POST that ends at its deadline, whatever the server, the network or the resolver does.

The read timeout of ``requests`` applies to each read of the socket, so a server that sends a
byte now and then blocks its client for ever. A slow resolver or a host with many dead addresses
is not bounded by it at all. The request therefore runs in a thread of its own. The caller stops
waiting at the deadline and shuts the connection down, and nothing is sent afterwards.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import requests
import urllib3.exceptions
from requests.adapters import BaseAdapter

from ..system.awake_time import AwakeTime
from ..system.quiet_pools import QuietHTTPAdapter
from .answer import SIZE_LIMIT, EndpointAnswer, NoAnswer, Outcome, decode, no_answer

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection as _Connection
else:
    _Connection = object


class Exchange:
    """One request in flight, shared by the thread that sends it and the thread that waits for it.

    The talker runs ``_talk``, the waiter :meth:`result`. The lock guards ``_over``, ``_sent``,
    ``_tap`` and ``_outcome``. The only I/O done with it held is the shutdown of the connection,
    which does not block. ``_over`` is set once, by the waiter at the deadline or by the talker
    when it ends. After that ``connected`` and ``sending`` raise, so a talker that returns late
    from the resolver sends nothing, and the outcome no longer changes.

    ``_tap`` is a second descriptor of the connection. The waiter shuts the connection down
    through it, which wakes the talker from any read. The first descriptor cannot be used: TLS
    moves it to another object, and the talker may close it at any moment, after which its
    number may belong to another file.

    If the process is stopped meanwhile (SIGSTOP, a virtual machine's pause), nothing is sent
    after the deadline, but the waiter gives the talker the time that was left, to read what
    has arrived: the server may have rotated the refresh token.

    If no thread can be started (the interpreter is exiting, or the process has reached its
    limit), the waiting thread makes the request itself. The deadline then bounds connecting,
    each read (as timeouts) and the body as a whole, but not the resolver.
    """

    def __init__(
        self,
        request: requests.Request,
        settings: Mapping[str, Any],
        deadline: float,
        clock: Callable[[], float],
        *,
        query: str = "",
        transport: BaseAdapter | None = None,
    ) -> None:
        self._request = request
        self._settings = dict(settings)
        self._query = query
        self._given_transport = transport
        self._deadline = deadline
        self._clock = clock
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._over = False
        self._sent = False
        self._tap: socket.socket | None = None
        self._connection: socket.socket | None = None
        self._outcome: Outcome = NoAnswer("timeout")
        self._is_alone = False  # whether no thread could be started

    def result(self) -> Outcome:
        """Make the request and return its outcome at the deadline at the latest. Call it once."""
        # Before the talker begins, because the process may be stopped as soon as it has sent.
        limit = AwakeTime(max(0.0, self._deadline - time.monotonic()))
        talker = threading.Thread(target=self._talk, name="token-endpoint", daemon=True)
        try:
            try:
                talker.start()
            except RuntimeError:
                self._is_alone = True
                self._talk()
            while (step := limit.next_step()) > 0 and not self._done.wait(step):
                pass
        finally:
            self._cut()
        return self._outcome

    def connected(self, connection: socket.socket) -> None:
        """Duplicate the new connection's descriptor; raises ``TimeoutError`` if it is too late."""
        with self._lock:
            self._refuse_if_over()
            # Not connection.dup(): the class of a SOCKS socket cannot be constructed that way.
            self._tap = socket.fromfd(
                connection.fileno(), connection.family, connection.type, connection.proto
            )
            self._connection = connection
            # TLS and a proxy's CONNECT follow; the timeout so far was that of one address.
            connection.settimeout(max(0.001, self._deadline - time.monotonic()))

    def sending(self) -> None:
        """Record that the request is being sent; raises ``TimeoutError`` if it is too late."""
        with self._lock:
            self._refuse_if_over()
            self._sent = True

    def _refuse_if_over(self) -> None:
        """Raise ``TimeoutError`` from the deadline on. Must be called with the lock held."""
        if self._over or time.monotonic() >= self._deadline:
            raise TimeoutError("the deadline of the exchange has passed")

    def _cut(self) -> None:
        with self._lock:
            self._over = True
            if self._tap is not None:
                with contextlib.suppress(OSError):  # the server closed the connection first
                    self._tap.shutdown(socket.SHUT_RDWR)

    def _talk(self) -> None:
        outcome: Outcome | None = None
        try:
            outcome = self._send()
        except Exception as error:  # noqa: BLE001 (no caller in this thread could handle it)
            outcome = no_answer(error, self._sent)
        finally:
            if outcome is None:  # an exception was thrown into this thread
                outcome = NoAnswer("cut off" if self._sent else "unreachable")
            with self._lock:
                # An answer that was cut off at the deadline may look complete; it is not used.
                if not self._over:
                    self._outcome = outcome
                self._over = True
                self._close()
            self._done.set()

    def _close(self) -> None:
        """Close what is still open. Must be called by the talker, with the lock held."""
        if self._tap is not None:
            self._tap.close()
            self._tap = None
        if self._connection is not None and self._connection.fileno() != -1:
            # Older urllib3 leaves the socket of a failed CONNECT to the garbage collector. A
            # half-read response still holds it, so its close() would not close the descriptor.
            socket.close(self._connection.detach())

    def _send(self) -> EndpointAnswer:
        given = self._given_transport
        own = _Transport(self, self._context()) if given is None else None
        if own is None and self._query:
            self._request.params = self._query  # what it logs is its own affair
        session = _Session()
        for prefix in ("https://", "http://"):
            session.mount(prefix, own or given)  # type: ignore[arg-type]  # one of them is there
        left = max(0.001, self._deadline - time.monotonic())
        # One address gets a part of the time only: the host's next one may be alive.
        timeout: Any = urllib3.Timeout(connect=min(5, left / 3), total=left)
        if own is not None and not self._is_alone:
            timeout.total = None  # reads end when the waiter shuts the connection down
        request = self._request.prepare()
        if own is None:
            self.sending()
        try:
            response = session.send(request, timeout=timeout, **self._settings)
            with contextlib.closing(response):
                received_at = self._clock()
                body = self._read(response)
                return EndpointAnswer(
                    response.status_code, response.headers, body, received_at, _cookies(response)
                )
        finally:
            if own is not None:
                own.close()

    def _context(self) -> ssl.SSLContext | None:
        """Return the TLS settings that are given as an object, and verify nothing beside them."""
        verify = self._settings.get("verify")
        if not isinstance(verify, ssl.SSLContext):
            return None
        self._settings["verify"] = True
        return verify

    @property
    def query(self) -> str:
        """The query parameters to add to the URL as the request is written."""
        return self._query

    def _read(self, response: requests.Response) -> bytes:
        body = bytearray()
        try:
            # One byte, so that a trickling body meets the deadline between two of them.
            size = 1 if self._is_alone else 64 * 1024
            while chunk := response.raw.read(size, decode_content=False):
                body += chunk
                if len(body) > SIZE_LIMIT:
                    return b""
                if self._is_alone and time.monotonic() >= self._deadline:
                    raise TimeoutError("the deadline of the exchange has passed")
        except urllib3.exceptions.ProtocolError:
            if 200 <= response.status_code < 300:
                raise
            # The status is enough, and an incomplete 503 must not lead to an immediate retry.
            return b""
        return decode(bytes(body), response.headers.get("Content-Encoding", ""))


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Report no redirect: ``requests`` would read its unbounded body even without following."""


def _cookies(response: requests.Response) -> dict[str, str]:
    """Return the cookies that the answer sets, whatever their attributes."""
    headers: Any = getattr(response.raw, "headers", None)  # none from some stubs
    lines = headers.getlist("Set-Cookie") if hasattr(headers, "getlist") else []
    pairs = [line.partition(";")[0].partition("=") for line in lines]
    return {name.strip(): value.strip().strip('"') for name, _, value in pairs}


class _Transport(QuietHTTPAdapter):
    """Sends one exchange, whose connections report to the :class:`Exchange`."""

    def __init__(self, exchange: Exchange, context: ssl.SSLContext | None) -> None:
        self._exchange = exchange
        self._context = context
        self._pool: Any = None
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Create the pool manager, with the given TLS settings."""
        super().init_poolmanager(*args, **kwargs, **self._tls())

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Return the pool manager for a proxy, with the given TLS settings for both."""
        return super().proxy_manager_for(proxy, **kwargs, **self._tls())

    def _tls(self) -> dict[str, Any]:
        return {} if self._context is None else {"ssl_context": self._context}

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pool's settings; with a context of the user's, without any for TLS."""
        host, pool = super().build_connection_pool_key_attributes(*args, **kwargs)
        if self._context is not None:  # they would change it
            for name in ("cert_reqs", "ca_certs", "ca_cert_dir", "ssl_context"):
                pool.pop(name, None)
        return host, pool

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Set up the verification, unless a context of the user's does that."""
        if self._context is None:
            super().cert_verify(conn, url, verify, cert)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pool for the request, which is used by this exchange only."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _watched_class(pool.ConnectionCls)
        pool.conn_kw["exchange"] = self._exchange
        self._pool = pool
        return pool

    def close(self) -> None:
        """Close the connection, which ``requests`` would leave to the garbage collector."""
        if self._pool is not None:
            self._pool.close()
        super().close()


class _Watched(_Connection):
    """A mixin for connection classes: tells the exchange when it connects and when it sends."""

    def __init__(self, *args: Any, exchange: Exchange, **kwargs: Any) -> None:
        self._exchange = exchange
        self._connecting = False
        super().__init__(*args, **kwargs)

    def _new_conn(self) -> socket.socket:
        # Before TLS and a proxy's CONNECT, so that the deadline cuts those off as well.
        connection = super()._new_conn()
        try:
            self._exchange.connected(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def connect(self) -> None:
        self._connecting = True
        try:
            super().connect()
        finally:
            self._connecting = False

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        if query := self._exchange.query:  # here, because urllib3 logs the URL
            url += ("&" if "?" in url else "?") + query
        super().putrequest(method, url, *args, **kwargs)

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        if not self._connecting:  # a CONNECT to a proxy contains no token
            self._exchange.sending()
        super().send(data)


@cache
def _watched_class(connection_class: type[Any]) -> type[Any]:
    return type(connection_class.__name__, (_Watched, connection_class), {})
