"""Makes an outbox file usable: converts one of an older version, repairs a damaged one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from agent.daemon.systemd import extend_timeout
from agent.outbox.engines import is_shared
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.sqlite.repair import repair, unfinished
from agent.outbox.sqlite.upgrade import upgrade
from agent.outbox.values import DamagedError

if TYPE_CHECKING:
    from agent.config.settings import Settings
    from agent.model.times import Clock
    from agent.outbox.sqlite.upgrade import Upgraded

log = structlog.get_logger("service")

# The upgrade reports its progress at least once a second. If it hangs for this time, systemd ends it.
UPGRADE_PATIENCE_S = 60


def what_is_broken(error: DamagedError) -> str:
    """The description of the damage by the part that noticed it."""
    return str(error.__cause__ or error)


def make_ready(settings: Settings, clock: Clock, problem: str | None) -> None:
    """Convert an outbox of an older version, and repair one in which damage was found (``problem``).

    Only the holder of the run lock may call it. While it progresses, systemd is asked to wait. Raises
    :class:`agent.outbox.values.OutboxError` if the outbox cannot be used at all.
    """
    path = settings.outbox
    if problem is None and unfinished(path):
        problem = "its repair was interrupted"
    if problem is None:
        try:
            _upgrade(settings, clock)
            SqliteOutbox(path, clock, as_inbox=is_shared(settings)).close()
        except DamagedError as error:
            problem = what_is_broken(error)
    if problem is not None:
        done = repair(path, clock, problem, [controller.name for controller in settings.controllers])
        log.error(
            "outbox was damaged", problem=problem, moved_to=str(done.moved_to), events_recovered=done.events,
            advice="builds of the last week are read again; for older builds, run hivel-agent backfill",
        )  # fmt: skip


def _upgrade(settings: Settings, clock: Clock) -> None:
    names = [controller.name for controller in settings.controllers]
    done = upgrade(settings.outbox, clock, names, lambda _percent: extend_timeout(UPGRADE_PATIENCE_S))
    if done is not None:
        log.info("outbox upgraded", from_version=done.version, events=done.events, old_file=_kept(done))


def _kept(done: Upgraded) -> str:
    """The path of the old file, for going back to the older version."""
    return "not kept: not enough disk space" if done.kept is None else str(done.kept)
