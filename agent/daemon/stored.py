"""The monitoring data from the outbox, read at once in a thread that can wait for the outbox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.outbox.interface import Outbox
    from agent.outbox.values import ControllerState, Counts, GapLook, Missed


@dataclass(frozen=True)
class Stored:
    """Monitoring data of the outbox.

    ``oldest_pending``: when (UTC ms) the oldest pending event was enqueued; ``size``: bytes of all data.
    """

    counts: Counts
    oldest_pending: int | None
    controllers: list[ControllerState]
    missed: list[Missed]
    size: int
    gaps: list[GapLook]


def read(outbox: Outbox) -> Stored:
    """Read it. Raises :class:`agent.outbox.values.OutboxError`."""
    return Stored(*outbox.backlog(), outbox.controllers(), outbox.missed(), outbox.size(), outbox.gap_looks())
