"""``/deployments/NUMBER``: all that is known of one deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from agent.inspect.derived import rules_of
from agent.inspect.origins import FieldView, fields_of
from agent.inspect.parameters import facts_without_values, without_values, words_without_values
from agent.inspect.queue import ActionView, AttemptView, DetailView, EventView, FactView, KnownView, Queue, moment
from agent.inspect.timeline import StepView, timeline
from agent.model.deployment import State, event_of
from agent.model.event import InvalidEventError, encode, wire
from agent.web.access import Role
from agent.web.page import Page, RefusedError
from agent.web.rendering import Shown, Table

if TYPE_CHECKING:
    from agent.config.settings import Settings
    from agent.model.deployment import Deployment
    from agent.outbox.interface import Outbox
    from agent.outbox.values import RunState
    from agent.web.page import Visit


class SiblingView(msgspec.Struct, frozen=True):
    """Another deployment of the same build."""

    id: int
    deployment_id: str
    state: State
    environment: str | None


class DeploymentView(msgspec.Struct, frozen=True):
    """``/deployments/NUMBER.json``. ``fields``: of the event, each with its origin. ``payload``: the JSON for Hivel.

    ``known``: of a delivered one what is known since. ``siblings``: what else the build deployed. Without the right to
    act, values of build parameters are ``***``.
    """

    deployment: EventView
    fields: list[FieldView]
    timeline: list[StepView]
    attempts: list[AttemptView]
    actions: list[ActionView]
    facts: list[FactView]
    known: KnownView | None
    siblings: list[SiblingView]
    build_url: str | None
    payload: str | None


async def show(visit: Visit) -> Shown:
    """The row, what it was derived from, and what became of it."""
    number, settings = visit.request.path_params["number"], visit.backend.settings
    with_values = visit.visitor.role >= Role.ACT
    view = await visit.backend.read(lambda outbox: _view(outbox, settings, number, with_values=with_values))
    if view is None:
        raise RefusedError(404, f"there is no deployment with the number {number}")
    table = Table(
        ("field", "value", "origin", "now"), [(each.name, each.value, each.origin, each.now) for each in view.fields]
    )
    return Shown("deployment.html", view.deployment.deployment_id, view, table, {"State": State})


def _view(outbox: Outbox, settings: Settings, number: int, *, with_values: bool) -> DeploymentView | None:
    row = outbox.with_numbers([number]).get(number)
    if row is None:
        return None
    state, rules = outbox.load([row.run])[row.run], rules_of(settings)
    queue = Queue(outbox, rules, settings.hold_for_ms)
    detail, fields = queue.detail(row, state), fields_of(row, state, rules)
    if not with_values:
        detail, fields = _without_values(detail, fields)
    return DeploymentView(
        deployment=detail.event,
        fields=fields,
        timeline=timeline(detail, moment(row.build_ended_at)),
        attempts=detail.attempts,
        actions=detail.actions,
        facts=detail.facts,
        known=detail.known,
        siblings=_siblings(queue, row, state),
        build_url=None if detail.source is None else detail.source.url or None,
        payload=_payload(row, detail.event.deployment_id, settings),
    )


def _without_values(detail: DetailView, fields: list[FieldView]) -> tuple[DetailView, list[FieldView]]:
    source = None if detail.source is None else without_values(detail.source)
    hidden = replace(detail, source=source, facts=facts_without_values(detail.facts))
    return hidden, [replace(each, words=words_without_values(each.words)) for each in fields]


def _siblings(queue: Queue, row: Deployment, state: RunState) -> list[SiblingView]:
    others = [
        each
        for each in state.deployments
        if each.number != row.number and each.build_started_at == row.build_started_at
    ]
    ids = queue.ids(others, state)
    return [SiblingView(each.number, ids[each.number], each.state, each.content.environment) for each in others]


def _payload(row: Deployment, deployment_id: str, settings: Settings) -> str | None:
    """What is sent to Hivel, byte for byte."""
    try:
        event = encode(event_of(deployment_id, row.content))
    except InvalidEventError:
        return None
    return wire(event.decode(), settings.delivery.canceled_spelling).decode()


PAGE = Page("/deployments/{number:number}", show)
