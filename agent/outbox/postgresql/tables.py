"""All tables of an outbox in PostgreSQL, read or written as a whole: for `outbox copy`."""

from __future__ import annotations

from contextlib import closing, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from agent.outbox.postgresql.connection import Connection
from agent.outbox.postgresql.leases import Leases
from agent.outbox.postgresql.migrations import migrate
from agent.outbox.tables import BATCH, TABLES
from agent.outbox.values import OutboxError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agent.outbox.postgresql.server import Server

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


class Tables:
    """The tables of one connection: see :mod:`agent.outbox.tables`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def columns(self, table: str) -> list[str]:
        """The names of its columns."""
        return [name for (name,) in self._connection.execute(_COLUMNS, (table,))]

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """All rows, in the order of the key."""
        stored = _HOURS if table == "hours" else table
        sql = f"SELECT {', '.join(columns)} FROM {stored} ORDER BY {TABLES[table]}"  # noqa: S608
        with self._connection.usual().cursor(name="rows_to_copy") as cursor:
            cursor.itersize = BATCH
            yield from cursor.execute(sql)

    def write(self, table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> int:
        """Insert the rows; returns how many."""
        rest, written = iter(rows), 0
        into = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
        while batch := list(islice(rest, BATCH)):
            with self._connection.usual().cursor() as cursor, cursor.copy(into) as stream:
                for row in batch:
                    stream.write_row(row)
            written += len(batch)
        return written


@contextmanager
def reading(server: Server) -> Iterator[Tables]:
    """The tables of this outbox, which nobody can write to meanwhile. Raises :class:`OutboxError`."""
    with _alone_with(server, "SHARE") as connection:
        yield Tables(connection)


@contextmanager
def writing(server: Server) -> Iterator[Tables]:
    """The tables of an empty outbox. Nothing is stored before the block ends. Raises :class:`OutboxError`."""
    with _alone_with(server, "ACCESS EXCLUSIVE") as connection:
        for table in TABLES:
            if connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone():  # noqa: S608
                raise OutboxError(f"the outbox {connection.name} is not empty; name an empty database")
        yield Tables(connection)
        # The copied hours contain what the triggers noted.
        connection.execute("UPDATE changes SET hour = NULL, delivered = 0, failed = 0 WHERE hour IS NOT NULL")
        for table in _NUMBERED:
            connection.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"  # noqa: S608
                " HAVING max(id) IS NOT NULL"
            )
        connection.execute("COMMIT")


@contextmanager
def _alone_with(server: Server, mode: str) -> Iterator[Connection]:
    """A connection in a transaction that has locked all tables. Closing it rolls back what is not committed."""
    with closing(Connection(server)) as connection:
        migrate(connection)
        if living := [each.agent.name for each in Leases(connection).members() if each.living]:
            raise OutboxError(f"agents use the outbox {connection.name}: {', '.join(living)}; stop them first")
        with connection.words():
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            connection.execute("SET LOCAL lock_timeout = '10s'")
            connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            connection.execute(f"LOCK TABLE {', '.join((*TABLES, 'changes'))} IN {mode} MODE")
            yield connection
