"""The tables of the outbox file from version 6 on: one SQL file in ``migrations/`` for each version.

Files of versions 1 to 5 have other tables and are copied into a new file: see ``upgrade``.
"""

from __future__ import annotations

import sqlite3
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlite_utils import Database

# The number of the last SQL file. An outbox with a higher number was written by a newer agent.
VERSION = 12
# A new outbox runs this SQL file and all later ones.
FIRST = 6


def version(connection: sqlite3.Connection) -> int:
    """The version of the file; 0 for a new one."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def prepare_new_file(connection: sqlite3.Connection) -> None:
    """Apply settings that have no effect once the first table exists."""
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")


def migrate(connection: sqlite3.Connection) -> None:
    """Create the tables of a new file, or add those that a file of version 6 or later lacks.

    Runs within the caller's write transaction. Does nothing if the file is up to date.
    """
    if version(connection) >= VERSION:
        return  # another process was faster, perhaps a newer version
    # Imported here because it loads slowly and is needed once in the life of a file.
    import sqlite_utils  # noqa: PLC0415

    migrations = sqlite_utils.Migrations("outbox")
    for name, script in _scripts():
        migrations(name=name)(_application(script))
    migrations.apply(sqlite_utils.Database(connection))
    connection.execute(f"PRAGMA user_version = {VERSION}")


def recount(connection: sqlite3.Connection) -> None:
    """Correct ``counts`` after rows were inserted in bulk, not one by one as pending, held or failed."""
    connection.execute(
        "UPDATE counts SET n = (SELECT count(*) FROM deployments WHERE state = 'delivered') WHERE state = 'delivered'"
    )
    connection.execute(
        "UPDATE counts SET n = (SELECT coalesce(max(id), 0) - count(*) FROM deployments) WHERE state = 'no row'"
    )


def _scripts() -> list[tuple[str, str]]:
    """Names and texts, oldest first."""
    folder = files("agent.outbox.sqlite") / "migrations"
    return sorted((file.name, file.read_text("utf-8")) for file in folder.iterdir() if file.name.endswith(".sql"))


def _application(script: str) -> Callable[[Database], None]:
    def apply(db: Database) -> None:
        for statement in _statements(script):
            db.execute(statement)

    return apply


def _statements(script: str) -> Iterator[str]:
    """The statements one by one: ``executescript`` would commit the surrounding transaction."""
    current = ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            yield current
            current = ""
