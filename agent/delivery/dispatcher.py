"""The dispatcher: whatever is due in the outbox goes to Hivel, several at once, and is settled in batches."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections import deque
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import structlog

from agent.delivery.answers import Outcome, Verdict
from agent.delivery.breaker import OUTAGE_AFTER, BreakerState, CircuitBreaker
from agent.delivery.observers import Tally, log_outcome
from agent.delivery.retry import Backoff, given_up
from agent.delivery.unsettled import Unsettled
from agent.model.deployment import State
from agent.model.event import InvalidEventError
from agent.model.rate import RateLimit
from agent.model.times import Drift
from agent.outbox.values import DamagedError, OutboxError, Settlement

if TYPE_CHECKING:
    from agent.config.settings import DeliverySettings
    from agent.model.times import Clock
    from agent.outbox.interface import Deliveries
    from agent.outbox.offloop import Runner
    from agent.outbox.values import Claimed, DeliveryState

log = structlog.get_logger("delivery")

# Commits cost more than answers: acknowledgements of this long share one. A crash in between sends them again.
SETTLE_EVERY_S = 0.05
SETTLE_AT_MOST = 200
CLAIM = 200
# What was claimed so long ago may say something else by now, or be discarded: it is claimed anew.
CLAIM_HOLDS_S = 1.0
# While outcomes cannot be stored, delivery goes on until so many of them wait in memory.
UNSETTLED_AT_MOST = 5_000
CLOCK_WAS_SET_MS = 1_000


class Sender(Protocol):
    """Where deployments go: :class:`agent.delivery.hivel.HivelClient`."""

    async def send(self, claimed: Claimed, *, lane: int = 0) -> Outcome:
        """Try once; what network and server do is an outcome. ``lane`` (0 … concurrency - 1): no two send at once.

        Raises :class:`agent.model.event.InvalidEventError` for a deployment that there is no event of.
        """
        ...

    def reload_token(self) -> bool:
        """Look whether there is another token now."""
        ...


class Dispatcher:
    """Delivers what is due. One at a time for an outbox: nobody else may claim."""

    def __init__(
        self,
        outbox: Deliveries,
        sender: Sender,
        settings: DeliverySettings,
        *,
        off_loop: Runner,
        clock: Clock,
        rng: random.Random | None = None,
    ) -> None:
        """Whatever is done with the outbox is done by ``off_loop``."""
        self._outbox = outbox
        self._sender = sender
        self._settings = settings
        self._off_loop = off_loop
        self._clock = clock
        self._rng = rng or random.Random()
        self._backoff = Backoff(settings.backoff_initial_ms, settings.backoff_max_ms)
        self._rate = RateLimit(settings.per_minute, clock, burst=settings.concurrency)
        self._drift: Drift | None = None
        self._due_looked_after_at = 0.0
        self._stopping = asyncio.Event()
        self._using_outbox = asyncio.Lock()  # what is claimed and what is settled must fit together
        self._ready: deque[Claimed] = deque()
        self._claimed: set[int] = set()  # in ``_ready`` or in flight
        self._claimed_at = 0.0
        self._free_lanes: list[int] = []
        self._unsettled = Unsettled()
        self._resumed = False
        self._saved_state: DeliveryState | None = None
        self._set_aside_in_a_row: set[int] = set()
        self._unexpected: Exception | None = None
        self.breaker = CircuitBreaker(self._backoff, clock, rng)
        self.tally = Tally()
        # Why outcomes cannot be stored right now. They are kept, and not sent again as long as this process lives.
        self.trouble: OutboxError | None = None

    @property
    def progress(self) -> int:
        """Grows with every answer: it tells one who waits whether anything goes on."""
        return self.tally.attempts

    def stop(self) -> None:
        """Send nothing more; what is in flight is waited for and settled by the :meth:`run` that sent it."""
        self._stopping.set()

    async def run(self) -> None:
        """Deliver until nothing is due, the breaker trips or :meth:`stop` was called.

        That outcomes cannot be stored is in ``trouble`` and stops nothing. Raises
        :class:`agent.outbox.values.OutboxError` when the outbox cannot be read, and whatever nobody expected and is
        not about one deployment. The next run goes on in any case, also after this one was cancelled: outcomes that
        are not stored yet are kept, and what was in flight is due again.
        """
        self._using_outbox = asyncio.Lock()
        try:
            await self._resume()
            await self._settle()
            if self._stopping.is_set():
                return
            await self._mind_the_clock()
            if (self.breaker.state is BreakerState.OPEN or await self._probe()) and await self._is_anything_due():
                await self._send_all()
        finally:
            self._claimed.clear()
            self._ready.clear()
        if (error := self._unexpected) is not None:
            self._unexpected = None
            raise error

    async def _resume(self) -> None:
        """Go on where the process before this one was."""
        if not self._resumed:
            before = await self._off_loop(self._outbox.delivery_state)
            if before is not None:
                self.breaker.resume(before)
            self._resumed = True

    async def _mind_the_clock(self) -> None:
        """No deployment waits longer than the longest backoff.

        It might when a clock was set back: looked after at the start, whenever the clock was set, and now and then, for
        it may have been set and set back while somebody else stored something.
        """
        was_set = self._drift is None or abs(self._drift.ms()) > CLOCK_WAS_SET_MS
        if was_set or self._clock.monotonic() >= self._due_looked_after_at:
            drift = Drift(self._clock)
            if await self._make_due(self._latest()):
                self._drift = drift
                self._due_looked_after_at = self._clock.monotonic() + self._settings.backoff_max_ms / 1000

    def _latest(self) -> int:
        """When the next attempt of anything is at the latest."""
        return self._clock.now_ms() + self._settings.backoff_max_ms

    async def _probe(self) -> bool:
        """Send one deployment to see whether Hivel is back; True when it is."""
        if self._sender.reload_token():
            self.breaker.probe_now()
        if not self.breaker.may_probe():
            return False
        claimed = await self._least_tried()
        if claimed is None:
            return False
        await self._deliver(claimed, lane=0)
        await self._settle()
        if self.breaker.state is not BreakerState.OPEN:
            return False
        # Hivel is back: nobody waits out a backoff that the outage caused.
        await self._make_due(self._clock.now_ms())
        return True

    async def _make_due(self, later_than: int) -> bool:
        try:
            await self._off_loop(partial(self._outbox.make_due, later_than=later_than))
        except DamagedError:
            raise
        except OutboxError as error:
            self.trouble = error
            return False
        return True

    # ---- sending

    async def _is_anything_due(self) -> bool:
        """Mostly nothing is, and this is asked every second: no senders are started to find that out."""
        async with self._using_outbox:
            await self._claim()
        return bool(self._ready)

    async def _send_all(self) -> None:
        self._free_lanes = list(range(self._settings.concurrency))
        try:
            async with asyncio.TaskGroup() as group:
                settling = group.create_task(self._settle_regularly())
                async with asyncio.TaskGroup() as senders:
                    self._start_sending(senders)
                settling.cancel()
        except BaseExceptionGroup as raised:  # the first of them ended the others
            raise _first_of(raised) from None
        finally:
            await self._settle()

    def _start_sending(self, senders: asyncio.TaskGroup) -> None:
        senders.create_task(self._send_from(self._free_lanes.pop(), senders))

    async def _send_from(self, lane: int, senders: asyncio.TaskGroup) -> None:
        """Send until nothing is due; as long as there is more, somebody else sends too."""
        while (claimed := await self._next_in_its_turn()) is not None:
            if self._ready and self._free_lanes:
                self._start_sending(senders)
            await self._deliver(claimed, lane)
        self._free_lanes.append(lane)

    async def _next_in_its_turn(self) -> Claimed | None:
        """The next deployment as soon as the rate allows it; None when there is none, or none may go."""
        if (wait_s := self._rate.reserve()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
        if not self._may_go():
            return None
        if not self._has_fresh():
            async with self._using_outbox:
                if not self._has_fresh() and self._may_go():
                    await self._claim()
        return self._ready.popleft() if self._ready and self._may_go() else None

    def _has_fresh(self) -> bool:
        return bool(self._ready) and self._clock.monotonic() - self._claimed_at <= CLAIM_HOLDS_S

    def _may_go(self) -> bool:
        stopped = self._stopping.is_set() or self.breaker.state is not BreakerState.OPEN
        return not stopped and len(self._unsettled) < UNSETTLED_AT_MOST

    async def _deliver(self, claimed: Claimed, lane: int) -> None:
        at, started = self._clock.now_ms(), self._clock.monotonic()
        came: Outcome | Exception
        try:
            came = await self._sender.send(claimed, lane=lane)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about this deployment
            came = error
        finally:
            self._claimed.discard(claimed.number)
        duration_ms = round((self._clock.monotonic() - started) * 1000)
        before = self.breaker.state
        outcome = given_up(claimed, self._noted(claimed, came), self._settings, self._clock.now_ms())
        self._unsettled.add(self._settlement(claimed, at, duration_ms, outcome))
        self.tally.record(outcome)
        log_outcome(claimed, outcome, self.breaker, before)

    def _noted(self, claimed: Claimed, came: Outcome | Exception) -> Outcome:
        if isinstance(came, Exception):
            return self._without_answer(claimed, came)
        self._set_aside_in_a_row.clear()
        self.breaker.record(claimed, came)
        return came

    def _without_answer(self, claimed: Claimed, error: Exception) -> Outcome:
        """Set the deployment aside, unless the same happens to one after the other: then it is not about them."""
        log.error("cannot send", deployment_id=claimed.deployment_id, exception=_trace(error))
        if isinstance(error, InvalidEventError):
            return Outcome(Verdict.FAILED, f"no event can be made of it: {_in_words(error)}")
        reason = f"unexpected {type(error).__name__}: {_in_words(error)}"
        self._set_aside_in_a_row.add(claimed.number)
        if len(self._set_aside_in_a_row) < OUTAGE_AFTER:
            return Outcome(Verdict.FAILED, f"cannot be sent: {reason}; the trace is in the log")
        self._unexpected = error
        outcome = Outcome(Verdict.RETRY, f"nothing can be sent: {reason}")
        self.breaker.trip(BreakerState.OUTAGE, outcome)
        return outcome

    # ---- the outbox

    async def _least_tried(self) -> Claimed | None:
        """Any one of those: the oldest may be some that Hivel always stumbles over, and speak for no others."""
        async with self._using_outbox:
            await self._claim()
        least = min((claimed.attempts for claimed in self._ready), default=0)
        candidates = [claimed for claimed in self._ready if claimed.attempts == least]
        self._ready.clear()
        self._claimed.clear()
        if not candidates:
            return None
        claimed = self._rng.choice(candidates)
        self._claimed.add(claimed.number)
        return claimed

    async def _claim(self) -> None:
        """What was answered and is not stored yet is claimed again only when it has to be sent again."""
        self._claimed.difference_update(claimed.number for claimed in self._ready)
        self._ready.clear()
        now, self._claimed_at = self._clock.now_ms(), self._clock.monotonic()
        limit = CLAIM + self._unsettled.undelivered()
        besides = self._claimed | self._unsettled.delivered()
        found = await self._off_loop(partial(self._outbox.claim, limit, besides=besides))
        due = [claimed for claimed in found if not self._unsettled.answers(claimed, now, self._latest())]
        for claimed in due[:CLAIM]:
            tried = self._unsettled.attempts(claimed.number)
            self._ready.append(replace(claimed, attempts=claimed.attempts + tried) if tried else claimed)
            self._claimed.add(claimed.number)

    def _settlement(self, claimed: Claimed, at: int, duration_ms: int, outcome: Outcome) -> Settlement:
        next_attempt_at = None
        if outcome.verdict is Verdict.RETRY:
            delay_ms = self._backoff.delay_ms(claimed.attempts + 1, outcome.retry_after_ms, self._rng)
            next_attempt_at = self._clock.now_ms() + delay_ms
        return Settlement(
            claimed=claimed,
            state=_STATES[outcome.verdict],
            counts_as_attempt=outcome.verdict is not Verdict.PAUSED,
            at=at,
            duration_ms=duration_ms,
            http_status=outcome.http_status,
            verdict=outcome.verdict.value,
            answer=outcome.answer,
            reason=outcome.reason,
            next_attempt_at=next_attempt_at,
            already_there=outcome.already_there,
        )

    async def _settle_regularly(self) -> None:
        while True:
            await asyncio.sleep(SETTLE_EVERY_S)
            await self._settle()
            await self._mind_the_clock()

    async def _settle(self) -> None:
        """Store what came of the attempts so far, or keep it for the next time."""
        try:
            async with self._using_outbox:
                while batch := self._unsettled.oldest(SETTLE_AT_MOST):
                    await self._store(batch)
                state = self.breaker.snapshot()
                if state != self._saved_state:
                    await self._off_loop(self._outbox.save_delivery_state, state)
                    self._saved_state = state
        except DamagedError:
            raise
        except OutboxError as error:
            self.trouble = error
        else:
            self.trouble = None

    async def _store(self, batch: list[Settlement]) -> None:
        """Whoever is cancelled meanwhile has to know whether it was stored: nothing is settled twice."""
        stored = False
        settlements = [_not_later(settlement, self._latest()) for settlement in batch]

        def settle() -> None:
            nonlocal stored
            self._outbox.settle(settlements)
            stored = True

        try:
            await self._off_loop(settle)
        finally:
            if stored:
                self._unsettled.stored(batch)


def _not_later(settlement: Settlement, latest: int) -> Settlement:
    """The clock may have been set back since it was made."""
    if settlement.next_attempt_at is None or settlement.next_attempt_at <= latest:
        return settlement
    return replace(settlement, next_attempt_at=latest)


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first


def _in_words(error: Exception) -> str:
    """What an exception says, as text that can be stored."""
    return str(error).encode("utf-8", "backslashreplace").decode() or "no more is known"


def _trace(error: Exception) -> str:
    return "".join(traceback.format_exception(error))


_STATES = {
    Verdict.DELIVERED: State.DELIVERED,
    Verdict.RETRY: State.PENDING,
    Verdict.FAILED: State.FAILED,
    Verdict.PAUSED: State.PENDING,
}
