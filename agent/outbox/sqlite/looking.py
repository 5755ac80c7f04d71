"""Queries: pages of deployments, and counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.outbox import rows
from agent.outbox.sql import looking
from agent.outbox.sqlite.conditions import Condition, bounds, conditions
from agent.outbox.sqlite.loading import Loading
from agent.outbox.values import Backlog, Counts, LastRepair

if TYPE_CHECKING:
    from agent.model.deployment import Deployment
    from agent.outbox.values import Filter, Page

# In the order of ``Counts``. Held, failed and discarded rows are few and are counted; the table ``counts`` has the
# rest.
COUNTS = (
    "SELECT ids - no_row - held - delivered - failed - discarded, held, delivered, failed, discarded FROM"
    " (SELECT coalesce(max(id), 0) AS ids FROM deployments),"
    " (SELECT n AS no_row FROM counts WHERE state = 'no row'),"
    " (SELECT n AS delivered FROM counts WHERE state = 'delivered'),"
    " (SELECT count(*) AS held FROM deployments WHERE state = 'held'),"
    " (SELECT count(*) AS failed FROM deployments WHERE state = 'failed'),"
    " (SELECT count(*) AS discarded FROM deployments WHERE state = 'discarded')"
)
_OLDEST = "SELECT created_at FROM deployments WHERE state = 'pending' ORDER BY id LIMIT 1"
# CROSS JOIN: first the groups, from the index of runs alone, then one row for each. That excludes most projects.
_MAY_BE_QUIET = (
    "SELECT of_project.project_id FROM (SELECT project_id, count(*) AS n, max(id) AS newest FROM deployments"
    " GROUP BY project_id) AS of_project CROSS JOIN deployments AS d ON d.id = of_project.newest"
    " WHERE of_project.n >= ? AND coalesce(d.build_ended_at, d.ended_at) < ?"
    " AND of_project.project_id NOT IN (SELECT former_id FROM former_names)"
)


class Looking(Loading, looking.Looking):
    """See :class:`agent.outbox.interface.Looking`."""

    def query(self, which: Filter, page: Page) -> list[Deployment]:
        """A page of deployments, newest first. It reads until the page is full: all deployments, if few match."""
        project_id = None if which.project is None else self._project_id(which.project)
        if which.project is not None and project_id is None:
            return []
        given = [*bounds(page), *conditions(which)]
        if project_id is not None:
            given.append(Condition("project_id = ?", (project_id,)))
        texts, values = [each.sql for each in given], [value for each in given for value in each.values]
        states = [state.value for state in dict.fromkeys(which.states)]
        order = "ASC" if page.before is None and page.after is not None else "DESC"
        if project_id is None and states:
            # One subquery for each state, each in index order, so that a page never sorts all rows of a state.
            of_state = _select(["state = ?", *texts], order)
            sql = " UNION ALL ".join([f"SELECT * FROM ({of_state})"] * len(states))  # noqa: S608
            bound = [value for state in states for value in (state, *values, page.limit)]
        else:
            of_states = [f"+state IN ({', '.join('?' for _ in states)})"] if states else []
            sql = f"SELECT * FROM ({_select([*of_states, *texts], order)})"  # noqa: S608
            bound = [*states, *values, page.limit]
        found = self._deployments(self._all(f"{sql} ORDER BY id {order} LIMIT ?", (*bound, page.limit)))
        return found if order == "DESC" else found[::-1]

    def _may_be_quiet(self, moment: int, least: int) -> list[Any]:
        return self._all(_MAY_BE_QUIET, (least, moment))

    def backlog(self) -> Backlog:
        """The counts, and when the oldest pending deployment was enqueued."""
        oldest, *counts = self._one(f"SELECT ({_OLDEST}), * FROM ({COUNTS})")  # noqa: S608
        return Backlog(Counts(*counts), oldest)

    def last_repair(self) -> LastRepair | None:
        """When the file was last found damaged; None: never."""
        found = self._one("SELECT at, moved_to, problem, events FROM repairs ORDER BY at DESC LIMIT 1")
        return None if found is None else LastRepair(*found)


def _select(texts: list[str], order: str) -> str:
    where = " AND ".join(texts) or "1"
    return f"SELECT {rows.COLUMNS} FROM deployments WHERE {where} ORDER BY id {order} LIMIT ?"  # noqa: S608
