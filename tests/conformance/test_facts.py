"""What was said about a run is kept as it was said, in order, and found again under every name of its project."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.model.build import Build
from agent.model.fact import Fact, Kind, gone, seen
from agent.model.keys import Project, Run
from agent.outbox.values import Change, JobCursor, OpenBuild, Progress, Renamed
from tests.conformance.things import JOB, build_of, deployment, facts, finished, inserted, reported, run
from tests.integration.support import NOON

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.outbox.interface import Outbox
    from tests.engines import Engine


def add(outbox: Outbox, *said: Fact) -> None:
    assert outbox.store([Change(facts=said)]) == {}


def rename(outbox: Outbox, former: str, name: str) -> None:
    outbox.save_progress(Progress("main", renamed=(Renamed(JobCursor(former, 5, NOON), name),)))


def follow(outbox: Outbox, *builds: OpenBuild, job: str = JOB) -> None:
    outbox.save_progress(Progress("main", open_builds={job: builds}))


@given(said=st.lists(facts(), max_size=12), cut=st.integers(0, 12))
def test_any_facts_are_loaded_as_they_were_stored_and_in_that_order(
    new_engine: Callable[[], Engine], said: list[Fact], cut: int
) -> None:
    engine = new_engine()
    runs = {fact.run for fact in said} | {run(99)}
    with closing(engine.open()) as outbox:
        add(outbox, *said[:cut])
        outbox.store([Change(facts=(fact,)) for fact in said[cut:]])
        for opened in (outbox, engine.open()):
            states = opened.load(runs)
            assert {each: state.facts for each, state in states.items()} == {
                each: tuple(fact for fact in said if fact.run == each) for each in runs
            }
            assert all(state.run == each for each, state in states.items())
            assert all(tuple(opened.facts(each)) == state.facts for each, state in states.items())
            opened.close()


def test_a_run_of_which_nothing_is_stored_has_an_empty_state(outbox: Outbox) -> None:
    add(outbox, finished(run(1)))
    states = outbox.load([run(2), run(1, "never/heard/of")])
    assert [(state.facts, state.deployments) for state in states.values()] == [((), ()), ((), ())]


def test_a_build_is_loaded_with_its_controller_job_and_number(outbox: Outbox) -> None:
    add(outbox, finished(run(12)))
    [fact] = outbox.facts(run(12))
    assert isinstance(fact.body, Build)
    assert fact.body == build_of(run(12))


def test_the_upstream_build_in_a_build_keeps_its_own_key(outbox: Outbox) -> None:
    fact = finished(run(12))
    assert isinstance(fact.body, Build)
    fact = replace(fact, body=replace(fact.body, inherited=build_of(run(3, "upstream"))))
    add(outbox, fact)
    assert outbox.facts(run(12)) == [fact]


def test_attempts_and_projects_are_told_apart(outbox: Outbox) -> None:
    project = Project("github_actions", "acme", "acme/shop")
    runs = [Run(project, "1", 1), Run(project, "1", 2), replace(run(1), project=replace(project, name="acme/web"))]
    add(outbox, *(seen(each, started_at=NOON, at=NOON) for each in runs))
    assert [[fact.run for fact in state.facts] for state in outbox.load(runs).values()] == [[each] for each in runs]


# ---- renamed jobs


def test_what_is_stored_under_a_former_name_is_loaded_as_of_the_run(outbox: Outbox) -> None:
    old, new = finished(run(1, "old")), reported(run(1, "new"))
    add(outbox, old)
    [first] = inserted(outbox, deployment(of=run(1, "old")))
    rename(outbox, "old", "new")
    add(outbox, new)
    state = outbox.load([run(1, "new")])[run(1, "new")]
    assert (state.facts, state.deployments) == ((old, new), (first,))
    assert outbox.of_run(run(1, "new")) == [first]
    assert outbox.load([run(1, "old")])[run(1, "old")].facts == (old,)


def test_a_job_that_was_renamed_twice_is_known_under_all_its_names(outbox: Outbox) -> None:
    said = [finished(run(1, "first")), finished(run(1, "second")), finished(run(1, "third"))]
    add(outbox, *said)
    rename(outbox, "first", "second")
    rename(outbox, "second", "third")
    assert outbox.facts(run(1, "third")) == said


def test_a_job_that_got_its_old_name_back_has_each_fact_once(outbox: Outbox) -> None:
    said = [finished(run(1, "a")), finished(run(1, "b"))]
    add(outbox, *said)
    rename(outbox, "a", "b")
    rename(outbox, "b", "a")
    assert outbox.facts(run(1, "a")) == said


def test_two_runs_of_one_load_may_share_what_is_stored(outbox: Outbox) -> None:
    fact = finished(run(1, "old"))
    add(outbox, fact)
    rename(outbox, "old", "new")
    states = outbox.load([run(1, "old"), run(1, "new"), run(2, "new")])
    assert [state.facts for state in states.values()] == [(fact,), (fact,), ()]


# ---- open builds


def test_an_open_build_is_a_fact_of_its_run_as_long_as_it_is_open(outbox: Outbox) -> None:
    running = OpenBuild(1, seen=True, first_seen_at=NOON + 5, started_at=NOON)
    follow(outbox, running, OpenBuild(2, seen=False, first_seen_at=NOON))
    expected = seen(run(1), started_at=NOON, at=NOON + 5)
    states = outbox.load([run(1), run(2), run(1, "other"), run(1, controller="other")])
    assert [state.facts for state in states.values()] == [(expected,), (), (), ()]
    assert outbox.load([run(1)])[run(1)].facts == (expected,)
    follow(outbox)
    assert outbox.facts(run(1)) == []


def test_an_open_build_comes_with_the_other_facts_of_its_run(outbox: Outbox) -> None:
    said = reported(run(1))
    add(outbox, said, reported(run(2)))
    follow(outbox, *(OpenBuild(n, seen=True, first_seen_at=NOON, started_at=NOON + n) for n in (1, 2)))
    states = outbox.load([run(1), run(2)])
    assert states[run(1)].facts == (said, seen(run(1), started_at=NOON + 1, at=NOON))
    assert [fact.kind for fact in states[run(2)].facts] == [Kind.REPORT, Kind.SEEN]


def test_a_seen_fact_that_is_stored_is_not_there_twice(outbox: Outbox) -> None:
    said = seen(run(1), started_at=NOON, at=NOON)
    add(outbox, said)
    follow(outbox, OpenBuild(1, seen=True, first_seen_at=NOON, started_at=NOON))
    assert outbox.facts(run(1)) == [said]


def test_only_a_build_of_jenkins_can_be_open(outbox: Outbox) -> None:
    follow(outbox, OpenBuild(1, seen=True, first_seen_at=NOON, started_at=NOON))
    assert outbox.facts(Run(Project("gitlab", "main", JOB), "1")) == []


@pytest.mark.parametrize("number", ["", "0x1", "latest", "9" * 40, "²"])
def test_a_run_whose_number_is_none_has_no_open_build(outbox: Outbox, number: str) -> None:
    follow(outbox, OpenBuild(1, seen=True, first_seen_at=NOON, started_at=NOON))
    odd = replace(run(1), number=number)
    fact = gone(odd, started_at=NOON, at=NOON)
    add(outbox, fact)
    assert outbox.load([odd, run(2)])[odd].facts == (fact,)
    assert outbox.load([odd])[odd].facts == (fact,)
