"""Deleting outdated rows in small steps, and returning free pages to the file system."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agent.model.endings import Ended, Ending
from agent.model.keys import JENKINS
from agent.model.times import Drift
from agent.outbox.aging import FINAL, SETTLED, Age, Stored, Walk, age_of
from agent.outbox.rows import id_hash
from agent.outbox.sql.endings import Endings
from agent.outbox.sql.hooks import Hooks
from agent.outbox.sqlite.weeks import Weeks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from agent.model.times import Clock
    from agent.outbox.rows import Place
    from agent.outbox.values import Keep

# Limits of one step, of a few milliseconds each: rows read, id hashes deleted, pages freed.
CHUNK = 200
HASHES = 2_000
PAGES = 256
DAY_MS = 86_400_000
HOUR_MS = 3_600_000
# If the wall clock moved more than this against the monotonic clock, nothing is deleted.
TRUSTED_DRIFT_MS = 3_600_000

# ?1 is JSON: [[project, run], …].
_FACTS = (
    "SELECT f.project_id, f.run, f.attempt, f.kind, f.received_at FROM json_each(?1) AS asked CROSS JOIN facts AS f"
    " ON f.project_id = json_extract(asked.value, '$[0]') AND f.run = json_extract(asked.value, '$[1]')"
)
_DEPLOYMENTS = (
    "SELECT d.project_id, d.run, d.attempt, d.state, d.created_at, coalesce(d.settled_at, d.created_at)"
    " FROM json_each(?1) AS asked CROSS JOIN deployments AS d"
    " ON d.project_id = json_extract(asked.value, '$[0]') AND d.run = json_extract(asked.value, '$[1]')"
)
_BUILDS = (
    "SELECT p.id, json_extract(asked.value, '$[1]') FROM json_each(?1) AS asked"
    " CROSS JOIN projects AS p ON p.id = json_extract(asked.value, '$[0]') AND p.provider = 'jenkins'"
    " CROSS JOIN {table} AS b ON b.controller = p.scope AND b.full_name = p.name"
    " AND b.number = CAST(json_extract(asked.value, '$[1]') AS INTEGER)"
)


class Housekeeping(Endings, Weeks, Hooks):
    """See :class:`agent.outbox.interface.Housekeeping`."""

    def __init__(
        self, path: Path, clock: Clock, *, max_size: int = 0, read_only: bool = False, as_inbox: bool = False
    ) -> None:
        super().__init__(path, clock, max_size=max_size, read_only=read_only, as_inbox=as_inbox)
        self._drift = Drift(clock)
        self._facts_walk = Walk(start=0)
        self._deployments_walk = Walk(start=0)
        self._forgotten_walk = Walk(start=b"")

    def prune(self, keep: Keep) -> bool:
        """Delete a few outdated rows; True if there may be more.

        The facts of a build are deleted, with all attempts, ``bodies_ms`` after its deployments were delivered or
        discarded and its last fact was received, unless the poller still has the build open. Deployments are deleted
        ``deployments_ms`` after they were settled, once their build has no facts left; a hash of their ids is kept for
        ``ids_ms``. Failed deployments and their facts stay until a person decides. When there is nothing to delete, it
        adds up weeks that have ended.
        """
        now = self.clock.now_ms()
        if abs(self._drift.ms()) > TRUSTED_DRIFT_MS or self._newest_is_ahead_of(now + TRUSTED_DRIFT_MS):
            return False  # the clock was changed: what looks old may have been delivered a minute ago
        more = (
            self._prune_facts(now, keep.bodies_ms),
            self._prune_deployments(now, keep.deployments_ms),
            self._prune_ids(now, keep.ids_ms),
            self._prune_hooks(now),
            self._give_back(),
        )
        self._prune_set_aside(now - keep.bodies_ms)
        self._prune_hours(now - keep.deployments_ms)
        return any(more) or self._add_up_weeks(now)

    def _prune_set_aside(self, cutoff: int) -> None:
        """There are few of them, and they are useful as long as their facts exist."""
        if self._one("SELECT 1 FROM set_aside WHERE at < ? LIMIT 1", (cutoff,)) is not None:
            with self._writing():
                self._connection.execute("DELETE FROM set_aside WHERE at < ?", (cutoff,))

    def _prune_hours(self, cutoff: int) -> None:
        """Usually one each hour."""
        oldest = cutoff // HOUR_MS
        if self._one("SELECT 1 FROM hours WHERE hour < ? LIMIT 1", (oldest,)) is not None:
            with self._writing():
                self._connection.execute("DELETE FROM hours WHERE hour < ?", (oldest,))

    def _newest_is_ahead_of(self, now: int) -> bool:
        """True, for example, after a start with a clock that is years behind."""
        newest = self._one("SELECT created_at FROM deployments WHERE id = (SELECT max(id) FROM deployments)")
        return newest is not None and newest[0] > now

    # ---- facts and attempts

    def _prune_facts(self, now: int, keep_ms: int) -> bool:
        last = self._facts_walk.begin(now, min(keep_ms, DAY_MS))
        found = self._all(
            "SELECT id, project_id, run, attempt FROM facts WHERE id > ? ORDER BY id LIMIT ?", (last, CHUNK)
        )
        runs = self._of_runs({row[1:] for row in found}) if found else {}
        ages = {place: age_of(under.values(), now, now - keep_ms) for place, under in runs.items()}
        old = [place for place, age in ages.items() if age is Age.OLD]
        if old:
            with self._writing():
                # Read again within the transaction: another process may have changed something.
                runs = self._of_runs(old)
                again = {place: age_of(under.values(), now, now - keep_ms) for place, under in runs.items()}
                self._delete_facts([runs[place] for place in old if again[place] is Age.OLD])
                ages |= again
        return self._facts_walk.go_on([(row[0], ages[row[1:]]) for row in found], CHUNK)

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
        asked = msgspec.json.encode(list({place[:2] for place in places})).decode()
        for *place, kind, received_at in self._all(_FACTS, (asked,)):
            if (of_run := stored.get(_place(place))) is not None:
                of_run.received.append(received_at)
                of_run.is_final = of_run.is_final or kind in FINAL
        for *place, state, created_at, settled_at in self._all(_DEPLOYMENTS, (asked,)):
            if (of_run := stored.get(_place(place))) is not None:
                of_run.deployments.append((state, created_at, settled_at))
        is_open, is_wanted = ({tuple(row) for row in self._all(_BUILDS.format(table=table), (asked,))}
                              for table in ("open_builds", "wanted_builds"))  # fmt: skip
        for place_, of_run in stored.items():
            of_run.is_followed = place_[:2] in is_open or (place_[:2] in is_wanted and not of_run.is_final)
        return stored

    def _delete_facts(self, runs: Iterable[Mapping[Place, Stored]]) -> None:
        together: list[Place] = []
        for under in runs:
            together += under
            if not any(stored.deployments for stored in under.values()):
                self._note_no_deployment(under)
        self._connection.executemany(
            "DELETE FROM attempts WHERE deployment IN"
            " (SELECT id FROM deployments WHERE project_id = ? AND run = ? AND attempt = ?)",
            together,
        )
        self._connection.executemany("DELETE FROM facts WHERE project_id = ? AND run = ? AND attempt = ?", together)

    def _note_no_deployment(self, under: Iterable[Place]) -> None:
        """Record that the build had no deployment. Without the facts this is no longer known."""
        for project_id, number, _ in under:
            project = self._project(project_id)
            if project.provider != JENKINS or not number.isdecimal():
                continue
            for ended in self._endings(project.scope, project.name, int(number), int(number)):
                if ended.ending is Ending.READ:
                    noted = Ended(int(number), int(number), Ending.NO_DEPLOYMENT, ended.at)
                    self._save_endings(project.scope, project.name, [noted])

    def _settled_now(self, numbers: Collection[int], now: int) -> None:
        """The clock was ahead when they were settled: set the time to now, so that they can expire."""
        with self._writing():
            self._connection.executemany(
                "UPDATE deployments SET settled_at = ?1 WHERE id = ?2 AND settled_at > ?1",
                [(now, number) for number in numbers],
            )

    # ---- deployments and their ids

    def _prune_deployments(self, now: int, keep_ms: int) -> bool:
        last = self._deployments_walk.begin(now, min(keep_ms, DAY_MS))
        found = self._all(
            "SELECT id, project_id, run, attempt, state, created_at, coalesce(settled_at, created_at) FROM deployments"
            " WHERE id > ? ORDER BY id LIMIT ?",
            (last, CHUNK),
        )
        if ahead := [row[0] for row in found if row[6] > now]:
            self._settled_now(ahead, now)
        passed = [(row[0], age_of([Stored(deployments=[row[4:]])], now, now - keep_ms)) for row in found]
        old = {row[0]: _place(row[1:4]) for row, (_, age) in zip(found, passed, strict=True) if age is Age.OLD}
        if old:
            with self._writing():
                self._delete_deployments(old, now, now - keep_ms)
        return self._deployments_walk.go_on(passed, CHUNK)

    def _delete_deployments(self, old: dict[int, Place], now: int, cutoff: int) -> None:
        """Delete those whose build has no facts left. Otherwise the facts would derive them again."""
        runs = self._of_runs(set(old.values()))
        for number, place in old.items():
            row = self._one(
                "SELECT deployment_id, coalesce(build_started_at, started_at) FROM deployments"
                " WHERE id = ? AND settled_at < ? AND state IN (?, ?)",
                (number, cutoff, *SETTLED),
            )
            if row is None or any(stored.received for stored in runs[place].values()):
                continue
            name, started_at = row
            self._connection.execute("DELETE FROM deployments WHERE id = ?", (number,))
            self._connection.execute(
                "INSERT OR REPLACE INTO forgotten (id_hash, started_at, day) VALUES (?, ?, ?)",
                (id_hash(name or ""), started_at, now // DAY_MS),
            )

    def _prune_ids(self, now: int, keep_ms: int) -> bool:
        """There is no index on the day: it would be as large as the table."""
        last = self._forgotten_walk.begin(now, DAY_MS)
        found = self._all(
            "SELECT id_hash, day FROM forgotten WHERE id_hash > ? ORDER BY id_hash LIMIT ?", (last, HASHES)
        )
        old = [(digest,) for digest, day in found if day < (now - keep_ms) // DAY_MS]
        if old:
            with self._writing():
                self._connection.executemany("DELETE FROM forgotten WHERE id_hash = ?", old)
        return self._forgotten_walk.go_on([(digest, Age.STUCK) for digest, _ in found], HASHES)

    # ---- the file

    def _give_back(self) -> bool:
        free = int(self._one("PRAGMA freelist_count")[0])
        if free <= PAGES:  # keep a few for the next deployments
            return False
        with self._writing():
            for _ in range(PAGES):
                self._connection.execute("PRAGMA incremental_vacuum(1)")  # a larger number also frees only one page
        return free > 2 * PAGES

    def try_writing(self) -> None:
        """Test that the outbox can be written, without changing data."""
        with self._writing():
            version = int(self._one("PRAGMA user_version")[0])
            self._connection.execute(f"PRAGMA user_version = {version}")


def _place(values: Iterable[Any]) -> Place:
    project_id, run, attempt = values
    return project_id, run, attempt
