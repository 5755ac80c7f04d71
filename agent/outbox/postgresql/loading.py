"""Loading what is stored about runs, under all names of their projects."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from agent.model.fact import seen
from agent.model.keys import JENKINS, jenkins_run
from agent.outbox import rows
from agent.outbox.postgresql.part import MOST_DIGITS, Part
from agent.outbox.values import RunState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from agent.model.deployment import Deployment
    from agent.model.fact import Fact
    from agent.model.keys import Project, Run
    from agent.outbox.rows import Place

_ASKED = "unnest(%s::bigint[], %s::text[]) AS asked (its_project, its_run)"
_SAME = "project_id = its_project AND name_key(run) = name_key(its_run)"
_FACTS = f"SELECT {rows.FACT_COLUMNS} FROM facts JOIN {_ASKED} ON {_SAME} ORDER BY id"  # noqa: S608
_DEPLOYMENTS = f"SELECT {rows.COLUMNS} FROM deployments JOIN {_ASKED} ON {_SAME} ORDER BY id"  # noqa: S608
_OPEN = (
    "SELECT controller, full_name, number, started_at, first_seen_at FROM open_builds"
    " JOIN unnest(%s::text[], %s::text[], %s::bigint[]) AS asked (its_controller, its_name, its_number)"
    " ON controller = its_controller AND name_key(full_name) = name_key(its_name) AND number = its_number"
    " WHERE started_at IS NOT NULL"
)
# So many locks protect the runs of a controller. PostgreSQL has room for a few thousand in all.
_LOCKS = 64


class Loading(Part):
    """See :meth:`agent.outbox.interface.Deployments.load`."""

    def load(self, runs: Collection[Run]) -> dict[Run, RunState]:
        """What is stored about these runs, under the current and former names of their projects.

        Facts are in the order in which they were stored, followed by the SEEN facts of open builds. Within a
        transaction no other agent changes these runs until it ends.
        """
        if not runs:
            return {}
        with self._connection.words():
            self._transactions.lock({lock_of(run) for run in runs})
        facts: dict[Run, list[Fact]] = {run: [] for run in runs}
        deployments: dict[Run, list[Deployment]] = {run: [] for run in runs}
        names = self._names({run.project for run in runs})
        places = self._places(facts, names)
        if places:
            asked = list({place[:2]: None for place in places})
            values = ([project_id for project_id, _ in asked], [number for _, number in asked])
            for row in self._all(_FACTS, values):
                for run in places.get(row[:3], ()):
                    facts[run].append(rows.fact_of(row, self._project(row[0])))
            found = self._all(_DEPLOYMENTS, values)
            for row, deployment in zip(found, self._deployments(found), strict=True):
                for run in places.get((row[1], row[2], deployment.run.attempt), ()):
                    deployments[run].append(deployment)
        self._add_open_builds(facts, names)
        return {run: RunState(run, tuple(facts[run]), tuple(deployments[run])) for run in facts}

    def _places(self, runs: Iterable[Run], names: Mapping[Project, Sequence[Project]]) -> dict[Place, list[Run]]:
        """Where these runs may be stored, and which runs belong to each place."""
        ids = self._project_ids(each for listed in names.values() for each in listed)
        places: dict[Place, list[Run]] = {}
        for run in runs:
            for project in names[run.project]:
                if (project_id := ids.get(project)) is not None:
                    places.setdefault((project_id, run.number, run.attempt), []).append(run)
        return places

    def _add_open_builds(self, facts: dict[Run, list[Fact]], names: Mapping[Project, Sequence[Project]]) -> None:
        asked: dict[tuple[str, str, int], list[Run]] = {}
        for run in facts:
            if run.project.provider == JENKINS and run.number.isdecimal() and len(run.number) <= MOST_DIGITS:
                for project in names[run.project]:
                    asked.setdefault((project.scope, project.name, int(run.number)), []).append(run)
        if not asked:
            return
        found = self._all(_OPEN, tuple(list(column) for column in zip(*asked, strict=True)))
        for controller, job, number, started_at, first_seen_at in found:
            fact = seen(jenkins_run(controller, job, number), started_at=started_at, at=first_seen_at)
            for run in asked[controller, job, number]:
                if all(known.word != fact.word for known in facts[run]):
                    facts[run].append(fact)


def lock_of(run: Run) -> int:
    """Which lock protects a run: the same under all names of its project."""
    project = run.project
    bucket = crc32(f"{run.number}\0{run.attempt}".encode("utf-8", "surrogatepass")) % _LOCKS
    key = crc32(f"{project.provider}\0{project.scope}\0{bucket}".encode("utf-8", "surrogatepass"))
    return key - 2**31
