"""The circuit breaker before Hivel: open; or tripped by an outage or a pause, when only one probe at a time goes."""

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

# So many different deployments in a row without a success are an outage, one deployment is not.
OUTAGE_AFTER = 3
# A deployment that failed so often while others were delivered says nothing about Hivel any more.
ODD_AFTER = 2


class BreakerState(enum.StrEnum):
    """The words that people see. ``open`` is open to deployments, as a door is (a closed circuit)."""

    OPEN = "open"
    OUTAGE = "outage"  # Hivel cannot be reached or is out of order
    PAUSED = "paused"  # the configuration is wrong, a person has to mend it


class CircuitBreaker:
    """Decides from the outcomes so far whether deployments may go, or one probe, or nothing for now.

    While it is tripped every deployment stays pending, and only a probe's failure counts.
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
        """Go on where an earlier process was. What it tripped stays so, and may be probed at once."""
        self.state = BreakerState(before.state)
        self.since = before.since
        self.reason = before.reason

    def may_probe(self) -> bool:
        """Whether the time for the next probe has come; meaningful while it is tripped."""
        return self._clock.monotonic() >= self._probe_at

    def probe_now(self) -> None:
        """Something that may have tripped it was changed: do not wait for the next probe's time."""
        self._probe_at = self._clock.monotonic()

    def record(self, claimed: Claimed, outcome: Outcome) -> None:
        """Take note of what came of an attempt."""
        match outcome.verdict:
            case Verdict.DELIVERED | Verdict.FAILED:  # Hivel is there and reads what it gets
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
        """Let nothing through but probes, ever more seldom."""
        if self.state is not BreakerState.OPEN and not self.may_probe():
            return  # it was under way when the breaker tripped: no probe
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
        """What ``status`` shows of it."""
        return DeliveryState(self.state, self.since, self.reason, self.next_probe_at)
