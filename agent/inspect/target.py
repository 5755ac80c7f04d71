"""The build that ``explain`` gets: the address of one of its pages, or ``CONTROLLER:JOB#NUMBER``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from agent.config.settings import NO_CONTROLLER, controllers_at
from agent.model.ids import run_id
from agent.model.keys import jenkins_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.config.settings import JenkinsSettings

PERMALINKS = (
    *("lastBuild", "lastCompletedBuild", "lastSuccessfulBuild", "lastStableBuild"),
    *("lastUnsuccessfulBuild", "lastFailedBuild", "lastUnstableBuild"),
)
_NUMBER = re.compile(r"[0-9]{1,10}")


class TargetError(Exception):
    """The text is not a build of a configured controller. The message says what to give instead."""


@dataclass(frozen=True)
class Target:
    """A build of a controller.

    ``jobs``: possible full names of the job, the most likely one first. Blue Ocean's addresses do not show whether the
    job is a branch job. ``build``: the number, or one of :data:`PERMALINKS`.
    """

    controller: JenkinsSettings
    jobs: tuple[str, ...]
    build: int | str


def target_of_name(controllers: Sequence[JenkinsSettings], name: str) -> Target | None:
    """The build of ``CONTROLLER:JOB#NUMBER``; None for other texts."""
    head, _, number = name.rpartition("#")
    if not _NUMBER.fullmatch(number):
        return None
    for controller in controllers:
        job = head.removeprefix(f"{controller.name}:")
        if (
            job
            and {".", ".."}.isdisjoint(job.split("/"))
            and run_id(jenkins_run(controller.name, job, int(number))) == name
        ):
            return Target(controller, (job,), int(number))
    return None


def target_of_url(controllers: Sequence[JenkinsSettings], url: str) -> Target:
    """The build of a page in Jenkins or Blue Ocean, such as ``…/job/shop/12/console``. Raises :class:`TargetError`."""
    controller = _controller(controllers, url)
    own, path = urlsplit(controller.url).path, urlsplit(url).path
    path = path[len(own) :] if path.startswith(own) else path
    segments = [segment for segment in path.split("/") if segment]
    begin = next((index for index, each in enumerate(segments) if each in ("job", "view", "blue")), len(segments))
    found = _of_blue_ocean(segments[begin:]) or _of_classic(segments[begin:])
    if found is None or any(not {".", ".."}.isdisjoint(job.split("/")) for job in found[0]):
        raise TargetError(
            f"{url!r} is not the address of a build. Give the address of a page of the build, such as "
            f"{controller.url}job/NAME/NUMBER/, or {controller.name}:NAME#NUMBER, or a deployment_id in the outbox"
        )
    jobs, build = found
    if build is None:
        raise TargetError(
            f"{url!r} is the address of job {jobs[0]}, not of a build; append the build number, or lastBuild"
        )
    return Target(controller, jobs, build)


def _controller(controllers: Sequence[JenkinsSettings], url: str) -> JenkinsSettings:
    """The controller at this address. Raises :class:`TargetError`."""
    try:
        found = controllers_at(controllers, url)
    except ValueError as error:
        raise TargetError(f"{url!r} is not a URL: {error}") from None
    if len(found) == 1:
        return found[0]
    if not controllers:
        raise TargetError(NO_CONTROLLER)
    known = ", ".join(f"{each.name} ({each.url})" for each in controllers)
    raise TargetError(
        f"{urlsplit(url).hostname or url!r} is not the host of a configured controller: {known}. If a controller has "
        f"another address in the browser, give CONTROLLER:JOB#NUMBER, for example {controllers[0].name}:deploy/shop#12"
    )


_Found = tuple[tuple[str, ...], int | str | None]


def _of_classic(rest: list[str]) -> _Found | None:
    """``[view/V]/job/A/job/B/12[/any page]``."""
    names = []
    while len(rest) > 1 and rest[0] in ("job", "view"):
        if rest[0] == "job":
            names.append(unquote(rest[1]))
        rest = rest[2:]
    if not names:
        return None
    build = _build(rest[0]) if rest else None
    return None if rest and build is None else (("/".join(names),), build)


def _of_blue_ocean(segments: list[str]) -> _Found | None:
    """``blue/organizations/jenkins/FULL%2FNAME/detail/BRANCH/12[/pipeline]``.

    For a job without branches, BRANCH is the last part of its name. For a branch job it is the branch, which Jenkins
    encodes in the name of the job.
    """
    match segments:
        case ["blue", "organizations", _, pipeline, "detail", branch, number, *_] if build := _build(number):
            full_name, last = unquote(pipeline), unquote(branch)
            branch_job = f"{full_name}/{quote(last, safe='') if '/' in last else last}"
            is_plain = full_name.rpartition("/")[2] == last
            return ((full_name, branch_job) if is_plain else (branch_job, full_name)), build
    return None


def _build(segment: str) -> int | str | None:
    if _NUMBER.fullmatch(segment):
        return int(segment)
    return segment if segment in PERMALINKS else None
