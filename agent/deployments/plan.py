"""Plans deployments from the parts of a run and the stored deployments. No I/O, idempotent.

A deployment that has left ``held`` is frozen: it is never renamed and never removed, because Hivel may have it. Parts
are bound to frozen deployments permanently. A part that is not bound becomes a new deployment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.deployments.attribution import BuildRef, KeptBuild
from agent.model.deployment import Deployment, Name, Scope, State
from agent.model.fact import SAME_BUILD_MS
from agent.model.ids import limited_id, part_deployment_id, reused_number_id, run_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agent.deployments.derive import Derived, Part
    from agent.model.deployment import Content


@dataclass(frozen=True)
class Moment:
    """The time of the plan (UTC ms), and how long a deployment is held for the poller's final fact."""

    now: int
    hold_for_ms: int


def kept_builds(rows: Iterable[Deployment]) -> list[KeptBuild]:
    """The builds of frozen deployments, whether or not their facts still exist."""
    return [
        KeptBuild(row.run.project, row.build_started_at, row.build_ended_at) for row in rows if row.frozen and row.known
    ]


def plan(
    derived: Derived, rows: Sequence[Deployment], moment: Moment, taken: Mapping[str, int] | None = None
) -> list[Deployment]:
    """The deployments that a run should have; new ones have the number 0.

    ``taken``: ids that other runs' deployments, or deleted ones, have or had, with the start of their builds.
    """
    by_build: dict[BuildRef, list[Deployment]] = {}
    for row in rows:
        by_build.setdefault(_build_of(row, derived), []).append(row)
    ids = _Ids(rows, derived, taken or {})
    parts: dict[BuildRef, list[Part]] = {}
    for part in derived.parts:
        parts.setdefault(part.build, []).append(part)
    planned = list[Deployment]()
    for build in sorted({*by_build, *parts}):
        planned += _Build(by_build.get(build, []), parts.get(build, []), moment, ids).plan()
    return planned


def _build_of(row: Deployment, derived: Derived) -> BuildRef:
    """The build of a deployment, found by its first fact, because the earliest time of its facts may change.

    If its facts were deleted before a poll saw the build, it is found by time.
    """
    found = derived.builds.get(row.anchor)
    if found is not None:
        return found
    near = [] if row.known else [part.build for part in derived.parts if _at_the_same_time(row, part)]
    return max(near, default=BuildRef(row.build_started_at, row.known))


def _at_the_same_time(row: Deployment, part: Part) -> bool:
    if not row.run.project.reuses_numbers:
        return True  # there is only one build
    begun = row.build_started_at <= part.build_ended_at + SAME_BUILD_MS
    return begun and part.build_started_at <= row.build_ended_at + SAME_BUILD_MS


@dataclass
class _Build:
    """The deployments of one build."""

    rows: list[Deployment]
    parts: list[Part]
    moment: Moment
    ids: _Ids
    frozen: list[Deployment] = field(init=False)

    def __post_init__(self) -> None:
        self.frozen = [row for row in self.rows if row.frozen]

    def plan(self) -> list[Deployment]:
        held = [row for row in self.rows if not row.frozen]
        left = self._bind()
        alone = len(self.parts) == 1 and not self.frozen
        planned = list[Deployment]()
        # otherwise in their own order
        for part in sorted(left, key=lambda part: (part.scope is Scope.STAGE, part.since)):
            row = next((row for row in held if _meets(row, part)), None)
            row = row or next((row for row in held if row.anchor == part.anchor), None)
            if row is not None:
                held.remove(row)
            planned += self._new(part, row, alone=alone)
        return [*self.frozen, *planned]

    def _bind(self) -> list[Part]:
        """Bind each part to the frozen deployment that stands for it; returns the parts that are left.

        The content of a deployment comes from one part: its own or, if that is missing, the first one bound to it.
        """
        left, written = [], set[int]()
        for part in sorted(self.parts, key=self._nearest_first):
            place = self._place(part)
            if place is None:
                left.append(part)
                continue
            row = _bound(self.frozen[place], part)
            if place not in written and _may_rewrite(row, part):
                row = _rewritten(row, part, self.moment)
                written.add(place)
            self.frozen[place] = row
        return left

    def _nearest_first(self, part: Part) -> tuple[bool, bool, int]:
        own = any(row.names[0] in part.names for row in self.frozen)
        return not own, not any(_meets(row, part) for row in self.frozen), part.since

    def _place(self, part: Part) -> int | None:
        places = range(len(self.frozen))
        fits = [
            [n for n in places if _meets(self.frozen[n], part)],
            [n for n in places if self._same_environment(n, part) and self._stands_for(n, part)],
            [n for n in places if self._stands_for(n, part)],
        ]
        return next((found[0] for found in fits if found), None)

    def _same_environment(self, place: int, part: Part) -> bool:
        return self.frozen[place].content.environment == part.content.environment

    def _stands_for(self, place: int, part: Part) -> bool:
        row = self.frozen[place]
        if part.scope is Scope.RULE or not part.reported:
            return True  # what a rule derives from a build is final as soon as its first deployment is frozen
        if part.scope is Scope.STAGE:
            if row.scope is Scope.STAGE:
                return self._lost_its_start(row, part) or self._same_stage(place, part)
            by_rule = not row.named and not any(_meets(row, other) for other in self.parts)
            return by_rule and (row.content.environment in (part.content.environment, None) or _was_never(row))
        if not part.named:
            return row.scope is not Scope.STAGE
        if row.scope is Scope.STAGE:
            return False
        first_to_say = not row.named and not any(name.environment for name in row.names)
        return self._same_environment(place, part) or first_to_say or (row.scope is Scope.RULE and not row.named)

    def _same_stage(self, place: int, part: Part) -> bool:
        """The same stage at the same start, reported with another environment name or without one."""
        own, name = self.frozen[place].names[0], part.names[0]
        return (own.stage, own.start) == (name.stage, name.start) and self._same_environment(place, part)

    def _lost_its_start(self, row: Deployment, part: Part) -> bool:
        """A stage that first sent a report without a start, and later one with a start."""
        own, name = row.names[0], part.names[0]
        return (
            own.start == 0
            and (own.stage, own.environment) == (name.stage, name.environment)
            and len(row.names) == 1
            and not any(_meets(row, other) for other in self.parts)
        )

    def _new(self, part: Part, row: Deployment | None, *, alone: bool) -> list[Deployment]:
        """The deployment for a part that is not bound; none if a deleted deployment stood for it."""
        now = self.moment.now
        held_since = now if row is None or row.held_since is None else min(row.held_since, now)
        made = _made(part, row, held_since)
        if not part.final and now - held_since < self.moment.hold_for_ms:
            return [made]
        given = self.ids.give(part, self._again(part), alone=alone)
        if given is None:
            return []
        problem = part.content.problem
        frozen = replace(
            made,
            deployment_id=given,
            state=State.PENDING if problem is None else State.FAILED,
            held_since=None,
            next_attempt_at=now,
            settled_at=None if problem is None else now,
            reason=problem,
        )
        self.frozen.append(frozen)
        return []

    def _again(self, part: Part) -> tuple[str, int] | None:
        """The id of the first deployment of this stage and environment, and how many there are."""
        if part.scope is not Scope.STAGE and not part.names[0].again:
            return None
        same = [
            row.deployment_id
            for row in self.frozen
            if row.scope is part.scope
            and row.deployment_id is not None
            and _of_stage(row.names[0], row.content) == _of_stage(part.names[0], part.content)
        ]
        # Not simply the first row: of two that were held at the same time, the second may have been stored first.
        return (min(same, key=lambda name: (len(name), name)), len(same)) if same else None


def _of_stage(name: Name, content: Content) -> tuple[str, str, str | None]:
    return name.stage, name.repository, content.environment


def _meets(row: Deployment, part: Part) -> bool:
    return not set(row.names).isdisjoint(part.names)


def _made(part: Part, row: Deployment | None, held_since: int) -> Deployment:
    fresh = Deployment(
        run=part.run,
        build_started_at=part.build_started_at,
        build_ended_at=part.build_ended_at,
        known=part.build.known,
        names=part.names,
        anchor=part.anchor,
        state=State.HELD,
        content=part.content,
        reason=part.content.problem,
        created_at=held_since,
        held_since=held_since,
    )
    if row is None:
        return fresh
    return replace(fresh, number=row.number, created_at=row.created_at)


def _was_never(row: Deployment) -> bool:
    """Whether no event could be created, so that it was never sent."""
    return row.state is State.FAILED and row.content.problem is not None and row.sent_revision is None


def _joined(names: tuple[Name, ...], more: tuple[Name, ...]) -> tuple[Name, ...]:
    return tuple(dict.fromkeys((*names, *more)))


def _bound(row: Deployment, part: Part) -> Deployment:
    """The deployment with this part bound to it."""
    takes_its_place = part.scope is Scope.STAGE and row.scope is not Scope.STAGE and _was_never(row)
    names = (part.names, row.names) if takes_its_place else (row.names, part.names)
    bound = replace(row, names=_joined(*names))
    if not part.build.known:
        return bound
    return replace(bound, known=True, build_started_at=part.build_started_at, build_ended_at=part.build_ended_at)


def _may_rewrite(row: Deployment, part: Part) -> bool:
    """Whether Hivel does not have it yet, and the part is its own and not only bound to it."""
    if row.state not in (State.PENDING, State.FAILED) or row.sent_revision is not None:
        return False  # including one that was replayed after delivery: it keeps what Hivel has
    if part.without_body or row.scope is not part.scope:
        return False
    return row.scope is not Scope.RULE or row.names[0] in part.names


def _rewritten(row: Deployment, part: Part, moment: Moment) -> Deployment:
    """The deployment with the content of the part. A failed one becomes pending if the content changes."""
    if part.content == row.content:
        return row
    problem = part.content.problem
    return replace(
        row,
        content=part.content,
        revision=row.revision + 1,
        state=State.PENDING if problem is None else State.FAILED,
        next_attempt_at=moment.now if row.state is State.FAILED else row.next_attempt_at,
        settled_at=None if problem is None else moment.now,
        reason=problem,
    )


class _Ids:
    """Assigns unique ids. If another build had the same number, the start is appended to the build's id."""

    def __init__(self, rows: Iterable[Deployment], derived: Derived, taken: Mapping[str, int]) -> None:
        self._taken = taken
        self._given = {row.deployment_id: _build_of(row, derived) for row in rows if row.deployment_id is not None}

    def give(self, part: Part, again: tuple[str, int] | None, *, alone: bool) -> str | None:
        """An id for this part; None if a deleted deployment, or one of which only the id is known, stood for it."""
        for name in self._choices(part, again, alone=alone):
            owner = self._given.get(name)
            if owner is None and name not in self._taken:
                self._given[name] = part.build
                return name
            if owner is None and self._is_this(part, self._taken[name]):
                return None
            if owner not in (None, part.build) or owner is None:
                dated = reused_number_id(name, part.build_started_at)
                if dated not in self._given and dated not in self._taken:
                    self._given[dated] = part.build
                    return dated
                if dated not in self._given:
                    return None  # another build with a reused number, which was deleted
        raise AssertionError("all ids of this part are taken")

    @staticmethod
    def _is_this(part: Part, started_at: int) -> bool:
        """Whether an id belongs to this build. For an id given in a report, only the time can be compared."""
        if not part.run.project.reuses_numbers:
            return True
        return part.build_started_at - SAME_BUILD_MS <= started_at <= part.build_ended_at + SAME_BUILD_MS

    def _choices(self, part: Part, again: tuple[str, int] | None, *, alone: bool) -> Iterable[str]:
        base = run_id(part.run)
        if again is not None:
            first, count = again
            yield from (limited_id(f"{first}~{n}") for n in range(count + 1, count + 1000))
        suffixes = [suffix for suffix in part.suffixes if suffix or alone or len(part.suffixes) == 1]
        yield from (part_deployment_id(base, *suffix) for suffix in suffixes)
        last = suffixes[-1]
        yield from (part_deployment_id(base, *last, str(n)) for n in range(2, 1000))
