"""The tables of an outbox that both engines have, and copying all their rows in portions. No SQL.

Both outboxes are marked first: see :mod:`agent.outbox.marks`. Then the source does not change. A portion and the
progress of the copy are stored in one transaction of the target. So a copy can be interrupted at any point, and the
next one continues after the last portion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.outbox.marks import Mark

    Row = tuple[Any, ...]

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
    # After the deployments: these change it when they are inserted, and the copied rows replace that.
    "hours": "hour",
    # Last: `emit` adds reports to a file during the copy. Those that come later are taken from the file.
    "reports": "id",
}
# Rows of a portion.
BATCH = 5_000
# A claim ends with the process that made it.
_OF_THE_ENGINE = {"claimed_by", "claimed_until", "claim"}
_BYTES = "bytes:"


class Progress(msgspec.Struct, frozen=True):
    """How far a copy is: all rows of ``table`` up to the key ``after``, and all tables before it."""

    table: str = next(iter(TABLES))
    after: tuple[int | str, ...] | None = None
    rows: dict[str, int] = {}

    def then(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> Progress:
        """After these rows."""
        key = tuple(_kept(rows[-1][columns.index(name)]) for name in TABLES[table].split(", "))
        return Progress(table, key, {**self.rows, table: self.rows.get(table, 0) + len(rows)})

    def key(self, table: str) -> Row | None:
        """Where to continue in this table; None: at its beginning."""
        return tuple(map(_given, self.after)) if table == self.table and self.after is not None else None

    def is_after(self, table: str) -> bool:
        """Whether this table is complete."""
        names = list(TABLES)
        return names.index(table) < names.index(self.table)


class Source(Protocol):
    """An outbox to copy from."""

    name: str

    def begin(self, target: str) -> Mark:
        """Mark it as the source of a copy to ``target``, or find the mark of the one that was interrupted.

        Nobody changes it afterwards, except that reports are added to a file.
        """
        ...

    def columns(self, table: str) -> list[str]:
        """The names of its columns."""
        ...

    def portion(self, table: str, columns: Sequence[str], after: Row | None) -> list[Row]:
        """The next rows after this key, in the order of the key."""
        ...

    def end(self) -> None:
        """Note that the copy is complete."""
        ...


class Target(Protocol):
    """An outbox to copy to."""

    name: str

    def begin(self, copy: str, source: str) -> Mark:
        """Mark it as the target of this copy, or find the mark if it is that already.

        Raises :class:`agent.outbox.values.OutboxError` if it has other content.
        """
        ...

    def columns(self, table: str) -> list[str]:
        """The names of its columns."""
        ...

    def write(self, table: str, columns: Sequence[str], rows: Sequence[Row], before: str, progress: str) -> None:
        """Insert the rows, and set the progress, which was ``before``: both, or nothing."""
        ...

    def end(self) -> None:
        """Make it an outbox that an agent can use."""
        ...


def copy(source: Source, target: Target, tell: Callable[[Progress], None] = lambda _progress: None) -> Progress:
    """Copy all rows, or the rest of them. ``tell`` is called after each portion."""
    begun = source.begin(target.name)
    if begun.complete:
        return Progress()
    mark = target.begin(begun.copy, source.name)
    progress = _decoded(mark.progress)
    if not mark.complete:
        progress = _copy_rows(source, target, progress, tell)
        target.end()
    source.end()
    return progress


def _copy_rows(source: Source, target: Target, progress: Progress, tell: Callable[[Progress], None]) -> Progress:
    for table in TABLES:
        if progress.is_after(table):
            continue
        known = set(target.columns(table)) - _OF_THE_ENGINE
        columns = [each for each in source.columns(table) if each in known]
        while rows := source.portion(table, columns, progress.key(table)):
            before, progress = progress, progress.then(table, columns, rows)
            target.write(table, columns, rows, encoded(before), encoded(progress))
            tell(progress)
    return progress


def encoded(progress: Progress) -> str:
    """As the mark has it; the same text for the same progress."""
    return "" if progress.after is None else msgspec.json.encode(progress).decode()


def _decoded(progress: str) -> Progress:
    return msgspec.json.decode(progress, type=Progress) if progress else Progress()


def _kept(value: Any) -> int | str:
    """A value of a key as the progress has it."""
    if isinstance(value, bytes):
        return _BYTES + value.hex()
    return value if isinstance(value, int) else "text:" + value


def _given(value: int | str) -> Any:
    if isinstance(value, int):
        return value
    kind, _, rest = value.partition(":")
    return bytes.fromhex(rest) if kind + ":" == _BYTES else rest
