"""Reading and writing the mark of an outbox: see :mod:`agent.outbox.marks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.outbox.marks import Mark
from agent.outbox.sql.base import upsert

if TYPE_CHECKING:
    from agent.outbox.sql.base import Connection

_COLUMNS = ("copy", "role", "other", "complete", "progress")
_READ = f"SELECT {', '.join(_COLUMNS)} FROM copies"  # noqa: S608
_PUT = upsert("copies", "id", ("id", *_COLUMNS))


def mark_of(connection: Connection) -> Mark | None:
    """The mark; None: it has none. Raises the errors of the engine."""
    for copy, role, other, complete, progress in connection.execute(_READ).fetchall():
        return Mark(copy, role, other, bool(complete), progress)
    return None


def put_mark(connection: Connection, mark: Mark) -> None:
    """Replace the mark. Call it within a transaction."""
    connection.execute(_PUT, (1, mark.copy, mark.role, mark.other, mark.complete, mark.progress))
