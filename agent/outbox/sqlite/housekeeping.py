"""The statements of housekeeping, and returning free pages to the file system."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from agent.outbox.aging import SETTLED
from agent.outbox.sql import housekeeping
from agent.outbox.sql.housekeeping import Walks
from agent.outbox.sqlite.weeks import Weeks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from agent.model.times import Clock
    from agent.outbox.rows import Place

# Pages that one step frees.
PAGES = 256

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


class Housekeeping(Weeks, housekeeping.Housekeeping):
    """See :class:`agent.outbox.interface.Housekeeping`."""

    def __init__(
        self, path: Path, clock: Clock, *, max_size: int = 0, read_only: bool = False, as_inbox: bool = False
    ) -> None:
        super().__init__(path, clock, max_size=max_size, read_only=read_only, as_inbox=as_inbox)
        self._walks = Walks(clock)

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        with self._writing():
            yield True

    def _facts_of(self, runs: Collection[tuple[int, str]]) -> list[Any]:
        return self._all(_FACTS, (msgspec.json.encode(runs).decode(),))

    def _deployments_of(self, runs: Collection[tuple[int, str]]) -> list[Any]:
        return self._all(_DEPLOYMENTS, (msgspec.json.encode(runs).decode(),))

    def _builds_in(self, table: str, builds: Collection[tuple[int, str]]) -> list[Any]:
        return self._all(_BUILDS.format(table=table), (msgspec.json.encode(builds).decode(),))

    def _delete_of(self, places: Collection[Place]) -> None:
        self._connection.executemany(
            "DELETE FROM attempts WHERE deployment IN"
            " (SELECT id FROM deployments WHERE project_id = ? AND run = ? AND attempt = ?)",
            places,
        )
        self._connection.executemany("DELETE FROM facts WHERE project_id = ? AND run = ? AND attempt = ?", places)

    def _delete_settled(self, numbers: Collection[int], cutoff: int) -> list[Any]:
        found = self._all(
            "SELECT id, deployment_id, coalesce(build_started_at, started_at) FROM deployments"  # noqa: S608
            f" WHERE id {self._AMONG} AND settled_at < ? AND state IN (?, ?)",
            (self._listed(numbers), cutoff, *SETTLED),
        )
        self._connection.executemany("DELETE FROM deployments WHERE id = ?", [row[:1] for row in found])
        return [row[1:] for row in found]

    # ---- the file

    def _prune_more(self) -> bool:
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
