"""The gate before Hivel: open; or shut by an outage or a pause, when only one probe at a time goes through."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from agent.delivery.answers import Backoff, Judgement, Verdict
from agent.outbox.sqlite.store import DeliveryState

if TYPE_CHECKING:
    import random

    from agent.model.times import Clock

# So many different events in a row without a success are an outage, one event is not.
OUTAGE_AFTER = 3
# An event that failed so often while others were delivered says nothing about Hivel any more.
ODD_AFTER = 2


class GateState(enum.StrEnum):
    """Shut gates keep every event pending; only a probe's failure is recorded."""

    OPEN = "open"
    OUTAGE = "outage"  # Hivel cannot be reached or is out of order
    PAUSED = "paused"  # the configuration is wrong, a person has to mend it


class Gate:
    """Decides from the answers so far whether events may go, or one probe, or nothing for now."""

    def __init__(
        self, backoff: Backoff, clock: Clock, rng: random.Random | None = None, *, before: DeliveryState | None = None
    ) -> None:
        """``before``: what an earlier process left. A gate that it shut stays shut, and may be probed at once."""
        self._backoff = backoff
        self._clock = clock
        self._rng = rng
        self.state = GateState.OPEN if before is None else GateState(before.state)
        self.since = clock.now_ms() if before is None else before.since
        self.reason = None if before is None else before.reason
        self.next_probe_at: int | None = None
        self._failed_in_a_row: set[int] = set()
        self._probes = 0
        self._probe_at = 0.0

    def may_probe(self) -> bool:
        """Whether the time for the next probe has come; meaningful while the gate is shut."""
        return self._clock.monotonic() >= self._probe_at

    def probe_now(self) -> None:
        """Something that may have kept the gate shut was changed: do not wait for the next probe's time."""
        self._probe_at = self._clock.monotonic()

    def record(self, row_id: int, judgement: Judgement, *, tried_before: int = 0) -> bool:
        """Take note of an attempt's outcome; True when the gate's state changed or a probe failed."""
        match judgement.verdict:
            case Verdict.DELIVERED | Verdict.FAILED:  # Hivel is there and reads what it gets
                self._failed_in_a_row.clear()
                return self._move(GateState.OPEN, None)
            case Verdict.PAUSED:
                return self._shut(GateState.PAUSED, judgement)
            case Verdict.RETRY:
                if tried_before < ODD_AFTER:
                    self._failed_in_a_row.add(row_id)
                waiting = judgement.retry_after_ms is not None
                if self.state is not GateState.OPEN or waiting or len(self._failed_in_a_row) >= OUTAGE_AFTER:
                    return self._shut(GateState.OUTAGE, judgement)
                return False

    def _shut(self, state: GateState, judgement: Judgement) -> bool:
        if self.state is not GateState.OPEN and not self.may_probe():
            return False  # it was under way when the gate shut: no probe
        self._move(state, judgement.reason)
        self._probes += 1
        delay_ms = self._backoff.delay_ms(self._probes, judgement.retry_after_ms, self._rng)
        self._probe_at = self._clock.monotonic() + delay_ms / 1000
        self.next_probe_at = self._clock.now_ms() + delay_ms
        return True

    def _move(self, state: GateState, reason: str | None) -> bool:
        self.reason = reason
        if state is self.state:
            return False
        self.state = state
        self.since = self._clock.now_ms()
        self.next_probe_at = None
        if state is GateState.OPEN:
            self._probes = 0
        return True

    def snapshot(self) -> DeliveryState:
        """What ``status`` shows of it."""
        return DeliveryState(self.state, self.since, self.reason, self.next_probe_at)
