"""The dispatcher: whatever is due in the outbox goes to Hivel, several at once."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import structlog

from agent.delivery.answers import Outcome, Verdict
from agent.delivery.breaker import OUTAGE_AFTER, BreakerState, CircuitBreaker
from agent.delivery.claims import Claims
from agent.delivery.observers import Tally, log_outcome
from agent.delivery.retry import Backoff, given_up
from agent.model.deployment import State
from agent.model.event import InvalidEventError
from agent.model.rate import RateLimit
from agent.model.secrets import redact, trace
from agent.outbox.values import OutboxError, Settlement

if TYPE_CHECKING:
    from agent.config.settings import DeliverySettings
    from agent.model.times import Clock
    from agent.outbox.interface import Deliveries
    from agent.outbox.offloop import Runner
    from agent.outbox.values import Claimed

log = structlog.get_logger("delivery")

# Commits cost more than answers: acknowledgements of this long share one. A crash in between sends them again.
SETTLE_EVERY_S = 0.05


class Sender(Protocol):
    """Where deployments go: :class:`agent.delivery.hivel.HivelClient`."""

    async def send(self, claimed: Claimed) -> Outcome:
        """Try once; what network and server do is an outcome.

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
        self._sender = sender
        self._settings = settings
        self._clock = clock
        self._rng = rng or random.Random()
        self._backoff = Backoff(settings.backoff_initial_ms, settings.backoff_max_ms)
        self._rate = RateLimit(settings.per_minute, clock, burst=settings.concurrency)
        self._claims = Claims(outbox, off_loop, clock, settings.backoff_max_ms)
        self._stopping = asyncio.Event()
        self._free_senders = 0
        self._resumed = False
        self._set_aside_in_a_row: set[int] = set()
        self._unexpected: Exception | None = None
        self.breaker = CircuitBreaker(self._backoff, clock, rng)
        self.tally = Tally()

    @property
    def progress(self) -> int:
        """Grows with every answer: it tells one who waits whether anything goes on."""
        return self.tally.attempts

    @property
    def trouble(self) -> OutboxError | None:
        """Why outcomes cannot be stored right now. They are kept, and not sent again as long as this process lives."""
        return self._claims.trouble

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
        try:
            await self._resume()
            await self._settle()
            if self._stopping.is_set():
                return
            await self._claims.mind_the_clock()
            if self.breaker.state is BreakerState.OPEN or await self._probe():
                await self._send_what_is_due()
        finally:
            self._claims.let_go()
        if (error := self._unexpected) is not None:
            self._unexpected = None
            raise error

    async def _resume(self) -> None:
        """Go on where the process before this one was."""
        if not self._resumed:
            before = await self._claims.state_before()
            if before is not None:
                self.breaker.resume(before)
            self._resumed = True

    async def _probe(self) -> bool:
        """Send one deployment to see whether Hivel is back; True when it is."""
        if self._sender.reload_token():
            self.breaker.probe_now()
        if not self.breaker.may_probe():
            return False
        claimed = await self._claims.take_least_tried(self._rng)
        if claimed is None:
            return False
        await self._deliver(claimed)
        await self._settle()
        if self.breaker.state is not BreakerState.OPEN:
            return False
        # Hivel is back: nobody waits out a backoff that the outage caused.
        await self._claims.make_all_due()
        return True

    # ---- sending

    async def _send_what_is_due(self) -> None:
        await self._claims.fill()
        if not self._claims.waiting:  # mostly so, and asked every second: no tasks are started to find that out
            return
        self._free_senders = self._settings.concurrency
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
        self._free_senders -= 1
        senders.create_task(self._send_from(senders))

    async def _send_from(self, senders: asyncio.TaskGroup) -> None:
        """Send until nothing is due; as long as there is more, somebody else sends too."""
        while (claimed := await self._next_in_its_turn()) is not None:
            if self._claims.waiting and self._free_senders:
                self._start_sending(senders)
            await self._deliver(claimed)
        self._free_senders += 1

    async def _next_in_its_turn(self) -> Claimed | None:
        """The next deployment as soon as the rate allows it; None when there is none, or none may go."""
        if (wait_s := self._rate.reserve()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
        if self._may_go():
            await self._claims.fill()
        return self._claims.take() if self._may_go() else None

    def _may_go(self) -> bool:
        return not self._stopping.is_set() and self.breaker.state is BreakerState.OPEN and not self._claims.full

    async def _deliver(self, claimed: Claimed) -> None:
        at, started = self._clock.now_ms(), self._clock.monotonic()
        came: Outcome | Exception
        try:
            came = await self._sender.send(claimed)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about this deployment
            came = error
        finally:
            self._claims.landed(claimed)
        duration_ms = round((self._clock.monotonic() - started) * 1000)
        before = self.breaker.state
        outcome = given_up(claimed, self._noted(claimed, came), self._settings, self._clock.now_ms())
        self._claims.add(self._settlement(claimed, at, duration_ms, outcome))
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
        log.error("cannot send", deployment_id=claimed.deployment_id, exception=trace(error))
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
            await self._claims.mind_the_clock()

    async def _settle(self) -> None:
        await self._claims.settle(self.breaker.snapshot())


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first


def _in_words(error: Exception) -> str:
    """What an exception says, as text that can be stored."""
    return redact(str(error)).encode("utf-8", "backslashreplace").decode() or "no more is known"


_STATES = {
    Verdict.DELIVERED: State.DELIVERED,
    Verdict.RETRY: State.PENDING,
    Verdict.FAILED: State.FAILED,
    Verdict.PAUSED: State.PENDING,
}
