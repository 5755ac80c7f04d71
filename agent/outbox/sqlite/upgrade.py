"""Upgrade of an outbox of versions 1 to 5: it is copied into a new file, which then replaces it.

Only the holder of the run lock upgrades. Meanwhile ``emit`` stores reports in the old file. If the process is killed,
the old file is unchanged, and the next start begins again. If there is space, the old file is kept beside the new one
as ``outbox.db.v5``; to go back, rename it to the outbox's name and start the older version.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import count, groupby, takewhile
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.outbox.sqlite import migrations
from agent.outbox.sqlite.connection import PatientConnection, damaged, in_words
from agent.outbox.sqlite.copying import (
    NOT_COUNTED,
    SUCCESS,
    Writer,
    begin_new_file,
    clocks_ahead,
    complete_new_file,
    copy,
    copy_newer_reports,
    former_names,
    known_ids,
    remove_new_file,
)
from agent.outbox.sqlite.older import Older, OldRow, UnsoundError
from agent.outbox.sqlite.swap import InUseError, alone_with, beside, open_alone, put_in_place, real, sync
from agent.outbox.values import DamagedError, OutboxError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from agent.model.times import Clock
    from agent.outbox.sqlite.copying import Fields

# Seconds to wait for other processes to close the outbox.
PATIENCE_S = 60.0
_PIECE = 1_000
# Bytes after which written data is synced to the disk. A single sync at the end would take long.
_SYNCED_TOGETHER = 64 * 1024 * 1024
_TICK_S = 0.5
_TRIES = 3
# The share of copying rows in the whole work, in percent; the rest is building indexes and syncing.
_COPYING = 90
# Small tables that are the same in both versions; copied last.
_SAME = ("delivery", "controllers", "jobs", "open_builds", "missed", "backfills", "backfilled_jobs", "repairs")
_ATTEMPTS = (
    f"SELECT event_id, at, duration_ms, http_status, verdict, CASE verdict WHEN '{SUCCESS}' THEN '' ELSE answer END"  # noqa: S608
    f" FROM attempts INDEXED BY attempts_of_event WHERE verdict != '{NOT_COUNTED}' ORDER BY event_id, id"
)
# As in the migration to version 7: older versions did not store what became of numbers below a cursor.
_BEFORE_AUDIT = (
    "INSERT INTO endings (controller, full_name, first, last, ending, at)"
    " SELECT controller, full_name, 1, next_build_number - 1, 'before audit', looked_at"
    " FROM jobs WHERE next_build_number > 1"
)
# Changes whenever a process other than `emit` writes.
_FINGERPRINT = (
    "SELECT state, count(*), sum(id), sum(next_attempt_at & 0xffffffff) FROM events GROUP BY state ORDER BY state"
)


@dataclass(frozen=True)
class Upgraded:
    """The result: the file's old version, how many events it had, and where it is kept (None: not enough space)."""

    version: int
    events: int
    kept: Path | None


def upgrade(
    path: Path, clock: Clock, controllers: Iterable[str], progress: Callable[[int], None] = lambda _: None
) -> Upgraded | None:
    """Upgrade an outbox of an older version; None if there is nothing to do.

    ``controllers``: the names of all polled controllers. ``progress`` is called with the percentage, at least once a
    second. Only the holder of the run lock may call it, and this process must not have the outbox open. Raises
    :class:`agent.outbox.values.DamagedError` if the file has to be repaired, and
    :class:`agent.outbox.values.OutboxError` if it cannot be upgraded; the old file is then unchanged.
    """
    path = real(path)
    told = _Progress(path, clock, progress)
    try:
        _clean_up(path)
        if not path.exists() or not 0 < _version(path) < migrations.FIRST:
            return None
        for _ in range(_TRIES):
            done = _Upgrade(path, frozenset(controllers), told).run()
            if done is not None:
                return done
        raise OutboxError(
            f"the outbox {path} cannot be upgraded: a process of the older version keeps writing to it; stop that "
            "process, then start again"
        )
    except (OSError, sqlite3.Error, UnsoundError, InUseError) as error:
        raise _in_our_words(error, path) from error
    finally:
        with suppress(OSError):  # the next start removes the rest
            _clean_up(path)


def _in_our_words(error: Exception, path: Path) -> OutboxError:
    if isinstance(error, sqlite3.Error) and isinstance(found := in_words(error, path), DamagedError):
        return found
    if isinstance(error, (UnsoundError, sqlite3.IntegrityError)):
        return damaged(path, error)
    if isinstance(error, InUseError):
        reason, advice = f"{error} has it open, perhaps a backfill of the older version", "Stop that process"
    else:
        full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
        full = full or getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT)
        reason = str(error)
        advice = (
            "Free some space on its disk"
            if full
            else "Check its owner and its folder, and whether its disk is full, read-only or broken"
        )
    return OutboxError(f"the outbox {path} cannot be upgraded: {reason}; it is unchanged. {advice}, then start again")


def free_bytes(path: Path) -> int:
    """Free space on the disk of this file, in bytes."""
    return shutil.disk_usage(path.parent).free


def _version(path: Path) -> int:
    with closing(_open(path)) as connection:
        return migrations.version(connection)


def _open(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0, factory=PatientConnection)


def _clean_up(path: Path) -> None:
    """Remove what a killed upgrade left behind."""
    remove_new_file(beside(path, ".upgrading"))
    beside(path, ".upgrading-progress").unlink(missing_ok=True)
    for version in range(1, migrations.FIRST):
        for kept in takewhile(Path.exists, _kept_names(path, version)):
            if path.exists() and kept.samefile(path):  # the outbox was not replaced
                kept.unlink()


def _kept_names(path: Path, version: int) -> Iterator[Path]:
    """Names for keeping the old file, after those of earlier upgrades."""
    yield beside(path, f".v{version}")
    yield from (beside(path, f".v{version}-{more}") for more in count(1))


class _Progress:
    """Reports progress to the caller and, in a file, to other commands."""

    def __init__(self, path: Path, clock: Clock, tell: Callable[[int], None]) -> None:
        self._file = beside(path, ".upgrading-progress")
        self._clock = clock
        self._tell = tell
        self._percent = -1
        self._told_at = 0.0

    def at(self, percent: int) -> None:
        """``percent`` of the work is done."""
        if percent != self._percent:
            self._percent = percent
            self._file.write_text(str(percent), "utf-8")
            self._told_at = 0.0
        self.tick()

    def tick(self) -> None:
        """Work continues at the same percentage."""
        now = self._clock.monotonic()
        if now - self._told_at >= _TICK_S:
            self._told_at = now
            self._tell(max(self._percent, 0))


class _Upgrade:
    """One attempt to upgrade."""

    def __init__(self, path: Path, polled: frozenset[str], progress: _Progress) -> None:
        self._path = path
        self._polled = polled
        self._progress = progress
        self._building = beside(path, ".upgrading")
        self._synced = 0

    def run(self) -> Upgraded | None:
        """None if a process other than `emit` wrote to the old file meanwhile."""
        _clean_up(self._path)
        self._refuse_without_room()
        with closing(_open(self._path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")  # writers then need not wait for this reader
            connection.execute("BEGIN")
            old = _Old(connection)
            version, fingerprint = migrations.version(connection), old.fingerprint()
            with closing(begin_new_file(self._building, self._path)) as new:
                new.set_progress_handler(self._progress.tick, 50_000)
                events = _Copy(old, new, self._polled, self._progress).all(self._sync_a_little)
        complete_new_file(self._building)
        self._progress.at(_COPYING + 8)
        with alone_with(self._path, PATIENCE_S, self._progress.tick):
            with closing(open_alone(self._path, "rw")) as connection:
                old = _Old(connection)
                if old.fingerprint() != fingerprint:
                    return None
                self._copy_the_rest(old)
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            kept = self._keep(version)
            put_in_place(self._building, self._path, self._progress.tick)
        return Upgraded(version, events, kept)

    def _refuse_without_room(self) -> None:
        """Check the free space first, because other programs need the disk too."""
        with closing(_open(self._path)) as connection:
            used, free, size = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
        needed, there = (used - free) * size, free_bytes(self._path)
        if there < needed:
            raise OutboxError(
                f"the outbox {self._path} cannot be upgraded: its disk has {there // 1_000_000} MB of free space, and "
                f"{needed // 1_000_000 + 1} MB are needed; it is unchanged. Free some space, then start again"
            )

    def _sync_a_little(self) -> None:
        size = self._building.stat().st_size
        if size - self._synced >= _SYNCED_TOGETHER:
            self._synced = size
            sync(self._building)

    def _copy_the_rest(self, old: _Old) -> None:
        """Copy small tables, and reports that arrived in the meantime."""
        with closing(sqlite3.connect(self._building, isolation_level=None)) as new:
            new.execute("BEGIN")
            for table in _SAME:
                copy(new, table, old.table(table))
            copy_newer_reports(new, old.table)
            new.execute(_BEFORE_AUDIT)
            new.execute(
                "DELETE FROM wanted_builds AS w WHERE EXISTS (SELECT 1 FROM open_builds AS o"
                " WHERE o.controller = w.controller AND o.full_name = w.full_name AND o.number = w.number)"
            )
            new.execute("COMMIT")
            new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _keep(self, version: int) -> Path | None:
        """Link the old file to a second name if there is space for both. Returns that name, else None."""
        if free_bytes(self._path) < self._path.stat().st_size:
            return None
        kept = next(name for name in _kept_names(self._path, version) if not name.exists())
        try:
            os.link(self._path, kept)
        except OSError:  # a file system without links
            shutil.copy2(self._path, kept)
        return kept


class _Old:
    """Reads the tables of versions 1 to 5."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        self._tables = {name for (name,) in found}

    def fingerprint(self) -> list[Any]:
        """Equal fingerprints mean equal events."""
        return self._connection.execute(_FINGERPRINT).fetchall()

    def span(self) -> tuple[int, int]:
        """The lowest and the highest event number."""
        lowest, highest = self._connection.execute("SELECT min(id), max(id) FROM events").fetchone()
        return lowest or 0, highest or 0

    def events(self) -> Iterator[list[OldRow]]:
        """All events in batches, in numeric order. Raises :class:`UnsoundError`."""
        names = self._columns("events")
        columns = (name if name in names else "NULL" for name in OldRow._fields)
        cursor = self._connection.execute(f"SELECT {', '.join(columns)} FROM events ORDER BY id")  # noqa: S608
        while found := cursor.fetchmany(_PIECE):
            yield list(map(OldRow.of, found))

    def attempts(self) -> Iterator[tuple[int, Iterator[Any]]]:
        """Attempts that count, by event. For a success only the verdict is read."""
        found = self._rows(_ATTEMPTS)
        return groupby(found, key=itemgetter(0))

    def table(self, name: str, behind: str = "") -> Iterator[Fields]:
        """All rows of a table, none if this version lacks it; ``behind``: SQL conditions."""
        if name not in self._tables:
            return iter(())
        columns = self._columns(name)
        found = self._rows(f"SELECT {', '.join(columns)} FROM {name} {behind}")  # noqa: S608
        return (dict(zip(columns, row, strict=True)) for row in found)

    def _columns(self, table: str) -> list[str]:
        return [row[1] for row in self._connection.execute(f"PRAGMA table_info({table})").fetchall()]

    def _rows(self, sql: str) -> Iterator[Any]:
        cursor = self._connection.execute(sql)
        while found := cursor.fetchmany(_PIECE):
            yield from found


class _Copy:
    """Copies the large tables."""

    def __init__(self, old: _Old, new: sqlite3.Connection, polled: frozenset[str], progress: _Progress) -> None:
        self._old = old
        self._new = new
        self._writer = Writer(new, polled)
        self._older = Older(known_ids(old.table, polled), clocks_ahead(old.table("controllers")))
        self._progress = progress

    def all(self, sync_a_little: Callable[[], None]) -> int:
        """Returns how many events there are."""
        new = self._new
        # The index of the ids belongs to the table; the others are built in one go at the end.
        later = new.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'deployments' AND sql IS NOT NULL"
        ).fetchall()
        for name, _ in later:
            new.execute(f"DROP INDEX {name}")
        events = self._events(sync_a_little)
        for project, former in former_names(self._old.table("former_names")):
            self._writer.add_former_name(project, former)
        copy(new, "forgotten", self._old.table("pruned"))
        copy_newer_reports(new, self._old.table)
        self._progress.at(_COPYING)
        for number, (_, sql) in enumerate(later, 1):
            new.execute(sql)
            self._progress.at(_COPYING + 2 * number)
        migrations.recount(new)
        new.execute("COMMIT")
        return events

    def _events(self, sync_a_little: Callable[[], None]) -> int:
        lowest, highest = self._old.span()
        attempts = _Attempts(self._old.attempts())
        done = 0
        for piece in self._old.events():
            self._writer.add(map(self._older.convert, piece))
            for row in piece:  # nearly all were delivered at the first attempt
                if row.attempts > 1 or row.state != "delivered":
                    self._writer.add_attempts(row.id, row.attempts, attempts.of(row.id))
            done += len(piece)
            self._progress.at((piece[-1].id - lowest) * _COPYING // (highest - lowest + 1))
            sync_a_little()
        return done


class _Attempts:
    """Attempts by event, to be requested in the order of event numbers."""

    def __init__(self, by_event: Iterator[tuple[int, Iterator[Any]]]) -> None:
        self._by_event = by_event
        self._next = next(by_event, None)

    def of(self, event_id: int) -> Iterator[Any]:
        """Oldest first. Read them before requesting the next event."""
        while self._next is not None and self._next[0] < event_id:
            self._next = next(self._by_event, None)
        return self._next[1] if self._next is not None and self._next[0] == event_id else iter(())
