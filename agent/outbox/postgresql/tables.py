"""All tables of an outbox in PostgreSQL, read or written in portions: for `outbox copy`."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

from agent.outbox import marks
from agent.outbox.marks import Mark
from agent.outbox.postgresql.connection import Connection
from agent.outbox.postgresql.leases import Leases
from agent.outbox.postgresql.marks import forbid_changes, remove_mark
from agent.outbox.postgresql.migrations import migrate
from agent.outbox.postgresql.shared import Moved
from agent.outbox.sql.marks import mark_of, put_mark
from agent.outbox.tables import BATCH, TABLES
from agent.outbox.values import OutboxError, StoredReport

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent.outbox.postgresql.server import Server
    from agent.outbox.tables import Row

_COLUMNS = (
    "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
    " ORDER BY attnum"
)
_HOURS = (
    "(SELECT hour, sum(delivered)::bigint AS delivered, sum(failed)::bigint AS failed FROM ("
    "SELECT hour, delivered, failed FROM hours UNION ALL SELECT hour, delivered, failed FROM changes"
    " WHERE hour IS NOT NULL) AS noted GROUP BY hour) AS hours"
)
_NUMBERED = ("projects", "facts", "deployments", "reports", "set_aside", "webhook_deliveries")


class Source:
    """A database to copy from: see :class:`agent.outbox.tables.Source`."""

    def __init__(self, connection: Connection) -> None:
        self.name = connection.name
        self._connection = connection

    def begin(self, target: str) -> Mark:
        """See the protocol."""
        with _locked(self._connection):
            mark = marks.source_again(self.name, mark_of(self._connection), target)
            if mark is None:
                mark = Mark(str(uuid4()), "source", target)
                put_mark(self._connection, mark)
                forbid_changes(self._connection)
        return mark

    def columns(self, table: str) -> list[str]:
        """See the protocol."""
        return _columns(self._connection, table)

    def portion(self, table: str, columns: Sequence[str], after: Row | None) -> list[Row]:
        """See the protocol."""
        stored, key = _HOURS if table == "hours" else table, TABLES[table]
        where = "" if after is None else f"WHERE ({key}) > ({', '.join('%s' for _ in after)})"
        sql = f"SELECT {', '.join(columns)} FROM {stored} {where} ORDER BY {key} LIMIT {BATCH}"  # noqa: S608
        return self._connection.execute(sql, after).fetchall()

    def end(self) -> None:
        """See the protocol."""
        self._connection.execute("UPDATE copies SET complete = true WHERE role = 'source'")


class Target:
    """An empty database: see :class:`agent.outbox.tables.Target`."""

    def __init__(self, connection: Connection) -> None:
        self.name = connection.name
        self._connection = connection
        self._moved = Moved(connection)

    def begin(self, copy: str, source: str) -> Mark:
        """See the protocol."""
        with _locked(self._connection):
            mark = marks.target_again(self.name, mark_of(self._connection), copy)
            if mark is None:
                for table in TABLES:
                    if self._connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone():  # noqa: S608
                        raise OutboxError(f"the outbox {self.name} is not empty; name an empty database")
                mark = Mark(copy, "target", source)
                put_mark(self._connection, mark)
        return mark

    def columns(self, table: str) -> list[str]:
        """See the protocol."""
        return _columns(self._connection, table)

    def write(self, table: str, columns: Sequence[str], rows: Sequence[Row], before: str, progress: str) -> None:
        """See the protocol."""
        connection = self._connection
        with _transaction(connection):
            changed = connection.execute("UPDATE copies SET progress = %s WHERE progress = %s", (progress, before))
            if not changed.rowcount:
                raise OutboxError(f"another process copies to the outbox {self.name}; let it finish")
            into = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
            with connection.usual().cursor() as cursor, cursor.copy(into) as stream:
                for row in rows:
                    stream.write_row(row)
            if table == "reports":  # they stay in a file that is copied, and an agent that has it must not take them
                for row in rows:
                    values = dict(zip(columns, row, strict=True))
                    self._moved.note(StoredReport(values["id"], values["received_at"], values["body"]))

    def end(self) -> None:
        """See the protocol."""
        connection = self._connection
        with _transaction(connection):
            # The copied hours contain what the triggers noted.
            connection.execute("UPDATE changes SET hour = NULL, delivered = 0, failed = 0 WHERE hour IS NOT NULL")
            for table in _NUMBERED:
                connection.execute(
                    f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"  # noqa: S608
                    " HAVING max(id) IS NOT NULL"
                )
            connection.execute("UPDATE copies SET complete = true")


@contextmanager
def reading(server: Server) -> Iterator[Source]:
    """A database to copy from, which no agent uses. Raises :class:`OutboxError`."""
    with _without_agents(server) as connection:
        yield Source(connection)


@contextmanager
def writing(server: Server) -> Iterator[Target]:
    """A database to copy to, which no agent uses. Raises :class:`OutboxError`."""
    with _without_agents(server) as connection:
        yield Target(connection)


def unmark(server: Server, *, confirmed: bool) -> None:
    """Remove the mark of a database that was moved, or whose copy was not finished. Raises :class:`OutboxError`."""
    with _without_agents(server) as connection, _locked(connection):
        marks.may_be_unmarked(connection.name, mark_of(connection), confirmed=confirmed)
        remove_mark(connection)


@contextmanager
def _without_agents(server: Server) -> Iterator[Connection]:
    with closing(Connection(server)) as connection:
        migrate(connection)
        if living := [each.agent.name for each in Leases(connection).members() if each.living]:
            raise OutboxError(f"agents use the outbox {connection.name}: {', '.join(living)}; stop them first")
        with connection.words():
            yield connection


@contextmanager
def _locked(connection: Connection) -> Iterator[None]:
    """A transaction that waits until all others have ended, and excludes them."""
    with _transaction(connection):
        connection.execute(f"LOCK TABLE {', '.join(('copies', *TABLES, 'changes'))} IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        connection.execute("SET LOCAL lock_timeout = '10s'")
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _columns(connection: Connection, table: str) -> list[str]:
    return [name for (name,) in connection.execute(_COLUMNS, (table,))]
