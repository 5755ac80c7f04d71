"""The dispatcher's side of the outbox: what is claimed, what is in flight, and what came of it."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from agent.delivery.unsettled import Unsettled
from agent.model.times import Drift
from agent.outbox.values import DamagedError, OutboxError

if TYPE_CHECKING:
    import random

    from agent.model.times import Clock
    from agent.outbox.interface import Deliveries
    from agent.outbox.offloop import Runner
    from agent.outbox.values import Claimed, DeliveryState, Settlement

SETTLE_AT_MOST = 200
CLAIM = 200
# What was claimed so long ago may say something else by now, or be discarded: it is claimed anew.
CLAIM_HOLDS_S = 1.0
# While outcomes cannot be stored, delivery goes on until so many of them wait in memory.
UNSETTLED_AT_MOST = 5_000
CLOCK_WAS_SET_MS = 1_000


class Claims:
    """Claims ahead and settles in batches, all by ``off_loop``; tasks that use it may be cancelled at any time.

    Methods that read raise :class:`agent.outbox.values.OutboxError`; that something cannot be written is in
    ``trouble``, unless the outbox is damaged.
    """

    def __init__(self, outbox: Deliveries, off_loop: Runner, clock: Clock, backoff_max_ms: int) -> None:
        self._outbox = outbox
        self._off_loop = off_loop
        self._clock = clock
        self._backoff_max_ms = backoff_max_ms
        self._lock = asyncio.Lock()  # what is claimed and what is settled must fit together
        self._ready: deque[Claimed] = deque()
        self._claimed: set[int] = set()  # in ``_ready`` or in flight
        self._claimed_at = 0.0
        self._unsettled = Unsettled()
        self._saved_state: DeliveryState | None = None
        self._drift: Drift | None = None
        self._due_looked_after_at = 0.0
        # Why outcomes cannot be stored right now. They are kept, and not sent again as long as this process lives.
        self.trouble: OutboxError | None = None

    # ---- claims

    @property
    def waiting(self) -> bool:
        """Whether something was claimed and is not in flight yet."""
        return bool(self._ready)

    @property
    def full(self) -> bool:
        """Whether no more outcomes may be kept in memory."""
        return len(self._unsettled) >= UNSETTLED_AT_MOST

    def let_go(self) -> None:
        """Nothing is in flight; what was claimed is simply due. A new event loop may begin."""
        self._lock = asyncio.Lock()
        self._claimed.clear()
        self._ready.clear()

    async def fill(self) -> None:
        """See to it that what is due is ready, as it is now."""
        if not self._has_fresh():
            async with self._lock:
                if not self._has_fresh():
                    await self._claim()

    def take(self) -> Claimed | None:
        """The oldest that is ready; it is in flight until :meth:`landed`."""
        return self._ready.popleft() if self._ready else None

    async def take_least_tried(self, rng: random.Random) -> Claimed | None:
        """Any one of those, while nothing is in flight; the others are not ready any more.

        The oldest may be some that Hivel always stumbles over, and speak for no others.
        """
        await self.fill()
        least = min((claimed.attempts for claimed in self._ready), default=0)
        candidates = [claimed for claimed in self._ready if claimed.attempts == least]
        self._ready.clear()
        self._claimed.clear()
        if not candidates:
            return None
        chosen = rng.choice(candidates)
        self._claimed.add(chosen.number)
        return chosen

    def landed(self, claimed: Claimed) -> None:
        """It is not in flight any more."""
        self._claimed.discard(claimed.number)

    def _has_fresh(self) -> bool:
        return bool(self._ready) and self._clock.monotonic() - self._claimed_at <= CLAIM_HOLDS_S

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

    # ---- settlements

    def add(self, settlement: Settlement) -> None:
        """What came of an attempt, to be stored by the next :meth:`settle`."""
        self._unsettled.add(settlement)

    async def state_before(self) -> DeliveryState | None:
        """What the process before this one said of itself."""
        return await self._off_loop(self._outbox.delivery_state)

    async def settle(self, state: DeliveryState) -> None:
        """Store what came of the attempts so far, or keep it for the next time; and the state, if it is another."""
        try:
            async with self._lock:
                left = len(self._unsettled)  # what comes meanwhile has time until the next time
                while left > 0:
                    batch = self._unsettled.oldest(min(left, SETTLE_AT_MOST))
                    await self._store(batch)
                    left -= len(batch)
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

    # ---- when they are due

    async def mind_the_clock(self) -> None:
        """No deployment waits longer than the longest backoff.

        It might when a clock was set back: looked after at the start, whenever the clock was set, and now and then, for
        it may have been set and set back while somebody else stored something.
        """
        was_set = self._drift is None or abs(self._drift.ms()) > CLOCK_WAS_SET_MS
        if was_set or self._clock.monotonic() >= self._due_looked_after_at:
            drift = Drift(self._clock)
            if await self._make_due(later_than=self._latest()):
                self._drift = drift
                self._due_looked_after_at = self._clock.monotonic() + self._backoff_max_ms / 1000

    async def make_all_due(self) -> None:
        """Nobody waits out a backoff any more."""
        await self._make_due(later_than=self._clock.now_ms())

    async def _make_due(self, *, later_than: int) -> bool:
        try:
            await self._off_loop(partial(self._outbox.make_due, later_than=later_than))
        except DamagedError:
            raise
        except OutboxError as error:
            self.trouble = error
            return False
        return True

    def _latest(self) -> int:
        """When the next attempt of anything is at the latest."""
        return self._clock.now_ms() + self._backoff_max_ms


def _not_later(settlement: Settlement, latest: int) -> Settlement:
    """The clock may have been set back since it was made."""
    if settlement.next_attempt_at is None or settlement.next_attempt_at <= latest:
        return settlement
    return replace(settlement, next_attempt_at=latest)
