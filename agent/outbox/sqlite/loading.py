"""Loading what is stored about runs, under all names of their projects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.outbox.sql.loading import Asked, asked_for, states_of, stored
from agent.outbox.sqlite.part import Part
from agent.outbox.values import RunState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from agent.model.keys import Run

# ?1 is JSON: a list of values for each run. CROSS JOIN fixes the join order, so that a few runs never cause a scan.
_VALUES = ", ".join(f"json_extract(asked.value, '$[{n}]') AS {name}" for n, name in enumerate(Asked._fields))
_LOAD = (
    f"WITH given AS (SELECT asked.key AS n, {_VALUES} FROM json_each(?1) AS asked),"  # noqa: S608
    " own AS (SELECT n, projects.id AS project_id, provider, scope, name, run, build"
    " FROM given LEFT JOIN projects USING (provider, scope, name)),"
    " named AS (SELECT * FROM own UNION ALL"
    " SELECT n, p.id, p.provider, p.scope, p.name, run, build FROM own CROSS JOIN former_names AS f"
    f" ON f.project_id = own.project_id CROSS JOIN projects AS p ON p.id = f.former_id) {stored('{} = {}'.format)}"
)
# Whether anything is stored at all. ?1 is JSON: {run: project, …}; a key may be repeated.
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
        # Who is about to store something mostly asks for new runs. To find nothing takes a third of the time.
        some = self._with_anything(runs) if self._connection.in_transaction else runs
        return states | self._load(some) if some else states

    def _with_anything(self, runs: Collection[Run]) -> list[Run]:
        """The runs for which something may be stored."""
        ids = self._project_ids(run.project for run in runs)
        known = [(ids[run.project], run.number) for run in runs if run.project in ids]
        if len(known) == 1:
            found = set(self._all(_ANYTHING_OF_ONE, known[0]))
        else:
            found = set(self._all(_ANYTHING_OF_MANY, (_json(known),))) if known else set()
        return [run for run in runs if run.project not in ids or (ids[run.project], run.number) in found]

    def _load(self, runs: Collection[Run]) -> dict[Run, RunState]:
        asked = asked_for(runs)
        found = self._all(_LOAD, (_ENCODE(list(asked)).decode(),))
        with self._readable():
            return states_of(asked.values(), found)


def _json(places: Iterable[tuple[int, str]]) -> str:
    """A JSON object of projects by run, which may repeat keys."""
    return "{" + ",".join([f"{_ENCODE(run).decode()}:{project_id}" for project_id, run in places]) + "}"
