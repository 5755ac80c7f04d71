"""``/webhooks``: the webhooks of platforms, and what became of their last deliveries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.inspect.webhooks import DeliveryView, HookStatus, deliveries, hook_statuses
from agent.web.filters import read_number
from agent.web.page import Page, RefusedError
from agent.web.rendering import Shown, Table

if TYPE_CHECKING:
    from agent.outbox.interface import Outbox
    from agent.web.page import Visit

PER_PAGE = 100
MOST_PER_PAGE = 20_000
_COLUMNS = ("at", "hook", "event", "verdict", "deployment_id", "state", "reason", "delivery_id")


class WebhooksView(msgspec.Struct, frozen=True):
    """``/webhooks.json``. ``listen``: the address of the listener. ``deliveries``: the newest first.

    Only deliveries with a valid signature are stored, for 30 days.
    """

    listen: str | None
    hooks: list[HookStatus]
    deliveries: list[DeliveryView]


async def show(visit: Visit) -> Shown:
    """The webhooks and their last deliveries. ``hook`` and ``limit`` in the address select deliveries."""
    query = visit.request.query_params
    hook, limit = query.get("hook") or None, read_number("limit", query.get("limit")) or PER_PAGE
    if limit > MOST_PER_PAGE:
        raise RefusedError(400, f"limit: at most {MOST_PER_PAGE:,} deliveries are kept")
    settings = visit.backend.settings

    def look(outbox: Outbox) -> WebhooksView:
        configured = settings.webhooks
        address = None if configured is None or configured.address is None else str(configured.address)
        return WebhooksView(address, hook_statuses(settings, outbox), deliveries(outbox, limit, hook))

    view = await visit.backend.read(look)
    table = Table(_COLUMNS, [[getattr(each, name) for name in _COLUMNS] for each in view.deliveries])
    return Shown("webhooks.html", "Webhooks", view, table, {"hook": hook, "limit": limit, "per_page": PER_PAGE})


PAGE = Page("/webhooks", show)
