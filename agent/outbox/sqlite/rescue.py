"""An outbox whose file lost its name while the agent works on it: what the agent has open is written to a new file."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.outbox.sqlite.copying import remove_new_file
from agent.outbox.sqlite.repair import free_name
from agent.outbox.sqlite.swap import LOGS, beside, sync, sync_folder
from agent.outbox.values import OutboxError

if TYPE_CHECKING:
    from pathlib import Path

    from agent.model.times import Clock
    from agent.outbox.sqlite.engine import SqliteOutbox


@dataclass(frozen=True)
class Rescue:
    """Where everything is now. ``in_place``: under the outbox's own name; else another file had that already."""

    file: Path
    in_place: bool


def rescue(outbox: SqliteOutbox, path: Path, clock: Clock) -> Rescue:
    """Write all that ``outbox`` sees to a file of the name, or beside it where another one has the name by now.

    Nothing else may use the outbox any more. Raises :class:`agent.outbox.values.OutboxError` when it cannot be written.
    """
    path = path.resolve()
    new = beside(path, ".rescuing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        remove_new_file(new)
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        outbox.copy_to(new)
        sync(new)
        done = _give_name(new, path, clock)
        sync_folder(path)
    except (OSError, sqlite3.Error) as error:
        raise OutboxError(
            f"the outbox {path} has lost its name, and what was in it cannot be written to {new}: {error}; make room "
            "on its disk, or make its folder writable, and leave the agent running"
        ) from error
    return done


def _give_name(new: Path, path: Path, clock: Clock) -> Rescue:
    if not path.exists():
        for suffix in LOGS:  # of the file that lost its name
            beside(path, suffix).unlink(missing_ok=True)
    try:
        os.link(new, path)  # never over a file that somebody put there just now
    except FileExistsError:
        return Rescue(new.rename(free_name(path, clock, "replaced")), in_place=False)
    new.unlink()
    return Rescue(path, in_place=True)
