"""Dispatchers of several agents: what one finds out about Hivel the others know, and one at a time tests Hivel."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from agent.config.settings import DeliverySettings
from agent.delivery.breaker import BreakerState
from agent.delivery.dispatcher import IDLE_S, Dispatcher
from agent.outbox.shared import Look
from agent.outbox.values import OutboxError
from tests.integration.support import FakeClock
from tests.unit.deliveries import STORED, UNAVAILABLE, MemoryDeliveries, ScriptedHivel, at_once

if TYPE_CHECKING:
    from agent.delivery.answers import Answer
    from agent.outbox.values import Claimed

SETTINGS = replace(DeliverySettings(), concurrency=2)


@dataclass
class Shared:
    outboxes: list[MemoryDeliveries]
    clock: FakeClock
    probe_until: int = 0
    reserved: int = 0
    announced: int = 0
    many: bool = False

    def look(self) -> Look:
        due = [at for outbox in self.outboxes if (at := outbox.due_at()) is not None]
        return Look(self.outboxes[0].delivery_state(), min(due, default=None), many=self.many)

    def announce(self) -> None:
        self.announced += 1

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
        self.shared = Shared(self.outboxes, self.clock)
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


# ---- idle


def claims(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many each claim of the first agent brings from now on."""
    found: list[int] = []
    claim = fleet.outboxes[0].claim

    def noted(limit: int, **besides: Any) -> list[Claimed]:
        claimed = claim(limit, **besides)
        found.append(len(claimed))
        return claimed

    monkeypatch.setattr(fleet.outboxes[0], "claim", noted)
    return found


def test_an_agent_claims_nothing_and_rests_while_nothing_is_pending(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = claims(fleet, monkeypatch)
    assert fleet.run(0) == 0
    assert (claimed, fleet.dispatchers[0].rest_s) == ([], IDLE_S)
    fleet.outboxes[0].add(1)
    assert fleet.run(0) == 1
    assert (claimed[0], fleet.dispatchers[0].rest_s) == (1, 1.0)


def test_an_agent_rests_until_the_next_attempt_is_due(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.outboxes[0].add(1)
    claimed = claims(fleet, monkeypatch)
    fleet.outboxes[0].rows[1].next_attempt_at += 2_500
    assert fleet.run(0) == 0
    assert (claimed, fleet.dispatchers[0].rest_s) == ([], 2.5)
    fleet.clock.advance(ms=2_500)
    assert fleet.run(0) == 1


def test_an_attempt_that_is_due_much_later_does_not_keep_an_agent_from_looking(fleet: Fleet) -> None:
    fleet.outboxes[0].add(1)
    fleet.outboxes[0].rows[1].next_attempt_at += 3_600_000
    fleet.run(0)
    assert fleet.dispatchers[0].rest_s == IDLE_S


def test_an_interval_longer_than_the_rest_is_kept() -> None:
    fleet = Fleet(replace(SETTINGS, interval_ms=3_600_000))
    fleet.run(0)
    assert fleet.dispatchers[0].rest_s == fleet.dispatchers[0].longest_rest_s == 3_600


def test_while_hivel_is_down_an_agent_looks_at_its_interval(fleet: Fleet) -> None:
    tripped(fleet)
    fleet.run(0)
    assert fleet.dispatchers[0].rest_s == 1.0


def test_an_agent_that_cannot_read_the_outbox_tries_again_at_its_interval(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.run(0)

    def away() -> Look:
        raise OutboxError("the server is away")

    monkeypatch.setattr(fleet.shared, "look", away)
    with pytest.raises(OutboxError):
        fleet.run(0)
    assert fleet.dispatchers[0].rest_s == 1.0


def test_an_agent_alone_claims_at_its_interval() -> None:
    clock = FakeClock()
    outbox = MemoryDeliveries(clock)
    dispatcher = Dispatcher(outbox, ScriptedHivel(), SETTINGS, off_loop=at_once, clock=clock)
    asyncio.run(dispatcher.run())
    assert dispatcher.rest_s == dispatcher.longest_rest_s == 1.0


def test_an_agent_with_more_than_it_claims_at_once_wakes_the_others(fleet: Fleet) -> None:
    fleet.outboxes[0].add(1)
    fleet.run(0)
    assert fleet.shared.announced == 0
    fleet.shared.many = True
    fleet.run(0)
    assert fleet.shared.announced == 1


def test_nobody_is_woken_while_hivel_is_down(fleet: Fleet) -> None:
    tripped(fleet)
    fleet.shared.many = True
    fleet.run(0)
    assert fleet.shared.announced == 0
