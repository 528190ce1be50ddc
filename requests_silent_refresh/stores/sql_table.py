"""The table of ``SQLStore``, its DDL, and what differs between databases."""

from __future__ import annotations

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

# The database's clock, in milliseconds of Unix time, as the statement runs. Not by way of
# a local time, which would come twice when the clocks go back.
_NOW = {
    "postgresql": "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
    "mysql": "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000)",
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
}
_NOW["mariadb"] = _NOW["mysql"]

# Drivers that read bounds of their own from `connect_args`; seconds, but for the last.
# What a bound does not cover is left behind after `Engine.patience`; these end it.
_TCP = {
    "connect_timeout": 2,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_SOCKET = {"connect_timeout": 2, "read_timeout": 5, "write_timeout": 5}
_CONNECT: dict[str, dict[str, Any]] = {
    # Statements prepared at one server connection are unknown at the next (PgBouncer).
    "psycopg": {**_TCP, "prepare_threshold": None},
    "psycopg2": _TCP,
    "pymysql": _SOCKET,
    "mysqldb": _SOCKET,
    "pysqlite": {"timeout": 1.0},
}

_name = String(200).with_variant(
    # The default collation takes two names for one that differ in their case.
    VARCHAR(200, charset="utf8mb4", collation="utf8mb4_bin"),
    "mysql",
    "mariadb",
)

TABLE = Table(
    "silent_refresh_tokens",
    MetaData(),
    Column("name", _name, primary_key=True),
    # Empty where no state was ever stored, only a lease taken.
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
    """Return the database's clock. Raises ``ValueError`` for a database that is not known."""
    if dialect.name not in _NOW:
        raise ValueError(
            f"SQLStore knows PostgreSQL, MariaDB, MySQL and SQLite, not {dialect.name}: keep the "
            "session in one of these, or in Redis"
        )
    return literal_column(_NOW[dialect.name], BigInteger)


def bounds_of(dialect: Dialect, given: Any) -> dict[str, Any]:
    """Return the driver's bounds for ``connect_args``, but for those ``given`` in the URL."""
    bounds = _CONNECT.get(dialect.driver, {})
    return {name: value for name, value in bounds.items() if name not in given}


def ddl(dialect: Dialect) -> str:
    """Return the statement that makes the table."""
    return f"{str(CreateTable(TABLE).compile(dialect=dialect)).strip()};\n"
