"""What monitoring tells of the outbox, read in one go by the thread that may wait for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.outbox.interface import Outbox
    from agent.outbox.values import ControllerState, Counts, Missed


@dataclass(frozen=True)
class Stored:
    """What the outbox knows.

    ``oldest_pending``: since when (UTC ms) the oldest pending event waits; ``size``: bytes that everything takes.
    """

    counts: Counts
    oldest_pending: int | None
    controllers: list[ControllerState]
    missed: list[Missed]
    size: int


def read(outbox: Outbox) -> Stored:
    """Everything that is told of the outbox. Raises :class:`agent.outbox.values.OutboxError`."""
    return Stored(outbox.counts(), outbox.oldest_pending(), outbox.controllers(), outbox.missed(), outbox.size())
