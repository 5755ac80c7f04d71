"""A look at one job: what is known of it before, what becomes of each of its builds, and what is known afterwards."""

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

# More facts than this are stored before the cursor moves: catching up takes no more memory for longer absences.
STORE_AT = 500
# Instead of the time when an open build was first seen: its start was before the agent's own.
BEFORE_THE_START = 0
# Jenkins lists no more than this in one answer.
PAGE = 100
# So long a build may look odd (no result, no duration, 404 although listed) before what is known counts as final. Where
# several replicas serve a controller, each may lag by two minutes, and builds of one that ended stand still meanwhile.
GRACE_MS = 240_000
# A build below the cursor that started so long after the cursor was set belongs to another job of that name.
CLOCK_TOLERANCE_MS = 2_000
# So long a build is asked for again that Jenkins cannot read, or of which a page beside it cannot be read.
UNREADABLE_MS = 24 * 3_600_000
# Of a job that was never seen and has no past, so many numbers may belong to builds that appear in a moment.
EXPECTED_OF_NEW = 10


@dataclass(frozen=True)
class Candidate:
    """A job to look at.

    ``match`` None: no rule makes its builds deployments, and only those that are open are of interest. ``cursor``
    None: seen for the first time, then builds that ended before ``report_from`` are history. ``running``: the numbers
    that occupy an executor. ``lagging``: the next number is lower than it was moments ago, by the answer of a replica
    that lags or because the name is another job's now; its builds tell. ``unread``: open builds that could not be read
    the last time, and those of them that are left in peace for now, ``resting``. ``moved``: builds were started since
    the last look. ``took_name``: the name was another job's, whose open builds are ``left``. ``server_time`` (UTC ms):
    Jenkins' clock when ``job`` was read.
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
        """The lowest number that was never read."""
        return self.cursor.next_build_number if self.cursor else 1

    @property
    def next_number(self) -> int:
        """No build has this number or a higher one yet, as far as is known."""
        return max(self.job.next_build_number, self.first_new) if self.lagging else self.job.next_build_number

    @property
    def former_name(self) -> str | None:
        """The name under which the job was known, if that was another one."""
        if self.cursor is None or self.cursor.full_name == self.job.full_name:
            return None
        return self.cursor.full_name

    @property
    def only_open(self) -> OpenBuild | None:
        """The one open build of a job where nothing else is to be read: it is cheaper asked for by its number.

        But not of a branch job, whose list also tells of which pull request it is.
        """
        if self.moved or self.lagging or self.job.branch_job:
            return None
        if len(self.open_builds) != 1 or not self.open_builds[0].seen:
            return None
        return self.open_builds[0]

    def as_another_job(self) -> Candidate:
        """The job was deleted and created again: its cursor and open builds mean nothing any more.

        Without a rule its past is of no interest. But the builds that have the numbers of those that were open may
        have reported something as well.
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
        """The job had another name before: that cursor is its own."""
        other = self if self.cursor is None else self.as_another_job()
        return replace(other, cursor=former, open_builds=tuple(open_builds))

    def question(self) -> tuple[int, int]:
        """The places of the builds to list first: what is new, what is open near it, and the newest that is known."""
        wanted = [self.first_new] if self.moved else []
        wanted += [b.number for b in self.open_builds if self.next_number - b.number < PAGE]
        lowest = min(wanted, default=self.next_number)
        return 0, min(self.next_number - lowest + 1, PAGE)


@dataclass
class Look:
    """Where a look ended: the cursor and the open builds to store, and the builds that were missed.

    ``gone``: those of them that were seen before. ``troubles``: why open builds could not be read, by number.
    ``numbers``: the builds that were listed. ``endings``: what became of numbers that are not open any more;
    ``unlisted``: the numbers before those were never looked at.
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
        """How many numbers are so old that nobody looked for their builds."""
        return sum(last - first + 1 for first, last in self.unlisted)


def unread_cursor(job: Job, before: JobCursor | None, server_time: int) -> JobCursor:
    """The cursor of a job that no rule matches, behind all its numbers."""
    since = 1 if before is None else before.no_rule_since or before.next_build_number
    return JobCursor(job.full_name, job.next_build_number, server_time, no_rule_since=since)


def first_look(candidate: Candidate) -> Look:
    """The look before anything was read: the cursor behind the numbers that were given away so far."""
    job, cursor = candidate.job, candidate.cursor
    if cursor is None:
        return Look(JobCursor(job.full_name, job.next_build_number, candidate.server_time))
    advanced = replace(
        cursor,
        full_name=job.full_name,
        next_build_number=candidate.next_number,
        looked_at=max(cursor.looked_at, candidate.server_time) if candidate.moved else cursor.looked_at,
        no_rule_since=None if candidate.match is not None and candidate.moved else cursor.no_rule_since,
        absent=candidate.lagging,  # until its number is what it was, and its builds tell whether it is this job
    )
    return Look(advanced)


def ended(candidate: Candidate, look: Look, at: int) -> tuple[Ended, ...]:
    """What became of the numbers that the look settled: all below its cursor that were not settled before, but for the
    builds that are open. ``at``: when that is noted (UTC ms).
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
    """First and last of the numbers that nobody looked at, and why; weightier words may be known of some of them."""
    cursor, job = candidate.cursor, candidate.job
    if cursor is None:
        yield 1, job.next_build_number - 1, Ending.HISTORY if candidate.match is not None else Ending.NO_RULE
        return
    if candidate.former_name is not None:
        yield 1, cursor.next_build_number - 1, Ending.FORMER_NAME
    if cursor.no_rule_since is not None and candidate.match is not None and candidate.moved:
        yield cursor.no_rule_since, cursor.next_build_number - 1, Ending.NO_RULE


class Sorter:
    """Sorts the builds of one job: final, to be followed, or gone.

    ``now`` is by our clock (UTC ms). ``was_missed`` tells whether a build of a known job counts as missed.
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
        """Sort what a list shows; returns those that are final, oldest first."""
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
        # Below the cursor it runs again: another replica took it over, or this answer lags behind. Or it was missed.
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
        """Running: follow it. Final, then True: report it. In between: wait, but not for ever."""
        if build.started_at is not None and build.started_at != raw.timestamp:
            self._look.gone.append(build)  # this one has its number now
        if raw.phase is Phase.RUNNING:
            self._follow(replace(build, seen=True, waiting_since=None, started_at=raw.timestamp))
            return False
        here = build if build.seen else replace(build, waiting_since=None)  # that it was not there is another waiting
        if raw.phase is Phase.SETTLING and (waiting := self.still_waiting(here)):
            self._follow(replace(waiting, seen=True, started_at=raw.timestamp))
            return False
        if raw.phase is Phase.FINAL:
            return True
        if raw.timestamp <= 0:  # Jenkins has lost what it knew of it
            self._miss(build)
        elif build.first_seen_at == BEFORE_THE_START:  # and it was odd then
            self._look.endings[raw.number] = Ending.HISTORY
        else:
            return True
        return False

    def not_shown(self, build: OpenBuild, error: Exception) -> None:
        """Gone, or a record that Jenkins cannot read; lists leave both out without a word."""
        since = waiting_since(build, self._now)
        if isinstance(error, NotFoundError):
            self.wait_or_miss(build)
        elif isinstance(error, BadAnswerError) and self._now - since > UNREADABLE_MS:
            self._miss(build)
        else:
            self._follow(replace(build, waiting_since=since))
            self._look.troubles[build.number] = error

    def is_only_expected(self, build: OpenBuild) -> bool:
        """Whether all that is known is that its number was given away."""
        return not build.seen and build.number not in self._candidate.unread

    def wait_or_miss(self, build: OpenBuild) -> None:
        """It is not there: it may appear in a moment, or is gone."""
        if waiting := self.still_waiting(build):
            self._follow(waiting)
        else:
            self._miss(build)

    def still_waiting(self, build: OpenBuild) -> OpenBuild | None:
        """The build with the start of its waiting noted; None when it waited long enough.

        That it could not be read before is no waiting.
        """
        since = self._now if build.number in self._candidate.unread else waiting_since(build, self._now)
        return None if self._now - since > GRACE_MS else replace(build, waiting_since=since)

    def expect(self) -> None:
        """Numbers that were given away and show no build: some appear a moment later, others are gone."""
        candidate, look = self._candidate, self._look
        last, first = candidate.job.next_build_number - 1, candidate.first_new
        if candidate.cursor is None:  # what is missing from a job's past is history; a new job has none
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
    """Since when the build is neither running nor done: since ``now`` if it was not so before."""
    since = build.waiting_since
    return now if since is None or since > now else since  # later than now: the clock was set back


def _advanced(cursor: JobCursor, read: Collection[RawBuild]) -> JobCursor:
    """The cursor after these builds, which a clock that is set back must not make look like builds of later."""
    if not read:
        return cursor
    cursor = replace(cursor, looked_at=max(cursor.looked_at, *(raw.timestamp for raw in read)))
    newest = max(read, key=lambda raw: raw.number)
    if cursor.newest_number is not None and newest.number < cursor.newest_number:
        return cursor
    return replace(cursor, newest_number=newest.number, newest_started_at=newest.timestamp)
