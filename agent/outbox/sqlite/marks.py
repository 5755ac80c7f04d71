"""What keeps an outbox file from changes that was moved: see :mod:`agent.outbox.marks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.outbox.marks import READ_ONLY
from agent.outbox.tables import TABLES

if TYPE_CHECKING:
    import sqlite3

# `emit` and an agent whose outbox is elsewhere keep reports in a file that was moved.
_FIXED = [table for table in TABLES if table != "reports"]
_CHANGES = ("INSERT", "UPDATE", "DELETE")


def forbid_changes(connection: sqlite3.Connection) -> None:
    """From now on nothing but reports can be written, by nobody. Call it within a transaction."""
    for table in _FIXED:
        for change in _CHANGES:
            connection.execute(
                f"CREATE TRIGGER {_trigger(table, change)} BEFORE {change} ON {table}"
                f" BEGIN SELECT RAISE(ABORT, '{READ_ONLY}'); END"
            )


def remove_mark(connection: sqlite3.Connection) -> None:
    """Remove the mark of a source. Call it within a transaction."""
    connection.execute("DELETE FROM copies")
    for table in _FIXED:
        for change in _CHANGES:
            connection.execute(f"DROP TRIGGER IF EXISTS {_trigger(table, change)}")


def _trigger(table: str, change: str) -> str:
    return f"moved_{table}_{change.lower()}"
