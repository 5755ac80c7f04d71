"""Saves an outbox whose file was deleted or replaced while the agent has it open: writes its content to a new file."""

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
    """Where the data is now. ``in_place``: under the outbox's own name; otherwise another file had that name."""

    file: Path
    in_place: bool


def rescue(outbox: SqliteOutbox, path: Path, clock: Clock) -> Rescue:
    """Write the content of ``outbox`` to its old name or, if another file has that name now, beside it.

    Nothing else may use the outbox any more. Raises :class:`agent.outbox.values.OutboxError` if it cannot be written.
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
            f"the outbox file {path} was deleted or replaced, and its content cannot be written to {new}: {error}; "
            "free some space on its disk or make its folder writable, and leave the agent running"
        ) from error
    return done


def _give_name(new: Path, path: Path, clock: Clock) -> Rescue:
    if not path.exists():
        for suffix in LOGS:  # of the deleted file
            beside(path, suffix).unlink(missing_ok=True)
    try:
        os.link(new, path)  # unlike a rename, this cannot overwrite a file that appeared just now
    except FileExistsError:
        return Rescue(new.rename(free_name(path, clock, "replaced")), in_place=False)
    new.unlink()
    return Rescue(path, in_place=True)
