"""The dispatcher's side of the outbox: claimed deployments, deployments in flight, and settlements."""

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
# Claims older than this (seconds) are read again: the deployment may have changed or been discarded.
CLAIM_HOLDS_S = 1.0
# While outcomes cannot be stored, delivery continues until this many are kept in memory.
UNSETTLED_AT_MOST = 5_000
CLOCK_WAS_SET_MS = 1_000


class Claims:
    """Claims ahead and settles in batches, always through ``off_loop``. Tasks that use it may be cancelled at any time.

    Reading methods raise :class:`agent.outbox.values.OutboxError`. A failed write does not raise but is kept in
    ``trouble``, unless the outbox is damaged.
    """

    def __init__(self, outbox: Deliveries, off_loop: Runner, clock: Clock, backoff_max_ms: int) -> None:
        self._outbox = outbox
        self._off_loop = off_loop
        self._clock = clock
        self._backoff_max_ms = backoff_max_ms
        self._lock = asyncio.Lock()  # a claim must not run between a settlement and its removal from memory
        self._ready: deque[Claimed] = deque()
        self._claimed: set[int] = set()  # in ``_ready`` or in flight
        self._claimed_at = 0.0
        self._unsettled = Unsettled()
        self._saved_state: DeliveryState | None = None
        self._drift: Drift | None = None
        self._due_looked_after_at = 0.0
        # Why outcomes cannot be stored right now. They are kept in memory. While this process runs, their deployments
        # are not sent again.
        self.trouble: OutboxError | None = None

    # ---- claims

    @property
    def waiting(self) -> bool:
        """Whether a claimed deployment is not in flight yet."""
        return bool(self._ready)

    @property
    def full(self) -> bool:
        """Whether the limit of outcomes in memory is reached."""
        return len(self._unsettled) >= UNSETTLED_AT_MOST

    def let_go(self) -> None:
        """Forget all claims: nothing is in flight. A new event loop may start afterwards."""
        self._lock = asyncio.Lock()
        self._claimed.clear()
        self._ready.clear()

    async def fill(self) -> None:
        """Make sure that the due deployments are claimed and no older than ``CLAIM_HOLDS_S``."""
        if not self._has_fresh():
            async with self._lock:
                if not self._has_fresh():
                    await self._claim()

    def take(self) -> Claimed | None:
        """The oldest claimed deployment. It is in flight until :meth:`landed` is called."""
        return self._ready.popleft() if self._ready else None

    async def take_least_tried(self, rng: random.Random) -> Claimed | None:
        """A random one of those with the fewest attempts. Only when nothing is in flight; drops all other claims.

        The oldest could be one that always makes Hivel fail: it would be a bad probe.
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
        """The attempt has ended."""
        self._claimed.discard(claimed.number)

    def _has_fresh(self) -> bool:
        return bool(self._ready) and self._clock.monotonic() - self._claimed_at <= CLAIM_HOLDS_S

    async def _claim(self) -> None:
        """Claim what is due, except deployments whose outcome is in memory and allows no new attempt yet."""
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
        """Take an outcome, which the next :meth:`settle` stores."""
        self._unsettled.add(settlement)

    async def state_before(self) -> DeliveryState | None:
        """The breaker state that the previous process saved."""
        return await self._off_loop(self._outbox.delivery_state)

    def is_news(self, state: DeliveryState) -> bool:
        """Whether another agent saved this state. It then need not be saved again."""
        if state == self._saved_state:
            return False
        self._saved_state = state
        return True

    async def settle(self, state: DeliveryState) -> None:
        """Store all outcomes, and the breaker state if it changed. What cannot be stored is kept for the next call."""
        try:
            async with self._lock:
                left = len(self._unsettled)  # outcomes that are added meanwhile are left for the next call
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
        """Store a batch. A cancelled caller still learns whether it was stored, so nothing is settled twice."""
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
        """Make sure that no deployment waits longer than the longest backoff.

        It would if the clock was set back. Checked at the start, when the clock jumps, and regularly: the clock may
        have jumped twice while another process stored a time.
        """
        was_set = self._drift is None or abs(self._drift.ms()) > CLOCK_WAS_SET_MS
        if was_set or self._clock.monotonic() >= self._due_looked_after_at:
            drift = Drift(self._clock)
            if await self._make_due(later_than=self._latest()):
                self._drift = drift
                self._due_looked_after_at = self._clock.monotonic() + self._backoff_max_ms / 1000

    async def make_all_due(self) -> None:
        """End all backoffs."""
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
        """The latest time that any next attempt may have, UTC milliseconds."""
        return self._clock.now_ms() + self._backoff_max_ms


def _not_later(settlement: Settlement, latest: int) -> Settlement:
    """Limit the next attempt to ``latest``: the clock may have been set back since the settlement was made."""
    if settlement.next_attempt_at is None or settlement.next_attempt_at <= latest:
        return settlement
    return replace(settlement, next_attempt_at=latest)
