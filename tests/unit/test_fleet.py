"""The daemon in a fleet: what it polls follows its leases, whatever happens to the database and to other agents."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from agent.config.settings import JenkinsSettings
from agent.daemon.fleet import FleetParts, FleetWork
from agent.daemon.schedule import Schedule
from agent.daemon.work import Work
from agent.fleet.leases import Leases
from agent.model.trouble import Unexpected
from agent.outbox.leases import Agent, Fence
from agent.outbox.values import LeaseLostError, OutboxError
from agent.sources.jenkins.storing import PollReport
from tests.integration.support import FakeClock
from tests.unit.lease_table import MemoryTable, Unreliable
from tests.unit.test_schedule import Loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from agent.outbox.shared import Hint

NAMES = ["a", "b", "c", "d"]


def all_by(agent: str) -> dict[str, set[str]]:
    """Every controller is polled by this agent alone."""
    return {name: {agent} for name in NAMES}


async def at_once(function: Any, *args: Any) -> Any:
    return function(*args)


class Silent:
    """No hints, as behind PgBouncer."""

    def open(self) -> None:
        return None

    def heard(self) -> set[Hint]:
        return set()

    def close(self) -> None:
        pass


class Stand:
    """Agents on one table of leases, all with the same clock. ``polls``: who polled what, in order."""

    def __init__(self, schedule: Schedule, clock: FakeClock) -> None:
        self.schedule = schedule
        self.clock = clock
        self.polls: list[tuple[str, str]] = []
        self.open: dict[str, str] = {}
        self.most_open = 0
        self.lost: set[str] = set()
        self.may_close = asyncio.Event()
        self.may_close.set()
        stand = self

        class Table(MemoryTable):
            @property
            def now_ms(self) -> int:
                return stand.clock.now_ms()

            @now_ms.setter
            def now_ms(self, _: float) -> None:
                pass

        self.table = Table()

    def agent(self, name: str) -> SimpleNamespace:
        table = Unreliable(self.table)
        leases = Leases(table, Agent(name, name, "1.0"), NAMES, self.clock, rng=random.Random(name))
        work = Work(self.clock, Unexpected(self.clock))
        fleet = FleetWork(FleetParts(leases, Silent(), at_once, self._opened), work, self.clock)
        fleet.begin(self.schedule)
        return SimpleNamespace(name=name, table=table, leases=leases, work=work, fleet=fleet)

    @asynccontextmanager
    async def _opened(self, fence: Fence) -> AsyncIterator[Any]:
        settings = JenkinsSettings(fence.controller, "http://jenkins.test/", None, None, 1_000, "now", 5_000)
        poller = SimpleNamespace(interval_s=1.0, progress=0, due=lambda: True, stop=lambda: None)

        async def poll() -> PollReport:
            if fence.holder in self.lost:
                raise LeaseLostError("lost")
            self.polls.append((fence.holder, fence.controller))
            return PollReport(fence.controller, complete=True)

        assert fence.controller not in self.open
        self.open[fence.controller] = fence.holder
        try:
            yield SimpleNamespace(settings=settings, poller=poller, poll=poll, end=lambda: None)
        finally:
            await self.may_close.wait()
            del self.open[fence.controller]

    async def polled(self, seconds: float) -> dict[str, set[str]]:
        """Who polls what in the next seconds."""
        before = len(self.polls)
        await asyncio.sleep(seconds)
        who: dict[str, set[str]] = {}
        for holder, controller in self.polls[before:]:
            who.setdefault(controller, set()).add(holder)
        return who


def played(story: Callable[[Stand], Awaitable[None]]) -> None:
    clock = FakeClock()

    async def play() -> None:
        async with Schedule(clock) as schedule:
            await story(Stand(schedule, clock))

    with asyncio.Runner(loop_factory=lambda: Loop(clock)) as runner:
        runner.run(play())


def test_each_controller_is_polled_by_one_of_the_agents() -> None:
    async def story(stand: Stand) -> None:
        one, two = stand.agent("one"), stand.agent("two")
        await asyncio.sleep(60)
        who = await stand.polled(30)
        assert {name: len(holders) for name, holders in who.items()} == dict.fromkeys(NAMES, 1)
        assert sorted(len(each.fleet.polls) for each in (one, two)) == [2, 2]

    played(story)


def test_an_agent_that_stops_hands_over_before_it_ends() -> None:
    async def story(stand: Stand) -> None:
        one, _ = stand.agent("one"), stand.agent("two")
        await asyncio.sleep(60)
        one.work.over.set()
        await one.fleet.end(10.0, leave=True)
        assert one.fleet.polls == []
        assert set(stand.open.values()) == {"two"}
        await asyncio.sleep(5.1)
        assert await stand.polled(5) == all_by("two")

    played(story)


def test_an_agent_whose_polls_are_ending_can_stop() -> None:
    """A poll that waits for Jenkins while the lease is lost ends later than the agent."""

    async def story(stand: Stand) -> None:
        one = stand.agent("one")
        await asyncio.sleep(10.1)
        one.table.fails = "before"
        stand.may_close.clear()
        await asyncio.sleep(15)
        assert one.fleet.polls == []
        assert set(stand.open) == set(NAMES)
        one.work.over.set()
        await one.fleet.end(1.0, leave=True)
        stand.may_close.set()

    played(story)


def test_a_reload_keeps_the_leases() -> None:
    async def story(stand: Stand) -> None:
        one = stand.agent("one")
        await asyncio.sleep(1)
        one.work.over.set()
        await one.fleet.end(10.0, leave=False)
        assert stand.open == {}
        again = stand.agent("one")
        await asyncio.sleep(1)
        assert again.leases.mine == dict.fromkeys(NAMES, 1)
        assert set(stand.open) == set(NAMES)

    played(story)


def test_an_agent_without_the_database_stops_polling_before_its_leases_expire_and_goes_on_by_itself() -> None:
    async def story(stand: Stand) -> None:
        one = stand.agent("one")
        await asyncio.sleep(10.1)
        one.table.fails = "before"
        await asyncio.sleep(15)
        assert stand.open == {}
        assert await stand.polled(30) == {}
        assert one.work.storing.reason is not None
        one.table.fails = "never"
        await asyncio.sleep(6)
        assert await stand.polled(5) == all_by("one")
        assert one.work.storing.reason is None

    played(story)


def test_another_agent_takes_over_from_one_that_is_cut_off_within_twenty_seconds() -> None:
    async def story(stand: Stand) -> None:
        one = stand.agent("one")
        two = stand.agent("two")
        await asyncio.sleep(60)
        one.table.fails = "before"
        await asyncio.sleep(20)
        assert await stand.polled(5) == all_by("two")
        assert len(two.fleet.polls) == 4

    played(story)


def test_a_poll_whose_lease_is_lost_is_no_error_of_the_outbox() -> None:
    async def story(stand: Stand) -> None:
        one = stand.agent("one")
        await asyncio.sleep(3)
        stand.lost.add("one")
        await asyncio.sleep(3)
        assert one.work.storing.reason is None

    played(story)


def test_a_controller_that_cannot_be_opened_is_tried_again() -> None:
    async def story(stand: Stand) -> None:
        opened, failing = stand._opened, [True]

        @asynccontextmanager
        async def fails_first(fence: Fence) -> AsyncIterator[Any]:
            if failing[0]:
                raise OutboxError("no connection left")
            async with opened(fence) as controller:
                yield controller

        stand._opened = fails_first  # type: ignore[method-assign]
        one = stand.agent("one")
        await asyncio.sleep(3)
        assert one.work.storing.reason == "no connection left"
        failing.clear()
        failing.append(False)
        await asyncio.sleep(6)
        assert await stand.polled(5) == all_by("one")
        assert one.work.storing.reason is None

    played(story)


def test_an_agent_that_is_asked_to_hand_over_polls_nothing_until_it_takes_part_again() -> None:
    async def story(stand: Stand) -> None:
        stand.agent("one"), stand.agent("two")
        await asyncio.sleep(60)
        stand.table.seen["one"].leaving = True
        await asyncio.sleep(12)
        assert await stand.polled(5) == all_by("two")
        stand.table.seen["one"].leaving = False
        await asyncio.sleep(60)
        who = await stand.polled(5)
        assert sorted(holder for [holder] in who.values()) == ["one", "one", "two", "two"]

    played(story)
