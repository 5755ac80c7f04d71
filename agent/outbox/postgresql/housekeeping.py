"""Deleting outdated rows in small steps, and adding up what transactions changed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from agent.model.endings import Ended, Ending
from agent.model.keys import JENKINS, Run
from agent.model.times import Drift
from agent.outbox.aging import FINAL, SETTLED, Age, Stored, Walk, age_of
from agent.outbox.postgresql.loading import lock_of
from agent.outbox.postgresql.shared import Moved
from agent.outbox.postgresql.weeks import Weeks
from agent.outbox.rows import id_hash
from agent.outbox.sql.endings import Endings
from agent.outbox.sql.hooks import Hooks
from agent.outbox.sql.loading import MOST_DIGITS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from agent.model.times import Clock
    from agent.outbox.postgresql.pool import Pool
    from agent.outbox.postgresql.server import Server
    from agent.outbox.rows import Place
    from agent.outbox.values import Keep

# Limits of one step: rows read, id hashes deleted, changes added up.
CHUNK = 200
HASHES = 2_000
CHANGES = 5_000
DAY_MS = 86_400_000
HOUR_MS = 3_600_000
# If the wall clock moved more than this against the monotonic clock, nothing is deleted.
TRUSTED_DRIFT_MS = 3_600_000
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


class Housekeeping(Endings, Weeks, Hooks):
    """See :class:`agent.outbox.interface.Housekeeping`."""

    def __init__(
        self, server: Server, clock: Clock, *, max_size: int = 0, read_only: bool = False, pool: Pool | None = None
    ) -> None:
        super().__init__(server, clock, max_size=max_size, read_only=read_only, pool=pool)
        self._drift = Drift(clock)
        self._facts_walk = Walk(start=0)
        self._deployments_walk = Walk(start=0)
        self._forgotten_walk = Walk(start=b"")

    def prune(self, keep: Keep) -> bool:
        """Delete a few outdated rows; True if there may be more. While another agent does this, it does nothing.

        The facts of a build are deleted, with all attempts, ``bodies_ms`` after its deployments were delivered or
        discarded and its last fact was received, unless the poller still has the build open. Deployments are deleted
        ``deployments_ms`` after they were settled, once their build has no facts left; a hash of their ids is kept for
        ``ids_ms``. Failed deployments and their facts stay until a person decides. When there is nothing to delete, it
        adds up weeks that have ended.
        """
        now = self.clock.now_ms()
        added = self._add_up_changes()
        if abs(self._drift.ms()) > TRUSTED_DRIFT_MS or self._newest_is_ahead_of(now + TRUSTED_DRIFT_MS):
            return False  # the clock was changed: what looks old may have been delivered a minute ago
        more = (
            added,
            self._prune_facts(now, keep.bodies_ms),
            self._prune_deployments(now, keep.deployments_ms),
            self._prune_ids(now, keep.ids_ms),
            self._prune_hooks(now),
            Moved(self._connection).forget(),
        )
        self._prune_old("set_aside", "at", now - keep.bodies_ms)
        self._prune_old("hours", "hour", (now - keep.deployments_ms) // HOUR_MS)
        if any(more):
            return True
        with self._alone() as alone:
            return alone and self._add_up_weeks(now)

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """A transaction; False if another agent is in one."""
        with self._writing():
            yield bool(self._one("SELECT pg_try_advisory_xact_lock(%s)", (_ALONE,))[0])

    def _prune_old(self, table: str, column: str, cutoff: int) -> None:
        """There are few of them."""
        if self._one(f"SELECT 1 FROM {table} WHERE {column} < %s LIMIT 1", (cutoff,)) is not None:  # noqa: S608
            with self._writing():
                self._connection.execute(f"DELETE FROM {table} WHERE {column} < %s", (cutoff,))  # noqa: S608

    def _newest_is_ahead_of(self, now: int) -> bool:
        """True, for example, after a start with a clock that is years behind."""
        newest = self._one("SELECT created_at FROM deployments WHERE id = (SELECT max(id) FROM deployments)")
        return newest is not None and newest[0] > now

    def _add_up_changes(self) -> bool:
        """Add rows of ``changes`` to the counters. True if there may be more."""
        if self._one("SELECT 1 FROM changes LIMIT 1") is None:
            return False
        with self._alone() as alone:
            return alone and self._one(_ADD_UP, (CHANGES,))[0] == CHANGES

    # ---- facts and attempts

    def _prune_facts(self, now: int, keep_ms: int) -> bool:
        last = self._facts_walk.begin(now, min(keep_ms, DAY_MS))
        found = self._all(
            "SELECT id, project_id, run, attempt FROM facts WHERE id > %s ORDER BY id LIMIT %s", (last, CHUNK)
        )
        runs = self._of_runs({_place(row[1:]) for row in found}) if found else {}
        ages = {place: age_of(under.values(), now, now - keep_ms) for place, under in runs.items()}
        old = [place for place, age in ages.items() if age is Age.OLD]
        if old:
            with self._alone() as alone:
                if not alone:
                    return False
                # Read again: another agent may have changed something.
                self._lock(old)
                runs = self._of_runs(old)
                again = {place: age_of(under.values(), now, now - keep_ms) for place, under in runs.items()}
                self._delete_facts([runs[place] for place in old if again[place] is Age.OLD])
                ages |= again
        return self._facts_walk.go_on([(row[0], ages[_place(row[1:])]) for row in found], CHUNK)

    def _lock(self, places: Iterable[Place]) -> None:
        self._transactions.lock({lock_of(Run(self._project(place[0]), *place[1:])) for place in places})

    def _of_runs(self, places: Collection[Place]) -> dict[Place, dict[Place, Stored]]:
        """What is stored for each of these runs, under all names of its project."""
        names = self._all_names(places)
        stored = self._stored({each for under in names.values() for each in under})
        return {place: {each: stored[each] for each in under} for place, under in names.items()}

    def _all_names(self, places: Iterable[Place]) -> dict[Place, list[Place]]:
        """All places where these runs may be stored: current, former and later names of their projects."""
        related: dict[int, list[int]] = {}
        for project_id, former_id in self._all("SELECT project_id, former_id FROM former_names"):
            related.setdefault(project_id, []).append(former_id)
            related.setdefault(former_id, []).append(project_id)
        return {
            place: [(project_id, *place[1:]) for project_id in dict.fromkeys((place[0], *related.get(place[0], ())))]
            for place in places
        }

    def _stored(self, places: Collection[Place]) -> dict[Place, Stored]:
        stored = {place: Stored() for place in places}
        pairs = list({place[:2] for place in places})
        asked = ([project_id for project_id, _ in pairs], [run for _, run in pairs])
        for *place, kind, received_at in self._all(_FACTS, asked):
            if (of_run := stored.get(_place(place))) is not None:
                of_run.received.append(received_at)
                of_run.is_final = of_run.is_final or kind in FINAL
        for *place, state, created_at, settled_at in self._all(_DEPLOYMENTS, asked):
            if (of_run := stored.get(_place(place))) is not None:
                of_run.deployments.append((state, created_at, settled_at))
        is_open, is_wanted = (self._builds(table, pairs) for table in ("open_builds", "wanted_builds"))
        for place_, of_run in stored.items():
            of_run.is_followed = place_[:2] in is_open or (place_[:2] in is_wanted and not of_run.is_final)
        return stored

    def _builds(self, table: str, pairs: Iterable[tuple[int, str]]) -> set[tuple[int, str]]:
        """Those of these runs that are in a table of the poller."""
        numbered = [
            (project_id, run, int(run)) for project_id, run in pairs if run.isdecimal() and len(run) <= MOST_DIGITS
        ]
        if not numbered:
            return set()
        values = [list(column) for column in zip(*numbered, strict=True)]
        return {(project_id, run) for project_id, run in self._all(_BUILDS.format(table=table), values)}

    def _delete_facts(self, runs: Iterable[Mapping[Place, Stored]]) -> None:
        together: list[Place] = []
        for under in runs:
            together += under
            if not any(stored.deployments for stored in under.values()):
                self._note_no_deployment(under)
        if not together:
            return
        values = [list(column) for column in zip(*together, strict=True)]
        asked = "unnest(%s::bigint[], %s::text[], %s::integer[]) AS asked (project_id, run, attempt)"
        same = "t.project_id = asked.project_id AND name_key(t.run) = name_key(asked.run) AND t.attempt = asked.attempt"
        self._connection.execute(
            f"DELETE FROM attempts USING deployments AS t, {asked} WHERE attempts.deployment = t.id AND {same}",  # noqa: S608
            values,
        )
        self._connection.execute(f"DELETE FROM facts AS t USING {asked} WHERE {same}", values)  # noqa: S608

    def _note_no_deployment(self, under: Iterable[Place]) -> None:
        """Record that the build had no deployment. Without the facts this is no longer known."""
        for project_id, number, _ in under:
            project = self._project(project_id)
            if project.provider != JENKINS or not number.isdecimal() or len(number) > MOST_DIGITS:
                continue
            for ended in self._endings(project.scope, project.name, int(number), int(number)):
                if ended.ending is Ending.READ:
                    noted = Ended(int(number), int(number), Ending.NO_DEPLOYMENT, ended.at)
                    self._save_endings(project.scope, project.name, [noted])

    def _settled_now(self, numbers: Collection[int], now: int) -> None:
        """The clock was ahead when they were settled: set the time to now, so that they can expire."""
        with self._writing():
            self._connection.execute(
                "UPDATE deployments SET settled_at = %(now)s WHERE id = ANY(%(ids)s) AND settled_at > %(now)s",
                {"now": now, "ids": list(numbers)},
            )

    # ---- deployments and their ids

    def _prune_deployments(self, now: int, keep_ms: int) -> bool:
        last = self._deployments_walk.begin(now, min(keep_ms, DAY_MS))
        found = self._all(
            "SELECT id, project_id, run, attempt, state, created_at, coalesce(settled_at, created_at) FROM deployments"
            " WHERE id > %s ORDER BY id LIMIT %s",
            (last, CHUNK),
        )
        if ahead := [row[0] for row in found if row[6] > now]:
            self._settled_now(ahead, now)
        passed = [(row[0], age_of([Stored(deployments=[row[4:]])], now, now - keep_ms)) for row in found]
        old = {row[0]: _place(row[1:4]) for row, (_, age) in zip(found, passed, strict=True) if age is Age.OLD}
        if old:
            with self._alone() as alone:
                if not alone:
                    return False
                self._lock(old.values())
                self._delete_deployments(old, now, now - keep_ms)
        return self._deployments_walk.go_on(passed, CHUNK)

    def _delete_deployments(self, old: dict[int, Place], now: int, cutoff: int) -> None:
        """Delete those whose build has no facts left. Otherwise the facts would derive them again."""
        runs = self._of_runs(set(old.values()))
        without = [
            number for number, place in old.items() if not any(stored.received for stored in runs[place].values())
        ]
        gone = self._connection.execute(
            "DELETE FROM deployments WHERE id = ANY(%s) AND settled_at < %s AND state = ANY(%s)"
            " RETURNING deployment_id, coalesce(build_started_at, started_at)",
            (without, cutoff, list(SETTLED)),
        ).fetchall()
        self._connection.executemany(
            "INSERT INTO forgotten (id_hash, started_at, day) VALUES (%s, %s, %s) ON CONFLICT (id_hash)"
            " DO UPDATE SET started_at = excluded.started_at, day = excluded.day",
            [(id_hash(name or ""), started_at, now // DAY_MS) for name, started_at in gone],
        )

    def _prune_ids(self, now: int, keep_ms: int) -> bool:
        """There is no index on the day: it would be as large as the table."""
        last = self._forgotten_walk.begin(now, DAY_MS)
        found = self._all(
            "SELECT id_hash, day FROM forgotten WHERE id_hash > %s ORDER BY id_hash LIMIT %s", (last, HASHES)
        )
        old = [digest for digest, day in found if day < (now - keep_ms) // DAY_MS]
        if old:
            with self._writing():
                self._connection.execute("DELETE FROM forgotten WHERE id_hash = ANY(%s)", (old,))
        return self._forgotten_walk.go_on([(digest, Age.STUCK) for digest, _ in found], HASHES)

    def try_writing(self) -> None:
        """Test that the outbox can be written, without changing data."""
        with self._writing():
            self._connection.execute("UPDATE schema_version SET version = version")


def _place(values: Iterable[Any]) -> Place:
    project_id, run, attempt = values
    return project_id, run, attempt
