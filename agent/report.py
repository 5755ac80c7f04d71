"""What ``status`` says: the outbox, the delivery, each controller, and whether a daemon is at work."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec

from agent.jenkins.cursor import ControllerState, controller_states, open_build_counts
from agent.outbox.connection import RunLock
from agent.outbox.store import Counts, DeliveryState  # noqa: TC001 - fields of a struct that is decoded

if TYPE_CHECKING:
    from agent.config import Settings
    from agent.outbox.store import Outbox


class ControllerStatus(msgspec.Struct, frozen=True):
    """One controller. Times are UTC milliseconds; ``state`` is ok, error, unreachable, unauthorized or never polled."""

    name: str
    url: str
    state: str
    since: int | None
    polled_at: int | None
    jobs: int | None
    open_builds: int
    last_error: str | None


class Status(msgspec.Struct, frozen=True):
    """Everything at a glance; ``daemon_pid`` None: no daemon is at work."""

    outbox: str
    daemon_pid: int | None
    events: Counts
    oldest_pending_ms: int | None
    delivery: DeliveryState | None
    controllers: list[ControllerStatus]


def status(settings: Settings, outbox: Outbox) -> Status:
    """Read it all from the outbox; neither Jenkins nor Hivel is asked."""
    oldest = outbox.oldest_pending()
    known = {state.name: state for state in controller_states(outbox)}
    open_builds = open_build_counts(outbox)
    controllers = []
    for controller in settings.controllers:
        state = known.get(controller.name) or ControllerState(controller.name, "never polled", 0)
        fields = {name: value for name, value in dataclasses.asdict(state).items() if name != "report_from"}
        fields["since"] = fields["since"] or None
        controllers.append(
            ControllerStatus(url=controller.url, open_builds=open_builds.get(controller.name, 0), **fields)
        )
    return Status(
        outbox=str(settings.outbox),
        daemon_pid=RunLock(settings.outbox).holder(),
        events=outbox.counts(),
        oldest_pending_ms=None if oldest is None else max(0, outbox.clock.now_ms() - oldest),
        delivery=outbox.delivery_state(),
        controllers=controllers,
    )
