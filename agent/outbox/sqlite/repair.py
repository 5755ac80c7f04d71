"""Repair of a damaged outbox: the file is moved aside, never deleted, and its readable rows are copied to a new one.

Only the holder of the run lock repairs. Lost data is read from Jenkins again: the cursors are not copied, so that the
poller reads every build that ended since ``reread_from``. Ids that are known, here or at Hivel, prevent duplicates.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.model.times import rfc3339
from agent.outbox.sqlite import migrations
from agent.outbox.sqlite.copying import (
    begin_new_file,
    complete_new_file,
    copy_newer_reports,
    remove_new_file,
)
from agent.outbox.sqlite.recovery import Damaged, recover
from agent.outbox.sqlite.swap import LOGS, InUseError, alone_with, beside, open_alone, put_in_place, real
from agent.outbox.sqlite.upgrade import upgrade
from agent.outbox.values import OutboxError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from agent.model.times import Clock

# How far back Jenkins is read again (ms); further if an older event was not delivered yet.
REREAD_MS = 7 * 86_400_000
# Seconds to wait for other processes to close the file. A process that does not keeps the damaged file open.
PATIENCE_S = 10.0
_OLDEST = "SELECT min(coalesce(build_started_at, started_at)) FROM deployments WHERE state IN ('pending', 'held')"


@dataclass(frozen=True)
class Repair:
    """The result. ``reread_from``: UTC milliseconds. ``events``: how many were read from the damaged file."""

    moved_to: Path
    problem: str
    events: int
    reread_from: int


def unfinished(path: Path) -> bool:
    """Whether a repair of this outbox was interrupted after its new file was complete."""
    return _complete(real(path)).exists()


def repair(path: Path, clock: Clock, problem: str, controllers: Collection[str]) -> Repair:
    """Replace the damaged file, of this or an older version, by a new one.

    ``controllers``: the names of all polled controllers. If a repair is interrupted, the next call continues: the old
    file gets its other name first, and the new file gets its place in one step. Only the holder of the run lock may
    call it, and this process must not have the outbox open. Raises :class:`agent.outbox.values.OutboxError` if the disk
    has too little space.
    """
    path = real(path)
    try:
        if not unfinished(path):
            _build(path, clock, problem, controllers)
        done = _last(path)
        with ExitStack() as stack:
            with suppress(InUseError):
                stack.enter_context(alone_with(path, PATIENCE_S))
            for suffix in ("", *LOGS):
                _keep(beside(path, suffix), beside(done.moved_to, suffix))
            _take_newer_reports(path)
            put_in_place(_complete(path), path)
        upgrade(path, clock, controllers)  # an upgrade may have found the damage
    except (OSError, sqlite3.Error) as error:
        raise OutboxError(
            f"the outbox {path} is damaged ({problem}) and cannot be repaired: {error}; free some space on "
            "its disk, or move the file away"
        ) from error
    return done


def _complete(path: Path) -> Path:
    return beside(path, ".recovered")


def free_name(path: Path, clock: Clock, why: str) -> Path:
    """An unused name beside the outbox for a file to keep: ``outbox.db.damaged-20261123T120000Z``."""
    stamp = rfc3339(clock.now_ms())[:19].replace("-", "").replace(":", "")
    names = (beside(path, f".{why}-{stamp}Z{count}") for count in ("", *(f"-{n}" for n in range(1, 1000))))
    return next(name for name in names if not name.exists())


def _keep(old: Path, new: Path) -> None:
    if not old.exists() or new.exists():
        return
    try:
        os.link(old, new)
    except OSError:  # a file system without links
        shutil.copy2(old, new)


def _last(path: Path) -> Repair:
    with closing(sqlite3.connect(_complete(path))) as connection:
        moved_to, *rest = connection.execute(
            "SELECT moved_to, problem, events, reread_from FROM repairs ORDER BY at DESC LIMIT 1"
        ).fetchone()
    return Repair(path.with_name(moved_to), *rest)


def _build(path: Path, clock: Clock, problem: str, controllers: Collection[str]) -> None:
    building = beside(path, ".recovering")
    remove_new_file(building)
    with closing(begin_new_file(building, path)) as new:
        taken = recover(path, new, controllers)
        migrations.recount(new)
        oldest = new.execute(_OLDEST).fetchone()[0]
        now = clock.now_ms()
        reread_from = min(now - REREAD_MS, now if oldest is None else oldest)
        new.execute("UPDATE controllers SET report_from = max(coalesce(report_from, ?1), ?1)", (reread_from,))
        new.executemany(
            "INSERT OR IGNORE INTO controllers (name, state, since, report_from) VALUES (?, 'never polled', ?, ?)",
            [(name, now, reread_from) for name in controllers],
        )
        moved_to = free_name(path, clock, "damaged").name
        new.execute("INSERT INTO repairs VALUES (?, ?, ?, ?, ?)", (now, moved_to, problem, taken, reread_from))
        new.execute("COMMIT")
    complete_new_file(building)
    building.replace(_complete(path))


def _take_newer_reports(path: Path) -> None:
    """Copy reports that `emit` stored after the others were read."""
    with closing(sqlite3.connect(_complete(path), isolation_level=None)) as new:
        with suppress(sqlite3.Error), closing(open_alone(path, "ro")) as old:
            copy_newer_reports(new, Damaged(old).table)
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
