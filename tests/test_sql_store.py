"""``SQLStore`` against PostgreSQL, PgBouncer, MariaDB and SQLite: the contract, and its own rules."""

from __future__ import annotations

import pytest
from engines.fixtures import mariadb, pgbouncer, postgres, sqlite  # noqa: F401 (fixtures)

from requests_silent_refresh.sources import FromEnvironment
from requests_silent_refresh.stores.sql import SQLStore
from requests_silent_refresh.testing.store_contract import StoreContract

KEY = "k" * 43 + "="


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("FLEET_KEY", KEY)


class SQLContract(StoreContract):
    def make_store(self, tmp_path):
        store = SQLStore(self.url, "nightly", key=FromEnvironment("FLEET_KEY"))
        store.create_table()
        return store


class TestPostgres(SQLContract):
    @pytest.fixture(autouse=True)
    def _empty(self, postgres):  # noqa: F811
        postgres.empty()
        self.url = postgres.url


class TestPgBouncer(SQLContract):
    @pytest.fixture(autouse=True)
    def _empty(self, postgres, pgbouncer):  # noqa: F811
        postgres.empty()
        self.url = pgbouncer.url


class TestMariaDB(SQLContract):
    @pytest.fixture(autouse=True)
    def _empty(self, mariadb):  # noqa: F811
        mariadb.empty()
        self.url = mariadb.url


class TestSQLite(SQLContract):
    @pytest.fixture(autouse=True)
    def _empty(self, sqlite):  # noqa: F811
        self.url = sqlite.url
