"""Claims and settlements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import psycopg

from agent.model.deployment import State
from agent.outbox import rows
from agent.outbox.postgresql.part import Part
from agent.outbox.sql import deliveries
from agent.outbox.values import ANSWER_LIMIT, LAST_ATTEMPTS, Claimed, OutboxError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from agent.outbox.postgresql.connection import Row
    from agent.outbox.values import Settlement

# How long a claim holds, by the clock of the database. Then another agent may claim the deployment: the one that had it
# was killed or stands still.
CLAIM_MS = 60_000
# Deployments that another transaction changes are left out: it does not matter which agent sends them. The number of
# the claim changes only when another agent takes over. A claim is renewed when half of its time is over.
_CLAIM = (
    "WITH due AS (SELECT id, claimed_by IS NOT DISTINCT FROM %(me)s::uuid AS mine, claimed_until FROM deployments"  # noqa: S608
    " WHERE state = 'pending' AND next_attempt_at <= %(now)s AND id <> ALL(%(besides)s::bigint[])"
    " AND (claimed_until <= now_ms() OR claimed_by = %(me)s::uuid) ORDER BY id LIMIT %(limit)s"
    " FOR UPDATE SKIP LOCKED),"
    " taken AS (UPDATE deployments AS d SET claimed_by = %(me)s::uuid, claimed_until = now_ms() + %(holds)s,"
    " claim = d.claim + (NOT due.mine)::integer FROM due WHERE d.id = due.id"
    " AND NOT (due.mine AND due.claimed_until > now_ms() + %(holds)s / 2) RETURNING d.id, d.claim)"
    " SELECT d.id, d.deployment_id, d.revision, d.attempts, d.created_at, coalesce(taken.claim, d.claim), d.run,"
    f" {', '.join(f'd.{name}' for name in rows.CONTENT_COLUMNS)}"
    " FROM due JOIN deployments AS d USING (id) LEFT JOIN taken USING (id) ORDER BY d.id"
)
_STATUS = "SELECT pg_xact_status(%s::xid8)"
_RELEASE = "UPDATE deployments SET claimed_until = 0 WHERE id = ANY(%s) AND claimed_by = %s AND state = 'pending'"
# A deployment that Hivel had before a replay keeps its sent_revision: Hivel ignores a second event with the same id.
_DELIVERED = (
    "UPDATE deployments AS d SET state = 'delivered', attempts = d.attempts + s.counts, reason = s.reason,"
    " settled_at = s.at, sent_revision = coalesce(nullif(d.sent_revision, 0), s.sent_revision), claimed_until = 0"
    " FROM unnest(%s::integer[], %s::text[], %s::bigint[], %s::integer[], %s::bigint[], %s::integer[], %s::integer[])"
    " AS s (counts, reason, at, sent_revision, id, revision, claim)"
    " WHERE d.id = s.id AND d.claim = s.claim AND d.state <> 'delivered' AND d.revision {} s.revision RETURNING d.id"
)
_COUNTS = "state = 'pending' AND revision = %(revision)s"
_CHANGED = (
    ("state", "%(state)s"),
    ("reason", "%(reason)s"),
    ("settled_at", "%(settled_at)s::bigint"),
    ("next_attempt_at", "coalesce(%(next)s::bigint, next_attempt_at)"),
    ("claimed_until", "0"),
)
_NOT_DELIVERED = (
    "UPDATE deployments SET attempts = attempts + %(counts)s,"  # noqa: S608
    f" {', '.join(f'{name} = CASE WHEN {_COUNTS} THEN {value} ELSE {name} END' for name, value in _CHANGED)}"
    " WHERE id = %(id)s AND claim = %(claim)s RETURNING attempts"
)
_ATTEMPT = (
    "INSERT INTO attempts (deployment, n, at, duration_ms, http_status, verdict, answer)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (deployment, n) DO UPDATE SET at = excluded.at,"
    " duration_ms = excluded.duration_ms, http_status = excluded.http_status, verdict = excluded.verdict,"
    " answer = excluded.answer"
)


@dataclass(frozen=True)
class _Doubt:
    """A transaction with the outcomes of these claims. Only the server knows whether it is stored: no answer came."""

    transaction: str
    claims: tuple[Claimed, ...]


class Deliveries(Part, deliveries.Deliveries):
    """See :class:`agent.outbox.interface.Deliveries`."""

    _claims: set[int] = frozenset()  # type: ignore[assignment]
    _doubt: _Doubt | None = None

    def claim(self, limit: int, *, besides: Collection[int] = ()) -> list[Claimed]:
        """The deployments that are due, oldest first, without those in flight (``besides``: their numbers).

        Other agents leave them alone for ``CLAIM_MS``. Claimed again by this object, they are the same claims.
        """
        if limit <= 0:
            return []
        values = {
            "me": self.holder,
            "now": self.clock.now_ms(),
            "besides": list(besides),
            "limit": limit,
            "holds": CLAIM_MS,
        }
        # One statement, so it needs no BEGIN and COMMIT: most claims find nothing. Tried again with a new connection,
        # it finds the same claims.
        found = self._all(_CLAIM, values)
        self._claims = self._claims.union(row[0] for row in found)
        try:
            return [_claimed(row) for row in found]
        except (KeyError, msgspec.MsgspecError) as error:
            raise self._damaged(f"a deployment is not valid: {error}") from error

    def release_claims(self) -> None:
        """Let other agents claim at once what this object has claimed and not settled."""
        if self._claims:
            with self._writing():
                self._connection.execute(_RELEASE, (list(self._claims), self.holder))
            self._claims = set()

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Record the outcomes of attempts, in one transaction.

        Outcomes of claims that another agent has taken over change nothing. After a success the deployment is delivered
        with the content that was sent, whatever its revision and state are now. Any other outcome counts only if the
        deployment is still pending in the revision that was sent; otherwise only the attempt is recorded.

        The first and the last failed attempts are kept. Attempts that do not count leave only their reason. A success
        is stored in the deployment.

        After an error settle the same outcomes again. If the connection was lost before COMMIT was answered, those that
        are stored already are left out.
        """
        settlements = self._not_stored(settlements)
        if not settlements:
            return
        delivered = [each for each in settlements if each.state is State.DELIVERED]
        with self._writing():
            [transaction] = self._one("SELECT pg_current_xact_id()::text")
            self._doubt = _Doubt(transaction, tuple(each.claimed for each in settlements))
            for each in sorted(settlements, key=lambda one: one.claimed.number):  # so that no two agents deadlock
                if each.state is not State.DELIVERED:
                    self._failed(each)
            if delivered:
                self._delivered(delivered)
        self._doubt = None
        self._claims = self._claims.difference(each.claimed.number for each in settlements)

    def _not_stored(self, settlements: Sequence[Settlement]) -> Sequence[Settlement]:
        """Those that the transaction in doubt has not stored."""
        doubt = self._doubt
        if doubt is None:
            return settlements
        status = self._status(doubt.transaction)
        if status == "in progress":
            raise OutboxError(
                f"the connection to {self._connection.name} was lost while outcomes were stored, it is not known yet"
                " whether they are; the agent tries again"
            )
        self._doubt = None
        if status != "committed":
            return settlements
        stored = {id(claim) for claim in doubt.claims}
        return [each for each in settlements if id(each.claimed) not in stored]

    def _status(self, transaction: str) -> str | None:
        with self._connection.words():
            try:
                found = self._connection.execute(_STATUS, (transaction,)).fetchone()
            except psycopg.errors.InvalidParameterValue:  # a standby took over that did not have it
                return None
        return None if found is None else found[0]

    def _delivered(self, settlements: Sequence[Settlement]) -> None:
        by_number = {each.claimed.number: each for each in reversed(settlements)}
        values = [list(column) for column in zip(*map(_success, by_number.values()), strict=True)]
        settled = self._connection.execute(_DELIVERED.format("="), values).fetchall()
        if len(settled) == len(by_number):
            return
        for (number,) in self._connection.execute(_DELIVERED.format("<>"), values).fetchall():
            self._say_what_was_sent(by_number[number].claimed)

    def _failed(self, settlement: Settlement) -> None:
        claimed = settlement.claimed
        changed = self._connection.execute(
            _NOT_DELIVERED,
            {
                "state": settlement.state.value,
                "counts": int(settlement.counts_as_attempt),
                "reason": settlement.reason,
                "settled_at": settlement.at if settlement.state is State.FAILED else None,
                "next": settlement.next_attempt_at,
                "id": claimed.number,
                "revision": claimed.revision,
                "claim": claimed.claim,
            },
        ).fetchone()
        if changed is None or not settlement.counts_as_attempt:
            return
        [n] = changed
        said = (settlement.at, settlement.duration_ms, settlement.http_status, settlement.verdict)
        self._connection.execute(_ATTEMPT, (claimed.number, n, *said, settlement.answer[:ANSWER_LIMIT]))
        if n > LAST_ATTEMPTS + 1:
            self._connection.execute(
                "DELETE FROM attempts WHERE deployment = %s AND n > 1 AND n <= %s", (claimed.number, n - LAST_ATTEMPTS)
            )

    def make_due(self, *, later_than: int) -> int:
        """Make pending deployments due whose next attempt is later than ``later_than``; returns how many."""
        with self._writing():
            return self._connection.execute(
                "UPDATE deployments SET next_attempt_at = %s WHERE state = 'pending' AND next_attempt_at > %s",
                (self.clock.now_ms(), later_than),
            ).rowcount


def _claimed(row: Row) -> Claimed:
    number, deployment_id, revision, attempts, created_at, claim, run, *content = row
    return Claimed(number, deployment_id, revision, rows.content_of(content, run), attempts, created_at, claim)


def _success(settlement: Settlement) -> tuple[object, ...]:
    """The values for ``_DELIVERED``."""
    claimed = settlement.claimed
    # Hivel already had the id. After a crash it is unknown in which revision.
    sent_revision = 0 if settlement.already_there and claimed.revision > 1 else claimed.revision
    return (
        int(settlement.counts_as_attempt), settlement.reason, settlement.at, sent_revision, claimed.number,
        claimed.revision, claimed.claim,
    )  # fmt: skip
