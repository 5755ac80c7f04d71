"""Queries: pages of deployments, attempts, counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.model.keys import Project
from agent.outbox import rows
from agent.outbox.postgresql.conditions import Condition, bounds, by_reason, conditions, joined
from agent.outbox.postgresql.loading import Loading
from agent.outbox.sql.loading import MOST_DIGITS
from agent.outbox.values import Action, Attempt, Backlog, Counts, LastDeployments, Page, SetAside

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from agent.model.deployment import Deployment
    from agent.model.fact import Fact
    from agent.model.keys import Run
    from agent.outbox.values import Filter

_COUNTS = (
    "SELECT state, sum(n)::bigint FROM (SELECT state, n FROM counts WHERE state <> 'bytes'"
    " UNION ALL SELECT state, n FROM changes WHERE state IS NOT NULL) AS together GROUP BY state"
)
_OLDEST = "SELECT created_at FROM deployments WHERE state = 'pending' ORDER BY id LIMIT 1"
_PIECE = 500
_TOO_LARGE = 2**63
# Rows that are read at once where their reasons are checked here.
_REASONS = 2_000
# The maximum number of build ends returned for one project.
LAST_ENDS = 50
# First the groups, from the index of runs, then one row for each.
# Those that have deployed lately are found by their time, and of the others no more are read than is needed.
_MAY_BE_QUIET = (
    "SELECT p.id FROM projects AS p"
    " WHERE NOT EXISTS (SELECT FROM deployments AS d WHERE d.project_id = p.id AND d.ended_at >= %(moment)s"
    " AND coalesce(d.build_ended_at, d.ended_at) >= %(moment)s)"
    " AND (SELECT count(*) FROM (SELECT FROM deployments AS d WHERE d.project_id = p.id LIMIT %(least)s) AS few)"
    " >= %(least)s AND p.id NOT IN (SELECT former_id FROM former_names) ORDER BY p.id"
)
_LAST_ENDS = (
    "SELECT run, coalesce(build_started_at, started_at) AS began, max(coalesce(build_ended_at, ended_at)) AS ended"
    " FROM deployments WHERE project_id = %s AND problem IS NULL AND state <> 'discarded'"
    " GROUP BY run, began ORDER BY ended DESC, run LIMIT %s"
)


class Looking(Loading):
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

    def projects(self, ended_since: int) -> list[Project]:
        """Projects with deployments whose build ended at or after this time. Reads all deployments.

        A former name is listed as a project of its own.
        """
        found = self._all(
            "SELECT provider, scope, name FROM projects WHERE id IN"
            " (SELECT project_id FROM deployments WHERE coalesce(build_ended_at, ended_at) >= %s)"
            " ORDER BY provider, scope, name",
            (ended_since,),
        )
        return [Project(*row) for row in found]

    def outdated(self, among: int) -> int:
        """How many of the newest ``among`` deployments were delivered in an older or unknown revision."""
        found = self._one(
            "SELECT count(*) FROM (SELECT revision, sent_revision FROM deployments ORDER BY id DESC LIMIT %s) AS newest"
            " WHERE sent_revision <> revision",
            (among,),
        )
        return int(found[0])

    def quiet_since(self, moment: int, *, least: int) -> list[LastDeployments]:
        """Projects with at least ``least`` deploying builds, none of which ended at or after ``moment``.

        Most projects have deployed lately, and are excluded by the time of the end. Of the others, the ends are read.
        """
        found = []
        for (project_id,) in self._all(_MAY_BE_QUIET, {"least": least, "moment": moment}):
            rows_of = self._all(_LAST_ENDS, (project_id, LAST_ENDS))
            if len(rows_of) >= least and rows_of[0][2] < moment:
                newest_run, started_at, _ = rows_of[0]
                ends = tuple(ended_at for _, _, ended_at in reversed(rows_of))
                found.append(LastDeployments(self._project(project_id), newest_run, started_at, ends))
        return found

    def find(self, name: str) -> Deployment | None:
        """The deployment with this deployment_id or, if there is none, with this number."""
        found = self._where("deployment_id = %s", name)
        if not found and name.isascii() and name.isdecimal() and len(name) <= MOST_DIGITS:
            found = self._where("id = %s", int(name))
        return found[0] if found else None

    def with_numbers(self, numbers: Collection[int]) -> dict[int, Deployment]:
        """The deployments with these numbers that exist, by number."""
        asked = [number for number in numbers if 0 < number < _TOO_LARGE]
        found = self._page(Condition("id = ANY(%s)", (asked,)), len(asked), backwards=True)
        return {each.number: each for each in found}

    def _page(self, wanted: Condition, limit: int, *, backwards: bool) -> list[Deployment]:
        """In one statement: a page may have as many projects as deployments."""
        order = "ASC" if backwards else "DESC"
        found = self._all(
            "SELECT page.*, projects.provider, projects.scope, projects.name FROM"  # noqa: S608
            f" (SELECT {rows.COLUMNS} FROM deployments WHERE {wanted.sql} ORDER BY id {order} LIMIT %s) AS page"
            f" LEFT JOIN projects ON projects.id = page.project_id ORDER BY page.id {order}",
            (*wanted.values, limit),
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
            "SELECT n, at, duration_ms, http_status, verdict, answer FROM attempts WHERE deployment = %s ORDER BY n",
            (deployment.number,),
        )
        return [Attempt(*row) for row in found]

    def actions(self, deployment: Deployment) -> list[Action]:
        """What persons did with a deployment, oldest first."""
        found = self._all(
            "SELECT at, what, who, reason FROM actions WHERE deployment = %s ORDER BY n", (deployment.number,)
        )
        return [Action(*row) for row in found]

    def counts(self) -> Counts:
        """Deployments by state. The time does not depend on how many there are."""
        return self.backlog().counts

    def backlog(self) -> Backlog:
        """The counts, and when the oldest pending deployment was enqueued."""
        sql = f"{_COUNTS} UNION ALL (SELECT '', created_at FROM ({_OLDEST}) AS oldest)"  # noqa: S608
        found: dict[str, int] = dict(self._all(sql))
        counts = Counts(**{name: found.get(name, 0) for name in Counts.__struct_fields__})
        return Backlog(counts, found.get(""))

    def things_set_aside(self, limit: int) -> list[SetAside]:
        """The newest entries first."""
        found = self._all(
            "SELECT at, kind, subject, error, body, id FROM set_aside ORDER BY at DESC, id DESC LIMIT %s", (limit,)
        )
        return [SetAside(*row) for row in found]

    def all_deployments(self) -> Iterator[Deployment]:
        """All deployments, oldest first, in batches."""
        last = 0
        while found := self._all(
            f"SELECT {rows.COLUMNS} FROM deployments WHERE id > %s ORDER BY id LIMIT %s",  # noqa: S608
            (last, _PIECE),
        ):
            yield from self._deployments(found)
            last = found[-1][0]
