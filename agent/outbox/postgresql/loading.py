"""Loading what is stored about runs, under all names of their projects."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from agent.outbox.postgresql.names import named
from agent.outbox.postgresql.part import Part, columns_of
from agent.outbox.sql.loading import asked_for, states_of, stored

if TYPE_CHECKING:
    from collections.abc import Collection

    from agent.model.keys import Run
    from agent.outbox.values import RunState

_OWN = (
    "own AS (SELECT n - 1 AS n, p.id AS project_id, its.provider, its.scope, its.name, run, build"  # noqa: S608
    " FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[]) WITH ORDINALITY"
    " AS its (provider, scope, name, run, build, n) LEFT JOIN projects AS p ON"
    f" {named('p.provider', 'its.provider')} AND {named('p.scope', 'its.scope')} AND {named('p.name', 'its.name')})"
)
_LOAD = (
    f"WITH {_OWN}, named AS (SELECT * FROM own UNION ALL"  # noqa: S608
    " SELECT n, p.id, p.provider, p.scope, p.name, run, build FROM own JOIN former_names AS f"
    f" ON f.project_id = own.project_id JOIN projects AS p ON p.id = f.former_id) {stored(named)}"
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
        asked = asked_for(runs)
        found = self._all(_LOAD, columns_of(asked))
        with self._readable():
            return states_of(asked.values(), found)


def lock_of(run: Run) -> int:
    """Which lock protects a run: the same under all names of its project."""
    project = run.project
    bucket = crc32(f"{run.number}\0{run.attempt}".encode("utf-8", "surrogatepass")) % _LOCKS
    key = crc32(f"{project.provider}\0{project.scope}\0{bucket}".encode("utf-8", "surrogatepass"))
    return key - 2**31
