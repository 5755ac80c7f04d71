"""What became of each event of a run, by its rows and by what is known of it now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings
from msgspec.structs import replace

from agent.inspect.differences import Change, compare_run, with_reading
from agent.model import fact as facts
from agent.model.build import Stage
from agent.model.deployment import State
from agent.model.status import Status
from agent.outbox.values import RunState
from tests.unit.facts import HOUR, MINUTE, NOON, RULES, RUN, World, build, lived, rules, said

if TYPE_CHECKING:
    from agent.deployments.derive import Rules
    from agent.inspect.differences import Compared

END = NOON + MINUTE


def read(**fields: object) -> facts.Fact:
    """A final build, as a poll reads it."""
    whole = replace(build(NOON, END), **fields)  # type: ignore[arg-type]
    return facts.final(RUN, whole, at=END)


def after(world: World, by: Rules | None = None) -> list[Compared]:
    return compare_run(RunState(RUN, tuple(world.facts), tuple(world.rows)), by or world.rules)


def changes(found: list[Compared]) -> list[tuple[Change, str]]:
    return sorted((each.difference.change, each.difference.deployment_id) for each in found)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.sampled_from(RULES))
def test_what_came_in_before_it_was_sent_differs_in_nothing(data: st.DataObject, by: Rules) -> None:
    """Whatever a build was and said: by the same rules and the same facts, each event is the same."""
    world = World(by, now=NOON + 100 * HOUR)
    world.accept(*(fact for _, fact in data.draw(lived(NOON)).all))
    world.now += 100 * HOUR
    world.plan()
    assert {each.difference.change for each in after(world)} <= {Change.SAME}


def test_a_word_that_came_after_the_delivery_is_a_change() -> None:
    world = World(rules())
    world.accept(read())
    world.deliver()
    world.accept(facts.report(RUN, said("a", environment="eu"), source="emit", at=END))
    [found] = after(world)
    assert found.difference.change is Change.CHANGED
    assert {each.field for each in found.difference.fields} >= {"environment"}


def test_an_event_that_a_person_discarded_or_that_is_held_is_not_compared() -> None:
    world = World(rules())
    world.accept(read())
    world.rows = [replace(row, state=State.DISCARDED) for row in world.rows]
    assert after(world, rules("eu")) == []
    held = World(rules())
    held.accept(facts.report(RUN, said("a"), source="emit", at=END))
    assert held.rows[0].state is State.HELD
    assert after(held, rules("eu")) == []


def test_an_event_that_could_not_be_made_and_can_now_is_new_under_its_own_id() -> None:
    world = World(rules("{params.WHERE}"))
    world.accept(read())
    assert world.rows[0].state is State.FAILED
    assert changes(after(world)) == [], "it was none, and is none"
    [found] = after(world, rules("eu"))
    assert (found.difference.change, found.difference.deployment_id) == (Change.NEW, "main:deploy/shop#12")
    assert (found.difference.before, found.difference.now) == (None, Status.FAILED)


def test_an_event_that_could_not_be_made_any_more_is_gone_with_the_reason() -> None:
    world = World(rules())
    world.accept(read())
    [found] = after(world, rules("{params.WHERE}"))
    assert found.difference.change is Change.GONE
    assert "no environment" in found.difference.reason


def test_stages_that_reported_themselves_without_a_start_and_then_with_one_are_the_same() -> None:
    world = World(rules())
    world.accept(facts.report(RUN, said("a", stage="x", given=("repo_url", "branch")), source="emit", at=NOON))
    world.deliver()
    world.accept(
        facts.report(
            RUN, said("a", stage="x", started_at=NOON, given=("repo_url", "branch")), source="emit", at=NOON + 1
        )
    )
    assert changes(after(world)) == [(Change.SAME, "main:deploy/shop#12:production")]


def test_some_seconds_of_a_time_are_no_change_and_a_minute_is_one() -> None:
    for late, change in ((59_999, Change.SAME), (60_000, Change.CHANGED)):
        world = World(rules())
        world.accept(read())
        world.facts = with_reading(world.facts, read(ended_at=END + late), world.rules)
        [found] = after(world)
        assert found.difference.change is change


def test_a_new_reading_takes_the_place_of_the_old_one_unless_jenkins_knows_less_by_now() -> None:
    old, by_stages = read(), rules(stages=True)
    now = read(result="SUCCESS", stages=(Stage("Deploy eu", "FAILED", NOON, END),))
    taken = with_reading([old], now, by_stages)
    assert now in taken and old not in taken
    assert with_reading([old], read(stages=None, stages_missing="404"), by_stages) == [old]
    assert with_reading([old], read(checkouts=()), rules()) == [old], "what it checked out is purged"
    gone = read(stages=None)
    assert gone in with_reading([old], gone, rules()), "nobody asks for stages under such a rule"


def test_another_build_of_the_number_is_left_alone() -> None:
    world = World(rules())
    world.accept(read())
    later = facts.final(RUN, build(NOON + 9 * HOUR, NOON + 10 * HOUR), at=NOON + 10 * HOUR)
    world.accept(later)
    state = RunState(RUN, tuple(world.facts), tuple(world.rows))
    [found] = compare_run(state, rules("eu"), read=NOON)
    assert (found.row, found.difference.change) == (world.rows[0], Change.CHANGED)
