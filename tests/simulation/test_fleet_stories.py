"""Stories of several agents on one outbox that nobody thought of: they freeze, die and lose answers while builds end.

Leases, outbox and delivery are those of PostgreSQL. Time passes equally for the database, Jenkins and all agents, but
the wall clocks of some agents are wrong. A frozen agent stands still before or after any statement, request or POST,
while the others go on; then it goes on as if nothing had happened.

What is promised, and checked in every step or after every story:

* No two agents trust the lease of one controller, whoever of them stands still.
* A poll under an earlier lease stores nothing after one under a later lease.
* When all troubles are over, every controller is polled by one agent, and each build that ended is one deployment: it
  is at Hivel once, with its result.
* What is delivered is not sent again, except by an agent that stood still within its delivery.
* Without freezes, deaths, cuts and lost answers, nothing is sent twice.

``HYPOTHESIS_PROFILE=explore`` or ``HIVEL_STORIES=500`` plays others, and more.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from psycopg.pq import TransactionStatus

from agent.config.settings import DeliverySettings
from agent.delivery.dispatcher import Dispatcher
from agent.deployments.derive import Rules
from agent.fleet.leases import TTL_MS, Leases
from agent.ingest.ingest import Ingest
from agent.model.times import Clock
from agent.outbox import leases as values
from agent.outbox.clock import DatabaseClock
from agent.outbox.engines import shared_by
from agent.outbox.postgresql.deliveries import CLAIM_MS
from agent.outbox.postgresql.leases import LeaseFence, longest_stillness_ms
from agent.outbox.postgresql.leases import Leases as LeaseTable
from agent.outbox.values import OutboxError
from agent.sandbox.jenkins import LocalJenkins
from tests.integration.support import FakeClock
from tests.integration.support import rule as deployments_in
from tests.simulation import played
from tests.simulation.engines import AgentKilledError, PostgresqlProcess, Trouble
from tests.simulation.support import (
    HOLD_FOR_MS,
    REPO,
    in_process,
    memory_folder,
    play_random_stories,
    settings_of_jenkins,
)
from tests.simulation.test_outbox_stories import STORED_UNSEEN, Hivel, fields
from tests.unit.deliveries import at_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.delivery.answers import Outcome
    from agent.outbox.values import Claimed
    from tests.simulation.engines import Engines, Postgresql

STEPS = 30
CONTROLLERS = ("east", "west")
JOBS = ("deploy/a", "deploy/b")
RULES = Rules((deployments_in("deploy/**"),), controllers=frozenset(CONTROLLERS))
STATUS = {"SUCCESS": "success", "FAILURE": "failed", "ABORTED": "canceled"}
SETTINGS = replace(DeliverySettings(), concurrency=2, backoff_initial_ms=1_000, backoff_max_ms=10_000)
STILL_MS = longest_stillness_ms(TTL_MS)
# How far the wall clocks of the agents are ahead.
AHEAD_MS = (0, 7_200_000, -7_200_000)
ROUND_S = 5

picks = st.integers(0, 1_000)
# A renewal has few points, and most of those of a poll are within its transactions.
points = st.one_of(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40))
kinds_of_work = st.sampled_from(["turn", "poll", "poll", "deliver", "deliver"])
# A lease expires within the third one, a claim within the fourth.
pauses = st.sampled_from([3, 14, 25, 70])
results = st.sampled_from([*STATUS])


class Life:
    """What a process does, point by point: something can happen before or after a statement, a request or a POST."""

    def __init__(self) -> None:
        self.over = False
        self._left: int | None = None
        self._what: Callable[[psycopg.Connection[Any] | None], None] = lambda _: None

    def plan(self, point: int | None, what: Callable[[psycopg.Connection[Any] | None], None] = lambda _: None) -> None:
        """Let this happen at the n-th point from now on; None: nothing happens."""
        self._left, self._what = point, what

    def __call__(self, connection: psycopg.Connection[Any] | None = None) -> None:
        """A point: ``connection``: of the statement."""
        if self.over:
            raise AgentKilledError
        if self._left is None:
            return
        self._left -= 1
        if self._left == 0:
            self._left = None
            self._what(connection)


class Session(PostgresqlProcess):
    """One connection of an agent. ``committed``: called after each COMMIT that the server has."""

    def __init__(
        self, engine: Postgresql, member: Member, fence: values.Fence | None = None,
        committed: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        super().__init__(engine, member.trouble)
        self.outbox.clock = member.clock
        self._life, self._committed = member.life, committed
        if fence is not None:
            self.outbox.fence(LeaseFence(fence, STILL_MS))

    def _run(self, connection: psycopg.Connection[Any], sql: str, run: Callable[[], Any]) -> Any:
        def noted() -> Any:
            done = run()
            if sql == "COMMIT":
                self._committed()
            return done

        self._life(connection)
        done = super()._run(connection, sql, noted)
        self._life(connection)
        return done

    def kill(self) -> None:
        with suppress(psycopg.Error):  # the server ended the session before
            super().kill()
        self.outbox.connection.close()


class Wrong(Clock):
    """The clock of a machine that is ahead."""

    def __init__(self, right: FakeClock, ahead_ms: int) -> None:
        self._right, self._ahead_ms = right, ahead_ms

    def now_ms(self) -> int:
        return self._right.now_ms() + self._ahead_ms

    def monotonic(self) -> float:
        return self._right.monotonic()


@dataclass(frozen=True)
class Sender:
    """What an agent sends to Hivel."""

    member: Member

    async def send(self, claimed: Claimed) -> Outcome:
        member, world = self.member, self.member.world
        member.in_flight[claimed.deployment_id] = world.engine.now_ms()
        member.life()
        world.look_at(member, claimed.deployment_id)
        outcome = await world.hivel.send(claimed)
        member.life()
        del member.in_flight[claimed.deployment_id]
        return outcome

    def reload_token(self) -> bool:
        return False


class Polls:
    """The polls of a controller under one lease."""

    def __init__(self, member: Member, fence: values.Fence) -> None:
        self.fence = fence
        world = member.world
        noted = partial(world.stored.append, fence)
        self.session = Session(world.engine, member, fence, noted)
        ingest = Ingest(self.session.outbox, RULES, HOLD_FOR_MS)
        jenkins = world.jenkins[fence.controller]
        settings = settings_of_jenkins(fence.controller, jenkins, "2020-01-01")
        try:
            self._client, self._poller = in_process(settings, jenkins, ingest, member.life)
        except BaseException:  # a poller begins with a statement
            self.session.kill()
            raise

    def poll(self) -> None:
        self._poller.poll()

    def end(self) -> None:
        self._client.close()
        self.session.kill()


class Member:
    """One agent: its leases, its polls and its delivery, as the daemon runs them, each with its own connection.

    ``in_flight``: what is being sent, and since when.
    """

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.life, self.trouble = Life(), Trouble()
        self.clock = DatabaseClock(Wrong(world.clock, AHEAD_MS[number % len(AHEAD_MS)]))
        self.stood_still = False
        self.in_flight: dict[str, int] = {}
        rng = random.Random(number)
        me = values.Agent(str(UUID(int=number)), f"host-{number}", "1.0")
        self._leasing, self._delivering = Session(world.engine, self), Session(world.engine, self)
        table = LeaseTable(self._leasing.outbox.connection, self.clock)
        self.leases = Leases(table, me, CONTROLLERS, self.clock, rng=rng)
        self._dispatcher = Dispatcher(
            self._delivering.outbox, Sender(self), SETTINGS, off_loop=at_once, clock=self.clock, rng=rng,
            shared=shared_by(self._delivering.outbox),
        )  # fmt: skip
        self._polls: dict[str, Polls] = {}

    def turn(self) -> None:
        """Renew the leases; begin and end polls as they come and go."""
        try:
            self.leases.turn()
        finally:
            self._reconcile()

    def _reconcile(self) -> None:
        allowed = {name: fence for name in CONTROLLERS if (fence := self.leases.fence(name)) is not None}
        for name, polls in [*self._polls.items()]:
            if allowed.get(name) != polls.fence:
                polls.end()
                del self._polls[name]
        for name in allowed.keys() - self._polls.keys():
            self._polls[name] = Polls(self, allowed[name])

    def poll(self) -> None:
        """Look at each controller whose lease it trusts."""
        for name, polls in [*self._polls.items()]:
            if self.leases.fence(name) == polls.fence:
                polls.poll()

    def deliver(self) -> None:
        """Send what is due. In a thread, because another agent may be within its own event loop."""
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, self._dispatcher.run()).result()

    def leave(self) -> None:
        """Stop in order."""
        self.leases.leave()
        self._delivering.outbox.release_claims()
        self.kill()

    def kill(self) -> None:
        """End the process: what was not committed is gone."""
        for polls in self._polls.values():
            polls.end()
        self._leasing.kill()
        self._delivering.kill()


class World(RuleBasedStateMachine):
    """The agents, their controllers, Hivel, and what was promised.

    ``stored``: the leases under which polls committed something, in this order.
    """

    def __init__(self, engines: Engines) -> None:
        super().__init__()
        played.begin(f"fleets on {engines.name}")
        self.folder = memory_folder()
        self.clock = FakeClock()
        self.engine: Any = engines(Path(self.folder.name), self.clock)
        self.jenkins = {name: LocalJenkins(now_ms=self.engine.now_ms) for name in CONTROLLERS}
        for jenkins in self.jenkins.values():
            for job in JOBS:
                jenkins.add_job(job)
        self.hivel = Hivel(lambda: None, self.clock)
        self.members: list[Member] = []
        self.frozen: set[Member] = set()
        self.running: list[tuple[str, str, int]] = []
        self.ended: dict[str, str] = {}
        self.stored: list[values.Fence] = []
        self.sent_again = Counter[str]()
        self.disturbed = False
        self._started = 0

    @initialize(agents=st.integers(1, 3))
    def agents_start(self, agents: int) -> None:
        for _ in range(agents):
            self._start()

    def _start(self) -> None:
        self._started += 1
        self.members.append(Member(self, self._started))

    # ---- builds

    def _start_builds(self) -> None:
        for controller, jenkins in self.jenkins.items():
            self.running += [(controller, job, jenkins.start_build(job, repo=REPO)) for job in JOBS]
        self.clock.advance(s=1)

    @rule()
    def builds_start(self) -> None:
        self._start_builds()

    @precondition(lambda self: self.running)
    @rule(pick=picks, result=results)
    def a_build_ends(self, pick: int, result: str) -> None:
        controller, job, number = self.running.pop(pick % len(self.running))
        self.jenkins[controller].finish_build(job, number, result)
        self.ended[f"{controller}:{job}#{number}"] = STATUS[result]

    def _build(self, result: str) -> None:
        self._start_builds()
        while self.running:
            self.a_build_ends(0, result)

    # ---- the life of an agent

    def _let(self, member: Member, work: str, *, expected: tuple[type[OutboxError], ...] = ()) -> None:
        """Let an agent do this; ``expected``: errors that something explains."""
        member.stood_still = False
        member.in_flight.clear()
        try:
            getattr(member, work)()
        except expected:
            pass
        except AgentKilledError:
            self._bury(member)
        except BaseExceptionGroup as group:
            if group.subgroup(AgentKilledError) is None:
                raise
            self._bury(member)
        finally:
            member.life.plan(None)
            member.trouble.cut.set(None, after=False)

    def _bury(self, member: Member) -> None:
        member.kill()
        self.members.remove(member)
        played.now.kills += 1

    def _go_on(self, seconds: float) -> None:
        """Time passes; all agents that can do what they should."""
        while seconds > 0:
            self.clock.advance(s=min(seconds, ROUND_S))
            seconds -= ROUND_S
            for member in self.members:
                if member not in self.frozen:
                    for work in ("turn", "poll", "deliver"):
                        self._let(member, work)
            self.no_two_agents_trust_one_lease()

    @rule(seconds=st.sampled_from([5, 20]))
    def all_goes_well(self, seconds: int) -> None:
        self._go_on(seconds)

    @rule(seconds=st.sampled_from([0.5, 4, 13.5, 16, 70]))
    def nobody_does_anything(self, seconds: float) -> None:
        self.clock.advance(s=seconds)

    @precondition(lambda self: len(self.members) < 3)
    @rule()
    def an_agent_starts(self) -> None:
        self._start()

    @precondition(lambda self: self.members)
    @rule(pick=picks, work=kinds_of_work)
    def an_agent_works(self, pick: int, work: str) -> None:
        self._let(self._picked(pick), work)

    def _picked(self, pick: int) -> Member:
        return self.members[pick % len(self.members)]

    def _about_to(self, work: str, pick: int) -> Member:
        """One of the agents, with something to do."""
        member = self._picked(pick)
        self._build("SUCCESS")
        for before in {"turn": (), "poll": ("turn",), "deliver": ("turn", "poll")}[work]:
            self._let(member, before)
        return member

    @precondition(lambda self: self.members)
    @rule(pick=picks)
    def an_agent_leaves(self, pick: int) -> None:
        member = self._picked(pick)
        member.leave()
        self.members.remove(member)

    @precondition(lambda self: self.members)
    @rule(pick=picks, leaving=st.booleans())
    def an_agent_is_asked_to_hand_over_or_to_take_part_again(self, pick: int, leaving: bool) -> None:
        member = self._picked(pick)
        member.leases.table.ask_to_leave([member.leases.me.id], leaving=leaving)  # type: ignore[attr-defined]

    @precondition(lambda self: self.members)
    @rule(pick=picks, work=kinds_of_work, point=points)
    def an_agent_dies(self, pick: int, work: str, point: int) -> None:
        """Or not, if it does less than this."""
        member = self._about_to(work, pick)

        def die(_: object) -> None:
            member.life.over = True
            raise AgentKilledError

        self.disturbed = True
        member.life.plan(point, die)
        self._let(member, work)

    @precondition(lambda self: self.members)
    @rule(pick=picks, work=kinds_of_work, statement=points, after=st.booleans())
    def an_agent_is_cut_off(self, pick: int, work: str, statement: int, after: bool) -> None:
        member = self._about_to(work, pick)
        self.disturbed = True
        member.trouble.cut.set(statement, after=after)
        self._let(member, work, expected=(OutboxError,))

    @precondition(lambda self: self.members)
    @rule(pick=picks, point=st.integers(1, 8), seconds=pauses)
    def an_agent_freezes_while_it_renews(self, pick: int, point: int, seconds: int) -> None:
        self._freeze("turn", pick, point, seconds)

    @precondition(lambda self: self.members)
    @rule(pick=picks, point=points, seconds=pauses)
    def an_agent_freezes_while_it_polls(self, pick: int, point: int, seconds: int) -> None:
        self._freeze("poll", pick, point, seconds)

    @precondition(lambda self: self.members)
    @rule(pick=picks, point=st.integers(1, 30), seconds=pauses)
    def an_agent_freezes_while_it_delivers(self, pick: int, point: int, seconds: int) -> None:
        self._freeze("deliver", pick, point, seconds)

    def _freeze(self, work: str, pick: int, point: int, seconds: int) -> None:
        """There is another agent to take over. Within a transaction the server ends the session in time."""
        member = self._about_to(work, pick)
        if len(self.members) == 1:
            self._start()

        def freeze(connection: psycopg.Connection[Any] | None) -> None:
            played.now.freezes += 1
            member.stood_still = True
            if connection is not None and connection.info.transaction_status is not TransactionStatus.IDLE:
                self.clock.advance(ms=STILL_MS)
                self.engine.rows("SELECT pg_terminate_backend(?, 60000)", connection.info.backend_pid)
            self.frozen.add(member)
            self._go_on(seconds)
            self.frozen.discard(member)

        self.disturbed = True
        member.life.plan(point, freeze)
        self._let(member, work, expected=(OutboxError,))

    # ---- Hivel

    @rule(mood=st.sampled_from(["up", "up", "503", "refused", *STORED_UNSEEN]))
    def hivel_has_a_mood(self, mood: str) -> None:
        self.hivel.mood = mood
        self.disturbed |= mood in STORED_UNSEEN

    def look_at(self, member: Member, name: str) -> None:
        """What is about to be sent. A claim that is used has at least half of its time left."""
        [(state,)] = self.engine.rows("SELECT state FROM deployments WHERE deployment_id = ?", name)
        assert state == "pending" or member.stood_still, f"{name} is sent although it is {state}"
        since = [each.in_flight[name] for each in self.members if each is not member and name in each.in_flight]
        assert all(self.engine.now_ms() - moment >= CLAIM_MS / 2 for moment in since), f"two agents send {name}"
        self.sent_again[name] += name in self.hivel.has

    # ---- what holds at any time

    @invariant()
    def no_two_agents_trust_one_lease(self) -> None:
        for name in CONTROLLERS:
            trusting = [each.leases.me.name for each in self.members if each.leases.fence(name) is not None]
            assert len(trusting) <= 1, f"{name} is polled by {trusting}"

    # ---- the end

    def teardown(self) -> None:
        try:
            self._let_things_settle()
            self._check()
        finally:
            for member in self.members:
                member.kill()
            self.engine.close()
            self.folder.cleanup()

    def _let_things_settle(self) -> None:
        """All builds end, all troubles are over, and claims and leases of the dead expire."""
        while self.running:
            self.a_build_ends(0, "SUCCESS")
        self.hivel.mood = "up"
        if not self.members:
            self._start()
        for member in self.members:
            member.leases.table.ask_to_leave([member.leases.me.id], leaving=False)  # type: ignore[attr-defined]
        self.clock.advance(ms=CLAIM_MS)
        self._go_on(40)

    def _check(self) -> None:
        states = dict(self.engine.rows("SELECT deployment_id, state FROM deployments"))
        assert states == dict.fromkeys(self.ended, "delivered")
        assert {name: fields(body)["status"] for name, body in self.hivel.has.items()} == self.ended
        assert self.disturbed or not self.sent_again.total(), f"sent again for no reason: {self.sent_again}"
        for name in CONTROLLERS:
            epochs = [each.epoch for each in self.stored if each.controller == name]
            assert epochs == sorted(epochs), f"stored under an earlier lease of {name}: {epochs}"
            assert sum(each.leases.fence(name) is not None for each in self.members) == 1


@pytest.mark.parametrize("engines", ["postgresql"], indirect=True)
def test_random_stories_of_fleets(engines: Engines) -> None:
    stories = engines.stories(sqlite=0, postgresql=150 if "explore" in os.environ.get("HYPOTHESIS_PROFILE", "") else 20)
    play_random_stories(partial(World, engines), stories=stories, steps=STEPS)
