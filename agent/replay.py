"""Sending events again that failed, or that were delivered and are asked for by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent import event as events
from agent.jenkins import derive
from agent.jenkins.rules import first_match
from agent.outbox.store import State

if TYPE_CHECKING:
    from agent.config import Settings
    from agent.event import DeploymentEvent
    from agent.outbox.store import Outbox, Row, Selection


class Outcome(msgspec.Struct, frozen=True):
    """What became of one row; ``reason`` says why it was not taken up again."""

    id: int
    deployment_id: str
    replayed: bool
    reason: str | None = None


def replay(outbox: Outbox, settings: Settings, selection: Selection) -> list[Outcome]:
    """Make the selected rows pending again with fresh attempts.

    The event of a failed row is derived anew from what is kept with it, by today's rules: a mended rule is enough,
    Jenkins need not have the build any more.
    """
    return [_replay_row(outbox, settings, row) for row in outbox.select(selection)]


def _replay_row(outbox: Outbox, settings: Settings, row: Row) -> Outcome:
    event = None
    if row.state is State.FAILED and row.source is not None:
        derived = _derive_again(settings, row, row.source)
        if isinstance(derived, str):
            outbox.explain_failure(row, derived)
            return Outcome(row.id, row.deployment_id, replayed=False, reason=derived)
        event = derived
    if outbox.replay(row, event):
        return Outcome(row.id, row.deployment_id, replayed=True)
    return Outcome(row.id, row.deployment_id, replayed=False, reason="changed meanwhile; look at it again")


def _derive_again(settings: Settings, row: Row, source: str) -> DeploymentEvent | str:
    """The row's event by today's rules, or the reason why there is none."""
    build = derive.from_json(source)
    match = first_match(settings.rules, build.job)
    if match is None:
        return f"no [[deployment]] rule matches job {build.job} any more"
    derivations = derive.derive(build, match, settings.options)
    # A stage's id is another one as long as its environment cannot be told; the row keeps the one that it has.
    names = [(each.deployment_id, each) for each in derivations]
    names += [(each.other_id, each) for each in derivations if each.other_id is not None]
    for name, found in names:
        if row.deployment_id in (name, events.reused_number_id(name, build.started_at)):
            if found.event is None:
                return found.reason or "no event can be made"
            return msgspec.structs.replace(found.event, deployment_id=row.deployment_id)
    given = ", ".join(found.deployment_id for found in derivations) or "none"
    return f"the rule gives no event with this id any more; it gives: {given}"
