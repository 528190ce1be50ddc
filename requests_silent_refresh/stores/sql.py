"""``SQLStore``: a session in a row of an SQL database (extra ``sql``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import StoreError, StoreUnavailable
from .engine import NOTHING, Engine, Held, Row, Seen, asked_for, checked_name, fleet_key
from .lease import LeasedStore

if TYPE_CHECKING:
    import sqlalchemy as sa


class SQLStore(LeasedStore):
    """Keeps the session in an SQL database, encrypted, for any number of hosts. Thread-safe.

    ``engine_or_url``
        A URL as SQLAlchemy takes it, a callable that returns one
        (``FromEnvironment("DATABASE_URL")``), or an ``Engine`` of SQLAlchemy, which
        stays yours to dispose of. PostgreSQL, MariaDB, MySQL and SQLite (a file).
        Install the driver that the URL names.
    ``name``
        What the session is called; hosts that give one name share one session.
    ``key``
        See :mod:`requests_silent_refresh.keys`: something that every host has.
        There is no default, because the default key file is one machine's own.

    Raises ``ImportError`` without SQLAlchemy or the driver, ``ValueError`` or
    ``TypeError`` for a URL, a database, a name or a key that is none. Connects
    when it is first used. The table ``silent_refresh_tokens`` is made by
    :meth:`create_table`, once, or by whoever may, from what :meth:`ddl` returns.

    Every step is one statement in autocommit, so nothing depends on which
    connection of a pool it gets (PgBouncer's transaction mode; an engine of your
    own with psycopg needs ``prepare_threshold=None`` for that), and no row is
    locked and no transaction open during an exchange.
    :class:`~requests_silent_refresh.stores.lease.LeasedStore` says how the lease
    holds what the contract promises. What a failover may lose: ``docs/fleet.rst``.

    Pickles to what reopens it, if it was given a callable or a URL without
    password and a key that is not literal; ``TypeError`` else.
    """

    def __init__(self, engine_or_url: Any, name: str, key: Any = None) -> None:
        name, source = checked_name(name), fleet_key(key)
        self._database = _Database(engine_or_url, name)
        super().__init__(self._database, name, source)

    def create_table(self) -> None:
        """Make the table if it is missing. Raises ``StoreError`` where that is not allowed."""
        self._engine.ask(self._database.create_table, patience=10.0)

    def ddl(self) -> str:
        """Return the ``CREATE TABLE`` statement for this database; nothing is connected to."""
        return self._database.ddl()

    def __reduce__(self) -> Any:
        return type(self), (self._database.for_pickle(), self.name, self._source)


class _Database(Engine):
    """The row ``name`` of the table, and the SQLAlchemy engine to get at it."""

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
        # As an URL object, whose repr shows no password.
        self._given = self._url(given) if isinstance(given, str) else given
        self._name = name
        self._table = TABLE
        self._mine: sa.ColumnElement[bool] = TABLE.c.name == name
        self._is_engine = isinstance(given, sqlalchemy.Engine)
        self._of_parents: list[Any] = []
        self._engine: sa.Engine | None = None
        if self._is_engine:
            self._check(given.url, given.dialect)
            self._engine = given.execution_options(isolation_level="AUTOCOMMIT")
        elif isinstance(self._given, sqlalchemy.URL):
            self._engine = self._open(self._given)
        elif not callable(given):
            raise TypeError(
                "engine_or_url is a URL, a callable that returns one, or an Engine of SQLAlchemy, "
                f"not {type(given).__name__}"
            )

    # -- one round trip each ---------------------------------------------------------

    def read(self) -> Row | None:
        c = self._table.c
        columns = (c.lineage, c.generation, c.key_id, c.state)
        row = self._row(self._sa.select(*columns).where(self._mine))
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

    def take(self, owner: str, holder: str, seconds: float, seen: Seen | None) -> Held | bool:
        c, sa = self._table.c, self._sa
        while not self._lease(owner, holder, seconds, seen):
            left = sa.cast(c.lease_until - self._now, sa.BigInteger).label("remaining")
            row = self._row(sa.select(c.lineage, c.generation, c.holder, left).where(self._mine))
            if row is None and seen is None:
                self._insert({})
                continue
            if row is None or (seen is not None and (row.lineage, row.generation) != seen):
                return False
            if row.remaining is not None and row.remaining > 0:
                return Held(row.holder, row.remaining / 1000)
            # It was given up between the two statements.
        return True

    def begin(self, owner: str, seen: Seen, seconds: float) -> bool:
        c, coalesce = self._table.c, self._sa.func.coalesce
        held = self._sa.and_(c.owner == owner, c.lease_until > self._now, self._is(seen))
        return self._update(
            held,
            {
                "lease_until": self._now + _ms(seconds),
                "begun_by": coalesce(c.begun_by, owner),
                "begun_at": coalesce(c.begun_at, self._now),
            },
        )

    def extend(self, owner: str, holder: str, seconds: float, seen: Seen) -> bool:
        return self._lease(owner, holder, seconds, seen)

    def release(self, owner: str, keep_mark: bool = False) -> None:
        c, sa = self._table.c, self._sa
        mine = sa.false() if keep_mark else c.begun_by == owner
        self._update(
            sa.or_(c.owner == owner, mine),
            {
                **self._without_lease(owner),
                # In this order: MySQL sees the columns that are set before in a statement.
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

    def _lease(self, owner: str, holder: str, seconds: float, seen: Seen | None) -> bool:
        c, sa = self._table.c, self._sa
        free = sa.or_(c.owner.is_(None), c.owner == owner, c.lease_until <= self._now)
        until = self._now + _ms(seconds)
        return self._update(
            free if seen is None else sa.and_(free, self._is(seen)),
            {"owner": owner, "holder": holder, "lease_until": until},
        )

    def _without_lease(self, owner: str) -> dict[str, Any]:
        """Set the lease's columns so that one of ``owner`` has ended and another one stays."""
        c = self._table.c
        # The owner last: see `release`.
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
            return False  # somebody else was faster
        return True

    def _row(self, statement: Any) -> Any:
        return self._execute(statement)[1]

    def _execute(self, statement: Any) -> tuple[int, Any]:
        for again in (True, False):
            try:
                with self._connected.connect() as connection:
                    result = connection.execute(statement)
                    return result.rowcount, result.first() if result.returns_rows else None
            except self._sa.exc.DBAPIError as error:
                # A pooled connection that the server has closed meanwhile: once more, at once.
                if not (again and error.connection_invalidated):
                    raise
        raise AssertionError  # for the type checker

    # -- the connection ----------------------------------------------------------------

    @property
    def _connected(self) -> sa.Engine:
        engine = self._engine
        if engine is None:
            engine = self._engine = asked_for(self._given, self._open)
        return engine

    @property
    def _now(self) -> sa.ColumnElement[int]:
        return self._clock_of(self._connected.dialect)

    def _open(self, url: Any) -> sa.Engine:
        from .sql_table import bounds_of

        url = self._url(url)
        try:
            dialect = url.get_dialect()()
        except self._sa.exc.NoSuchModuleError:
            raise ValueError(f"SQLAlchemy has no driver {url.drivername!r}") from None
        self._check(url, dialect)
        engine: sa.Engine = self._sa.create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            connect_args=bounds_of(dialect, url.query),
            # One is enough for a refresh; what comes at once with others opens more.
            pool_size=2,
            max_overflow=-1,
            # Nothing is ever left open, and a rollback would cost a round trip.
            pool_reset_on_return=None,
            skip_autocommit_rollback=True,
        )
        return engine

    def _url(self, url: Any) -> sa.URL:
        try:
            return self._sa.make_url(url)
        except self._sa.exc.ArgumentError:
            # From None: the error holds the URL, and that a password.
            raise ValueError("engine_or_url is no URL that SQLAlchemy can read") from None

    def _check(self, url: sa.URL, dialect: sa.Dialect) -> None:
        self._clock_of(dialect)
        if dialect.name == "sqlite" and url.database in (None, "", ":memory:"):
            raise ValueError(
                "a SQLite database in memory is not shared with anybody: give the path of a file"
            )

    def disconnect(self) -> None:
        # An engine that we were given is in other people's hands as well.
        engine = self._engine
        if engine is not None and not self._is_engine:
            engine.dispose()

    def __del__(self) -> None:
        if getattr(self, "_engine", None) is not None:
            self.disconnect()

    def after_fork_in_child(self) -> None:
        engine = self._engine
        if engine is None:
            return
        # Kept, so that no finalizer says goodbye over a socket of the parent's.
        self._of_parents.append(engine.pool)
        if self._is_engine:
            engine.dispose(close=False)
        else:
            self._engine = None

    def for_pickle(self) -> Any:
        """Return what a pickle may hold; ``TypeError`` for a password or a connection."""
        if self._is_engine:
            raise TypeError(
                "a SQLStore that was given an engine is not pickled: give it a URL, or a callable "
                "that returns one"
            )
        if not isinstance(self._given, self._sa.URL):
            return self._given
        if self._given.password is not None or "password" in self._given.query:
            raise TypeError(
                "a SQLStore whose URL holds a password is not pickled, the password would go "
                "along: give it a callable that returns the URL, such as "
                "sources.FromEnvironment('DATABASE_URL')"
            )
        return self._given.render_as_string()

    def trouble(self, error: Exception) -> StoreError | None:
        exc = self._sa.exc
        if not isinstance(error, exc.SQLAlchemyError):
            return None
        cause = getattr(error, "orig", None) or error
        said = " ".join(str(cause).split())[:200]
        if _says_no_table(cause):
            return StoreError(
                f"{self} has no table {self._table.name}: call the store's create_table() once, "
                "or have what its ddl() returns run by whoever may"
            )
        if isinstance(error, (exc.ProgrammingError, exc.DataError, exc.NotSupportedError)):
            return StoreError(f"{self} cannot do that: {said}")
        return StoreUnavailable(f"{self} cannot be used now: {said}")

    def create_table(self) -> None:
        """Make the table if it is missing."""
        try:
            self._table.create(self._connected, checkfirst=True)
        except self._sa.exc.DBAPIError:
            # Another process may have made it in between.
            if not self._sa.inspect(self._connected).has_table(self._table.name):
                raise

    def ddl(self) -> str:
        """Return the ``CREATE TABLE`` statement."""
        from .sql_table import ddl

        return ddl(self._connected.dialect)

    def __str__(self) -> str:
        if callable(self._given):
            return repr(self._given)
        given: Any = self._given
        url = given.url if self._is_engine else given
        return str(url.set(password=None, query={}).render_as_string())


def _says_no_table(cause: BaseException) -> bool:
    """Say whether a driver's exception means that: PostgreSQL, MySQL, SQLite."""
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    return state == "42P01" or cause.args[:1] == (1146,) or "no such table" in str(cause)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
