"""The daemon delivers at intervals, and at once when something was enqueued."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from agent.config.settings import DeliverySettings
from agent.daemon.delivering import Delivering
from agent.daemon.schedule import Schedule
from agent.daemon.work import Work
from agent.model.trouble import Unexpected
from agent.outbox.values import OutboxError
from tests.integration.support import FakeClock
from tests.unit.test_schedule import Loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HOUR = 3_600


class Stand:
    """``runs``: when the dispatcher ran, in seconds since the begin. ``rests``: what it says afterwards, by turns."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self.runs: list[float] = []
        self.rests: list[float] = []
        self.takes_s = 0.0
        self.passed_on = 0
        self.error: Exception | None = None
        self.longest_rest_s = HOUR
        self.progress = 0
        self.fleet = SimpleNamespace(leaving=False)
        parts: Any = SimpleNamespace(
            dispatcher=self, deliver=self.deliver, settings=SimpleNamespace(delivery=DeliverySettings())
        )
        fleet: Any = self.fleet
        self.delivering = Delivering(parts, Work(clock, Unexpected(clock)), fleet, clock)

    @property
    def rest_s(self) -> float:
        return self.rests.pop(0) if self.rests else self.longest_rest_s

    async def deliver(self) -> None:
        self.runs.append(round(self._clock.monotonic() - self._began, 2))
        await asyncio.sleep(self.takes_s)
        if self.error is not None:
            raise self.error

    async def pass_on(self) -> None:
        self.passed_on += 1


def played(story: Callable[[Stand], Awaitable[None]]) -> Stand:
    clock = FakeClock()
    stand = Stand(clock)

    async def play() -> None:
        async with Schedule(clock) as schedule:
            stand.delivering.begin(schedule)
            await story(stand)

    with asyncio.Runner(loop_factory=lambda: Loop(clock)) as runner:
        runner.run(play())
    return stand


def test_the_next_run_comes_when_the_dispatcher_says() -> None:
    async def story(stand: Stand) -> None:
        stand.rests = [1, 2.5]
        await asyncio.sleep(2 * HOUR)

    assert played(story).runs == [0, 1, 3.5, 3.5 + HOUR]


def test_what_is_enqueued_is_sent_at_once() -> None:
    async def story(stand: Stand) -> None:
        await asyncio.sleep(10)
        stand.delivering.enqueued()
        await asyncio.sleep(10)
        stand.delivering.wake()
        await asyncio.sleep(10)

    assert played(story).runs == [0, 10, 20]


def test_what_is_enqueued_during_a_run_is_sent_when_it_is_over() -> None:
    async def story(stand: Stand) -> None:
        await asyncio.sleep(10)
        stand.takes_s = 5
        for _ in range(3):
            stand.delivering.enqueued()
            await asyncio.sleep(1)
        await asyncio.sleep(60)

    assert played(story).runs == [0, 10, 15.2]


def test_what_is_enqueued_one_after_another_is_sent_a_few_times_a_second() -> None:
    async def story(stand: Stand) -> None:
        await asyncio.sleep(10)
        for _ in range(100):
            stand.delivering.enqueued()
            await asyncio.sleep(0.01)
        await asyncio.sleep(10)

    assert played(story).runs == [0, 10, 10.2, 10.4, 10.6, 10.8, 11]


def test_much_that_is_enqueued_at_once_causes_one_run() -> None:
    async def story(stand: Stand) -> None:
        await asyncio.sleep(10)
        for _ in range(100):
            stand.delivering.enqueued()
        await asyncio.sleep(10)

    assert played(story).runs == [0, 10]


def test_a_run_that_fails_does_not_end_the_others() -> None:
    async def story(stand: Stand) -> None:
        stand.error, stand.rests = OutboxError("the server is away"), [1, 1]
        await asyncio.sleep(1.5)
        stand.delivering.enqueued()
        await asyncio.sleep(10)

    assert played(story).runs == [0, 1, 1.5]


def test_an_agent_that_leaves_tells_the_others_of_what_it_enqueues_and_not_of_what_they_know() -> None:
    async def story(stand: Stand) -> None:
        await asyncio.sleep(10)
        stand.fleet.leaving = True
        stand.delivering.wake()
        await asyncio.sleep(10)
        assert stand.passed_on == 0
        stand.delivering.enqueued()
        await asyncio.sleep(10)

    stand = played(story)
    assert (stand.runs, stand.passed_on) == ([0], 1)
