"""``SQLStore``: a session in a row of an SQL database (extra ``sql``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import arguments
from ..errors import StoreError
from .engine import (
    NOTHING,
    TOO_LATE,
    Engine,
    Held,
    Row,
    Seen,
    checked_name,
    fleet_key,
    milliseconds,
)
from .lease import LeasedStore

if TYPE_CHECKING:
    import sqlalchemy as sa


class SQLStore(LeasedStore):
    """Keeps the session encrypted in an SQL database, for any number of hosts. Thread-safe.

    >>> from requests_silent_refresh.secret_sources import FromEnvironment
    >>> store = SQLStore("sqlite:///tokens.sqlite", "report", key=FromEnvironment("FLEET_KEY"))
    >>> store.create_table()

    ``engine_or_url``
        A URL that SQLAlchemy accepts, a callable that returns one
        (``FromEnvironment("DATABASE_URL")``), or a SQLAlchemy ``Engine``. You dispose of your
        own engine. PostgreSQL, MariaDB, MySQL and SQLite (a file) are supported. Install the
        driver that the URL names.
    ``name``
        The name of the session. Hosts that use the same name share one session.
    ``key``
        See :mod:`requests_silent_refresh.keys`. Every host must have the same key. There is no
        default, because each machine has its own default key file.

    Raises ``ImportError`` if SQLAlchemy or the driver is not installed, and ``ValueError`` or
    ``TypeError`` if the URL, the database, the name or the key is invalid. Connects on first
    use. The table ``silent_refresh_tokens`` must be created once: call :meth:`create_table`, or
    ask your DBA to run the statement that :meth:`ddl` returns.

    Each step is one statement in autocommit mode, so that it works on any connection of a pool.
    No row is locked and no transaction is open during an exchange. With PgBouncer in transaction
    mode, your own engine with psycopg must set ``prepare_threshold=None``.
    :class:`~requests_silent_refresh.stores.lease.LeasedStore` explains how the lease keeps the
    contract, and ``docs/fleet.rst`` what a failover may lose.

    Pickling raises ``TypeError`` if the store was given an engine, a URL with a password, or a
    literal key.
    """

    def __init__(self, engine_or_url: Any, name: str, key: Any = None) -> None:
        name, source = checked_name(name), fleet_key(key)
        self._database = _Database(engine_or_url, name)
        super().__init__(self._database, name, source)

    def create_table(self) -> None:
        """Create the table if it is missing. Raises ``StoreError`` if that is not allowed."""
        self._engine.ask(self._database.create_table, patience=10.0)

    def ddl(self) -> str:
        """Return the ``CREATE TABLE`` statement for this database. Does not connect."""
        from .sql_table import ddl

        return ddl(self._database.client.dialect)


class _Database(Engine):
    """The row ``name`` of the table. Its ``client`` is a SQLAlchemy engine."""

    store, client_name = "SQLStore", "an engine"

    def __init__(self, given: Any, name: str) -> None:
        try:
            import sqlalchemy
        except ImportError:
            raise ImportError(
                "SQLStore needs SQLAlchemy: pip install 'requests-silent-refresh[sql]', and a "
                "driver for the database"
            ) from None
        from .sql_table import TABLE, clock_of

        self._sa = sqlalchemy
        self._clock_of = clock_of
        self._name = name
        self._table = TABLE
        self._mine: sa.ColumnElement[bool] = TABLE.c.name == name
        if isinstance(given, sqlalchemy.Engine):
            self._check(given.url, given.dialect)
            engine = given.execution_options(isolation_level="AUTOCOMMIT")
            super().__init__(None, engine, _without_password(given.url))
        elif isinstance(given, (str, sqlalchemy.URL)):
            url = self._url(given)
            text = url.render_as_string(hide_password=False)
            super().__init__(text, None, _without_password(url))
        else:
            arguments.functions(
                "a URL, a callable that returns one, or a SQLAlchemy Engine", engine_or_url=given
            )
            super().__init__(given, None, repr(given))

    # -- one round trip each ---------------------------------------------------------

    def read(self) -> Row | None:
        c = self._table.c
        now = self._now.label("now")
        columns = (c.lineage, c.generation, c.key_id, c.state, now)
        row = self._row(self._sa.select(*columns).where(self._mine))
        self.notes_time((row or self._row(self._sa.select(now))).now)
        if row is None or (row.lineage, row.generation) == NOTHING:
            return None
        return Row(row.lineage, row.generation, str(row.key_id), str(row.state).encode())

    def write(self, row: Row, seen: Seen, owner: str) -> bool:
        values = {
            "lineage": row.lineage,
            "generation": row.generation,
            "key_id": row.key_id,
            "state": row.content.decode(),
        }
        unmarked = {"begun_at": None, "begun_by": None}
        changes = {**values, **unmarked, **self._without_lease(owner)}
        if self._update(self._is(seen), changes):
            return True
        return seen == NOTHING and self._insert(values)

    def take(
        self, owner: str, holder: str, seconds: float, seen: Seen | None, deadline: int
    ) -> Held | bool:
        c, sa = self._table.c, self._sa
        left = sa.cast(c.lease_until - self._now, sa.BigInteger).label("remaining")
        columns = (c.lineage, c.generation, c.holder, left, self._now.label("now"))
        while not self._lease(owner, holder, seconds, seen, deadline):
            row = self._row(sa.select(*columns).where(self._mine))
            if row is None and seen is None:
                self._insert({})
                continue
            if row is None or (seen is not None and (row.lineage, row.generation) != seen):
                return False
            if row.now > deadline:
                self.notes_time(row.now)
                return TOO_LATE
            if row.remaining is not None and row.remaining > 0:
                return Held(row.holder, row.remaining / 1000)
            # It was released between the two statements.
        return True

    def begin(self, owner: str, seen: Seen, seconds: float, deadline: int) -> bool:
        c, coalesce = self._table.c, self._sa.func.coalesce
        in_time = self._now <= deadline
        held = self._sa.and_(c.owner == owner, c.lease_until > self._now, self._is(seen), in_time)
        return self._update(
            held,
            {
                "lease_until": self._now + milliseconds(seconds),
                "begun_by": coalesce(c.begun_by, owner),
                "begun_at": coalesce(c.begun_at, self._now),
            },
        )

    def extend(self, owner: str, holder: str, seconds: float, seen: Seen, deadline: int) -> bool:
        return self._lease(owner, holder, seconds, seen, deadline)

    def _lease(
        self, owner: str, holder: str, seconds: float, seen: Seen | None, deadline: int
    ) -> bool:
        c, sa = self._table.c, self._sa
        free = sa.or_(c.owner.is_(None), c.owner == owner, c.lease_until <= self._now)
        in_time = sa.and_(free, self._now <= deadline)
        until = self._now + milliseconds(seconds)
        return self._update(
            in_time if seen is None else sa.and_(in_time, self._is(seen)),
            {"owner": owner, "holder": holder, "lease_until": until},
        )

    def release(self, owner: str, keep_mark: bool = False) -> None:
        c, sa = self._table.c, self._sa
        mine = sa.false() if keep_mark else c.begun_by == owner
        self._update(
            sa.or_(c.owner == owner, mine),
            {
                **self._without_lease(owner),
                # In this order: MySQL uses the new value of a column that was set before.
                "begun_at": sa.case((mine, None), else_=c.begun_at),
                "begun_by": sa.case((mine, None), else_=c.begun_by),
            },
        )

    def interrupted(self, owner: str) -> float | None:
        c = self._table.c
        row = self._row(self._sa.select(c.begun_by, c.begun_at).where(self._mine))
        if row is None or row.begun_by in (None, owner):
            return None
        return float(row.begun_at) / 1000

    def set_aside(self, name: str) -> bool:
        return self._update(self._sa.true(), {"name": name})

    # -- statements --------------------------------------------------------------------

    def _is(self, seen: Seen) -> sa.ColumnElement[bool]:
        c = self._table.c
        return self._sa.and_(c.lineage == seen[0], c.generation == seen[1])

    def _without_lease(self, owner: str) -> dict[str, Any]:
        """Return the columns that end a lease of ``owner`` and keep any other lease."""
        c = self._table.c
        # The owner comes last: see `release`.
        return {
            name: self._sa.case((c.owner == owner, None), else_=c[name])
            for name in ("holder", "lease_until", "owner")
        }

    def _update(self, condition: Any, values: dict[str, Any]) -> bool:
        statement = self._sa.update(self._table).where(self._mine, condition)
        ordered = [(self._table.c[name], value) for name, value in values.items()]
        return self._execute(statement.ordered_values(*ordered))[0] == 1

    def _insert(self, values: dict[str, Any]) -> bool:
        try:
            self._execute(self._sa.insert(self._table).values(name=self._name, **values))
        except self._sa.exc.IntegrityError:
            return False  # another process was faster
        return True

    def _row(self, statement: Any) -> Any:
        return self._execute(statement)[1]

    def _execute(self, statement: Any) -> tuple[int, Any]:
        for again in (True, False):
            try:
                pool = self.client.pool
                with self.client.connect() as connection:
                    try:
                        result = connection.execute(statement)
                        return result.rowcount, result.first() if result.returns_rows else None
                    finally:
                        if self.client.pool is not pool:  # left behind: close it
                            connection.detach()
            except self._sa.exc.DBAPIError as error:
                # One immediate retry, in case the server has closed a pooled connection.
                if not (again and error.connection_invalidated):
                    raise
        raise AssertionError  # for the type checker

    # -- the connection ----------------------------------------------------------------

    @property
    def _now(self) -> sa.ColumnElement[int]:
        return self._clock_of(self.client.dialect)

    def connect(self, url: Any) -> Any:
        from .sql_table import bounds_of

        url = self._url(url)
        try:
            dialect = url.get_dialect()()
        except self._sa.exc.NoSuchModuleError:
            raise ValueError(f"SQLAlchemy has no driver {url.drivername!r}: install it") from None
        self._check(url, dialect)
        return self._sa.create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            connect_args=bounds_of(dialect, url.query),
            # One is enough for a refresh; concurrent steps open more.
            pool_size=2,
            max_overflow=-1,
            # No transaction is ever open, and a rollback would cost a round trip.
            pool_reset_on_return=None,
            skip_autocommit_rollback=True,
        )

    def _url(self, url: Any) -> sa.URL:
        try:
            return self._sa.make_url(url)
        except (self._sa.exc.ArgumentError, ValueError):
            # From None: the error quotes a part of the URL, which may hold a password.
            raise ValueError("engine_or_url is not a URL that SQLAlchemy can parse") from None

    def _check(self, url: sa.URL, dialect: sa.Dialect) -> None:
        self._clock_of(dialect)
        if dialect.name == "sqlite" and url.database in (None, "", ":memory:"):
            raise ValueError(
                "a SQLite database in memory is not shared between processes: use a file"
            )

    def disconnect(self) -> None:
        # An engine that was given may be used elsewhere too.
        if self._is_ours and self._client is not None:
            self._client.dispose()

    def __del__(self) -> None:
        if getattr(self, "_client", None) is not None:
            self.disconnect()

    def after_fork_in_child(self) -> None:
        if not self._is_ours:
            self._of_parents.append(self._client.pool)  # as in Engine
            self._client.dispose(close=False)
        super().after_fork_in_child()

    def holds_password(self, url: str) -> bool:
        parsed = self._url(url)
        return parsed.password is not None or "password" in parsed.query

    def trouble(self, error: Exception) -> StoreError | None:
        from .sql_table import says_login_rejected, says_no_table

        exc = self._sa.exc
        if not isinstance(error, exc.SQLAlchemyError):
            return None
        cause = getattr(error, "orig", None) or error
        if says_no_table(cause):
            return StoreError(
                f"{self} has no table {self._table.name}: call the store's create_table() once, "
                "or ask your DBA to run the statement that its ddl() returns"
            )
        if isinstance(error, exc.OperationalError) and says_login_rejected(cause):
            return self.rejected_login(cause)
        if isinstance(error, (exc.ProgrammingError, exc.DataError, exc.NotSupportedError)):
            return self.rejected(cause)
        return self.unavailable(cause)

    def create_table(self) -> None:
        """Create the table if it is missing."""
        try:
            self._table.create(self.client, checkfirst=True)
        except self._sa.exc.DBAPIError:
            # Another process may have created it in between.
            if not self._sa.inspect(self.client).has_table(self._table.name):
                raise


def _without_password(url: sa.URL) -> str:
    return url.set(password=None, query={}).render_as_string()
