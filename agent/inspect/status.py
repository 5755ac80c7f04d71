"""What ``status`` says: the outbox, the delivery, each controller, and whether a daemon is at work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.model.times import rfc3339
from agent.outbox.cursors import controller_states, missed_builds, open_build_counts
from agent.outbox.sqlite.connection import RunLock
from agent.outbox.sqlite.store import Counts  # noqa: TC001 - a field of a struct

if TYPE_CHECKING:
    from agent.config.settings import JenkinsSettings, Settings
    from agent.outbox.cursors import ControllerState
    from agent.outbox.sqlite.store import DeliveryState, Outbox


class ControllerStatus(msgspec.Struct, frozen=True):
    """One controller. Times are RFC 3339; ``state`` is ok, error, unreachable, unauthorized or never polled."""

    name: str
    url: str
    state: str
    since: str | None
    polled_at: str | None
    jobs: int | None
    open_builds: int
    missed_builds: int
    last_error: str | None


class DeliveryStatus(msgspec.Struct, frozen=True):
    """What the delivery last said of itself. Times are RFC 3339; ``state`` is open, outage, paused or never ran."""

    state: str
    since: str | None = None
    reason: str | None = None
    next_probe_at: str | None = None


class MissedStatus(msgspec.Struct, frozen=True):
    """Builds of a job that were discarded or deleted before they could be read; ``noted_at`` is RFC 3339."""

    controller: str
    job: str
    builds: int
    newest_number: int
    noted_at: str


class RepairStatus(msgspec.Struct, frozen=True):
    """The outbox was found damaged ``at`` (RFC 3339); ``events`` could be read from the file ``moved_to``."""

    at: str
    moved_to: str
    problem: str
    events: int


class Status(msgspec.Struct, frozen=True):
    """Everything at a glance; ``daemon_pid`` None: no daemon is at work."""

    outbox: str
    daemon_pid: int | None
    events: Counts
    oldest_pending_ms: int | None
    delivery: DeliveryStatus
    missed: list[MissedStatus]
    controllers: list[ControllerStatus]
    repaired: RepairStatus | None = None


def status(settings: Settings, outbox: Outbox) -> Status:
    """Read it all from the outbox; neither Jenkins nor Hivel is asked."""
    oldest = outbox.oldest_pending()
    known = {state.name: state for state in controller_states(outbox)}
    open_builds, missed = open_build_counts(outbox), missed_builds(outbox)
    return Status(
        outbox=str(settings.outbox),
        daemon_pid=RunLock(settings.outbox).holder(),
        events=outbox.counts(),
        oldest_pending_ms=None if oldest is None else max(0, outbox.clock.now_ms() - oldest),
        delivery=delivery_status(outbox.delivery_state()),
        missed=[
            MissedStatus(m.controller, m.full_name, m.builds, m.newest_number, rfc3339(m.noted_at)) for m in missed
        ],
        controllers=[
            _controller_status(
                controller,
                known.get(controller.name),
                open_builds.get(controller.name, 0),
                sum(job.builds for job in missed if job.controller == controller.name),
            )
            for controller in settings.controllers
        ],
        repaired=None
        if (last := outbox.last_repair()) is None
        else RepairStatus(rfc3339(last.at), last.moved_to, last.problem, last.events),
    )


def delivery_status(state: DeliveryState | None) -> DeliveryStatus:
    """The delivery's state for others to read."""
    if state is None:
        return DeliveryStatus("never ran")
    return DeliveryStatus(state.state, rfc3339(state.since), state.reason, _moment(state.next_probe_at))


def _controller_status(
    settings: JenkinsSettings, state: ControllerState | None, open_builds: int, missed_builds: int
) -> ControllerStatus:
    return ControllerStatus(
        name=settings.name,
        url=settings.url,
        state=state.state if state else "never polled",
        since=rfc3339(state.since) if state else None,
        polled_at=_moment(state.polled_at) if state else None,
        jobs=state.jobs if state else None,
        open_builds=open_builds,
        missed_builds=missed_builds,
        last_error=state.last_error if state else None,
    )


def _moment(ms: int | None) -> str | None:
    return None if ms is None else rfc3339(ms)
