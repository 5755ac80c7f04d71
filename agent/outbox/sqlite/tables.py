"""All tables of an outbox file, read or written in portions: for `outbox copy`."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from agent.outbox import marks
from agent.outbox.marks import Mark
from agent.outbox.sql.marks import mark_of, put_mark
from agent.outbox.sqlite import copying, migrations
from agent.outbox.sqlite.connection import RunLock, in_words, open_outbox
from agent.outbox.sqlite.marks import forbid_changes, remove_mark
from agent.outbox.sqlite.swap import beside, sync_folder
from agent.outbox.tables import BATCH, TABLES
from agent.outbox.values import OutboxError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from agent.outbox.tables import Row


class Source:
    """A file to copy from: see :class:`agent.outbox.tables.Source`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.name = str(path)
        self._connection = connection

    def begin(self, target: str) -> Mark:
        """See the protocol."""
        mark = marks.source_again(self.name, mark_of(self._connection), target)
        if mark is None:
            mark = Mark(str(uuid4()), "source", target)
            with _transaction(self._connection):
                put_mark(self._connection, mark)
                forbid_changes(self._connection)
        return mark

    def columns(self, table: str) -> list[str]:
        """See the protocol."""
        return _columns(self._connection, table)

    def portion(self, table: str, columns: Sequence[str], after: Row | None) -> list[Row]:
        """See the protocol."""
        key = TABLES[table]
        where = "" if after is None else f"WHERE ({key}) > ({', '.join('?' for _ in after)})"
        sql = f"SELECT {', '.join(columns)} FROM {table} {where} ORDER BY {key} LIMIT {BATCH}"  # noqa: S608
        return self._connection.execute(sql, after or ()).fetchall()

    def end(self) -> None:
        """See the protocol."""
        with _transaction(self._connection):
            self._connection.execute("UPDATE copies SET complete = 1 WHERE role = 'source'")


class Target:
    """A new file, which has another name until it is complete: see :class:`agent.outbox.tables.Target`."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._new = beside(path, ".copying")
        self._connection: sqlite3.Connection | None = None

    def begin(self, copy: str, source: str) -> Mark:
        """See the protocol."""
        wanted = Mark(copy, "target", source)
        if self._path.exists():
            return self._in_place(wanted)
        if (found := self._begun(copy)) is not None:
            return found
        copying.remove_new_file(self._new)
        os.close(os.open(self._new, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = self._open()
        migrations.prepare_new_file(connection)
        with _transaction(connection):
            migrations.migrate(connection)
            put_mark(connection, wanted)
        return wanted

    def columns(self, table: str) -> list[str]:
        """See the protocol."""
        return _columns(self._open(), table)

    def write(self, table: str, columns: Sequence[str], rows: Sequence[Row], before: str, progress: str) -> None:
        """See the protocol. Nobody else writes: :func:`writing` holds the lock of the file."""
        connection = self._open()
        values = ", ".join("?" for _ in columns)
        with _transaction(connection):
            changed = connection.execute("UPDATE copies SET progress = ? WHERE progress = ?", (progress, before))
            if not changed.rowcount:
                raise OutboxError(f"another process writes to {self._new}; repeat the command")
            connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})", rows)  # noqa: S608
            if table == "deployments":  # triggers count them; the hours are copied later
                connection.execute("DELETE FROM hours")

    def end(self) -> None:
        """See the protocol."""
        connection = self._open()
        with _transaction(connection):
            migrations.recount(connection)
            connection.execute("UPDATE copies SET complete = 1")
        self._give_name()

    def close(self) -> None:
        """Close it. The next copy continues."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(self._new, isolation_level=None)
            # A power failure can undo the last portions, but never only a part of one.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("PRAGMA cache_size = -32000")
        return self._connection

    def _begun(self, copy: str) -> Mark | None:
        """The mark of this copy in the file that an interrupted one left behind."""
        if not self._new.exists():
            return None
        try:
            found = mark_of(self._open())
        except sqlite3.Error:  # it was interrupted before the file had its tables
            found = None
        if found is None or found.copy != copy:
            self.close()
            return None
        if found.complete:
            self._give_name()
        return found

    def _in_place(self, wanted: Mark) -> Mark:
        """The mark of a file that has its name already."""
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            try:
                found = mark_of(connection)
                waiting = connection.execute("SELECT count(*) FROM reports").fetchone()[0]
            except sqlite3.Error:
                found, waiting = None, 0
        if found is not None and replace(found, progress="") == replace(wanted, complete=True):
            copying.remove_new_file(self._new)
            return found
        reports = f" ({waiting} reports wait in it: an agent with [outbox] url must take them first)" if waiting else ""
        raise OutboxError(f"{self._path} already exists{reports}; move it away, or name another file")

    def _give_name(self) -> None:
        """Everything is in the file: write its log back, and give it its name."""
        self._open().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self.close()
        copying.complete_new_file(self._new)
        os.link(self._new, self._path)
        sync_folder(self._path)
        copying.remove_new_file(self._new)


@contextmanager
def reading(path: Path) -> Iterator[Source]:
    """A file to copy from. No agent can use it meanwhile. Raises :class:`OutboxError`."""
    with _locked(path) as connection:
        yield Source(path, connection)


@contextmanager
def writing(path: Path) -> Iterator[Target]:
    """A new file. Raises :class:`OutboxError`."""
    with RunLock(path), _words(path), closing(Target(path)) as target:
        yield target


def unmark(path: Path, *, confirmed: bool) -> None:
    """Remove the mark of a file that was moved, or whose copy was not finished. Raises :class:`OutboxError`."""
    with _locked(path) as connection, _transaction(connection):
        marks.may_be_unmarked(str(path), mark_of(connection), confirmed=confirmed)
        remove_mark(connection)


@contextmanager
def _locked(path: Path) -> Iterator[sqlite3.Connection]:
    with _words(path):
        if not path.exists():
            raise OutboxError(f"there is no outbox {path} to copy; check [outbox] path")
    with RunLock(path), closing(open_outbox(path)) as connection, _words(path):
        yield connection


@contextmanager
def _words(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise in_words(error, path) from error
    except OSError as error:
        raise OutboxError(f"cannot write the outbox {path}: {error.strerror}") from error


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    found: list[Any] = connection.execute(f"PRAGMA table_info({table})").fetchall()
    return [row[1] for row in found]
