"""Deliveries of webhooks, and the starts that they announced."""

from __future__ import annotations

from agent.outbox.hooks import KEEP_MS, MOST_DELIVERIES, HookDelivery, HookStart, delivery_of, row_of_delivery
from agent.outbox.postgresql.part import Part

_COLUMNS = "hook, delivery_id, at, event, verdict, reason, deployment_id, state"
# Rows that one step deletes.
_CHUNK = 500


class Hooks(Part):
    """See :class:`agent.outbox.interface.Hooks`."""

    def hook_delivery(self, hook: str, delivery_id: str) -> HookDelivery | None:
        """The delivery with this id; None if it is not known."""
        if not delivery_id:
            return None
        found = self._one(
            f"SELECT {_COLUMNS} FROM webhook_deliveries WHERE hook = %s AND delivery_id = %s AND delivery_id <> ''",  # noqa: S608
            (hook, delivery_id),
        )
        return None if found is None else delivery_of(found)

    def note_hook_delivery(self, delivery: HookDelivery) -> None:
        """Store a delivery. It replaces an earlier one with the same id."""
        row = row_of_delivery(delivery)
        with self._writing():
            if delivery.delivery_id:  # the later one is the newest
                self._connection.execute(
                    "DELETE FROM webhook_deliveries WHERE hook = %s AND delivery_id = %s AND delivery_id <> ''", row[:2]
                )
            self._connection.execute(
                f"INSERT INTO webhook_deliveries ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",  # noqa: S608
                row,
            )

    def hook_deliveries(self, limit: int, hook: str | None = None) -> list[HookDelivery]:
        """The newest deliveries of a webhook, or of all, newest first."""
        where, values = ("", [limit]) if hook is None else ("WHERE hook = %s", [hook, limit])
        rows = self._all(f"SELECT {_COLUMNS} FROM webhook_deliveries {where} ORDER BY id DESC LIMIT %s", values)  # noqa: S608
        return [delivery_of(row) for row in rows]

    def hook_start(self, key: str) -> HookStart | None:
        """What is known about the start with this key."""
        found = self._one("SELECT id, at, report FROM webhook_starts WHERE id = %s", (key,))
        return None if found is None else HookStart(key=found[0], at=found[1], report=found[2])

    def note_hook_start(self, start: HookStart) -> None:
        """Insert or replace."""
        with self._writing():
            self._connection.execute(
                "INSERT INTO webhook_starts (id, at, report, noted_at) VALUES (%s, %s, %s, %s) ON CONFLICT (id) DO"
                " UPDATE SET at = excluded.at, report = excluded.report, noted_at = excluded.noted_at",
                (start.key, start.at, start.report, self.clock.now_ms()),
            )

    def _prune_hooks(self, now: int) -> bool:
        """Delete a few outdated rows; True if there may be more."""
        deliveries = self._all(
            "SELECT id FROM webhook_deliveries WHERE at < %s OR id <= (SELECT id FROM webhook_deliveries ORDER BY id"
            " DESC OFFSET %s LIMIT 1) ORDER BY id LIMIT %s",
            (now - KEEP_MS, MOST_DELIVERIES, _CHUNK),
        )
        starts = self._all(
            "SELECT id FROM webhook_starts WHERE noted_at < %s ORDER BY noted_at LIMIT %s", (now - KEEP_MS, _CHUNK)
        )
        if deliveries or starts:
            with self._writing():
                for table, ids in (("webhook_deliveries", deliveries), ("webhook_starts", starts)):
                    self._connection.execute(
                        f"DELETE FROM {table} WHERE id = ANY(%s)",  # noqa: S608
                        ([number for (number,) in ids],),
                    )
        return _CHUNK in (len(deliveries), len(starts))
