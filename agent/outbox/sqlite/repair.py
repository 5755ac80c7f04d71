"""A damaged outbox: moved aside, never deleted, and what can be read of it goes into a new one.

Only the holder of the run lock repairs. What the damage took is read from Jenkins again: the cursors are not taken
over, so that the poller looks at every build that ended since ``reread_from``; ids that are known, here or at Hivel,
keep anything from being counted twice.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from agent.model import event as events
from agent.model.times import rfc3339
from agent.outbox.sqlite import connection as outbox_connection
from agent.outbox.sqlite import schema
from agent.outbox.values import OutboxError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from agent.model.times import Clock

# How far back Jenkins is read again, and further if an event that old was still to be delivered.
REREAD_MS = 7 * 86_400_000
# Ids are given away one after another: behind so many unreadable ones in a row there are no more.
_GAP = 20_000
_BATCH = 500
# Tables that are taken over; cursors and interrupted backfills are not.
_TABLES = ("reports", "pruned", "former_names", "missed", "repairs", "controllers")


@dataclass(frozen=True)
class Repair:
    """What came of it. ``reread_from`` is UTC milliseconds; ``events`` were read from the damaged file."""

    moved_to: Path
    problem: str
    events: int
    reread_from: int


def unfinished(path: Path) -> bool:
    """Whether a repair of this outbox was interrupted after its new file was complete."""
    return _complete(path).exists()


def repair(path: Path, clock: Clock, problem: str, controllers: Iterable[str]) -> Repair:
    """Put a new file in the place of the damaged one. ``controllers``: the names of all that are polled.

    However it is interrupted, the next call goes on: the new file gets its place in one step, and the old one has
    its other name before. Raises :class:`agent.outbox.values.OutboxError` when there is no room for it.
    """
    moved_to = _free_name(path, clock)
    try:
        if not unfinished(path):
            _build(path, clock, moved_to, problem, controllers)
        for suffix in ("", "-wal", "-shm"):
            _keep(_beside(path, suffix), _beside(moved_to, suffix))
        for suffix in ("-wal", "-shm"):  # they must not meet the new file
            _beside(path, suffix).unlink(missing_ok=True)
        _complete(path).replace(path)
    except (OSError, sqlite3.Error) as error:
        raise OutboxError(
            f"the outbox {path} is damaged ({problem}) and cannot be repaired: {error}; make room on its disk, "
            "or move the file away by hand"
        ) from error
    return _last(path)


def _complete(path: Path) -> Path:
    return _beside(path, ".recovered")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _free_name(path: Path, clock: Clock) -> Path:
    stamp = rfc3339(clock.now_ms())[:19].replace("-", "").replace(":", "")
    names = (_beside(path, f".damaged-{stamp}Z{count}") for count in ("", *(f"-{n}" for n in range(1, 1000))))
    return next(name for name in names if not name.exists())


def _keep(old: Path, new: Path) -> None:
    if not old.exists():
        return
    try:
        os.link(old, new)
    except OSError:  # a file system without links
        shutil.copy2(old, new)


def _last(path: Path) -> Repair:
    with closing(outbox_connection.connect(path)) as connection:
        row = connection.execute(
            "SELECT moved_to, problem, events, reread_from FROM repairs ORDER BY at DESC LIMIT 1"
        ).fetchone()
    moved_to, *rest = row
    return Repair(path.with_name(moved_to), *rest)


# ---- the new file


def _build(path: Path, clock: Clock, moved_to: Path, problem: str, controllers: Iterable[str]) -> None:
    building = _beside(path, ".recovering")
    for suffix in ("", "-wal", "-shm"):
        _beside(building, suffix).unlink(missing_ok=True)
    with closing(outbox_connection.connect(building)) as new:
        new.execute("BEGIN IMMEDIATE")
        _take_over(path, new)
        schema.count(new)
        taken = int(new.execute("SELECT count(*) FROM events").fetchone()[0])
        waiting = "SELECT min(started_at) FROM events WHERE state IN ('pending', 'held')"
        oldest = new.execute(waiting).fetchone()[0]
        now = clock.now_ms()
        reread_from = min(now - REREAD_MS, now if oldest is None else oldest)
        new.execute("UPDATE controllers SET report_from = max(coalesce(report_from, ?1), ?1)", (reread_from,))
        new.executemany(
            "INSERT OR IGNORE INTO controllers (name, state, since, report_from) VALUES (?, 'never polled', ?, ?)",
            [(name, now, reread_from) for name in controllers],
        )
        new.execute("INSERT INTO repairs VALUES (?, ?, ?, ?, ?)", (now, moved_to.name, problem, taken, reread_from))
        new.execute("COMMIT")
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    building.replace(_complete(path))


def _take_over(path: Path, new: sqlite3.Connection) -> None:
    """Copy what can be read: nothing at all if not even the first page can."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as old:
        _copy(new, "events", (row for row in _by_id(old, "events") if _is_sound(row)))
        _copy(new, "attempts", _by_id(old, "attempts"))
        new.execute("DELETE FROM attempts WHERE event_id NOT IN (SELECT id FROM events)")
        for table in _TABLES:
            _copy(new, table, _readable(old, table))


def _is_sound(row: dict[str, Any]) -> bool:
    """Whether the payload is an event, and this one: what is not will be derived again."""
    try:
        return row["payload"] is None or events.decode(row["payload"]).deployment_id == row["deployment_id"]
    except (KeyError, TypeError, msgspec.MsgspecError):
        return False


def _copy(new: sqlite3.Connection, table: str, rows: Iterable[dict[str, Any]]) -> None:
    known = {row[1] for row in new.execute(f"PRAGMA table_info({table})").fetchall()}
    for row in rows:
        fields = {name: value for name, value in row.items() if name in known}
        names, marks = ", ".join(fields), ", ".join("?" for _ in fields)
        with suppress(sqlite3.IntegrityError):  # a value that no healthy file holds
            new.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", tuple(fields.values()))  # noqa: S608


def _readable(old: sqlite3.Connection, table: str) -> Iterator[dict[str, Any]]:
    """The rows of a small table up to where it breaks off."""
    try:
        cursor = old.execute(f"SELECT * FROM {table}")  # noqa: S608
        names = [column[0] for column in cursor.description]
        while (row := cursor.fetchone()) is not None:
            yield dict(zip(names, row, strict=True))
    except (sqlite3.Error, UnicodeDecodeError):
        return


def _by_id(old: sqlite3.Connection, table: str) -> Iterator[dict[str, Any]]:
    """The rows of a table with ids, around what is broken: in batches, and one by one where a batch cannot be read."""
    last, unreadable = 0, 0
    while unreadable < _GAP:
        try:
            rows = _select(old, f"SELECT * FROM {table} WHERE id > ? ORDER BY id LIMIT ?", last, _BATCH)  # noqa: S608
            if not rows or rows[-1]["id"] <= last:  # the end, or a tree that leads round in circles
                return
        except (sqlite3.Error, UnicodeDecodeError):
            rows = []
            for row_id in range(last + 1, last + 1 + _BATCH):
                try:
                    rows += _select(old, f"SELECT * FROM {table} WHERE id = ?", row_id)  # noqa: S608
                except (sqlite3.Error, UnicodeDecodeError):
                    continue
            unreadable = 0 if rows else unreadable + _BATCH
            yield from rows
            last += _BATCH
        else:
            unreadable = 0
            yield from rows
            last = rows[-1]["id"]


def _select(old: sqlite3.Connection, statement: str, *values: int) -> list[dict[str, Any]]:
    cursor = old.execute(statement, values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
