"""Finds the deployment of a report that names an id which the agent assigned. The report creates no second one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.deployments.provisional import shown_ids
from agent.model.deployment import Scope
from agent.model.ids import limited_id, run_id
from agent.model.keys import GIVEN_IDS

if TYPE_CHECKING:
    from agent.deployments.derive import Rules
    from agent.model.deployment import Deployment
    from agent.model.fact import Report
    from agent.outbox.interface import Outbox

# Shortening an id keeps at least this many characters of its start.
_NEVER_CUT = 200


def deployment_called(outbox: Outbox, given: str, rules: Rules) -> Deployment | None:
    """The deployment of another run that has this id, or a held one that will probably get it."""
    name = limited_id(given)
    found = outbox.find(name)  # it also finds a deployment by its number
    if found is not None and found.deployment_id == name:
        return None if found.run.project == GIVEN_IDS else found
    runs = [run for run in outbox.held() if name.startswith(run_id(run)[:_NEVER_CUT])]
    for state in outbox.load(runs).values() if runs else ():
        ids = shown_ids(state.facts, state.deployments, rules)
        for row in state.deployments:
            if not row.frozen and name in (ids[row.number], limited_id(run_id(row.run))):
                return row
    return None


def said_of(row: Deployment, said: Report) -> Report:
    """The report with the stage, environment and start of this deployment, so that it changes only its content."""
    own = row.names[0]
    if own.scope is Scope.STAGE or not row.run.project.reuses_numbers:
        return replace(said, stage=own.stage or None, environment=own.environment or None, started_at=own.start or None)
    environment = row.content.environment if own.scope is Scope.RULE else own.environment or said.environment
    start = row.build_started_at if row.known else said.started_at
    return replace(said, stage=None, environment=environment, started_at=start)
