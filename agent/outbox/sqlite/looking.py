"""Queries: pages of deployments, attempts, counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import json

from agent.model.keys import Project
from agent.outbox import rows
from agent.outbox.sql.loading import MOST_DIGITS
from agent.outbox.sqlite.conditions import Condition, bounds, conditions
from agent.outbox.sqlite.loading import Loading
from agent.outbox.values import Action, Attempt, Backlog, Counts, LastDeployments, LastRepair, SetAside

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from agent.model.deployment import Deployment
    from agent.model.fact import Fact
    from agent.model.keys import Run
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
_PIECE = 500
_TOO_LARGE = 2**63
# The maximum number of build ends returned for one project.
LAST_ENDS = 50
# CROSS JOIN: first the groups, from the index of runs alone, then one row for each.
_MAY_BE_QUIET = (
    "SELECT of_project.project_id FROM (SELECT project_id, count(*) AS n, max(id) AS newest FROM deployments"
    " GROUP BY project_id) AS of_project CROSS JOIN deployments AS d ON d.id = of_project.newest"
    " WHERE of_project.n >= ? AND coalesce(d.build_ended_at, d.ended_at) < ?"
    " AND of_project.project_id NOT IN (SELECT former_id FROM former_names)"
)
_LAST_ENDS = (
    "SELECT run, coalesce(build_started_at, started_at) AS began, max(coalesce(build_ended_at, ended_at)) AS ended"
    " FROM deployments WHERE project_id = ? AND problem IS NULL AND state <> 'discarded'"
    " GROUP BY run, began ORDER BY ended DESC LIMIT ?"
)


class Looking(Loading):
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

    def projects(self, ended_since: int) -> list[Project]:
        """Projects with deployments whose build ended at or after this time. Reads all deployments: 1 s for a million.

        A former name is listed as a project of its own.
        """
        found = self._all(
            "SELECT provider, scope, name FROM projects WHERE id IN"
            " (SELECT project_id FROM deployments WHERE coalesce(build_ended_at, ended_at) >= ?)"
            " ORDER BY provider, scope, name",
            (ended_since,),
        )
        return [Project(*row) for row in found]

    def outdated(self, among: int) -> int:
        """How many of the newest ``among`` deployments were delivered in an older or unknown revision."""
        found = self._one(
            "SELECT count(*) FROM (SELECT revision, sent_revision FROM deployments ORDER BY id DESC LIMIT ?)"
            " WHERE sent_revision <> revision",
            (among,),
        )
        return int(found[0])

    def quiet_since(self, moment: int, *, least: int) -> list[LastDeployments]:
        """Projects with at least ``least`` deploying builds, none of which ended at or after ``moment``.

        For most projects, the row count and the last row, both from an index, are enough to exclude them.
        """
        found = []
        for (project_id,) in self._all(_MAY_BE_QUIET, (least, moment)):
            rows_of = self._all(_LAST_ENDS, (project_id, LAST_ENDS))
            if len(rows_of) >= least and rows_of[0][2] < moment:
                newest_run, started_at, _ = rows_of[0]
                ends = tuple(ended_at for _, _, ended_at in reversed(rows_of))
                found.append(LastDeployments(self._project(project_id), newest_run, started_at, ends))
        return found

    def find(self, name: str) -> Deployment | None:
        """The deployment with this deployment_id or, if there is none, with this number."""
        found = self._where("deployment_id = ?", name)
        if not found and name.isascii() and name.isdecimal() and len(name) <= MOST_DIGITS:
            found = self._where("id = ?", int(name))
        return found[0] if found else None

    def with_numbers(self, numbers: Collection[int]) -> dict[int, Deployment]:
        """The deployments with these numbers that exist, by number."""
        asked = json.encode([number for number in numbers if 0 < number < _TOO_LARGE]).decode()
        sql = f"SELECT {rows.COLUMNS} FROM deployments WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608
        return {each.number: each for each in self._with_projects(sql, (asked,), "ASC")}

    def _with_projects(self, sql: str, values: tuple[object, ...], order: str) -> list[Deployment]:
        """In one statement: a page may have as many projects as deployments."""
        found = self._all(
            "SELECT page.*, projects.provider, projects.scope, projects.name"  # noqa: S608
            f" FROM ({sql}) AS page LEFT JOIN projects ON projects.id = page.project_id ORDER BY page.id {order}",
            values,
        )
        self._remember({row[1]: Project(*row[-3:]) for row in found if row[-1] is not None})
        return self._deployments([row[:-3] for row in found])

    def _where(self, condition: str, value: object) -> list[Deployment]:
        sql = f"SELECT {rows.COLUMNS} FROM deployments WHERE {condition}"  # noqa: S608
        return self._deployments(self._all(sql, (value,)))

    def of_run(self, run: Run) -> list[Deployment]:
        """All deployments of a run, under the current and former names of its project, oldest first."""
        return list(self.load([run])[run].deployments)

    def facts(self, run: Run) -> list[Fact]:
        """All facts about a run, under the current and former names of its project."""
        return list(self.load([run])[run].facts)

    def attempts(self, deployment: Deployment) -> list[Attempt]:
        """The first failed attempt and the last ones, oldest first. A success is stored in the deployment itself."""
        found = self._all(
            "SELECT n, at, duration_ms, http_status, verdict, answer FROM attempts WHERE deployment = ? ORDER BY n",
            (deployment.number,),
        )
        return [Attempt(*row) for row in found]

    def actions(self, deployment: Deployment) -> list[Action]:
        """What persons did with a deployment, oldest first."""
        found = self._all(
            "SELECT at, what, who, reason FROM actions WHERE deployment = ? ORDER BY n", (deployment.number,)
        )
        return [Action(*row) for row in found]

    def counts(self) -> Counts:
        """Deployments by state. The time does not depend on how many are pending or delivered."""
        return self.backlog().counts

    def backlog(self) -> Backlog:
        """The counts, and when the oldest pending deployment was enqueued."""
        oldest, *counts = self._one(f"SELECT ({_OLDEST}), * FROM ({COUNTS})")  # noqa: S608
        return Backlog(Counts(*counts), oldest)

    def things_set_aside(self, limit: int) -> list[SetAside]:
        """The newest entries first."""
        found = self._all(
            "SELECT at, kind, subject, error, body, id FROM set_aside ORDER BY at DESC, id DESC LIMIT ?", (limit,)
        )
        return [SetAside(*row) for row in found]

    def last_repair(self) -> LastRepair | None:
        """When the file was last found damaged; None: never."""
        found = self._one("SELECT at, moved_to, problem, events FROM repairs ORDER BY at DESC LIMIT 1")
        return None if found is None else LastRepair(*found)

    def all_deployments(self) -> Iterator[Deployment]:
        """All deployments, oldest first, in batches. No statement stays open in between."""
        last = 0
        while found := self._all(
            f"SELECT {rows.COLUMNS} FROM deployments WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608
            (last, _PIECE),
        ):
            yield from self._deployments(found)
            last = found[-1][0]


def _select(texts: list[str], order: str) -> str:
    where = " AND ".join(texts) or "1"
    return f"SELECT {rows.COLUMNS} FROM deployments WHERE {where} ORDER BY id {order} LIMIT ?"  # noqa: S608
