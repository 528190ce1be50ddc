"""The table of ``SQLStore``, its DDL, and the differences between databases."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    MetaData,
    String,
    Table,
    Text,
    literal_column,
)
from sqlalchemy.dialects.mysql import MEDIUMTEXT, VARCHAR
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateTable

# The database's clock while the statement runs, in milliseconds of Unix time. A local
# time is not used, because it is ambiguous when the clocks go back.
_NOW = {
    "postgresql": "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
    "mysql": "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000)",
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
}
_NOW["mariadb"] = _NOW["mysql"]

# Timeouts that drivers accept in `connect_args`, in seconds (`tcp_user_timeout` in ms).
# They end a step that was left behind after `Engine.patience`.
_TCP = {
    "connect_timeout": 2,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_SOCKET = {"connect_timeout": 2, "read_timeout": 5, "write_timeout": 5}
_CONNECT: dict[str, dict[str, Any]] = {
    # PgBouncer changes the server connection, where prepared statements are unknown.
    "psycopg": {**_TCP, "prepare_threshold": None},
    "psycopg2": _TCP,
    "pymysql": _SOCKET,
    "mysqldb": _SOCKET,
    "pysqlite": {"timeout": 1.0},
}

_name = String(200).with_variant(
    # The default collation ignores case.
    VARCHAR(200, charset="utf8mb4", collation="utf8mb4_bin"),
    "mysql",
    "mariadb",
)

TABLE = Table(
    "silent_refresh_tokens",
    MetaData(),
    Column("name", _name, primary_key=True),
    # Empty if a lease was taken but no state was ever stored.
    Column("lineage", String(32), nullable=False, default=""),
    Column("generation", BigInteger, nullable=False, default=0),
    Column("key_id", String(64)),
    Column("state", Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")),
    Column("owner", String(32)),
    Column("holder", String(200)),
    Column("lease_until", BigInteger),
    Column("begun_by", String(32)),
    Column("begun_at", BigInteger),
)


def clock_of(dialect: Dialect) -> ColumnElement[int]:
    """Return the database's clock. Raises ``ValueError`` if the database is not supported."""
    if dialect.name not in _NOW:
        raise ValueError(
            f"SQLStore supports PostgreSQL, MariaDB, MySQL and SQLite, not {dialect.name}: use one "
            "of these, or a RedisStore"
        )
    return literal_column(_NOW[dialect.name], BigInteger)


def bounds_of(dialect: Dialect, given: Any) -> dict[str, Any]:
    """Return the driver's timeouts for ``connect_args``, except those ``given`` in the URL."""
    bounds = _CONNECT.get(dialect.driver, {})
    return {name: value for name, value in bounds.items() if name not in given}


def ddl(dialect: Dialect) -> str:
    """Return the statement that creates the table."""
    return f"{str(CreateTable(TABLE).compile(dialect=dialect)).strip()};\n"


def says_no_table(cause: BaseException) -> bool:
    """Return whether a driver reports a missing table (PostgreSQL, MySQL, SQLite)."""
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    return state == "42P01" or cause.args[:1] == (1146,) or "no such table" in str(cause)


# MySQL: no access for the user, from this host, to the database; no such database; blocked host;
# expired password; locked account (MySQL, MariaDB).
_LOGIN_CODES = {1044, 1045, 1049, 1129, 1130, 1698, 1862, 3118, 4151}
# PostgreSQL. libpq gives no SQLSTATE for a failed connection, only the server's message.
_LOGIN_STATES = ("28", "3D000", "42501")
_LOGIN_WORDS = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|pg_hba\.conf rejects|"
    r'(role|database) ".*" does not exist|not permitted to log in|permission denied for database'
)


def says_login_rejected(cause: BaseException) -> bool:
    """Return whether a driver reports a rejected login, which would be rejected again."""
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if state is not None:
        return str(state).startswith(_LOGIN_STATES)
    if isinstance(next(iter(cause.args), None), int):
        return cause.args[0] in _LOGIN_CODES
    return _LOGIN_WORDS.search(str(cause)) is not None
