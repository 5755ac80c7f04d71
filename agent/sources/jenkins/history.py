"""Builds of the past: read page by page for a backfill or a preview, apart from the poller's cursors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.config.rules import first_match
from agent.deployments.legacy import derive, to_json
from agent.sources.jenkins.raw import Phase, build_of
from agent.sources.jenkins.details import Enricher
from agent.sources.jenkins.reader import OVERLAP, PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config.rules import Match, Rule
    from agent.deployments.legacy import Derivation, Options
    from agent.model.build import Build
    from agent.sources.jenkins.raw import RawBuild
    from agent.sources.jenkins.client import JenkinsClient, Job


@dataclass(frozen=True)
class Span:
    """Builds that ended from ``since`` on and before ``until`` (UTC milliseconds, Jenkins' clock)."""

    since: int
    until: int


@dataclass(frozen=True)
class PastBuild:
    """A final build and what comes of it; ``source`` is kept with its events."""

    build: Build
    source: str
    derivations: list[Derivation]


@dataclass(frozen=True)
class Jobs:
    """The jobs that deploy by the rules, with their rules; those that match none; and what could not be read."""

    deploying: list[tuple[Job, Match]]
    others: list[Job]
    problems: tuple[str, ...]


class History:
    """Reads the past of one controller. Every method raises :class:`agent.sources.jenkins.client.JenkinsError`."""

    def __init__(self, client: JenkinsClient, controller: str, rules: tuple[Rule, ...], options: Options) -> None:
        self._client = client
        self._controller = controller
        self._rules = rules
        self._options = options
        self._enricher = Enricher(client, controller)

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

    def builds(self, job: Job, match: Match, span: Span) -> Iterator[list[PastBuild]]:
        """The final builds of the span, newest first, page by page."""
        if job.next_build_number <= 1:
            return
        seen: set[int] = set()
        begin, end = 0, PAGE
        while True:
            listing = self._client.builds(job, begin, end)
            fresh = [raw for raw in listing.builds if raw.number not in seen]
            seen.update(raw.number for raw in fresh)
            wanted = [raw for raw in fresh if raw.phase is Phase.FINAL and span.since <= raw.ended_at < span.until]
            yield [self._derived(job, match, raw, listing.pull_request_url) for raw in wanted]
            # One build may have taken long and ended late; a whole page that ended before is the end.
            over = not fresh or all(raw.ended_at < span.since for raw in fresh)
            if over or len(listing.builds) < PAGE - OVERLAP:
                return
            begin, end = end - OVERLAP, end - OVERLAP + PAGE

    def build(self, job: Job, match: Match, number: int) -> tuple[RawBuild, PastBuild]:
        """One build, final or not, and what comes of it as it is now."""
        raw = self._client.build(job.full_name, number)
        page = self._client.builds(job, 0, 1).pull_request_url if job.branch_job else None
        return raw, self._derived(job, match, raw, page)

    def _derived(self, job: Job, match: Match, raw: RawBuild, pull_request_url: str | None) -> PastBuild:
        build = build_of(
            raw,
            controller=self._controller,
            job=job.full_name,
            branch_job=job.branch_job,
            pull_request_url=pull_request_url,
        )
        build = self._enricher.enrich(build, match)
        return PastBuild(build, to_json(build), derive(build, match, self._options))
