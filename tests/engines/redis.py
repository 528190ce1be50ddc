"""A Redis server."""

from __future__ import annotations

import pytest
from programs import find

from .processes import Server

redis = pytest.importorskip("redis", reason="pip install 'requests-silent-refresh[redis]'")


class RedisServer(Server):
    """``redis-server`` with its data in its own directory."""

    settings = ("--appendonly", "yes", "--save", "")

    def __init__(self, directory, settings=None):
        self._program = find("redis-server")
        directory.mkdir(exist_ok=True)
        super().__init__(directory)
        self.settings = self.settings if settings is None else settings

    @property
    def url(self):
        """The server's URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self):
        return [
            *(self._program, "--bind", "127.0.0.1", "--port", str(self.port)),
            *("--dir", str(self.directory), *self.settings),
        ]

    def answers(self):
        try:
            with self.client() as client:
                return client.ping()
        except redis.RedisError:
            return False

    def client(self):
        """Return a new client."""
        return redis.Redis.from_url(self.url)

    def empty(self):
        """Delete everything."""
        with self.client() as client:
            client.flushall()

    def dump(self):
        """Return every key and every field, as bytes."""
        with self.client() as client:
            return b"\n".join(
                b"%s %s %s" % (key, field, value)
                for key in client.scan_iter()
                for field, value in client.hgetall(key).items()
            )
