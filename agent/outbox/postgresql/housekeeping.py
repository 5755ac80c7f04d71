"""The statements of housekeeping, and adding up what transactions changed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from agent.model.keys import Run
from agent.outbox.aging import SETTLED
from agent.outbox.postgresql.loading import lock_of
from agent.outbox.postgresql.part import columns_of
from agent.outbox.postgresql.shared import Moved
from agent.outbox.postgresql.weeks import Weeks
from agent.outbox.sql import housekeeping
from agent.outbox.sql.housekeeping import Walks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from agent.model.times import Clock
    from agent.outbox.postgresql.pool import Pool
    from agent.outbox.postgresql.server import Server
    from agent.outbox.rows import Place

# Changes that one step adds up.
CHANGES = 5_000
# Only one agent at a time does this work.
_ALONE = 0x48_49_56_45_4D
_ASKED = "unnest(%s::bigint[], %s::text[]) AS asked (its_project, its_run)"
_SAME = "project_id = its_project AND name_key(run) = name_key(its_run)"
_FACTS = f"SELECT project_id, run, attempt, kind, received_at FROM facts JOIN {_ASKED} ON {_SAME}"  # noqa: S608
_DEPLOYMENTS = (
    "SELECT project_id, run, attempt, state, created_at, coalesce(settled_at, created_at)"  # noqa: S608
    f" FROM deployments JOIN {_ASKED} ON {_SAME}"
)
_BUILDS = (
    "SELECT p.id, asked.run FROM unnest(%s::bigint[], %s::text[], %s::bigint[]) AS asked (project_id, run, number)"
    " JOIN projects AS p ON p.id = asked.project_id AND p.provider = 'jenkins'"
    " JOIN {table} AS b ON b.controller = p.scope AND name_key(b.full_name) = name_key(p.name)"
    " AND b.number = asked.number"
)
# What is deleted of a run, by project, run and attempt.
_GIVEN = "unnest(%s::bigint[], %s::text[], %s::integer[]) AS asked (project_id, run, attempt)"
_OF_RUN = "t.project_id = asked.project_id AND name_key(t.run) = name_key(asked.run) AND t.attempt = asked.attempt"
_DELETE_ATTEMPTS = (
    f"DELETE FROM attempts USING deployments AS t, {_GIVEN} WHERE attempts.deployment = t.id AND {_OF_RUN}"  # noqa: S608
)
_DELETE_FACTS = f"DELETE FROM facts AS t USING {_GIVEN} WHERE {_OF_RUN}"  # noqa: S608
_DELETE_SETTLED = (
    "DELETE FROM deployments WHERE id = ANY(%s) AND settled_at < %s AND state = ANY(%s)"
    " RETURNING deployment_id, coalesce(build_started_at, started_at)"
)
_ADD_UP = """
WITH gone AS (
    DELETE FROM changes WHERE id IN (SELECT id FROM changes ORDER BY id LIMIT %s) RETURNING *
), of_states AS (
    INSERT INTO counts (state, n)
        SELECT state, sum(n) FROM gone WHERE state IS NOT NULL GROUP BY state
        UNION ALL SELECT 'bytes', sum(bytes) FROM gone HAVING count(*) > 0
        ON CONFLICT (state) DO UPDATE SET n = counts.n + excluded.n
), of_hours AS (
    INSERT INTO hours (hour, delivered, failed)
        SELECT hour, sum(delivered), sum(failed) FROM gone WHERE hour IS NOT NULL GROUP BY hour
        ON CONFLICT (hour) DO UPDATE SET delivered = hours.delivered + excluded.delivered,
        failed = hours.failed + excluded.failed
), of_weeks AS (
    INSERT INTO weeks (environment, repo_url, week)
        SELECT DISTINCT environment, repo_url, week FROM gone WHERE week IS NOT NULL
        ON CONFLICT (name_key(environment), name_key(repo_url), week) DO UPDATE SET body = NULL
) SELECT count(*) FROM gone
"""


class Housekeeping(Weeks, housekeeping.Housekeeping):
    """See :class:`agent.outbox.interface.Housekeeping`."""

    def __init__(
        self, server: Server, clock: Clock, *, max_size: int = 0, read_only: bool = False, pool: Pool | None = None
    ) -> None:
        super().__init__(server, clock, max_size=max_size, read_only=read_only, pool=pool)
        self._walks = Walks(clock)

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        with self._writing():
            yield bool(self._one("SELECT pg_try_advisory_xact_lock(%s)", (_ALONE,))[0])

    def _lock(self, places: Iterable[Place]) -> None:
        self._transactions.lock({lock_of(Run(self._project(place[0]), *place[1:])) for place in places})

    def _prune_more(self) -> bool:
        return Moved(self._connection).forget()

    def _add_up_changes(self) -> bool:
        """Add rows of ``changes`` to the counters. True if there may be more."""
        if self._one("SELECT 1 FROM changes LIMIT 1") is None:
            return False
        with self._alone() as alone:
            return alone and self._one(_ADD_UP, (CHANGES,))[0] == CHANGES

    def _add_up_weeks(self, now: int) -> bool:
        with self._alone() as alone:
            return alone and super()._add_up_weeks(now)

    def _facts_of(self, runs: Collection[tuple[int, str]]) -> list[Any]:
        return self._all(_FACTS, columns_of(runs))

    def _deployments_of(self, runs: Collection[tuple[int, str]]) -> list[Any]:
        return self._all(_DEPLOYMENTS, columns_of(runs))

    def _builds_in(self, table: str, builds: Collection[tuple[int, str]]) -> list[Any]:
        numbered = ((project_id, run, int(run)) for project_id, run in builds)
        return self._all(_BUILDS.format(table=table), columns_of(numbered))

    def _delete_of(self, places: Collection[Place]) -> None:
        values = columns_of(places)
        self._connection.execute(_DELETE_ATTEMPTS, values)
        self._connection.execute(_DELETE_FACTS, values)

    def _delete_settled(self, numbers: Collection[int], cutoff: int) -> list[Any]:
        return self._connection.execute(_DELETE_SETTLED, (list(numbers), cutoff, list(SETTLED))).fetchall()

    def try_writing(self) -> None:
        """Test that the outbox can be written, without changing data."""
        with self._writing():
            self._connection.execute("UPDATE schema_version SET version = version")
