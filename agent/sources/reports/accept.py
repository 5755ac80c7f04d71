"""Turns a report into a fact, stores it, and says what became of it. The same for emit, intake and spool."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from agent.deployments import content as contents
from agent.deployments.provisional import shown_ids
from agent.model import fact as facts
from agent.model.deployment import Name, Scope, State
from agent.model.fact import STEP_BACK_MS, Kind, Report
from agent.model.ids import limited_id, part_deployment_id, run_id
from agent.model.keys import GIVEN_IDS
from agent.model.report import ReportError, checked
from agent.model.times import offset_ms
from agent.sources.reports.allowed import refuse_foreign_ids, refuse_other_teams
from agent.sources.reports.fields import refuse_far_times
from agent.sources.reports.given import deployment_called, said_of
from agent.sources.reports.kept import wrapped
from agent.sources.reports.pairing import paired
from agent.sources.reports.parse import Parsed, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agent.config.settings import Settings
    from agent.ingest.ingest import Ingest
    from agent.model.deployment import Deployment
    from agent.model.fact import Fact
    from agent.outbox.interface import Deployments as OutboxDeployments
    from agent.outbox.values import RunState

log = structlog.get_logger("reports")


class Outcome(enum.StrEnum):
    """The effect of a report. The values are the events in the log."""

    NEW = "reported"  # the first information about its deployment
    MERGED = "report merged"  # the deployment was known from the poller or another report
    REPEATED = "report repeated"  # an earlier report has the same content
    KEPT = "report kept"  # its build is set aside after an unexpected error
    DROPPED = "report dropped"  # its deployment no longer exists


@dataclass(frozen=True)
class Taken:
    """The result of a report. ``deployment_id`` and ``state``: of its deployment; a held one has its probable id.

    ``controller``: its poller should poll now.
    """

    deployment_id: str
    state: State
    controller: str | None = None
    outcome: Outcome = Outcome.NEW


@dataclass(frozen=True)
class Said:
    """The fact of a report. ``controller``: the one that polls its build, if any. ``earlier``: reports of this run."""

    fact: Fact
    controller: str | None = None
    earlier: tuple[Fact, ...] = ()


class Reports:
    """Accepts reports. Every method raises :class:`agent.outbox.values.OutboxError`; then nothing is stored."""

    def __init__(self, settings: Settings, ingest: Ingest) -> None:
        self._settings = settings
        self._ingest = ingest
        self.outbox = ingest.outbox

    def parse(self, report: Mapping[str, object]) -> Parsed:
        """Parse a report, without access to the outbox.

        Raises :class:`agent.model.report.ReportError` if it is not valid.
        """
        return parse(checked(report), self._settings.controllers)

    def take(self, report: Mapping[str, object], *, source: str, at: int, principal: str = "") -> Taken:
        """Store one report; it is on the disk when this returns. ``at``: its time (UTC ms) by this machine's clock.

        Raises :class:`agent.model.report.ReportError` if it is not valid.
        """
        parsed = self.parse(report)
        with self.outbox.transaction():
            said = self.read(parsed, source=source, at=at, principal=principal)
            [taken] = self.accept([said])
        tell([taken])
        return taken

    def keep(self, report: Mapping[str, object], local: OutboxDeployments, principal: str) -> Taken:
        """Store a report on this machine while the outbox cannot be reached; it is on the disk when this returns.

        Raises :class:`agent.model.report.ReportError` if it is not valid. What only the outbox knows is checked later.
        """
        parsed = self.parse(report)
        local.add_report(wrapped(report, principal))
        name = limited_id(run_id(parsed.run))
        log.info("report kept on this machine", deployment_id=name, reason="the outbox cannot be reached now")
        return Taken(name, State.HELD)

    def read(self, parsed: Parsed, *, source: str, at: int, principal: str = "", behind: Sequence[Said] = ()) -> Said:
        """The fact of a report. ``behind``: earlier reports of the same transaction that are not stored yet.

        Raises :class:`agent.model.report.ReportError` if it is incomplete or not allowed.
        """
        offset = self._offset_ms(parsed.controller)
        refuse_far_times(parsed.said.started_at, parsed.said.ended_at, self.outbox.clock.now_ms() + offset)
        at += offset
        found = None
        if parsed.run.project == GIVEN_IDS:
            found = deployment_called(self.outbox, parsed.run.number, self._ingest.rules)
        about = parsed if found is None else Parsed(found.run, parsed.said)
        refuse_other_teams(principal, about, found, self._settings)
        if found is not None:
            scope = found.run.project.scope
            polled = scope if any(each.name == scope for each in self._settings.controllers) else None
            parsed = Parsed(found.run, said_of(found, parsed.said), polled)
            at = min(at, max(found.build_started_at, found.build_ended_at))
        else:
            refuse_foreign_ids(parsed, self._settings)
            if not parsed.run.project.reuses_numbers:
                self._refuse_what_is_incomplete(parsed.said, at)
                parsed = paired(parsed, source, self.outbox, [each.fact for each in behind])
        fact = facts.report(parsed.run, parsed.said, source=source, at=at, principal=principal)
        known = [*self.outbox.facts(parsed.run), *(each.fact for each in behind if each.fact.run == parsed.run)]
        if (later := _behind(known, fact)) != at:
            fact = facts.report(parsed.run, parsed.said, source=source, at=later, principal=principal)
        return Said(fact, parsed.controller, tuple(each for each in known if each.kind is Kind.REPORT))

    def accept(self, said: Sequence[Said]) -> list[Taken]:
        """Store facts in the transaction of the caller; returns the result of each."""
        before = self._ingest.accept([each.fact for each in said]).before
        states = self.outbox.load({each.fact.run for each in said})
        ids = {run: self._ids(state) for run, state in states.items()}
        taken = []
        for each in said:
            row = _deployment_of(each.fact, states[each.fact.run].deployments)
            if row is None:
                taken.append(self._without_deployment(each))
                continue
            outcome = _outcome(each, row, is_new=row.number not in before)
            taken.append(Taken(ids[each.fact.run][row.number], row.state, each.controller, outcome))
            before.add(row.number)
        return taken

    # ---- the fact

    def _offset_ms(self, controller: str | None) -> int:
        """The difference between this clock and the controller's. Times of its builds are compared by the latter."""
        state = None if controller is None else self.outbox.controller(controller)
        return offset_ms(None if state is None else state.clock_ahead_ms)

    def _refuse_what_is_incomplete(self, said: Report, at: int) -> None:
        """Refuse a report of another CI system without required fields, because no poller can add them."""
        ended_at = at if said.ended_at is None else said.ended_at
        started_at = ended_at if said.started_at is None else said.started_at
        content, _ = contents.of_report(said, self._settings.options, (started_at, ended_at))
        if content.problem is not None:
            raise ReportError(f"invalid report: {content.problem}")

    # ---- what became of it

    def _ids(self, state: RunState) -> dict[int, str]:
        """The ids of a run's deployments, by their numbers."""
        try:
            return shown_ids(state.facts, state.deployments, self._ingest.rules)
        except Exception:  # noqa: BLE001 - a bug, for which the ingest has set the run aside
            return {row.number: row.deployment_id or limited_id(run_id(row.run)) for row in state.deployments}

    def _without_deployment(self, said: Said) -> Taken:
        """The result without a deployment: it was settled and deleted, its id is in use, or its run is set aside."""
        run, body = said.fact.run, said.fact.body
        said_of = (body.environment, body.stage) if isinstance(body, Report) and run.project != GIVEN_IDS else ()
        parts = [part for part in said_of if part]
        name = part_deployment_id(run_id(run), *(parts[:1] if run.project.reuses_numbers else parts))
        found = self.outbox.find(name)
        if found is not None and found.deployment_id == name:
            return Taken(name, found.state, said.controller, Outcome.DROPPED)
        waits = any(item.kind == "run" and item.subject == run_id(run) for item in self.outbox.things_set_aside(100))
        if waits:
            return Taken(name, State.HELD, said.controller, Outcome.KEPT)
        return Taken(name, State.DELIVERED, said.controller, Outcome.DROPPED)


# Why a merged report changes nothing that is sent.
_NOT_SENT = {
    State.DELIVERED: "the deployment was already delivered; new values are only stored, see hivel-agent queue show",
    State.DISCARDED: "the deployment was discarded; new values are only stored, see hivel-agent queue show",
}
_NO_DEPLOYMENT = {
    Outcome.KEPT: "its build is set aside after an unexpected error; see hivel-agent status",
    Outcome.DROPPED: "its deployment no longer exists: it was settled and deleted",
}


def tell(taken: Iterable[Taken]) -> None:
    """Log the result of each report, after it is stored."""
    for each in taken:
        told = {"deployment_id": each.deployment_id, "state": each.state.value}
        if each.outcome in _NO_DEPLOYMENT:
            log.warning(each.outcome.value, **told, reason=_NO_DEPLOYMENT[each.outcome])
        else:
            reason = _NOT_SENT.get(each.state) if each.outcome is Outcome.MERGED else None
            log.info(each.outcome.value, **told, reason=reason)


def _outcome(said: Said, row: Deployment, *, is_new: bool) -> Outcome:
    """The effect of a report on the deployment that fits it best."""
    if is_new:
        return Outcome.NEW
    if not _is_about(row, said.fact):
        return Outcome.DROPPED
    words = {(each.body, each.principal) for each in said.earlier}
    return Outcome.REPEATED if (said.fact.body, said.fact.principal) in words else Outcome.MERGED


def _is_about(row: Deployment, fact: Fact) -> bool:
    """Whether the report is about this deployment, and not only about its run."""
    body = fact.body
    if not isinstance(body, Report) or fact.run.project == GIVEN_IDS or not (body.stage or body.environment):
        return True
    name = Name(Scope.STAGE if body.stage else Scope.WHOLE, body.stage or "", body.environment or "")
    return any(each._replace(start=0) == name for each in row.names)


def _behind(known: Iterable[Fact], fact: Fact) -> int:
    """The time of a fact, later than that of earlier reports even if the clock was set back a little."""
    before = [each for each in known if each.kind is Kind.REPORT]
    latest = max((each.received_at for each in before), default=None)
    if latest is None or any(each.word == fact.word for each in before):
        return fact.received_at
    stepped_back = fact.received_at <= latest <= fact.received_at + STEP_BACK_MS
    return latest + 1 if stepped_back else fact.received_at


def _deployment_of(fact: Fact, rows: Iterable[Deployment]) -> Deployment | None:
    """The deployment that fits a report best: of the same part, of the newest build with its number."""
    if not isinstance(fact.body, Report):
        return max(rows, key=lambda row: row.number, default=None)
    stage, environment, start = fact.body.stage or "", fact.body.environment or "", fact.started_at or 0
    name = Name(Scope.STAGE if stage else Scope.WHOLE, stage, environment, start=start if stage else 0)

    def nearness(row: Deployment) -> tuple[int, bool, int, int]:
        same_part = any(each._replace(start=0) == name._replace(start=0) for each in row.names)
        same_environment = row.content.environment == environment
        return (name in row.names) + same_part, same_environment, row.build_started_at, row.number

    return max(rows, key=nearness, default=None)
