"""The dispatcher: sends all due deployments to Hivel, several at once."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from math import inf
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
    from agent.outbox.shared import Look, SharedDelivery
    from agent.outbox.values import Claimed

log = structlog.get_logger("delivery")

# A commit costs more than an answer, so outcomes are stored in batches, this many seconds apart. Deployments whose
# outcome is not stored when the process crashes are sent again.
SETTLE_EVERY_S = 0.05
# With several agents: how old this agent's knowledge of the circuit breaker may be while it sends, and how long the
# probe of an agent that dies keeps others from sending one, beside the time limit of a request.
STATE_HOLDS_S = 1.0
PROBE_MS = 1_000
# With several agents: how often one looks when nothing is due. What is enqueued calls it earlier; only what this agent
# cannot know of waits as long, such as the events of an agent that was killed.
IDLE_S = 5.0


class Sender(Protocol):
    """Sends deployments; implemented by :class:`agent.delivery.hivel.HivelClient`."""

    async def send(self, claimed: Claimed) -> Outcome:
        """Make one attempt. Failures of network and server are outcomes, not exceptions.

        Raises :class:`agent.model.event.InvalidEventError` if the deployment cannot be made into an event.
        """
        ...

    def reload_token(self) -> bool:
        """Read the token again; True if it has changed."""
        ...


class Dispatcher:
    """Delivers what is due.

    There must be only one for an outbox whose claims are not locked. Several agents share the circuit breaker and the
    rate limit (``shared``).
    """

    def __init__(
        self,
        outbox: Deliveries,
        sender: Sender,
        settings: DeliverySettings,
        *,
        off_loop: Runner,
        clock: Clock,
        rng: random.Random | None = None,
        shared: SharedDelivery | None = None,
    ) -> None:
        """All calls of the outbox and of ``shared`` go through ``off_loop``."""
        self._shared = shared
        self._off_loop = off_loop
        self._looked_at = -inf
        self._idle: Look | None = None  # what the current or last run saw if it found nothing to do
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
        """A number that grows with every answer. The watchdog uses it to see that delivery advances."""
        return self.tally.attempts

    @property
    def trouble(self) -> OutboxError | None:
        """Why outcomes cannot be stored right now.

        They are kept in memory. While this process runs, their deployments are not sent again.
        """
        return self._claims.trouble

    @property
    def longest_rest_s(self) -> float:
        """The most seconds between two calls of :meth:`run`."""
        interval_s = self._settings.interval_ms / 1000
        return interval_s if self._shared is None else max(interval_s, IDLE_S)

    @property
    def rest_s(self) -> float:
        """In how many seconds to call :meth:`run` again, unless something is enqueued before."""
        if self._idle is None or self.trouble is not None:
            return self._settings.interval_ms / 1000
        if self._idle.due_at is None:
            return self.longest_rest_s
        return min(self.longest_rest_s, max(0, self._idle.due_at - self._clock.now_ms()) / 1000)

    async def pass_on(self) -> None:
        """Tell the other agents that something is due, because this one sends nothing."""
        if self._shared is not None:
            await self._off_loop(self._shared.announce)

    def stop(self) -> None:
        """Send nothing more. The current :meth:`run` waits for what is in flight and settles it."""
        self._stopping.set()

    async def run(self) -> None:
        """Deliver until nothing is due, the breaker trips or :meth:`stop` is called.

        If outcomes cannot be stored, delivery continues and the reason is in ``trouble``. Raises
        :class:`agent.outbox.values.OutboxError` if the outbox cannot be read, and any unexpected error that is not
        about a single deployment. :meth:`run` may be called again afterwards, also after a cancellation: outcomes that
        are not stored yet are kept, and what was in flight is due again.
        """
        self._idle = None
        try:
            await self._resume()
            seen = await self._look()
            await self._settle()
            if self._stopping.is_set():
                return
            await self._claims.mind_the_clock()
            if self.breaker.state is not BreakerState.OPEN:
                if await self._probe():
                    await self._send_what_is_due()
            elif seen is None or seen.is_due(self._clock.now_ms()):
                await self._send_what_is_due()
            else:
                self._idle = seen
        finally:
            self._claims.let_go()
        if (error := self._unexpected) is not None:
            self._unexpected = None
            raise error

    async def _resume(self) -> None:
        """Continue with the state that the previous process saved."""
        if not self._resumed:
            before = await self._claims.state_before()
            if before is not None:
                self.breaker.resume(before)
            self._resumed = True

    async def _look(self) -> Look | None:
        """See when something is due, and take over the state of the breaker that another agent saved meanwhile.

        None: this agent is alone, and has only to claim.
        """
        if self._shared is None:
            return None
        self._looked_at = self._clock.monotonic()
        seen = await self._off_loop(self._shared.look)
        if seen.state is not None and self._claims.is_news(seen.state):
            self.breaker.adopt(seen.state)
        if seen.many and self.breaker.state is BreakerState.OPEN:  # the others may rest
            await self.pass_on()
        return seen

    async def _probe(self) -> bool:
        """Send one deployment to see whether Hivel works again, unless another agent does it; True if Hivel works."""
        if self._sender.reload_token():
            self.breaker.probe_now()
        if not self.breaker.may_probe():
            return False
        if self._shared is None:
            return await self._send_probe()
        probe = await self._off_loop(self._shared.begin_probe, self._settings.timeout_ms + PROBE_MS)
        if probe is None:
            return False
        works = await self._send_probe()
        await self._off_loop(self._shared.end_probe, probe, self.breaker.next_probe_in_ms)
        return works

    async def _send_probe(self) -> bool:
        claimed = await self._claims.take_least_tried(self._rng)
        if claimed is None:
            return False
        await self._deliver(claimed)
        await self._settle()
        if self.breaker.state is not BreakerState.OPEN:
            return False
        # Hivel works again: end the backoffs that the outage caused.
        await self._claims.make_all_due()
        return True

    # ---- sending

    async def _send_what_is_due(self) -> None:
        await self._claims.fill()
        if not self._claims.waiting:  # the usual case, checked every second: do not start tasks for it
            return
        self._free_senders = self._settings.concurrency
        try:
            async with asyncio.TaskGroup() as group:
                settling = group.create_task(self._settle_regularly())
                async with asyncio.TaskGroup() as senders:
                    self._start_sending(senders)
                settling.cancel()
        except BaseExceptionGroup as raised:  # the first exception cancelled the other tasks
            raise _first_of(raised) from None
        finally:
            await self._settle()

    def _start_sending(self, senders: asyncio.TaskGroup) -> None:
        self._free_senders -= 1
        senders.create_task(self._send_from(senders))

    async def _send_from(self, senders: asyncio.TaskGroup) -> None:
        """Send until nothing is due. While more is claimed, start further senders, up to ``concurrency``."""
        while (claimed := await self._next_in_its_turn()) is not None:
            if self._claims.waiting and self._free_senders:
                self._start_sending(senders)
            await self._deliver(claimed)
        self._free_senders += 1

    async def _next_in_its_turn(self) -> Claimed | None:
        """Wait for the rate limit, then take the next deployment. None if nothing is due or the breaker has tripped."""
        if (wait_s := await self._reserve()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
        if self._may_go():
            await self._claims.fill()
        return self._claims.take() if self._may_go() else None

    async def _reserve(self) -> float:
        if self._shared is None or not self._settings.per_minute:
            return self._rate.reserve()
        return await self._off_loop(self._shared.reserve, self._settings.per_minute, self._settings.concurrency)

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
        """Mark the deployment as failed. If this happens several times in a row, trip the breaker."""
        log.error("cannot send event", deployment_id=claimed.deployment_id, exception=trace(error))
        if isinstance(error, InvalidEventError):
            return Outcome(Verdict.FAILED, f"cannot create the event: {_in_words(error)}")
        reason = f"unexpected {type(error).__name__}: {_in_words(error)}"
        self._set_aside_in_a_row.add(claimed.number)
        if len(self._set_aside_in_a_row) < OUTAGE_AFTER:
            return Outcome(Verdict.FAILED, f"cannot be sent: {reason}; see the log for the traceback")
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
            if self._clock.monotonic() >= self._looked_at + STATE_HOLDS_S:
                await self._look()
            await self._claims.mind_the_clock()

    async def _settle(self) -> None:
        await self._claims.settle(self.breaker.snapshot())


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first


def _in_words(error: Exception) -> str:
    """The exception's message as text that can be stored: redacted and valid UTF-8."""
    return redact(str(error)).encode("utf-8", "backslashreplace").decode() or "no message"


_STATES = {
    Verdict.DELIVERED: State.DELIVERED,
    Verdict.RETRY: State.PENDING,
    Verdict.FAILED: State.FAILED,
    Verdict.PAUSED: State.PENDING,
}
