"""Storing facts and deployments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.outbox import rows
from agent.outbox.postgresql.loading import Loading, lock_of
from agent.outbox.postgresql.part import columns_of
from agent.outbox.sql import deployments
from agent.outbox.sql.deployments import adds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agent.model.deployment import Deployment
    from agent.model.fact import Fact
    from agent.model.keys import Project
    from agent.outbox.values import Change

_NUMBERS = {"attempt", "known", "revision", "sent_revision", "attempts"}
_BIG = {
    "project_id", "received_at", "word", "started_at", "build_started_at", "build_ended_at", "anchor",
    "first_commit_at", "ended_at", "created_at", "held_since", "next_attempt_at", "settled_at",
}  # fmt: skip


def _array(column: str) -> str:
    kind = "bigint" if column in _BIG else "integer" if column in _NUMBERS else "text"
    return f"%s::{kind}[]"


def _from_values(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('%s' for _ in columns)})"  # noqa: S608


def _from_arrays(table: str, columns: Sequence[str]) -> str:
    """One statement for any number of rows: each value is an array with a column. The rows keep their order."""
    listed, arrays = ", ".join(columns), ", ".join(map(_array, columns))
    return (
        f"INSERT INTO {table} ({listed}) SELECT {listed} FROM unnest({arrays})"  # noqa: S608
        f" WITH ORDINALITY AS new ({listed}, nth) ORDER BY nth"
    )


_FACT_COLUMNS = rows.FACT_COLUMNS.split(", ")
_ON_CONFLICT = "ON CONFLICT (deployment_id) DO NOTHING RETURNING id, deployment_id"
_INSERT_FACTS = _from_arrays("facts", _FACT_COLUMNS)
_INSERT_DEPLOYMENTS = f"{_from_arrays('deployments', rows.INSERTED)} {_ON_CONFLICT}, true"
# What most reports and many polls bring. Arrays would take three times as long, here and in the server.
_INSERT_ONE_OF_EACH = (
    f"WITH said AS ({_from_values('facts', _FACT_COLUMNS)})"
    f" {_from_values('deployments', rows.INSERTED)} {_ON_CONFLICT}, is_forgotten(%s)"
)
_DELETE_FORGOTTEN = (
    "DELETE FROM deployments USING forgotten,"
    " unnest(%s::bigint[], %s::bytea[]) AS new (id, id_hash)"
    " WHERE forgotten.id_hash = new.id_hash AND deployments.id = new.id RETURNING deployment_id"
)
_ID = rows.INSERTED.index("deployment_id")
_OWNERS = (
    "SELECT deployment_id, coalesce(build_started_at, started_at), id FROM deployments WHERE deployment_id = ANY(%s)"
)
_FORMER_OWNERS = "SELECT id_hash, started_at FROM forgotten WHERE id_hash = ANY(%s)"


class Deployments(Loading, deployments.Deployments):
    """See :class:`agent.outbox.interface.Deployments`."""

    # ---- store

    def store(self, changes: Sequence[Change]) -> dict[str, int]:
        """See the base."""
        facts = [fact for change in changes for fact in change.facts]
        stored = [each for change in changes for each in (*change.inserted, *change.rewritten)]
        with self._writing():
            if self.max_size and any(map(adds, changes)):
                self._refuse_when_full()
            self._note_due(changes)
            runs = {fact.run for fact in facts} | {deployment.run for deployment in stored}
            self._transactions.lock({lock_of(run) for run in runs})
            ids = self._made_project_ids(run.project for run in runs)
            refused = dict[str, int]()
            for change in changes:
                if change.removed or change.rewritten:
                    refused |= self._remove_and_rewrite(change)
            inserted = [deployment for change in changes for deployment in change.inserted]
            return refused | self._insert(facts, inserted, ids)

    def _insert(
        self, facts: Sequence[Fact], inserted: Sequence[Deployment], ids: Mapping[Project, int]
    ) -> dict[str, int]:
        """Returns the ids that were not free, each with the start of the build of the deployment that has or had it."""
        new = self._inserted(
            [rows.fact_row(fact, ids[fact.run.project]) for fact in facts],
            [rows.deployment_row(each, ids[each.run.project], self.clock.now_ms()) for each in inserted],
        )
        return self._refused(inserted, new)

    def _inserted(self, facts: list[tuple[object, ...]], deployments: list[tuple[object, ...]]) -> set[str]:
        """Returns the ids that were free."""
        if len(facts) == len(deployments) == 1:
            name = deployments[0][_ID]
            values = (*facts[0], *deployments[0], None if name is None else rows.id_hash(str(name)))
            found = self._connection.execute(_INSERT_ONE_OF_EACH, values).fetchall()
        else:
            if facts:
                self._connection.execute(_INSERT_FACTS, columns_of(facts))
            if not deployments:
                return set()
            found = self._connection.execute(_INSERT_DEPLOYMENTS, columns_of(deployments)).fetchall()
        new = {name: number for number, name, _ in found if name is not None}
        # Afterwards: whoever deleted a deployment with this id has noted the id by now, because the insertion waited.
        if doubtful := [name for _, name, may_be_forgotten in found if may_be_forgotten and name is not None]:
            hashes = [rows.id_hash(name) for name in doubtful]
            for (name,) in self._connection.execute(_DELETE_FORGOTTEN, ([new[name] for name in doubtful], hashes)):
                del new[name]
        return set(new)

    def _owners(self, names: Iterable[str]) -> dict[str, tuple[int, int]]:
        hashes = {rows.id_hash(name): name for name in names}
        found = {name: (start, number) for name, start, number in self._all(_OWNERS, (list(hashes.values()),))}
        former = self._all(_FORMER_OWNERS, (list(hashes),))
        return {hashes[bytes(digest)]: (start, 0) for digest, start in former} | found

    # ---- the size limit

    def size(self) -> int:
        """Bytes of facts, deployments and reports. The tables are larger: they have indexes, and unused pages."""
        found = self._one(
            "SELECT coalesce((SELECT n FROM counts WHERE state = 'bytes'), 0)"
            " + (SELECT coalesce(sum(bytes), 0) FROM changes)"
            " + (SELECT coalesce(sum(octet_length(body)), 0) FROM reports)"
        )
        return int(found[0])
