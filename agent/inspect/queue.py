"""The data of ``queue list`` and ``queue show``: deployments, the facts about their builds, and what Hivel has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from agent.deployments.attribution import BuildRef
from agent.deployments.derive import derive
from agent.deployments.plan import kept_builds
from agent.deployments.provisional import shown_ids
from agent.inspect.derived import NO_STAGES, event_view, is_of, lacks
from agent.model.build import Build
from agent.model.deployment import Scope, State
from agent.model.event import DeploymentEvent  # noqa: TC001 - a field of a struct
from agent.model.fact import Body, Kind
from agent.model.ids import limited_id, run_id
from agent.model.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.deployments.derive import Derived, Part, Rules
    from agent.model.deployment import Deployment
    from agent.model.fact import Fact
    from agent.outbox.interface import Outbox
    from agent.outbox.values import Attempt, RunState


class RunView(msgspec.Struct, frozen=True):
    """The run of a deployment. If only the id is known, ``number`` is the id and the other fields are empty."""

    provider: str
    scope: str
    project: str
    number: str
    attempt: int


class EventView(msgspec.Struct, frozen=True):
    """A deployment in ``queue list --json``. Times are RFC 3339. ``event``: the payload, or None if it is not valid.

    ``deployment_id``: for a held deployment, the id that it would get now. ``revision`` grows with every change of the
    content; ``sent_revision`` is the revision that Hivel has, 0 if that is not known. ``held_until``: when a held
    deployment is sent unconfirmed. ``ended_at``: the end of the deployment, which ``--since`` and ``--until`` compare.
    """

    id: int
    deployment_id: str
    state: State
    reason: str | None
    attempts: int
    created_at: str
    next_attempt_at: str | None
    settled_at: str | None
    event: DeploymentEvent | None
    run: RunView
    build_started_at: str | None
    ended_at: str | None
    held_until: str | None
    revision: int
    sent_revision: int | None


# The columns of the CSV form of deployments.
COLUMNS = (
    *("id", "state", "deployment_id", "status", "environment", "controller", "job", "build", "ended_at", "enqueued_at"),
    *("settled_at", "attempts", "repo_url", "branch", "commit_hash", "reason"),
)


def cells(view: EventView) -> tuple[object, ...]:
    """A line of the CSV form."""
    event, run = view.event, view.run
    said = (None, None) if event is None else (event.status.value, event.environment)
    code = (None, None, None) if event is None else (event.repo_url, event.branch, event.commit_hash)
    times = (view.ended_at, view.created_at, view.settled_at)
    of = (run.scope, run.project, run.number)
    return (view.id, view.state.value, view.deployment_id, *said, *of, *times, view.attempts, *code, view.reason)


class AttemptView(msgspec.Struct, frozen=True):
    """An attempt in ``queue show --json``; ``at`` is RFC 3339, ``duration_ms`` milliseconds, ``n`` counts from 1."""

    n: int
    at: str
    duration_ms: int
    http_status: int | None
    verdict: str
    answer: str


class FactView(msgspec.Struct, frozen=True):
    """A fact from ``source`` about the build. Times are RFC 3339, by the controller's clock.

    ``team``: the team whose token was used. ``body``: a finished build, a report, or the text of an unreadable report.
    """

    source: str
    kind: Kind
    received_at: str
    started_at: str | None
    team: str | None
    body: Body


class DifferenceView(msgspec.Struct, frozen=True):
    """A field with another value than the one that Hivel has."""

    field: str
    sent: Any
    known: Any


class KnownView(msgspec.Struct, frozen=True):
    """What the facts and the current rules give for a deployment that Hivel has.

    ``event`` None: the deployment would no longer exist, or it would have no valid event because of ``reason``.
    """

    event: DeploymentEvent | None
    reason: str | None
    differences: list[DifferenceView]


class ActionView(msgspec.Struct, frozen=True):
    """What a person did with the deployment; ``at`` is RFC 3339."""

    at: str
    what: str
    who: str
    reason: str | None


class DetailView(msgspec.Struct, frozen=True):
    """``queue show --json``: the event, the attempts, and the facts about its build.

    ``attempts``: the first failed one and the last ones. ``source``: the finished build as it was read. ``known``: for
    a delivered deployment, what would be sent now; None if the facts are deleted.
    """

    event: EventView
    attempts: list[AttemptView]
    source: Build | None
    facts: list[FactView]
    known: KnownView | None
    actions: list[ActionView]


class Queue:
    """Reads deployments with the current rules; ``hold_for_ms``: how long a deployment is held at most."""

    def __init__(self, outbox: Outbox, rules: Rules, hold_for_ms: int) -> None:
        self._outbox = outbox
        self._rules = rules
        self._hold_for_ms = hold_for_ms

    def find(self, name: str) -> Deployment | None:
        """Find a deployment by its id, by the id that it would get while it is held, or by its number."""
        found = self._outbox.find(name)
        if found is not None and found.deployment_id == name:
            return found
        for state in self._outbox.load(self._outbox.held()).values():
            ids = self._shown_ids(state)
            for row in state.deployments:
                if row.deployment_id is None and ids[row.number] == name:
                    return row
        return found

    def views(self, rows: Sequence[Deployment], state: RunState | None = None) -> list[EventView]:
        """The deployments as printed. ``state``: of their run, if it was loaded already."""
        ids = self.ids(rows, state)
        return [self._view(row, ids[row.number]) for row in rows]

    def ids(self, rows: Iterable[Deployment], state: RunState | None = None) -> dict[int, str]:
        """The ids by number; for held deployments, the ids that they would get now. ``state``: as above."""
        rows = list(rows)
        ids = {row.number: row.deployment_id for row in rows if row.deployment_id is not None}
        held = [row for row in rows if row.deployment_id is None]
        states = self._outbox.load({row.run for row in held}) if held and state is None else {}
        for row in held:
            shown = self._shown_ids(state or states[row.run])
            ids[row.number] = shown.get(row.number) or limited_id(run_id(row.run))  # released since it was read
        return ids

    def detail(self, row: Deployment, state: RunState | None = None) -> DetailView:
        """Everything that is known of one deployment. ``state``: of its run, if it was loaded already."""
        state = state or self._outbox.load([row.run])[row.run]
        derived = self._derived(state)
        said = list(state.facts) if derived is None else _of_build(state.facts, row, derived)
        return DetailView(
            event=self.views([row], state)[0],
            attempts=[_attempt_view(each) for each in self._outbox.attempts(row)],
            source=_source(said),
            facts=[fact_view(each) for each in said],
            known=None if derived is None or not said else _known(row, derived),
            actions=[
                ActionView(rfc3339(each.at), each.what, each.who, each.reason or None)
                for each in self._outbox.actions(row)
            ],
        )

    def differences(self, row: Deployment, state: RunState) -> list[DifferenceView]:
        """The fields that Hivel has with other values; ``state``: the deployment's run."""
        derived = self._derived(state)
        known = None if derived is None else _known(row, derived)
        return [] if known is None else known.differences

    def caution(self, row: Deployment) -> str | None:
        """What a user should know before sending this deployment again, or None."""
        state = self._outbox.load([row.run])[row.run]
        if self.differences(row, state):
            return f"sent unchanged, but other values are known now; see: hivel-agent queue show {row.number}"
        builds = [each for fact in state.facts if (each := build_of_fact(fact)) is not None]
        missing = [lacks(each, each.job, self._rules) for each in builds if each.started_at == row.build_started_at]
        is_whole = row.state is State.FAILED and row.scope is Scope.WHOLE and NO_STAGES in missing
        return f"one event for the whole build: {NO_STAGES}" if is_whole else None

    def _shown_ids(self, state: RunState) -> dict[int, str]:
        try:
            return shown_ids(state.facts, state.deployments, self._rules)
        except Exception:  # noqa: BLE001 - unexpected; the run was set aside when the error occurred first
            return {row.number: row.deployment_id or limited_id(run_id(row.run)) for row in state.deployments}

    def _derived(self, state: RunState) -> Derived | None:
        try:
            return derive(state.facts, self._rules, kept_builds(state.deployments))
        except Exception:  # noqa: BLE001 - as above; the stored data can still be shown
            return None

    def _view(self, row: Deployment, deployment_id: str) -> EventView:
        project = row.run.project
        pending, held = row.state is State.PENDING, row.state is State.HELD
        return EventView(
            id=row.number,
            deployment_id=deployment_id,
            state=row.state,
            reason=row.reason,
            attempts=row.attempts,
            created_at=rfc3339(row.created_at),
            next_attempt_at=rfc3339(row.next_attempt_at) if pending else None,
            settled_at=moment(row.settled_at),
            event=event_view(deployment_id, row.content),
            run=RunView(project.provider, project.scope, project.name, row.run.number, row.run.attempt),
            build_started_at=moment(row.build_started_at),
            ended_at=moment(row.content.ended_at),
            held_until=moment(row.held_since + self._hold_for_ms) if held and row.held_since is not None else None,
            revision=row.revision,
            sent_revision=row.sent_revision,
        )


def moment(ms: int | None) -> str | None:
    """In RFC 3339. None also for a time outside the years 1 to 9999, so that the rest can be shown."""
    try:
        return None if ms is None else rfc3339(ms)
    except OverflowError:
        return None


def _attempt_view(attempt: Attempt) -> AttemptView:
    return AttemptView(
        attempt.n, rfc3339(attempt.at), attempt.duration_ms, attempt.http_status, attempt.verdict, attempt.answer
    )


# ---- facts


def _of_build(facts: Iterable[Fact], row: Deployment, derived: Derived) -> list[Fact]:
    """The facts of this deployment's build, and facts that belong to no known build."""
    build = derived.builds.get(row.anchor) or BuildRef(row.build_started_at, row.known)
    return [
        fact
        for fact in facts
        if (
            derived.builds.get(fact.word, build) == build
            if fact.kind in (Kind.REPORT, Kind.UNREADABLE)
            else fact.started_at == build.started_at
        )
    ]


def fact_view(fact: Fact) -> FactView:
    """A fact as printed."""
    return FactView(
        source=fact.source,
        kind=fact.kind,
        received_at=moment(fact.received_at) or str(fact.received_at),
        started_at=moment(fact.started_at),
        team=fact.principal or None,
        body=fact.body,
    )


def _source(facts: Sequence[Fact]) -> Build | None:
    """The latest reading of the finished build."""
    return next((build for fact in reversed(facts) if (build := build_of_fact(fact)) is not None), None)


def build_of_fact(fact: Fact) -> Build | None:
    """A finished build with the names of its key; None for other facts."""
    if not isinstance(fact.body, Build):
        return None
    project = fact.run.project
    return replace(fact.body, controller=project.scope, job=project.name, number=int(fact.run.number))


# ---- differences from Hivel


def _known(row: Deployment, derived: Derived) -> KnownView | None:
    if (row.state is not State.DELIVERED and row.sent_revision is None) or row.deployment_id is None:
        return None
    part = part_of(row, derived)
    if part is None:
        return KnownView(None, None, [])
    if part.without_body:
        return None
    sent, known = event_view(row.deployment_id, row.content), event_view(row.deployment_id, part.content)
    return KnownView(known, part.content.problem, differences(sent, known))


def part_of(row: Deployment, derived: Derived) -> Part | None:
    """The part with the deployment's name, else one with its scope, else any of its parts."""
    parts = [part for part in derived.parts if is_of(row, part, derived)]
    own = [part for part in parts if part.scope is row.scope]
    first = [part for part in own if row.names[0] in part.names]
    return next(iter([*first, *own, *parts]), None)


def differences(sent: DeploymentEvent | None, known: DeploymentEvent | None) -> list[DifferenceView]:
    """The fields that differ between two events of one deployment; empty if one of them is missing."""
    if sent is None or known is None:
        return []
    had, has = msgspec.to_builtins(sent), msgspec.to_builtins(known)
    return [
        DifferenceView(field, had.get(field), has.get(field))
        for field in dict.fromkeys([*had, *has])
        if had.get(field) != has.get(field)
    ]
