"""The only way into the outbox: stores facts, derived deployments, and how far a poll has read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from agent.deployments.derive import derive
from agent.deployments.nothing import id_is_taken, why_nothing
from agent.deployments.plan import Moment, kept_builds, plan
from agent.model.deployment import State
from agent.model.fact import Kind, fresh, seen
from agent.model.ids import run_id
from agent.model.secrets import trace
from agent.outbox.values import Change, SetAside

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from agent.deployments.derive import Derived, Rules
    from agent.model.deployment import Deployment
    from agent.model.fact import Fact
    from agent.model.keys import Run
    from agent.outbox.interface import Outbox
    from agent.outbox.values import Progress, RunState

log = structlog.get_logger("ingest")

# The number of runs with expired hold time that are released in one transaction.
RELEASED_TOGETHER = 200
# If an id is taken, planning is repeated with another id, at most this many times.
_TRIES = 20


@dataclass
class Accepted:
    """The result of accepting facts: deployments that are new or changed and not held.

    ``nothing``: finished runs without a deployment, and why. ``silenced``: runs without one because another deployment
    has its id. ``before``: the numbers of deployments that existed before. ``gone``: held deployments that were merged
    into another one, each with that one.
    """

    deployments: list[Deployment] = field(default_factory=list)
    held: list[Deployment] = field(default_factory=list)
    before: set[int] = field(default_factory=set)
    gone: list[tuple[Deployment, Deployment | None]] = field(default_factory=list)
    known: int = 0
    nothing: dict[Run, str] = field(default_factory=dict)
    silenced: dict[Run, str] = field(default_factory=dict)

    def of(self, run: Run) -> list[Deployment]:
        """The deployments of one run, including held ones."""
        return [each for each in (*self.deployments, *self.held) if each.run == run]


class Ingest:
    """Turns facts into deployments according to the rules.

    Every method raises :class:`agent.outbox.values.OutboxError`; nothing of that call is then stored.
    """

    def __init__(self, outbox: Outbox, rules: Rules, hold_for_ms: int) -> None:
        self.outbox = outbox
        self.rules = rules
        self._hold_for_ms = hold_for_ms

    def accept(self, facts: Sequence[Fact], progress: Progress | None = None) -> Accepted:
        """Store facts, the deployments derived from them, and how far a poll has read, in one transaction.

        Known facts change nothing. If deriving a run fails unexpectedly, the run is set aside and its facts are stored.
        """
        accepted = Accepted()
        with self.outbox.transaction():
            if progress is not None:
                self.outbox.save_progress(progress)
            for together in _apart(facts):
                self._accept(together, accepted)
        _tell(accepted)
        return accepted

    def derive_again(self, runs: Collection[Run]) -> Accepted:
        """Derive these runs again from their stored facts by the current rules."""
        accepted = Accepted()
        with self.outbox.transaction():
            self._plan(self.outbox.load(runs), {}, accepted)
        return accepted

    def release(self) -> list[Deployment]:
        """Release held deployments that waited long enough for the poller's final fact; returns them."""
        released: list[Deployment] = []
        while runs := self._held_long():
            with self.outbox.transaction():
                accepted = Accepted()
                self._plan(self.outbox.load(runs), {}, accepted)
            _tell(accepted)
            released += accepted.deployments
            if not accepted.deployments:
                break
        return released

    def _held_long(self) -> list[Run]:
        """Runs with deployments that were held for at least ``hold_for``. Most of the time there are none."""
        return self.outbox.held(self.outbox.clock.now_ms() - self._hold_for_ms + 1)[:RELEASED_TOGETHER]

    # ---- one transaction

    def _accept(self, facts: Mapping[Run, list[Fact]], accepted: Accepted) -> None:
        states = self.outbox.load(facts)
        accepted.before |= {row.number for state in states.values() for row in state.deployments}
        new = {run: _new(states[run], said) for run, said in facts.items()}
        accepted.known += sum(len(said) - len(new[run]) for run, said in facts.items())
        self._plan({run: states[run] for run, said in new.items() if said}, new, accepted)

    def _plan(self, states: Mapping[Run, RunState], new: Mapping[Run, list[Fact]], accepted: Accepted) -> None:
        """Plan these runs; repeat those with an id that turns out to be taken."""
        taken: dict[str, int] = {}
        wanted: dict[Run, list[str]] = {}
        for _ in range(_TRIES):
            planned = {run: self._planned(state, new.get(run, []), taken) for run, state in states.items()}
            accepted.gone += [gone for run, rows in planned.items() for gone in _gone(states[run], rows)]
            refused = self.outbox.store([_change(states[run], new.get(run, []), rows) for run, rows in planned.items()])
            done = {run: rows for run, rows in planned.items() if not any(r.deployment_id in refused for r in rows)}
            for run, rows in done.items():
                _note(states[run], rows, accepted)
                if not rows and any(fact.kind is Kind.FINAL for fact in new.get(run, ())):
                    accepted.nothing[run] = why_nothing(new[run], self.rules, run.project)
                if len(rows) < len(wanted.get(run, ())):
                    self._say_whose_ids_they_are(run, taken.keys() & set(wanted[run]), accepted)
            if len(done) == len(planned):
                return
            taken |= refused
            again = planned.keys() - done.keys()
            for run in again:
                stored = [row for row in planned[run] if row.deployment_id not in refused]
                _note(states[run], stored, accepted)
            wanted = {run: [row.deployment_id or "" for row in planned[run]] for run in again}
            states, new = self.outbox.load(again), {}

    def _say_whose_ids_they_are(self, run: Run, ids: Iterable[str], accepted: Accepted) -> None:
        """Record why a build has no deployment although the rules derive one."""
        for name in ids:
            found = self.outbox.find(name)
            if found is not None and found.run != run:  # otherwise its own deployment was settled and deleted
                accepted.silenced[run] = id_is_taken(name)

    def _planned(self, state: RunState, new: Sequence[Fact], taken: Mapping[str, int]) -> list[Deployment]:
        """The deployments that a run should have; the stored ones after an unexpected exception."""
        facts, rows = (*state.facts, *new), state.deployments
        try:
            derived = derive(facts, self.rules, kept_builds(rows))
            planned = plan(derived, rows, Moment(self.outbox.clock.now_ms(), self._hold_for_ms), taken)
        except Exception as error:
            subject = run_id(state.run)
            log.exception("cannot derive deployments; the run is set aside", run=subject)
            self.outbox.set_aside(SetAside(self.outbox.clock.now_ms(), "run", subject, trace(error)))
            return list(rows)
        self._ask_for_builds(state.run, facts, derived)
        return planned

    def _ask_for_builds(self, run: Run, facts: Iterable[Fact], derived: Derived) -> None:
        """Request a reported build that the poller has not read, whether or not a rule matches.

        Not if a poll has found another build with that number since: the reported build then no longer exists.
        """
        if not self.rules.polls(run.project):
            return
        said = [fact.received_at for fact in facts if (of := derived.builds.get(fact.word)) and not of.known]
        looked = [fact.received_at for fact in facts if fact.kind in (Kind.SEEN, Kind.FINAL)]
        if said and max(said) > max(looked, default=max(said) - 1):
            self.outbox.want_builds(run.project.scope, [(run.project.name, int(run.number))])


def _apart(facts: Iterable[Fact]) -> Iterator[Mapping[Run, list[Fact]]]:
    """Facts by run, in groups in which no build occurs under two names of its job."""
    rounds: list[dict[Run, list[Fact]]] = []
    numbers: list[dict[tuple[str, str, str], Run]] = []
    for fact in facts:
        run = fact.run
        number = (run.project.provider, run.project.scope, run.number)
        for among, there in zip(rounds, numbers, strict=True):
            if there.setdefault(number, run) == run:
                among.setdefault(run, []).append(fact)
                break
        else:
            rounds.append({run: [fact]})
            numbers.append({number: run})
    yield from rounds


def _new(state: RunState, said: Sequence[Fact]) -> list[Fact]:
    """The facts of ``said`` that add information.

    Without a report, it is irrelevant when a build was seen, and so is a second reading of a settled build.
    """
    if any(fact.kind is Kind.REPORT for fact in (*state.facts, *said)):
        known = {fact.word for fact in state.facts}
        return fresh(state.facts, [_again(fact) if fact.word in known else fact for fact in said])
    added = [fact for fact in fresh(state.facts, said) if fact.kind is not Kind.SEEN and not _is_done(state, fact)]
    return added if state.facts or any(fact.kind is not Kind.GONE for fact in added) else []


def _again(fact: Fact) -> Fact:
    """A final fact for a build that was read before: its time decides to which build later reports belong."""
    if fact.kind is not Kind.FINAL or fact.started_at is None:
        return fact
    return seen(fact.run, started_at=fact.started_at, at=fact.received_at, source=fact.source)


def _is_done(state: RunState, fact: Fact) -> bool:
    """Whether a final fact is about a build whose deployments are settled and whose facts were deleted."""
    if fact.kind is not Kind.FINAL or any(
        known.kind is Kind.FINAL and known.started_at == fact.started_at for known in state.facts
    ):
        return False
    rows = [row for row in state.deployments if row.known and row.build_started_at == fact.started_at]
    return bool(rows) and all(row.state in (State.DELIVERED, State.DISCARDED) for row in rows)


def _change(state: RunState, new: Sequence[Fact], planned: Sequence[Deployment]) -> Change:
    """The difference between what is stored and what should be stored."""
    before = {row.number: row for row in state.deployments}
    stay = {row.number for row in planned}
    return Change(
        facts=tuple(new),
        inserted=tuple(row for row in planned if row.number == 0),
        rewritten=tuple(row for row in planned if row.number != 0 and row != before[row.number]),
        removed=tuple(row for row in state.deployments if row.number not in stay),
    )


def _gone(state: RunState, planned: Sequence[Deployment]) -> Iterator[tuple[Deployment, Deployment | None]]:
    stay = {row.number for row in planned}
    for row in state.deployments:
        if row.number not in stay:
            same = (each for each in planned if not set(each.names).isdisjoint(row.names))
            beside = (each for each in planned if each.content.environment == row.content.environment)
            yield row, next(same, None) or next(beside, None)


def _note(state: RunState, rows: Iterable[Deployment], accepted: Accepted) -> None:
    before = {row.number: row for row in state.deployments}
    for row in rows:
        if not row.frozen:
            accepted.held.append(row)
            continue
        was = before.get(row.number)
        if was is None or (was.state, was.revision) != (row.state, row.revision):
            accepted.deployments.append(row)


def _tell(accepted: Accepted) -> None:
    for run, reason in accepted.silenced.items():
        log.warning("no deployment", run=run_id(run), reason=reason)
    for run, reason in accepted.nothing.items():
        log.info("no deployment", run=run_id(run), reason=reason)
    for held, into in accepted.gone:
        told = {"run": run_id(held.run), "stage": held.names[0].stage or None, "environment": held.content.environment}
        if into is None:
            log.warning("held deployment removed", **told, reason="its build's deployment was settled and deleted")
        else:
            log.info("held deployment merged", **told, deployment_id=into.deployment_id)
    for each in accepted.deployments:
        if each.state is State.FAILED:
            log.error("cannot create event", deployment_id=each.deployment_id, reason=each.reason)
        elif each.state is State.PENDING:
            log.info(
                "enqueued",
                deployment_id=each.deployment_id,
                status=each.content.status.value,
                environment=each.content.environment,
                revision=each.revision if each.revision > 1 else None,
            )
