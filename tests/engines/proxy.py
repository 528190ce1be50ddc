"""A TCP proxy in front of an engine, which counts round trips and simulates network failures."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading


class Proxy:
    """Forwards connections to ``port`` of 127.0.0.1.

    ``round_trips`` counts the times a client sends at first or after the engine has
    sent, which is the cost of a statement in any protocol. ``connections`` counts the
    clients' connections. ``cut()`` acts like a network that loses everything: bytes are
    dropped, and new connections are accepted but not forwarded, so both sides see only
    silence. ``heal()`` resets the cut connections, as a recovering network does.
    ``forget()`` acts like a firewall that has dropped idle connections: each looks alive
    until its client sends, and is then closed.
    """

    def __init__(self, port):
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open = set()
        self._forgotten = set()
        self._silent = False
        self.round_trips = 0
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """Drop all data from now on."""
        with self._lock:
            self._silent = True

    def heal(self):
        """Forward new connections again, and reset those that were cut."""
        with self._lock:
            self._silent = False
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def forget(self):
        """Close each existing connection as soon as its client sends."""
        with self._lock:
            self._forgotten |= self._open

    def close(self):
        """Stop forwarding, and close all connections."""
        self._listener.close()
        self.heal()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client):
        with client, contextlib.suppress(OSError):
            engine = None
            with self._lock:
                self._open.add(client)
                self.connections += 1
                silent = self._silent
            try:
                if silent:
                    while client.recv(65536):
                        pass
                    return
                engine = socket.create_connection(("127.0.0.1", self._target))
                engine.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._open.add(engine)
                self._pump(client, engine)
            finally:
                with self._lock:
                    self._open -= {client, engine}
                if engine is not None:
                    engine.close()

    def _pump(self, client, engine):
        answered = True
        with selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ, engine)
            ready.register(engine, selectors.EVENT_READ, client)
            while True:
                for key, _ in ready.select():
                    content = key.fileobj.recv(65536)
                    if not content:
                        return
                    with self._lock:
                        if self._silent:
                            continue
                        if key.fileobj is client and client in self._forgotten:
                            return
                        if key.fileobj is client and answered:
                            self.round_trips += 1
                    answered = key.fileobj is engine
                    key.data.sendall(content)
