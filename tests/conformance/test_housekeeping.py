"""What is old is deleted in small steps, together with what belongs to it, and never too early."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.deployment import State
from agent.model.endings import Ended, Ending
from agent.model.fact import Fact, gone
from agent.model.keys import Project, Run
from agent.outbox.values import (
    Action,
    Change,
    Counts,
    JobCursor,
    Keep,
    OpenBuild,
    Progress,
    Renamed,
    SetAside,
    WantedBuild,
)
from tests.conformance.things import (
    DAY,
    JOB,
    claim_of,
    clean_up,
    content,
    deployment,
    finished,
    in_state,
    inserted,
    refusal,
    reported,
    retry,
    rewritten,
    run,
    stored,
    success,
)
from tests.integration.support import NOON

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.outbox.interface import Outbox
    from tests.engines import Engine
    from tests.integration.support import FakeClock

KEEP = Keep(30 * DAY, 400 * DAY, 3_650 * DAY)
YEARS = 5 * 365 * DAY


def enqueue(outbox: Outbox, *numbers: int, job: str = "deploy/shop") -> None:
    """A fact and a pending deployment of each."""
    runs = [run(number, job) for number in numbers]
    now = outbox.clock.now_ms()
    refused = outbox.store([Change(facts=(finished(each, at=now),), inserted=(deployment(of=each),)) for each in runs])
    assert not refused


def deliver_all(outbox: Outbox) -> None:
    while due := outbox.claim(500):
        outbox.settle([success(claimed, at=outbox.clock.now_ms()) for claimed in due])


def has_facts(outbox: Outbox, number: int = 1) -> bool:
    return bool(outbox.load([run(number)])[run(number)].facts)


def known_start(outbox: Outbox, number: int = 1) -> int | None:
    """When the build whose id this is started, if a deployment has or had it."""
    name = f"main:deploy/shop#{number}"
    with pytest.raises(ZeroDivisionError), outbox.transaction():
        refused = outbox.store([Change(inserted=(deployment(number, deployment_id=name),))])
        raise ZeroDivisionError
    return refused.get(name)


# ---- facts and attempts


def test_facts_and_attempts_go_a_while_after_delivery_and_the_deployment_stays(
    outbox: Outbox, clock: FakeClock
) -> None:
    enqueue(outbox, 1, 2)
    outbox.settle([retry(claim_of(outbox, 1))])
    deliver_all(outbox)
    before = list(outbox.all_deployments())
    clock.advance(ms=30 * DAY - 1)
    clean_up(outbox, KEEP)
    assert (has_facts(outbox), len(outbox.attempts(before[0]))) == (True, 1)
    clock.advance(ms=2)
    clean_up(outbox, KEEP)
    assert (has_facts(outbox, 1), has_facts(outbox, 2), outbox.attempts(before[0])) == (False, False, [])
    assert list(outbox.all_deployments()) == before


@pytest.mark.parametrize("state", [State.HELD, State.PENDING, State.FAILED])
def test_the_facts_of_a_build_go_together_once_all_its_deployments_are_settled(
    outbox: Outbox, clock: FakeClock, state: State
) -> None:
    facts = (reported(run(1)), finished(run(1)))
    outbox.store([Change(facts=facts, inserted=(deployment(1), deployment(1, state, deployment_id="two")))])
    outbox.settle([retry(claim_of(outbox, 1)), success(claim_of(outbox, 1))])
    clock.advance(ms=99 * DAY)
    clean_up(outbox, KEEP)
    assert outbox.facts(run(1)) == [*facts]
    assert len(outbox.attempts(stored(outbox, 1))) == 1
    other = stored(outbox, 2)
    if state is State.HELD:
        other = rewritten(outbox, other, state=State.PENDING, deployment_id="two", held_since=None)
    assert outbox.discard([other], "why") == [True]
    clock.advance(ms=29 * DAY)
    clean_up(outbox, KEEP)
    assert outbox.facts(run(1)) == [*facts]
    clock.advance(ms=2 * DAY)
    clean_up(outbox, KEEP)
    assert (outbox.facts(run(1)), outbox.attempts(stored(outbox, 1))) == ([], [])


def test_the_facts_of_a_build_that_is_followed_stay(outbox: Outbox, clock: FakeClock) -> None:
    """Of that number another build may be running by now."""
    enqueue(outbox, 1, 2)
    deliver_all(outbox)
    builds = (OpenBuild(1, seen=True, first_seen_at=NOON),)
    outbox.save_progress(Progress("main", open_builds={"deploy/shop": builds}))
    outbox.want_builds("main", [("deploy/shop", 2)])
    clock.advance(ms=31 * DAY)
    clean_up(outbox, KEEP)
    assert (has_facts(outbox, 1), has_facts(outbox, 2)) == (True, False)
    outbox.save_progress(Progress("main", open_builds={"deploy/shop": ()}))
    clock.advance(ms=DAY)
    clean_up(outbox, KEEP)
    assert not has_facts(outbox, 1)


@pytest.mark.parametrize("last", [None, finished(run(1)), gone(run(1), started_at=NOON, at=NOON)], ids=str)
def test_a_build_that_reported_itself_is_waited_for_until_a_poll_knows_its_end(
    outbox: Outbox, clock: FakeClock, last: Fact | None
) -> None:
    outbox.store([Change(facts=(reported(run(1)),), inserted=(deployment(1),))])
    outbox.want_builds("main", [("deploy/shop", 1)])
    deliver_all(outbox)
    if last is not None:
        outbox.store([Change(facts=(last,))])
    clock.advance(ms=31 * DAY)
    clean_up(outbox, KEEP)
    assert has_facts(outbox) is (last is None)
    outbox.save_progress(Progress("main", no_longer_wanted=(WantedBuild("deploy/shop", 1, NOON),)))
    clock.advance(ms=DAY)
    clean_up(outbox, KEEP)
    assert not has_facts(outbox)


def test_what_nobody_polls_goes_once_its_deployments_are_settled(outbox: Outbox, clock: FakeClock) -> None:
    of = Run(Project("github_actions", "acme", "acme/shop"), "4711", 2)
    outbox.store([Change(facts=(reported(of),), inserted=(deployment(of=of),))])
    deliver_all(outbox)
    clock.advance(ms=31 * DAY)
    clean_up(outbox, KEEP)
    assert outbox.facts(of) == []
    assert outbox.of_run(of) != []


def test_facts_that_made_no_deployment_go_a_while_after_they_came(outbox: Outbox, clock: FakeClock) -> None:
    outbox.store([Change(facts=(finished(run(1)),))])
    clock.advance(ms=20 * DAY)
    outbox.store([Change(facts=(finished(run(2), at=clock.now_ms()),))])
    clock.advance(ms=11 * DAY)
    clean_up(outbox, KEEP)
    assert (has_facts(outbox, 1), has_facts(outbox, 2)) == (False, True)


def test_that_a_build_was_no_deployment_is_known_after_its_facts_are_gone(outbox: Outbox, clock: FakeClock) -> None:
    outbox.save_progress(Progress("main", ended={JOB: (Ended(1, 3, Ending.READ, NOON),)}))
    outbox.store([Change(facts=(finished(run(1)),)), Change(facts=(finished(run(2)),))])
    enqueue(outbox, 3)
    deliver_all(outbox)
    clock.advance(ms=31 * DAY)
    clean_up(outbox, KEEP)
    assert outbox.endings("main", JOB) == [Ended(1, 2, Ending.NO_DEPLOYMENT, NOON), Ended(3, 3, Ending.READ, NOON)]


def test_a_fact_that_came_late_keeps_the_others_of_its_build(outbox: Outbox, clock: FakeClock) -> None:
    enqueue(outbox, 1)
    deliver_all(outbox)
    clock.advance(ms=29 * DAY)
    outbox.store([Change(facts=(reported(run(1), at=clock.now_ms()),))])
    clock.advance(ms=29 * DAY)
    clean_up(outbox, KEEP)
    assert len(outbox.facts(run(1))) == 2
    clock.advance(ms=2 * DAY)
    clean_up(outbox, KEEP)
    assert outbox.facts(run(1)) == []


def test_the_clock_of_a_controller_that_is_years_ahead_keeps_nothing(outbox: Outbox, clock: FakeClock) -> None:
    outbox.store([Change(facts=(finished(run(1), at=NOON + YEARS),), inserted=(deployment(1),))])
    deliver_all(outbox)
    clock.advance(ms=31 * DAY)
    clean_up(outbox, KEEP)
    assert not has_facts(outbox)


@pytest.mark.parametrize("name", ["old", "new"])
def test_what_is_kept_of_a_renamed_job_goes_together_under_all_its_names(
    outbox: Outbox, clock: FakeClock, name: str
) -> None:
    """A report under the old name, the end of the build under the new one, and a deployment under either."""
    outbox.store([Change(facts=(reported(run(1, "old")),))])
    outbox.save_progress(Progress("main", renamed=(Renamed(JobCursor("old", 2, NOON), "new"),)))
    [pending] = inserted(outbox, deployment(of=run(1, name)))
    outbox.store([Change(facts=(finished(run(1, "new")),))])
    clock.advance(ms=99 * DAY)
    clean_up(outbox, KEEP)
    assert len(outbox.facts(run(1, "new"))) == 2
    outbox.settle([success(claim_of(outbox, pending.number), at=clock.now_ms())])
    clock.advance(ms=31 * DAY)
    clean_up(outbox, KEEP)
    assert (outbox.facts(run(1, "new")), outbox.facts(run(1, "old"))) == ([], [])


# ---- deployments and ids


def test_a_deployment_goes_later_and_leaves_its_id_for_a_while(outbox: Outbox, clock: FakeClock) -> None:
    enqueue(outbox, 1)
    inserted(outbox, deployment(2, build_started_at=NOON - 77))
    deliver_all(outbox)
    clock.advance(ms=400 * DAY - 1)
    clean_up(outbox, KEEP)
    assert outbox.counts().delivered == 2
    clock.advance(ms=2)
    clean_up(outbox, KEEP)
    assert (outbox.counts().delivered, list(outbox.all_deployments())) == (0, [])
    assert (known_start(outbox, 1), known_start(outbox, 2), known_start(outbox, 3)) == (NOON, NOON - 77, None)
    clock.advance(ms=3_649 * DAY)
    clean_up(outbox, KEEP)
    assert known_start(outbox, 1) == NOON
    clock.advance(ms=3 * DAY)
    clean_up(outbox, KEEP)
    assert known_start(outbox, 1) is None


def test_actions_stay_as_long_as_their_deployment(outbox: Outbox, clock: FakeClock) -> None:
    first, second = inserted(outbox, deployment(1), deployment(2))
    replayed, discarded = Action(clock.now_ms(), "replay", "ada"), Action(clock.now_ms(), "discard", "bob", "a test")
    outbox.note_action([first.number, second.number], replayed)
    outbox.note_action([first.number], discarded)
    assert outbox.actions(first) == [replayed, discarded]
    assert outbox.actions(second) == [replayed]
    outbox.settle([success(claim_of(outbox, first.number))])
    clock.advance(ms=401 * DAY)
    clean_up(outbox, KEEP)
    assert outbox.find(str(first.number)) is None
    assert outbox.actions(first) == []
    assert outbox.actions(second) == [replayed]


def test_attempts_of_a_deleted_deployment_are_nobodys(outbox: Outbox, clock: FakeClock) -> None:
    """Its number may be given again."""
    [first] = inserted(outbox, deployment(1))
    outbox.settle([retry(claim_of(outbox, 1)), refusal(claim_of(outbox, 1))])
    outbox.discard([stored(outbox, 1)], "why")
    assert len(outbox.attempts(first)) == 2
    clock.advance(ms=401 * DAY)
    clean_up(outbox, KEEP)
    assert outbox.attempts(first) == []
    [second] = inserted(outbox, deployment(2))
    assert outbox.attempts(second) == []


def test_what_was_discarded_goes_as_what_was_delivered(outbox: Outbox, clock: FakeClock) -> None:
    in_state(outbox, State.DISCARDED)
    clock.advance(ms=401 * DAY)
    clean_up(outbox, KEEP)
    assert outbox.counts() == Counts(pending=0, held=0, delivered=0, failed=0)
    assert known_start(outbox, 1) == NOON


@pytest.mark.parametrize("state", [State.HELD, State.PENDING, State.FAILED])
def test_what_is_not_settled_or_failed_stays_for_years(outbox: Outbox, clock: FakeClock, state: State) -> None:
    before = in_state(outbox, state)
    outbox.store([Change(facts=(finished(run(1)),))])
    for _ in range(10):
        clock.advance(ms=365 * DAY)
        clean_up(outbox, KEEP)
    assert list(outbox.all_deployments()) == [before]
    assert has_facts(outbox)


def test_a_deployment_stays_as_long_as_there_are_facts_of_its_build(outbox: Outbox, clock: FakeClock) -> None:
    """Else what was deleted would be derived again."""
    enqueue(outbox, 1)
    inserted(outbox, deployment(1, deployment_id="two"))
    outbox.settle([refusal(claim_of(outbox, 2)), success(claim_of(outbox, 1))])
    clock.advance(ms=401 * DAY)
    clean_up(outbox, KEEP)
    assert len(list(outbox.all_deployments())) == 2
    outbox.discard([stored(outbox, 2)], "why")
    clock.advance(ms=31 * DAY)
    clean_up(outbox, KEEP)
    assert [each.number for each in outbox.all_deployments()] == [2]


def test_an_old_deployment_that_was_sent_again_keeps_nobody_from_going(outbox: Outbox, clock: FakeClock) -> None:
    enqueue(outbox, *range(1, 6))
    deliver_all(outbox)
    clock.advance(ms=300 * DAY)
    assert outbox.replay([stored(outbox, 1)]) == [True]
    deliver_all(outbox)
    clock.advance(ms=101 * DAY)
    clean_up(outbox, KEEP)
    assert [each.number for each in outbox.all_deployments()] == [1]


@pytest.mark.parametrize("days", [31, 401])
def test_many_that_were_sent_again_keep_nobody_from_going(outbox: Outbox, clock: FakeClock, days: int) -> None:
    enqueue(outbox, *range(1, 451))
    enqueue(outbox, 9_999)
    deliver_all(outbox)
    clock.advance(ms=(days - 11) * DAY)
    assert all(outbox.replay([stored(outbox, number) for number in range(1, 451)]))
    deliver_all(outbox)
    clock.advance(ms=11 * DAY)
    clean_up(outbox, KEEP)
    assert not has_facts(outbox, 9_999)
    assert outbox.counts().delivered == (451 if days == 31 else 450)
    clock.advance(ms=days * DAY)
    clean_up(outbox, KEEP)
    assert not has_facts(outbox, 1)
    assert outbox.counts().delivered == (451 if days == 31 else 0)


# ---- steps


def test_a_step_deletes_a_little(outbox: Outbox, clock: FakeClock) -> None:
    for first in range(1, 1_201, 300):
        enqueue(outbox, *range(first, first + 300))
    enqueue(outbox, 9_999)
    deliver_all(outbox)
    clock.advance(ms=401 * DAY)
    left, steps = 1_201, 1
    while outbox.prune(KEEP):
        now = outbox.counts().delivered
        assert 0 <= left - now <= 300
        left, steps = now, steps + 1
    assert (outbox.counts().delivered, list(outbox.all_deployments())) == (0, [])
    assert 4 < steps < 50


def test_there_is_an_end_to_it_even_if_nothing_is_to_be_kept(outbox: Outbox, clock: FakeClock) -> None:
    enqueue(outbox, *range(1, 501))
    inserted(outbox, *(deployment(number, State.FAILED) for number in range(1_000, 1_500)))
    deliver_all(outbox)
    clock.advance(ms=1)
    assert clean_up(outbox, Keep(0, 0, 0)) < 50
    assert outbox.counts() == Counts(pending=0, held=0, delivered=0, failed=500)
    assert clean_up(outbox, Keep(0, 0, 0)) < 50


def test_what_could_not_go_yet_is_looked_at_again(outbox: Outbox, clock: FakeClock) -> None:
    """Among many that stay for good."""
    inserted(outbox, *(deployment(number, State.FAILED) for number in range(1_000, 1_400)))
    enqueue(outbox, *range(1, 301))
    clock.advance(ms=40 * DAY)
    clean_up(outbox, KEEP)
    deliver_all(outbox)
    for _ in range(3):
        clock.advance(ms=15 * DAY)
        clean_up(outbox, KEEP)
    assert not any(has_facts(outbox, number) for number in range(1, 301))


def test_what_is_deleted_takes_no_room(outbox: Outbox, clock: FakeClock) -> None:
    empty = outbox.size()
    for first in range(1, 1_001, 250):
        enqueue(outbox, *range(first, first + 250))
    deliver_all(outbox)
    full = outbox.size()
    clock.advance(ms=31 * DAY)
    clean_up(outbox, KEEP)
    without_facts = outbox.size()
    clock.advance(ms=400 * DAY)
    clean_up(outbox, KEEP)
    assert empty <= outbox.size() < without_facts < full
    assert without_facts < 0.8 * full


def test_writing_something_that_changes_nothing_changes_nothing(outbox: Outbox) -> None:
    enqueue(outbox, 1)
    before = (list(outbox.all_deployments()), outbox.counts(), outbox.size())
    outbox.try_writing()
    assert (list(outbox.all_deployments()), outbox.counts(), outbox.size()) == before


# ---- clocks


def test_nothing_is_deleted_after_the_clock_was_set(engine: Engine, outbox: Outbox, clock: FakeClock) -> None:
    """What looks old may have been delivered a minute ago."""
    enqueue(outbox, 1)
    deliver_all(outbox)
    clock.jump(ms=YEARS)
    clean_up(outbox, KEEP)
    assert (outbox.counts().delivered, has_facts(outbox)) == (1, True)
    with closing(engine.open()) as started_anew:
        clean_up(started_anew, KEEP)
    assert outbox.counts().delivered == 0


def test_nothing_is_deleted_by_a_clock_that_starts_years_behind(engine: Engine, clock: FakeClock) -> None:
    with closing(engine.open()) as outbox:
        enqueue(outbox, 1)
        deliver_all(outbox)
        before = list(outbox.all_deployments())
    clock.jump(ms=-YEARS)
    with closing(engine.open()) as outbox:
        clean_up(outbox, KEEP)
    clock.jump(ms=YEARS)
    with closing(engine.open()) as outbox:
        clean_up(outbox, KEEP)
        assert (list(outbox.all_deployments()), has_facts(outbox)) == (before, True)


def test_what_was_delivered_under_a_clock_years_ahead_keeps_nothing_from_being_deleted(
    engine: Engine, clock: FakeClock
) -> None:
    clock.jump(ms=YEARS)
    with closing(engine.open()) as outbox:
        enqueue(outbox, 1)
        deliver_all(outbox)
    clock.jump(ms=-YEARS)
    with closing(engine.open()) as outbox:
        enqueue(outbox, 2)
        deliver_all(outbox)
        clean_up(outbox, KEEP)
        assert (has_facts(outbox, 1), has_facts(outbox, 2)) == (True, True)
        clock.advance(ms=31 * DAY)
        clean_up(outbox, KEEP)
        clock.advance(ms=31 * DAY)
        clean_up(outbox, KEEP)
        assert (has_facts(outbox, 1), has_facts(outbox, 2)) == (False, False)
        clock.advance(ms=400 * DAY)
        clean_up(outbox, KEEP)
        clock.advance(ms=31 * DAY)
        clean_up(outbox, KEEP)
        assert outbox.counts().delivered == 0
        assert (known_start(outbox, 1), known_start(outbox, 2)) == (NOON, NOON)


# ---- any order

MOVES = st.one_of(
    st.tuples(st.just("enqueue"), st.integers(1, 4)),
    st.tuples(st.sampled_from(["deliver", "refuse", "discard", "replay"]), st.integers(1, 4)),
    st.tuples(st.just("wait"), st.sampled_from([1, 20, 31, 401])),
    st.tuples(st.just("report"), st.integers(1, 4)),
)


@given(moves=st.lists(MOVES, max_size=25))
def test_nothing_goes_before_its_time_and_all_that_is_left_has_a_reason(
    new_engine: Callable[[], Engine], moves: list[tuple[str, int]]
) -> None:
    engine = new_engine()
    clock = engine.clock
    with closing(engine.open()) as outbox:
        for n, (move, which) in enumerate(moves):
            there = [each for each in outbox.all_deployments() if each.run == run(which)]
            if move == "enqueue":
                outbox.store(
                    [
                        Change(
                            facts=(finished(run(which), at=clock.now_ms()),),
                            inserted=(deployment(which, deployment_id=f"id {n}"),),
                        )
                    ]
                )
            elif move == "report":
                outbox.store([Change(facts=(reported(run(which), at=clock.now_ms()),))])
            elif move in ("deliver", "refuse"):
                outcome = success if move == "deliver" else refusal
                outbox.settle(
                    [
                        outcome(claimed, at=clock.now_ms())
                        for claimed in outbox.claim(99)
                        if claimed.number in {each.number for each in there}
                    ]
                )
            elif move == "discard":
                outbox.discard(there, "why")
            elif move == "replay":
                outbox.replay(there[:1])
            else:
                clock.advance(ms=which * DAY)
            before = {number: _kept(outbox, number) for number in range(1, 5)}
            clean_up(outbox, KEEP)
            for number, (facts, rows) in before.items():
                _check(clock.now_ms(), facts, rows, *_kept(outbox, number))


def _kept(outbox: Outbox, number: int) -> tuple[list[Fact], list[tuple[State, int]]]:
    rows = [(each.state, each.settled_at or each.created_at) for each in outbox.of_run(run(number))]
    return outbox.facts(run(number)), rows


def _check(
    now: int,
    facts: list[Fact],
    rows: list[tuple[State, int]],
    facts_left: list[Fact],
    rows_left: list[tuple[State, int]],
) -> None:
    done = all(state in (State.DELIVERED, State.DISCARDED) for state, _ in rows)
    last = max([time for _, time in rows] + [fact.received_at for fact in facts], default=now)
    if facts_left != facts:
        assert facts_left == []
        assert done
        assert last < now - KEEP.bodies_ms
    for gone_ in [row for row in rows if row not in rows_left]:
        assert gone_[0] in (State.DELIVERED, State.DISCARDED)
        assert gone_[1] < now - KEEP.deployments_ms
        assert not facts_left
    if facts_left and done:
        assert last >= now - KEEP.bodies_ms - DAY
    for left, time in rows_left:
        if left in (State.DELIVERED, State.DISCARDED) and not facts_left:
            assert time >= now - KEEP.deployments_ms - DAY


def test_a_deployment_that_says_again_what_was_sent_keeps_the_start_of_its_build(
    outbox: Outbox, clock: FakeClock
) -> None:
    """Its id leaves the start of the build, not that of what Hivel got."""
    [first] = inserted(outbox, deployment(1))
    [claimed] = outbox.claim(1)
    rewritten(outbox, first, content=content(started_at=NOON + 50), build_started_at=NOON + 50)
    outbox.settle([success(claimed)])
    clock.advance(ms=401 * DAY)
    clean_up(outbox, KEEP)
    assert known_start(outbox, 1) == NOON + 50


def test_what_was_set_aside_goes_with_the_bodies_of_that_time(outbox: Outbox, clock: FakeClock) -> None:
    outbox.set_aside(SetAside(clock.now_ms(), "run", "main:deploy/shop#1", "nobody expected this"))
    clock.advance(ms=10 * DAY)
    outbox.set_aside(SetAside(clock.now_ms(), "run", "main:deploy/shop#2", "nor this"))
    outbox.prune(Keep(bodies_ms=5 * DAY, deployments_ms=400 * DAY, ids_ms=400 * DAY))
    assert [item.subject for item in outbox.things_set_aside(10)] == ["main:deploy/shop#2"]
