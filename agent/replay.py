"""Sending events again that failed, or that were delivered and are asked for by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.jenkins import derive
from agent.jenkins.rules import first_match
from agent.outbox.store import State

if TYPE_CHECKING:
    from agent.event import DeploymentEvent
    from agent.jenkins.rules import Rule
    from agent.outbox.store import Outbox, Row, Selection


class Outcome(msgspec.Struct, frozen=True):
    """What became of one row; ``reason`` says why it was not taken up again."""

    id: int
    deployment_id: str
    replayed: bool
    reason: str | None = None


def replay(outbox: Outbox, rules: tuple[Rule, ...], selection: Selection) -> list[Outcome]:
    """Make the selected rows pending again with fresh attempts.

    The event of a failed row is derived anew from what is kept with it, by today's rules: a mended rule is enough,
    Jenkins need not have the build any more.
    """
    return [_replay_row(outbox, rules, row) for row in outbox.select(selection)]


def _replay_row(outbox: Outbox, rules: tuple[Rule, ...], row: Row) -> Outcome:
    event = None
    if row.state is State.FAILED and row.source is not None:
        derived = _derive_again(rules, row, row.source)
        if isinstance(derived, derive.Underivable):
            outbox.explain_failure(row, derived.reason)
            return Outcome(row.id, row.deployment_id, replayed=False, reason=derived.reason)
        event = derived
    if outbox.replay(row, event):
        return Outcome(row.id, row.deployment_id, replayed=True)
    return Outcome(row.id, row.deployment_id, replayed=False, reason="changed meanwhile; look at it again")


def _derive_again(rules: tuple[Rule, ...], row: Row, source: str) -> DeploymentEvent | derive.Underivable:
    build = derive.from_json(source)
    match = first_match(rules, build.job)
    if match is None:
        return derive.Underivable(f"no [[deployment]] rule matches job {build.job} any more")
    event = derive.derive(build, match)
    if isinstance(event, derive.Underivable):
        return event
    return msgspec.structs.replace(event, deployment_id=row.deployment_id)  # it may be one of a reused number
