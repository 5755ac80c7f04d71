"""What the dispatchers of several agents share: the state of the circuit breaker, its probes, and the rate limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from agent.outbox.values import DeliveryState


class SharedDelivery(Protocol):
    """Every method raises :class:`agent.outbox.values.OutboxError`."""

    def delivery_state(self) -> DeliveryState | None:
        """The state that an agent saved last; None if delivery never ran."""
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
