"""The mark of an outbox in PostgreSQL: see :mod:`agent.outbox.marks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.outbox.marks import Mark
from agent.outbox.tables import TABLES

if TYPE_CHECKING:
    from agent.outbox.postgresql.connection import Connection

_READ = "SELECT copy, role, other, complete, progress FROM copies"
_PUT = (
    "INSERT INTO copies (id, copy, role, other, complete, progress) VALUES (1, %s, %s, %s, %s, %s) ON CONFLICT (id)"
    " DO UPDATE SET (copy, role, other, complete, progress) ="
    " (excluded.copy, excluded.role, excluded.other, excluded.complete, excluded.progress)"
)


def mark_of(connection: Connection) -> Mark | None:
    """The mark; None: it has none. Raises :class:`agent.outbox.values.OutboxError`."""
    found = connection.one(_READ)
    return None if found is None else Mark(*found)


def put_mark(connection: Connection, mark: Mark) -> None:
    """Replace the mark. Call it within a transaction."""
    connection.execute(_PUT, (mark.copy, mark.role, mark.other, mark.complete, mark.progress))


def forbid_changes(connection: Connection) -> None:
    """From now on nothing can be written, by nobody. Call it within a transaction."""
    for table in TABLES:
        connection.execute(
            f"CREATE TRIGGER moved BEFORE INSERT OR UPDATE OR DELETE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_moved()"
        )


def remove_mark(connection: Connection) -> None:
    """Remove the mark of a source. Call it within a transaction."""
    connection.execute("DELETE FROM copies")
    for table in TABLES:
        connection.execute(f"DROP TRIGGER IF EXISTS moved ON {table}")
