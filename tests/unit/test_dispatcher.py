"""The dispatcher beside an outbox in memory: revisions in flight, what nobody expected, and being cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agent.config.settings import DeliverySettings
from agent.delivery import claims
from agent.delivery import dispatcher as dispatching
from agent.delivery.answers import Answer
from agent.delivery.dispatcher import Dispatcher
from agent.model.deployment import State
from agent.outbox.offloop import OffLoop
from agent.outbox.values import DamagedError, DeliveryState, OutboxError, Settlement
from tests.deployments import NOON
from tests.integration.support import FakeClock
from tests.unit.deliveries import FULL, STORED, UNAVAILABLE, MemoryDeliveries, ScriptedHivel, at_once, claimed

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.outbox.values import Claimed

SETTINGS = replace(DeliverySettings(), concurrency=2)
REFUSED = Answer(422, '{"error":"wrong branch"}')


class World:
    """A dispatcher and what is around it."""

    def __init__(self, settings: DeliverySettings = SETTINGS) -> None:
        self.clock = FakeClock()
        self.outbox = MemoryDeliveries(self.clock)
        self.hivel = ScriptedHivel()
        self.settings = settings
        self.dispatcher = self.new_dispatcher()

    def new_dispatcher(self) -> Dispatcher:
        return Dispatcher(self.outbox, self.hivel, self.settings, off_loop=at_once, clock=self.clock)

    def run(self, times: int = 1) -> None:
        for _ in range(times):
            asyncio.run(self.dispatcher.run())

    def later(self, seconds: float = 900) -> None:
        self.clock.advance(s=seconds)
        self.run()

    def answers(self, *answers: Answer, meanwhile: Callable[[Claimed], None] = lambda _: None) -> None:
        """So the next ones are answered, and then as usual; ``meanwhile`` happens while one is in flight."""
        left = list(answers)

        async def answer(claimed: Claimed) -> Answer:
            await asyncio.sleep(0)
            meanwhile(claimed)
            return left.pop(0) if left else STORED

        self.hivel.answer = answer


@pytest.fixture
def world() -> World:
    return World()


def raising(error: Exception) -> Callable[..., Any]:
    """A method that only raises this."""

    def raises(*_: Any, **__: Any) -> Any:
        raise error

    return raises


# ---- revisions


@pytest.mark.parametrize("answer", [STORED, Answer(409)], ids=["new", "was there"])
def test_what_changes_in_flight_is_delivered_as_it_was_sent(world: World, answer: Answer) -> None:
    world.outbox.add(1)
    world.answers(answer, meanwhile=lambda _: world.outbox.rewrite(1, environment="staging"))
    world.run()
    world.later()
    row = world.outbox.rows[1]
    assert (row.state, row.revision, row.sent_revision) == (State.DELIVERED, 2, 1)
    assert row.content.environment == "production" == world.hivel.sent[0].content.environment
    assert len(world.hivel.sent) == 1


def test_of_what_was_there_before_its_second_revision_nobody_knows_which_one_hivel_has(world: World) -> None:
    world.outbox.add(1)
    world.answers(UNAVAILABLE, Answer(409))
    world.run()
    world.outbox.rewrite(1, environment="staging")
    world.later()
    row = world.outbox.rows[1]
    assert (row.state, row.revision, row.sent_revision) == (State.DELIVERED, 2, 0)


@pytest.mark.parametrize("answer", [REFUSED, UNAVAILABLE], ids=["refused", "again"])
@pytest.mark.parametrize("disk", ["works", "is full"])
def test_an_answer_to_an_old_revision_does_not_keep_back_the_new_one(world: World, answer: Answer, disk: str) -> None:
    """Also while the outbox cannot be told."""
    world.outbox.add(1)
    world.outbox.broken = FULL if disk == "is full" else None

    def rewrite(claimed: Claimed) -> None:
        if claimed.revision == 1:
            world.outbox.rewrite(1, branch="right")

    world.answers(answer, meanwhile=rewrite)
    world.run(3)
    assert [claimed.revision for claimed in world.hivel.sent] == [1, 2]
    world.outbox.broken = None
    world.run()
    row = world.outbox.rows[1]
    assert (row.state, row.sent_revision, row.content.branch) == (State.DELIVERED, 2, "right")
    assert [(s.claimed.revision, s.state) for s in row.history] == [
        (1, State.FAILED if answer is REFUSED else State.PENDING),
        (2, State.DELIVERED),
    ]


@pytest.mark.parametrize("answer", [REFUSED, UNAVAILABLE, STORED], ids=["refused", "again", "stored"])
def test_what_was_answered_and_cannot_be_stored_is_not_sent_again(world: World, answer: Answer) -> None:
    world.outbox.add(1)
    world.answers(answer)
    world.outbox.broken = FULL
    world.run(3)
    assert world.hivel.numbers == [1]
    assert world.dispatcher.trouble is FULL
    world.outbox.broken = None
    world.run()
    assert world.dispatcher.trouble is None
    assert [s.claimed.revision for s in world.outbox.rows[1].history] == [1]


def test_what_hivel_has_is_not_sent_again_for_a_newer_revision_while_the_disk_is_full(world: World) -> None:
    world.outbox.add(1)
    world.outbox.broken = FULL
    world.run()
    world.outbox.rewrite(1, environment="staging")
    world.run(3)
    assert world.hivel.numbers == [1]


def test_attempts_count_on_while_they_cannot_be_stored(world: World) -> None:
    world.outbox.add(1)
    world.outbox.broken = FULL
    world.answers(UNAVAILABLE, UNAVAILABLE, UNAVAILABLE)
    world.run()
    for _ in range(3):
        world.later()
    assert [claimed.attempts for claimed in world.hivel.sent] == [0, 1, 2, 3]


def test_those_that_wait_and_cannot_be_stored_do_not_hide_those_behind_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "CLAIM", 5)
    world.outbox.add(*range(1, 21))
    world.outbox.broken = FULL
    world.answers(*[REFUSED] * 12)
    world.run(2)
    assert sorted(world.hivel.numbers) == list(range(1, 21))


def test_what_was_claimed_a_while_ago_is_not_sent_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the rate is low, hundreds are claimed that will be sent in minutes."""
    world = World(replace(SETTINGS, concurrency=1, per_minute=60))
    world.outbox.add(*range(1, 7))

    async def wait_for(awaitable: Any, seconds: float) -> None:
        awaitable.close()
        world.clock.advance(s=seconds)

    def meanwhile(claimed: Claimed) -> None:
        if claimed.number == 2:
            world.outbox.rows[4].state = State.DISCARDED
            world.outbox.rewrite(5, branch="another")

    monkeypatch.setattr(dispatching.asyncio, "wait_for", wait_for)
    world.answers(meanwhile=meanwhile)
    world.run()
    assert [(c.number, c.revision) for c in world.hivel.sent] == [(1, 1), (2, 1), (3, 1), (5, 2), (6, 1)]


# ---- what nobody expected


def stumbles_over(*numbers: int, error: Exception) -> Callable[[Claimed], Any]:
    async def answer(claimed: Claimed) -> Answer:
        await asyncio.sleep(0)
        if claimed.number in numbers:
            raise error
        return STORED

    return answer


@pytest.mark.parametrize("number", [1, 7])
def test_an_exception_sets_aside_the_deployment_that_it_came_from(world: World, number: int) -> None:
    world.outbox.add(*range(1, 11))
    world.hivel.answer = stumbles_over(number, error=KeyError("\udcff nobody thought of this"))
    with capture_logs() as lines:
        world.run()
    assert world.outbox.states() == {"delivered": 9, "failed": 1}
    row = world.outbox.rows[number]
    assert row.state is State.FAILED
    assert row.reason is not None
    assert row.reason.startswith("cannot be sent: unexpected KeyError")
    row.reason.encode()
    [line] = [line for line in lines if line["event"] == "cannot send event"]
    assert line["deployment_id"] == f"main:deploy/shop#{number}"
    assert line["exception"].startswith("Traceback") and "raise error" in line["exception"]
    assert world.dispatcher.tally.failed == 1


def test_a_deployment_that_makes_no_event_is_set_aside_with_what_is_missing(world: World) -> None:
    """However many there are: each is its own fault."""
    world.outbox.add(*range(1, 11))
    for number in range(1, 6):
        world.outbox.rewrite(number, branch=None)
    world.run()
    assert world.outbox.states() == {"delivered": 5, "failed": 5}
    assert {world.outbox.rows[n].reason for n in range(1, 6)} == {"cannot create the event: no branch"}


def test_what_happens_to_one_after_the_other_is_about_none_of_them_and_is_told(world: World) -> None:
    """Two are set aside until it is clear; no bug makes a whole outbox fail."""
    world.outbox.add(*range(1, 101))
    world.hivel.answer = stumbles_over(*range(1, 101), error=RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        world.run()
    for _ in range(20):
        world.clock.advance(s=900)
        with pytest.raises(RuntimeError, match="a bug"):
            world.run()
    assert world.outbox.states() == {"failed": 2, "pending": 98}
    assert world.dispatcher.breaker.state == "outage"
    assert world.dispatcher.breaker.reason == "nothing can be sent: unexpected RuntimeError: a bug"
    world.hivel.answer = world.hivel.always(STORED)
    world.later()
    assert world.outbox.states() == {"failed": 2, "delivered": 98}


def test_many_that_nobody_can_send_keep_nobody_else_back(world: World) -> None:
    world.outbox.add(*range(1, 41))
    world.hivel.answer = stumbles_over(*range(1, 21), error=RuntimeError("a bug"))
    for _ in range(60):
        with suppress(RuntimeError):
            world.later()
    assert world.outbox.states() == {"failed": 20, "delivered": 20}


@pytest.mark.parametrize("method", ["claim", "settle", "make_due", "save_delivery_state", "delivery_state"])
@pytest.mark.parametrize("error", [ValueError("a bug"), DamagedError("broken"), OutboxError("no room")])
def test_an_outbox_that_raises_stops_a_run_and_the_next_one_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str, error: Exception
) -> None:
    world.outbox.add(*range(1, 6))
    monkeypatch.setattr(world.outbox, method, raising(error))
    reading = method in ("claim", "delivery_state")
    if isinstance(error, OutboxError) and not isinstance(error, DamagedError) and not reading:
        world.run()
        assert world.dispatcher.trouble is (None if method == "make_due" else error), "what is stored later makes good"
    else:
        with pytest.raises(type(error), match=str(error)):
            world.run()
    monkeypatch.undo()
    world.run()
    assert world.outbox.states() == {"delivered": 5}
    assert max(Counter(world.hivel.numbers).values()) == 1
    assert all(len(row.history) == 1 for row in world.outbox.rows.values())


def test_damage_ends_a_run_at_once_and_not_when_everything_was_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.outbox.add(*range(1, 2_001))
    monkeypatch.setattr(dispatching, "SETTLE_EVERY_S", 0)
    monkeypatch.setattr(world.outbox, "settle", raising(DamagedError("broken")))
    with pytest.raises(DamagedError):
        world.run()
    assert len(world.hivel.sent) < 100


def test_damage_that_one_of_several_senders_meets_is_told_as_what_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not as a group of exceptions, in which nobody would find it."""
    world.outbox.add(*range(1, 11))
    claim = world.outbox.claim

    def claims_once(*args: Any, **more: Any) -> Any:
        monkeypatch.setattr(world.outbox, "claim", raising(DamagedError("broken")))
        return claim(*args, **more)[:3]

    monkeypatch.setattr(world.outbox, "claim", claims_once)
    with pytest.raises(DamagedError):
        world.run()
    monkeypatch.undo()
    world.run()
    assert world.outbox.states() == {"delivered": 10}


# ---- clocks that jump

YEARS = 5 * 365 * 86_400_000


def test_a_clock_that_is_set_back_makes_nobody_wait(world: World) -> None:
    world.outbox.add(1)
    world.answers(UNAVAILABLE)
    world.run()
    world.clock.jump(ms=-YEARS)
    world.run()
    world.later()
    assert world.outbox.states() == {"delivered": 1}


@pytest.mark.parametrize("disk", ["is full", "has room again"])
def test_what_could_not_be_stored_before_the_clock_was_set_back_makes_nobody_wait(world: World, disk: str) -> None:
    world.outbox.add(1)
    world.outbox.rows[1].next_attempt_at = 0
    world.outbox.broken = FULL
    world.answers(UNAVAILABLE)
    world.run()
    world.clock.jump(ms=-YEARS)
    world.outbox.broken = FULL if disk == "is full" else None
    world.run()
    world.later()
    assert world.hivel.numbers == [1, 1]


def test_what_is_stored_long_after_the_clock_was_set_back_waits_no_longer_than_the_longest_backoff(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.outbox.add(1, 2, 3)
    world.answers(*[UNAVAILABLE] * 3)
    monkeypatch.setattr(world.outbox, "settle", raising(FULL))
    world.run()
    world.clock.jump(ms=-YEARS)
    world.run()
    monkeypatch.undo()
    world.run()
    latest = world.clock.now_ms() + world.settings.backoff_max_ms
    assert all(len(row.history) == 1 and row.next_attempt_at <= latest for row in world.outbox.rows.values())


def test_a_clock_that_is_set_and_set_back_between_two_runs_makes_nobody_wait_for_long(world: World) -> None:
    """Nobody can tell from the clock that something was stored meanwhile, with a time of that clock."""
    world.run()
    world.clock.jump(ms=YEARS)
    world.outbox.add(1)
    world.clock.jump(ms=-YEARS)
    world.run()
    world.later()
    assert world.outbox.states() == {"delivered": 1}


def test_a_clock_that_is_set_back_in_the_middle_of_a_long_run_makes_nobody_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatching, "SETTLE_EVERY_S", 0)
    world.outbox.add(*range(1, 101))
    world.outbox.rows[100].next_attempt_at += 1_000

    def meanwhile(claimed: Claimed) -> None:
        if claimed.number == 3:
            world.clock.jump(ms=-YEARS)

    world.answers(meanwhile=meanwhile)
    world.run()
    assert world.outbox.states() == {"delivered": 100}


# ---- being cancelled


@given(after=st.integers(1, 250), concurrency=st.integers(1, 3), refused=st.sets(st.integers(1, 20)))
def test_whoever_cancels_a_run_loses_and_doubles_no_outcome(after: int, concurrency: int, refused: set[int]) -> None:
    world = World(replace(SETTINGS, concurrency=concurrency))
    world.outbox.add(*range(1, 21))
    answered: list[int] = []

    async def answer(claimed: Claimed) -> Answer:
        await asyncio.sleep(0)
        answered.append(claimed.number)  # the last moment: from here on there is an outcome
        return REFUSED if claimed.number in refused else STORED

    world.hivel.answer = answer

    async def run_and_cancel() -> bool:
        running = asyncio.create_task(world.dispatcher.run())
        for _ in range(after):
            await asyncio.sleep(0)
        running.cancel()
        try:
            await running
        except asyncio.CancelledError:
            return True
        return False

    asyncio.run(run_and_cancel())
    world.run()
    assert world.outbox.states() == {
        state: n for state, n in (("delivered", 20 - len(refused)), ("failed", len(refused))) if n
    }
    settled = Counter({number: len(row.history) for number, row in world.outbox.rows.items()})
    assert settled == Counter(answered)
    assert set(settled.values()) == {1}, "what was answered is not asked again"


def test_what_is_cancelled_while_it_is_stored_is_settled_once() -> None:
    """With a thread that is in the middle of it."""
    world = World()
    world.outbox.add(1, 2)
    storing, may_end = threading.Event(), threading.Event()
    settle = world.outbox.settle

    def slow(settlements: Any) -> None:
        storing.set()
        may_end.wait(120)
        settle(settlements)

    world.outbox.settle = slow  # type: ignore[method-assign]

    async def test() -> None:
        async with OffLoop() as off_loop:
            dispatcher = Dispatcher(world.outbox, world.hivel, SETTINGS, off_loop=off_loop, clock=world.clock)
            running = asyncio.create_task(dispatcher.run())
            await asyncio.to_thread(storing.wait, 20.0)
            running.cancel()
            await asyncio.sleep(0)
            may_end.set()
            with pytest.raises(asyncio.CancelledError):
                await running
            await dispatcher.run()

    asyncio.run(test())
    assert [len(row.history) for row in world.outbox.rows.values()] == [1, 1]
    assert world.outbox.states() == {"delivered": 2}


# ---- the event loop, and how many are sent at once


def test_the_event_loop_never_waits_for_the_outbox() -> None:
    world = World()
    world.outbox.add(*range(1, 301))
    callers = set()
    for name in ("claim", "settle", "make_due", "save_delivery_state", "delivery_state"):
        method = getattr(world.outbox, name)

        def noted(*args: Any, _method: Any = method, **options: Any) -> Any:
            callers.add(threading.get_ident())
            return _method(*args, **options)

        setattr(world.outbox, name, noted)

    async def test() -> None:
        async with OffLoop() as off_loop:
            dispatcher = Dispatcher(world.outbox, world.hivel, SETTINGS, off_loop=off_loop, clock=world.clock)
            await dispatcher.run()

    asyncio.run(test())
    assert world.outbox.states() == {"delivered": 300}
    assert threading.get_ident() not in callers
    assert len(callers) == 1


def test_no_more_are_in_flight_than_the_settings_allow_and_no_fewer() -> None:
    world = World(replace(SETTINGS, concurrency=5))
    world.outbox.add(*range(1, 51))
    world.run()
    assert world.hivel.most_at_once == 5


def test_what_comes_while_one_is_in_flight_does_not_wait_behind_it() -> None:
    """One that is slow, and a run that began with nothing else."""
    world = World(replace(SETTINGS, concurrency=4))
    world.outbox.add(1)
    first_is_in_flight = asyncio.Event()

    async def answer(claimed: Claimed) -> Answer:
        if claimed.number == 1 and not first_is_in_flight.is_set():
            first_is_in_flight.set()
            world.outbox.add(2, 3, 4, 5, 6)
            return UNAVAILABLE
        for _ in range(10):
            await asyncio.sleep(0)
        return STORED

    world.hivel.answer = answer
    world.run()
    assert world.hivel.most_at_once == 4
    assert world.outbox.states() == {"delivered": 5, "pending": 1}


def test_nothing_due_is_found_out_with_one_question(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run()
    asked = []
    claim = world.outbox.claim
    monkeypatch.setattr(world.outbox, "claim", lambda *args, **more: asked.append(args) or claim(*args, **more))
    monkeypatch.setattr(world.outbox, "settle", None)
    monkeypatch.setattr(world.outbox, "save_delivery_state", None)
    world.run()
    assert len(asked) == 1


def test_however_long_a_run_lasts_no_more_is_kept_in_mind_than_what_is_claimed_ahead(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "CLAIM", 10)
    monkeypatch.setattr(dispatching, "SETTLE_EVERY_S", 0)
    world.outbox.add(*range(1, 501))
    kept = []
    claim = world.outbox.claim
    monkeypatch.setattr(
        world.outbox, "claim", lambda limit, besides: kept.append(len(besides)) or claim(limit, besides=besides)
    )
    world.run()
    assert world.outbox.states() == {"delivered": 500}
    assert max(kept) <= 20


def test_a_settling_ends_although_more_and_more_is_to_be_settled(world: World) -> None:
    """Claims wait for it: they would wait until nothing is left to be sent."""
    world.outbox.add(*range(1, 101))
    own = claims.Claims(world.outbox, at_once, world.clock, 900_000)
    settle = world.outbox.settle
    batches = []

    def settle_and_add(settlements: list[Settlement]) -> None:
        batches.append(len(settlements))
        settle(settlements)
        own.add(delivered(len(batches) + 1))

    world.outbox.settle = settle_and_add  # type: ignore[method-assign,assignment]
    own.add(delivered(1))
    state = world.dispatcher.breaker.snapshot()
    asyncio.run(own.settle(state))
    assert batches == [1]
    own.let_go()
    asyncio.run(own.settle(state))
    assert batches == [1, 1]


def delivered(number: int) -> Settlement:
    return Settlement(claimed(number), State.DELIVERED, True, NOON, 1, 200, "delivered", "")


def test_when_hivel_is_back_nobody_waits_out_a_backoff(world: World) -> None:
    world.outbox.add(*range(1, 11))
    world.answers(*[UNAVAILABLE] * 30)
    world.run()
    world.outbox.rows[10].next_attempt_at += 800_000
    world.answers()
    world.clock.advance(s=5)
    world.run()
    assert world.outbox.states() == {"delivered": 10}


def test_a_probe_is_one_of_those_that_were_tried_least_and_is_settled_at_once(world: World) -> None:
    world.outbox.add(1, 2, 3)
    world.answers(*[UNAVAILABLE] * 30)
    world.run()
    world.outbox.add(4)
    world.later()
    assert world.hivel.numbers[3:] == [4]
    assert [len(row.history) for row in world.outbox.rows.values()] == [1, 1, 1, 1]


# ---- what the process before left


def test_a_new_process_goes_on_in_the_state_of_the_one_before(world: World) -> None:
    world.outbox.add(1, 2, 3, 4)
    before = DeliveryState("paused", world.clock.now_ms() - 60_000, "HTTP 401", None)
    world.outbox.save_delivery_state(before)
    world.answers(Answer(401))
    world.run()
    state = world.outbox.delivery_state()
    assert state is not None
    assert (state.state, state.since) == ("paused", before.since)
    assert len(world.hivel.sent) == 1
    world.later()
    world.later()
    assert world.outbox.states() == {"delivered": 4}
