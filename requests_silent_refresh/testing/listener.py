"""The HTTP/1.1 side: keep-alive connections, a thread for each, and answers with faults."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

from .answers import KEPT_BODY, Answer, Request, header_pairs

_BACKLOG = 4096  # the kernel limits it to its somaxconn
_JOIN = 1.0  # seconds that stop() waits for all threads together


class Listener:
    """Accepts connections and serves each in a daemon thread.

    ``_lock`` guards the sets of open connections and of their threads. :meth:`stop`
    sets ``stopping``, on which every delay waits, wakes the accepting thread through
    a socket pair, and shuts every connection down, which ends any read or write in
    its thread. A test's handler that hangs is left behind.

    A forked child closes its copies at once. Otherwise a connection or the port
    would outlive the server in the child.
    """

    def __init__(
        self,
        answer: Callable[[Request], Answer],
        port: int,
        tls: ssl.SSLContext | None,
        clock: Callable[[], float],
        stopping: threading.Event,
        closed: Callable[[], object],
    ) -> None:
        self.answer = answer
        self.clock = clock
        self.stopping = stopping
        self._closed = closed
        self._tls = tls
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._socket = socket.create_server(("127.0.0.1", port), backlog=_BACKLOG)
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._wake, self._woken = socket.socketpair()
        self._accepting = threading.Thread(
            target=self._accept, name="authorization-server", daemon=True
        )
        self._accepting.start()

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    def stop(self) -> None:
        """Close everything. Blocks for about a second at most, even if a handler hangs."""
        self.stopping.set()
        self._wake.send(b".")
        self._accepting.join()
        for part in (self._socket, self._wake, self._woken):
            part.close()
        with self._lock:
            threads = list(self._threads)
            for connection in self._connections:
                # Not the SSLSocket's own shutdown: it drops the TLS object while the
                # connection's thread is using it.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        deadline = time.monotonic() + _JOIN
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def after_fork_in_child(self) -> None:
        """Close the child's copies of the sockets; the parent's sockets stay open."""
        for part in (self._socket, self._wake, self._woken, *self._connections):
            with contextlib.suppress(OSError):
                os.close(part.detach())
        self._connections.clear()
        self._threads.clear()

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self.stopping.is_set():
                selector.select()
                try:
                    while not self.stopping.is_set():
                        self._take(self._socket.accept()[0])
                except BlockingIOError:
                    pass
                except OSError:  # out of descriptors, or the client has disconnected
                    self.stopping.wait(0.01)

    def _take(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        thread = threading.Thread(
            target=self._serve, args=(connection,), name="authorization-server", daemon=True
        )
        with self._lock:
            self._connections.add(connection)
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # no thread available: the client sees a closed connection
            with self._lock:
                self._threads.discard(thread)
            self._forget(connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            # Tests make clients disconnect at any point; that is not an error here.
            with contextlib.suppress(OSError, ValueError):
                connection = self._secured(connection)
                if isinstance(connection, ssl.SSLSocket):
                    connection.do_handshake()
                Conversation(connection, None, self)  # type: ignore[arg-type]
        finally:
            self._forget(connection)

    def _secured(self, connection: socket.socket) -> socket.socket:
        """Wrap ``connection`` in TLS, without a handshake yet, if the server uses TLS."""
        if self._tls is None:
            return connection
        secure = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._connections.discard(connection)
            self._connections.add(secure)
        if self.stopping.is_set():  # stop() may have missed it between wrapping and adding
            socket.socket.shutdown(secure, socket.SHUT_RDWR)
        return secure

    def _forget(self, connection: socket.socket) -> None:
        """Close ``connection`` and remove it and this thread from the sets."""
        with self._lock:
            self._connections.discard(connection)
            self._threads.discard(threading.current_thread())
        # A forked child may hold a copy of the socket; a shutdown reaches the peer anyway.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
        connection.close()
        self._closed()


class Conversation(BaseHTTPRequestHandler):
    """One connection: requests in, answers out, until either side ends it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener  # type: ignore[assignment]

    def handle_one_request(self) -> None:
        """Read one complete request and send its answer."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or len(self.raw_requestline) > 65536:
            self.close_connection = True
            return
        if not self.parse_request():
            return
        try:
            body, length, sha256 = self._read_body()
        except (EOFError, ValueError):  # truncated, or not HTTP
            self.close_connection = True
            return
        self._send(
            self.server.answer(Request(self.command, self.path, self.headers, body, length, sha256))
        )

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (http.server's name)
        """Write nothing to stderr; the server has its own log."""

    def _read_body(self) -> tuple[bytes, int, str]:
        """Return the first MiB of the body, its length and its SHA-256."""
        kept, length, hashed = bytearray(), 0, hashlib.sha256()
        for piece in self._pieces():
            kept += piece[: max(0, KEPT_BODY - len(kept))]
            length += len(piece)
            hashed.update(piece)
        return bytes(kept), length, hashed.hexdigest()

    def _pieces(self) -> Iterator[bytes]:
        if "chunked" not in (self.headers.get("Transfer-Encoding") or "").lower():
            yield from self._exactly(int(self.headers.get("Content-Length") or 0))
            return
        while size := int(self._line().partition(b";")[0], 16):
            yield from self._exactly(size)
            self._line()
        while self._line().strip():  # trailers
            pass

    def _line(self) -> bytes:
        line = self.rfile.readline(65537)
        if not line.endswith(b"\n"):
            raise EOFError
        return line

    def _exactly(self, length: int) -> Iterator[bytes]:
        while length > 0:
            piece = self.rfile.read(min(length, 65536))
            if not piece:
                raise EOFError
            length -= len(piece)
            yield piece

    def _send(self, answer: Answer) -> None:
        if answer.delay:
            self.server.stopping.wait(answer.delay)
        if answer.drop or answer.raw is not None or self.server.stopping.is_set():
            self.close_connection = True
            self.wfile.write(answer.raw or b"")
            return
        headers = header_pairs(answer.headers)
        names = {name.lower() for name, _ in headers}
        has_body = self.command != "HEAD" and answer.status not in (204, 304)
        body: Iterable[bytes] = [answer.body] if isinstance(answer.body, bytes) else answer.body
        if isinstance(answer.body, bytes):
            if "content-length" not in names and answer.status != 204:
                headers.append(("Content-Length", str(len(answer.body))))
        elif "content-length" not in names:
            headers.append(("Transfer-Encoding", "chunked"))
            body = _chunks(answer.body)
        if answer.close:
            headers.append(("Connection", "close"))
            self.close_connection = True
        head = self._head(answer.status, headers)
        pieces = body if has_body else []
        if answer.trickle is None and answer.trickle_head is None and isinstance(pieces, list):
            self.wfile.write(b"".join([head, *pieces]))  # a short answer is one TCP segment
            return
        self._write(head, answer.trickle_head)
        for piece in pieces:
            self._write(piece, answer.trickle)

    def _head(self, status: int, headers: Iterable[tuple[str, str]]) -> bytes:
        lines = [
            f"HTTP/1.1 {status} {http.client.responses.get(status, '-')}",
            f"Date: {self.date_time_string(self.server.clock())}",
            *(f"{name}: {value}" for name, value in headers),
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _write(self, data: bytes, rate: float | None) -> None:
        """Write ``data`` at ``rate`` bytes per second; raises ``OSError`` if the server stops."""
        if rate is None:
            self.wfile.write(data)
            return
        step = max(1, round(rate / 20))
        for start in range(0, len(data), step):
            self.wfile.write(data[start : start + step])
            if self.server.stopping.wait(step / rate):
                raise OSError("the server is stopping")


def _chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        if piece:
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"
