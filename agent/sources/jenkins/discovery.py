"""Decides which jobs to look at: those with new builds, and those with open builds that may be final."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import structlog

from agent.config.rules import first_match
from agent.model.endings import Ended, Ending, without
from agent.outbox.values import JobCursor, OpenBuild
from agent.sources.jenkins.backoff import Backoffs
from agent.sources.jenkins.errors import AskedToWaitError, ControllerDownError, JenkinsError, StoppedError
from agent.sources.jenkins.look import CLOCK_TOLERANCE_MS, GRACE_MS, Candidate, unread_cursor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from agent.config.rules import Rule
    from agent.model.times import Clock
    from agent.sources.jenkins.client import JenkinsClient, Job
    from agent.sources.jenkins.unread import Unread

log = structlog.get_logger("poller")

Executing = dict[str, frozenset[int]]

# The maximum number of reappeared jobs that are read in one poll. Whole folders disappear and come back when
# permissions change.
BACK_AT_ONCE = 100


class Executors:
    """The executors of a controller, as far as the user may see them."""

    def __init__(self, client: JenkinsClient, controller: str, interval_s: float, clock: Clock) -> None:
        self._client = client
        self._controller = controller
        self._backoffs = Backoffs[str](interval_s, clock)
        self._hidden = False

    def ask(self) -> Executing | None:
        """Running build numbers by job; None if executors are not visible: then every open build is requested.

        Raises :class:`ControllerDownError`.
        """
        if not self._backoffs.due(self._controller):
            return None
        try:
            running = self._client.running()
        except AskedToWaitError as error:
            self._backoffs.failed(self._controller, str(error), error.retry_after_ms)
            raise
        except (ControllerDownError, StoppedError):
            raise
        except JenkinsError as error:
            if not self._hidden:
                log.info("executors are not visible", controller=self._controller, reason=str(error))
            self._hidden = True
            self._backoffs.failed(self._controller, str(error))
            return None
        self._hidden = False
        self._backoffs.succeeded(self._controller)
        numbers: dict[str, set[int]] = {}
        for full_name, number in running:
            numbers.setdefault(full_name, set()).add(number)
        return {full_name: frozenset(found) for full_name, found in numbers.items()}


@dataclass(frozen=True)
class Known:
    """What earlier polls stored: cursors of the jobs in question, and all open builds by job.

    ``complete``: these are all cursors.
    """

    cursors: Mapping[str, JobCursor]
    open_builds: Mapping[str, Sequence[OpenBuild]]
    complete: bool


@dataclass
class Found:
    """The result of discovery.

    ``passed``: cursors of jobs where nothing has to be read, ``followed``: their newly open builds, ``history``: the
    numbers that ended before the first poll. ``later``: more jobs have reappeared and wait for the next poll.
    ``renewed``: candidates with a name that another job had before.
    """

    candidates: list[Candidate] = field(default_factory=list)
    passed: list[JobCursor] = field(default_factory=list)
    followed: dict[str, tuple[OpenBuild, ...]] = field(default_factory=dict)
    renewed: list[Candidate] = field(default_factory=list)
    history: dict[str, tuple[Ended, ...]] = field(default_factory=dict)
    later: bool = False


class Discovery:
    """Sorts the jobs of one poll.

    ``server_time`` (UTC ms): Jenkins' clock when it listed the jobs. ``nothing_ended_since``: this is the first poll,
    and everything that ended before it is history.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        known: Known,
        unread: Unread,
        executors: Callable[[], Executing | None],
        *,
        now: int,
        server_time: int,
        nothing_ended_since: bool,
    ) -> None:
        self._rules = rules
        self._known = known
        self._unread = unread
        self._ask_executors = executors
        self._now = now
        self._server_time = server_time
        self._nothing_ended_since = nothing_ended_since
        self._found = Found()
        self._back = 0

    @cached_property
    def _executing(self) -> Executing | None:
        """At most one request, and only if needed."""
        return self._ask_executors()

    def find(self, jobs: Iterable[Job]) -> Found:
        """Check each job. Raises :class:`ControllerDownError`."""
        for job in jobs:
            name = job.full_name
            cursor, followed = self._known.cursors.get(name), self._known.open_builds.get(name, ())
            moved = cursor is None or cursor.next_build_number != job.next_build_number or self._is_back(cursor)
            if (moved or followed) and self._unread.due(name):
                self._sort(self._candidate(job, cursor, tuple(followed), moved=moved))
        return self._found

    def _is_back(self, cursor: JobCursor) -> bool:
        """Whether the job was absent. It may be another job with as many builds; its newest build shows that."""
        if not cursor.absent:
            return False
        if self._back == BACK_AT_ONCE:
            self._found.later = True
            return False
        self._back += 1
        return True

    def _candidate(
        self, job: Job, cursor: JobCursor | None, followed: tuple[OpenBuild, ...], *, moved: bool
    ) -> Candidate:
        name = job.full_name
        candidate = Candidate(
            job, first_match(self._rules, name), cursor, self._server_time, followed,
            unread=self._unread.builds(name), resting=self._unread.resting(name), moved=moved,
        )  # fmt: skip
        if cursor is None or job.next_build_number >= cursor.next_build_number:
            return candidate
        if self._may_lag_behind(cursor):
            return replace(candidate, moved=False, lagging=True)
        return candidate.as_another_job()

    def _may_lag_behind(self, cursor: JobCursor) -> bool:
        """Whether the answer may be older than the cursor, from a replica that lags behind."""
        return -CLOCK_TOLERANCE_MS <= self._server_time - cursor.looked_at <= GRACE_MS

    def _sort(self, candidate: Candidate) -> None:
        if not candidate.moved or not self._is_passed(candidate):
            self._look_at(candidate)
        elif candidate.took_name:
            self._found.renewed.append(candidate)
        else:
            self._pass(candidate)

    def _is_passed(self, candidate: Candidate) -> bool:
        """Whether the cursor can be advanced without a request."""
        if candidate.match is None:
            return True
        if candidate.cursor is not None:
            return False
        never_built = candidate.job.next_build_number <= 1
        # At the first start, everything that is not on an executor ended before.
        return never_built or (self._nothing_ended_since and self._executing is not None)

    def _pass(self, candidate: Candidate) -> None:
        name = candidate.job.full_name
        self._unread.read(name, besides=candidate.unread)
        if candidate.match is None:
            cursor = unread_cursor(candidate.job, candidate.cursor, self._server_time)
            self._found.passed.append(cursor)
            self._look_at(replace(candidate, cursor=cursor, moved=False))
            return
        self._found.passed.append(JobCursor(name, candidate.job.next_build_number, self._server_time))
        running = (self._executing or {}).get(name, frozenset()) if self._nothing_ended_since else frozenset()
        if running:
            self._found.followed[name] = tuple(OpenBuild(n, seen=True, first_seen_at=self._now) for n in running)
        self._found.history[name] = tuple(
            Ended(*span, Ending.HISTORY, self._server_time)
            for span in without(1, candidate.job.next_build_number - 1, running)
        )

    def _look_at(self, candidate: Candidate) -> None:
        """Add the job, unless there is nothing to read: all its open builds still run or are in backoff."""
        numbers = {build.number for build in candidate.open_builds} - candidate.resting
        if numbers and self._executing:
            # Builds that did not run at the last look but run now are read once more, to reset ``waiting_since``.
            waited = {build.number for build in candidate.open_builds if build.seen and build.waiting_since is not None}
            running = self._executing.get(candidate.job.full_name, frozenset()) - waited
            candidate = replace(candidate, running=running)
        in_doubt = candidate.lagging and candidate.match is not None
        if candidate.moved or in_doubt or not numbers <= candidate.running or (candidate.took_name and numbers):
            self._found.candidates.append(candidate)
        elif candidate.took_name:
            self._found.renewed.append(candidate)
