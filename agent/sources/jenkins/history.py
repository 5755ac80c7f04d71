"""Reads past builds page by page, for backfill and preview, independent of the poller's cursors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.config.rules import first_match
from agent.sources.jenkins.client import Listing
from agent.sources.jenkins.details import Details
from agent.sources.jenkins.errors import ControllerDownError, JenkinsError, StoppedError, TooLargeError
from agent.sources.jenkins.look import PAGE
from agent.sources.jenkins.raw import Phase
from agent.sources.jenkins.reader import OVERLAP
from agent.sources.jenkins.related import LISTED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent.config.rules import Match, Pattern, Rule
    from agent.model.build import Build
    from agent.sources.jenkins.client import JenkinsClient, Job
    from agent.sources.jenkins.raw import RawBuild


@dataclass(frozen=True)
class Span:
    """Builds that ended at or after ``since`` and before ``until`` (UTC milliseconds, Jenkins' clock)."""

    since: int
    until: int


@dataclass(frozen=True)
class Jobs:
    """Jobs that match a rule, with their rules; jobs that match none; and what could not be read."""

    deploying: list[tuple[Job, Match]]
    others: list[Job]
    problems: tuple[str, ...]


class History:
    """Reads the past of one controller. Every method raises :class:`agent.sources.jenkins.errors.JenkinsError`.

    ``libraries``: repositories that the configuration lists as libraries, not applications.
    """

    def __init__(
        self, client: JenkinsClient, controller: str, rules: Sequence[Rule], libraries: Sequence[Pattern] = ()
    ) -> None:
        self._client = client
        self._rules = rules
        self._details = Details(client, controller, libraries)

    def jobs(self) -> Jobs:
        """The visible jobs."""
        deploying, others = [], []
        snapshot = self._client.snapshot()
        for job in snapshot.jobs:
            match = first_match(self._rules, job.full_name)
            if match is None:
                others.append(job)
            else:
                deploying.append((job, match))
        return Jobs(deploying, others, snapshot.problems)

    def builds(self, job: Job, match: Match | None, span: Span, most: int | None = None) -> Iterator[list[Build]]:
        """The final builds of the span, newest first, page by page; with ``most``, the newest of the first page.

        A build that cannot be read does not hide others: its error is raised after the last page.
        """
        if job.next_build_number <= 1:
            return
        seen: set[int] = set()
        unread: list[JenkinsError] = []
        begin, end = 0, PAGE
        while True:
            listing = self._client.builds(job, begin, end)
            fresh = [raw for raw in listing.builds if raw.number not in seen]
            seen.update(raw.number for raw in fresh)
            wanted = [raw for raw in fresh if raw.phase is Phase.FINAL and span.since <= raw.ended_at < span.until]
            yield list(self._whole(wanted[:most], job, match, listing, unread))
            # A single build may have run long and ended late. A whole page that ended before the span is the end.
            over = not listing.too_large and all(raw.ended_at < span.since for raw in fresh)
            if listing.too_large:
                unread.append(TooLargeError(f"{listing.too_large} builds are too large to read"))
            if over or most is not None or listing.places < PAGE - OVERLAP:
                break
            begin, end = end - OVERLAP, end - OVERLAP + PAGE
        if unread:
            raise unread[0]

    def build(self, job: Job, match: Match | None, number: int) -> tuple[RawBuild, Build]:
        """One build in its current state, final or not: Jenkins' data, and the reduced build."""
        raw = self._client.build(job.full_name, number)
        listing = self._client.builds(job, 0, LISTED) if job.branch_job else Listing([])
        page = listing.pull_request_url
        return raw, self._details.build(raw, job, match, pull_request_url=page, listed=listing.builds)

    def _whole(
        self,
        builds: Sequence[RawBuild],
        job: Job,
        match: Match | None,
        listing: Listing,
        unread: list[JenkinsError],
    ) -> Iterator[Build]:
        page = listing.pull_request_url
        for raw in builds:
            try:
                yield self._details.build(raw, job, match, pull_request_url=page, listed=listing.builds)
            except (ControllerDownError, StoppedError):
                raise
            except JenkinsError as error:
                unread.append(error)
