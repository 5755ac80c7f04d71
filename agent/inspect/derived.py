"""The deployments that the current rules derive from a run, each with its id, event and origins."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from agent.config.rules import first_match
from agent.deployments.attribution import BuildRef
from agent.deployments.checkouts import Wanted
from agent.deployments.derive import Rules, derive
from agent.deployments.plan import Moment, kept_builds, plan
from agent.deployments.repository import has_application
from agent.model import fact as facts
from agent.model.deployment import event_of
from agent.model.event import DeploymentEvent, InvalidEventError
from agent.model.ids import limited_id, run_id
from agent.model.keys import jenkins_run
from agent.model.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.config.settings import Settings
    from agent.deployments.derive import Derived, Part
    from agent.model.build import Build
    from agent.model.deployment import Content, Deployment
    from agent.model.fact import Fact
    from agent.outbox.interface import Outbox

NO_STAGES = "the stages of the build were not read from Jenkins"
# Nothing is held, so that each deployment shows the id that it would get now.
_AT_ONCE = Moment(now=0, hold_for_ms=0)


class DerivedView(msgspec.Struct, frozen=True):
    """A derived deployment: ``event`` is the payload, ``origins`` names the source of each field.

    ``reason``: why there is no event; ``known``: the fields that are known nevertheless, as in the payload.
    """

    deployment_id: str
    event: DeploymentEvent | None
    reason: str | None
    origins: dict[str, str]
    known: dict[str, Any] = {}


def rules_of(settings: Settings) -> Rules:
    """The settings that decide which parts of a run are deployments."""
    polled = frozenset(each.name for each in settings.controllers)
    return Rules(settings.rules, settings.options, polled, settings.may_report)


def of_build(build: Build, rules: Rules) -> list[DerivedView]:
    """The deployments of a finished build without other facts."""
    run = jenkins_run(build.controller, build.job, build.number)
    return [view for _, view in of_run([facts.final(run, build, at=build.ended_at)], [], rules)]


def of_run(said: Iterable[Fact], rows: Sequence[Deployment], rules: Rules) -> list[tuple[Part, DerivedView]]:
    """The deployments that the facts of a run give, under the ids that they have or would get now."""
    derived = derive(said, rules, kept_builds(rows))
    planned = plan(derived, rows, _AT_ONCE)
    return [(part, _view(part, _row_of(part, planned, derived))) for part in derived.parts]


def taken_ids(said: Iterable[Fact], rows: Sequence[Deployment], rules: Rules, outbox: Outbox) -> list[str]:
    """The ids that the run's missing deployments would get, but that deployments of other runs already have."""
    derived = derive(said, rules, kept_builds(rows))
    missing = [row.deployment_id for row in plan(derived, rows, _AT_ONCE) if not row.number and row.deployment_id]
    found = ((name, outbox.find(name)) for name in missing)
    runs = {part.run for part in derived.parts}
    return [name for name, row in found if row is not None and row.deployment_id == name and row.run not in runs]


def lacks(build: Build, job: str, rules: Rules) -> str:
    """Data that the current rules need and that was not read with the build under older rules; empty: none."""
    match = first_match(rules.rules, job)
    if match is None:
        return ""
    if match.rule.stage is not None and build.stages is None and build.stages_missing is None:
        return NO_STAGES
    names_others = build.upstream or build.repeats or build.named_builds
    wanted = Wanted(rules.options.libraries, match.rule.repository)
    if names_others and not build.related and build.inherited is None and not has_application(build, wanted):
        return "the build that this one names was not read from Jenkins"
    return ""


def event_view(deployment_id: str, content: Content) -> DeploymentEvent | None:
    """The payload, or None if the content does not give a valid event."""
    try:
        return None if content.problem is not None else event_of(deployment_id, content)
    except InvalidEventError:  # the outbox was written by another version
        return None


def is_of(row: Deployment, part: Part, derived: Derived) -> bool:
    """Whether a deployment is of this part: it belongs to the same build and has one of the part's names."""
    build = derived.builds.get(row.anchor) or BuildRef(row.build_started_at, row.known)
    return build == part.build and not set(row.names).isdisjoint(part.names)


def _row_of(part: Part, planned: Iterable[Deployment], derived: Derived) -> Deployment | None:
    return next((row for row in planned if is_of(row, part, derived)), None)


def _view(part: Part, row: Deployment | None) -> DerivedView:
    given = row.deployment_id if row is not None else None
    name = given or limited_id(run_id(part.run))
    event = event_view(name, part.content)
    known = _known(part.content) if event is None else {}
    return DerivedView(name, event, part.content.problem, part.origins, known)


def _known(content: Content) -> dict[str, Any]:
    """The fields of an event that cannot be created, under their names in the payload."""
    fields: dict[str, Any] = msgspec.to_builtins(content)
    times: dict[str, Any] = {}
    for name, at in (("start_time", content.started_at), ("end_time", content.ended_at)):
        with suppress(OverflowError):  # a time that cannot be written can be the reason
            times[name] = rfc3339(at)
    return times | {
        name: value for name, value in fields.items() if name in DeploymentEvent.__struct_fields__ and value
    }
