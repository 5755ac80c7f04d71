"""What keeps an outbox in PostgreSQL from changes that was moved: see :mod:`agent.outbox.marks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.outbox.tables import TABLES

if TYPE_CHECKING:
    from agent.outbox.postgresql.connection import Connection


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
