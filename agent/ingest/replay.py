"""Replay and discard: deployments that a person sends again or discards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.config.rules import first_match
from agent.model.deployment import State
from agent.model.fact import Kind
from agent.outbox.values import Action, Page

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent.config.rules import Pattern
    from agent.ingest.ingest import Ingest
    from agent.model.deployment import Deployment
    from agent.outbox.interface import Outbox
    from agent.outbox.values import Filter

# The number of deployments in one commit. Other writers can commit in between.
_BATCH = 200


class Outcome(msgspec.Struct, frozen=True):
    """The result for one deployment; ``reason``: why nothing was done. ``id``: its number in the outbox."""

    id: int
    deployment_id: str | None
    done: bool
    reason: str | None = None


def choose(outbox: Outbox, which: Filter, job: Pattern | None = None) -> list[Deployment]:
    """The deployments that a filter selects, oldest first. ``job``: only those of jobs that match."""
    return list(newest_first(outbox, which, job))[::-1]


def newest_first(outbox: Outbox, which: Filter, job: Pattern | None = None) -> Iterator[Deployment]:
    """The deployments that a filter selects, read page by page. ``job``: only those of jobs that match."""
    page = Page(limit=_BATCH)
    while rows := outbox.query(which, page):
        yield from (row for row in rows if job is None or job.match(row.run.project.name) is not None)
        page = Page(limit=_BATCH, before=rows[-1].number)


def replay(ingest: Ingest, chosen: Sequence[Deployment], by: str) -> list[Outcome]:
    """Make deployments pending again with fresh attempts; the daemon sends them at its own pace.

    A failed one is derived again from its facts by the current rules: correcting the rule is enough, even if Jenkins
    has deleted the build. A delivered one is sent unchanged. ``by``: the person who does it,
    which is stored with each.
    """
    outcomes = []
    for rows in _batches(chosen):
        with ingest.outbox.transaction():
            failed = {row.run for row in rows if row.state is State.FAILED}
            if failed:
                ingest.derive_again(failed)
            done = [_replayed(ingest, row) for row in rows]
            _note(ingest.outbox, done, "replay", by)
            outcomes += done
    return outcomes


def _batches(rows: Sequence[Deployment]) -> Iterator[tuple[Deployment, ...]]:
    for first in range(0, len(rows), _BATCH):
        yield tuple(rows[first : first + _BATCH])


def _replayed(ingest: Ingest, row: Deployment) -> Outcome:
    now = next((each for each in ingest.outbox.of_run(row.run) if each.number == row.number), None)
    if now is None or (now.state is not row.state and now.state is not State.PENDING):
        return _outcome(row, "its state changed in the meantime; check it and try again")
    match now.state:
        case State.HELD:
            return _outcome(row, "it is held until its build is final and is then sent automatically")
        case State.PENDING if row.state is State.PENDING:
            return _outcome(row, "it is already pending")
        case State.FAILED | State.DISCARDED if now.content.problem is not None:
            return _outcome(row, _why(ingest, now))
    done = now.state is State.PENDING or ingest.outbox.replay([now])[0]
    return _outcome(row, None if done else "its state changed in the meantime; check it and try again")


def _why(ingest: Ingest, row: Deployment) -> str:
    """Why a failed deployment still cannot be sent."""
    facts = ingest.outbox.facts(row.run)
    job = row.run.project.name
    said = any(fact.kind is Kind.REPORT for fact in facts)
    if facts and row.run.project.reuses_numbers and not said and first_match(ingest.rules.rules, job) is None:
        return f"no [[deployment]] rule matches job {job} any more; add a rule for it"
    return row.content.problem or "the event cannot be created"


def discard(outbox: Outbox, chosen: Sequence[Deployment], by: str, reason: str = "") -> list[Outcome]:
    """Discard failed or pending deployments: they are kept and counted, and never sent unless replayed by name.

    ``by``: the person who does it. It is stored with the reason.
    """
    stored = f"by {by}: {reason}" if reason else f"by {by}"
    outcomes = []
    for rows in _batches(chosen):
        with outbox.transaction():
            done = [_discarded(outbox, row, stored) for row in rows]
            _note(outbox, done, "discard", by, reason)
            outcomes += done
    return outcomes


def _discarded(outbox: Outbox, row: Deployment, reason: str) -> Outcome:
    if row.state not in (State.FAILED, State.PENDING):
        return _outcome(row, f"it is {row.state.value}; only failed and pending ones can be discarded")
    done = outbox.discard([row], reason)[0]
    return _outcome(row, None if done else "its state changed in the meantime; check it and try again")


def _note(outbox: Outbox, outcomes: Sequence[Outcome], what: str, by: str, reason: str = "") -> None:
    numbers = [each.id for each in outcomes if each.done]
    if numbers:
        outbox.note_action(numbers, Action(outbox.clock.now_ms(), what, by, reason))


def _outcome(row: Deployment, reason: str | None) -> Outcome:
    return Outcome(row.number, row.deployment_id, done=reason is None, reason=reason)
