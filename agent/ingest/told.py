"""What a build told of itself: its events that came through the hook, so that nobody reports it a second time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.deployments.legacy import from_json
from agent.model import event as events
from agent.model.fact import SAME_BUILD_MS
from agent.model.times import parse_moment
from agent.outbox.sqlite.store import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.model.build import Build
    from agent.outbox.sqlite.store import Outbox, Row


def told_by(outbox: Outbox, build: Build, former_names: Iterable[str] = ()) -> list[Row]:
    """The events that this final build reported itself, under the name of its job or a former one.

    The number alone does not tell: a job of the same name may have had it before.
    """
    return [row for row in _of_build(outbox, build, former_names) if row.reported is not None and is_of(row, build)]


def polled(outbox: Outbox, build: Build, former_names: Iterable[str]) -> list[Row]:
    """The events that the poller made of this very build."""
    found = _of_build(outbox, build, former_names)
    return [row for row in found if row.reported is None and row.started_at == build.started_at]


def _of_build(outbox: Outbox, build: Build, former_names: Iterable[str]) -> list[Row]:
    """The events of builds with that number, of this job or of one that had its name before."""
    return [
        row
        for job in (build.job, *former_names)
        for row in outbox.of_build(events.build_deployment_id(build.controller, job, build.number))
    ]


def is_of(row: Row, build: Build) -> bool:
    """Whether an event that a build reported is of this one, which Jenkins shows now, and not of an earlier job's.

    It started when this one did, give or take two clocks; or the report did not say when, and came later.
    """
    if row.started_at < build.started_at - SAME_BUILD_MS:
        return False
    return row.started_at <= build.ended_at + SAME_BUILD_MS or ended_at(row) == row.started_at


def ended_at(row: Row) -> int | None:
    """When the deployment ended (UTC ms); of one that said no times the moment of its report, as its start is."""
    if row.payload is not None:
        return parse_moment(events.decode(row.payload).end_time)
    return None if row.source is None else from_json(row.source).ended_at


def waits(row: Row) -> bool:
    """Whether the event still wants the poller's word: it is held, or nobody could make it without that."""
    if row.state is State.HELD:
        return True
    return row.state is State.FAILED and row.payload is None and row.source is not None and from_json(row.source).early


def environment_of(row: Row) -> str | None:
    """The environment that the event names, or that the build reported if there is no event."""
    if row.payload is not None:
        return events.decode(row.payload).environment
    said = None if row.source is None else from_json(row.source).reported
    return said.environment if said else None
