"""``/``: whether all is well, in one sentence, and what is going on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.inspect.status import DeliveryStatus, delivery_status
from agent.model.times import rfc3339
from agent.outbox.values import Counts  # noqa: TC001 - a field of a struct
from agent.web.access import Role
from agent.web.page import Page
from agent.web.rendering import Shown, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.config.settings import Settings
    from agent.outbox.interface import Outbox
    from agent.outbox.values import ControllerState
    from agent.web.page import Visit


class ControllerNow(msgspec.Struct, frozen=True):
    """``state``: ok, error, unreachable, unauthorized or never polled. ``polled_at`` is RFC 3339."""

    name: str
    state: str
    polled_at: str | None
    last_error: str | None


class Now(msgspec.Struct, frozen=True):
    """``/now.json``. ``sentence`` is the state for people; ``oldest_pending`` is RFC 3339."""

    sentence: str
    counts: Counts
    oldest_pending: str | None
    delivery: DeliveryStatus
    controllers: list[ControllerNow]
    problems: list[str]


async def show(visit: Visit) -> Shown:
    """Counts and states for everybody; reasons and errors for those who may view."""
    backend = visit.backend
    settings, problems = backend.settings, backend.problems()
    now = await backend.read(lambda outbox: _now(outbox, settings, problems))
    if visit.visitor.role < Role.VIEW:
        now = _without_details(now)
    table = Table(
        ("controller", "state", "polled_at", "last_error"),
        [(each.name, each.state, each.polled_at, each.last_error) for each in now.controllers],
    )
    return Shown("now.html", "Now", now, table)


def _now(outbox: Outbox, settings: Settings, problems: Sequence[str]) -> Now:
    counts, oldest = outbox.counts(), outbox.oldest_pending()
    delivery = delivery_status(outbox.delivery_state())
    states = {state.name: state for state in outbox.controllers()}
    return Now(
        sentence=_sentence(counts, delivery, problems),
        counts=counts,
        oldest_pending=None if oldest is None else rfc3339(oldest),
        delivery=delivery,
        controllers=[_controller(each.name, states.get(each.name)) for each in settings.controllers],
        problems=list(problems),
    )


def _sentence(counts: Counts, delivery: DeliveryStatus, problems: Sequence[str]) -> str:
    if problems:
        return "The agent has a problem."
    if delivery.state == "paused":
        return f"Delivery is paused. {counts.pending:,} wait, {counts.failed:,} failed."
    if delivery.state == "outage":
        return f"Hivel cannot be reached. {counts.pending:,} wait, {counts.failed:,} failed."
    waiting = counts.pending + counts.held
    return f"{counts.delivered:,} deployments are at Hivel; {waiting:,} wait, {counts.failed:,} failed."


def _controller(name: str, state: ControllerState | None) -> ControllerNow:
    if state is None:
        return ControllerNow(name, "never polled", None, None)
    polled_at = None if state.polled_at is None else rfc3339(state.polled_at)
    return ControllerNow(name, state.state, polled_at, state.last_error)


def _without_details(now: Now) -> Now:
    return msgspec.structs.replace(
        now,
        delivery=msgspec.structs.replace(now.delivery, reason=None),
        controllers=[msgspec.structs.replace(each, last_error=None) for each in now.controllers],
        problems=["log in to see it"] if now.problems else [],
    )


PAGE = Page("/", show, role=Role.NOBODY)
