"""Queries: projects, one deployment with its attempts, and what was set aside."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from agent.model.keys import Project
from agent.outbox import rows
from agent.outbox.sql.loading import MOST_DIGITS
from agent.outbox.sql.projects import Projects
from agent.outbox.values import Action, Attempt, Backlog, Counts, LastDeployments, SetAside

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from agent.model.deployment import Deployment
    from agent.model.fact import Fact
    from agent.model.keys import Run
    from agent.outbox.values import RunState

_PIECE = 500
_TOO_LARGE = 2**63
# The maximum number of build ends returned for one project.
LAST_ENDS = 50
_LAST_ENDS = (
    "SELECT run, coalesce(build_started_at, started_at) AS began, max(coalesce(build_ended_at, ended_at)) AS ended"
    " FROM deployments WHERE project_id = ? AND problem IS NULL AND state <> 'discarded'"
    " GROUP BY run, began ORDER BY ended DESC, run LIMIT ?"
)


class Looking(Projects):
    """See :class:`agent.outbox.interface.Looking`."""

    @abstractmethod
    def load(self, runs: Collection[Run]) -> dict[Run, RunState]:
        """See :meth:`agent.outbox.interface.Deployments.load`."""

    def with_numbers(self, numbers: Collection[int]) -> dict[int, Deployment]:
        """The deployments with these numbers that exist, by number."""
        asked = self._listed([number for number in numbers if 0 < number < _TOO_LARGE])
        sql = f"SELECT {rows.COLUMNS} FROM deployments WHERE id {self._AMONG}"  # noqa: S608
        return {each.number: each for each in self._with_projects(sql, (asked,), "ASC")}

    def _with_projects(self, sql: str, values: tuple[object, ...], order: str) -> list[Deployment]:
        """The deployments of this query, in one statement: a page may have as many projects as deployments."""
        found = self._all(
            "SELECT page.*, projects.provider, projects.scope, projects.name"  # noqa: S608
            f" FROM ({sql}) AS page LEFT JOIN projects ON projects.id = page.project_id ORDER BY page.id {order}",
            values,
        )
        self._remember({row[1]: Project(*row[-3:]) for row in found if row[-1] is not None})
        return self._deployments([row[:-3] for row in found])

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
            "SELECT count(*) FROM (SELECT revision, sent_revision FROM deployments ORDER BY id DESC LIMIT ?) AS newest"
            " WHERE sent_revision <> revision",
            (among,),
        )
        return int(found[0])

    @abstractmethod
    def _may_be_quiet(self, moment: int, least: int) -> list[Any]:
        """Rows with the numbers of the projects that :meth:`quiet_since` looks at, without former names."""

    def quiet_since(self, moment: int, *, least: int) -> list[LastDeployments]:
        """Projects with at least ``least`` deploying builds, none of which ended at or after ``moment``.

        Of those that may be quiet, the ends are read.
        """
        found = []
        for (project_id,) in self._may_be_quiet(moment, least):
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

    @abstractmethod
    def backlog(self) -> Backlog:
        """The counts, and when the oldest pending deployment was enqueued."""

    def things_set_aside(self, limit: int) -> list[SetAside]:
        """The newest entries first."""
        found = self._all(
            "SELECT at, kind, subject, error, body, id FROM set_aside ORDER BY at DESC, id DESC LIMIT ?", (limit,)
        )
        return [SetAside(*row) for row in found]

    def all_deployments(self) -> Iterator[Deployment]:
        """All deployments, oldest first, in batches. No statement stays open in between."""
        last = 0
        while found := self._all(
            f"SELECT {rows.COLUMNS} FROM deployments WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608
            (last, _PIECE),
        ):
            yield from self._deployments(found)
            last = found[-1][0]
