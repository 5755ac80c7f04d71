"""What is known of each controller: its state, its open and missed builds, and the jobs that cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.inspect.asked import Asked  # noqa: TC001 - a field of a struct
from agent.model.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.config.settings import JenkinsSettings
    from agent.outbox.values import ControllerState, JobError, Missed


class ControllerStatus(msgspec.Struct, frozen=True):
    """One controller. Times are RFC 3339; ``state`` is ok, error, unreachable, unauthorized or never polled.

    ``asked``: the daemon's requests in the last hour; None if no daemon answers.
    """

    name: str
    url: str
    state: str
    since: str | None
    polled_at: str | None
    jobs: int | None
    open_builds: int
    missed_builds: int
    last_error: str | None
    asked: Asked | None = None


class MissedStatus(msgspec.Struct, frozen=True):
    """Builds of a job that were discarded or deleted before the agent read them; ``noted_at`` is RFC 3339."""

    controller: str
    job: str
    builds: int
    newest_number: int
    noted_at: str


class JobErrorStatus(msgspec.Struct, frozen=True):
    """A job that cannot be read, although its controller can; times are RFC 3339."""

    controller: str
    job: str
    error: str
    since: str
    next_try_at: str


def controller_statuses(
    controllers: Sequence[JenkinsSettings],
    states: Sequence[ControllerState],
    open_builds: Mapping[str, int],
    missed: Sequence[Missed],
    asked: Sequence[Asked],
) -> list[ControllerStatus]:
    """The controllers of the configuration, with what the outbox and the daemon know of them."""
    by_name, told = {each.name: each for each in states}, {each.controller: each for each in asked}
    builds = {each.name: sum(job.builds for job in missed if job.controller == each.name) for each in controllers}
    return [
        _controller(each, by_name.get(each.name), open_builds.get(each.name, 0), builds[each.name], told.get(each.name))
        for each in controllers
    ]


def _controller(
    settings: JenkinsSettings, state: ControllerState | None, open_builds: int, missed_builds: int, asked: Asked | None
) -> ControllerStatus:
    return ControllerStatus(
        name=settings.name,
        url=settings.url,
        state=state.state if state else "never polled",
        since=rfc3339(state.since) if state else None,
        polled_at=rfc3339(state.polled_at) if state and state.polled_at is not None else None,
        jobs=state.jobs if state else None,
        open_builds=open_builds,
        missed_builds=missed_builds,
        last_error=state.last_error if state else None,
        asked=asked,
    )


def missed_status(missed: Missed) -> MissedStatus:
    """Missed builds of a job, for people."""
    return MissedStatus(
        missed.controller, missed.full_name, missed.builds, missed.newest_number, rfc3339(missed.noted_at)
    )


def job_error_status(controller: str, error: JobError) -> JobErrorStatus:
    """A job that cannot be read, for people."""
    return JobErrorStatus(controller, error.full_name, error.error, rfc3339(error.since), rfc3339(error.next_try_at))
