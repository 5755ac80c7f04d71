"""Asking one Jenkins controller: the few questions that the agent has, in typed answers and typed errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.model.names import build_of_url, job_path
from agent.model.times import Clock, parse_http_date
from agent.sources.jenkins.answers import Builds, Computers, Item, Items, Page, WhoAmI
from agent.sources.jenkins.errors import (
    AskedToWaitError,
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
from agent.sources.jenkins.traffic import Kind, Traffic
from agent.sources.jenkins.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agent.config.settings import JenkinsSettings
    from agent.sources.jenkins.answers import Answer

# The client with its values and errors, for those who ask.
__all__ = [
    "About",
    "AskedToWaitError",
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
# What may be wrong with one folder while the others are fine.
_OF_ONE_FOLDER = (NotFoundError, ForbiddenError, PageError, UnreachableError)
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
    known. ``roots``: only what is in these folders was asked for; none: everything. ``seconds``: how long it took.
    """

    jobs: list[Job]
    server_time: int | None
    problems: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    seconds: float = 0.0

    def would_list(self, full_name: str) -> bool:
        """Whether a job of this name would be among the jobs if it were there."""
        asked = not self.roots or _is_in(full_name, self.roots)
        return asked and not _is_in(full_name, self.unread)


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

    def __init__(self, settings: JenkinsSettings, clock: Clock | None = None) -> None:
        """Raises :class:`agent.config.file.ConfigError` when the environment names a proxy that cannot be used."""
        self.url = settings.url
        self._roots = settings.outermost_roots
        self._transport = Transport(settings, clock or Clock())
        self._last: tuple[list[bytes], list[Job]] | None = None
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

    @property
    def traffic(self) -> Traffic:
        """What was asked so far."""
        return self._transport.traffic

    def reload_token(self) -> bool:
        """Look whether the token's file holds another token now; True when it does."""
        return self._transport.reload_token()

    def about(self) -> About:
        """``/whoAmI/api/json``: the user as Jenkins knows it, and Jenkins' version."""
        answer = self._transport.get("whoAmI/api/json", "name,anonymous", Kind.WHOAMI)
        who = answer.decode(WhoAmI)
        return About(answer.headers.get("X-Jenkins"), who.name, who.anonymous)

    def snapshot(self) -> Snapshot:
        """Every visible job with its ``nextBuildNumber``: one request, or one for each root; none loads a build.

        As long as the answers are the same, so is the list of jobs: the very same object. Roots that cannot be read are
        problems; that none of them can be is raised.
        """
        walk = _Walk(self._transport)
        answers = list(walk.roots(self._roots)) if self._roots else [walk.ask("")]
        times = [time for answer in answers if (time := parse_http_date(answer.headers.get("Date"))) is not None]
        bodies = [answer.body for answer in answers]
        if self._last is not None and self._last[0] == bodies:
            jobs = self._last[1]
        else:
            jobs = [job for answer in answers for job in walk.jobs_of(answer)]
            self._last = (bodies, jobs) if walk.told_everything else None
            self._branch_jobs = frozenset(job.full_name for job in jobs if job.branch_job)
        return Snapshot(
            jobs,
            max(times, default=None),  # what ended before the last of them counts as listed
            tuple(walk.problems.values()),
            tuple(walk.problems),
            self._roots,
            sum(answer.seconds for answer in answers),
        )

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
        answer = self._transport.get(f"{job_path(job.full_name)}/api/json", tree, Kind.BUILDS)
        content = answer.decode(Builds)
        listed = content.builds if field == "builds" else content.all_builds
        if listed is None:
            raise PageError(f"{answer.page} has no {field}")
        once_each = {build.number: build for build in reversed(listed)}  # of two with one number the first
        return Listing(list(reversed(once_each.values())), content.pull_request_url)

    def build(self, job: str, number: int) -> RawBuild:
        """One build. Raises :class:`NotFoundError` when it is not there (any more, or yet)."""
        return self._transport.get(f"{job_path(job)}/{number}/api/json", BUILD_TREE, Kind.BUILD).decode(RawBuild)

    def page(self, job: str, number: int, page: str) -> dict[str, Any]:
        """A page that a plugin adds to a build, such as ``wfapi/describe``; :class:`NotFoundError` without it."""
        return self._transport.get(f"{job_path(job)}/{number}/{page}", None, Kind.STAGES).decode(Page)

    def running(self) -> set[tuple[str, int]]:
        """Job and number of every build that runs on an executor, in one request."""
        found = self._transport.get("computer/api/json", _RUNNING_TREE, Kind.COMPUTER).decode(Computers).executables()
        builds = (build_of_url(each.url) for each in found if each.running and each.url)
        return {build for build in builds if build is not None}


class _Walk:
    """Finds the jobs in the tree of folders; ``problems`` by the folders that could not be read."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._below_nesting: set[str] = set()
        self.problems: dict[str, str] = {}

    @property
    def told_everything(self) -> bool:
        """Whether the answers for the roots hold all jobs: deeper folders have answers of their own."""
        return not self._below_nesting and not self.problems

    def ask(self, folder: str) -> Answer:
        """What is in a folder; ``""`` is the controller itself."""
        path = f"{job_path(folder)}/api/json" if folder else "api/json"
        return self._transport.get(path, _nested_tree(NESTING), Kind.JOBS)

    def roots(self, folders: Sequence[str]) -> Iterator[Answer]:
        """Of each root that can be read. Raises :class:`JenkinsError` when none of them can."""
        errors: list[JenkinsError] = []
        for folder in folders:
            try:
                answer = self.ask(folder)
                if answer.decode(Items).jobs is None:
                    raise PageError("it is a job, not a folder; name the folder that it is in in [[jenkins]] roots")
            except ControllerDownError:
                raise
            except _OF_ONE_FOLDER as error:
                self.problems[folder] = f"root {folder}: {error}"
                errors.append(error)
            else:
                yield answer
        if len(errors) == len(folders):
            raise _about_all(errors, self.problems.values())

    def jobs_of(self, answer: Answer) -> Iterator[Job]:
        """All jobs in a folder that was asked for."""
        folder = answer.decode(Items)
        yield from self._jobs(folder.jobs or [], in_multibranch=_is_multibranch(folder))

    def _jobs(self, items: list[Item], *, depth: int = 1, in_multibranch: bool = False) -> Iterator[Job]:
        for item in items:
            if item.next_build_number is not None:
                yield from self._job(item, in_multibranch=in_multibranch)
            children, depth_below = item.jobs, depth + 1
            if children is None and item.next_build_number is None and depth == NESTING:
                children, depth_below = self._below(item.full_name), 1
            if children:
                yield from self._jobs(children, depth=depth_below, in_multibranch=_is_multibranch(item))

    def _job(self, item: Item, *, in_multibranch: bool) -> Iterator[Job]:
        try:
            yield Job(item.full_name, item.number, in_multibranch)
        except PageError as error:
            self.problems[item.full_name] = f"job {item.full_name}: {error}"

    def _below(self, folder: str) -> list[Item]:
        """What is in a folder below the nested question; nothing, and a problem, if just this one cannot be read."""
        if folder in self._below_nesting:
            self.problems[folder] = f"folder {folder}: it is listed within itself"
            return []
        self._below_nesting.add(folder)
        try:
            return self.ask(folder).decode(Items).jobs or []
        except ControllerDownError:
            raise
        except _OF_ONE_FOLDER as error:
            self.problems[folder] = f"folder {folder}: {error}"
            return []


def _is_multibranch(folder: Item | Items) -> bool:
    return "MultiBranch" in folder.cls


def _is_in(full_name: str, folders: Iterable[str]) -> bool:
    """Whether the job is in one of them, or one of them itself."""
    return any(full_name == folder or full_name.startswith(f"{folder}/") for folder in folders)


def _about_all(errors: Sequence[JenkinsError], problems: Iterable[str]) -> JenkinsError:
    """None of the roots can be read: an error of the kind of the first one."""
    words, first = "; ".join(problems), errors[0]
    if isinstance(first, UnreachableError):
        return UnreachableError(words, retry_after_ms=first.retry_after_ms)
    return type(first)(words)


def _nested_tree(levels: int) -> str:
    tree = f"jobs[{_ITEM_FIELDS}]"
    for _ in range(levels - 1):
        tree = f"jobs[{_ITEM_FIELDS},{tree}]"
    return tree
