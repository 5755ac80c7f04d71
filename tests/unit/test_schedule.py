"""What the daemon does at intervals it does at even intervals, whatever becomes of the clock on the wall."""

from __future__ import annotations

import asyncio
import math
import selectors
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from freezegun import freeze_time

from agent.daemon.schedule import Schedule
from tests.integration.support import FakeClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from freezegun.api import FrozenDateTimeFactory

TODAY = datetime(2026, 11, 23, 12, tzinfo=UTC)


class NoWaiting(selectors.DefaultSelector):
    """Where the loop would wait for its next timer, the clock goes on instead."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "nothing would ever happen again"
        self._clock.advance(ms=math.ceil(timeout * 1000))
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """An event loop that goes by a clock of the test."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(NoWaiting(clock))
        self._steady = clock

    def time(self) -> float:
        return self._steady.monotonic()


class Work:
    """Notes when it was done: seconds since the test began."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self.at: list[float] = []
        self.takes_s = 0.0

    async def __call__(self) -> None:
        self.at.append(round(self._clock.monotonic() - self._began, 2))
        await asyncio.sleep(self.takes_s)


def played(story: Callable[[FakeClock, FrozenDateTimeFactory, Schedule, Work], Awaitable[None]]) -> list[float]:
    """When the work was done in a story."""
    clock = FakeClock()
    work = Work(clock)

    async def play(wall: FrozenDateTimeFactory) -> None:
        async with Schedule(clock) as schedule:
            await story(clock, wall, schedule, work)

    with freeze_time(TODAY, ignore=["asyncio"]) as wall, asyncio.Runner(loop_factory=lambda: Loop(clock)) as runner:
        runner.run(play(wall))
    return work.at


def test_work_is_done_at_once_and_then_at_even_intervals() -> None:
    async def story(_clock: FakeClock, _wall: FrozenDateTimeFactory, schedule: Schedule, work: Work) -> None:
        schedule.every(15, work.__call__, name="work")
        await asyncio.sleep(61)

    assert played(story) == [0, 15, 30, 45, 60]


def test_work_that_is_not_wanted_at_once_begins_later() -> None:
    async def story(_clock: FakeClock, _wall: FrozenDateTimeFactory, schedule: Schedule, work: Work) -> None:
        schedule.every(15, work.__call__, name="work", first_in_s=10)
        await asyncio.sleep(41)

    assert played(story) == [10, 25, 40]


@pytest.mark.parametrize("days", [-365, -1, 1, 5 * 365])
def test_a_clock_that_is_set_changes_nothing(days: int) -> None:
    async def story(_clock: FakeClock, wall: FrozenDateTimeFactory, schedule: Schedule, work: Work) -> None:
        schedule.every(15, work.__call__, name="work")
        await asyncio.sleep(20)
        wall.move_to(TODAY + timedelta(days=days))
        await asyncio.sleep(30)
        wall.move_to(TODAY)
        await asyncio.sleep(30)

    assert played(story) == [0, 15, 30, 45, 60, 75]


def test_a_loop_that_was_held_up_makes_up_for_it_by_one_run() -> None:
    async def story(clock: FakeClock, _wall: FrozenDateTimeFactory, schedule: Schedule, work: Work) -> None:
        schedule.every(0.1, work.__call__, name="work")
        await asyncio.sleep(0.15)
        clock.advance(s=365 * 86_400)  # the machine slept; nothing was done in between
        await asyncio.sleep(0.25)

    a_year = 365 * 86_400
    assert played(story) == [0, 0.1, a_year + 0.15, a_year + 0.25, a_year + 0.35]


def test_work_that_takes_longer_than_its_interval_is_never_done_twice_at_a_time() -> None:
    async def story(_clock: FakeClock, _wall: FrozenDateTimeFactory, schedule: Schedule, work: Work) -> None:
        work.takes_s = 40
        schedule.every(15, work.__call__, name="work")
        await asyncio.sleep(100)

    assert played(story) == [0, 45, 90]


def test_work_is_brought_forward() -> None:
    async def story(_clock: FakeClock, _wall: FrozenDateTimeFactory, schedule: Schedule, work: Work) -> None:
        repeated = schedule.every(600, work.__call__, name="work")
        await asyncio.sleep(10)
        repeated.bring_forward()
        await asyncio.sleep(10)
        repeated.bring_forward(in_s=5)
        await asyncio.sleep(610)

    assert played(story) == [0, 10, 25, 625]


def test_work_that_asks_at_its_end_for_another_run_gets_it() -> None:
    async def story(_clock: FakeClock, _wall: FrozenDateTimeFactory, schedule: Schedule, work: Work) -> None:
        async def asking() -> None:
            await work()
            if len(work.at) < 3:
                repeated.bring_forward()

        repeated = schedule.every(600, asking, name="work")
        await asyncio.sleep(610)

    assert played(story) == [0, 0, 0, 600]


def test_work_that_is_ended_is_begun_no_more_and_comes_to_its_end() -> None:
    ended = []

    async def story(_clock: FakeClock, _wall: FrozenDateTimeFactory, schedule: Schedule, work: Work) -> None:
        async def slow() -> None:
            await work()
            await asyncio.sleep(30)
            ended.append(True)

        repeated = schedule.every(15, slow, name="work")
        await asyncio.sleep(1)
        repeated.end()
        await asyncio.sleep(100)

    assert played(story) == [0]
    assert ended == [True]
