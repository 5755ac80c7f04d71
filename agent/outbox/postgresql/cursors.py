"""How far the polls have read, where one database serves the polls of hundreds of controllers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agent.outbox.postgresql.part import Part
from agent.outbox.sql.cursors import Cursors as AnyCursors

if TYPE_CHECKING:
    from agent.outbox.values import ControllerState

# How old the stored time of the last poll may be, and how much the stored difference of the clocks may be wrong.
_POLLED_AT_MS = 60_000
_CLOCK_MS = 2_000


class Cursors(Part, AnyCursors):
    """See :class:`agent.outbox.interface.Cursors`."""

    _saved_state: ControllerState | None = None

    def save_controller(self, state: ControllerState) -> None:
        """Insert or replace.

        In a fleet, not more often than once a minute if only the times differ from what this object saved before.
        """
        if self._transactions.fence is not None and _is_known(state, self._saved_state):
            return
        super().save_controller(state)
        self._saved_state = state


def _is_known(state: ControllerState, saved: ControllerState | None) -> bool:
    """Whether only times differ, and only a little."""
    if saved is None or state.polled_at is None or saved.polled_at is None:
        return False
    near = 0 <= state.polled_at - saved.polled_at < _POLLED_AT_MS
    near &= abs((state.clock_ahead_ms or 0) - (saved.clock_ahead_ms or 0)) < _CLOCK_MS
    return near and state == replace(saved, polled_at=state.polled_at, clock_ahead_ms=state.clock_ahead_ms)
