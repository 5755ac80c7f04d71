"""A damaged outbox: noticed when it is opened or later, and repaired by whoever holds its lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.sqlite.repair import repair, unfinished
from agent.outbox.values import DamagedError

if TYPE_CHECKING:
    from agent.config.settings import Settings
    from agent.model.times import Clock

log = structlog.get_logger("service")


def what_is_broken(error: DamagedError) -> str:
    """In the words of the one that noticed it."""
    return str(error.__cause__ or error)


def mend(settings: Settings, clock: Clock, problem: str | None) -> None:
    """Repair the outbox where somebody met damage (``problem``), or where it cannot be opened for it.

    Raises :class:`agent.outbox.values.OutboxError` when it cannot be used at all.
    """
    path = settings.outbox
    if problem is None and unfinished(path):
        problem = "its repair was interrupted"
    if problem is None:
        try:
            SqliteOutbox(path, clock).close()
        except DamagedError as error:
            problem = what_is_broken(error)
    if problem is not None:
        done = repair(path, clock, problem, [controller.name for controller in settings.controllers])
        log.error(
            "outbox was damaged", problem=problem, moved_to=str(done.moved_to), events_recovered=done.events,
            advice="builds that ended in the last week are read again; for older ones: hivel-agent backfill",
        )  # fmt: skip
