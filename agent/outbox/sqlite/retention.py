"""Deleting delivered events after a while, in small steps, and giving their space back."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from agent.model.times import Drift
from agent.outbox.sqlite.store import id_hash

if TYPE_CHECKING:
    from agent.outbox.sqlite.store import Outbox

# Rows that one transaction deletes, and pages that are given back at once: a few milliseconds each.
CHUNK = 200
PAGES = 256
DAY_MS = 86_400_000
# A wall clock that moved so much against the steady one is not to be trusted with deleting.
TRUSTED_DRIFT_MS = 3_600_000


class Retention:
    """Deletes events ``keep_delivered_ms`` after their delivery and forgets their ids ``keep_ids_ms`` after that.

    Failed events stay until somebody decides. Only what was delivered is deleted; its id stays known, so that
    a backfill or a file that was read anew reports nothing twice.
    """

    def __init__(self, outbox: Outbox, keep_delivered_ms: int, keep_ids_ms: int) -> None:
        self._outbox = outbox
        self._keep_delivered_ms = keep_delivered_ms
        self._keep_ids_ms = keep_ids_ms
        self._drift = Drift(outbox.clock)
        self._forgot_on = 0

    def step(self) -> bool:
        """Delete a little; True when there may be more. Raises :class:`agent.outbox.values.OutboxError`."""
        if abs(self._drift.ms()) > TRUSTED_DRIFT_MS:
            return False  # the clock was set: what looks old may have been delivered a minute ago
        pruned = self._prune()
        forgotten = self._forget()
        freed = self._give_back()
        return CHUNK in (pruned, forgotten) or freed

    def _prune(self) -> int:
        """In the order of the rows: an old one that was delivered late is waited for with those behind it."""
        now = self._outbox.clock.now_ms()
        cutoff = now - self._keep_delivered_ms
        found = self._outbox.connection.execute(
            "SELECT id, deployment_id, started_at, settled_at FROM events INDEXED BY events_by_state"
            " WHERE state = 'delivered' ORDER BY id LIMIT ?",
            (CHUNK,),
        ).fetchall()
        if ahead := [row_id for row_id, _, _, settled_at in found if settled_at > now]:
            self._delivered_now(ahead, now)
        old = list(takewhile(lambda row: row[3] < cutoff, found))
        if not old:
            return 0
        with self._outbox.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO pruned (id_hash, started_at, day) VALUES (?, ?, ?)",
                [(id_hash(name), started_at, now // DAY_MS) for _, name, started_at, _ in old],
            )
            connection.executemany(
                "DELETE FROM events WHERE id = ? AND state = 'delivered'", [(row_id,) for row_id, *_ in old]
            )
        return len(old)

    def _delivered_now(self, row_ids: list[int], now: int) -> None:
        """The clock was ahead when they were delivered: let them keep nothing waiting for that time to come."""
        with self._outbox.transaction() as connection:
            connection.executemany(
                "UPDATE events SET settled_at = ? WHERE id = ? AND state = 'delivered'",
                [(now, row_id) for row_id in row_ids],
            )

    def _forget(self) -> int:
        """Once a day: there is no index on the day, it would be as large as the table."""
        now = self._outbox.clock.now_ms()
        if self._forgot_on == now // DAY_MS:
            return 0
        with self._outbox.transaction() as connection:
            forgotten = connection.execute(
                "DELETE FROM pruned WHERE id_hash IN (SELECT id_hash FROM pruned WHERE day < ? LIMIT ?)",
                ((now - self._keep_ids_ms) // DAY_MS, CHUNK),
            ).rowcount
        if forgotten < CHUNK:
            self._forgot_on = now // DAY_MS
        return forgotten

    def _give_back(self) -> bool:
        free = int(self._outbox.connection.execute("PRAGMA freelist_count").fetchone()[0])
        if free <= PAGES:  # a few are kept, the next events need them
            return False
        with self._outbox.transaction() as connection:
            for _ in range(PAGES):
                connection.execute("PRAGMA incremental_vacuum(1)")  # a larger number frees a single page as well
        return free > 2 * PAGES
