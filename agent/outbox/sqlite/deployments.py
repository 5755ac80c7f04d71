"""Storing facts and deployments; the inbox, entries set aside, replay and discard."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from agent.model.deployment import State
from agent.model.fact import Kind
from agent.model.keys import Run
from agent.outbox import rows
from agent.outbox.sqlite import inserting
from agent.outbox.sqlite.loading import Loading
from agent.outbox.values import OutboxFullError, StoredReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.model.deployment import Deployment
    from agent.outbox.values import Action, Change, SetAside

# The id does not change, or no other deployment has or had the new one.
_ID_IS_FREE = "(deployment_id IS :deployment_id OR NOT EXISTS (SELECT 1 FROM forgotten WHERE id_hash = :id_hash))"
_REWRITTEN = (
    "project_id", "run", "attempt", "build_started_at", "build_ended_at", "known", "scope", "stage", "said_environment",
    "names", "anchor", "deployment_id", "state", "revision", *rows.CONTENT_COLUMNS, "held_since", "next_attempt_at",
    "settled_at", "reason",
)  # fmt: skip
_SET = ", ".join(f"{name} = :{name}" for name in _REWRITTEN)
_REWRITE = (
    f"UPDATE OR IGNORE deployments SET {_SET} WHERE id = :id AND revision IN (:revision, :revision - 1)"  # noqa: S608
    f" AND {_ID_IS_FREE} AND state IN "
)
# For each new state, the states from which a deployment may change to it.
_REWRITES = {
    State.HELD: _REWRITE + "('held')",
    State.PENDING: _REWRITE + "('held', 'pending', 'failed')",
    State.FAILED: _REWRITE + "('held', 'pending', 'failed')",
    State.DISCARDED: _REWRITE + "('discarded')",
    # Content that Hivel has does not change; only the names that the deployment stands for can.
    State.DELIVERED: (
        "UPDATE deployments SET known = :known, scope = :scope, stage = :stage, said_environment = :said_environment,"
        " names = :names,"
        " build_started_at = nullif(:began, started_at), build_ended_at = nullif(:ended, ended_at)"
        " WHERE id = :id AND state = 'delivered'"
    ),
}
_OWNER = (
    "SELECT coalesce(build_started_at, started_at), id FROM deployments WHERE deployment_id = ?1"
    " UNION ALL SELECT started_at, 0 FROM forgotten WHERE id_hash = ?2"
)


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
        with self._writing():
            if self.max_size and any(map(_adds, changes)):
                self._refuse_when_full()
            refused = dict[str, int]()
            for change in changes:
                if change.removed or change.rewritten:
                    refused |= self._remove_and_rewrite(change)
            known, made = self._known_project_ids(), self._made_project_id
            self._connection.executemany(
                inserting.INSERT_FACT,
                (
                    rows.fact_row(fact, known.get(fact.run.project) or made(fact.run.project))
                    for change in changes
                    for fact in change.facts
                ),
            )
            inserted = [deployment for change in changes for deployment in change.inserted]
            return refused | self._insert(inserted) if inserted else refused

    def _insert(self, deployments: Sequence[Deployment]) -> dict[str, int]:
        """Returns the ids that were not free, each with the start of the build of the deployment that has or had it."""
        now, known, made = self.clock.now_ms(), self._known_project_ids(), self._made_project_id
        values = (
            inserting.insertion(each, known.get(each.run.project) or made(each.run.project), now)
            for each in deployments
        )
        sql, inserted = inserting.INSERT_DEPLOYMENT, 0
        if self._one("SELECT 1 FROM forgotten LIMIT 1"):
            hashes = [_hash(each.deployment_id) for each in deployments]
            values = ((*row, digest) for row, digest in zip(values, hashes, strict=True))
            sql = inserting.INSERT_UNLESS_FORGOTTEN
        for count, alike in groupby(values, len):
            inserted += self._connection.executemany(sql[count], alike).rowcount
        if inserted == len(deployments):
            return {}
        newest = self._all("SELECT deployment_id FROM deployments ORDER BY id DESC LIMIT ?", (inserted,))
        new = {name for (name,) in newest if name is not None}
        refused = {}
        for deployment in deployments:
            name = deployment.deployment_id
            if name in new:
                new.remove(name)  # another deployment with the same id in this batch
            elif name is not None:
                refused[name] = self._owner(name)[0]
        return refused

    def _remove_and_rewrite(self, change: Change) -> dict[str, int]:
        """Returns the same as :meth:`_insert`."""
        for deployment in change.removed:
            self._connection.execute("DELETE FROM deployments WHERE id = ? AND state = 'held'", (deployment.number,))
        now, refused = self.clock.now_ms(), {}
        for deployment in change.rewritten:
            values = _rewrite_values(deployment, self._made_project_id(deployment.run.project), now)
            changed = self._connection.execute(_REWRITES[deployment.state], values).rowcount
            name = deployment.deployment_id
            if not changed and name is not None:
                owner = self._owner(name)
                if owner is not None and owner[1] != deployment.number:
                    refused[name] = owner[0]
        return refused

    def _owner(self, deployment_id: str) -> Any:
        """Build start and number (0: deleted) of the deployment that has or had this id; None: the id is free."""
        return self._one(_OWNER, (deployment_id, rows.id_hash(deployment_id)))

    # ---- the inbox, and entries set aside

    def add_report(self, body: str) -> None:
        """Put a report into the inbox. Raises :class:`OutboxFullError` if ``max_size`` is reached."""
        with self._writing():
            if self.max_size:
                self._refuse_when_full()
            self._connection.execute(
                "INSERT INTO reports (received_at, body) VALUES (?, ?)", (self.clock.now_ms(), body)
            )

    def reports(self, limit: int) -> list[StoredReport]:
        """The oldest ``limit`` reports of the inbox."""
        found = self._all("SELECT id, received_at, body FROM reports ORDER BY id LIMIT ?", (limit,))
        return [StoredReport(*row) for row in found]

    def remove_report(self, report: StoredReport) -> None:
        """Remove a report that was accepted or set aside. A later report may have the same number and is kept."""
        with self._writing():
            self._connection.execute(
                "DELETE FROM reports WHERE id = ? AND received_at = ? AND body = ?",
                (report.id, report.received_at, report.body),
            )

    def set_aside(self, item: SetAside) -> None:
        """Store what caused an unexpected exception. It replaces an earlier entry with the same subject."""
        values = (item.kind, _storable(item.subject), item.at, _storable(item.error), _storable(item.body))
        with self._writing():
            self._connection.execute("DELETE FROM set_aside WHERE kind = ? AND subject = ?", values[:2])
            self._connection.execute(
                "INSERT INTO set_aside (kind, subject, at, error, body) VALUES (?, ?, ?, ?, ?)", values
            )

    # ---- held, replay, discard

    def held(self, since: int | None = None) -> list[Run]:
        """Runs with held deployments, oldest first; None: all.

        ``since``: held since before that time, or since a time in the future (the clock was set back).
        """
        waits, values = "", tuple[int, ...]()
        if since is not None:
            waits, values = " AND (held_since < ? OR held_since > ?)", (since, self.clock.now_ms())
        found = self._all(
            f"SELECT project_id, run, attempt FROM deployments WHERE state = 'held'{waits} ORDER BY id",  # noqa: S608
            values,
        )
        return [Run(self._project(place[0]), *place[1:]) for place in dict.fromkeys(found)]

    def replay(self, deployments: Sequence[Deployment]) -> list[bool]:
        """Make settled deployments pending with fresh attempts and unchanged content.

        False for each deployment that is not settled, or whose state or revision has changed meanwhile.
        """
        with self._writing():
            done = self._move(
                deployments,
                "state = 'pending', attempts = 0, settled_at = NULL, reason = NULL, next_attempt_at = ?",
                "'delivered', 'failed', 'discarded'",
                (self.clock.now_ms(),),
            )
            self._connection.executemany(
                "DELETE FROM attempts WHERE deployment = ?",
                [(each.number,) for each, moved in zip(deployments, done, strict=True) if moved],
            )
        return done

    def discard(self, deployments: Sequence[Deployment], reason: str) -> list[bool]:
        """Discard failed or pending deployments: they are kept, and never sent unless replayed.

        False for each deployment that is in another state, or whose state or revision has changed meanwhile.
        """
        values = (self.clock.now_ms(), reason)
        with self._writing():
            return self._move(
                deployments, "state = 'discarded', settled_at = ?, reason = ?", "'failed', 'pending'", values
            )

    def note_action(self, numbers: Sequence[int], action: Action) -> None:
        """Store what a person did with the deployments with these numbers. It is deleted with the deployment."""
        values = (action.at, action.what, _storable(action.who), _storable(action.reason))
        with self._writing():
            self._connection.executemany(
                "INSERT INTO actions (deployment, n, at, what, who, reason)"
                " SELECT ?1, coalesce(max(n), 0) + 1, ?2, ?3, ?4, ?5 FROM actions WHERE deployment = ?1",
                [(number, *values) for number in numbers],
            )

    def _move(
        self, deployments: Sequence[Deployment], assignments: str, states: str, values: tuple[object, ...]
    ) -> list[bool]:
        sql = (
            f"UPDATE deployments SET {assignments}"  # noqa: S608
            f" WHERE id = ? AND state = ? AND revision = ? AND state IN ({states})"
        )
        return [
            self._connection.execute(sql, (*values, each.number, each.state.value, each.revision)).rowcount == 1
            for each in deployments
        ]

    # ---- the size limit

    def _refuse_when_full(self) -> None:
        """Checked within the transaction, so that no other process can fill the outbox in between."""
        taken = self.size()
        if taken >= self.max_size:
            raise OutboxFullError(
                f"the outbox {self.path} is full: it has {taken} bytes, [outbox] max_size is {self.max_size}; raise "
                "max_size, or wait until deployments are delivered and deleted"
            )

    def size(self) -> int:
        """Bytes used by data, without free pages."""
        pages, free, page = (self._one(f"PRAGMA {name}")[0] for name in ("page_count", "freelist_count", "page_size"))
        return int((pages - free) * page)


def _adds(change: Change) -> bool:
    """Whether the change makes the outbox larger and can be delayed."""
    return bool(change.inserted) or any(fact.kind is Kind.REPORT for fact in change.facts)


def _storable(text: str | None) -> Any:
    """Text that SQLite accepts: lone surrogates are escaped."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def _hash(deployment_id: str | None) -> bytes | None:
    return None if deployment_id is None else rows.id_hash(deployment_id)


def _rewrite_values(deployment: Deployment, project_id: int, now: int) -> dict[str, object]:
    return {
        **rows.deployment_columns(deployment, project_id, now),
        "id": deployment.number,
        "id_hash": _hash(deployment.deployment_id),
        "began": deployment.build_started_at,
        "ended": deployment.build_ended_at,
    }
