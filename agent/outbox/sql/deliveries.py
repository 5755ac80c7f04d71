"""The state of delivery, and what was sent of a deployment that changed meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.outbox import rows
from agent.outbox.sql.base import upsert
from agent.outbox.sql.projects import Projects
from agent.outbox.values import DeliveryState

if TYPE_CHECKING:
    from agent.outbox.values import Claimed

# A fact changed the deployment while it was being sent: restore what Hivel has. The build's times are kept.
_SENT = (*rows.CONTENT_COLUMNS, "build_started_at", "build_ended_at")
_SAY_WHAT_WAS_SENT = f"UPDATE deployments SET {', '.join(f'{name} = ?' for name in _SENT)} WHERE id = ?"  # noqa: S608
_SAVE_STATE = upsert("delivery", "id", ("id", "state", "since", "reason", "next_probe_at"))


class Deliveries(Projects):
    """See :class:`agent.outbox.interface.Deliveries`."""

    def save_delivery_state(self, state: DeliveryState) -> None:
        """Store the state of delivery for other processes."""
        with self._writing():
            self._connection.execute(_SAVE_STATE, (1, *msgspec.structs.astuple(state)))

    def delivery_state(self) -> DeliveryState | None:
        """The stored state of delivery; None if delivery never ran."""
        found = self._one("SELECT state, since, reason, next_probe_at FROM delivery")
        return None if found is None else DeliveryState(*found)

    def _say_what_was_sent(self, claimed: Claimed) -> None:
        row = self._one(f"SELECT {rows.COLUMNS} FROM deployments WHERE id = ?", (claimed.number,))  # noqa: S608
        [deployment] = self._deployments([row])
        sent = msgspec.structs.replace(deployment, content=claimed.content)
        values = rows.deployment_columns(sent, row[1], self.clock.now_ms())
        self._connection.execute(_SAY_WHAT_WAS_SENT, (*(values[name] for name in _SENT), claimed.number))
