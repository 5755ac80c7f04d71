"""The tables of an outbox that both engines have, and copying all their rows. No SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# In an order in which each row's references are stored before it, with the columns of the primary key. Not copied: what
# the engine adds up again (counts, weeks), repairs of a file, and what only a fleet has (agents, leases).
TABLES = {
    "projects": "id",
    "former_names": "project_id, former_id",
    "facts": "id",
    "deployments": "id",
    "attempts": "deployment, n",
    "actions": "deployment, n",
    "forgotten": "id_hash",
    "reports": "id",
    "set_aside": "id",
    "delivery": "id",
    "controllers": "name",
    "jobs": "controller, full_name",
    "open_builds": "controller, full_name, number",
    "wanted_builds": "controller, full_name, number",
    "job_errors": "controller, full_name",
    "missed": "controller, full_name",
    "endings": "controller, full_name, first",
    "backfills": "id",
    "backfilled_jobs": "id, controller, full_name",
    "webhook_deliveries": "id",
    "webhook_starts": "id",
    "webhook_gaps": "hook, project, stream",
    # Last: inserted deployments change it, and the copied rows replace that.
    "hours": "hour",
}
BATCH = 5_000


class Source(Protocol):
    """An outbox that nobody changes meanwhile."""

    def columns(self, table: str) -> list[str]:
        """The names of its columns."""
        ...

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """All rows, in the order of the key."""
        ...


class Target(Protocol):
    """An empty outbox, which gets everything in one transaction."""

    def columns(self, table: str) -> list[str]:
        """The names of its columns."""
        ...

    def write(self, table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> int:
        """Insert the rows; returns how many."""
        ...


def copy(source: Source, target: Target) -> dict[str, int]:
    """Copy all rows; returns how many by table."""
    copied = {}
    for table in TABLES:
        known = set(target.columns(table))
        columns = [each for each in source.columns(table) if each in known and each not in _OF_THE_ENGINE]
        copied[table] = target.write(table, columns, source.rows(table, columns))
    return copied


# A claim ends with the process that made it.
_OF_THE_ENGINE = {"claimed_by", "claimed_until", "claim"}
