"""``/``: whether all is well, in one sentence, and what is going on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.inspect.status import DeliveryStatus, delivery_status
from agent.model.times import rfc3339
from agent.outbox.values import Counts  # noqa: TC001 - a field of a struct
from agent.web.access import Role
from agent.web.charts import Chart, Series, svg
from agent.web.page import Page
from agent.web.rendering import Shown, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from markupsafe import Markup

    from agent.config.settings import Settings
    from agent.outbox.interface import Outbox
    from agent.outbox.values import ControllerState, Hour, Recent
    from agent.web.page import Visit

HOUR_MS = 3_600_000
# The hours of the chart, the current one included.
HOURS = 24
WEEK_MS = 7 * 24 * HOUR_MS


class ControllerNow(msgspec.Struct, frozen=True):
    """``state``: ok, error, unreachable, unauthorized or never polled. ``polled_at`` is RFC 3339."""

    name: str
    state: str
    polled_at: str | None
    last_error: str | None


class RecentCounts(msgspec.Struct, frozen=True):
    """The deployments that ended in the last 7 days, by state."""

    delivered: int
    pending: int
    held: int
    failed: int
    discarded: int


class HourNow(msgspec.Struct, frozen=True):
    """What was delivered and what failed in the hour that begins at ``begins_at`` (RFC 3339)."""

    begins_at: str
    delivered: int
    failed: int


class Now(msgspec.Struct, frozen=True):
    """``/now.json``. ``sentence`` is the state for people; ``oldest_pending`` is RFC 3339.

    ``counts`` has all deployments, ``last_7_days`` those that ended then. ``hours``: the last 24, the oldest first.
    """

    sentence: str
    counts: Counts
    oldest_pending: str | None
    delivery: DeliveryStatus
    controllers: list[ControllerNow]
    problems: list[str]
    last_7_days: RecentCounts
    hours: list[HourNow]


async def show(visit: Visit) -> Shown:
    """Counts and states for everybody; reasons and errors for those who may view."""
    backend = visit.backend
    settings, problems, now_ms = backend.settings, backend.problems(), backend.clock.now_ms()
    now = await backend.read(lambda outbox: _now(outbox, settings, problems, now_ms))
    if visit.visitor.role < Role.VIEW:
        now = _without_details(now)
    table = Table(
        ("controller", "state", "polled_at", "last_error"),
        [(each.name, each.state, each.polled_at, each.last_error) for each in now.controllers],
    )
    return Shown("now.html", "Now", now, table, {"chart": _chart(now.hours)})


def _now(outbox: Outbox, settings: Settings, problems: Sequence[str], now_ms: int) -> Now:
    (counts, oldest), recent = outbox.backlog(), outbox.recent(now_ms - WEEK_MS)
    first_hour = (now_ms // HOUR_MS - HOURS + 1) * HOUR_MS
    hours = outbox.per_hour(first_hour)
    delivery = delivery_status(outbox.delivery_state())
    states = {state.name: state for state in outbox.controllers()}
    controllers = [_controller(each.name, states.get(each.name)) for each in settings.controllers]
    first = sentence(counts, recent, delivery.state, has_problem=bool(problems))
    return Now(
        sentence=" ".join((first, *_of_controllers(controllers))),
        counts=counts,
        oldest_pending=None if oldest is None else rfc3339(oldest),
        delivery=delivery,
        controllers=controllers,
        problems=list(problems),
        last_7_days=RecentCounts(recent.delivered, recent.pending, recent.held, recent.failed, recent.discarded),
        hours=_hours(hours, first_hour),
    )


def sentence(counts: Counts, recent: Recent, delivery: str, *, has_problem: bool) -> str:
    """The state in one sentence. What waits and what failed counts whenever it ended."""
    waiting = counts.pending + counts.held
    if has_problem:
        first = "The agent has a problem"
    elif delivery == "paused":
        first = "Delivery is paused until a person acts"
    elif delivery == "outage":
        first = "Hivel cannot be reached"
    elif recent.more:
        first = f"{counts.delivered:,} deployments are at Hivel"
    else:
        first = _of_the_week(recent.delivered, recent.pending + recent.held + recent.failed)
    return f"{first}; {waiting:,} {'waits' if waiting == 1 else 'wait'}, {counts.failed:,} failed."


def _of_the_week(delivered: int, missing: int) -> str:
    total = delivered + missing
    if not total:
        return "No deployment ended in the last 7 days"
    if missing:
        some = "deployment" if total == 1 else "deployments"
        return f"{delivered:,} of {total:,} {some} of the last 7 days {'is' if delivered == 1 else 'are'} at Hivel"
    if total == 1:
        return "The only deployment of the last 7 days is at Hivel"
    return f"All {total:,} deployments of the last 7 days are at Hivel"


def _of_controllers(controllers: Sequence[ControllerNow]) -> Iterator[str]:
    """What may be missing in all counts: the builds of controllers that cannot be polled."""
    failing = [each.name for each in controllers if each.state not in ("ok", "never polled")]
    if len(failing) == 1:
        yield f"Controller {failing[0]} cannot be polled, so its builds may be missing."
    elif failing:
        yield f"{len(failing)} of {len(controllers)} controllers cannot be polled, so their builds may be missing."


def _hours(found: Sequence[Hour], first: int) -> list[HourNow]:
    """One entry for each hour, also for those without deployments."""
    by_begin = {each.begins_at: each for each in found}
    begins = [first + number * HOUR_MS for number in range(HOURS)]
    return [
        HourNow(rfc3339(at), by_begin[at].delivered, by_begin[at].failed)
        if at in by_begin
        else HourNow(rfc3339(at), 0, 0)
        for at in begins
    ]


def _chart(hours: Sequence[HourNow]) -> Markup:
    delivered, failed = [each.delivered for each in hours], [each.failed for each in hours]
    return svg(
        Chart(
            name="hours",
            title="Deployments by hour, last 24 hours",
            description=f"{sum(delivered):,} delivered and {sum(failed):,} failed. The table below has each hour.",
            labels=[each.begins_at[11:16] for each in hours],
            series=[Series("delivered", "delivered", delivered), Series("failed", "failed", failed)],
        )
    )


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
