"""One POST that is over at its deadline, whatever the server, the network or the resolver do.

A read timeout of ``requests`` is one for each read of the socket: a server that
sends a byte now and then holds its client for ever, and a slow resolver or a
host with many dead addresses is not even asked about it. So the talking is done
on a thread of its own, and whoever waits for it leaves at the deadline, cuts the
connection, and can rely on nothing being sent afterwards.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import requests
import urllib3.exceptions

from ..system.quiet_pools import QuietHTTPAdapter
from .answer import SIZE_LIMIT, EndpointAnswer, NoAnswer, Outcome, decode, no_answer

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection as _Connection
else:
    _Connection = object


class Exchange:
    """One POST under way: who talks, who waits, and the cut between them.

    Two threads share it: one talks (``_talk``), one waits (:meth:`result`). The
    lock guards ``_over``, ``_sent``, ``_tap`` and ``_outcome``, and no I/O is done
    under it but the cut, which does not block. ``_over`` is set once, by whoever
    comes first: the waiter at the deadline, or the talker at its end. From then
    on ``connected`` and ``sending`` refuse, so that a talker who comes back late
    from the resolver sends nothing, and the outcome stays what it is.

    ``_tap`` is a second descriptor of the connection. The waiter shuts the
    connection down through it, which wakes the talker from any read. The first
    descriptor would not do: TLS moves it to another object, and the talker may
    close it at any moment, after which its number is somebody else's.

    Where no thread can be started (the interpreter is leaving, the process is at
    its limit) the waiter talks himself: the deadline then holds for the resolver,
    for connecting and for each read by timeouts, and for the body as a whole.
    """

    def __init__(
        self,
        request: requests.Request,
        settings: Mapping[str, Any],
        deadline: float,
        clock: Callable[[], float],
    ) -> None:
        self._request = request
        self._settings = settings
        self._deadline = deadline
        self._clock = clock
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._over = False
        self._sent = False
        self._tap: socket.socket | None = None
        self._connection: socket.socket | None = None
        self._outcome: Outcome = NoAnswer("timeout")
        # Byte by byte where nobody watches, so that a trickle meets the deadline between two.
        self._step = 64 * 1024

    def result(self) -> Outcome:
        """Talk, and return what came of it by the deadline. Called once."""
        talker = threading.Thread(target=self._talk, name="token-endpoint", daemon=True)
        try:
            try:
                talker.start()
            except RuntimeError:
                self._step = 1
                self._talk()
            self._done.wait(max(0.0, self._deadline - time.monotonic()))
        finally:
            self._cut()
        return self._outcome

    def connected(self, connection: socket.socket) -> None:
        """Take a tap of a new connection; raises ``TimeoutError`` when it came too late."""
        with self._lock:
            self._refuse_if_over()
            # Not connection.dup(): a SOCKS socket's class cannot make another of itself.
            self._tap = socket.fromfd(
                connection.fileno(), connection.family, connection.type, connection.proto
            )
            self._connection = connection

    def sending(self) -> None:
        """Note that the request leaves now; raises ``TimeoutError`` when it is too late."""
        with self._lock:
            self._refuse_if_over()
            self._sent = True

    def _refuse_if_over(self) -> None:
        """Raise ``TimeoutError`` from the deadline on. Called with the lock held."""
        if self._over or time.monotonic() >= self._deadline:
            raise TimeoutError("the deadline of the exchange has passed")

    def _cut(self) -> None:
        with self._lock:
            self._over = True
            if self._tap is not None:
                with contextlib.suppress(OSError):  # the server was faster
                    self._tap.shutdown(socket.SHUT_RDWR)

    def _talk(self) -> None:
        outcome: Outcome | None = None
        try:
            outcome = self._send()
        except Exception as error:  # noqa: BLE001 (nobody else is there to catch it)
            outcome = no_answer(error, self._sent)
        finally:
            if outcome is None:  # an exception was thrown into this very thread
                outcome = NoAnswer("cut off" if self._sent else "unreachable")
            with self._lock:
                # What was cut off at the deadline is no answer, however whole it looks.
                if not self._over:
                    self._outcome = outcome
                self._over = True
                self._close()
            self._done.set()

    def _close(self) -> None:
        """Close what is still open. Called by the talker, with the lock held."""
        if self._tap is not None:
            self._tap.close()
            self._tap = None
        if self._connection is not None and self._connection.fileno() != -1:
            # Older urllib3 leaves the socket of a failed CONNECT to the garbage collector,
            # held by a half-read response, which is why close() would not do.
            socket.close(self._connection.detach())

    def _send(self) -> EndpointAnswer:
        with _Session() as session:
            for prefix in ("https://", "http://"):
                session.mount(prefix, _Transport(self))
            left: Any = urllib3.Timeout(total=max(0.001, self._deadline - time.monotonic()))
            response = session.send(self._request.prepare(), timeout=left, **self._settings)
            with contextlib.closing(response):
                received_at = self._clock()
                body = self._read(response)
                return EndpointAnswer(response.status_code, response.headers, body, received_at)

    def _read(self, response: requests.Response) -> bytes:
        body = bytearray()
        try:
            while chunk := response.raw.read(self._step, decode_content=False):
                body += chunk
                if len(body) > SIZE_LIMIT:
                    return b""
                if time.monotonic() >= self._deadline:
                    raise TimeoutError("the deadline of the exchange has passed")
        except urllib3.exceptions.ProtocolError:
            if 200 <= response.status_code < 300:
                raise
            # The status says enough, and a torn 503 is no reason to ask again at once.
            return b""
        return decode(bytes(body), response.headers.get("Content-Encoding", ""))


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Follow nothing: ``requests`` would read the redirect's body, unbounded, in any case."""


class _Transport(QuietHTTPAdapter):
    """Sends one exchange; its connections report to it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._pool: Any = None
        super().__init__(pool_connections=1, pool_maxsize=1)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pool for the request, which belongs to this exchange alone."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _watched_class(pool.ConnectionCls)
        pool.conn_kw["exchange"] = self._exchange
        self._pool = pool
        return pool

    def close(self) -> None:
        """Close the connection; ``requests`` would leave that to the garbage collector."""
        if self._pool is not None:
            self._pool.close()
        super().close()


class _Watched(_Connection):
    """Mixed into a connection class: tells the exchange when it connects and when it sends."""

    def __init__(self, *args: Any, exchange: Exchange, **kwargs: Any) -> None:
        self._exchange = exchange
        self._connecting = False
        super().__init__(*args, **kwargs)

    def _new_conn(self) -> socket.socket:
        # Before TLS and a proxy's CONNECT, so that both can be cut off as well.
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

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        if not self._connecting:  # a CONNECT to a proxy holds no token
            self._exchange.sending()
        super().send(data)


@cache
def _watched_class(connection_class: type[Any]) -> type[Any]:
    if issubclass(connection_class, _Watched):
        return connection_class
    return type(connection_class.__name__, (_Watched, connection_class), {})
