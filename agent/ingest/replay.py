"""Sending events again that failed, or that were delivered and are asked for by name."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec

from agent.config.rules import first_match, match_of_reporting
from agent.deployments import legacy as derive
from agent.model import event as events
from agent.outbox.sqlite.store import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.config.rules import Pattern
    from agent.config.settings import Settings
    from agent.model.event import DeploymentEvent
    from agent.outbox.sqlite.store import Outbox, Row, Selection

# One commit for so many: the daemon and others get their turn in between.
_BATCH = 200


class Outcome(msgspec.Struct, frozen=True):
    """What became of one row; ``reason`` says why it was not taken up again."""

    id: int
    deployment_id: str
    replayed: bool
    reason: str | None = None


def choose(outbox: Outbox, selection: Selection, job: Pattern | None) -> list[int]:
    """The numbers of the selected events; with ``job`` only those of jobs that match."""
    return [
        row_id
        for row_id, deployment_id in outbox.select(selection)
        if job is None or job.match(_job_of(deployment_id)) is not None
    ]


def _job_of(deployment_id: str) -> str:
    """``main:deploy/shop#12:production`` -> ``deploy/shop``."""
    return deployment_id.partition(":")[2].partition("#")[0]


def replay(outbox: Outbox, settings: Settings, ids: Sequence[int]) -> list[Outcome]:
    """Make events pending again with fresh attempts; the daemon sends them at its own pace.

    The event of a failed row is derived anew from what is kept with it, by today's rules: a mended rule is enough,
    Jenkins need not have the build any more.
    """
    outcomes = []
    for first in range(0, len(ids), _BATCH):
        with outbox.transaction():
            rows = [outbox.row(row_id) for row_id in ids[first : first + _BATCH]]
            outcomes += [_replay_row(outbox, settings, row) for row in rows if row is not None]
    return outcomes


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
    find = first_match if build.reported is None else match_of_reporting
    match = find(settings.rules, build.job)
    if match is None:
        return f"no [[deployment]] rule matches job {build.job} any more"
    derivations = derive.derive(build, match, settings.options)
    if build.reported is not None and len(derivations) == 1:  # its id is of all that the build reported
        derivations = [dataclasses.replace(derivations[0], deployment_id=row.deployment_id)]
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
