"""A look at one job: which of its builds are final now, which are to be followed, and where to go on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import structlog

from agent.model.build import Phase
from agent.outbox.cursors import JobCursor, OpenBuild
from agent.sources.jenkins.client import BadAnswerError, Listing, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.model.build import RawBuild
    from agent.model.times import Clock
    from agent.sources.jenkins.client import JenkinsClient, Job

log = structlog.get_logger("poller")

# Jenkins lists no more than this in one answer.
PAGE = 100
# Pages overlap by so many builds: one that is deleted between two requests must not hide another.
OVERLAP = 10
# So long a build may look odd (no result, no duration, 404 although listed) before what is known counts as final.
GRACE_MS = 60_000
# So long a build that Jenkins cannot read is asked for again, once in a grace period.
UNREADABLE_MS = 24 * 3_600_000
# At most so many missing numbers of a job are asked for one by one before they count as missed.
ASK_FOR_MISSING = 5
# Of a job that was never seen and has no past, so many numbers may belong to builds that appear in a moment.
EXPECTED_OF_NEW = 10
# A build below the cursor that started so long after the cursor was set belongs to another job of that name.
CLOCK_TOLERANCE_MS = 2_000


class AnotherJobError(Exception):
    """The job is not the one that the cursor is of, but one of the same name that was created later."""


@dataclass(frozen=True)
class Candidate:
    """A job to look at.

    ``cursor`` None: seen for the first time, then builds that ended before ``report_from`` are history.
    ``running``: the numbers that occupy an executor. ``moved``: builds were started since the last look.
    ``server_time`` (UTC ms): Jenkins' clock when ``job`` was read.
    """

    job: Job
    cursor: JobCursor | None
    server_time: int
    open_builds: tuple[OpenBuild, ...] = ()
    running: frozenset[int] = frozenset()
    moved: bool = True

    @property
    def first_new(self) -> int:
        """The lowest number that was never read."""
        return self.cursor.next_build_number if self.cursor else 1

    @property
    def only_open(self) -> OpenBuild | None:
        """The one open build of a job where nothing else is to be read: it is cheaper asked for by its number.

        But not of a branch job, whose list also tells of which pull request it is.
        """
        if self.moved or self.job.branch_job or len(self.open_builds) != 1 or not self.open_builds[0].seen:
            return None
        return self.open_builds[0]

    def as_another_job(self) -> Candidate:
        """The job was deleted and created again: its cursor and open builds mean nothing any more."""
        return replace(self, cursor=None, open_builds=(), moved=True)

    def question(self) -> tuple[int, int]:
        """The places of the builds to list first: what is new, what is open near it, and the newest that is known."""
        wanted = [self.first_new] if self.moved else []
        wanted += [b.number for b in self.open_builds if self.job.next_build_number - b.number < PAGE]
        lowest = min(wanted, default=self.job.next_build_number)
        return 0, min(self.job.next_build_number - lowest + 1, PAGE)


@dataclass(frozen=True)
class FirstAnswer:
    """What the first question about a job brought; ``trouble`` when the one open build could not be read."""

    listing: Listing
    trouble: NotFoundError | BadAnswerError | None = None


@dataclass
class Look:
    """Where a look ended: the cursor and the open builds to store, and the builds that were missed."""

    cursor: JobCursor
    open_builds: list[OpenBuild] = field(default_factory=list)
    missed: list[int] = field(default_factory=list)
    missed_unlisted: int = 0
    pull_request_url: str | None = None
    has_past: bool = False
    numbers: set[int] = field(default_factory=set)


class JobReader:
    """Looks at the jobs of one controller. ``report_from`` (UTC ms): what ended before is history."""

    def __init__(self, client: JenkinsClient, clock: Clock, controller: str, report_from: int) -> None:
        self._client = client
        self._clock = clock
        self._controller = controller
        self._report_from = report_from

    def ask(self, candidate: Candidate) -> FirstAnswer:
        """The first and mostly the only question about a job; may be asked in another thread.

        Raises :class:`agent.sources.jenkins.client.JenkinsError`.
        """
        if build := candidate.only_open:
            try:
                return FirstAnswer(Listing([self._client.build(candidate.job.full_name, build.number)]))
            except (NotFoundError, BadAnswerError) as error:
                return FirstAnswer(Listing([]), error)
        return FirstAnswer(self._client.builds(candidate.job, *candidate.question()))

    def read(self, candidate: Candidate, first: FirstAnswer, look: Look) -> Iterator[list[RawBuild]]:
        """Yield the final builds page by page, and complete ``look``.

        Raises :class:`JenkinsError` and :class:`AnotherJobError`; the cursor must then stay
        where it was, what was yielded may be kept.
        """
        look.pull_request_url = first.listing.pull_request_url
        followed = {build.number: build for build in candidate.open_builds}
        for page in self.pages(candidate, first.listing):
            if candidate.cursor is not None and _contradicts(candidate.cursor, candidate.open_builds, page):
                raise AnotherJobError
            fresh = [raw for raw in page if raw.number not in look.numbers]
            look.numbers.update(raw.number for raw in fresh)
            final: list[RawBuild] = []
            for raw in fresh:
                if raw.number in followed:
                    self._sort(look, final, followed[raw.number], raw)
                elif candidate.cursor is None and self._is_history(raw):
                    look.has_past = True
                elif raw.number >= candidate.first_new:
                    self._sort(look, final, self._first_seen(raw.number), raw)
            look.cursor = _advanced(look.cursor, fresh)
            yield sorted(final, key=lambda raw: raw.number)
        yield self._read_unlisted(candidate, look, first.trouble)
        if candidate.moved:
            self._expect(candidate, look)

    def pages(self, candidate: Candidate, first: Listing) -> Iterator[list[RawBuild]]:
        """The listing, and the pages behind it up to one build that is known: it tells whose job this is.

        Raises :class:`agent.sources.jenkins.client.JenkinsError`.
        """
        job, first_new = candidate.job, candidate.first_new
        page = first.builds
        yield _below(page, job.next_build_number)
        _, end = candidate.question()
        if not candidate.moved or end < PAGE:
            return
        # Lists can be a little short: Jenkins leaves out what it cannot read.
        furthest = max(first_new, 2)
        while len(page) >= PAGE - OVERLAP and (oldest := min(page, key=lambda raw: raw.number)).number >= furthest:
            if candidate.cursor is None and oldest.ended_at < self._report_from:
                return
            begin = max(end - OVERLAP, 0)
            following = self._client.builds(job, begin, begin + PAGE).builds
            if following and following[0].number < oldest.number:
                end = begin  # more was deleted meanwhile than pages overlap: further back
                continue
            page, end = following, begin + PAGE
            yield _below(page, job.next_build_number)

    def _is_history(self, raw: RawBuild) -> bool:
        return raw.phase is Phase.FINAL and raw.ended_at < self._report_from

    def _first_seen(self, number: int, *, seen: bool = True) -> OpenBuild:
        return OpenBuild(number, seen, first_seen_at=self._clock.now_ms())

    def _sort(self, look: Look, final: list[RawBuild], build: OpenBuild, raw: RawBuild) -> None:
        """Running: follow it. Final: report it. In between: wait, but not for ever."""
        if raw.phase is Phase.RUNNING:
            look.open_builds.append(replace(build, seen=True, waiting_since=None, started_at=raw.timestamp))
        elif raw.phase is Phase.SETTLING and (waiting := self._still_waiting(build)):
            look.open_builds.append(replace(waiting, seen=True, started_at=raw.timestamp))
        elif raw.phase is Phase.FINAL or raw.ended_at >= self._report_from:  # else it was odd long before
            final.append(raw)

    def _read_unlisted(
        self, candidate: Candidate, look: Look, trouble: NotFoundError | BadAnswerError | None
    ) -> list[RawBuild]:
        """Open builds that no list shows: still running, or to be asked for by their numbers."""
        final: list[RawBuild] = []
        asked = 0
        for build in candidate.open_builds:
            if build.number in look.numbers:
                continue
            if build.number in candidate.running:
                look.open_builds.append(build)
            elif trouble is not None:
                self._note_trouble(candidate, look, build, trouble)
            elif not build.seen and ((waiting := self._still_waiting(build)) or asked >= ASK_FOR_MISSING):
                self._wait_or_miss(look, waiting or build)
            else:
                asked += 1
                self._ask_for(candidate, look, final, build)
        return final

    def _ask_for(self, candidate: Candidate, look: Look, final: list[RawBuild], build: OpenBuild) -> None:
        try:
            raw = self._client.build(candidate.job.full_name, build.number)
        except (NotFoundError, BadAnswerError) as error:
            self._note_trouble(candidate, look, build, error)
        else:
            self._sort(look, final, build, raw)

    def _note_trouble(
        self, candidate: Candidate, look: Look, build: OpenBuild, error: NotFoundError | BadAnswerError
    ) -> None:
        """Gone, or a record that Jenkins cannot read; lists leave both out without a word."""
        now = self._clock.now_ms()
        if isinstance(error, NotFoundError):
            self._wait_or_miss(look, build)
        elif now - build.first_seen_at > UNREADABLE_MS:
            look.missed.append(build.number)
        else:
            if build.waiting_since is None:  # else it was said before
                name = f"{candidate.job.full_name}#{build.number}"
                log.warning("build cannot be read", controller=self._controller, build=name, reason=str(error))
            look.open_builds.append(replace(build, waiting_since=now))

    def _wait_or_miss(self, look: Look, build: OpenBuild) -> None:
        if waiting := self._still_waiting(build):
            look.open_builds.append(waiting)
        else:
            look.missed.append(build.number)

    def _still_waiting(self, build: OpenBuild) -> OpenBuild | None:
        """The build with the start of its waiting noted; None when it waited long enough."""
        now = self._clock.now_ms()
        since = build.waiting_since
        if since is None or since > now:  # later than now: the clock was set back
            since = now
        return None if now - since > GRACE_MS else replace(build, waiting_since=since)

    def _expect(self, candidate: Candidate, look: Look) -> None:
        """Numbers that were given away and show no build: some appear a moment later, others are gone."""
        last = candidate.job.next_build_number - 1
        first = candidate.first_new
        if candidate.cursor is None:  # what is missing from a job's past is history; a new job has none
            first = last if look.has_past else max(last - EXPECTED_OF_NEW + 1, 1)
        known = {build.number for build in candidate.open_builds} | look.numbers
        near = range(max(first, last - PAGE + 1, 1), last + 1)
        now = self._clock.now_ms()
        look.open_builds.extend(
            OpenBuild(n, seen=False, first_seen_at=now, waiting_since=now) for n in near if n not in known
        )
        look.missed_unlisted = max(near.start - first, 0) - sum(first <= n < near.start for n in known)


def first_look(candidate: Candidate) -> Look:
    """The look before anything was read: the cursor behind the numbers that were given away so far."""
    job, cursor = candidate.job, candidate.cursor
    if cursor is None:
        return Look(JobCursor(job.full_name, job.next_build_number, candidate.server_time))
    advanced = replace(
        cursor,
        full_name=job.full_name,
        next_build_number=job.next_build_number,
        looked_at=max(cursor.looked_at, candidate.server_time) if candidate.moved else cursor.looked_at,
    )
    return Look(advanced)


def _contradicts(cursor: JobCursor, followed: tuple[OpenBuild, ...], builds: list[RawBuild]) -> bool:
    """Whether these builds cannot be of the job that the cursor knows: numbers that it knew started later now.

    Not the other way round: a new number that started before belongs to a controller whose clock was set back.
    """
    latest = cursor.looked_at + CLOCK_TOLERANCE_MS
    known = {(build.number, build.started_at) for build in followed}
    for raw in builds:
        if (raw.number, raw.timestamp) in known:
            continue
        if raw.number == cursor.newest_number and raw.timestamp != cursor.newest_started_at:
            return True
        if raw.number < cursor.next_build_number and raw.timestamp > latest:
            return True
    return False


def _below(builds: list[RawBuild], next_build_number: int) -> list[RawBuild]:
    """Without builds that were started after the job's next number was read: the next poll sees them as new."""
    return [raw for raw in builds if raw.number < next_build_number]


def _advanced(cursor: JobCursor, read: list[RawBuild]) -> JobCursor:
    """The cursor after these builds, which a clock that is set back must not make look like builds of later."""
    if not read:
        return cursor
    cursor = replace(cursor, looked_at=max(cursor.looked_at, *(raw.timestamp for raw in read)))
    newest = max(read, key=lambda raw: raw.number)
    if cursor.newest_number is not None and newest.number < cursor.newest_number:
        return cursor
    return replace(cursor, newest_number=newest.number, newest_started_at=newest.timestamp)
