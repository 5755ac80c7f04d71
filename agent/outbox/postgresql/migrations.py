"""The tables of the outbox in PostgreSQL: one SQL file in ``migrations/`` for each version.

Several agents may start at once, also of different versions: one creates or migrates the tables, the others wait.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import TYPE_CHECKING

import psycopg

from agent.outbox.postgresql.errors import in_words
from agent.outbox.values import NewerOutboxError, OlderOutboxError

if TYPE_CHECKING:
    from agent.outbox.postgresql.connection import Connection

# The number of the last SQL file.
VERSION = 6
_LOCK = 0x48_49_56_45_4C
# The first line of each file: the oldest version of the tables whose agents can work with the new ones. During an
# upgrade agents of both versions run.
_SINCE = re.compile(r"-- Agents work with these tables from version (\d+) on\.")
_VERSION = "SELECT version, agents_since FROM schema_version ORDER BY version DESC LIMIT 1"


def migrate(connection: Connection) -> None:
    """Create or migrate the tables, if necessary. Raises :class:`OutboxError`, also if a newer agent migrated them."""
    try:
        version, since = _version(connection)
        if version < VERSION:
            _apply(connection)
            version, since = _version(connection)
    except psycopg.Error as error:
        raise in_words(error, connection.name) from error
    refuse_newer(connection.name, version, since)
    if version < VERSION:
        raise OlderOutboxError(f"the outbox {connection.name} could not be upgraded to format version {VERSION}")


def refuse_newer(name: str, version: int, since: int) -> None:
    """Raises :class:`NewerOutboxError` if the tables say that agents must know a newer version (``since``)."""
    if since > VERSION:
        raise NewerOutboxError(
            f"the outbox {name} was written by a newer hivel-agent (format version {version}; this version"
            f" works with up to {VERSION}); install the newer hivel-agent"
        )


def _version(connection: Connection) -> tuple[int, int]:
    """The version of the tables, and the oldest that agents must know; zeros for an empty database."""
    try:
        found = connection.execute(_VERSION).fetchone()
    except psycopg.errors.UndefinedTable:
        return 0, 0
    return (0, 0) if found is None else (int(found[0]), int(found[1]))


def _apply(connection: Connection) -> None:
    # In one transaction. The lock comes first and the version is read again: another agent may have been faster.
    connection.execute("BEGIN")
    try:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_version (version integer PRIMARY KEY, agents_since integer NOT NULL,"
            " migrated_at timestamptz NOT NULL DEFAULT now())"
        )
        version, _ = _version(connection)
        for number, script in _scripts():
            if number > version:
                since = _SINCE.match(script)
                connection.execute(script)
                connection.execute(
                    "INSERT INTO schema_version (version, agents_since) VALUES (%s, %s)",
                    (number, int(since[1]) if since else number),
                )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _scripts() -> list[tuple[int, str]]:
    """Numbers and texts, oldest first."""
    folder = files("agent.outbox.postgresql") / "migrations"
    return sorted(
        (int(file.name[:4]), file.read_text("utf-8")) for file in folder.iterdir() if file.name.endswith(".sql")
    )
