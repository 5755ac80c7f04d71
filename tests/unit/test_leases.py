"""The leases of a fleet: never two agents for one controller, and every controller soon has one."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.fleet.balance import by_preference, target
from agent.fleet.leases import TTL_MS, Leases
from agent.outbox.leases import Agent, Fence
from agent.outbox.values import OutboxError
from tests.unit.lease_table import MemoryTable, Unreliable


@dataclass
class Monotonic:
    """The monotonic clock of an agent: it agrees with no other clock about the time of day."""

    seconds: float

    def monotonic(self) -> float:
        return self.seconds

    def now_ms(self) -> int:
        raise AssertionError("leases do not depend on the wall clock")


@dataclass
class Fleet:
    controllers: list[str]
    table: MemoryTable = field(default_factory=MemoryTable)
    agents: list[Leases] = field(default_factory=list)

    def join(self) -> Leases:
        number = len(self.agents)
        clock = Monotonic(1_000.0 * number)
        me = Agent(f"agent-{number}", f"host-{number}", "1.0")
        self.agents.append(Leases(Unreliable(self.table), me, self.controllers, clock, rng=random.Random(number)))
        return self.agents[-1]

    def wait(self, seconds: float) -> None:
        self.table.now_ms += seconds * 1000
        for agent in self.agents:
            agent.clock.seconds += seconds

    def run(self, seconds: float, *agents: Leases) -> None:
        """Let these agents renew when they want to, for this long."""
        due = dict.fromkeys(range(len(agents)), 0.0)
        passed = 0.0
        while (moment := min(due.values())) < seconds:
            number = min(due, key=lambda each: due[each])
            self.wait(moment - passed)
            passed = moment
            due[number] = passed + max(0.001, agents[number].turn())
        self.wait(seconds - passed)

    def holders(self) -> dict[str, str | None]:
        return {lease.controller: lease.holder for lease in self.table.leases() if lease.expires_in_ms > 0}


@pytest.fixture
def fleet() -> Fleet:
    return Fleet([f"jenkins-{number}" for number in range(12)])


def counts(fleet: Fleet) -> list[int]:
    return [len(agent.mine) for agent in fleet.agents]


def test_a_single_agent_takes_every_controller_at_its_first_turn(fleet):
    agent = fleet.join()
    agent.turn()
    assert agent.mine == dict.fromkeys(fleet.controllers, 1)


def test_two_agents_share_the_controllers_equally(fleet):
    first, second = fleet.join(), fleet.join()
    fleet.run(240, first, second)
    assert counts(fleet) == [6, 6]
    assert set(fleet.holders()) == set(fleet.controllers)


def test_no_agent_stays_without_a_controller_while_others_have_two():
    fleet = Fleet([f"jenkins-{number}" for number in range(4)])
    first, second = fleet.join(), fleet.join()
    fleet.run(60, first, second)
    third = fleet.join()
    fleet.run(120, first, second, third)
    assert sorted(counts(fleet)) == [1, 1, 2]


def test_surplus_is_given_away_one_at_a_time(fleet):
    first = fleet.join()
    fleet.run(20, first)
    second = fleet.join()
    second.turn()
    given_at = []
    while len(second.mine) < 6:
        before = len(first.mine)
        fleet.run(1, first)
        assert before - len(first.mine) in (0, 1)
        if len(first.mine) < before:
            given_at.append(fleet.table.now_ms)
        second.turn()
    assert all(later - earlier >= 9_990 for earlier, later in pairwise(given_at)), given_at


def test_five_thousand_controllers_are_shared_within_minutes():
    fleet = Fleet([f"jenkins-{number}" for number in range(1_000)])
    first = fleet.join()
    first.turn()
    second = fleet.join()
    fleet.run(6 * 60, first, second)
    assert counts(fleet) == [500, 500]


@pytest.mark.parametrize("number", range(20))
def test_an_agent_that_dies_is_replaced_within_twenty_seconds(fleet, number):
    """Renewals happen at most every 5 s, the lease holds for 15 s, and the next look is planned for its expiry."""
    first, second, third = fleet.join(), fleet.join(), fleet.join()
    fleet.run(300 + number, first, second, third)
    died_at = fleet.table.now_ms
    lost = set(first.mine)
    assert lost
    while lost - set(second.mine) - set(third.mine):
        fleet.run(0.2, second, third)
        assert fleet.table.now_ms - died_at < 17_500
    assert set(second.mine) | set(third.mine) == set(fleet.controllers)


def test_an_agent_that_leaves_is_replaced_at_the_next_turn_of_the_others(fleet):
    first, second = fleet.join(), fleet.join()
    fleet.run(240, first, second)
    first.leave()
    second.turn()
    assert set(second.mine) == set(fleet.controllers)
    assert first.mine == {}


@pytest.mark.parametrize("died_after_s", [0.0, 2.0, 4.0, 6.0, 9.0, 9.9])
def test_nothing_is_given_to_an_agent_that_has_died_and_left_without_a_holder(fleet, died_after_s):
    """The next surplus is due 10 s after the first. The one that got the first has died meanwhile."""
    first, second = fleet.join(), fleet.join()
    first.turn()
    while not second.mine:
        fleet.run(1, first, second)
    fleet.run(died_after_s, first, second)
    second.table.fails = "before"
    fleet.run(17.5, first)
    assert set(first.mine) == set(fleet.controllers)


def test_what_an_agent_gives_to_others_it_does_not_take_back(fleet):
    first, second = fleet.join(), fleet.join()
    fleet.run(240, first, second)
    fleet.table.seen[first.me.id].leaving = True
    first.turn()
    assert first.mine == {}
    fleet.run(60, first, second)
    assert counts(fleet) == [0, 12]


def test_what_an_agent_gave_away_it_takes_back_at_once_if_nobody_else_has_room(fleet):
    """The agent that got it has stopped. The third one has its share."""
    first, second = fleet.join(), fleet.join()
    fleet.run(240, first, second)
    third = fleet.join()
    third.turn()
    first.turn()
    third.turn()
    assert counts(fleet) == [5, 6, 1]
    third.leave()
    second.turn()
    first.turn()
    assert counts(fleet) == [6, 6, 0]


@pytest.mark.parametrize("number", range(20))
def test_what_a_stopped_agent_leaves_is_taken_at_the_first_turn_of_the_others(fleet, number):
    """Also if some of them have more than their share and cannot take any, and if the stopped one starts again."""
    agents = [fleet.join() for _ in range(4)]
    fleet.run(10 + 15 * number, *agents)
    assert set(fleet.holders()) == set(fleet.controllers)
    stopped = agents.pop(number % 4)
    stopped.leave()
    if number % 2:
        agents.append(fleet.join())
    for agent in agents:
        agent.turn()
    assert set(fleet.holders()) == set(fleet.controllers)


def test_each_agent_has_an_order_of_its_own():
    names = [f"jenkins-{number}" for number in range(200)]
    orders = [by_preference(agent, names) for agent in ("a", "b", "c")]
    assert all(sorted(order) == sorted(names) for order in orders)
    assert len({order[0] for order in orders}) == 3
    assert by_preference("a", reversed(names)) == orders[0]


@pytest.mark.parametrize(("controllers", "agents", "most"), [(0, 1, 0), (1, 3, 1), (7, 2, 4), (8, 2, 4), (5, 0, 5)])
def test_the_target_is_rounded_up(controllers, agents, most):
    assert target(controllers, agents) == most


def test_without_renewals_trust_ends_before_the_lease_does(fleet):
    agent = fleet.join()
    agent.turn()
    agent.table.fails = "before"
    name = fleet.controllers[0]
    fleet.wait(TTL_MS / 1000 - 2.01)
    with pytest.raises(OutboxError):
        agent.turn()
    assert agent.fence(name) is not None
    fleet.wait(0.02)
    assert agent.fence(name) is None
    assert fleet.holders()[name] == agent.me.id


def test_a_lease_whose_answer_was_lost_is_found_by_the_next_renewal(fleet):
    agent = fleet.join()
    fleet.table.declare(fleet.controllers)
    agent.table.fails = "after"
    fleet.table.take(agent.me, fleet.controllers, 12, TTL_MS)
    with pytest.raises(OutboxError):
        agent.turn()
    agent.table.fails = "never"
    agent.turn()
    assert agent.mine == dict.fromkeys(fleet.controllers, 1)


def test_a_controller_whose_last_holder_is_in_a_transaction_is_taken_after_it(fleet):
    first, second = fleet.join(), fleet.join()
    first.turn()
    fence = first.fence(fleet.controllers[0])
    assert fence is not None
    assert fleet.table.begin(fence)
    fleet.wait(16)
    fleet.run(10, second)
    assert set(second.mine) == set(fleet.controllers[1:])
    fleet.table.end(fence)
    fleet.run(2, second)
    assert second.mine[fleet.controllers[0]] == 2
    assert not fleet.table.begin(fence)


class Schedules(RuleBasedStateMachine):
    """Agents that renew, freeze, lose answers, poll and stop in any order. ``open``: their fenced transactions."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet(["a", "b", "c"])
        for _ in range(3):
            self.fleet.join()
        self.open: list[Fence] = []
        self.stale: list[Fence] = []
        self.epochs: dict[str, int] = {}
        self.written: dict[str, int] = {}

    def agent(self, number: int) -> Leases:
        return self.fleet.agents[number % len(self.fleet.agents)]

    @rule(number=st.integers(0, 5), fails=st.sampled_from(["never", "never", "never", "before", "after"]))
    def renews(self, number, fails):
        agent = self.agent(number)
        agent.table.fails = fails
        with suppress(OutboxError):
            agent.turn()

    @rule(number=st.integers(0, 5), seconds=st.floats(0, 20))
    def freezes_within_a_renewal(self, number, seconds):
        """The database answers at once; the process sees the answer much later."""
        agent = self.agent(number)
        agent.table.fails = "never"
        renew = agent.table.renew

        def slow(me, ttl_ms):
            view = renew(me, ttl_ms)
            self.fleet.wait(seconds)
            return view

        agent.table.renew = slow
        agent.turn()
        agent.table.renew = renew

    @rule(seconds=st.floats(0.01, 20))
    def time_passes(self, seconds):
        self.fleet.wait(seconds)

    @rule(number=st.integers(0, 5), name=st.sampled_from("abc"))
    def begins_a_poll(self, number, name):
        fence = self.agent(number).fence(name)
        if fence is not None:
            self.stale.append(fence)
            self.begin(fence)

    @rule(number=st.integers(0, 5), name=st.sampled_from("abc"), seconds=st.sampled_from([0, 1, 5, 16]))
    def renews_and_polls_in_a_transaction_that_takes_a_while(self, number, name, seconds):
        self.renews(number, "never")
        self.begins_a_poll(number, name)
        self.fleet.wait(seconds)

    @precondition(lambda self: self.stale)
    @rule(number=st.integers(0, 50))
    def begins_a_transaction(self, number):
        """However long ago the poll began: the process may have been frozen since."""
        self.begin(self.stale[number % len(self.stale)])

    def begin(self, fence: Fence) -> None:
        if self.fleet.table.begin(fence):
            self.open.append(fence)
            assert fence.epoch >= self.written.get(fence.controller, 0)
            self.written[fence.controller] = fence.epoch

    @precondition(lambda self: len(self.open) > 2)
    @rule(number=st.integers(0, 50))
    def ends_a_transaction(self, number):
        self.fleet.table.end(self.open.pop(number % len(self.open)))

    @rule(number=st.integers(0, 5))
    def leaves(self, number):
        self.agent(number).table.fails = "never"
        self.agent(number).leave()

    @rule(number=st.integers(0, 5), leaving=st.booleans())
    def is_asked_to_hand_over(self, number, leaving):
        if seen := self.fleet.table.seen.get(self.agent(number).me.id):
            seen.leaving = leaving

    @rule()
    def joins(self):
        if len(self.fleet.agents) < 6:
            self.fleet.join()

    @invariant()
    def no_two_holders_are_inside_a_fence(self):
        for name in self.fleet.controllers:
            assert len({(each.holder, each.epoch) for each in self.open if each.controller == name}) <= 1

    @invariant()
    def no_two_agents_trust_the_same_lease(self):
        for name in self.fleet.controllers:
            trusting = [agent.me.id for agent in self.fleet.agents if agent.fence(name) is not None]
            assert len(trusting) <= 1
            if trusting:
                assert self.fleet.holders()[name] == trusting[0]

    @invariant()
    def epochs_grow(self):
        for lease in self.fleet.table.leases():
            assert lease.epoch >= self.epochs.get(lease.controller, 0)
            self.epochs[lease.controller] = lease.epoch


TestSchedules = Schedules.TestCase
