"""Asking one Jenkins controller: the few questions that the agent has, in typed answers and typed errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.model.names import build_of_url, job_path
from agent.model.times import parse_http_date
from agent.sources.jenkins.answers import Builds, Computers, Item, Items, Page, WhoAmI
from agent.sources.jenkins.errors import (
    BadAnswerError,
    ControllerDownError,
    ForbiddenError,
    JenkinsError,
    NotFoundError,
    PageError,
    StoppedError,
    UnauthorizedError,
    UnreachableError,
)
from agent.sources.jenkins.raw import BUILD_TREE, RawBuild
from agent.sources.jenkins.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config.settings import JenkinsSettings

# The client with its values and errors, for those who ask.
__all__ = [
    "About",
    "BadAnswerError",
    "ControllerDownError",
    "ForbiddenError",
    "JenkinsClient",
    "JenkinsError",
    "Job",
    "Listing",
    "NotFoundError",
    "PageError",
    "Snapshot",
    "StoppedError",
    "UnauthorizedError",
    "UnreachableError",
]

# So deep the tree of folders is asked for in one request; deeper folders cost a request each.
NESTING = 8
_ITEM_FIELDS = "_class,fullName,nextBuildNumber"
_EXECUTABLE = "currentExecutable[url,building]"
_RUNNING_TREE = f"computer[executors[{_EXECUTABLE}],oneOffExecutors[{_EXECUTABLE}]]"


@dataclass(frozen=True)
class Job:
    """A job that builds. ``next_build_number`` moves whenever a build is started."""

    full_name: str
    next_build_number: int
    branch_job: bool


@dataclass(frozen=True)
class Snapshot:
    """All jobs that the user may see, and what Jenkins' clock said (UTC ms; None without a Date header).

    ``problems``: folders that could not be read, in words; ``unread``: their full names. What jobs are in them is not
    known.
    """

    jobs: list[Job]
    server_time: int | None
    problems: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """Some builds of a job, newest first; ``pull_request_url`` of a branch job that is one (ObjectMetadataAction)."""

    builds: list[RawBuild]
    pull_request_url: str | None = None


@dataclass(frozen=True)
class About:
    """Who answers and how the agent is known there."""

    version: str | None
    user: str
    anonymous: bool


class JenkinsClient:
    """A controller, asked over connections that are kept alive. Methods may run in several threads.

    Every question raises :class:`JenkinsError`: what is wrong is wrong with this question, unless it is a
    :class:`ControllerDownError`. None takes longer than ``agent.sources.jenkins.transport`` says, once it is its turn
    (``concurrency``, ``requests_per_minute``), and :meth:`close` ends them all.
    """

    def __init__(self, settings: JenkinsSettings) -> None:
        self.url = settings.url
        self._transport = Transport(settings)
        self._last: tuple[bytes, list[Job]] | None = None
        self._branch_jobs: frozenset[str] = frozenset()

    def close(self) -> None:
        """Close the connections. Questions under way in other threads end at once, with :class:`StoppedError`."""
        self._transport.close()

    @property
    def requests(self) -> int:
        """How many questions were asked so far."""
        return self._transport.requests

    @property
    def progress(self) -> int:
        """Grows with every question, connection and byte that comes in: whoever waits sees whether it gets on."""
        return self._transport.progress

    def reload_token(self) -> bool:
        """Look whether the token's file holds another token now; True when it does."""
        return self._transport.reload_token()

    def about(self) -> About:
        """``/whoAmI/api/json``: the user as Jenkins knows it, and Jenkins' version."""
        answer = self._transport.get("whoAmI/api/json", "name,anonymous")
        who = answer.decode(WhoAmI)
        return About(answer.headers.get("X-Jenkins"), who.name, who.anonymous)

    def snapshot(self) -> Snapshot:
        """Every visible job with its ``nextBuildNumber``: one request, which loads no build on the controller.

        As long as the answer is the same, so is the list of jobs: the very same object.
        """
        answer = self._transport.get("api/json", _nested_tree(NESTING))
        server_time = parse_http_date(answer.headers.get("Date"))
        if self._last is not None and self._last[0] == answer.body:
            return Snapshot(self._last[1], server_time)
        walk = _Walk(self._transport)
        jobs = list(walk.jobs(answer.decode(Items).jobs))
        told_everything = not walk.asked  # deeper folders have answers of their own
        self._last = (answer.body, jobs) if told_everything else None
        self._branch_jobs = frozenset(job.full_name for job in jobs if job.branch_job)
        return Snapshot(jobs, server_time, tuple(walk.problems.values()), tuple(walk.problems))

    def is_branch_job(self, full_name: str) -> bool:
        """Whether the job is a branch of a multibranch project, by the last snapshot: no request is made."""
        return full_name in self._branch_jobs

    def other_branches(self, full_name: str) -> list[str]:
        """The other branch jobs of its multibranch project, by the last snapshot: no request is made."""
        project = full_name.rpartition("/")[0]
        return sorted(each for each in self._branch_jobs if each.rpartition("/")[0] == project and each != full_name)

    def builds(self, job: Job, first: int, last: int) -> Listing:
        """The builds at places ``first`` to ``last`` (not included) of the job, newest first.

        Within the newest 100 Jenkins loads what is asked for; beyond, it walks all builds of the job.
        """
        field = "builds" if last <= 100 else "allBuilds"
        tree = f"{field}[{BUILD_TREE}]{{{first},{last}}}"
        if job.branch_job:
            tree += ",actions[objectUrl]"
        answer = self._transport.get(f"{job_path(job.full_name)}/api/json", tree)
        content = answer.decode(Builds)
        listed = content.builds if field == "builds" else content.all_builds
        if listed is None:
            raise PageError(f"{answer.page} has no {field}")
        return Listing(listed, content.pull_request_url)

    def build(self, job: str, number: int) -> RawBuild:
        """One build. Raises :class:`NotFoundError` when it is not there (any more, or yet)."""
        return self._transport.get(f"{job_path(job)}/{number}/api/json", BUILD_TREE).decode(RawBuild)

    def page(self, job: str, number: int, page: str) -> dict[str, Any]:
        """A page that a plugin adds to a build, such as ``wfapi/describe``; :class:`NotFoundError` without it."""
        return self._transport.get(f"{job_path(job)}/{number}/{page}", None).decode(Page)

    def running(self) -> set[tuple[str, int]]:
        """Job and number of every build that runs on an executor, in one request."""
        found = self._transport.get("computer/api/json", _RUNNING_TREE).decode(Computers).executables()
        builds = (build_of_url(each.url) for each in found if each.running and each.url)
        return {build for build in builds if build is not None}


class _Walk:
    """Finds the jobs in the tree of folders; ``problems`` by the folders that could not be read."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.asked: set[str] = set()
        self.problems: dict[str, str] = {}

    def jobs(self, items: list[Item], *, depth: int = 1, in_multibranch: bool = False) -> Iterator[Job]:
        for item in items:
            if item.next_build_number is not None:
                yield Job(item.full_name, item.next_build_number, in_multibranch)
            children, depth_below = item.jobs, depth + 1
            if children is None and item.next_build_number is None and depth == NESTING:
                children, depth_below = self._below(item.full_name), 1
            if children:
                multibranch = "MultiBranch" in item.cls
                yield from self.jobs(children, depth=depth_below, in_multibranch=multibranch)

    def _below(self, folder: str) -> list[Item]:
        """What is in a folder below the nested question; nothing, and a problem, if just this one cannot be read."""
        if folder in self.asked:
            self.problems[folder] = f"folder {folder}: it is listed within itself"
            return []
        self.asked.add(folder)
        try:
            answer = self._transport.get(f"{job_path(folder)}/api/json", _nested_tree(NESTING))
            return answer.decode(Items).jobs
        except ControllerDownError:
            raise
        except (NotFoundError, ForbiddenError, PageError, UnreachableError) as error:
            self.problems[folder] = f"folder {folder}: {error}"
            return []


def _nested_tree(levels: int) -> str:
    tree = f"jobs[{_ITEM_FIELDS}]"
    for _ in range(levels - 1):
        tree = f"jobs[{_ITEM_FIELDS},{tree}]"
    return tree
