"""Outboxes of stories, in each engine, and processes that die, lose their connection or find the disk full."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from tests import engines
from tests.simulation import played

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from psycopg import Connection as Psycopg

    from agent.outbox.interface import Outbox
    from tests.integration.support import FakeClock
    from tests.postgresql.cluster import Cluster


class AgentKilledError(BaseException):
    """The agent's process ends here, whatever it was doing. Nothing in the agent may catch it."""


class Fuse:
    """Kills the agent at the n-th time that it is asked, counted from 1, and at every time after that."""

    def __init__(self) -> None:
        self._left: int | None = None
        self.count = 0

    def set(self, after: int | None) -> None:
        self._left = after
        self.count = 0

    @property
    def blown(self) -> bool:
        return self._left is not None and self.count >= self._left

    def __call__(self) -> None:
        self.count += 1
        if self.blown:
            raise AgentKilledError


class Cut:
    """The connection is lost at the n-th statement: before the server has it, or when it has and the answer is lost."""

    def __init__(self) -> None:
        self.set(None, after=False)

    def set(self, statement: int | None, *, after: bool) -> None:
        self._left = statement
        self._after = after
        self.happened = False

    def __call__(self, *, after: bool) -> bool:
        if self._left is None or after is not self._after:
            return False
        self._left -= 1
        if self._left:
            return False
        self._left, self.happened = None, True
        played.now.cuts += 1
        return True


@dataclass
class Trouble:
    """What gets in the way of a process. ``full``: the disk is, and how the engine finds out."""

    before: Fuse = field(default_factory=Fuse)
    after: Fuse = field(default_factory=Fuse)
    cut: Cut = field(default_factory=Cut)
    full: str | None = None

    @property
    def dead(self) -> bool:
        return self.before.blown or self.after.blown

    def stops(self, sql: str) -> bool:
        """Whether this statement finds out that the disk is full."""
        if self.full is None:
            return False
        return sql == "COMMIT" if self.full == "at the end" else _WRITES.search(sql) is not None


_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE)\b")


class Process(Protocol):
    """A process with an outbox: what it does may fail, or be its last. ``trouble`` may be replaced."""

    outbox: Outbox
    trouble: Trouble

    def kill(self) -> None:
        """End the process: what was not committed is gone."""


class Engine(engines.Engine, Protocol):
    """The outbox of a story."""

    def process(self, trouble: Trouble) -> Process:
        """One more process."""

    def rows(self, sql: str, *values: object) -> list[Any]:
        """What there is, read past everything that is tested. Parameters are written as ``?``."""

    def close(self) -> None:
        """Close what only looked."""


@dataclass(frozen=True)
class Engines:
    """Makes the outboxes of an engine, one after the other: for tests that play many stories."""

    name: str
    make: Callable[[Path, FakeClock], Engine]

    def __call__(self, folder: Path, clock: FakeClock) -> Engine:
        return self.make(folder, clock)

    def stories(self, *, sqlite: int, postgresql: int) -> int:
        """How many to play: so many, or ``HIVEL_STORIES``."""
        usual = {"sqlite": sqlite, "postgresql": postgresql}[self.name]
        return int(os.environ.get("HIVEL_STORIES", usual))


# ---- SQLite


class SqliteConnection:
    """A connection that may fail. SQLite finds out early or late that the disk is full, and may give up everything."""

    def __init__(self, connection: sqlite3.Connection, process: SqliteProcess) -> None:
        self._connection = connection
        self._process = process

    def execute(self, *args: Any) -> sqlite3.Cursor:
        return self._run(self._connection.execute, *args)

    def executemany(self, *args: Any) -> sqlite3.Cursor:
        return self._run(self._connection.executemany, *args)

    def _run(self, run: Callable[..., sqlite3.Cursor], *args: Any) -> sqlite3.Cursor:
        trouble = self._process.trouble
        if trouble.after.blown:
            raise AgentKilledError  # a dead process rolls nothing back
        trouble.before()
        if trouble.stops(args[0]):
            if trouble.full == "and rolled back" and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        done = run(*args)
        trouble.after()
        return done

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction and not self._process.trouble.dead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class SqliteProcess:
    """A process with the file."""

    def __init__(self, engine: engines.Sqlite, trouble: Trouble) -> None:
        self.trouble = trouble
        self.outbox = outbox = engine.open()
        self._real = outbox._connection
        self._real.execute("PRAGMA synchronous = OFF")  # processes die here, no computers
        fragile: Any = SqliteConnection(self._real, self)
        outbox._connection = outbox._transactions.connection = fragile

    def kill(self) -> None:
        # As the next process would; cursors in the frames of the exception may keep the connection from closing.
        if self._real.in_transaction:
            self._real.execute("ROLLBACK")
        self._real.close()


class Sqlite(engines.Sqlite):
    """A file in memory."""

    def __init__(self, folder: Path, clock: FakeClock) -> None:
        super().__init__(folder, clock)
        self._observer = sqlite3.connect(self.path, isolation_level=None)

    def process(self, trouble: Trouble) -> SqliteProcess:
        return SqliteProcess(self, trouble)

    def rows(self, sql: str, *values: object) -> list[Any]:
        return self._observer.execute(sql, values).fetchall()

    def close(self) -> None:
        self._observer.close()


# ---- PostgreSQL


class PostgresqlProcess:
    """A process with a connection to the server. Each statement passes :meth:`_run`."""

    def __init__(self, engine: Postgresql, trouble: Trouble) -> None:
        self.trouble = trouble
        self.outbox = engine.open()
        self._engine = engine
        connection = self.outbox.connection
        open_one = connection._usual

        def opened() -> Psycopg[Any]:
            usual = open_one()
            usual.cursor_factory = partial(_statement_class(), run=self._run)
            return usual

        connection._usual = opened

    def _run(self, connection: Psycopg[Any], sql: str, run: Callable[[], Any]) -> Any:
        trouble = self.trouble
        if trouble.after.blown:
            raise AgentKilledError
        self._engine.set_clock()
        trouble.before()
        if trouble.stops(sql):
            self._disk_is_full(connection)
        if trouble.cut(after=False):
            _lose(connection)
        done = run()
        if trouble.cut(after=True):
            _lose(connection)
        trouble.after()
        return done

    def _disk_is_full(self, connection: Psycopg[Any]) -> None:
        """The transaction has failed, or is over, or the server went down: without room for its log it does."""
        if self.trouble.full == "and rolled back":
            _lose(connection)
        if self.trouble.full == "at the end":
            _raw(connection, "ROLLBACK")
        _raw(connection, _FULL)

    def kill(self) -> None:
        opened = self.outbox.connection._open
        if opened is not None and not opened.closed:
            # As the server does some time later.
            _raw(opened, "ROLLBACK")
            opened.close()


class Postgresql(engines.Postgresql):
    """A database, whose clock goes on with that of the story."""

    def __init__(self, cluster: Cluster, database: str, clock: FakeClock, observer: Psycopg[Any]) -> None:
        super().__init__(cluster, database, clock=clock)
        self._observer = observer
        self._told = 0

    def process(self, trouble: Trouble) -> PostgresqlProcess:
        return PostgresqlProcess(self, trouble)

    def rows(self, sql: str, *values: object) -> list[Any]:
        return self._observer.execute(sql.replace("?", "%s"), values).fetchall()

    def now_ms(self) -> int:
        """The clock of the database, which nobody sets."""
        return 1_795_000_000_000 + round(self.clock.monotonic() * 1000)

    def set_clock(self) -> None:
        """Let the clock of the database go on."""
        now = self.now_ms()
        if now != self._told:
            self._observer.execute("UPDATE story.clock SET ms = %s", (now,))
            self._told = now

    def close(self) -> None:
        """The connection is used again by the next story."""


@contextmanager
def new_postgresql(cluster: Cluster) -> Iterator[Callable[[Path, FakeClock], Postgresql]]:
    """Makes outboxes one after the other, in one database."""
    import psycopg

    database = cluster.new_outbox()
    with psycopg.connect(cluster.url(database), autocommit=True) as observer:
        observer.execute(
            "CREATE SCHEMA story; CREATE TABLE story.clock (ms bigint); INSERT INTO story.clock VALUES (0);"
            "CREATE OR REPLACE FUNCTION now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT ms FROM story.clock'"
        )
        yield lambda _, clock: Postgresql(cluster, database, clock, observer)
    cluster.drop(database)


_FULL = "DO $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$"


def _statement_class() -> Any:
    """A cursor whose statements pass ``run``. psycopg is not there for everybody."""
    import psycopg

    class Statement(psycopg.Cursor[Any]):
        def __init__(self, *args: Any, run: Callable[..., Any], **options: Any) -> None:
            super().__init__(*args, **options)
            self._through = run

        def execute(self, sql: Any, *args: Any, **options: Any) -> Any:
            execute = partial(super().execute, sql, *args, **options)
            return self._through(self.connection, sql, execute)

        def executemany(self, sql: Any, *args: Any, **options: Any) -> None:
            execute = partial(super().executemany, sql, *args, **options)
            self._through(self.connection, sql, execute)

    return Statement


def _raw(connection: Psycopg[Any], sql: str) -> None:
    import psycopg

    psycopg.Cursor(connection).execute(sql.encode())


def _lose(connection: Psycopg[Any]) -> None:
    """The network goes away. The server rolls back what was begun; here at once, so that every run is the same."""
    _raw(connection, "ROLLBACK")
    with closing(socket.socket(fileno=os.dup(connection.fileno()))) as line:
        line.shutdown(socket.SHUT_RDWR)
    _raw(connection, "SELECT 1")
    raise AssertionError("the connection is still there")
