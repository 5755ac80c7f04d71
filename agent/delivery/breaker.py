"""The circuit breaker for Hivel. Tripped by an outage or a pause, it lets one probe through at a time."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from agent.delivery.answers import Outcome, Verdict
from agent.outbox.values import DeliveryState

if TYPE_CHECKING:
    import random

    from agent.delivery.retry import Backoff
    from agent.model.times import Clock
    from agent.outbox.values import Claimed

# This many different deployments in a row without a success are an outage. A single deployment never is.
OUTAGE_AFTER = 3
# A deployment with this many attempts, while others were delivered, no longer counts as a sign of an outage.
ODD_AFTER = 2


class BreakerState(enum.StrEnum):
    """The states as people see them. ``open``: deployments are sent (other libraries call this "closed")."""

    OPEN = "open"
    OUTAGE = "outage"  # Hivel is unreachable or answers with errors
    PAUSED = "paused"  # the configuration is wrong and a person has to correct it


class CircuitBreaker:
    """Decides from earlier outcomes whether to send deployments, a single probe, or nothing.

    While it is tripped, every deployment stays pending and only failures of probes count.
    """

    def __init__(self, backoff: Backoff, clock: Clock, rng: random.Random | None = None) -> None:
        self._backoff = backoff
        self._clock = clock
        self._rng = rng
        self.state = BreakerState.OPEN
        self.since = clock.now_ms()
        self.reason: str | None = None
        self.next_probe_at: int | None = None
        self._failed_in_a_row: set[int] = set()
        self._probes = 0
        self._probe_at = 0.0

    def resume(self, before: DeliveryState) -> None:
        """Continue with the state that the previous process saved.

        A tripped breaker stays tripped and may probe at once.
        """
        self.state = BreakerState(before.state)
        self.since = before.since
        self.reason = before.reason

    def adopt(self, state: DeliveryState) -> None:
        """Take over the state that another agent found out. The time of its next probe holds for this one, too."""
        self._move(BreakerState(state.state), state.reason)
        self.since = state.since
        self.next_probe_at = state.next_probe_at
        self._failed_in_a_row.clear()
        if state.next_probe_at is not None:
            self._probes = max(1, self._probes)
            wait_ms = min(max(0, state.next_probe_at - self._clock.now_ms()), self._backoff.max_ms)
            self._probe_at = self._clock.monotonic() + wait_ms / 1000

    def may_probe(self) -> bool:
        """Whether the next probe is due. Only meaningful while the breaker is tripped."""
        return self._clock.monotonic() >= self._probe_at

    @property
    def next_probe_in_ms(self) -> int:
        """When the next probe is due; 0: now, or the breaker is not tripped."""
        if self.state is BreakerState.OPEN:
            return 0
        return max(0, round((self._probe_at - self._clock.monotonic()) * 1000))

    def probe_now(self) -> None:
        """Make the next probe due now, because the cause may be removed (for example, the token has changed)."""
        self._probe_at = self._clock.monotonic()

    def record(self, claimed: Claimed, outcome: Outcome) -> None:
        """Update the state after an attempt."""
        match outcome.verdict:
            case Verdict.DELIVERED | Verdict.FAILED:  # Hivel is up and reads events
                self._failed_in_a_row.clear()
                self._move(BreakerState.OPEN, None)
            case Verdict.PAUSED:
                self.trip(BreakerState.PAUSED, outcome)
            case Verdict.RETRY:
                if claimed.attempts < ODD_AFTER:
                    self._failed_in_a_row.add(claimed.number)
                waiting = outcome.retry_after_ms is not None
                if self.state is not BreakerState.OPEN or waiting or len(self._failed_in_a_row) >= OUTAGE_AFTER:
                    self.trip(BreakerState.OUTAGE, outcome)

    def trip(self, state: BreakerState, outcome: Outcome) -> None:
        """Let only probes through, with growing pauses between them."""
        if self.state is not BreakerState.OPEN and not self.may_probe():
            return  # this attempt started before the breaker tripped: it is not a probe
        self._move(state, outcome.reason)
        self._probes += 1
        delay_ms = self._backoff.delay_ms(self._probes, outcome.retry_after_ms, self._rng)
        self._probe_at = self._clock.monotonic() + delay_ms / 1000
        self.next_probe_at = self._clock.now_ms() + delay_ms

    def _move(self, state: BreakerState, reason: str | None) -> None:
        self.reason = reason
        if state is self.state:
            return
        self.state = state
        self.since = self._clock.now_ms()
        self.next_probe_at = None
        if state is BreakerState.OPEN:
            self._probes = 0

    def snapshot(self) -> DeliveryState:
        """The state as ``status`` shows it."""
        return DeliveryState(self.state, self.since, self.reason, self.next_probe_at)
