"""Deliveries of webhooks, and the starts that they announced."""

from __future__ import annotations

from agent.outbox.hooks import KEEP_MS, MOST_DELIVERIES, HookDelivery, HookStart, delivery_of, row_of_delivery
from agent.outbox.sql.base import Part, upsert

_COLUMNS = "hook, delivery_id, at, event, verdict, reason, deployment_id, state"
_SAVE_START = upsert("webhook_starts", "id", ("id", "at", "report", "noted_at"))
# Rows that one step deletes.
_CHUNK = 500


class Hooks(Part):
    """See :class:`agent.outbox.interface.Hooks`."""

    def hook_delivery(self, hook: str, delivery_id: str) -> HookDelivery | None:
        """The delivery with this id; None if it is not known."""
        if not delivery_id:
            return None
        found = self._one(
            f"SELECT {_COLUMNS} FROM webhook_deliveries WHERE hook = ? AND delivery_id = ? AND delivery_id <> ''",  # noqa: S608
            (hook, delivery_id),
        )
        return None if found is None else delivery_of(found)

    def note_hook_delivery(self, delivery: HookDelivery) -> None:
        """Store a delivery. It replaces an earlier one with the same id."""
        row = row_of_delivery(delivery)
        with self._writing():
            if delivery.delivery_id:  # the later one is the newest
                self._connection.execute(
                    "DELETE FROM webhook_deliveries WHERE hook = ? AND delivery_id = ? AND delivery_id <> ''", row[:2]
                )
            self._connection.execute(
                f"INSERT INTO webhook_deliveries ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                row,
            )

    def hook_deliveries(self, limit: int, hook: str | None = None) -> list[HookDelivery]:
        """The newest deliveries of a webhook, or of all, newest first."""
        where, values = ("", [limit]) if hook is None else ("WHERE hook = ?", [hook, limit])
        rows = self._all(f"SELECT {_COLUMNS} FROM webhook_deliveries {where} ORDER BY id DESC LIMIT ?", values)  # noqa: S608
        return [delivery_of(row) for row in rows]

    def hook_start(self, key: str) -> HookStart | None:
        """What is known about the start with this key."""
        found = self._one("SELECT id, at, report FROM webhook_starts WHERE id = ?", (key,))
        return None if found is None else HookStart(key=found[0], at=found[1], report=found[2])

    def note_hook_start(self, start: HookStart) -> None:
        """Insert or replace."""
        with self._writing():
            self._connection.execute(_SAVE_START, (start.key, start.at, start.report, self.clock.now_ms()))

    def _prune_hooks(self, now: int) -> bool:
        """Delete a few outdated rows; True if there may be more."""
        newest = self._one("SELECT max(id) FROM webhook_deliveries")[0] or 0
        oldest = self._all("SELECT id, at FROM webhook_deliveries WHERE id > 0 ORDER BY id LIMIT ?", (_CHUNK,))
        deliveries = [(number,) for number, at in oldest if number <= newest - MOST_DELIVERIES or at < now - KEEP_MS]
        starts = self._all(
            "SELECT id FROM webhook_starts WHERE noted_at < ? ORDER BY noted_at LIMIT ?", (now - KEEP_MS, _CHUNK)
        )
        if deliveries or starts:
            with self._writing():
                self._connection.executemany("DELETE FROM webhook_deliveries WHERE id = ?", deliveries)
                self._connection.executemany("DELETE FROM webhook_starts WHERE id = ?", starts)
        return _CHUNK in (len(deliveries), len(starts))
