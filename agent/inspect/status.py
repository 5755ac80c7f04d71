"""The data of ``status``: the outbox, the delivery, each controller, and whether a daemon is running."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.inspect.asked import ask_daemon
from agent.inspect.controllers import (
    ControllerStatus,
    JobErrorStatus,
    MissedStatus,
    controller_statuses,
    job_error_status,
    missed_status,
)
from agent.inspect.fleet import FleetStatus, fleet_status
from agent.inspect.silent import SilentJob, silent_jobs
from agent.inspect.webhooks import HookStatus, hook_statuses
from agent.model.times import rfc3339
from agent.outbox.engines import name_of
from agent.outbox.sqlite.connection import RunLock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Counts  # noqa: TC001 - a field of a struct

if TYPE_CHECKING:
    from agent.config.settings import Settings
    from agent.outbox.interface import Outbox
    from agent.outbox.values import DeliveryState, LastRepair, SetAside

# The newest events that are searched for changes during delivery. It takes some hundredths of a second.
MOST_LOOKED_AT = 100_000
# The maximum number of set-aside items, and the maximum length of each error.
MOST_SET_ASIDE = 20
_LONGEST_ERROR = 300


class DeliveryStatus(msgspec.Struct, frozen=True):
    """The last known state of the delivery. Times are RFC 3339; ``state`` is open, outage, paused or never ran."""

    state: str
    since: str | None = None
    reason: str | None = None
    next_probe_at: str | None = None


class SetAsideStatus(msgspec.Struct, frozen=True):
    """A report or run that is not processed since ``at`` (RFC 3339) because of an unexpected error.

    ``kind``: report or run. ``error``: the last line; ``trace``: the whole traceback.
    """

    at: str
    kind: str
    subject: str
    error: str
    trace: str


class RepairStatus(msgspec.Struct, frozen=True):
    """A damaged outbox was found ``at`` (RFC 3339); ``events`` were recovered from the file ``moved_to``."""

    at: str
    moved_to: str
    problem: str
    events: int


class GapStatus(msgspec.Struct, frozen=True):
    """The last look of gap repair at a project. ``looked_at``: the last one without an error (RFC 3339), if any.

    ``found``: the missed deployments that were found in all. ``error``: of the last look.
    """

    webhook: str
    project: str
    stream: str
    found: int
    looked_at: str | None
    error: str | None


class Status(msgspec.Struct, frozen=True):
    """``status --json``. ``daemon_pid`` None: no daemon is running.

    ``outdated_events``: how many of the newest 100,000 events changed during delivery, so that Hivel has an older
    revision. ``size_bytes``: the size of the outbox; ``max_size_bytes`` 0: no limit. ``fleet``: the agents that share
    the outbox; None if it is a file.
    """

    outbox: str
    daemon_pid: int | None
    events: Counts
    oldest_pending_ms: int | None
    delivery: DeliveryStatus
    missed: list[MissedStatus]
    controllers: list[ControllerStatus]
    repaired: RepairStatus | None = None
    job_errors: list[JobErrorStatus] = []
    set_aside: list[SetAsideStatus] = []
    silent_jobs: list[SilentJob] = []
    outdated_events: int = 0
    size_bytes: int = 0
    max_size_bytes: int = 0
    webhooks: list[HookStatus] = []
    fleet: FleetStatus | None = None

    gaps: list[GapStatus] = []

    @property
    def is_full(self) -> bool:
        """Whether no new events are stored until space is freed."""
        return 0 < self.max_size_bytes <= self.size_bytes


def status(settings: Settings, outbox: Outbox) -> Status:
    """The status from the outbox, and from the daemon what is not stored. Sends no request to Jenkins or Hivel."""
    counts, oldest = outbox.backlog()
    daemon_pid, address = RunLock(settings.outbox).holder(), settings.monitoring
    told = [] if daemon_pid is None or address is None else ask_daemon(address)
    missed = outbox.missed()
    return Status(
        outbox=name_of(settings),
        daemon_pid=daemon_pid,
        events=counts,
        oldest_pending_ms=None if oldest is None else max(0, outbox.clock.now_ms() - oldest),
        delivery=delivery_status(outbox.delivery_state()),
        missed=[missed_status(each) for each in missed],
        controllers=controller_statuses(
            settings.controllers, outbox.controllers(), outbox.open_build_counts(), missed, told
        ),
        repaired=_repair_status(outbox.last_repair() if isinstance(outbox, SqliteOutbox) else None),
        job_errors=[
            job_error_status(controller.name, error)
            for controller in settings.controllers
            for error in outbox.job_errors(controller.name).values()
        ],
        set_aside=[_set_aside_status(item) for item in outbox.things_set_aside(MOST_SET_ASIDE)],
        silent_jobs=silent_jobs(settings, outbox),
        outdated_events=outbox.outdated(MOST_LOOKED_AT),
        size_bytes=outbox.size(),
        max_size_bytes=settings.max_size_bytes,
        webhooks=hook_statuses(settings, outbox),
        gaps=_gap_statuses(settings, outbox),
        fleet=fleet_status(settings),
    )


def _gap_statuses(settings: Settings, outbox: Outbox) -> list[GapStatus]:
    """Of the projects that the configuration names."""
    hooks = () if settings.webhooks is None else settings.webhooks.hooks
    asked = {(hook.name, project) for hook in hooks for project in hook.repair}
    return [
        GapStatus(
            look.hook,
            look.project,
            look.stream,
            look.found,
            None if look.looked_at is None else rfc3339(look.looked_at),
            look.error,
        )
        for look in (outbox.gap_looks() if asked else [])
        if (look.hook, look.project) in asked
    ]


def delivery_status(state: DeliveryState | None) -> DeliveryStatus:
    """The state of the delivery as printed."""
    if state is None:
        return DeliveryStatus("never ran")
    return DeliveryStatus(state.state, rfc3339(state.since), state.reason, _moment(state.next_probe_at))


def _repair_status(repair: LastRepair | None) -> RepairStatus | None:
    if repair is None:
        return None
    return RepairStatus(rfc3339(repair.at), repair.moved_to, repair.problem, repair.events)


def _set_aside_status(item: SetAside) -> SetAsideStatus:
    last_line = item.error.strip().rpartition("\n")[2][:_LONGEST_ERROR]
    return SetAsideStatus(rfc3339(item.at), item.kind, item.subject, last_line, item.error)


def _moment(ms: int | None) -> str | None:
    return None if ms is None else rfc3339(ms)
