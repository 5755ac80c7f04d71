"""Claims and settlements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.model.deployment import State
from agent.outbox import rows
from agent.outbox.sql import deliveries
from agent.outbox.sqlite.part import Part
from agent.outbox.values import ANSWER_LIMIT, LAST_ATTEMPTS, Claimed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Any

    from agent.outbox.values import Settlement

# Without the hint SQLite would read rows that the index alone shows to be waiting.
CLAIM = (
    f"SELECT id, deployment_id, revision, attempts, created_at, run, {', '.join(rows.CONTENT_COLUMNS)}"  # noqa: S608
    " FROM deployments INDEXED BY deployments_by_state"
    " WHERE state = 'pending' AND next_attempt_at <= ? ORDER BY id LIMIT ?"
)
# A deployment that Hivel had before a replay keeps its sent_revision: Hivel ignores a second event with the same id.
_DELIVERED = (
    "UPDATE deployments SET state = 'delivered', attempts = attempts + ?, reason = ?, settled_at = ?,"
    " sent_revision = coalesce(nullif(sent_revision, 0), ?) WHERE id = ? AND state != 'delivered'"
)
_NOT_DELIVERED = (
    "UPDATE deployments SET state = ?, attempts = attempts + ?, reason = ?, settled_at = ?,"
    " next_attempt_at = coalesce(?, next_attempt_at) WHERE id = ? AND state = 'pending' AND revision = ?"
)
_COUNT = "UPDATE deployments SET attempts = attempts + ? WHERE id = ?"
_ATTEMPT = (
    "INSERT OR REPLACE INTO attempts (deployment, n, at, duration_ms, http_status, verdict, answer)"
    " SELECT id, attempts, ?, ?, ?, ?, ? FROM deployments WHERE id = ?"
)
_LAST_ATTEMPTS = (
    "DELETE FROM attempts WHERE deployment = ?1 AND n > 1"
    " AND n <= (SELECT attempts FROM deployments WHERE id = ?1) - ?2"
)


class Deliveries(Part, deliveries.Deliveries):
    """See :class:`agent.outbox.interface.Deliveries`."""

    def claim(self, limit: int, *, besides: Collection[int] = ()) -> list[Claimed]:
        """The deployments that are due, oldest first, without those in flight (``besides``: their numbers).

        Only the holder of the run lock claims, so nothing has to be written: see ``RunLock``.
        """
        found = self._all(CLAIM, (self.clock.now_ms(), limit + len(besides)))
        due = [row for row in found if row[0] not in besides][:limit]
        try:
            return [_claimed(row) for row in due]
        except (KeyError, msgspec.MsgspecError) as error:
            raise self._damaged(f"a deployment is not valid: {error}") from error

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Record the outcomes of attempts, in one transaction.

        After a success the deployment is delivered with the content that was sent, whatever its revision and state are
        now. Any other outcome counts only if the deployment is still pending in the revision that was sent; otherwise
        only the attempt is recorded.

        The first and the last failed attempts are kept. Attempts that do not count leave only their reason. A success
        is stored in the deployment.
        """
        if not settlements:
            return
        delivered = [each for each in settlements if each.state is State.DELIVERED]
        with self._writing():
            for each in settlements:
                if each.state is not State.DELIVERED:
                    self._failed(each)
            if delivered:
                self._delivered(delivered)

    def _delivered(self, settlements: Sequence[Settlement]) -> None:
        settled = self._connection.executemany(
            f"{_DELIVERED} AND revision = ?", [(*_success(each), each.claimed.revision) for each in settlements]
        ).rowcount
        if settled == len(settlements):
            return
        for each in settlements:
            changed = self._connection.execute(
                f"{_DELIVERED} AND revision != ?", (*_success(each), each.claimed.revision)
            )
            if changed.rowcount:
                self._say_what_was_sent(each.claimed)

    def _failed(self, settlement: Settlement) -> None:
        number, counts = settlement.claimed.number, settlement.counts_as_attempt
        changed = self._connection.execute(
            _NOT_DELIVERED,
            (
                settlement.state.value,
                counts,
                settlement.reason,
                settlement.at if settlement.state is State.FAILED else None,
                settlement.next_attempt_at,
                number,
                settlement.claimed.revision,
            ),
        ).rowcount
        if not counts:
            return
        if not changed:
            self._connection.execute(_COUNT, (counts, number))
        answer = settlement.answer[:ANSWER_LIMIT]
        said = (settlement.at, settlement.duration_ms, settlement.http_status, settlement.verdict, answer)
        self._connection.execute(_ATTEMPT, (*said, number))
        self._connection.execute(_LAST_ATTEMPTS, (number, LAST_ATTEMPTS))

    def make_due(self, *, later_than: int) -> int:
        """Make pending deployments due whose next attempt is later than ``later_than``; returns how many.

        For the end of an outage, and for a clock that was set back. Reads every pending deployment.
        """
        with self._writing():
            return self._connection.execute(
                "UPDATE deployments INDEXED BY deployments_by_state SET next_attempt_at = ?"
                " WHERE state = 'pending' AND next_attempt_at > ?",
                (self.clock.now_ms(), later_than),
            ).rowcount


def _claimed(row: tuple[Any, ...]) -> Claimed:
    number, deployment_id, revision, attempts, created_at, run, *content = row
    return Claimed(number, deployment_id, revision, rows.content_of(content, run), attempts, created_at)


def _success(settlement: Settlement) -> tuple[object, ...]:
    """The values for ``_DELIVERED``."""
    revision = settlement.claimed.revision
    # Hivel already had the id. After a crash it is unknown in which revision.
    sent_revision = 0 if settlement.already_there and revision > 1 else revision
    return settlement.counts_as_attempt, settlement.reason, settlement.at, sent_revision, settlement.claimed.number
