"""Loading what is stored about runs, under all names of their projects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agent.model.fact import seen
from agent.model.keys import JENKINS, jenkins_run
from agent.outbox import rows
from agent.outbox.sqlite.part import MOST_DIGITS, Part
from agent.outbox.values import RunState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from agent.model.deployment import Deployment
    from agent.model.fact import Fact
    from agent.model.keys import Project, Run
    from agent.outbox.rows import Place

_FACTS = f"SELECT {rows.FACT_COLUMNS} FROM facts WHERE project_id = ? AND run = ? ORDER BY id"  # noqa: S608
_DEPLOYMENTS = f"SELECT {rows.COLUMNS} FROM deployments WHERE project_id = ? AND run = ? ORDER BY id"  # noqa: S608
_OPEN = (
    "SELECT full_name, number, started_at, first_seen_at FROM open_builds"
    " WHERE controller = ? AND full_name = ? AND number = ? AND started_at IS NOT NULL"
)
# The same for many runs. ?1 is JSON: {run: project, …}, or for open builds {job: number, …}; a key may be repeated.
# CROSS JOIN fixes the join order, so that a few runs never cause a scan of the whole table.
_MANY_FACTS = (
    f"SELECT {rows.FACT_COLUMNS} FROM json_each(?1) AS asked CROSS JOIN facts"  # noqa: S608
    " ON project_id = asked.value AND run = asked.key ORDER BY facts.id"
)
_MANY_DEPLOYMENTS = (
    f"SELECT deployments.{rows.COLUMNS} FROM json_each(?1) AS asked CROSS JOIN deployments"  # noqa: S608
    " ON project_id = asked.value AND run = asked.key ORDER BY deployments.id"
)
_MANY_OPEN = (
    "SELECT full_name, number, started_at, first_seen_at FROM json_each(?1) AS asked CROSS JOIN open_builds"
    " ON controller = ?2 AND full_name = asked.key AND number = asked.value WHERE started_at IS NOT NULL"
)
# One query for whether anything is stored at all: for most runs nothing is yet.
_ANYTHING = (
    "EXISTS (SELECT 1 FROM facts WHERE project_id = {project} AND run = {run})"
    " OR EXISTS (SELECT 1 FROM deployments WHERE project_id = {project} AND run = {run})"
    # Renamed jobs are rare, so their absence is checked first and once.
    " OR (EXISTS (SELECT 1 FROM former_names) AND EXISTS (SELECT 1 FROM former_names WHERE project_id = {project}))"
    " OR EXISTS (SELECT 1 FROM projects AS p CROSS JOIN open_builds AS o ON o.controller = p.scope"
    " AND o.full_name = p.name AND o.number = CAST({run} AS INTEGER) WHERE p.id = {project})"
)
_ANYTHING_OF_ONE = f"SELECT ?1, ?2 WHERE {_ANYTHING.format(project='?1', run='?2')}"
_ANYTHING_OF_MANY = (
    "SELECT asked.value, asked.key FROM json_each(?1) AS asked"  # noqa: S608
    f" WHERE {_ANYTHING.format(project='asked.value', run='asked.key')}"
)
_ENCODE = msgspec.json.Encoder().encode


class Loading(Part):
    """See :meth:`agent.outbox.interface.Deployments.load`."""

    def load(self, runs: Collection[Run]) -> dict[Run, RunState]:
        """What is stored about these runs, under the current and former names of their projects.

        Facts are in the order in which they were stored, followed by the SEEN facts of open builds.
        """
        states = {run: RunState(run) for run in runs}
        some = self._with_anything(runs)
        return states | self._load(some) if some else states

    def _with_anything(self, runs: Collection[Run]) -> list[Run]:
        """The runs for which something may be stored."""
        ids = {run: self._project_id(run.project) for run in runs}
        known = [(project_id, run.number) for run, project_id in ids.items() if project_id is not None]
        found = set(self._of_places(_ANYTHING_OF_ONE, _ANYTHING_OF_MANY, known))
        return [run for run, project_id in ids.items() if project_id is None or (project_id, run.number) in found]

    def _load(self, runs: Collection[Run]) -> dict[Run, RunState]:
        facts: dict[Run, list[Fact]] = {run: [] for run in runs}
        deployments: dict[Run, list[Deployment]] = {run: [] for run in runs}
        names = self._names({run.project for run in runs})
        places = self._places(facts, names)
        asked = list({place[:2]: None for place in places})
        for row in self._of_places(_FACTS, _MANY_FACTS, asked):
            for run in places.get(row[:3], ()):
                facts[run].append(rows.fact_of(row, self._project(row[0])))
        found = self._of_places(_DEPLOYMENTS, _MANY_DEPLOYMENTS, asked)
        for row, deployment in zip(found, self._deployments(found), strict=True):
            for run in places.get((row[1], row[2], deployment.run.attempt), ()):
                deployments[run].append(deployment)
        self._add_open_builds(facts, names)
        return {run: RunState(run, tuple(facts[run]), tuple(deployments[run])) for run in facts}

    def _of_places(self, one: str, many: str, places: Sequence[tuple[int, str]]) -> list[Any]:
        if len(places) == 1:
            return self._all(one, places[0])
        return self._all(many, (_json((run, project_id) for project_id, run in places),)) if places else []

    def _places(self, runs: Iterable[Run], names: Mapping[Project, Sequence[Project]]) -> dict[Place, list[Run]]:
        """Where these runs may be stored, and which runs belong to each place."""
        places: dict[Place, list[Run]] = {}
        for run in runs:
            for project in names[run.project]:
                project_id = self._project_id(project)
                if project_id is not None:
                    places.setdefault((project_id, run.number, run.attempt), []).append(run)
        return places

    def _add_open_builds(self, facts: dict[Run, list[Fact]], names: Mapping[Project, Sequence[Project]]) -> None:
        asked: dict[str, dict[tuple[str, int], list[Run]]] = {}
        for run in facts:
            if run.project.provider == JENKINS and run.number.isdecimal() and len(run.number) <= MOST_DIGITS:
                number = int(run.number)
                for project in names[run.project]:
                    asked.setdefault(project.scope, {}).setdefault((project.name, number), []).append(run)
        for controller, builds in asked.items():
            if len(builds) == 1:
                found = self._all(_OPEN, (controller, *next(iter(builds))))
            else:
                found = self._all(_MANY_OPEN, (_json(builds), controller))
            for job, number, started_at, first_seen_at in found:
                fact = seen(jenkins_run(controller, job, number), started_at=started_at, at=first_seen_at)
                for run in builds[job, number]:
                    if all(known.word != fact.word for known in facts[run]):
                        facts[run].append(fact)


def _json(pairs: Iterable[tuple[str, int]]) -> str:
    """A JSON object that may repeat keys."""
    return "{" + ",".join([f"{_ENCODE(key).decode()}:{value}" for key, value in pairs]) + "}"
