"""SQL databases: PostgreSQL (also behind PgBouncer), MariaDB, SQLite."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from programs import find

from .processes import PATIENCE, Server, directory_for, unprivileged, wait_until

sqlalchemy = pytest.importorskip("sqlalchemy", reason="pip install 'requests-silent-refresh[sql]'")

TABLE = "silent_refresh_tokens"


class Database(Server):
    """The interface of all databases for the tests."""

    account = None

    def __init__(self, directory=None):
        super().__init__(directory_for(self.account))
        self.prepare()

    def prepare(self):
        """Create the database's files."""

    def options(self):
        return unprivileged(self.account)

    def stop(self):
        super().stop()
        shutil.rmtree(self.directory)

    def run(self, *command):
        """Run one of the database's programs as its account."""
        done = subprocess.run(
            command,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            **self.options(),
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def engine(self):
        """Return a new SQLAlchemy engine, which keeps no connection open."""
        return sqlalchemy.create_engine(
            self.url, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT"
        )

    def answers(self):
        try:
            return self.query("SELECT 1")
        except sqlalchemy.exc.DBAPIError:
            return False

    def query(self, statement, **parameters):
        """Run a statement and return its rows, if any."""
        engine = self.engine()
        with engine.connect() as connection:
            result = connection.execute(sqlalchemy.text(statement), parameters)
            return result.fetchall() if result.returns_rows else []

    def empty(self):
        """Delete everything."""
        self.query(f"DROP TABLE IF EXISTS {TABLE}")

    def dump(self):
        """Return every row, as bytes."""
        return repr(self.query(f"SELECT * FROM {TABLE}")).encode()


class Postgres(Database):
    """A new PostgreSQL cluster."""

    account = "postgres"

    def prepare(self):
        self._program = find("postgres")
        initdb = os.path.join(os.path.dirname(os.path.realpath(self._program)), "initdb")
        self.data = self.directory / "data"
        self.run(
            *(initdb, "--auth=trust", "--username=app", "--no-sync", "--locale=C.UTF-8"),
            *("--encoding=UTF8", "-D", str(self.data)),
        )

    @property
    def url(self):
        return f"postgresql+psycopg://app@127.0.0.1:{self.port}/postgres"

    def command(self):
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            # Only a crash of the machine would show the difference.
            "fsync": "off",
            "shared_buffers": "16MB",
            "max_connections": 200,
            "restart_after_crash": "off",
        }
        return [
            *(self._program, "-D", str(self.data)),
            *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
        ]

    def kill(self):
        """Kill the postmaster with SIGKILL and wait until its children have ended."""
        super().kill()
        pid = self.data / "postmaster.pid"
        segment = pid.read_text().split("\n")[6].split()
        if segment:
            wait_until(lambda: not _attached(segment[-1]), "children of the killed postmaster")
        pid.unlink()


def _attached(segment):
    """Return whether a process still has the shared memory segment."""
    with open("/proc/sysvipc/shm") as table:
        rows = [line.split() for line in table.read().splitlines()[1:]]
    return any(row[1] == segment and row[6] != "0" for row in rows)


class PgBouncer(Server):
    """PgBouncer in transaction mode, with at most two connections to the database."""

    def __init__(self, postgres):
        self._program = find("pgbouncer")
        directory = directory_for("postgres")
        super().__init__(directory)
        self.engine = postgres.engine
        (directory / "users").write_text('"app" ""\n')
        (directory / "ini").write_text(
            f"[databases]\npostgres = host=127.0.0.1 port={postgres.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\n"
            f"unix_socket_dir =\nauth_type = trust\nauth_file = {directory}/users\n"
            "pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 200\n"
        )

    @property
    def url(self):
        return f"postgresql+psycopg://app@127.0.0.1:{self.port}/postgres"

    def command(self):
        return [self._program, str(self.directory / "ini")]

    def options(self):
        return unprivileged("postgres")

    def stop(self):
        super().stop()
        shutil.rmtree(self.directory)

    def answers(self):
        engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.NullPool)
        try:
            with engine.connect():
                return True
        except sqlalchemy.exc.DBAPIError:
            return False


class MariaDB(Database):
    """A new MariaDB server."""

    account = "mysql"

    def prepare(self):
        self._program = find("mariadbd")
        install = find("mariadb-install-db")
        (self.directory / "init").write_text(
            "CREATE DATABASE IF NOT EXISTS tokens;\n"
            "CREATE USER IF NOT EXISTS app@'127.0.0.1';\n"
            "GRANT ALL ON tokens.* TO app@'127.0.0.1';\n"
        )
        self.run(
            *(install, "--no-defaults", f"--datadir={self.directory}/data"),
            *("--skip-test-db", "--auth-root-authentication-method=normal"),
        )

    @property
    def url(self):
        return f"mysql+pymysql://app@127.0.0.1:{self.port}/tokens"

    def command(self):
        return [
            *(self._program, "--no-defaults", f"--datadir={self.directory}/data"),
            *("--bind-address=127.0.0.1", f"--port={self.port}", "--skip-name-resolve"),
            *(f"--socket={self.directory}/socket", f"--init-file={self.directory}/init"),
            *("--innodb-buffer-pool-size=16M", "--innodb-flush-log-at-trx-commit=2"),
        ]

    def stop(self):
        self.kill()  # an orderly shutdown is slow, and the data is not needed
        super().stop()


class SQLite:
    """An SQLite file, with the same interface as the servers."""

    def __init__(self, path):
        self.url = f"sqlite:///{path}"

    query, engine, empty, dump = Database.query, Database.engine, Database.empty, Database.dump
