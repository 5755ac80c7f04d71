"""Dispatchers of several agents: what one finds out about Hivel the others know, and one at a time tests Hivel."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from agent.config.settings import DeliverySettings
from agent.delivery.breaker import BreakerState
from agent.delivery.dispatcher import Dispatcher
from tests.integration.support import FakeClock
from tests.unit.deliveries import STORED, UNAVAILABLE, MemoryDeliveries, ScriptedHivel, at_once

if TYPE_CHECKING:
    from agent.delivery.answers import Answer
    from agent.outbox.values import Claimed, DeliveryState

SETTINGS = replace(DeliverySettings(), concurrency=2)


@dataclass
class Shared:
    outbox: MemoryDeliveries
    clock: FakeClock
    probe_until: int = 0
    reserved: int = 0

    def delivery_state(self) -> DeliveryState | None:
        return self.outbox.delivery_state()

    def begin_probe(self, hold_ms: int) -> int | None:
        if self.clock.now_ms() < self.probe_until:
            return None
        self.probe_until = self.clock.now_ms() + hold_ms
        return self.probe_until

    def end_probe(self, probe: int, next_in_ms: int) -> None:
        if self.probe_until == probe:
            self.probe_until = self.clock.now_ms() + next_in_ms

    def reserve(self, per_minute: int, burst: int) -> float:
        self.reserved += 1
        return 0.0


class Fleet:
    """Two dispatchers. They have outboxes of their own, because claims are another matter; the state is shared."""

    def __init__(self, settings: DeliverySettings = SETTINGS) -> None:
        self.clock = FakeClock()
        self.hivel = ScriptedHivel()
        self.outboxes = [MemoryDeliveries(self.clock) for _ in range(2)]
        for name in ("delivery_state", "save_delivery_state"):
            setattr(self.outboxes[1], name, getattr(self.outboxes[0], name))
        self.shared = Shared(self.outboxes[0], self.clock)
        self.dispatchers = [
            Dispatcher(outbox, self.hivel, settings, off_loop=at_once, clock=self.clock, shared=self.shared)
            for outbox in self.outboxes
        ]

    def answer(self, answer: Answer) -> None:
        async def always(_: Claimed) -> Answer:
            await asyncio.sleep(0)
            return answer

        self.hivel.answer = always

    def run(self, number: int) -> int:
        """Returns how many requests that dispatcher sent."""
        before = len(self.hivel.sent)
        asyncio.run(self.dispatchers[number].run())
        return len(self.hivel.sent) - before

    def states(self) -> list[BreakerState]:
        return [each.breaker.state for each in self.dispatchers]


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def tripped(fleet: Fleet) -> None:
    fleet.outboxes[0].add(1, 2, 3)
    fleet.outboxes[1].add(4, 5, 6)
    fleet.answer(UNAVAILABLE)
    fleet.run(0)
    assert fleet.states() == [BreakerState.OUTAGE, BreakerState.OPEN]


def test_an_outage_that_one_agent_finds_stops_the_others(fleet: Fleet) -> None:
    tripped(fleet)
    assert fleet.run(1) == 0
    assert fleet.states() == [BreakerState.OUTAGE, BreakerState.OUTAGE]
    assert fleet.dispatchers[1].breaker.snapshot() == fleet.dispatchers[0].breaker.snapshot()


def test_one_agent_at_a_time_tests_whether_hivel_works_again(fleet: Fleet) -> None:
    tripped(fleet)
    fleet.run(1)
    fleet.clock.advance(s=900)
    fleet.shared.probe_until = fleet.clock.now_ms() + 1
    assert [fleet.run(0), fleet.run(1)] == [0, 0]
    fleet.shared.probe_until = 0
    assert [fleet.run(0), fleet.run(1)] == [1, 0]


def test_a_probe_keeps_others_from_the_next_one_for_its_backoff_and_not_for_its_time_limit() -> None:
    fleet = Fleet(replace(SETTINGS, timeout_ms=3_600_000, backoff_initial_ms=1_000, backoff_max_ms=1_000))
    tripped(fleet)
    fleet.run(1)
    fleet.clock.advance(s=2)
    assert [fleet.run(0), fleet.run(1)] == [1, 0]
    fleet.clock.advance(s=2)
    assert [fleet.run(1), fleet.run(0)] == [1, 0]
    fleet.clock.advance(s=2)
    fleet.answer(STORED)
    assert fleet.run(0) == 3
    assert fleet.shared.probe_until <= fleet.clock.now_ms()


def test_an_agent_that_has_nothing_to_send_leaves_the_probe_to_others(fleet: Fleet) -> None:
    tripped(fleet)
    fleet.outboxes[1].rows.clear()
    fleet.run(1)
    fleet.clock.advance(s=900)
    assert [fleet.run(1), fleet.run(0)] == [0, 1]


def test_the_end_of_an_outage_is_the_end_for_all(fleet: Fleet) -> None:
    tripped(fleet)
    fleet.run(1)
    fleet.clock.advance(s=900)
    fleet.answer(STORED)
    assert fleet.run(0) == 3
    fleet.clock.advance(s=1)
    assert fleet.run(1) == 3
    assert fleet.states() == [BreakerState.OPEN, BreakerState.OPEN]


def test_a_probe_of_another_agent_moves_the_next_one_of_this_agent(fleet: Fleet) -> None:
    tripped(fleet)
    fleet.run(1)
    fleet.clock.advance(s=900)
    fleet.run(0)  # still unavailable
    fleet.shared.probe_until = 0
    assert fleet.run(1) == 0


def test_a_clock_of_another_agent_that_is_hours_ahead_delays_no_probe_beyond_the_longest_backoff(fleet: Fleet) -> None:
    tripped(fleet)
    state = fleet.outboxes[0].delivery_state()
    assert state is not None and state.next_probe_at is not None
    wrong = type(state)(state.state, state.since, state.reason, state.next_probe_at + 10 * 3_600_000)
    fleet.outboxes[0].save_delivery_state(wrong)
    fleet.run(1)
    fleet.clock.advance(s=SETTINGS.backoff_max_ms // 1000)
    assert fleet.run(1) == 1


def test_the_rate_limit_is_one_for_all() -> None:
    fleet = Fleet(replace(SETTINGS, per_minute=60))
    fleet.outboxes[0].add(1, 2)
    fleet.outboxes[1].add(3)
    sent = fleet.run(0) + fleet.run(1)
    assert sent == 3
    assert fleet.shared.reserved >= 3
