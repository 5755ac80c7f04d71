"""The outbox file's tables from version 6 on: one file of SQL in ``migrations/`` for each version.

Files of versions 1 to 5 have other tables and are copied into a new one: see ``upgrade``.
"""

from __future__ import annotations

import sqlite3
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlite_utils import Database

# The number of the last file of SQL; an outbox with a higher one was written by a newer agent.
VERSION = 7
# A new outbox gets this file of SQL and all after it.
FIRST = 6


def version(connection: sqlite3.Connection) -> int:
    """The version of the file, 0 for a new one."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def prepare_new_file(connection: sqlite3.Connection) -> None:
    """What has to be said before the first table exists, or silently has no effect."""
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")


def migrate(connection: sqlite3.Connection) -> None:
    """Make the tables of a new file, or those that one of version 6 or later lacks.

    Within the write transaction of the caller; nothing to do is fine.
    """
    if version(connection) >= VERSION:
        return  # another process was faster, perhaps one that is newer
    # Imported here: it takes longer than everything else, and is needed once in the life of a file.
    import sqlite_utils  # noqa: PLC0415

    migrations = sqlite_utils.Migrations("outbox")
    for name, script in _scripts():
        migrations(name=name)(_application(script))
    migrations.apply(sqlite_utils.Database(connection))
    connection.execute(f"PRAGMA user_version = {VERSION}")


def recount(connection: sqlite3.Connection) -> None:
    """Set ``counts`` right where rows were not inserted one after another, as pending, held or failed."""
    connection.execute(
        "UPDATE counts SET n = (SELECT count(*) FROM deployments WHERE state = 'delivered') WHERE state = 'delivered'"
    )
    connection.execute(
        "UPDATE counts SET n = (SELECT coalesce(max(id), 0) - count(*) FROM deployments) WHERE state = 'no row'"
    )


def _scripts() -> list[tuple[str, str]]:
    """Names and texts, the oldest first."""
    folder = files("agent.outbox.sqlite") / "migrations"
    return sorted((file.name, file.read_text("utf-8")) for file in folder.iterdir() if file.name.endswith(".sql"))


def _application(script: str) -> Callable[[Database], None]:
    def apply(db: Database) -> None:
        for statement in _statements(script):
            db.execute(statement)

    return apply


def _statements(script: str) -> Iterator[str]:
    """The statements one by one: ``executescript`` would commit the transaction around them."""
    current = ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            yield current
            current = ""
