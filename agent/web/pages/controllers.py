"""``/controllers``: how each Jenkins is polled, what was missed, and what the polls cost it.

``?controller=NAME`` shows the jobs and builds of one controller. With a single controller the page always does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog
from starlette.responses import RedirectResponse

from agent.inspect.controllers import (
    ControllerStatus,
    JobErrorStatus,
    MissedStatus,
    controller_statuses,
    job_error_status,
    missed_status,
)
from agent.inspect.silent import SilentJob  # noqa: TC001 - a field of a struct
from agent.model.times import rfc3339
from agent.outbox.engines import is_shared
from agent.web.access import Role
from agent.web.forms import read_form
from agent.web.page import Action, Page, RefusedError
from agent.web.rendering import Shown, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.responses import Response

    from agent.config.settings import JenkinsSettings, Settings
    from agent.inspect.asked import Asked
    from agent.outbox.interface import Outbox
    from agent.outbox.values import Missed
    from agent.web.page import Visit

log = structlog.get_logger("web")

# Entries of one list; the page itself shows the first few of them.
MOST_LISTED = 1_000
_COLUMNS = ("controller", "state", "since", "polled_at", "jobs", "open_builds", "missed_builds", "last_error",
            "interval_ms", "requests_last_hour")  # fmt: skip


class FollowedBuild(msgspec.Struct, frozen=True):
    """A build that is not final yet. ``seen`` False: Jenkins assigned the number and does not show the build."""

    job: str
    number: int
    seen: bool
    started_at: str | None
    waiting_since: str | None


class JobWithoutRule(msgspec.Struct, frozen=True):
    """A job that matches no rule, and the first build number that was not read for that reason."""

    job: str
    since_build: int


class JobCounts(msgspec.Struct, frozen=True):
    """The number of entries of each list, before it was cut."""

    followed: int
    missed: int
    unreadable: int
    without_rule: int
    silent: int


class Jobs(msgspec.Struct, frozen=True):
    """The jobs and builds of one controller that may need attention, at most 1,000 of each kind."""

    counts: JobCounts
    followed: list[FollowedBuild]
    missed: list[MissedStatus]
    unreadable: list[JobErrorStatus]
    without_rule: list[JobWithoutRule]
    silent: list[SilentJob]


class Controllers(msgspec.Struct, frozen=True):
    """``/controllers.json``. ``selected``: the controller that ``jobs`` belongs to; None if none was selected."""

    controllers: list[ControllerStatus]
    selected: str | None
    jobs: Jobs | None


async def show(visit: Visit) -> Shown:
    """States and counts for everybody; names of jobs and errors for those who may view."""
    backend = visit.backend
    settings, asked, silent = backend.settings, backend.asked(), backend.silent_jobs()
    may_view = visit.visitor.role >= Role.VIEW
    selected = _selected(settings, visit.request.query_params.get("controller")) if may_view else None
    view = await backend.read(lambda outbox: _controllers(outbox, settings, asked, silent, selected))
    if not may_view:
        hidden = [msgspec.structs.replace(each, last_error=None) for each in view.controllers]
        view = msgspec.structs.replace(view, controllers=hidden)
    rows = [
        (c.name, c.state, c.since, c.polled_at, c.jobs, c.open_builds, c.missed_builds, c.last_error,
         c.asked and c.asked.interval_ms, c.asked and c.asked.requests)
        for c in view.controllers
    ]  # fmt: skip
    return Shown("controllers.html", "Controllers", view, Table(_COLUMNS, rows), {"shared": is_shared(settings)})


async def poll(visit: Visit) -> Response:
    """Poll a controller now, or when its current poll is over."""
    name = (await read_form(visit.request)).get("controller", "")
    controller = _configured(visit.backend.settings, name)
    visit.backend.wake(controller.name)
    log.info("poll requested", controller=controller.name, by=visit.visitor.name)
    return RedirectResponse(visit.renderer.url("/controllers", controller=controller.name), 303)


def _selected(settings: Settings, name: str | None) -> JenkinsSettings | None:
    if name:
        return _configured(settings, name)
    return settings.controllers[0] if len(settings.controllers) == 1 else None


def _configured(settings: Settings, name: str) -> JenkinsSettings:
    found = next((each for each in settings.controllers if each.name == name), None)
    if found is None:
        raise RefusedError(404, f"controller {name!r} is not in the configuration")
    return found


def _controllers(
    outbox: Outbox,
    settings: Settings,
    asked: Sequence[Asked],
    silent: Sequence[SilentJob],
    selected: JenkinsSettings | None,
) -> Controllers:
    states, missed = outbox.controllers(), outbox.missed()
    jobs = None if selected is None else _jobs(outbox, selected.name, missed, silent)
    if selected is None or jobs is None:
        opened = outbox.open_build_counts()
    else:
        others = outbox.open_build_counts() if len(settings.controllers) > 1 else {}
        opened = {**others, selected.name: jobs.counts.followed}
    return Controllers(
        controllers=controller_statuses(settings.controllers, states, opened, missed, asked),
        selected=None if selected is None else selected.name,
        jobs=jobs,
    )


def _jobs(outbox: Outbox, name: str, missed: Sequence[Missed], silent: Sequence[SilentJob]) -> Jobs:
    followed = [
        FollowedBuild(job, each.number, each.seen, _moment(each.started_at), _moment(each.waiting_since))
        for job, builds in outbox.open_builds(name).items()
        for each in builds
    ]
    mine = [missed_status(each) for each in missed if each.controller == name]
    unreadable = [job_error_status(name, each) for each in outbox.job_errors(name).values()]
    without_rule = [
        JobWithoutRule(job, cursor.no_rule_since)
        for job, cursor in outbox.jobs(name).items()
        if cursor.no_rule_since is not None and not cursor.absent
    ]
    quiet = [each for each in silent if each.controller == name]
    counts = JobCounts(len(followed), len(mine), len(unreadable), len(without_rule), len(quiet))
    return Jobs(
        counts,
        followed[:MOST_LISTED],
        mine[:MOST_LISTED],
        unreadable[:MOST_LISTED],
        without_rule[:MOST_LISTED],
        quiet[:MOST_LISTED],
    )


def _moment(ms: int | None) -> str | None:
    return None if ms is None else rfc3339(ms)


PAGE = Page("/controllers", show, role=Role.NOBODY)
POLL = Action("/controllers/poll", poll)
