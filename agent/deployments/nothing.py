"""Explains why a build has no deployment, for the log, `explain` and `audit`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.config.rules import described, first_match
from agent.deployments.stages import result_of
from agent.model.build import Build

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.deployments.derive import Rules
    from agent.model.fact import Fact
    from agent.model.keys import Project

# The maximum number of stages that a message lists.
_NAMED = 5


def id_is_taken(name: str) -> str:
    """The message for a build whose id another run's deployment ``name`` has."""
    return f"its deployment_id {name} is already used by a reported deployment; see queue show"


def why_nothing(facts: Iterable[Fact], rules: Rules, project: Project) -> str:
    """Which rule derived nothing from these facts, and what was missing."""
    match = first_match(rules.rules, project.name)
    if match is None:
        return "no [[deployment]] rule matches the job"
    rule = described(rules.rules, match)
    if match.rule.stage is None:
        return rule
    known = [fact.body.stages for fact in facts if isinstance(fact.body, Build) and fact.body.stages is not None]
    if not known:
        return f'{rule}: the stages of the build could not be read, and without_stages is "none"'
    ran = list(dict.fromkeys(stage.name for stages in known for stage in stages if result_of(stage) is not None))
    named = ", ".join(ran[:_NAMED]) + (", …" if len(ran) > _NAMED else "")
    return f'{rule}: no stage that matches "{match.rule.stage.text}" ran' + (f"; these ran: {named}" if named else "")
