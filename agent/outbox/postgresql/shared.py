"""What several agents share beside leases: the rate limit, probes of Hivel, and which reports were moved up."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from agent.outbox.shared import Hint, Look
from agent.outbox.values import DeliveryState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.outbox.postgresql.connection import Connection
    from agent.outbox.values import StoredReport

# How long it is known that a report was moved up. Its agent tries again within seconds after it reaches the database.
_REMEMBERED_MS = 30 * 86_400_000
# So many are forgotten in one statement.
_AT_ONCE = 1_000

# So many pending deployments are looked at, which is more than an agent claims at once.
_MANY = 201
_LOOK = """
SELECT first, n, state, since, reason, next_probe_at FROM (
    SELECT min(next_attempt_at) AS first, count(*) AS n
        FROM (SELECT next_attempt_at FROM deployments WHERE state = 'pending' ORDER BY id LIMIT %s) AS oldest
) AS pending LEFT JOIN delivery ON true
"""
_PROBE = "UPDATE probe SET until = now_ms() + %s WHERE until <= now_ms() RETURNING until"
_END_PROBE = "UPDATE probe SET until = now_ms() + %s WHERE until = %s RETURNING 1"
# The usual leaky bucket: each request is due one interval after the previous one, and ``burst`` may be early.
_RESERVE = """
UPDATE rate SET free_at = greatest(free_at, now_ms()) + %(interval)s
    RETURNING greatest(0, free_at - now_ms() - %(interval)s * %(burst)s)
"""
# now_ms() is called once: with a volatile condition the index would not be used.
_FORGET = (
    "DELETE FROM moved_reports WHERE origin IN (SELECT origin FROM moved_reports WHERE at < (SELECT now_ms() - %s)"
    " ORDER BY at LIMIT %s)"
)


class Shared:
    """See :class:`agent.outbox.shared.SharedDelivery`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def look(self) -> Look:
        """See the protocol."""
        [(first, n, *state)] = self._connection.all(_LOOK, (_MANY,))
        many = n == _MANY  # then the first one that is due may be another one
        return Look(DeliveryState(*state) if state[0] is not None else None, 0 if many else first, many=many)

    def announce(self) -> None:
        """See the protocol."""
        with self._connection.words():
            self._connection.execute(f"NOTIFY {Hint.DUE}")

    def begin_probe(self, hold_ms: int) -> int | None:
        """See the protocol."""
        found = self._connection.one(_PROBE, (hold_ms,))
        return None if found is None else int(found[0])

    def end_probe(self, probe: int, next_in_ms: int) -> None:
        """See the protocol."""
        self._connection.one(_END_PROBE, (next_in_ms, probe))

    def reserve(self, per_minute: int, burst: int) -> float:
        """See the protocol."""
        if not per_minute:
            return 0.0
        [wait_ms] = self._connection.one(_RESERVE, {"interval": 60_000 // per_minute, "burst": burst}) or (0,)
        return float(wait_ms) / 1000


class Moved:
    """Which reports of agents' own disks are stored already. It takes part in the transaction of its connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def known(self, reports: Sequence[StoredReport]) -> list[StoredReport]:
        """Those that were moved up before."""
        found = self._connection.all(
            "SELECT origin FROM moved_reports WHERE origin = ANY(%s)", ([_origin(each) for each in reports],)
        )
        origins = {bytes(row[0]) for row in found}
        return [each for each in reports if _origin(each) in origins]

    def note(self, report: StoredReport) -> None:
        """This report is stored with the current transaction."""
        with self._connection.words():
            self._connection.execute(
                "INSERT INTO moved_reports (origin, at) VALUES (%s, now_ms()) ON CONFLICT DO NOTHING",
                (_origin(report),),
            )

    def forget(self) -> bool:
        """Delete a few that no agent will try again; True if there may be more."""
        with self._connection.words():
            return self._connection.execute(_FORGET, (_REMEMBERED_MS, _AT_ONCE)).rowcount == _AT_ONCE


def _origin(report: StoredReport) -> bytes:
    """The same for the same report only. A number is used again by SQLite, a time is the same for many."""
    text = f"{report.received_at}\0{report.id}\0{report.body}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
