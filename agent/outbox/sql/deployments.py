"""Rewriting deployments; the inbox, entries set aside, replay and discard."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from agent.model.deployment import State
from agent.model.fact import Kind
from agent.model.keys import Run
from agent.outbox import rows
from agent.outbox.sql.projects import Projects
from agent.outbox.values import OutboxFullError, StoredReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.model.deployment import Deployment
    from agent.outbox.values import Action, Change, SetAside

# The id does not change, or no other deployment has or had the new one. Where there are several writers, one that is
# about to take it holds the lock of its run, or makes this statement fail: then the caller tries again.
_ID_IS_FREE = (
    "(coalesce(deployment_id, '') = coalesce(?, '') OR NOT (EXISTS (SELECT 1 FROM forgotten WHERE id_hash = ?)"
    " OR EXISTS (SELECT 1 FROM deployments WHERE deployment_id = ? AND id <> ?)))"
)
_REWRITE = (
    f"UPDATE deployments SET {', '.join(f'{name} = ?' for name in rows.REWRITTEN)}"  # noqa: S608
    f" WHERE id = ? AND revision IN (?, ? - 1) AND {_ID_IS_FREE} AND state IN "
)
# For each new state, the states from which a deployment may change to it.
_REWRITES = {
    State.HELD: _REWRITE + "('held')",
    State.PENDING: _REWRITE + "('held', 'pending', 'failed')",
    State.FAILED: _REWRITE + "('held', 'pending', 'failed')",
    State.DISCARDED: _REWRITE + "('discarded')",
    # Content that Hivel has does not change; only the names that the deployment stands for can.
    State.DELIVERED: (
        "UPDATE deployments SET known = ?, scope = ?, stage = ?, said_environment = ?, names = ?,"
        " build_started_at = nullif(?, started_at), build_ended_at = nullif(?, ended_at)"
        " WHERE id = ? AND state = 'delivered'"
    ),
}


class Deployments(Projects):
    """See :class:`agent.outbox.interface.Deployments`."""

    max_size: int

    @abstractmethod
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

    @abstractmethod
    def size(self) -> int:
        """Bytes used by data."""

    @abstractmethod
    def _owners(self, names: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Build start and number (0: deleted) of the deployments that have or had these ids."""

    def _refused(self, deployments: Sequence[Deployment], new: set[str]) -> dict[str, int]:
        """The ids of these that were not free, with the start of the owner's build. ``new``: ids that were inserted."""
        taken = []
        for deployment in deployments:
            name = deployment.deployment_id
            if name in new:
                new.remove(name)  # another deployment with the same id in this batch
            elif name is not None:
                taken.append(name)
        return {name: start for name, (start, _) in self._owners(taken).items()} if taken else {}

    def _note_due(self, changes: Iterable[Change]) -> None:
        """If there is something to send now, tell those who wait for it after the commit."""
        if any(each.state is State.PENDING for change in changes for each in (*change.inserted, *change.rewritten)):
            self._transactions.note_due()

    def _remove_and_rewrite(self, change: Change) -> dict[str, int]:
        """Returns the ids of rewritten deployments that were not free, each with the start of the build that has it."""
        self._connection.executemany(
            "DELETE FROM deployments WHERE id = ? AND state = 'held'", [(each.number,) for each in change.removed]
        )
        now, refused = self.clock.now_ms(), {}
        ids = self._made_project_ids(each.run.project for each in change.rewritten)
        for deployment in change.rewritten:
            values = _rewritten(deployment, ids[deployment.run.project], now)
            changed = self._connection.execute(_REWRITES[deployment.state], values).rowcount
            name = deployment.deployment_id
            if not changed and name is not None:
                owner = self._owners([name]).get(name)
                if owner is not None and owner[1] != deployment.number:
                    refused[name] = owner[0]
        return refused

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
        projects = self._projects_of(place[0] for place in found)
        return [Run(projects[place[0]], *place[1:]) for place in dict.fromkeys(found)]

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
            if any(done):
                self._transactions.note_due()
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
                "INSERT INTO actions (deployment, n, at, what, who, reason)"  # noqa: S608
                " SELECT d.id, (SELECT coalesce(max(n), 0) + 1 FROM actions WHERE deployment = d.id), ?, ?, ?, ?"
                f" FROM deployments AS d WHERE d.id = ?{self._FOR_UPDATE}",
                [(*values, number) for number in numbers],
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
                f"the outbox {self._transactions.name} is full: it has {taken} bytes, [outbox] max_size is"
                f" {self.max_size}; raise max_size, or wait until deployments are delivered and deleted"
            )


def adds(change: Change) -> bool:
    """Whether the change makes the outbox larger and can be delayed."""
    return bool(change.inserted) or any(fact.kind is Kind.REPORT for fact in change.facts)


def _storable(text: str | None) -> Any:
    """Text that all engines accept: lone surrogates are escaped."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def _rewritten(deployment: Deployment, project_id: int, now: int) -> tuple[object, ...]:
    """The values of the statement of ``_REWRITES``."""
    columns, number, name = (
        rows.deployment_columns(deployment, project_id, now),
        deployment.number,
        deployment.deployment_id,
    )
    if deployment.state is State.DELIVERED:
        said = (columns[each] for each in ("known", "scope", "stage", "said_environment", "names"))
        return (*said, deployment.build_started_at, deployment.build_ended_at, number)
    digest = None if name is None else rows.id_hash(name)
    revision = deployment.revision
    return (*(columns[each] for each in rows.REWRITTEN), number, revision, revision, name, digest, name, number)
