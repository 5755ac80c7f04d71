"""Assigns facts to builds that share a number: a job that is created again starts at 1 again.

Polls identify a build by its exact start. A report has the time of receipt by the controller's clock. It belongs to the
newest build that had started by then (plus or minus ten minutes) and had not ended long before. A start in a report
only decides between builds that polls know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from agent.model.build import Build
from agent.model.fact import SAME_BUILD_MS, Kind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from agent.model.fact import Fact
    from agent.model.keys import Project

_NEVER = 2**62


class BuildRef(NamedTuple):
    """One of the builds with a number.

    Its exact start if a poll has seen it (``known``), else the first time of receipt (UTC ms).
    """

    started_at: int
    known: bool


@dataclass(frozen=True)
class KeptBuild:
    """A build whose facts were deleted; its deployments still show when it ran (UTC ms)."""

    project: Project
    started_at: int
    ended_at: int


@dataclass
class BuildFacts:
    """The facts of one build. ``ended_at`` None: it runs, or its end was not seen."""

    ref: BuildRef
    ended_at: int | None = None
    gone_at: int | None = None
    last_seen_at: int = 0
    names: set[Project] = field(default_factory=set)
    is_kept: bool = False
    finals: list[Fact] = field(default_factory=list)
    reports: list[Fact] = field(default_factory=list)

    def saw(self, fact: Fact) -> None:
        """Record what a poll found out about this build."""
        self.names.add(fact.run.project)
        if fact.kind is Kind.GONE:
            self.gone_at = max(self.gone_at or 0, fact.received_at)
            return
        self.last_seen_at = max(self.last_seen_at, fact.received_at)
        if isinstance(fact.body, Build):
            self.finals.append(fact)
            ends = (fact.body.ended_at, *(() if self.ended_at is None else (self.ended_at,)))
            self.ended_at = min(ends)

    @property
    def last_word_at(self) -> int:
        """Until when it may send reports (UTC ms): shortly after its end, and never once it is gone."""
        if self.ended_at is not None:
            return max(self.ended_at + SAME_BUILD_MS, self.last_seen_at)
        if self.gone_at is None or self.gone_at < self.last_seen_at:
            return _NEVER
        return self.gone_at


def attribute(facts: Iterable[Fact], kept: Iterable[KeptBuild]) -> list[BuildFacts]:
    """Group the facts of one number by build, earliest build first."""
    facts = sorted(facts, key=_order)
    builds = _known_builds(facts, kept)
    unknown: list[BuildFacts] = []
    for fact in facts:
        if fact.kind is not Kind.REPORT:
            continue
        of = _build_of(fact, builds)
        if of is None:
            of = _unknown(fact, unknown)
        of.reports.append(fact)
    return sorted([*builds, *unknown], key=lambda build: build.ref)


def _order(fact: Fact) -> tuple[int, int]:
    return fact.received_at, fact.word


def _known_builds(facts: Iterable[Fact], kept: Iterable[KeptBuild]) -> list[BuildFacts]:
    known: dict[int, BuildFacts] = {}
    for fact in facts:
        if fact.kind in (Kind.SEEN, Kind.FINAL, Kind.GONE) and fact.started_at is not None:
            known.setdefault(fact.started_at, BuildFacts(BuildRef(fact.started_at, known=True))).saw(fact)
    for build in kept:
        if build.started_at not in known:
            ref = BuildRef(build.started_at, known=True)
            known[build.started_at] = BuildFacts(ref, build.ended_at, names={build.project}, is_kept=True)
        known[build.started_at].names.add(build.project)
    return sorted(known.values(), key=lambda build: build.ref)


def _build_of(fact: Fact, builds: list[BuildFacts]) -> BuildFacts | None:
    """Builds under the project's current name have priority over those under a former name."""
    own = [build for build in builds if fact.run.project in build.names]
    return _fitting(fact, own) or (_fitting(fact, builds) if len(own) < len(builds) else None)


def _fitting(fact: Fact, builds: list[BuildFacts]) -> BuildFacts | None:
    stamp, said = fact.received_at, fact.started_at
    begun = [
        (build, _until(build, later))
        for build, later in zip_longest(builds, builds[1:])
        if build.ref.started_at - SAME_BUILD_MS <= stamp
    ]
    if said is not None:
        exact = [build for build, until in begun if _says(build, until, said)]
        if exact:
            return exact[-1]
    fits = [build for build, until in begun if stamp < max(until, build.ref.started_at + 1)]
    return fits[-1] if fits else None


def _until(build: BuildFacts, later: BuildFacts | None) -> int:
    """From when on a report does not belong to this build any more."""
    return min(build.last_word_at + 1, _NEVER if later is None else later.ref.started_at - SAME_BUILD_MS)


def _says(build: BuildFacts, until: int, said: int) -> bool:
    """Whether a reported start is within this build."""
    latest = build.last_word_at if build.ended_at is None else build.ended_at + SAME_BUILD_MS
    return build.ref.started_at - SAME_BUILD_MS <= said <= latest and said < until


def _unknown(fact: Fact, unknown: list[BuildFacts]) -> BuildFacts:
    """An unknown build: reports at most ten minutes apart belong together.

    So do reports with the same start, because two builds of one number never start in the same millisecond. And a build
    that reports a start before an earlier report was running at the time of that report.
    """
    stamp, said = fact.received_at, fact.started_at
    began = stamp if said is None else min(stamp, said)
    near = [b for b in unknown if began <= b.last_seen_at + SAME_BUILD_MS or (said is not None and said in _starts(b))]
    of = near[0] if near else BuildFacts(BuildRef(stamp, known=False))
    if not near:
        unknown.append(of)
    for other in near[1:]:  # this report shows that they are the same build
        of.reports += other.reports
        unknown.remove(other)
    of.last_seen_at = stamp
    return of


def _starts(build: BuildFacts) -> set[int | None]:
    return {fact.started_at for fact in build.reports}


def words_of(build: BuildFacts) -> Collection[int]:
    """The facts' ``word`` values, by which its deployments are found again."""
    return [fact.word for fact in (*build.finals, *build.reports)]
