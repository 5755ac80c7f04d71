"""The numbers of projects, with a cache, and deployments from rows."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from agent.model.keys import Project
from agent.outbox.rows import deployment_of
from agent.outbox.sql.base import Part

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from agent.model.deployment import Deployment

# The number of projects kept in the cache: a few megabytes.
_MOST = 20_000


class Projects(Part):
    """A part that stores or reads rows of projects."""

    # The same in both directions; ``_rollbacks``: of the transactions when it was filled.
    _ids: dict[Project, int]
    _projects: dict[int, Project]
    _rollbacks = 0

    @abstractmethod
    def _find_projects(self, projects: Sequence[Project]) -> list[Any]:
        """The rows (id, provider, scope, name) of those that are stored."""

    @abstractmethod
    def _insert_projects(self, projects: Sequence[Project]) -> None:
        """Insert projects, unless another process has done so meanwhile."""

    def _project_id(self, project: Project) -> int | None:
        """None if nothing is stored for this project."""
        return self._project_ids([project]).get(project)

    def _project_ids(self, projects: Iterable[Project]) -> dict[Project, int]:
        """The numbers of those for which something is stored."""
        self._forget_after_rollback()
        asked = dict.fromkeys(projects)
        found = {each: number for each in asked if (number := self._ids.get(each)) is not None}
        if missing := [each for each in asked if each not in found]:
            found |= {Project(*names): number for number, *names in self._find_projects(missing)}
            self._remember({found[each]: each for each in missing if each in found})
        return found

    def _made_project_ids(self, projects: Iterable[Project]) -> dict[Project, int]:
        """Insert projects if necessary. Call it within a transaction."""
        asked = dict.fromkeys(projects)
        found = self._project_ids(asked)
        if missing := [each for each in asked if each not in found]:
            self._insert_projects(missing)
            found |= self._project_ids(missing)
        return found

    def _project(self, project_id: int) -> Project:
        self._forget_after_rollback()
        known = self._projects.get(project_id)
        return self._projects_of([project_id])[project_id] if known is None else known

    def _projects_of(self, numbers: Iterable[int]) -> dict[int, Project]:
        """The projects with these numbers. Those that are not in the cache are read in one statement."""
        self._forget_after_rollback()
        asked = set(numbers)
        found = {each: known for each in asked if (known := self._projects.get(each)) is not None}
        if missing := asked - found.keys():
            sql = f"SELECT id, provider, scope, name FROM projects WHERE id {self._AMONG}"  # noqa: S608
            read = {number: Project(*names) for number, *names in self._all(sql, (self._listed(missing),))}
            if not missing <= read.keys():
                raise self._damaged("a project is missing")
            self._remember(read)
            found |= read
        return found

    def _names(self, projects: Iterable[Project]) -> dict[Project, list[Project]]:
        """All names under which these projects may be stored, each one's own first."""
        names = {project: [project] for project in projects}
        if known := self._project_ids(names):
            found = self._all(
                f"SELECT project_id, former_id FROM former_names WHERE project_id {self._AMONG} ORDER BY 1, 2",  # noqa: S608
                (self._listed(known.values()),),
            )
            named = self._projects_of(each for pair in found for each in pair)
            for project_id, former_id in found:
                names[named[project_id]].append(named[former_id])
        return names

    def _remember(self, projects: dict[int, Project]) -> None:
        if len(self._ids) + len(projects) > _MOST:
            self._ids.clear()
            self._projects.clear()
        self._projects |= projects
        self._ids |= {project: number for number, project in projects.items()}

    def _forget_after_rollback(self) -> None:
        """Clear the cache: an inserted project may be gone and its number used again."""
        if self._rollbacks != self._transactions.rollbacks:
            self._rollbacks = self._transactions.rollbacks
            self._ids.clear()
            self._projects.clear()

    def _deployments(self, rows: Collection[Any]) -> list[Deployment]:
        """Deployments from rows of :data:`agent.outbox.rows.COLUMNS`."""
        projects = self._projects_of(row[1] for row in rows)
        with self._readable():
            return [deployment_of(row, projects[row[1]]) for row in rows]

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Raises :class:`agent.outbox.values.DamagedError` if a deployment that is read in the block is not valid."""
        try:
            yield
        except (KeyError, msgspec.MsgspecError) as error:
            raise self._damaged(f"a deployment is not valid: {error}") from error
