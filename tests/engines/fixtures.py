"""Fixtures: one server of each kind for the whole run; the tests empty it."""

from __future__ import annotations

import pytest

# The engines are imported in the fixtures, so that other tests need no drivers.


def _started(server):
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    """A Redis server that persists every change."""
    from .redis import RedisServer

    yield from _started(RedisServer(tmp_path_factory.mktemp("redis")))


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server."""
    from .sql import Postgres

    yield from _started(Postgres())


@pytest.fixture(scope="session")
def pgbouncer(postgres):
    """A PgBouncer in transaction mode in front of the PostgreSQL server."""
    from .sql import PgBouncer

    yield from _started(PgBouncer(postgres))


@pytest.fixture(scope="session")
def mariadb():
    """A MariaDB server."""
    from .sql import MariaDB

    yield from _started(MariaDB())


@pytest.fixture
def sqlite(tmp_path):
    """A SQLite file."""
    from .sql import SQLite

    return SQLite(tmp_path / "tokens.sqlite")
