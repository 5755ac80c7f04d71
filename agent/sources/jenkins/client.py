"""Asking one Jenkins controller: the few questions that the agent has, in typed answers and typed errors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.model.names import build_of_url, job_path
from agent.model.times import Clock, parse_http_date
from agent.sources.jenkins.answers import LARGE, Builds, Computers, Item, Items, Page, WhoAmI
from agent.sources.jenkins.errors import (
    AskedToWaitError,
    BadAnswerError,
    ControllerDownError,
    ForbiddenError,
    JenkinsError,
    NotFoundError,
    PageError,
    StoppedError,
    TooLargeError,
    UnauthorizedError,
    UnreachableError,
)
from agent.sources.jenkins.raw import BUILD_TREE, RawBuild, shorten
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
    "TooLargeError",
    "UnauthorizedError",
    "UnreachableError",
]

# So deep the tree of folders is asked for in one request; deeper folders cost a request each.
NESTING = 8
# Answers of this size, in bytes, may wait in memory until it is their turn.
AHEAD_LIMIT = LARGE
# Characters. A folder's name ends where a file's does, and hardly anybody nests more than a few.
LONGEST_NAME = 2_000
# What the list of jobs may take of memory, in bytes, and each job of it besides its name.
_ROOM_FOR_JOBS = 64 * 1024 * 1024
_JOB_BYTES = 200
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
    """Some builds of a job, newest first; ``pull_request_url`` of a branch job that is one (ObjectMetadataAction).

    ``too_large``: so many others were at these places, of which Jenkins tells more than is read.
    """

    builds: list[RawBuild]
    pull_request_url: str | None = None
    too_large: int = 0

    @property
    def places(self) -> int:
        """How many builds there were."""
        return len(self.builds) + self.too_large


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
        self._last: tuple[dict[str, bytes], list[Job]] | None = None
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
        seconds = sum(answer.seconds for answer in answers)
        told = {answer.page: hashlib.blake2b(answer.body).digest() for answer in answers}
        if self._last is not None and self._last[0] == told:
            jobs = self._last[1]
        else:
            jobs = []
            while answers:  # none of them stays in memory longer than it is needed
                jobs += walk.jobs_of(answers.pop(0))
            self._last = (told, jobs) if walk.told_everything else None
            self._branch_jobs = frozenset(job.full_name for job in jobs if job.branch_job)
        return Snapshot(
            jobs,
            max(times, default=None),  # what ended before the last of them counts as listed
            tuple(walk.problems.values()),
            tuple(walk.problems),
            self._roots,
            seconds,
        )

    def is_branch_job(self, full_name: str) -> bool:
        """Whether the job is a branch of a multibranch project, by the last snapshot: no request is made."""
        return full_name in self._branch_jobs

    def other_branches(self, full_name: str) -> list[str]:
        """The other branch jobs of its multibranch project, by the last snapshot: no request is made."""
        project = full_name.rpartition("/")[0]
        return sorted(each for each in self._branch_jobs if each.rpartition("/")[0] == project and each != full_name)

    def builds(self, job: Job, first: int, last: int, *, ahead: bool = False) -> Listing:
        """The builds at places ``first`` to ``last`` (not included) of the job, newest first.

        Within the newest 100 Jenkins loads what is asked for; beyond, it walks all builds of the job. What is too large
        for one answer is asked for in several. ``ahead``: it is not, and :class:`TooLargeError` is raised, also for an
        answer that should not wait in memory.
        """
        try:
            return self._builds(job, first, last, AHEAD_LIMIT if ahead else None)
        except TooLargeError:
            if ahead:
                raise
        if last - first <= 1:
            return Listing([], too_large=1)
        middle = (first + last) // 2
        newer, older = self.builds(job, first, middle), self.builds(job, middle, last)
        numbers = {raw.number for raw in newer.builds}  # one that was started in between moves the others by a place
        builds = [*newer.builds, *(raw for raw in older.builds if raw.number not in numbers)]
        return Listing(builds, newer.pull_request_url or older.pull_request_url, newer.too_large + older.too_large)

    def _builds(self, job: Job, first: int, last: int, most: int | None) -> Listing:
        field = "builds" if last <= 100 else "allBuilds"
        tree = f"{field}[{BUILD_TREE}]{{{first},{last}}}"
        if job.branch_job:
            tree += ",actions[objectUrl]"
        answer = self._transport.get(f"{job_path(job.full_name)}/api/json", tree, Kind.BUILDS, most=most)
        content = answer.decode(Builds)
        listed = content.builds if field == "builds" else content.all_builds
        if listed is None:
            raise PageError(f"{answer.page} has no {field}")
        once_each = {build.number: build for build in reversed(listed)}  # of two with one number the first
        return Listing(_kept(list(reversed(once_each.values())), answer), content.pull_request_url)

    def build(self, job: str, number: int, *, ahead: bool = False) -> RawBuild:
        """One build. Raises :class:`NotFoundError` when it is not there (any more, or yet).

        ``ahead``: :class:`TooLargeError` also for an answer that should not wait in memory.
        """
        path, most = f"{job_path(job)}/{number}/api/json", AHEAD_LIMIT if ahead else None
        answer = self._transport.get(path, BUILD_TREE, Kind.BUILD, most=most)
        [build] = _kept([answer.decode(RawBuild)], answer)
        return build

    def page(self, job: str, number: int, page: str) -> dict[str, Any]:
        """A page that a plugin adds to a build, such as ``wfapi/describe``; :class:`NotFoundError` without it."""
        return self._transport.get(f"{job_path(job)}/{number}/{page}", None, Kind.STAGES).decode(Page)

    def running(self) -> set[tuple[str, int]]:
        """Job and number of every build that runs on an executor, in one request."""
        found = self._transport.get("computer/api/json", _RUNNING_TREE, Kind.COMPUTER).decode(Computers).executables()
        builds = (build_of_url(each.url) for each in found if each.running and each.url)
        return {build for build in builds if build is not None}


def _kept(builds: list[RawBuild], answer: Answer) -> list[RawBuild]:
    """The builds of a large answer without what makes it large."""
    return builds if len(answer.body) <= LARGE else [shorten(build) for build in builds]


class _Walk:
    """Finds the jobs in the tree of folders; ``problems`` by the folders that could not be read."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._room = _ROOM_FOR_JOBS
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
            if len(item.full_name) > LONGEST_NAME:
                name = f"{item.full_name[:60]}…"
                self.problems[name] = f"{name}: its name has {len(item.full_name)} characters, more than {LONGEST_NAME}"
                continue
            if item.next_build_number is not None:
                yield from self._job(item, in_multibranch=in_multibranch)
            children, depth_below = item.jobs, depth + 1
            if children is None and item.next_build_number is None and depth == NESTING:
                children, depth_below = self._below(item.full_name), 1
            if children:
                yield from self._jobs(children, depth=depth_below, in_multibranch=_is_multibranch(item))

    def _job(self, item: Item, *, in_multibranch: bool) -> Iterator[Job]:
        self._take_room(item.full_name)
        try:
            yield Job(item.full_name, item.number, in_multibranch)
        except PageError as error:
            self.problems[item.full_name] = f"job {item.full_name}: {error}"

    def _take_room(self, name: str) -> None:
        self._room -= _JOB_BYTES + len(name)
        if self._room < 0:
            raise BadAnswerError("it has more jobs than there is memory for; name folders in [[jenkins]] roots")

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
