"""The figures of DORA by environment, repository and ISO week. The definitions are in docs/dora.md.

The command line prints them. Each figure has the query that selects its deployments, with the names of the options of
``queue list``. Durations are in milliseconds, moments are RFC 3339 in UTC.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agent.inspect.dora.weeks import Span, name_of, whole_week
from agent.model.deployment import State
from agent.model.status import Status
from agent.model.times import rfc3339
from agent.model.weeks import DAY_MS
from agent.outbox.tally import Series, Tally, by_week, unpacked

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.outbox.tally import DeployedWeek, Sums, Unrecovered
    from agent.outbox.values import Deployed

# What was deployed, whatever its delivery state. Only discarded deployments do not count.
STATES = tuple(state for state in State if state is not State.DISCARDED)
# Open failures that are listed one by one for each environment and repository, the newest first.
LISTED = 20


class Query(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A selection of deployments, with the names of the options of ``queue list``."""

    since: str
    until: str
    environment: str
    repo: str
    state: tuple[State, ...]
    status: Status | None = None


class Count(msgspec.Struct, frozen=True, gc=False):
    """A number of deployments."""

    count: int
    query: Query


class Frequency(msgspec.Struct, frozen=True, gc=False):
    """Successful deployments. ``days_with``: days in UTC with at least one; ``days``: all days of the span."""

    count: int
    days_with: int
    days: int
    query: Query


class Share(msgspec.Struct, frozen=True, gc=False):
    """Failed deployments. ``share``: of the successful and failed ones together; None if there are none."""

    count: int
    of: int
    share: float | None
    query: Query


class Times(msgspec.Struct, frozen=True, gc=False):
    """Measured times. ``count`` of the ``of`` selected deployments could be measured, which is the ``coverage``.

    The percentiles are by nearest rank; None if nothing was measured.
    """

    count: int
    of: int
    coverage: float | None
    median_ms: int | None
    p90_ms: int | None
    query: Query


class Estimate(msgspec.Struct, frozen=True, gc=False):
    """Deployments that are probably rollbacks or rework, among the ``of`` successful ones.

    ``of`` rollbacks: those whose commit is known.
    """

    count: int
    of: int
    query: Query
    estimated: bool = True


class Figures(msgspec.Struct, frozen=True):
    """The figures of one span. ``time_to_next_success`` counts in the week in which the failed deployment ended."""

    successful: Frequency
    failed: Share
    canceled: Count
    unknown: Count
    time_to_next_success: Times
    duration: Times
    lead_time: Times
    rollbacks: Estimate
    rework: Estimate


class Week(msgspec.Struct, frozen=True):
    """One ISO week. ``complete`` is False if only a part of the week is in the span of all figures."""

    week: str
    since: str
    until: str
    complete: bool
    figures: Figures


class OpenFailure(msgspec.Struct, frozen=True, gc=False):
    """A failed deployment without a later success. ``id``: its number in ``queue list``."""

    id: int
    ended_at: str


class OpenFailures(msgspec.Struct, frozen=True):
    """All of them are counted, the newest are listed. The query is None if there are none."""

    count: int
    newest: tuple[OpenFailure, ...]
    query: Query | None


class Group(msgspec.Struct, frozen=True):
    """The deployments of one repository in one environment."""

    environment: str
    repo: str
    total: Figures
    open_failures: OpenFailures
    weeks: tuple[Week, ...]


class Dora(msgspec.Struct, frozen=True):
    """The figures of all environments and repositories in order.

    ``incomplete``: deployments without environment or repository, which are in no figure. ``first_ended_at``: the end
    of the first deployment in the span.
    """

    since: str
    until: str
    first_ended_at: str | None
    incomplete: int
    groups: tuple[Group, ...]


class WeekCounts(NamedTuple):
    """One week of all places together."""

    week: str
    successful: int
    failed: int


class Collected:
    """Deployments by environment, repository and week. They are made into figures only for what is shown.

    They ended within the span and come, at each place, in the order of their ends.
    """

    def __init__(self, deployed: Iterable[Deployed | DeployedWeek], span: Span) -> None:
        self._weeks: defaultdict[tuple[str, str], list[tuple[int, Sums]]] = defaultdict(list)
        self._span = span
        self._first: int | None = None
        self._incomplete = 0
        for environment, repo, week, sums in by_week(deployed):
            if self._first is None or sums.first_ended_at < self._first:
                self._first = sums.first_ended_at
            if environment and repo:
                self._weeks[environment, repo].append((week, sums))
            else:
                self._incomplete += sums.deployments

    def by_week(self) -> list[WeekCounts]:
        """All places together, each week of the span."""
        success, failed = Counter[int](), Counter[int]()
        for weeks in self._weeks.values():
            for number, sums in weeks:
                success[number] += sums.success
                failed[number] += sums.failed
        return [WeekCounts(name_of(number), success[number], failed[number]) for number in self._span.weeks]

    @property
    def places(self) -> list[tuple[str, str]]:
        """Environments and repositories, those with the most successful deployments first."""
        number = {place: sum(sums.success for _, sums in weeks) for place, weeks in self._weeks.items()}
        return sorted(number, key=lambda place: (-number[place], place))

    def dora(self, places: Iterable[tuple[str, str]] | None = None, *, weeks: bool = True) -> Dora:
        """The figures of these places, or of all. Without ``weeks`` each group has its total alone."""
        whole = _part(self._span)
        parts = [(number, _part(self._span.in_week(number))) for number in self._span.weeks] if weeks else []
        chosen = self._weeks if places is None else places
        return Dora(
            since=whole.since,
            until=whole.until,
            first_ended_at=None if self._first is None else rfc3339(self._first),
            incomplete=self._incomplete,
            groups=tuple(_group(place, Series(self._weeks[place]), whole, parts) for place in sorted(chosen)),
        )


def dora(deployed: Iterable[Deployed | DeployedWeek], span: Span) -> Dora:
    """All figures of these deployments: see :class:`Collected`."""
    return Collected(deployed, span).dora()


def percentile(ordered: Sequence[int], percent: int) -> int | None:
    """The nearest rank: the smallest value with at least ``percent`` % of all values at or below it."""
    return ordered[-(-len(ordered) * percent // 100) - 1] if ordered else None


class _Part(NamedTuple):
    """A span with its ends as text and its number of days: the same for all groups."""

    span: Span
    since: str
    until: str
    days: int


def _part(span: Span) -> _Part:
    days = -(-span.until // DAY_MS) - span.since // DAY_MS
    return _Part(span, rfc3339(span.since), rfc3339(span.until), days)


def _group(place: tuple[str, str], series: Series, whole: _Part, parts: list[tuple[int, _Part]]) -> Group:
    total, none = Tally.total(series.weeks.values()), Tally()
    weeks = []
    for number, part in parts:
        tally = series.weeks.get(number, none)
        complete = part.span == whole_week(number)
        weeks.append(Week(name_of(number), part.since, part.until, complete, _figures(tally, part, place)))
    return Group(*place, _figures(total, whole, place), _open(series.open, whole, place), tuple(weeks))


def _figures(tally: Tally, part: _Part, place: tuple[str, str]) -> Figures:
    success, failed, canceled, unknown = (
        Query(part.since, part.until, *place, STATES, status)
        for status in (Status.SUCCESS, Status.FAILED, Status.CANCELED, Status.UNKNOWN)
    )
    both = tally.success + tally.failed
    return Figures(
        successful=Frequency(tally.success, tally.days, part.days, success),
        failed=Share(tally.failed, both, _share(tally.failed, both), failed),
        canceled=Count(tally.canceled, canceled),
        unknown=Count(tally.unknown, unknown),
        time_to_next_success=_times(sorted(unpacked(tally.recovery)), tally.failed, failed),
        duration=_times(unpacked(tally.durations), tally.success, success),
        lead_time=_times(unpacked(tally.lead), tally.success, success),
        rollbacks=Estimate(tally.rollbacks, tally.commits, success),
        rework=Estimate(tally.rework, tally.success, success),
    )


def _times(ordered: Sequence[int], of: int, query: Query) -> Times:
    share = _share(len(ordered), of)
    return Times(len(ordered), of, share, percentile(ordered, 50), percentile(ordered, 90), query)


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _open(failures: list[Unrecovered], whole: _Part, place: tuple[str, str]) -> OpenFailures:
    if not failures:
        return OpenFailures(0, (), None)
    newest = tuple(OpenFailure(each.number, rfc3339(each.ended_at)) for each in failures[: -LISTED - 1 : -1])
    query = Query(rfc3339(failures[0].ended_at), whole.until, *place, STATES, Status.FAILED)
    return OpenFailures(len(failures), newest, query)
