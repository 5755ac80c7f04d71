"""A look at one job: which of its builds are final now, which are to be followed, and where to go on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import structlog

from agent.jenkins.builds import Phase
from agent.jenkins.client import NotFoundError
from agent.jenkins.cursor import JobCursor, OpenBuild

if TYPE_CHECKING:
    from agent.jenkins.builds import RawBuild
    from agent.jenkins.client import JenkinsClient, Job
    from agent.times import Clock

log = structlog.get_logger("poller")

# Jenkins lists no more than this in one answer.
PAGE = 100
# Pages overlap by so many builds: one that is deleted between two requests must not hide another.
OVERLAP = 10
# So long a build may look odd (no result, no duration, 404 although listed) before what is known counts as final.
GRACE_MS = 60_000


@dataclass(frozen=True)
class Candidate:
    """A job to look at.

    ``cursor`` None: seen for the first time, then builds that ended before ``report_from`` are history.
    ``running``: the numbers that occupy an executor. ``moved``: builds were started since the last look.
    """

    job: Job
    cursor: JobCursor | None
    open_builds: tuple[OpenBuild, ...] = ()
    running: frozenset[int] = frozenset()
    moved: bool = True

    @property
    def first_new(self) -> int:
        """The lowest number that was never read."""
        return self.cursor.next_build_number if self.cursor else 1

    def as_another_job(self) -> Candidate:
        """The job was deleted and created again: its cursor and open builds mean nothing any more."""
        return Candidate(self.job, None, (), self.running)


@dataclass
class Look:
    """What a look found. ``final`` are the builds to report, ``open_builds`` those to follow."""

    cursor: JobCursor
    final: list[RawBuild] = field(default_factory=list)
    open_builds: list[OpenBuild] = field(default_factory=list)


class JobReader:
    """Looks at the jobs of one controller. ``report_from`` (UTC ms): what ended before is history."""

    def __init__(self, client: JenkinsClient, clock: Clock, controller: str, report_from: int) -> None:
        self._client = client
        self._clock = clock
        self._controller = controller
        self._report_from = report_from

    def look(self, candidate: Candidate) -> Look:
        """Read what is new and what was open.

        Raises :class:`agent.jenkins.client.JenkinsError`; nothing was read then, the cursor must stay.
        """
        cursor = candidate.cursor
        if cursor is not None and candidate.job.next_build_number < cursor.next_build_number:
            return self.look(candidate.as_another_job())
        listed = self._listed(candidate)
        if cursor is not None and _is_another_job(cursor, listed):
            return self.look(candidate.as_another_job())
        look = Look(_advanced(candidate, listed))
        self._sort_listed(look, candidate, listed)
        for build in candidate.open_builds:
            if build.number not in listed:
                self._follow_unlisted(look, candidate, build, listing_was_made=bool(listed))
        if candidate.moved:
            look.open_builds.extend(self._expected(candidate, listed))
        return look

    def _listed(self, candidate: Candidate) -> dict[int, RawBuild]:
        """The builds from the first new one on and the open ones near them, by number; page by page if many."""
        job, first_new = candidate.job, candidate.first_new
        wanted = [first_new] if candidate.moved else []
        wanted += [b.number for b in candidate.open_builds if job.next_build_number - b.number < PAGE]
        if not candidate.moved and len(wanted) < 2:
            return {}  # one open build is cheaper asked for by its number
        # One more than could be new: the newest that is known tells whether this is still the same job.
        size = min(job.next_build_number - min(wanted) + 1, PAGE)
        page = self._client.builds(job.full_name, 0, size)
        listed = {raw.number: raw for raw in page}
        end = size
        # Lists can be a little short: Jenkins leaves out what it cannot read.
        while size == PAGE and len(page) >= PAGE - OVERLAP and (oldest := min(listed)) > first_new:
            if candidate.cursor is None and listed[oldest].ended_at < self._report_from:
                break
            begin = max(end - OVERLAP, 0)
            page = self._client.builds(job.full_name, begin, begin + PAGE)
            if page and page[0].number < oldest:
                end = begin  # more was deleted meanwhile than pages overlap: further back
                continue
            listed |= {raw.number: raw for raw in page}
            end = begin + PAGE
        return {number: raw for number, raw in listed.items() if number < job.next_build_number}

    def _sort_listed(self, look: Look, candidate: Candidate, listed: dict[int, RawBuild]) -> None:
        followed = {build.number: build for build in candidate.open_builds}
        for number, raw in sorted(listed.items()):
            if number in followed:
                self._sort(look, followed[number], raw)
            elif number >= candidate.first_new and not (candidate.cursor is None and self._is_history(raw)):
                self._sort(look, OpenBuild(number, seen=True), raw)

    def _is_history(self, raw: RawBuild) -> bool:
        return raw.phase is Phase.FINAL and raw.ended_at < self._report_from

    def _sort(self, look: Look, build: OpenBuild, raw: RawBuild) -> None:
        """Running: follow it. Final: report it. In between: wait, but not for ever."""
        if raw.phase is Phase.RUNNING:
            look.open_builds.append(OpenBuild(raw.number, seen=True))
        elif raw.phase is Phase.SETTLING and (waiting := self._still_waiting(build)):
            look.open_builds.append(replace(waiting, seen=True))
        elif raw.phase is Phase.FINAL or raw.ended_at >= self._report_from:  # else it was odd long before
            look.final.append(raw)

    def _follow_unlisted(self, look: Look, candidate: Candidate, build: OpenBuild, *, listing_was_made: bool) -> None:
        """An open build that no list shows: still running, or to be asked for by its number."""
        if build.number in candidate.running:
            look.open_builds.append(build)
            return
        if listing_was_made and not build.seen:
            self._wait_or_give_up(look, candidate, build)
            return
        try:
            raw = self._client.build(candidate.job.full_name, build.number)
        except NotFoundError:
            self._wait_or_give_up(look, candidate, build)
        else:
            self._sort(look, build, raw)

    def _wait_or_give_up(self, look: Look, candidate: Candidate, build: OpenBuild) -> None:
        if waiting := self._still_waiting(build):
            look.open_builds.append(waiting)
            return
        log.warning(
            "build is gone before it could be read",
            controller=self._controller,
            build=f"{candidate.job.full_name}#{build.number}",
        )

    def _still_waiting(self, build: OpenBuild) -> OpenBuild | None:
        """The build with the start of its waiting noted; None when it waited long enough."""
        now = self._clock.now_ms()
        since = build.waiting_since
        if since is None or since > now:  # later than now: the clock was set back
            since = now
        return None if now - since > GRACE_MS else replace(build, waiting_since=since)

    def _expected(self, candidate: Candidate, listed: dict[int, RawBuild]) -> list[OpenBuild]:
        """Numbers that were given away and show no build: some appear a moment later, others were deleted."""
        last = candidate.job.next_build_number - 1
        # What is missing from a new job's past is history, and so are gaps that no pause between polls explains.
        first = last if candidate.cursor is None else max(candidate.first_new, last - PAGE + 1)
        known = {build.number for build in candidate.open_builds} | listed.keys()
        now = self._clock.now_ms()
        return [OpenBuild(n, seen=False, waiting_since=now) for n in range(max(first, 1), last + 1) if n not in known]


def _is_another_job(cursor: JobCursor, listed: dict[int, RawBuild]) -> bool:
    """The newest build that is known started at another time than it did: the number was used again."""
    if cursor.newest_number is None or cursor.newest_number not in listed:
        return False
    return listed[cursor.newest_number].timestamp != cursor.newest_started_at


def _advanced(candidate: Candidate, listed: dict[int, RawBuild]) -> JobCursor:
    """The cursor behind everything that was read."""
    job, cursor = candidate.job, candidate.cursor
    newest = max(listed, default=None)
    if newest is not None and (cursor is None or cursor.newest_number is None or newest >= cursor.newest_number):
        return JobCursor(job.full_name, job.next_build_number, newest, listed[newest].timestamp)
    if cursor is None:
        return JobCursor(job.full_name, job.next_build_number)
    return replace(cursor, next_build_number=job.next_build_number)
