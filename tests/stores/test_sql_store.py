"""``SQLStore`` with PostgreSQL, PgBouncer, MariaDB and SQLite: the contract, and more."""

from __future__ import annotations

import contextlib
import errno
import functools
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import sqlalchemy
from engines.fleet import KEY
from engines.proxy import Proxy
from queue_kit import refresh_and_meanwhile, until

from requests_silent_refresh import SQLStore, StoreCorrupted, StoreError, StoreUnavailable, Token
from requests_silent_refresh.secret_sources import FromEnvironment
from requests_silent_refresh.stores.engine import told_by
from requests_silent_refresh.testing.store_contract import StoreContract


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
    def _empty(self, postgres):
        postgres.empty()
        self.url = postgres.url


class TestPgBouncer(SQLContract):
    @pytest.fixture(autouse=True)
    def _empty(self, postgres, pgbouncer):
        postgres.empty()
        self.url = pgbouncer.url


class TestMariaDB(SQLContract):
    @pytest.fixture(autouse=True)
    def _empty(self, mariadb):
        mariadb.empty()
        self.url = mariadb.url


class TestSQLite(SQLContract):
    @pytest.fixture(autouse=True)
    def _empty(self, sqlite):
        self.url = sqlite.url


def by_engine(url):
    """Open a store with the caller's own engine."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    return SQLStore(engine, "nightly", key=FromEnvironment("FLEET_KEY"))


class TestEngine(StoreContract):
    @pytest.fixture(autouse=True)
    def _empty(self, sqlite):
        self.url = sqlite.url

    def make_store(self, tmp_path):
        store = by_engine(self.url)
        store.create_table()
        return store

    def opener(self, store):
        return functools.partial(by_engine, self.url)


def key():
    return KEY


@pytest.fixture(params=["postgres", "mariadb", "sqlite"])
def database(request):
    database = request.getfixturevalue(request.param)
    database.empty()
    return database


def test_a_missing_table(database):
    """The error says how to create the table, and is not an outage."""
    store = SQLStore(database.url, "nightly", key=key)
    for use in (store.load, lambda: store.save(Token("a"), None), lambda: store.exclusive(30.0)):
        with pytest.raises(StoreError, match="create_table") as missing:
            use()
        assert not isinstance(missing.value, StoreUnavailable)
    store.close()


def test_the_ddl_creates_the_table(database):
    """The statement of ddl() creates the table; create_table() then does nothing."""
    store = SQLStore(database.url, "nightly", key=key)
    database.query(store.ddl().rstrip(";\n"))
    store.create_table()
    assert store.load() is None
    store.close()


def test_a_row_that_was_changed(database):
    """P3: it is damage, also for a process that has read the row before."""
    store = SQLStore(database.url, "nightly", key=key)
    store.create_table()
    store.save(Token("a"), None)
    assert store.load().generation == 1
    database.query("UPDATE silent_refresh_tokens SET generation = 7")
    with pytest.raises(StoreCorrupted, match="mixture"):
        store.load()
    store.close()


def test_a_table_that_cannot_be_created(tmp_path):
    """create_table() raises an error that says so, and not only at the first use."""
    path = tmp_path / "tokens.db"
    path.touch()
    store = SQLStore(f"sqlite:///file:{path}?mode=ro&uri=true", "nightly", key=key)
    with pytest.raises(StoreUnavailable):
        store.create_table()
    store.close()


def test_the_ddl_needs_no_connection():
    """ddl() works without access to the database."""
    for url in ("postgresql+psycopg://nobody@127.0.0.1:1/none", "mysql+pymysql://127.0.0.1:1/none"):
        assert SQLStore(url, "nightly", key=key).ddl().startswith("CREATE TABLE silent_refresh_to")


def test_a_long_state_fits(database):
    """A token answer with large JWTs is stored completely (MySQL's TEXT would be too short)."""
    store = SQLStore(database.url, "nightly", key=key)
    store.create_table()
    store.save(Token("a", "r", extra={"id_token": "x" * 150_000}), None)
    assert len(store.load().token.extra["id_token"]) == 150_000
    store.close()


def test_no_transaction_is_open_during_an_exchange(postgres):
    """P4: after begin(), no database session has an open transaction, lock or snapshot."""
    postgres.empty()
    store = SQLStore(postgres.url, "nightly", key=key)
    store.create_table()
    state = store.save(Token("a", "r"), None)
    with store.exclusive(5.0, state) as hold:
        hold.begin(state)
        others = (
            "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type LIKE 'client%'"
        )
        assert postgres.query(f"SELECT count(*) {others}")[0][0] > 0
        assert postgres.query(f"SELECT * {others} AND state <> 'idle'") == []
        assert postgres.query(f"SELECT * {others} AND xact_start IS NOT NULL") == []
    store.close()


# For each database: the query for the other connections, and the statement that ends one.
OTHERS = {
    "postgres": (
        "SELECT pid FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
        "SELECT pg_terminate_backend({})",
    ),
    "mariadb": (
        "SELECT id FROM information_schema.processlist "
        "WHERE id <> connection_id() AND user = 'app'",
        "KILL {}",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_the_pooled_connection_is_closed_during_an_exchange(kind, request):
    """P4: an idle timeout of the database between the rotation and the save has no effect."""
    database = request.getfixturevalue(kind)
    database.empty()
    others, end = OTHERS[kind]
    store = SQLStore(database.url, "nightly", key=key)
    store.create_table()

    def kill():
        idle = database.query(others)
        assert idle
        for (connection,) in idle:
            with contextlib.suppress(sqlalchemy.exc.DBAPIError):  # it has just ended
                database.query(end.format(connection))
        until(lambda: not set(idle) & set(database.query(others)))

    refresh_and_meanwhile(store, kill)
    store.close()


def test_a_database_that_hangs(postgres):
    """P8: each step times out, and after the database recovers the store works at once."""
    postgres.empty()
    with Proxy(postgres.port) as proxy:
        url = postgres.url.replace(f":{postgres.port}/", f":{proxy.port}/")
        store = SQLStore(url, "nightly", key=key)
        store.create_table()
        state = store.save(Token("a", "r"), None)
        proxy.cut()
        # The first step is left behind with its connection; the next one has to connect.
        with pytest.raises(StoreUnavailable, match="not answered"):
            store.load()
        connections = proxy.connections
        with ThreadPoolExecutor(1) as pool:
            waiter = pool.submit(store.exclusive, 30.0, state)
            until(lambda: proxy.connections > connections)
            proxy.heal()
            waiter.result(30).release()
        assert state.is_same(store.load())
        store.close()


def test_a_table_with_other_columns_is_not_an_outage(postgres):
    """Missing columns are a StoreError at once, because waiting does not help."""
    postgres.empty()
    store = SQLStore(postgres.url, "nightly", key=key)
    postgres.query("CREATE TABLE silent_refresh_tokens (name TEXT PRIMARY KEY)")
    with pytest.raises(StoreError, match=r"UndefinedColumn \(42703\)") as refused:
        store.exclusive(30.0)
    assert not isinstance(refused.value, StoreUnavailable)
    store.close()


class DriverError(Exception):
    """An error of a driver, which quotes the statement's values."""

    sqlstate = "23505"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DriverError("canary"), "DriverError (23505)"),
        (RuntimeError(2006, "canary"), "RuntimeError (2006)"),
        (RuntimeError(10**9, "canary"), "RuntimeError"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "canary"), "(111, Connection refused)"),
        (redis.ResponseError("CROSSSLOT canary"), "ResponseError (CROSSSLOT)"),
        (RuntimeError("CANARY canary"), "RuntimeError"),
    ],
)
def test_of_a_drivers_error_only_type_and_codes_are_told(error, told):
    """P12: a driver quotes values and URLs, and SQLAlchemy a statement's parameters."""
    error.__cause__ = ValueError("canary")
    error.__cause__.__cause__ = error
    assert told_by(error).endswith(told)
    assert "canary" not in told_by(error).lower()


def test_concurrent_calls_create_one_table(database):
    """Several hosts may call create_table() at the same time."""
    stores = [SQLStore(database.url, "nightly", key=key) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(SQLStore.create_table, stores))
    assert [store.load() for store in stores] == [None] * 6
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (7, TypeError, "engine_or_url"),
        ("no url", ValueError, "not a URL"),
        ("oracle+nothing://app:canary-password@127.0.0.1/db", ValueError, "no driver"),
        ("mssql+pyodbc://127.0.0.1/db", (ValueError, ImportError), "PostgreSQL|pyodbc"),
        ("sqlite://", ValueError, "memory"),
        ("sqlite:///:memory:", ValueError, "memory"),
    ],
)
def test_an_invalid_argument(given, error, words):
    """An invalid argument is an error at construction that shows no password."""
    with pytest.raises(error, match=words) as refused:
        SQLStore(given, "nightly", key=key)
    assert "canary-password" not in str(refused.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("postgresql+psycopg://app:canary-password@127.0.0.1/app", key),
        ("postgresql+psycopg://app@127.0.0.1/app?password=canary-password", key),
        ("postgresql+psycopg://app@127.0.0.1/app", KEY),
        (sqlalchemy.create_engine("postgresql+psycopg://app:canary-password@127.0.0.1/app"), key),
    ],
    ids=["password", "password in the query", "literal key", "engine"],
)
def test_secrets_and_engines_are_not_pickled(arguments):
    """P12: a store with a password, a literal key or an engine cannot be pickled."""
    url, its_key = arguments
    store = SQLStore(url, "nightly", key=its_key)
    assert "canary-password" not in repr(store)
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(store)


def test_a_callable_keeps_the_password_out_of_the_pickle(sqlite, monkeypatch):
    """P12: the pickle contains the name of the variable and not the URL."""
    monkeypatch.setenv("DATABASE_URL", sqlite.url)
    store = SQLStore(FromEnvironment("DATABASE_URL"), "nightly", key=FromEnvironment("FLEET_KEY"))
    store.create_table()
    again = pickle.loads(pickle.dumps(store))
    assert again.load() is None
    assert "DATABASE_URL" in repr(again)
    monkeypatch.setenv("DATABASE_URL", "no url")
    with pytest.raises(StoreError, match="not a URL"):
        pickle.loads(pickle.dumps(store)).load()
    monkeypatch.delenv("DATABASE_URL")
    with pytest.raises(StoreError, match="DATABASE_URL"):
        pickle.loads(pickle.dumps(store)).load()


def test_without_sqlalchemy_the_extra_is_named():
    """Without SQLAlchemy the error says which extra to install."""
    script = (
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "from requests_silent_refresh import SQLStore\n"
        f"try: SQLStore('sqlite:///x', 'nightly', key={KEY!r})\n"
        "except ImportError as error: print(error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert "requests-silent-refresh[sql]" in said.stdout
