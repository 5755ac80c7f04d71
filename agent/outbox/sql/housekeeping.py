"""Deleting outdated rows in small steps."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from agent.model.endings import Ended, Ending
from agent.model.keys import JENKINS
from agent.model.times import Drift
from agent.outbox.aging import FINAL, Age, Stored, Walk, age_of
from agent.outbox.rows import id_hash
from agent.outbox.sql.endings import Endings
from agent.outbox.sql.hooks import Hooks
from agent.outbox.sql.loading import MOST_DIGITS
from agent.outbox.sql.weeks import Weeks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from contextlib import AbstractContextManager

    from agent.model.times import Clock
    from agent.outbox.rows import Place
    from agent.outbox.values import Keep

# Limits of one step, of a few milliseconds each: rows read, id hashes deleted.
CHUNK = 200
HASHES = 2_000
DAY_MS = 86_400_000
HOUR_MS = 3_600_000
# If the wall clock moved more than this against the monotonic clock, nothing is deleted.
TRUSTED_DRIFT_MS = 3_600_000


class Walks:
    """How far housekeeping has looked through each table."""

    def __init__(self, clock: Clock) -> None:
        self.drift = Drift(clock)
        self.facts = Walk(start=0)
        self.deployments = Walk(start=0)
        self.forgotten = Walk(start=b"")


class Housekeeping(Endings, Hooks, Weeks):
    """See :class:`agent.outbox.interface.Housekeeping`."""

    _walks: Walks

    def prune(self, keep: Keep) -> bool:
        """Delete a few outdated rows; True if there may be more. While another agent does this, it does nothing.

        The facts of a build are deleted, with all attempts, ``bodies_ms`` after its deployments were delivered or
        discarded and its last fact was received, unless the poller still has the build open. Deployments are deleted
        ``deployments_ms`` after they were settled, once their build has no facts left; a hash of their ids is kept for
        ``ids_ms``. Failed deployments and their facts stay until a person decides. When there is nothing to delete, it
        adds up weeks that have ended.
        """
        now = self.clock.now_ms()
        changed = self._add_up_changes()
        if abs(self._walks.drift.ms()) > TRUSTED_DRIFT_MS or self._newest_is_ahead_of(now + TRUSTED_DRIFT_MS):
            return False  # the clock was changed: what looks old may have been delivered a minute ago
        more = (
            changed,
            self._prune_facts(now, keep.bodies_ms),
            self._prune_deployments(now, keep.deployments_ms),
            self._prune_ids(now, keep.ids_ms),
            self._prune_hooks(now),
            self._prune_more(),
        )
        self._prune_old("set_aside", "at", now - keep.bodies_ms)
        self._prune_old("hours", "hour", (now - keep.deployments_ms) // HOUR_MS)
        return any(more) or self._add_up_weeks(now)

    # ---- what differs

    @abstractmethod
    def _alone(self) -> AbstractContextManager[bool]:
        """A transaction; False if another agent is in one."""

    def _lock(self, places: Iterable[Place]) -> None:
        """Exclude who changes these runs until the transaction ends, if it does not exclude all others anyway."""

    def _add_up_changes(self) -> bool:
        """Add up what transactions have only noted; True if there may be more."""
        return False

    @abstractmethod
    def _prune_more(self) -> bool:
        """Delete what only this engine has; True if there may be more."""

    @abstractmethod
    def _facts_of(self, runs: Collection[tuple[int, str]]) -> list[Any]:
        """The project number, run, attempt, kind and time of reception of all facts about these runs."""

    @abstractmethod
    def _deployments_of(self, runs: Collection[tuple[int, str]]) -> list[Any]:
        """The project number, run, attempt, state and times (created, settled) of all deployments of these runs."""

    @abstractmethod
    def _builds_in(self, table: str, builds: Collection[tuple[int, str]]) -> list[Any]:
        """Those of these builds that are in this table of the poller."""

    @abstractmethod
    def _delete_of(self, places: Collection[Place]) -> None:
        """Delete the facts about these runs and the attempts of their deployments."""

    @abstractmethod
    def _delete_settled(self, numbers: Collection[int], cutoff: int) -> list[Any]:
        """Delete those of these deployments that were settled before; returns their ids and their builds' starts."""

    # ---- small tables

    def _prune_old(self, table: str, column: str, cutoff: int) -> None:
        """There are few of them."""
        if self._one(f"SELECT 1 FROM {table} WHERE {column} < ? LIMIT 1", (cutoff,)) is not None:  # noqa: S608
            with self._writing():
                self._connection.execute(f"DELETE FROM {table} WHERE {column} < ?", (cutoff,))  # noqa: S608

    def _newest_is_ahead_of(self, now: int) -> bool:
        """True, for example, after a start with a clock that is years behind."""
        newest = self._one("SELECT created_at FROM deployments WHERE id = (SELECT max(id) FROM deployments)")
        return newest is not None and newest[0] > now

    # ---- facts and attempts

    def _prune_facts(self, now: int, keep_ms: int) -> bool:
        last = self._walks.facts.begin(now, min(keep_ms, DAY_MS))
        found = self._all(
            "SELECT id, project_id, run, attempt FROM facts WHERE id > ? ORDER BY id LIMIT ?", (last, CHUNK)
        )
        runs = self._of_runs({_place(row[1:]) for row in found}) if found else {}
        ages = {place: age_of(under.values(), now, now - keep_ms) for place, under in runs.items()}
        old = [place for place, age in ages.items() if age is Age.OLD]
        if old:
            with self._alone() as alone:
                if not alone:
                    return False
                # Read again within the transaction: another process may have changed something.
                self._lock(old)
                runs = self._of_runs(old)
                again = {place: age_of(under.values(), now, now - keep_ms) for place, under in runs.items()}
                self._delete_facts([runs[place] for place in old if again[place] is Age.OLD])
                ages |= again
        return self._walks.facts.go_on([(row[0], ages[_place(row[1:])]) for row in found], CHUNK)

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
        runs = list({place[:2] for place in places})
        for *place, kind, received_at in self._facts_of(runs):
            if (of_run := stored.get(_place(place))) is not None:
                of_run.received.append(received_at)
                of_run.is_final = of_run.is_final or kind in FINAL
        for *place, state, created_at, settled_at in self._deployments_of(runs):
            if (of_run := stored.get(_place(place))) is not None:
                of_run.deployments.append((state, created_at, settled_at))
        builds = [each for each in runs if _is_build(each[1])]
        is_open, is_wanted = (
            {tuple(row) for row in self._builds_in(table, builds)} if builds else set()
            for table in ("open_builds", "wanted_builds")
        )
        for place_, of_run in stored.items():
            of_run.is_followed = place_[:2] in is_open or (place_[:2] in is_wanted and not of_run.is_final)
        return stored

    def _delete_facts(self, runs: Iterable[Mapping[Place, Stored]]) -> None:
        together: list[Place] = []
        for under in runs:
            together += under
            if not any(stored.deployments for stored in under.values()):
                self._note_no_deployment(under)
        if together:
            self._delete_of(together)

    def _note_no_deployment(self, under: Iterable[Place]) -> None:
        """Record that the build had no deployment. Without the facts this is no longer known."""
        for project_id, number, _ in under:
            project = self._project(project_id)
            if project.provider != JENKINS or not _is_build(number):
                continue
            for ended in self._endings(project.scope, project.name, int(number), int(number)):
                if ended.ending is Ending.READ:
                    noted = Ended(int(number), int(number), Ending.NO_DEPLOYMENT, ended.at)
                    self._save_endings(project.scope, project.name, [noted])

    # ---- deployments and their ids

    def _prune_deployments(self, now: int, keep_ms: int) -> bool:
        last = self._walks.deployments.begin(now, min(keep_ms, DAY_MS))
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
            with self._alone() as alone:
                if not alone:
                    return False
                self._lock(old.values())
                self._delete_deployments(old, now, now - keep_ms)
        return self._walks.deployments.go_on(passed, CHUNK)

    def _settled_now(self, numbers: Collection[int], now: int) -> None:
        """The clock was ahead when they were settled: set the time to now, so that they can expire."""
        with self._writing():
            self._connection.executemany(
                "UPDATE deployments SET settled_at = ? WHERE id = ? AND settled_at > ?",
                [(now, number, now) for number in numbers],
            )

    def _delete_deployments(self, old: dict[int, Place], now: int, cutoff: int) -> None:
        """Delete those whose build has no facts left. Otherwise the facts would derive them again."""
        runs = self._of_runs(set(old.values()))
        without = [number for number, place in old.items() if not any(each.received for each in runs[place].values())]
        self._connection.executemany(
            "INSERT INTO forgotten (id_hash, started_at, day) VALUES (?, ?, ?) ON CONFLICT (id_hash)"
            " DO UPDATE SET started_at = excluded.started_at, day = excluded.day",
            [
                (id_hash(name or ""), started_at, now // DAY_MS)
                for name, started_at in self._delete_settled(without, cutoff)
            ],
        )

    def _prune_ids(self, now: int, keep_ms: int) -> bool:
        """There is no index on the day: it would be as large as the table."""
        last = self._walks.forgotten.begin(now, DAY_MS)
        found = self._all(
            "SELECT id_hash, day FROM forgotten WHERE id_hash > ? ORDER BY id_hash LIMIT ?", (last, HASHES)
        )
        old = [(digest,) for digest, day in found if day < (now - keep_ms) // DAY_MS]
        if old:
            with self._writing():
                self._connection.executemany("DELETE FROM forgotten WHERE id_hash = ?", old)
        return self._walks.forgotten.go_on([(digest, Age.STUCK) for digest, _ in found], HASHES)


def _is_build(number: str) -> bool:
    return number.isdecimal() and len(number) <= MOST_DIGITS


def _place(values: Iterable[Any]) -> Place:
    project_id, run, attempt = values
    return project_id, run, attempt
