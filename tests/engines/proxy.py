"""A TCP proxy before an engine: it counts round trips, and cuts the network."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading


class Proxy:
    """Carries connections to ``port`` of 127.0.0.1, byte by byte as they come.

    ``round_trips`` counts how often the client spoke after the engine had (or
    first): what one statement costs, whatever the protocol. ``connections``
    counts those that clients made. ``cut()`` is a network that loses everything:
    bytes are read and dropped, and new connections are taken and not carried on,
    so both sides only see silence. ``heal()`` resets what was cut, as a network
    does that comes back. ``forget()`` is a firewall that has given up what was
    idle: each connection looks alive until its client speaks, and is closed then.
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
        """Lose everything from now on."""
        with self._lock:
            self._silent = True

    def heal(self):
        """Carry new connections again; reset those that were cut."""
        with self._lock:
            self._silent = False
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def forget(self):
        """Close each connection there is as soon as its client speaks."""
        with self._lock:
            self._forgotten |= self._open

    def close(self):
        """Carry nothing any more."""
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
