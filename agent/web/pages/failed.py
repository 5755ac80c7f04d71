"""``/failed``: failed deployments grouped by their causes, and what to do about each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.inspect.advice import what_to_do
from agent.model.times import rfc3339
from agent.web.filters import Filters, read_number
from agent.web.page import Page, RefusedError
from agent.web.rendering import Shown, Table

if TYPE_CHECKING:
    from agent.outbox.values import FailedGroup
    from agent.web.page import Visit

PER_PAGE = 20
MOST_PER_PAGE = 1_000
_COLUMNS = ("cause", "count", "first_at", "last_at", "example", "reason", "advice")


class GroupView(msgspec.Struct, frozen=True):
    """``count`` deployments that failed for the same cause, between ``first_at`` and ``last_at`` (RFC 3339).

    ``example``: the number of the newest one, which has this ``reason``. ``advice``: what to do.
    """

    cause: str
    count: int
    first_at: str
    last_at: str
    example: int
    reason: str | None
    advice: str


class FailedView(msgspec.Struct, frozen=True):
    """``/failed.json``: the largest groups first. ``failed``: how many deployments were grouped, the newest ones.

    ``more``: there are more groups, or more failed deployments.
    """

    groups: list[GroupView]
    failed: int
    more: bool


async def show(visit: Visit) -> Shown:
    """The groups. ``limit`` in the address: at most so many."""
    limit = read_number("limit", visit.request.query_params.get("limit")) or PER_PAGE
    if limit > MOST_PER_PAGE:
        raise RefusedError(400, f"limit: at most {MOST_PER_PAGE:,} groups fit on a page")
    found = await visit.backend.read(lambda outbox: outbox.failed_groups(limit))
    groups = [_group(each) for each in found.groups]
    view = FailedView(groups, found.failed, found.more)
    table = Table(_COLUMNS, [[getattr(each, name) for name in _COLUMNS] for each in groups])
    filters = [
        Filters(state=("failed",), cause=each.cause or None, reason=None if each.cause else "none") for each in groups
    ]
    return Shown("failed.html", "Failed", view, table, {"filters": filters, "most": MOST_PER_PAGE})


def _group(group: FailedGroup) -> GroupView:
    return GroupView(
        group.cause,
        group.n,
        rfc3339(group.first_at),
        rfc3339(group.last_at),
        group.newest,
        group.reason,
        what_to_do(group.reason),
    )


PAGE = Page("/failed", show)
