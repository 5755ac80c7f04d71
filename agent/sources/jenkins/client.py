"""The client for one Jenkins controller: the agent's few requests, with typed answers and errors."""

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

# The client with its values and errors, for importers.
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

# Levels of folders in one request; deeper folders cost one request each.
NESTING = 8
# Answers to requests made ahead may wait in memory up to this size, in bytes.
AHEAD_LIMIT = LARGE
# Characters. The file system limits a folder's name, and deep nesting is rare.
LONGEST_NAME = 2_000
# Memory for the list of jobs, and for each job beside its name, in bytes.
_ROOM_FOR_JOBS = 64 * 1024 * 1024
_JOB_BYTES = 200
# Errors that may concern one folder while the others are readable.
_OF_ONE_FOLDER = (NotFoundError, ForbiddenError, PageError, UnreachableError)
_ITEM_FIELDS = "_class,fullName,nextBuildNumber"
_EXECUTABLE = "currentExecutable[url,building]"
_RUNNING_TREE = f"computer[executors[{_EXECUTABLE}],oneOffExecutors[{_EXECUTABLE}]]"


@dataclass(frozen=True)
class Job:
    """A job with builds. ``next_build_number`` grows whenever a build is started."""

    full_name: str
    next_build_number: int
    branch_job: bool


@dataclass(frozen=True)
class Snapshot:
    """All jobs that the user may see, and Jenkins' clock (UTC ms; None without a Date header).

    ``problems``: folders that could not be read, as messages; ``unread``: their full names. Their jobs are unknown.
    ``roots``: the only folders that were requested; empty: everything. ``seconds``: how long it took.
    """

    jobs: list[Job]
    server_time: int | None
    problems: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    seconds: float = 0.0

    def would_list(self, full_name: str) -> bool:
        """Whether a job with this name would be listed if it existed."""
        asked = not self.roots or _is_in(full_name, self.roots)
        return asked and not _is_in(full_name, self.unread)


@dataclass(frozen=True)
class Listing:
    """Some builds of a job, newest first.

    ``pull_request_url``: for the branch job of a pull request (ObjectMetadataAction). ``too_large``: how many other
    builds in this range were skipped because Jenkins sends too much data about them.
    """

    builds: list[RawBuild]
    pull_request_url: str | None = None
    too_large: int = 0

    @property
    def places(self) -> int:
        """The number of builds in the range."""
        return len(self.builds) + self.too_large


@dataclass(frozen=True)
class About:
    """Jenkins' version, and the user as which it knows the agent."""

    version: str | None
    user: str
    anonymous: bool


class JenkinsClient:
    """One controller with keep-alive connections. Methods may run in several threads.

    Every request raises :class:`JenkinsError`. The error concerns this request only, unless it is a
    :class:`ControllerDownError`. No request takes longer than ``agent.sources.jenkins.transport`` allows once it has
    started (see ``concurrency``, ``requests_per_minute``). :meth:`close` ends them all.
    """

    def __init__(self, settings: JenkinsSettings, clock: Clock | None = None) -> None:
        """Raises :class:`agent.config.file.ConfigError` if the environment names a proxy that cannot be used."""
        self.url = settings.url
        self._roots = settings.outermost_roots
        self._transport = Transport(settings, clock or Clock())
        self._last: tuple[dict[str, bytes], list[Job]] | None = None
        self._branch_jobs: frozenset[str] = frozenset()

    def close(self) -> None:
        """Close the connections. Requests in other threads end at once with :class:`StoppedError`."""
        self._transport.close()

    @property
    def requests(self) -> int:
        """The number of requests so far."""
        return self._transport.requests

    @property
    def progress(self) -> int:
        """A number that grows with every request, connection and received byte; the watchdog uses it."""
        return self._transport.progress

    @property
    def traffic(self) -> Traffic:
        """Statistics of all requests."""
        return self._transport.traffic

    def reload_token(self) -> bool:
        """Read the token file again; True if the token has changed."""
        return self._transport.reload_token()

    def about(self) -> About:
        """``/whoAmI/api/json``: the user as Jenkins knows it, and Jenkins' version."""
        answer = self._transport.get("whoAmI/api/json", "name,anonymous", Kind.WHOAMI)
        who = answer.decode(WhoAmI)
        return About(answer.headers.get("X-Jenkins"), who.name, who.anonymous)

    def snapshot(self) -> Snapshot:
        """Every visible job with its ``nextBuildNumber``: one request, or one for each root. No request loads a build.

        While the answers do not change, the same list object is returned. Roots that cannot be read are problems; if no
        root can be read, the error is raised.
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
            while answers:  # drop each answer as soon as it is processed
                jobs += walk.jobs_of(answers.pop(0))
            self._last = (told, jobs) if walk.told_everything else None
            self._branch_jobs = frozenset(job.full_name for job in jobs if job.branch_job)
        return Snapshot(
            jobs,
            max(times, default=None),  # a build that ended before the latest of these times counts as listed
            tuple(walk.problems.values()),
            tuple(walk.problems),
            self._roots,
            seconds,
        )

    def is_branch_job(self, full_name: str) -> bool:
        """Whether the job is a branch of a multibranch project, according to the last snapshot. Makes no request."""
        return full_name in self._branch_jobs

    def other_branches(self, full_name: str) -> list[str]:
        """The other branch jobs of its multibranch project, according to the last snapshot. Makes no request."""
        project = full_name.rpartition("/")[0]
        return sorted(each for each in self._branch_jobs if each.rpartition("/")[0] == project and each != full_name)

    def builds(self, job: Job, first: int, last: int, *, ahead: bool = False) -> Listing:
        """The builds at positions ``first`` to ``last`` (exclusive) of the job, newest first.

        Within the newest 100, Jenkins loads only the requested builds; beyond, it walks all builds of the job. A range
        that is too large for one answer is split. With ``ahead`` it is not split but raises :class:`TooLargeError`,
        also for an answer that is too large to wait in memory.
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
        # a build that started in between shifts the others by one position
        numbers = {raw.number for raw in newer.builds}
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
        once_each = {build.number: build for build in reversed(listed)}  # of two with the same number keep the first
        return Listing(_kept(list(reversed(once_each.values())), answer), content.pull_request_url)

    def build(self, job: str, number: int | str, *, ahead: bool = False) -> RawBuild:
        """One build, by number or permalink (``lastBuild``). Raises :class:`NotFoundError` if it does not exist.

        ``ahead``: raises :class:`TooLargeError` also for an answer that is too large to wait in memory.
        """
        path, most = f"{job_path(job)}/{number}/api/json", AHEAD_LIMIT if ahead else None
        answer = self._transport.get(path, BUILD_TREE, Kind.BUILD, most=most)
        [build] = _kept([answer.decode(RawBuild)], answer)
        return build

    def page(self, job: str, number: int, page: str) -> dict[str, Any]:
        """A page that a plugin adds to a build, such as ``wfapi/describe``; :class:`NotFoundError` if it is missing."""
        return self._transport.get(f"{job_path(job)}/{number}/{page}", None, Kind.STAGES).decode(Page)

    def running(self) -> set[tuple[str, int]]:
        """Job and number of every build on an executor, in one request."""
        found = self._transport.get("computer/api/json", _RUNNING_TREE, Kind.COMPUTER).decode(Computers).executables()
        builds = (build_of_url(each.url) for each in found if each.running and each.url)
        return {build for build in builds if build is not None}


def _kept(builds: list[RawBuild], answer: Answer) -> list[RawBuild]:
    """The builds of a large answer, reduced to what is kept."""
    return builds if len(answer.body) <= LARGE else [shorten(build) for build in builds]


class _Walk:
    """Collects the jobs in the tree of folders. ``problems``: by folder that could not be read."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._room = _ROOM_FOR_JOBS
        self._below_nesting: set[str] = set()
        self.problems: dict[str, str] = {}

    @property
    def told_everything(self) -> bool:
        """Whether the answers for the roots contain all jobs, without requests for deeper folders."""
        return not self._below_nesting and not self.problems

    def ask(self, folder: str) -> Answer:
        """The content of a folder; ``""`` is the controller itself."""
        path = f"{job_path(folder)}/api/json" if folder else "api/json"
        return self._transport.get(path, _nested_tree(NESTING), Kind.JOBS)

    def roots(self, folders: Sequence[str]) -> Iterator[Answer]:
        """The answer for each readable root. Raises :class:`JenkinsError` if none is readable."""
        errors: list[JenkinsError] = []
        for folder in folders:
            try:
                answer = self.ask(folder)
                if answer.decode(Items).jobs is None:
                    raise PageError("it is a job, not a folder; set [[jenkins]] roots to the folder that contains it")
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
        """All jobs in a requested folder."""
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
            raise BadAnswerError(
                "it has more jobs than fit in the memory limit; list only some folders in [[jenkins]] roots"
            )

    def _below(self, folder: str) -> list[Item]:
        """The content of a folder below the requested levels; empty, with a problem, if this folder cannot be read."""
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
    """Whether the job is in one of the folders or is one of them."""
    return any(full_name == folder or full_name.startswith(f"{folder}/") for folder in folders)


def _about_all(errors: Sequence[JenkinsError], problems: Iterable[str]) -> JenkinsError:
    """No root can be read: an error of the same class as the first one."""
    words, first = "; ".join(problems), errors[0]
    if isinstance(first, UnreachableError):
        return UnreachableError(words, retry_after_ms=first.retry_after_ms)
    return type(first)(words)


def _nested_tree(levels: int) -> str:
    tree = f"jobs[{_ITEM_FIELDS}]"
    for _ in range(levels - 1):
        tree = f"jobs[{_ITEM_FIELDS},{tree}]"
    return tree
