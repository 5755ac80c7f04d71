"""All tables of an outbox file, read or written as a whole: for `outbox copy`."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from agent.outbox.sqlite import copying, migrations
from agent.outbox.sqlite.connection import RunLock, in_words, open_outbox
from agent.outbox.sqlite.swap import beside, sync_folder
from agent.outbox.tables import TABLES
from agent.outbox.values import OutboxError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path


class Tables:
    """The tables of one connection: see :mod:`agent.outbox.tables`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def columns(self, table: str) -> list[str]:
        """The names of its columns."""
        return [row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")]

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """All rows, in the order of the key."""
        return self._connection.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {TABLES[table]}")  # noqa: S608

    def write(self, table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> int:
        """Insert the rows; returns how many. Triggers may have inserted hours; these are replaced."""
        self._connection.execute(f"DELETE FROM {table}")  # noqa: S608
        values = ", ".join("?" for _ in columns)
        insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})"  # noqa: S608
        return max(0, self._connection.executemany(insert, rows).rowcount)


@contextmanager
def reading(path: Path) -> Iterator[Tables]:
    """The tables of this file. No agent and no `emit` can write to it meanwhile. Raises :class:`OutboxError`."""
    if not path.exists():
        raise OutboxError(f"there is no outbox {path} to copy; check [outbox] path")
    with RunLock(path), closing(open_outbox(path)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield Tables(connection)
        except sqlite3.Error as error:
            raise in_words(error, path) from error


@contextmanager
def writing(path: Path) -> Iterator[Tables]:
    """The tables of a new file, which gets its name when everything is written. Raises :class:`OutboxError`."""
    with RunLock(path):
        if path.exists():
            raise OutboxError(f"{path} already exists; move it away, or name another file")
        new = beside(path, ".copying")
        try:
            copying.remove_new_file(new)
            os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
            with closing(sqlite3.connect(new, isolation_level=None)) as connection:
                migrations.prepare_new_file(connection)
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute("BEGIN")
                migrations.migrate(connection)
                yield Tables(connection)
                migrations.recount(connection)
                connection.execute("COMMIT")
            copying.complete_new_file(new)
            os.link(new, path)
            sync_folder(path)
        except sqlite3.Error as error:
            raise in_words(error, path) from error
        except OSError as error:
            raise OutboxError(f"cannot write the outbox {path}: {error.strerror}") from error
        finally:
            copying.remove_new_file(new)
