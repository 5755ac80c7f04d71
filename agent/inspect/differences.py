"""Compares the events that a run would give now with those in the outbox, field by field."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agent.config.rules import first_match, match_of_reporting
from agent.deployments.attribution import BuildRef
from agent.deployments.checkouts import Wanted
from agent.deployments.derive import derive
from agent.deployments.plan import kept_builds
from agent.deployments.repository import has_application
from agent.inspect.derived import event_view, lacks
from agent.inspect.queue import DifferenceView, differences
from agent.model import fact as facts
from agent.model.build import Build
from agent.model.deployment import Scope, State
from agent.model.fact import Kind
from agent.model.ids import part_deployment_id, run_id
from agent.model.status import Status  # noqa: TC001 - a field of a struct
from agent.model.times import parse_moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agent.deployments.derive import Derived, Part, Rules
    from agent.model.deployment import Deployment
    from agent.model.event import DeploymentEvent
    from agent.model.fact import Fact
    from agent.outbox.values import RunState

# An unconfirmed report has other times than its build by some seconds. That changes no figure.
TOLERANCE_MS = 60_000
_TIMES = ("start_time", "end_time")
# These change when the job is renamed or the address of Jenkins changes.
_NOT_COMPARED = ("logs_url", "build_number")
DELETED = "its facts are deleted, and Jenkins no longer has the build"
NO_RULE = "no [[deployment]] rule matches the job"
OTHER_PARTS = "the rules give no such event for the build"


class Change(enum.StrEnum):
    """How an event would change."""

    SAME = "same"
    CHANGED = "changed"  # the same deployment with other values
    GONE = "gone"  # the event would no longer exist
    NEW = "new"  # the event does not exist yet
    UNKNOWN = "not comparable"


class Difference(msgspec.Struct, frozen=True):
    """One event. ``before`` and ``now`` are the statuses; None if there is no event.

    ``reason``: why the event is gone or not comparable.
    """

    change: Change
    deployment_id: str
    before: Status | None = None
    now: Status | None = None
    fields: tuple[DifferenceView, ...] = ()
    reason: str = ""


class Compared(NamedTuple):
    """One event of a build, and its row in the outbox."""

    build: BuildRef
    row: Deployment | None
    difference: Difference


# ---- facts


def with_reading(said: Iterable[Fact], fresh: Fact, rules: Rules) -> list[Fact]:
    """The facts, with the build as it was just read in place of older readings.

    An older reading stays if Jenkins has since deleted data that the rules need (stages, the upstream build).
    """
    build = fresh.body
    rest: list[Fact] = []
    before: list[Fact] = []
    for fact in said:
        is_of_it = fact.kind is Kind.FINAL and fact.started_at == fresh.started_at
        (before if is_of_it else rest).append(fact)
    if isinstance(build, Build) and any(_knows_more(fact, build, rules) for fact in before):
        return [*rest, *before]
    seen = [facts.seen(fact.run, started_at=fact.started_at or 0, at=fact.received_at) for fact in before]
    return [*rest, *seen, fresh]


def _knows_more(fact: Fact, fresh: Build, rules: Rules) -> bool:
    kept, match = fact.body, match_of_reporting(rules.rules, fresh.job)
    if not isinstance(kept, Build):
        return False
    if match.rule.stage is not None and fresh.stages is None and kept.stages is not None:
        return True
    wanted = Wanted(rules.options.libraries, match.rule.repository)
    return has_application(kept, wanted) and not has_application(fresh, wanted)


# ---- one run


def compare_run(
    state: RunState, rules: Rules, *, read: int | None = None, may_be_new: bool = True, without: str = DELETED
) -> list[Compared]:
    """Compare each event of the run.

    ``read``: only the build that started at this time (UTC ms), which was just read from Jenkins.
    ``may_be_new``: False if the poller has not read the build yet.
    ``without``: the reason for builds whose facts are deleted.
    Held and discarded deployments are left out.
    """
    run = _Run(state, rules, derive(state.facts, rules, kept_builds(state.deployments)), without, read)
    found = list[Compared]()
    for ref in run.builds():
        if read is None or ref.started_at == read:
            found += [Compared(ref, *each) for each in run.compared(ref, may_be_new=may_be_new)]
    return found


@dataclass(frozen=True)
class _Run:
    """One run number. Its builds are compared one by one."""

    state: RunState
    rules: Rules
    derived: Derived
    without: str
    read: int | None

    def builds(self) -> list[BuildRef]:
        """The builds that have deployments or would have some."""
        return sorted({*map(self._build_of, self._rows()), *(part.build for part in self.derived.parts)})

    def compared(self, ref: BuildRef, *, may_be_new: bool) -> Iterator[tuple[Deployment | None, Difference]]:
        """Compare the events of one build, each with its row."""
        rows = [row for row in self._rows() if self._build_of(row) == ref]
        parts = [part for part in self.derived.parts if part.build == ref]
        if reason := self._not_comparable(ref, rows, parts):
            yield from ((row, _unknown(row, reason)) for row in rows if row.state is not State.DISCARDED)
            return
        pairs, left = _paired(rows, parts)
        gone = OTHER_PARTS if first_match(self.rules.rules, self.state.run.project.name) else NO_RULE
        for row, part in pairs:
            difference = _difference(row, part, gone)
            was_or_is = difference.before is not None or difference.now is not None
            if was_or_is and row.state is not State.DISCARDED:
                yield row, difference
        held = {name for row in self.state.deployments if not row.frozen for name in row.names}
        for part in left if may_be_new else ():
            if part.final and part.content.problem is None and held.isdisjoint(part.names):
                yield None, _new(part)

    def _rows(self) -> list[Deployment]:
        return [row for row in self.state.deployments if row.frozen]

    def _build_of(self, row: Deployment) -> BuildRef:
        return self.derived.builds.get(row.anchor) or BuildRef(row.build_started_at, row.known)

    def _not_comparable(self, ref: BuildRef, rows: Sequence[Deployment], parts: Sequence[Part]) -> str:
        """Why these rows cannot be compared; empty if they can."""
        facts_ = self.state.facts
        finals = [fact for fact in facts_ if fact.kind is Kind.FINAL and fact.started_at == ref.started_at]
        said = {fact.word for fact in facts_ if fact.kind in (Kind.REPORT, Kind.UNREADABLE)}
        reported = any(word in said and build == ref for word, build in self.derived.builds.items())
        if not finals and (not reported or any(part.without_body for part in parts)):
            return self.without
        if not reported and any(row.named or row.scope is Scope.STAGE for row in rows):
            return "its report is deleted"
        if ref.started_at == self.read:
            return ""
        job = self.state.run.project.name
        lacking = [lacks(fact.body, job, self.rules) for fact in finals if isinstance(fact.body, Build)]
        return lacking[0] if lacking and all(lacking) else ""


def _paired(
    rows: Sequence[Deployment], parts: Sequence[Part]
) -> tuple[list[tuple[Deployment, Part | None]], list[Part]]:
    """Each row with its part, found by the row's own name or else by any of its names; and the remaining parts."""
    left = list(parts)
    own: dict[int, Part] = {}
    for is_own in (True, False):
        for row in rows:
            if row.number in own:
                continue
            part = next((part for part in left if _is_of(row, part, is_own=is_own)), None)
            if part is not None:
                own[row.number] = part
                left.remove(part)
    return [(row, own.get(row.number)) for row in rows], left


def _is_of(row: Deployment, part: Part, *, is_own: bool) -> bool:
    if is_own:
        return row.names[0] in part.names
    return part.reported and not set(row.names).isdisjoint(part.names)


def _difference(row: Deployment, part: Part | None, gone: str) -> Difference:
    name = row.deployment_id or run_id(row.run)
    had = event_view(name, row.content)
    has = None if part is None else event_view(name, part.content)
    if had is None or has is None:
        if had is None:
            return Difference(Change.SAME if has is None else Change.NEW, name, now=_status(has))
        why = gone if part is None else part.content.problem or ""
        return Difference(Change.GONE, name, before=had.status, reason=why)
    fields = tuple(each for each in differences(had, has) if not _is_nothing(each))
    return Difference(Change.CHANGED if fields else Change.SAME, name, had.status, has.status, fields)


def _status(event: DeploymentEvent | None) -> Status | None:
    return None if event is None else event.status


def _new(part: Part) -> Difference:
    suffix = next((each for each in part.suffixes if each), ()) if part.scope is not Scope.WHOLE else ()
    return Difference(Change.NEW, part_deployment_id(run_id(part.run), *suffix), now=part.content.status)


def _unknown(row: Deployment, reason: str) -> Difference:
    name = row.deployment_id or run_id(row.run)
    status = _status(event_view(name, row.content))
    return Difference(Change.UNKNOWN, name, status, status, reason=reason)


def _is_nothing(each: DifferenceView) -> bool:
    if each.field in _NOT_COMPARED:
        return True
    return each.field in _TIMES and abs(parse_moment(each.sent) - parse_moment(each.known)) < TOLERANCE_MS
