"""Queries: pages of deployments, and counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.outbox import rows
from agent.outbox.postgresql.conditions import Condition, bounds, by_reason, conditions, joined
from agent.outbox.postgresql.loading import Loading
from agent.outbox.sql import looking
from agent.outbox.values import Backlog, Counts, Page

if TYPE_CHECKING:
    from agent.model.deployment import Deployment
    from agent.outbox.values import Filter

_COUNTS = (
    "SELECT state, sum(n)::bigint FROM (SELECT state, n FROM counts WHERE state <> 'bytes'"
    " UNION ALL SELECT state, n FROM changes WHERE state IS NOT NULL) AS together GROUP BY state"
)
_OLDEST = "SELECT created_at FROM deployments WHERE state = 'pending' ORDER BY id LIMIT 1"
# Rows that are read at once where their reasons are checked here.
_REASONS = 2_000
# Those that have deployed lately are found by their time, and of the others no more are read than is needed.
_MAY_BE_QUIET = (
    "SELECT p.id FROM projects AS p"
    " WHERE NOT EXISTS (SELECT FROM deployments AS d WHERE d.project_id = p.id AND d.ended_at >= %(moment)s"
    " AND coalesce(d.build_ended_at, d.ended_at) >= %(moment)s)"
    " AND (SELECT count(*) FROM (SELECT FROM deployments AS d WHERE d.project_id = p.id LIMIT %(least)s) AS few)"
    " >= %(least)s AND p.id NOT IN (SELECT former_id FROM former_names) ORDER BY p.id"
)


class Looking(Loading, looking.Looking):
    """See :class:`agent.outbox.interface.Looking`."""

    def query(self, which: Filter, page: Page) -> list[Deployment]:
        """A page of deployments, newest first. It reads until the page is full: all deployments, if few match."""
        backwards = page.before is None and page.after is not None
        found = self._matching(which, bounds(page), page.limit, backwards=backwards)
        return found[::-1] if backwards else found

    def _matching(self, which: Filter, within: list[Condition], limit: int, *, backwards: bool) -> list[Deployment]:
        """The first ones that match in the order of their numbers, highest first or, ``backwards``, lowest first."""
        matches = by_reason(which)
        wanted = joined([*within, *conditions(which)])
        if matches is None:
            return self._deployments(self._select(wanted, limit, backwards=backwards))
        found: list[Deployment] = []
        last: int | None = None
        while len(found) < limit:
            on = "" if last is None else f" AND id {'>' if backwards else '<'} %s"
            order = "ASC" if backwards else "DESC"
            read = self._all(
                f"SELECT id, reason FROM deployments WHERE {wanted.sql}{on} ORDER BY id {order} LIMIT %s",  # noqa: S608
                (*wanted.values, *([] if last is None else [last]), _REASONS),
            )
            chosen = [number for number, reason in read if matches(reason)][: limit - len(found)]
            found += self._numbered(chosen, backwards=backwards) if chosen else []
            if len(read) < _REASONS:
                break
            last = read[-1][0]
        return found

    def _numbered(self, numbers: list[int], *, backwards: bool) -> list[Deployment]:
        order = "ASC" if backwards else "DESC"
        sql = f"SELECT {rows.COLUMNS} FROM deployments WHERE id = ANY(%s) ORDER BY id {order}"  # noqa: S608
        return self._deployments(self._all(sql, (numbers,)))

    def _select(self, wanted: Condition, limit: int, *, backwards: bool) -> list[tuple[object, ...]]:
        order = "ASC" if backwards else "DESC"
        return self._all(
            f"SELECT {rows.COLUMNS} FROM deployments WHERE {wanted.sql} ORDER BY id {order} LIMIT %s",  # noqa: S608
            (*wanted.values, limit),
        )

    def _may_be_quiet(self, moment: int, least: int) -> list[Any]:
        return self._all(_MAY_BE_QUIET, {"least": least, "moment": moment})

    def _page(self, wanted: Condition, limit: int, *, backwards: bool) -> list[Deployment]:
        order = "ASC" if backwards else "DESC"
        sql = f"SELECT {rows.COLUMNS} FROM deployments WHERE {wanted.sql} ORDER BY id {order} LIMIT %s"  # noqa: S608
        return self._with_projects(sql, (*wanted.values, limit), order)

    def backlog(self) -> Backlog:
        """The counts, and when the oldest pending deployment was enqueued."""
        sql = f"{_COUNTS} UNION ALL (SELECT '', created_at FROM ({_OLDEST}) AS oldest)"  # noqa: S608
        found: dict[str, int] = dict(self._all(sql))
        counts = Counts(**{name: found.get(name, 0) for name in Counts.__struct_fields__})
        return Backlog(counts, found.get(""))
