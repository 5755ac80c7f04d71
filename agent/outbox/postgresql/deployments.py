"""Storing facts and deployments; the inbox, entries set aside, replay and discard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.model.deployment import State
from agent.model.fact import Kind
from agent.model.keys import Run
from agent.outbox import rows
from agent.outbox.postgresql.loading import Loading, lock_of
from agent.outbox.values import OutboxFullError, StoredReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agent.model.deployment import Deployment
    from agent.model.fact import Fact
    from agent.model.keys import Project
    from agent.outbox.values import Action, Change, SetAside

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
_REWRITTEN = (
    "project_id", "run", "attempt", "build_started_at", "build_ended_at", "known", "scope", "stage", "said_environment",
    "names", "anchor", "deployment_id", "state", "revision", *rows.CONTENT_COLUMNS, "held_since", "next_attempt_at",
    "settled_at", "reason",
)  # fmt: skip
# The id does not change, or no other deployment has or had the new one. Another transaction that is about to take it
# holds the lock of its run, or makes this statement fail: then the caller tries again.
_REWRITE = (
    f"UPDATE deployments SET {', '.join(f'{name} = %({name})s' for name in _REWRITTEN)}"  # noqa: S608
    " WHERE id = %(id)s AND revision IN (%(revision)s, %(revision)s - 1)"
    " AND (deployment_id IS NOT DISTINCT FROM %(deployment_id)s OR NOT ("
    "EXISTS (SELECT 1 FROM forgotten WHERE id_hash = %(id_hash)s)"
    " OR EXISTS (SELECT 1 FROM deployments WHERE deployment_id = %(deployment_id)s AND id <> %(id)s)))"
    " AND state IN "
)
# For each new state, the states from which a deployment may change to it.
_REWRITES = {
    State.HELD: _REWRITE + "('held')",
    State.PENDING: _REWRITE + "('held', 'pending', 'failed')",
    State.FAILED: _REWRITE + "('held', 'pending', 'failed')",
    State.DISCARDED: _REWRITE + "('discarded')",
    # Content that Hivel has does not change; only the names that the deployment stands for can.
    State.DELIVERED: (
        "UPDATE deployments SET known = %(known)s, scope = %(scope)s, stage = %(stage)s,"
        " said_environment = %(said_environment)s, names = %(names)s,"
        " build_started_at = nullif(%(began)s::bigint, started_at),"
        " build_ended_at = nullif(%(ended)s::bigint, ended_at)"
        " WHERE id = %(id)s AND state = 'delivered'"
    ),
}
_OWNERS = (
    "SELECT deployment_id, coalesce(build_started_at, started_at), id FROM deployments WHERE deployment_id = ANY(%s)"
)
_FORMER_OWNERS = "SELECT id_hash, started_at FROM forgotten WHERE id_hash = ANY(%s)"


class Deployments(Loading):
    """See :class:`agent.outbox.interface.Deployments`."""

    # ---- store

    def store(self, changes: Sequence[Change]) -> dict[str, int]:
        """Store facts, and insert, rewrite and remove deployments, in one transaction.

        A deployment is rewritten if its stored revision is the new one or the one before, and if the change of state is
        allowed: held to held, pending or failed; pending and failed to each other; discarded stays discarded. Of a
        delivered one only names, build times and ``known`` are rewritten. What delivery wrote (attempts, sent_revision)
        and ``created_at`` stay. Only held deployments are removed.

        Returns the ids that another deployment has or had, each with the start of that deployment's build. Deployments
        with such an id were not inserted or, if they were to be rewritten, not changed. Raises :class:`OutboxFullError`
        if ``max_size`` is reached and there are reports or deployments to insert.
        """
        facts = [fact for change in changes for fact in change.facts]
        stored = [each for change in changes for each in (*change.inserted, *change.rewritten)]
        with self._writing():
            if self.max_size and any(map(_adds, changes)):
                self._refuse_when_full()
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
        self, facts: Sequence[Fact], deployments: Sequence[Deployment], ids: Mapping[Project, int]
    ) -> dict[str, int]:
        """Returns the ids that were not free, each with the start of the build of the deployment that has or had it."""
        new = self._inserted(
            [rows.fact_row(fact, ids[fact.run.project]) for fact in facts],
            [rows.deployment_row(each, ids[each.run.project], self.clock.now_ms()) for each in deployments],
        )
        taken = []
        for deployment in deployments:
            name = deployment.deployment_id
            if name in new:
                new.remove(name)  # another deployment with the same id in this batch
            elif name is not None:
                taken.append(name)
        return {name: start for name, (start, _) in self._owners(taken).items()} if taken else {}

    def _inserted(self, facts: list[tuple[object, ...]], deployments: list[tuple[object, ...]]) -> set[str]:
        """Returns the ids that were free."""
        if len(facts) == len(deployments) == 1:
            name = deployments[0][_ID]
            values = (*facts[0], *deployments[0], None if name is None else rows.id_hash(str(name)))
            found = self._connection.execute(_INSERT_ONE_OF_EACH, values).fetchall()
        else:
            if facts:
                self._connection.execute(_INSERT_FACTS, _transposed(facts))
            if not deployments:
                return set()
            found = self._connection.execute(_INSERT_DEPLOYMENTS, _transposed(deployments)).fetchall()
        new = {name: number for number, name, _ in found if name is not None}
        # Afterwards: whoever deleted a deployment with this id has noted the id by now, because the insertion waited.
        if doubtful := [name for _, name, may_be_forgotten in found if may_be_forgotten and name is not None]:
            hashes = [rows.id_hash(name) for name in doubtful]
            for (name,) in self._connection.execute(_DELETE_FORGOTTEN, ([new[name] for name in doubtful], hashes)):
                del new[name]
        return set(new)

    def _remove_and_rewrite(self, change: Change) -> dict[str, int]:
        """Returns the same as :meth:`_insert`."""
        if change.removed:
            self._connection.execute(
                "DELETE FROM deployments WHERE id = ANY(%s) AND state = 'held'",
                ([deployment.number for deployment in change.removed],),
            )
        now, refused = self.clock.now_ms(), {}
        ids = self._project_ids(each.run.project for each in change.rewritten)
        for deployment in change.rewritten:
            values = _rewrite_values(deployment, ids[deployment.run.project], now)
            changed = self._connection.execute(_REWRITES[deployment.state], values).rowcount
            name = deployment.deployment_id
            if not changed and name is not None:
                owner = self._owners([name]).get(name)
                if owner is not None and owner[1] != deployment.number:
                    refused[name] = owner[0]
        return refused

    def _owners(self, names: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Build start and number (0: deleted) of the deployments that have or had these ids."""
        hashes = {rows.id_hash(name): name for name in names}
        found = {name: (start, number) for name, start, number in self._all(_OWNERS, (list(hashes.values()),))}
        former = self._all(_FORMER_OWNERS, (list(hashes),))
        return {hashes[bytes(digest)]: (start, 0) for digest, start in former} | found

    # ---- the inbox, and entries set aside

    def add_report(self, body: str) -> None:
        """Put a report into the inbox. Raises :class:`OutboxFullError` if ``max_size`` is reached."""
        with self._writing():
            if self.max_size:
                self._refuse_when_full()
            self._connection.execute(
                "INSERT INTO reports (received_at, body) VALUES (%s, %s)", (self.clock.now_ms(), body)
            )

    def reports(self, limit: int) -> list[StoredReport]:
        """The oldest ``limit`` reports of the inbox."""
        found = self._all("SELECT id, received_at, body FROM reports ORDER BY id LIMIT %s", (limit,))
        return [StoredReport(*row) for row in found]

    def remove_report(self, report: StoredReport) -> None:
        """Remove a report that was accepted or set aside."""
        with self._writing():
            self._connection.execute(
                "DELETE FROM reports WHERE id = %s AND received_at = %s AND body = %s",
                (report.id, report.received_at, report.body),
            )

    def set_aside(self, item: SetAside) -> None:
        """Store what caused an unexpected exception. It replaces an earlier entry with the same subject."""
        values = (item.kind, item.subject, item.at, item.error, item.body)
        with self._writing():
            self._connection.execute("DELETE FROM set_aside WHERE kind = %s AND subject = %s", values[:2])
            self._connection.execute(
                "INSERT INTO set_aside (kind, subject, at, error, body) VALUES (%s, %s, %s, %s, %s)", values
            )

    # ---- held, replay, discard

    def held(self, since: int | None = None) -> list[Run]:
        """Runs with held deployments, oldest first; None: all.

        ``since``: held since before that time, or since a time in the future (the clock was set back).
        """
        waits, values = "", tuple[int, ...]()
        if since is not None:
            waits, values = " AND (held_since < %s OR held_since > %s)", (since, self.clock.now_ms())
        found = self._all(
            f"SELECT project_id, run, attempt FROM deployments WHERE state = 'held'{waits} ORDER BY id",  # noqa: S608
            values,
        )
        projects = self._projects_of(place[0] for place in found)
        return [Run(projects[place[0]], *place[1:]) for place in dict.fromkeys(found)]

    def replay(self, deployments: Sequence[Deployment]) -> list[bool]:
        """Make settled deployments pending with fresh attempts and unchanged content.

        False for each deployment that is not settled, or whose state or revision has changed meanwhile.
        """
        with self._writing():
            done = self._move(
                deployments,
                "state = 'pending', attempts = 0, settled_at = NULL, reason = NULL, next_attempt_at = %s",
                "'delivered', 'failed', 'discarded'",
                (self.clock.now_ms(),),
            )
            moved = [each.number for each, moved in zip(deployments, done, strict=True) if moved]
            if moved:
                self._connection.execute("DELETE FROM attempts WHERE deployment = ANY(%s)", (moved,))
        return done

    def discard(self, deployments: Sequence[Deployment], reason: str) -> list[bool]:
        """Discard failed or pending deployments: they are kept, and never sent unless replayed.

        False for each deployment that is in another state, or whose state or revision has changed meanwhile.
        """
        values = (self.clock.now_ms(), reason)
        with self._writing():
            return self._move(
                deployments, "state = 'discarded', settled_at = %s, reason = %s", "'failed', 'pending'", values
            )

    def note_action(self, numbers: Sequence[int], action: Action) -> None:
        """Store what a person did with the deployments with these numbers. It is deleted with the deployment."""
        values = (action.at, action.what, action.who, action.reason)
        with self._writing():
            self._connection.executemany(
                "INSERT INTO actions (deployment, n, at, what, who, reason)"
                " SELECT d.id, (SELECT coalesce(max(n), 0) + 1 FROM actions WHERE deployment = d.id), %s, %s, %s, %s"
                " FROM deployments AS d WHERE d.id = %s FOR UPDATE",
                [(*values, number) for number in numbers],
            )

    def _move(
        self, deployments: Sequence[Deployment], assignments: str, states: str, values: tuple[object, ...]
    ) -> list[bool]:
        sql = (
            f"UPDATE deployments SET {assignments}"  # noqa: S608
            f" WHERE id = %s AND state = %s AND revision = %s AND state IN ({states})"
        )
        return [
            self._connection.execute(sql, (*values, each.number, each.state.value, each.revision)).rowcount == 1
            for each in deployments
        ]

    # ---- the size limit

    def _refuse_when_full(self) -> None:
        taken = self.size()
        if taken >= self.max_size:
            raise OutboxFullError(
                f"the outbox {self._connection.name} is full: it has {taken} bytes, [outbox] max_size is"
                f" {self.max_size}; raise max_size, or wait until deployments are delivered and deleted"
            )

    def size(self) -> int:
        """Bytes of facts, deployments and reports. The tables are larger: they have indexes, and unused pages."""
        found = self._one(
            "SELECT coalesce((SELECT n FROM counts WHERE state = 'bytes'), 0)"
            " + (SELECT coalesce(sum(bytes), 0) FROM changes)"
            " + (SELECT coalesce(sum(octet_length(body)), 0) FROM reports)"
        )
        return int(found[0])


def _transposed(values: Sequence[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*values, strict=True)]


def _adds(change: Change) -> bool:
    """Whether the change makes the outbox larger and can be delayed."""
    return bool(change.inserted) or any(fact.kind is Kind.REPORT for fact in change.facts)


def _rewrite_values(deployment: Deployment, project_id: int, now: int) -> dict[str, Any]:
    name = deployment.deployment_id
    return {
        **rows.deployment_columns(deployment, project_id, now),
        "id": deployment.number,
        "id_hash": None if name is None else rows.id_hash(name),
        "began": deployment.build_started_at,
        "ended": deployment.build_ended_at,
    }
