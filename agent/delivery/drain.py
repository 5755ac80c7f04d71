"""Draining the outbox: everything that is due goes to Hivel, several at once, and is settled in batches."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

import structlog

from agent import event as events
from agent.delivery.gate import Gate, GateState
from agent.delivery.policy import Answer, Backoff, Judgement, Verdict, judge
from agent.outbox.connection import OutboxError
from agent.outbox.store import DueEvent, Outbox, Settlement, State

if TYPE_CHECKING:
    import random

    from agent.config import DeliverySettings

log = structlog.get_logger("delivery")

# Commits cost more than answers: acknowledgements of this long share one. A crash in between sends them again.
SETTLE_EVERY_S = 0.05
SETTLE_AT_MOST = 200
CLAIM = 200


class Sender(Protocol):
    """What the drain needs of :class:`agent.delivery.hivel.HivelClient`."""

    async def post(self, body: bytes, *, lane: int = 0) -> Answer:
        """POST one event."""
        ...

    def reload_token(self) -> None:
        """Look whether there is another token now."""
        ...


class Drain:
    """Delivers what is due. One at a time for an outbox: see :class:`agent.outbox.connection.RunLock`."""

    def __init__(
        self, outbox: Outbox, sender: Sender, settings: DeliverySettings, rng: random.Random | None = None
    ) -> None:
        self._outbox = outbox
        self._sender = sender
        self._settings = settings
        self._backoff = Backoff(settings.backoff_initial_ms, settings.backoff_max_ms)
        self._rng = rng
        self._stopping = False
        self._ready: deque[DueEvent] = deque()
        self._unsettled: set[int] = set()  # claimed: waiting, in flight, or answered and not yet stored
        self._settlements: list[Settlement] = []
        self._gate_moved = True  # a new process starts with an open gate and says so
        self.gate = Gate(self._backoff, outbox.clock, rng)

    def stop(self) -> None:
        """Send nothing more; what is in flight is waited for and settled by the :meth:`run` that sent it."""
        self._stopping = True

    async def run(self) -> None:
        """Deliver until nothing is due, the gate shuts or :meth:`stop` was called.

        Raises :class:`agent.outbox.connection.OutboxError` when outcomes cannot be stored; the next run tries again.
        """
        self._settle()  # what a full disk kept from being stored last time
        now = self._outbox.clock.now_ms()
        self._outbox.make_due(later_than=now + self._settings.backoff_max_ms)
        if self.gate.state is GateState.OPEN or await self._probe():
            await self._drain()

    async def _probe(self) -> bool:
        """Send one event to see whether Hivel is back; True when it is."""
        if not self.gate.may_probe():
            return False
        self._sender.reload_token()
        due = self._next()
        if due is None:
            return False
        self._unclaim()
        await self._deliver(due, lane=0)
        self._settle()
        if self.gate.state is not GateState.OPEN:
            return False
        # Hivel is back: nobody waits out a backoff that the outage caused.
        self._outbox.make_due(later_than=self._outbox.clock.now_ms())
        return True

    async def _drain(self) -> None:
        settling = asyncio.create_task(self._settle_regularly())
        try:
            async with asyncio.TaskGroup() as senders:
                for lane in range(self._settings.concurrency):
                    senders.create_task(self._send_from(lane))
        finally:
            settling.cancel()
            await asyncio.gather(settling, return_exceptions=True)
            self._unclaim()
            self._settle()

    async def _send_from(self, lane: int) -> None:
        while not self._stopping and self.gate.state is GateState.OPEN and (due := self._next()):
            await self._deliver(due, lane)

    def _next(self) -> DueEvent | None:
        if not self._ready:
            claimed = self._outbox.claim(CLAIM, besides=self._unsettled)
            self._ready.extend(claimed)
            self._unsettled.update(due.id for due in claimed)
        return self._ready.popleft() if self._ready else None

    def _unclaim(self) -> None:
        """Let go of what was claimed and not sent."""
        self._unsettled.difference_update(due.id for due in self._ready)
        self._ready.clear()

    async def _deliver(self, due: DueEvent, lane: int) -> None:
        clock = self._outbox.clock
        at, started = clock.now_ms(), clock.monotonic()
        body = events.wire(due.payload, self._settings.canceled_spelling)
        answer = await self._sender.post(body, lane=lane)
        judgement = judge(answer, due.deployment_id, clock.now_ms())
        duration_ms = round((clock.monotonic() - started) * 1000)
        self._settlements.append(self._settlement(due, at, duration_ms, answer, judgement))
        before = self.gate.state
        if self.gate.record(due.id, judgement):
            self._gate_moved = True
        self._report(due, judgement, before)

    def _settlement(self, due: DueEvent, at: int, duration_ms: int, answer: Answer, judgement: Judgement) -> Settlement:
        verdict = judgement.verdict
        next_attempt_at = None
        if verdict is Verdict.RETRY:
            delay_ms = self._backoff.delay_ms(due.attempts + 1, judgement.retry_after_ms, self._rng)
            next_attempt_at = self._outbox.clock.now_ms() + delay_ms
        return Settlement(
            id=due.id,
            state=_STATES[verdict],
            counts_as_attempt=verdict is not Verdict.PAUSED,
            at=at,
            duration_ms=duration_ms,
            http_status=answer.status,
            verdict=verdict,
            answer=answer.body,
            reason=judgement.reason,
            next_attempt_at=next_attempt_at,
        )

    def _report(self, due: DueEvent, judgement: Judgement, before: GateState) -> None:
        """A line for each event that got somewhere, and for each change of the gate; none for failed probes."""
        if self.gate.state is not before:
            write = log.info if self.gate.state is GateState.OPEN else log.error
            write("delivery", state=self.gate.state.value, reason=judgement.reason)
        match judgement.verdict:
            case Verdict.DELIVERED:
                log.info("delivered", deployment_id=due.deployment_id, remark=judgement.reason or "new")
            case Verdict.FAILED:
                log.error("failed", deployment_id=due.deployment_id, reason=judgement.reason)
            case Verdict.RETRY | Verdict.PAUSED if self.gate.state is GateState.OPEN:
                log.warning("not delivered yet", deployment_id=due.deployment_id, reason=judgement.reason)

    async def _settle_regularly(self) -> None:
        while True:
            await asyncio.sleep(SETTLE_EVERY_S)
            try:
                self._settle()
            except OutboxError as error:
                # What was answered stays in memory and is not sent again while this process lives.
                log.error("outcomes cannot be stored yet", reason=str(error), outcomes=len(self._settlements))
                return

    def _settle(self) -> None:
        while self._settlements:
            batch = self._settlements[:SETTLE_AT_MOST]
            self._outbox.settle(batch)
            del self._settlements[: len(batch)]
            self._unsettled.difference_update(settlement.id for settlement in batch)
        if self._gate_moved:
            self._outbox.save_delivery_state(self.gate.snapshot())
            self._gate_moved = False


_STATES = {
    Verdict.DELIVERED: State.DELIVERED,
    Verdict.RETRY: State.PENDING,
    Verdict.FAILED: State.FAILED,
    Verdict.PAUSED: State.PENDING,
}
