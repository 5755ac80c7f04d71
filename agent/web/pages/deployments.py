"""``/deployments``: the deployments that match the filters of the address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agent.inspect.derived import rules_of
from agent.inspect.queue import COLUMNS, EventView, Queue, cells
from agent.model.deployment import State
from agent.model.status import Status
from agent.web.filters import Filters, read_filters, read_page
from agent.web.page import Page
from agent.web.rendering import Shown, Table

if TYPE_CHECKING:
    from agent.config.settings import Settings
    from agent.outbox.interface import Outbox
    from agent.outbox.values import Filter
    from agent.outbox.values import Page as Range
    from agent.web.page import Visit

PER_PAGE = 25
MOST_PER_PAGE = 1_000
# Counting stops here: a page must not take longer the more deployments there are.
MOST_COUNTED = 10_000
# More names do not fit into a menu: then they are typed.
_MOST_NAMES = 25


class DeploymentsView(msgspec.Struct, frozen=True):
    """``/deployments.json``. ``count``: how many deployments match; ``more``: there are more than that.

    ``older`` and ``newer``: the next page is ``before=OLDER``, the previous one ``after=NEWER``; None: there is none.
    ``complete`` is false if the page stopped early, because very few deployments match: ``older`` continues.
    """

    filters: Filters
    count: int
    more: bool
    deployments: list[EventView]
    older: int | None
    newer: int | None
    complete: bool


class _Found(msgspec.Struct, frozen=True):
    """What one look at the outbox found; ``environments`` and ``repositories`` are for the menus."""

    view: DeploymentsView
    environments: list[str]
    repositories: list[str]


async def show(visit: Visit) -> Shown:
    """One page of rows, the newest first."""
    fields = visit.request.query_params
    filters = read_filters(fields.multi_items())
    which = filters.which(visit.backend.clock.now_ms())
    page = read_page(fields, PER_PAGE, MOST_PER_PAGE)
    settings = visit.backend.settings
    found = await visit.backend.read(lambda outbox: _found(outbox, settings, filters, which, page))
    table = Table(COLUMNS, map(cells, found.view.deployments))
    older = found.view.older
    following = None if older is None else {"before": older, "limit": fields.get("limit"), **filters.query}
    return Shown("deployments.html", "Deployments", found.view, table, _menus(found, settings, page), following)


def _found(outbox: Outbox, settings: Settings, filters: Filters, which: Filter, page: Range) -> _Found:
    rows = outbox.search(which, page, count_to=MOST_COUNTED)
    views = Queue(outbox, rules_of(settings), settings.hold_for_ms).views(rows.deployments)
    view = DeploymentsView(filters, *rows.count, views, rows.older, rows.newer, rows.complete)
    return _Found(view, *outbox.names(_MOST_NAMES + 1))


def _menus(found: _Found, settings: Settings, page: Range) -> dict[str, Any]:
    return {
        "query": found.view.filters.query,
        "limit": None if page.limit == PER_PAGE else page.limit,
        "most": MOST_PER_PAGE,
        "states": [each.value for each in State],
        "statuses": [each.value for each in Status],
        "environments": found.environments if len(found.environments) <= _MOST_NAMES else [],
        "repositories": found.repositories if len(found.repositories) <= _MOST_NAMES else [],
        "controllers": [each.name for each in settings.controllers],
    }


PAGE = Page("/deployments", show)
