"""When the daemon polls a controller: by the setting, less often while Jenkins is slow, earlier when there is news."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from agent.config.settings import JenkinsSettings
from agent.daemon.polling import Polls
from agent.daemon.schedule import Schedule
from agent.daemon.work import Work
from agent.model.trouble import Unexpected
from agent.sources.jenkins.storing import PollReport
from tests.integration.support import FakeClock
from tests.unit.test_schedule import Loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Stub:
    """A controller whose poller does nothing but note when it was to poll: seconds since the test began."""

    settings = JenkinsSettings("main", "http://jenkins.test/", None, None, 15_000, "now", 5_000)

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self.at: list[int] = []
        self.poller = SimpleNamespace(interval_s=15.0, progress=0, due=lambda: True, stop=lambda: None)

    async def poll(self) -> PollReport:
        self.at.append(round(self._clock.monotonic() - self._began))
        return PollReport("main", complete=True)


def played(story: Callable[[Stub, Polls], Awaitable[None]]) -> list[int]:
    """When it was polled in a story."""
    clock = FakeClock()
    stub: Any = Stub(clock)

    async def play() -> None:
        async with Schedule(clock) as schedule:
            polls = Polls(stub, Work(clock, Unexpected(clock)), clock)
            polls.begin(schedule)
            await story(stub, polls)

    with asyncio.Runner(loop_factory=lambda: Loop(clock)) as runner:
        runner.run(play())
    return list(stub.at)


def test_a_slow_jenkins_is_polled_at_the_longer_interval_until_it_is_fast_again() -> None:
    async def story(stub: Stub, _: Polls) -> None:
        await asyncio.sleep(20)
        stub.poller.interval_s = 60.0
        await asyncio.sleep(120)
        stub.poller.interval_s = 15.0
        await asyncio.sleep(44)

    assert played(story) == [0, 15, 75, 135, 150, 165, 180]


@pytest.mark.parametrize(("interval_s", "expected"), [(15.0, [0, 15, 20, 35]), (120.0, [0, 15, 30, 150])])
def test_news_is_looked_at_at_once_or_while_jenkins_is_slow_as_soon_as_the_setting_allows(
    interval_s: float, expected: list[int]
) -> None:
    async def story(stub: Stub, polls: Polls) -> None:
        await asyncio.sleep(15.5)
        stub.poller.interval_s = interval_s
        await asyncio.sleep(4.5)
        polls.wake()
        await asyncio.sleep(16 if interval_s == 15 else 140)

    assert played(story) == expected
