"""A look at one job: what was known before, what becomes of each build, and what is known afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from agent.model.endings import Ended, Ending, put, ranges, without
from agent.outbox.values import JobCursor, OpenBuild
from agent.sources.jenkins.errors import BadAnswerError, NotFoundError
from agent.sources.jenkins.raw import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from agent.config.rules import Match
    from agent.sources.jenkins.client import Job
    from agent.sources.jenkins.raw import RawBuild

# When this many facts are collected, they are stored before the cursor moves, to limit memory after a long absence.
STORE_AT = 500
# Used as ``first_seen_at`` for open builds that existed before the agent's first poll.
BEFORE_THE_START = 0
# Jenkins lists at most this many builds in one answer.
PAGE = 100
# How long a build may look inconsistent (no result, no duration, 404 although listed) before its data counts as final
# (ms). With several replicas of a controller, each may lag by two minutes, and builds of a stopped replica pause
# meanwhile.
GRACE_MS = 240_000
# A build below the cursor that started this much (ms) after the cursor was set belongs to another job with the same
# name.
CLOCK_TOLERANCE_MS = 2_000
# How long a build is requested again if Jenkins, or a page with its details, cannot be read (ms).
UNREADABLE_MS = 24 * 3_600_000
# For a new job without history: how many numbers may belong to builds that are not visible yet.
EXPECTED_OF_NEW = 10


@dataclass(frozen=True)
class Candidate:
    """A job to look at.

    ``match`` None: no rule matches, and only open builds are of interest. ``cursor`` None: seen for the first time;
    builds that ended before ``report_from`` are history. ``running``: numbers on an executor. ``lagging``: the next
    number is lower than before, because a replica lags or because another job has the name; the builds show which.
    ``unread``: open builds that could not be read last time; ``resting``: those of them still in backoff. ``moved``:
    builds were started since the last look. ``took_name``: another job had this name, and its open builds are ``left``.
    ``server_time`` (UTC ms): Jenkins' clock when ``job`` was read.
    """

    job: Job
    match: Match | None
    cursor: JobCursor | None
    server_time: int
    open_builds: tuple[OpenBuild, ...] = ()
    running: frozenset[int] = frozenset()
    unread: frozenset[int] = frozenset()
    resting: frozenset[int] = frozenset()
    moved: bool = True
    lagging: bool = False
    took_name: bool = False
    left: tuple[OpenBuild, ...] = ()

    @property
    def first_new(self) -> int:
        """The lowest number that was not read yet."""
        return self.cursor.next_build_number if self.cursor else 1

    @property
    def next_number(self) -> int:
        """As far as is known, no build has this number or a higher one yet."""
        return max(self.job.next_build_number, self.first_new) if self.lagging else self.job.next_build_number

    @property
    def former_name(self) -> str | None:
        """The name under which the job was known, if it was renamed."""
        if self.cursor is None or self.cursor.full_name == self.job.full_name:
            return None
        return self.cursor.full_name

    @property
    def only_open(self) -> OpenBuild | None:
        """The only open build, if nothing else has to be read: requesting it by number is cheaper.

        Not for branch jobs, whose list also says which pull request they belong to.
        """
        if self.moved or self.lagging or self.job.branch_job:
            return None
        if len(self.open_builds) != 1 or not self.open_builds[0].seen:
            return None
        return self.open_builds[0]

    def as_another_job(self) -> Candidate:
        """The candidate as a new job: it was deleted and created again, so cursor and open builds are obsolete.

        Without a rule its past is of no interest. But builds with the numbers of the open builds may have sent reports.
        """
        another = replace(
            self, cursor=None, open_builds=(), unread=frozenset(), resting=frozenset(), moved=True,
            lagging=False, took_name=True, left=(*self.left, *self.open_builds),
        )  # fmt: skip
        if self.match is not None:
            return another
        job = self.job
        again = [replace(build, seen=True, waiting_since=None, started_at=None) for build in self.open_builds]
        return replace(
            another, cursor=unread_cursor(job, None, self.server_time), moved=False,
            open_builds=tuple(build for build in again if build.number < job.next_build_number),
        )  # fmt: skip

    def known_as(self, former: JobCursor, open_builds: Iterable[OpenBuild]) -> Candidate:
        """The job had another name before and continues with that cursor."""
        other = self if self.cursor is None else self.as_another_job()
        return replace(other, cursor=former, open_builds=tuple(open_builds))

    def question(self) -> tuple[int, int]:
        """The positions of the builds to list first: new ones, nearby open ones, and the newest known one."""
        wanted = [self.first_new] if self.moved else []
        wanted += [b.number for b in self.open_builds if self.next_number - b.number < PAGE]
        lowest = min(wanted, default=self.next_number)
        return 0, min(self.next_number - lowest + 1, PAGE)


@dataclass
class Look:
    """The result of a look: the cursor and open builds to store, and the builds that were missed.

    ``gone``: missed builds that were seen before. ``troubles``: why open builds could not be read, by number.
    ``numbers``: the listed builds. ``endings``: what became of numbers that are no longer open. ``unlisted``: ranges of
    numbers that were never looked at.
    """

    cursor: JobCursor
    open_builds: list[OpenBuild] = field(default_factory=list)
    missed: list[int] = field(default_factory=list)
    unlisted: list[tuple[int, int]] = field(default_factory=list)
    gone: list[OpenBuild] = field(default_factory=list)
    troubles: dict[int, Exception] = field(default_factory=dict)
    has_past: bool = False
    numbers: set[int] = field(default_factory=set)
    endings: dict[int, Ending] = field(default_factory=dict)

    @property
    def missed_unlisted(self) -> int:
        """How many numbers are too old to be looked for."""
        return sum(last - first + 1 for first, last in self.unlisted)


def unread_cursor(job: Job, before: JobCursor | None, server_time: int) -> JobCursor:
    """The cursor of a job that no rule matches, after all its numbers."""
    since = 1 if before is None else before.no_rule_since or before.next_build_number
    return JobCursor(job.full_name, job.next_build_number, server_time, no_rule_since=since)


def first_look(candidate: Candidate) -> Look:
    """The result before reading: the cursor is after all assigned numbers."""
    job, cursor = candidate.job, candidate.cursor
    if cursor is None:
        return Look(JobCursor(job.full_name, job.next_build_number, candidate.server_time))
    advanced = replace(
        cursor,
        full_name=job.full_name,
        next_build_number=candidate.next_number,
        looked_at=max(cursor.looked_at, candidate.server_time) if candidate.moved else cursor.looked_at,
        no_rule_since=None if candidate.match is not None and candidate.moved else cursor.no_rule_since,
        absent=candidate.lagging,  # until the number has caught up and the builds show that it is the same job
    )
    return Look(advanced)


def ended(candidate: Candidate, look: Look, at: int) -> tuple[Ended, ...]:
    """What became of the numbers that this look settled: all new ones below its cursor except open builds.

    ``at``: when that is recorded (UTC ms).
    """
    found = [each for ending in Ending for each in ranges(_numbers(look, ending), ending, at)]
    found += [Ended(first, last, Ending.UNREADABLE, at) for first, last in look.unlisted]
    unsettled = {build.number for build in look.open_builds}
    for first, last, ending in _passed_over(candidate):
        found += [Ended(*span, ending, at) for span in without(first, last, unsettled)]
    return tuple(put([], found))


def _numbers(look: Look, ending: Ending) -> set[int]:
    return {number for number, each in look.endings.items() if each is ending}


def _passed_over(candidate: Candidate) -> Iterator[tuple[int, int, Ending]]:
    """Ranges (first, last) of numbers that were not looked at, and why. Other endings may override these."""
    cursor, job = candidate.cursor, candidate.job
    if cursor is None:
        yield 1, job.next_build_number - 1, Ending.HISTORY if candidate.match is not None else Ending.NO_RULE
        return
    if candidate.former_name is not None:
        yield 1, cursor.next_build_number - 1, Ending.FORMER_NAME
    if cursor.no_rule_since is not None and candidate.match is not None and candidate.moved:
        yield cursor.no_rule_since, cursor.next_build_number - 1, Ending.NO_RULE


class Sorter:
    """Sorts the builds of one job into final, open and gone.

    ``now`` is the agent's clock (UTC ms). ``was_missed`` tells whether a build of a known job is recorded as missed.
    """

    def __init__(
        self, candidate: Candidate, look: Look, *,
        report_from: int, now: int, was_missed: Callable[[JobCursor, int], bool],
    ) -> None:  # fmt: skip
        self._was_missed = was_missed
        self._candidate = candidate
        self._look = look
        self._report_from = report_from
        self._now = now
        self._open = {build.number: build for build in candidate.open_builds}

    def listed(self, builds: Collection[RawBuild]) -> list[RawBuild]:
        """Sort the builds of a list; returns those that are final, oldest first."""
        self._look.numbers.update(raw.number for raw in builds)
        self._look.cursor = _advanced(self._look.cursor, builds)
        return sorted(filter(self._is_final, builds), key=lambda raw: raw.number)

    def _is_final(self, raw: RawBuild) -> bool:
        candidate = self._candidate
        if raw.number in candidate.resting:
            self._look.open_builds.append(self._open[raw.number])
            return False
        if raw.number in self._open:
            return self.shown(self._open[raw.number], raw)
        if candidate.cursor is None and raw.phase is Phase.FINAL and raw.ended_at < self._report_from:
            self._look.has_past = True
            self._look.endings[raw.number] = Ending.HISTORY
            return False
        if raw.number < candidate.first_new and raw.phase is not Phase.RUNNING and not self._is_back(raw.number):
            return False
        # It runs again although below the cursor: another replica took it over, or this answer lags. Or it was missed.
        build = self._first_seen(raw.number)
        if candidate.cursor is None and raw.phase is Phase.SETTLING and raw.ended_at < self._report_from:
            build = replace(build, first_seen_at=BEFORE_THE_START)
        return self.shown(build, raw)

    def _is_back(self, number: int) -> bool:
        cursor = self._candidate.cursor
        return cursor is not None and self._was_missed(cursor, number)

    def _first_seen(self, number: int, *, seen: bool = True) -> OpenBuild:
        return OpenBuild(number, seen, first_seen_at=self._now)

    def shown(self, build: OpenBuild, raw: RawBuild) -> bool:
        """Sort one visible build; True if it is final. A running one stays open; one in between waits for a while."""
        if build.started_at is not None and build.started_at != raw.timestamp:
            self._look.gone.append(build)  # another build has its number now
        if raw.phase is Phase.RUNNING:
            self._follow(replace(build, seen=True, waiting_since=None, started_at=raw.timestamp))
            return False
        # invisible builds wait for another reason: restart the wait
        here = build if build.seen else replace(build, waiting_since=None)
        if raw.phase is Phase.SETTLING and (waiting := self.still_waiting(here)):
            self._follow(replace(waiting, seen=True, started_at=raw.timestamp))
            return False
        if raw.phase is Phase.FINAL:
            return True
        if raw.timestamp <= 0:  # Jenkins has lost its data
            self._miss(build)
        elif build.first_seen_at == BEFORE_THE_START:  # and it looked so before the first poll
            self._look.endings[raw.number] = Ending.HISTORY
        else:
            return True
        return False

    def not_shown(self, build: OpenBuild, error: Exception) -> None:
        """The build is gone or its record is broken. Jenkins' lists omit both silently."""
        since = waiting_since(build, self._now)
        if isinstance(error, NotFoundError):
            self.wait_or_miss(build)
        elif isinstance(error, BadAnswerError) and self._now - since > UNREADABLE_MS:
            self._miss(build)
        else:
            self._follow(replace(build, waiting_since=since))
            self._look.troubles[build.number] = error

    def is_only_expected(self, build: OpenBuild) -> bool:
        """Whether only its number is known."""
        return not build.seen and build.number not in self._candidate.unread

    def wait_or_miss(self, build: OpenBuild) -> None:
        """The build is not visible: it may appear soon, or it is gone."""
        if waiting := self.still_waiting(build):
            self._follow(waiting)
        else:
            self._miss(build)

    def still_waiting(self, build: OpenBuild) -> OpenBuild | None:
        """The build with ``waiting_since`` set; None if it has waited long enough.

        Time in which it could not be read does not count.
        """
        since = self._now if build.number in self._candidate.unread else waiting_since(build, self._now)
        return None if self._now - since > GRACE_MS else replace(build, waiting_since=since)

    def expect(self) -> None:
        """Handle assigned numbers without a visible build: some builds appear soon, others are gone."""
        candidate, look = self._candidate, self._look
        last, first = candidate.job.next_build_number - 1, candidate.first_new
        if candidate.cursor is None:  # gaps in the past of an existing job are history; a new job has no past
            first = last if look.has_past else max(last - EXPECTED_OF_NEW + 1, 1)
        known = self._open.keys() | look.numbers
        near = range(max(first, last - PAGE + 1, 1), last + 1)
        for number in near:
            if number not in known:
                self._follow(replace(self._first_seen(number, seen=False), waiting_since=self._now))
        look.unlisted = list(without(first, near.start - 1, known))

    def _follow(self, build: OpenBuild) -> None:
        self._look.open_builds.append(build)

    def _miss(self, build: OpenBuild) -> None:
        self._look.endings[build.number] = Ending.UNREADABLE
        self._look.missed.append(build.number)
        self._look.gone.append(build)


def waiting_since(build: OpenBuild, now: int) -> int:
    """Since when the build is neither running nor final; ``now`` if that is new."""
    since = build.waiting_since
    return now if since is None or since > now else since  # in the future: the clock was set back


def _advanced(cursor: JobCursor, read: Collection[RawBuild]) -> JobCursor:
    """The cursor after these builds. A clock that is set back must not make them look like builds of a later job."""
    if not read:
        return cursor
    cursor = replace(cursor, looked_at=max(cursor.looked_at, *(raw.timestamp for raw in read)))
    newest = max(read, key=lambda raw: raw.number)
    if cursor.newest_number is not None and newest.number < cursor.newest_number:
        return cursor
    return replace(cursor, newest_number=newest.number, newest_started_at=newest.timestamp)
