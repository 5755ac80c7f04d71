"""What the dispatchers of several agents share: the state of the circuit breaker, its probes, and the rate limit."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from agent.outbox.values import DeliveryState


class Hint(StrEnum):
    """What agents announce to each other, by the name of its channel. Who misses it notices it a little later."""

    LEASES = "hivel_leases"
    DUE = "hivel_due"


@dataclass(frozen=True)
class Look:
    """What a dispatcher must know before it sends. ``state``: what an agent saved last; None if delivery never ran.

    ``due_at``: from when on something may be due, UTC milliseconds; None: nothing is pending. ``many``: more is pending
    than one agent claims at once.
    """

    state: DeliveryState | None
    due_at: int | None
    many: bool = False

    def is_due(self, now: int) -> bool:
        """Whether something may be due now."""
        return self.due_at is not None and self.due_at <= now


class SharedDelivery(Protocol):
    """Every method raises :class:`agent.outbox.values.OutboxError`."""

    def look(self) -> Look:
        """The state of delivery, and when something is due. It costs little, however much is pending."""
        ...

    def announce(self) -> None:
        """Tell the dispatchers of all agents that something is due. It is a hint: it may be lost."""
        ...

    def begin_probe(self, hold_ms: int) -> int | None:
        """This agent may send the event that tests Hivel. Others wait for ``hold_ms``, or until :meth:`end_probe`.

        None: another agent does it, or it is not time yet.
        """
        ...

    def end_probe(self, probe: int, next_in_ms: int) -> None:
        """The probe of :meth:`begin_probe` is over. Nobody sends another one before ``next_in_ms`` have passed."""
        ...

    def reserve(self, per_minute: int, burst: int) -> float:
        """Reserve the next request of all agents; returns after how many seconds it may be sent."""
        ...
