"""What derive and plan owe to builds that report themselves."""

from __future__ import annotations

import pytest

from agent.model import fact as facts
from agent.model.build import Build
from agent.model.deployment import State
from agent.model.keys import run_of_id
from tests.unit.facts import GIVEN, HOUR, MINUTE, NOON, REPO, RUN, World, build, rules, said

END = NOON + 5 * MINUTE


def without_checkout() -> Build:
    """A build of which no event can be made: nothing says what was deployed."""
    return Build(result="SUCCESS", started_at=NOON, ended_at=END)


def stage(at: int = END + 2_000, **fields: object) -> facts.Fact:
    return facts.report(RUN, said("v1", stage="Deploy", **fields), source="intake", at=at)


@pytest.mark.parametrize("environment", ["production", "eu"])
def test_a_stage_that_reports_itself_mends_what_could_not_be_made_of_the_whole_build(environment: str) -> None:
    """The failed deployment was never sent, and nobody will mend it: the stage says what was deployed."""
    world = World(rules())
    world.accept(facts.final(RUN, without_checkout(), at=END + 1_000))
    assert [row.state for row in world.rows] == [State.FAILED]
    world.accept(stage(environment=environment))
    [row] = world.rows
    assert (row.state, row.content.environment, row.content.repo_url) == (State.PENDING, environment, REPO)


def test_a_report_at_the_very_moment_when_a_poll_last_saw_the_build_is_of_it() -> None:
    """facts-model: up to max(end + 10 minutes, the last time that a poll saw that very build)."""
    world = World(rules())
    world.accept(facts.final(RUN, build(NOON, END), at=END + 1_000))
    late = END + 3 * HOUR
    world.now = late
    world.accept(facts.report(RUN, said("v1"), source="intake", at=late))
    world.accept(facts.seen(RUN, started_at=NOON, at=late))
    assert [row.deployment_id for row in world.rows] == ["main:deploy/shop#12"]


def test_each_late_report_of_a_finished_build_is_of_it_once_that_was_read_again() -> None:
    """The build is asked for by its number each time; the second look is later than the first one."""
    world = World(rules())
    world.accept(facts.final(RUN, build(NOON, END), at=END + 1_000))
    for hours in (3, 6):
        late = END + hours * HOUR
        world.now = late
        world.accept(facts.report(RUN, said("v1"), source="intake", at=late))
        world.accept(facts.seen(RUN, started_at=NOON, at=late + 1_000))
        world.accept(facts.final(RUN, build(NOON, END), at=late + 1_000))
        assert [row.deployment_id for row in world.rows] == ["main:deploy/shop#12"]


def test_a_build_whose_id_somebody_gave_to_a_deployment_of_that_time_is_no_second_one() -> None:
    """``deployment_id`` in a report that names no build; the poller finds the build afterwards."""
    given = World(rules())
    given.accept(facts.report(run_of_id("main:deploy/shop#12"), said("v1"), source="emit", at=NOON + MINUTE))
    [row] = given.rows
    world = World(rules(), forgotten={"main:deploy/shop#12": row.build_started_at})
    world.accept(facts.final(RUN, build(NOON, END), at=END + 1_000))
    assert world.rows == []


@pytest.mark.parametrize("fields", [{"stage": "Deploy"}, {}], ids=["stage", "whole"])
def test_two_reports_of_an_hour_apart_that_say_the_same_start_are_of_one_build(fields: dict[str, str]) -> None:
    """Nobody has polled in between (Jenkins is down); the very same millisecond is no chance."""
    world = World(rules())
    for minutes in (1, 61, 180):
        at = NOON + minutes * MINUTE
        world.now = at
        world.accept(facts.report(RUN, said("v1", started_at=NOON, environment="eu", **fields), source="emit", at=at))
        world.plan()
        world.deliver()
    world.now = NOON + 10 * HOUR
    world.plan()
    world.deliver()
    assert list(world.hivel) == [world.rows[0].deployment_id]


def test_a_stage_that_reports_itself_leaves_alone_what_was_reported_of_the_whole_build() -> None:
    """It went out alone without a repository, and the poller will mend it."""
    world = World(rules(None))
    world.accept(facts.report(RUN, said("v1", repo_url=None), source="intake", at=NOON + MINUTE))
    world.now = NOON + 2 * HOUR
    world.plan()
    assert [row.state for row in world.rows] == [State.FAILED]
    world.accept(facts.seen(RUN, started_at=NOON, at=world.now))
    world.accept(stage(world.now, environment="eu", given=GIVEN))
    assert sorted(row.state for row in world.rows) == [State.FAILED, State.PENDING]
    world.accept(facts.final(RUN, build(NOON, NOON + 3 * HOUR), at=NOON + 3 * HOUR))
    assert [row.state for row in world.rows] == [State.PENDING, State.PENDING]


def test_a_report_after_a_poll_found_a_build_gone_is_of_the_job_that_was_created_again() -> None:
    """Nothing that is gone says anything. The new build, of a job without a rule, is gone before a poll asks for it."""
    world = World(rules(None))
    world.accept(facts.seen(RUN, started_at=NOON, at=NOON + 12 * MINUTE))
    world.accept(facts.report(RUN, said("v1"), source="intake", at=NOON + 12 * MINUTE))
    world.accept(facts.gone(RUN, started_at=NOON, at=NOON + 24 * MINUTE))
    world.accept(facts.report(RUN, said("v2"), source="emit", at=NOON + 25 * MINUTE))
    assert sorted(str(row.content.image) for row in world.rows) == ["v1", "v2"]


def test_a_start_that_lies_before_what_was_reported_an_hour_ago_is_of_that_build() -> None:
    """Jenkins is down for long: what was said without a start went out, and later the build says when it began.

    The build that began before that report still runs now, so that the report was its own. The other way round two
    events of one deployment are at Hivel.
    """
    world = World(rules())
    for minutes, start in ((60, None), (120, NOON), (180, NOON)):
        at = NOON + minutes * MINUTE
        world.now = at
        world.plan()  # what was held for an hour goes
        world.deliver()
        world.accept(facts.report(RUN, said("v1", started_at=start, environment="us"), source="intake", at=at))
    world.now = NOON + 10 * HOUR
    world.plan()
    world.deliver()
    assert len(world.hivel) == 1


def test_a_report_that_says_the_start_joins_what_was_taken_for_two_builds() -> None:
    """Jenkins is down; a stage said its start, an hour later the build says something without one, and then with it."""
    world = World(rules(None))
    world.accept(stage(NOON, environment="eu", started_at=NOON))
    world.deliver()
    world.now = NOON + HOUR
    world.accept(facts.report(RUN, said("v1"), source="emit", at=world.now))
    world.accept(facts.report(RUN, said("v1", started_at=NOON), source="emit", at=world.now + 1))
    world.now += 2 * HOUR
    world.plan()
    assert len(world.rows) == 2
