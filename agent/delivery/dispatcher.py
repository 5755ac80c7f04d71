"""Draining the outbox: everything that is due goes to Hivel, several at once, and is settled in batches."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import structlog

from agent.delivery.answers import Answer, Backoff, Judgement, Verdict, judge
from agent.delivery.breaker import Gate, GateState
from agent.model import event as events
from agent.model.rate import RateLimit
from agent.model.times import Drift, describe_duration
from agent.outbox.sqlite.connection import DamagedError, OutboxError
from agent.outbox.sqlite.store import DueEvent, Outbox, Settlement, State

if TYPE_CHECKING:
    from agent.config.settings import DeliverySettings

log = structlog.get_logger("delivery")

# Commits cost more than answers: acknowledgements of this long share one. A crash in between sends them again.
SETTLE_EVERY_S = 0.05
SETTLE_AT_MOST = 200
CLAIM = 200
# While outcomes cannot be stored, delivery goes on until so many of them wait in memory.
UNSETTLED_AT_MOST = 5_000
CLOCK_WAS_SET_MS = 1_000


class Sender(Protocol):
    """What the drain needs of :class:`agent.delivery.hivel.HivelClient`."""

    async def post(self, body: bytes, *, lane: int = 0) -> Answer:
        """POST one event."""
        ...

    def reload_token(self) -> bool:
        """Look whether there is another token now."""
        ...


@dataclass
class Tally:
    """What this process has delivered so far; ``retries`` by what came instead: ``http_503``, ``timeout``, …"""

    delivered: int = 0
    failed: int = 0
    retries: Counter[str] = field(default_factory=Counter)


class Drain:
    """Delivers what is due. One at a time for an outbox: see :class:`agent.outbox.sqlite.connection.RunLock`."""

    def __init__(
        self, outbox: Outbox, sender: Sender, settings: DeliverySettings, rng: random.Random | None = None
    ) -> None:
        self._outbox = outbox
        self._sender = sender
        self._settings = settings
        self._backoff = Backoff(settings.backoff_initial_ms, settings.backoff_max_ms)
        self._rng = rng or random.Random()
        self._rate = RateLimit(settings.per_minute, outbox.clock, burst=settings.concurrency)
        self._drift: Drift | None = None
        self._stopping = asyncio.Event()
        self._ready: deque[DueEvent] = deque()
        self._claimed: set[int] = set()  # in ``_ready`` or in flight
        self._settlements: list[Settlement] = []
        self._answered: dict[int, Settlement] = {}  # the last of ``_settlements`` of each event
        self._gate_moved = True  # a new process says what it found
        self.gate = Gate(self._backoff, outbox.clock, rng, before=outbox.delivery_state())
        self.tally = Tally()
        # Why outcomes cannot be stored right now. They are kept, and not sent again as long as this process lives.
        self.trouble: OutboxError | None = None

    @property
    def progress(self) -> int:
        """Grows with every answer: it tells one who waits whether anything goes on."""
        return self.tally.delivered + self.tally.failed + self.tally.retries.total()

    def stop(self) -> None:
        """Send nothing more; what is in flight is waited for and settled by the :meth:`run` that sent it."""
        self._stopping.set()

    async def run(self) -> None:
        """Deliver until nothing is due, the gate shuts or :meth:`stop` was called.

        That outcomes cannot be stored is in ``trouble`` and stops nothing. Raises
        :class:`agent.outbox.sqlite.connection.OutboxError` and :class:`sqlite3.Error` when the outbox cannot be read.
        """
        self._settle()
        if self._stopping.is_set():
            return
        self._mind_the_clock()
        if (self.gate.state is GateState.OPEN or await self._probe()) and self._is_anything_due():
            await self._drain()

    def _mind_the_clock(self) -> None:
        """At the start, and whenever the clock was set: no event waits longer than the longest backoff.

        Again and again until that is stored, and until no outcome waits in memory that has the time of before.
        """
        if self._drift is None or abs(self._drift.ms()) > CLOCK_WAS_SET_MS:
            drift = Drift(self._outbox.clock)
            if self._make_due(self._outbox.clock.now_ms() + self._settings.backoff_max_ms) and not self._settlements:
                self._drift = drift

    async def _probe(self) -> bool:
        """Send one event to see whether Hivel is back; True when it is."""
        if self._sender.reload_token():
            self.gate.probe_now()
        if not self.gate.may_probe():
            return False
        due = self._least_tried()
        if due is None:
            return False
        await self._deliver(due, lane=0)
        self._settle()
        if self.gate.state is not GateState.OPEN:
            return False
        # Hivel is back: nobody waits out a backoff that the outage caused.
        self._make_due(self._outbox.clock.now_ms())
        return True

    def _make_due(self, later_than: int) -> bool:
        try:
            self._outbox.make_due(later_than=later_than)
        except DamagedError:
            raise
        except OutboxError as error:
            self.trouble = error
            return False
        return True

    def _is_anything_due(self) -> bool:
        """Mostly nothing is, and this is asked every second: no senders are started to find that out."""
        due = self._next()
        if due is not None:
            self._ready.appendleft(due)
        return due is not None

    async def _drain(self) -> None:
        settling = asyncio.create_task(self._settle_regularly())
        try:
            async with asyncio.TaskGroup() as senders:
                for lane in range(self._settings.concurrency):
                    senders.create_task(self._send_from(lane))
        except BaseExceptionGroup as group:  # the first of them ended the others
            raise group.exceptions[0] from None
        finally:
            settling.cancel()
            await asyncio.gather(settling, return_exceptions=True)
            self._unclaim()
            self._settle()

    async def _send_from(self, lane: int) -> None:
        while (due := await self._next_in_its_turn()) is not None:
            await self._deliver(due, lane)

    async def _next_in_its_turn(self) -> DueEvent | None:
        """The next event as soon as the rate allows it; None when there is none, or none may go."""
        if (wait_s := self._rate.reserve()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
        may_go = not self._stopping.is_set() and self.gate.state is GateState.OPEN
        return self._next() if may_go and len(self._settlements) < UNSETTLED_AT_MOST else None

    def _next(self) -> DueEvent | None:
        if not self._ready:
            self._claim()
        return self._ready.popleft() if self._ready else None

    def _least_tried(self) -> DueEvent | None:
        """Any one of those: the oldest may be events that Hivel always stumbles over, and speak for no others."""
        self._claim()
        least = min((due.attempts for due in self._ready), default=0)
        candidates = [due for due in self._ready if due.attempts == least]
        due = self._rng.choice(candidates) if candidates else None
        self._unclaim()
        if due is not None:
            self._claimed.add(due.id)
        return due

    def _claim(self) -> None:
        """What was answered and is not stored yet is claimed again only when it has to be sent again."""
        now = self._outbox.clock.now_ms()
        settled = {
            row_id
            for row_id, last in self._answered.items()
            if last.state is not State.PENDING or (last.next_attempt_at or now) > now
        }
        for due in self._outbox.claim(CLAIM, besides=self._claimed | settled):
            if due.id in self._answered:
                tried = sum(s.id == due.id and s.counts_as_attempt for s in self._settlements)
                due = replace(due, attempts=due.attempts + tried)  # noqa: PLW2901
            self._ready.append(due)
            self._claimed.add(due.id)

    def _unclaim(self) -> None:
        """Let go of what was claimed; nothing is in flight."""
        self._claimed.clear()
        self._ready.clear()

    async def _deliver(self, due: DueEvent, lane: int) -> None:
        clock = self._outbox.clock
        at, started = clock.now_ms(), clock.monotonic()
        body = events.wire(due.payload, self._settings.canceled_spelling)
        try:
            answer = await self._sender.post(body, lane=lane)
        finally:
            self._claimed.discard(due.id)
        judgement = judge(answer, due.deployment_id, clock.now_ms())
        duration_ms = round((clock.monotonic() - started) * 1000)
        before = self.gate.state
        if self.gate.record(due.id, judgement, tried_before=due.attempts):
            self._gate_moved = True
        judgement = self._given_up(due, judgement)
        self._note(self._settlement(due, at, duration_ms, answer, judgement))
        self._count(judgement, answer)
        self._report(due, judgement, before)

    def _note(self, settlement: Settlement) -> None:
        self._settlements.append(settlement)
        self._answered[settlement.id] = settlement

    def _given_up(self, due: DueEvent, judgement: Judgement) -> Judgement:
        """The judgement, or that the event failed because it was tried often or long enough (off by default)."""
        if judgement.verdict is not Verdict.RETRY:
            return judgement
        settings, age_ms = self._settings, self._outbox.clock.now_ms() - due.created_at
        if settings.max_attempts and due.attempts + 1 >= settings.max_attempts:
            limit = f"tried {due.attempts + 1} times, [delivery] max_attempts"
        elif settings.max_age_ms and age_ms > settings.max_age_ms:
            limit = f"waited {describe_duration(age_ms)}, longer than [delivery] max_age"
        else:
            return judgement
        return replace(judgement, verdict=Verdict.FAILED, reason=f"given up: {limit}; at last {judgement.reason}")

    def _count(self, judgement: Judgement, answer: Answer) -> None:
        match judgement.verdict:
            case Verdict.DELIVERED:
                self.tally.delivered += 1
            case Verdict.FAILED:
                self.tally.failed += 1
            case Verdict.RETRY | Verdict.PAUSED:
                self.tally.retries[answer.kind] += 1

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
            verdict=verdict.value,
            answer=answer.body,
            reason=judgement.reason,
            next_attempt_at=next_attempt_at,
        )

    def _report(self, due: DueEvent, judgement: Judgement, before: GateState) -> None:
        """A line for each event that got somewhere, and for each change of the gate; none for failed probes.

        An event that does not get anywhere has a line after 1, 2, 4, 8, … tries.
        """
        if self.gate.state is not before:
            write = log.info if self.gate.state is GateState.OPEN else log.error
            write("delivery", state=self.gate.state.value, reason=judgement.reason)
        tries = due.attempts + 1
        match judgement.verdict:
            case Verdict.DELIVERED:
                log.info("delivered", deployment_id=due.deployment_id, remark=judgement.reason or "new")
            case Verdict.FAILED:
                log.error("failed", deployment_id=due.deployment_id, reason=judgement.reason)
            case Verdict.RETRY | Verdict.PAUSED if self.gate.state is GateState.OPEN and _is_power_of_two(tries):
                log.warning("not delivered yet", deployment_id=due.deployment_id, tries=tries, reason=judgement.reason)

    async def _settle_regularly(self) -> None:
        while True:
            await asyncio.sleep(SETTLE_EVERY_S)
            self._settle()

    def _settle(self) -> None:
        """Store what came of the attempts so far, or keep it for the next time."""
        try:
            while self._settlements:
                batch = self._settlements[:SETTLE_AT_MOST]
                self._outbox.settle(batch)
                del self._settlements[: len(batch)]
                for settlement in batch:
                    if self._answered.get(settlement.id) is settlement:
                        del self._answered[settlement.id]
            if self._gate_moved:
                self._outbox.save_delivery_state(self.gate.snapshot())
                self._gate_moved = False
        except DamagedError:
            raise
        except OutboxError as error:
            self.trouble = error
        else:
            self.trouble = None


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


_STATES = {
    Verdict.DELIVERED: State.DELIVERED,
    Verdict.RETRY: State.PENDING,
    Verdict.FAILED: State.FAILED,
    Verdict.PAUSED: State.PENDING,
}
