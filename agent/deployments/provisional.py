"""The ids that held deployments will probably get, for display only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.deployments.derive import derive
from agent.deployments.plan import Moment, kept_builds, plan
from agent.model.ids import limited_id, run_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.deployments.derive import Rules
    from agent.model.deployment import Deployment
    from agent.model.fact import Fact

# Nothing is held: compute the ids that deployments would get now.
_AT_ONCE = Moment(now=0, hold_for_ms=0)


def shown_ids(said: Iterable[Fact], rows: Sequence[Deployment], rules: Rules) -> dict[int, str]:
    """The ids of all deployments of one run by their numbers; for held ones the id that they would get now."""
    ids = {row.number: row.deployment_id or limited_id(run_id(row.run)) for row in rows}
    if any(row.deployment_id is None for row in rows):
        planned = plan(derive(said, rules, kept_builds(rows)), rows, _AT_ONCE)
        ids |= {row.number: row.deployment_id for row in planned if row.number in ids and row.deployment_id}
    return ids
