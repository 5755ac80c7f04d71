"""Reads the builds of one job page by page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.sources.jenkins.client import Listing
from agent.sources.jenkins.errors import ControllerDownError, JenkinsError, StoppedError, TooLargeError
from agent.sources.jenkins.look import CLOCK_TOLERANCE_MS, PAGE, Sorter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.model.times import Clock
    from agent.outbox.values import JobCursor, OpenBuild
    from agent.sources.jenkins.client import JenkinsClient
    from agent.sources.jenkins.look import Candidate, Look
    from agent.sources.jenkins.missed import MissedBuilds
    from agent.sources.jenkins.raw import RawBuild

# Pages overlap by this many builds, so that a build deleted between two requests does not hide another.
OVERLAP = 10
# At most this many missing numbers of a job are requested one by one; the rest count as missed.
ASK_FOR_MISSING = 5


class AnotherJobError(Exception):
    """The job is not the one of the cursor, but a later one with the same name."""


@dataclass(frozen=True)
class FirstAnswer:
    """The answer to the first request for a job; ``trouble`` if its only open build could not be read."""

    listing: Listing
    trouble: JenkinsError | None = None


class JobReader:
    """Reads the jobs of one controller.

    ``report_from`` (UTC ms): builds that ended earlier are history. Builds in ``missed`` are read if they are listed.

    Methods raise :class:`JenkinsError`; a problem with a single build is recorded in the look.
    """

    def __init__(self, client: JenkinsClient, clock: Clock, report_from: int, missed: MissedBuilds) -> None:
        self._client = client
        self._missed = missed
        self._clock = clock
        self._report_from = report_from

    def ask_ahead(self, candidate: Candidate) -> FirstAnswer | None:
        """Like :meth:`ask`, but in another thread and in advance; None if the answer is too large to wait in memory."""
        try:
            return self._ask(candidate, ahead=True)
        except TooLargeError:
            return None

    def ask(self, candidate: Candidate) -> FirstAnswer:
        """The first and usually the only request for a job."""
        return self._ask(candidate, ahead=False)

    def _ask(self, candidate: Candidate, *, ahead: bool) -> FirstAnswer:
        if build := candidate.only_open:
            try:
                raw = self._client.build(candidate.job.full_name, build.number, ahead=ahead)
                return FirstAnswer(Listing([raw]))
            except (ControllerDownError, StoppedError):
                raise
            except JenkinsError as error:
                if ahead and isinstance(error, TooLargeError):
                    raise
                return FirstAnswer(Listing([]), error)
        return FirstAnswer(self._client.builds(candidate.job, *candidate.question(), ahead=ahead))

    def read(self, candidate: Candidate, first: FirstAnswer, look: Look) -> Iterator[list[RawBuild]]:
        """Yield the final builds page by page, and complete ``look``.

        Also raises :class:`AnotherJobError`: then do not move the cursor, but what was yielded may be kept.
        """
        now = self._clock.now_ms()
        sorter = Sorter(candidate, look, report_from=self._report_from, now=now, was_missed=self._missed.has)
        for page in self.pages(candidate, first.listing):
            if candidate.cursor is not None and _contradicts(candidate.cursor, candidate.open_builds, page):
                raise AnotherJobError
            yield sorter.listed([raw for raw in page if raw.number not in look.numbers])
        yield from self._read_unlisted(candidate, look, sorter, first.trouble)
        if candidate.moved:
            sorter.expect()

    def pages(self, candidate: Candidate, first: Listing) -> Iterator[list[RawBuild]]:
        """The listing, and further pages up to a known build, which shows whether it is still the same job."""
        job, first_new = candidate.job, candidate.first_new
        page, places = first.builds, first.places
        yield _below(page, candidate.next_number)
        _, end = candidate.question()
        if not candidate.moved or end < PAGE:
            return
        # Lists may be a little short, because Jenkins omits builds that it cannot read.
        furthest = max(first_new, 2)
        while (
            page and places >= PAGE - OVERLAP and (oldest := min(page, key=lambda raw: raw.number)).number >= furthest
        ):
            if candidate.cursor is None and oldest.ended_at < self._report_from:
                return
            begin = max(end - OVERLAP, 0)
            listing = self._client.builds(job, begin, begin + PAGE)
            following, places = listing.builds, listing.places
            if following and following[0].number < oldest.number and not listing.too_large:
                end = begin  # more builds were deleted meanwhile than pages overlap: go further back
                continue
            page, end = following, begin + PAGE
            yield _below(page, candidate.next_number)

    def _read_unlisted(
        self, candidate: Candidate, look: Look, sorter: Sorter, trouble: JenkinsError | None
    ) -> Iterator[list[RawBuild]]:
        """Handle open builds that no list shows: they still run, or are requested by number.

        Requests take time, so results are yielded from time to time.
        """
        final: list[RawBuild] = []
        asked = 0
        for build in candidate.open_builds:
            if build.number in look.numbers:
                continue
            if build.number in candidate.running | candidate.resting:
                look.open_builds.append(build)
            elif trouble is not None:
                sorter.not_shown(build, trouble)
            elif sorter.is_only_expected(build) and (sorter.still_waiting(build) or asked >= ASK_FOR_MISSING):
                sorter.wait_or_miss(build)
            else:
                asked += 1
                final += self._ask_for(candidate.job.full_name, build, sorter)
            if len(final) >= PAGE:
                yield final
                final = []
        yield final

    def _ask_for(self, job: str, build: OpenBuild, sorter: Sorter) -> list[RawBuild]:
        try:
            raw = self._client.build(job, build.number)
        except (ControllerDownError, StoppedError):
            raise
        except JenkinsError as error:
            sorter.not_shown(build, error)
            return []
        return [raw] if sorter.shown(build, raw) else []


def _contradicts(cursor: JobCursor, followed: tuple[OpenBuild, ...], builds: list[RawBuild]) -> bool:
    """Whether these builds cannot belong to the job of the cursor: known numbers have later starts now.

    Earlier starts of new numbers do not count: the controller's clock may have been set back.
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
    """Without builds that started after the job's next number was read: they are new in the next poll."""
    return [raw for raw in builds if raw.number < next_build_number]
