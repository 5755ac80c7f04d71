"""How far each controller was read: what a poll does not name stays, and all of one poll is stored together."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from agent.model.deployment import State
from agent.model.endings import Ended, Ending, put
from agent.model.keys import Project, jenkins_run
from agent.outbox.values import (
    Change,
    ControllerState,
    JobCursor,
    JobError,
    Missed,
    OpenBuild,
    Progress,
    Renamed,
    WantedBuild,
)
from tests.conformance.things import deployment, finished, in_state, inserted, run
from tests.integration.support import NOON

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.outbox.interface import Outbox
    from tests.engines import Engine
    from tests.integration.support import FakeClock

A, B = JobCursor("a", 5, NOON, 4, NOON - 9), JobCursor("team/ä b", 1, NOON)


def save(outbox: Outbox, controller: str = "main", **changes: Any) -> None:
    outbox.save_progress(Progress(controller, **changes))


def renamed(outbox: Outbox, former: str, name: str, *, newest_started_at: int | None = None) -> None:
    save(outbox, renamed=(Renamed(JobCursor(former, 5, NOON, 4, newest_started_at), name),))


# ---- jobs


def test_cursors_are_kept_by_controller_and_name(engine: Engine, outbox: Outbox) -> None:
    save(outbox, cursors=(A, B))
    save(outbox, "other", cursors=(JobCursor("a", 9, NOON),))
    with closing(engine.open()) as other:
        assert other.jobs("main") == {"a": A, "team/ä b": B}
        assert (other.job("main", "a"), other.job("main", "c"), other.job("nobody", "a")) == (A, None, None)
        assert other.jobs("nobody") == {}


def test_a_cursor_is_replaced_and_the_others_stay(outbox: Outbox) -> None:
    save(outbox, cursors=(A, B))
    moved = JobCursor("a", 6, NOON + 5, 5, NOON)
    save(outbox, cursors=(moved,))
    assert outbox.jobs("main") == {"a": moved, B.full_name: B}


# ---- open, wanted and missed builds, errors

BUILDS = (
    OpenBuild(4, seen=True, first_seen_at=NOON, waiting_since=NOON + 1, started_at=NOON - 5),
    OpenBuild(7, seen=False, first_seen_at=NOON),
)


def test_the_open_builds_of_a_job_are_replaced_as_a_whole(outbox: Outbox) -> None:
    save(outbox, open_builds={"a": BUILDS[::-1], "b": BUILDS[:1]})
    save(outbox, "other", open_builds={"a": BUILDS[:1]})
    assert outbox.open_builds("main") == {"a": [*BUILDS], "b": [BUILDS[0]]}
    assert outbox.open_build_counts() == {"main": 3, "other": 1}
    save(outbox, open_builds={"a": BUILDS[1:]})
    save(outbox, open_builds={"b": ()})
    assert outbox.open_builds("main") == {"a": [BUILDS[1]]}
    assert outbox.open_build_counts() == {"main": 1, "other": 1}


def test_builds_that_reported_something_are_wanted_until_a_poll_knows_them(outbox: Outbox, clock: FakeClock) -> None:
    save(outbox, open_builds={"a": BUILDS})
    outbox.want_builds("main", [("a", 9), ("a", 4), ("a", 7)])
    clock.advance(ms=5)
    outbox.want_builds("main", [("b", 4), ("a", 9)])
    outbox.want_builds("other", [("a", 4)])
    assert outbox.wanted_builds("main") == [WantedBuild("a", 9, NOON), WantedBuild("b", 4, NOON + 5)]
    save(outbox, no_longer_wanted=(WantedBuild("a", 9, NOON), WantedBuild("c", 1, NOON)))
    assert outbox.wanted_builds("main") == [WantedBuild("b", 4, NOON + 5)]
    assert outbox.wanted_builds("other") == [WantedBuild("a", 4, NOON + 5)]


def test_missed_builds_add_up_the_latest_first(outbox: Outbox, clock: FakeClock) -> None:
    save(outbox, missed={"a": (3, 12), "b": (1, 4)})
    clock.advance(ms=5)
    save(outbox, missed={"a": (2, 20)})
    assert outbox.missed() == [Missed("main", "a", 5, 20, NOON + 5), Missed("main", "b", 1, 4, NOON)]


def test_a_job_has_an_error_until_it_was_read(outbox: Outbox) -> None:
    first, second = JobError("a", "HTTP 504", NOON, NOON + 60), JobError("b", "time-out", NOON, NOON + 60)
    save(outbox, errors={"a": first, "b": second})
    save(outbox, "other", errors={"c": JobError("c", "HTTP 500", NOON, NOON)})
    assert outbox.job_errors("main") == {"a": first, "b": second}
    assert set(outbox.job_errors()) == {"a", "b", "c"}
    again = JobError("a", "HTTP 502", NOON, NOON + 120)
    save(outbox, errors={"a": again, "b": None, "z": None})
    assert outbox.job_errors("main") == {"a": again}


def test_that_a_job_is_absent_and_from_where_on_it_had_no_rule_is_kept(outbox: Outbox) -> None:
    absent, without_rule = replace(A, absent=True), replace(B, no_rule_since=3)
    save(outbox, cursors=(absent, without_rule))
    assert outbox.jobs("main") == {"a": absent, B.full_name: without_rule}
    save(outbox, cursors=(A,))
    assert outbox.job("main", "a") == A


# ---- what became of numbers


def ended(*spans: tuple[int, int, Ending]) -> tuple[Ended, ...]:
    return tuple(Ended(first, last, ending, NOON) for first, last, ending in spans)


def test_what_became_of_numbers_is_kept_by_job_and_the_weightier_word_counts(outbox: Outbox) -> None:
    save(outbox, ended={"a": ended((1, 9, Ending.HISTORY)), "b": ended((1, 2, Ending.READ))})
    save(outbox, "other", ended={"a": ended((4, 4, Ending.READ))})
    save(outbox, ended={"a": ended((4, 5, Ending.READ), (10, 10, Ending.READ), (1, 1, Ending.NO_RULE))})
    assert outbox.endings("main", "a") == list(
        ended((1, 3, Ending.HISTORY), (4, 5, Ending.READ), (6, 9, Ending.HISTORY), (10, 10, Ending.READ))
    )
    assert outbox.endings("main", "b") == list(ended((1, 2, Ending.READ)))
    assert outbox.endings("other", "a") == list(ended((4, 4, Ending.READ)))
    assert outbox.endings("main", "c") == []


@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 30), st.integers(0, 9), st.sampled_from(Ending)), max_size=4), max_size=6
    )
)
def test_what_became_of_numbers_is_the_same_however_it_is_cut_into_polls(
    new_engine: Callable[[], Engine], polls: list[list[tuple[int, int, Ending]]]
) -> None:
    told = [ended(*((first, first + more, ending) for first, more, ending in poll)) for poll in polls]
    with closing(new_engine().open()) as outbox:
        for poll in told:
            save(outbox, ended={"a": poll})
        assert outbox.endings("main", "a") == put([], [each for poll in told for each in poll])


def test_of_a_job_that_begins_anew_nothing_is_known(outbox: Outbox) -> None:
    save(outbox, ended={"a": ended((1, 9, Ending.READ)), "b": ended((1, 9, Ending.READ))})
    save(outbox, begun=frozenset({"a"}), ended={"a": ended((1, 2, Ending.HISTORY))})
    assert outbox.endings("main", "a") == list(ended((1, 2, Ending.HISTORY)))
    assert outbox.endings("main", "b") == list(ended((1, 9, Ending.READ)))


def test_what_became_of_numbers_goes_with_the_job_to_its_new_name(outbox: Outbox) -> None:
    a, b = replace(A, full_name="a"), replace(A, full_name="b")
    save(outbox, cursors=(a, b), ended={"a": ended((1, 4, Ending.READ)), "b": ended((1, 4, Ending.HISTORY))})
    save(outbox, renamed=(Renamed(a, "b"), Renamed(b, "a")), begun=frozenset({"a", "b"}))
    assert outbox.endings("main", "b") == list(ended((1, 4, Ending.READ)))
    assert outbox.endings("main", "a") == list(ended((1, 4, Ending.HISTORY)))


# ---- renamed jobs


def test_a_renamed_job_loses_its_old_cursor_and_what_belongs_to_it(outbox: Outbox) -> None:
    save(outbox, cursors=(A, B), open_builds={"a": BUILDS}, errors={"a": JobError("a", "HTTP 404", NOON, NOON)})
    new = JobCursor("new", 5, NOON, 4, NOON - 9)
    save(outbox, renamed=(Renamed(A, "new"),), cursors=(new,), open_builds={"new": BUILDS})
    assert outbox.jobs("main") == {"new": new, B.full_name: B}
    assert (outbox.open_builds("main"), outbox.job_errors()) == ({"new": [*BUILDS]}, {})
    assert outbox.former_names(Project("jenkins", "main", "new")) == [Project("jenkins", "main", "a")]


def test_another_job_that_took_the_name_keeps_its_cursor(outbox: Outbox) -> None:
    other = JobCursor("a", 2, NOON, 1, NOON + 77)
    save(outbox, cursors=(other,), open_builds={"a": BUILDS})
    save(outbox, renamed=(Renamed(A, "new"),))
    assert outbox.jobs("main") == {"a": other}
    assert outbox.open_builds("main") == {"a": [*BUILDS]}
    assert outbox.former_names(Project("jenkins", "main", "new")) == [Project("jenkins", "main", "a")]


def test_a_job_has_all_its_former_names_and_not_its_own(outbox: Outbox) -> None:
    for former, name in (("a", "b"), ("b", "c"), ("c", "a")):
        renamed(outbox, former, name)

    def names(of: str) -> set[str]:
        return {project.name for project in outbox.former_names(Project("jenkins", "main", of))}

    assert (names("a"), names("b"), names("c"), names("d")) == ({"b", "c"}, {"a"}, {"a", "b"}, set())
    assert outbox.former_names(Project("jenkins", "other", "a")) == []


def test_it_is_known_whether_a_build_has_a_deployment_under_any_name(outbox: Outbox) -> None:
    inserted(outbox, deployment(1, build_started_at=NOON - 5), deployment(1, State.HELD, of=run(1, "old")))
    in_state(outbox, State.DISCARDED, of=run(3, "old"))
    outbox.store([Change(facts=(finished(run(2)),))])
    assert outbox.was_reported(run(1), NOON - 5)
    assert not outbox.was_reported(run(1), NOON)
    assert not outbox.was_reported(run(2), NOON)
    assert not outbox.was_reported(run(1, "new"), NOON)
    renamed(outbox, "old", "new")
    assert outbox.was_reported(run(1, "new"), NOON)
    assert outbox.was_reported(run(3, "new"), NOON)
    assert not outbox.was_reported(jenkins_run("other", "new", 1), NOON)


# ---- controllers


def test_the_state_of_a_controller_is_replaced(engine: Engine, outbox: Outbox) -> None:
    first = ControllerState("main", "ok", NOON, NOON - 9, NOON, 12, None, -3)
    other = ControllerState("a", "unreachable", NOON, last_error="time-out")
    for state in (ControllerState("main", "error", 1), first, other):
        outbox.save_controller(state)
    with closing(engine.open()) as opened:
        assert (opened.controller("main"), opened.controller("nobody")) == (first, None)
        assert opened.controllers() == [other, first]


# ---- any polls

CURSORS = st.builds(JobCursor, st.sampled_from("ab"), st.integers(1, 9), st.integers(0, 9))
OPEN = st.lists(st.integers(1, 5), unique=True, max_size=3).map(
    lambda them: tuple(OpenBuild(n, seen=True, first_seen_at=NOON, started_at=NOON) for n in sorted(them))
)
POLLS = st.builds(
    Progress,
    controller=st.sampled_from(["main", "other"]),
    cursors=st.lists(CURSORS, max_size=2, unique_by=lambda cursor: cursor.full_name).map(tuple),
    open_builds=st.dictionaries(st.sampled_from("ab"), OPEN, max_size=2),
    missed=st.dictionaries(st.sampled_from("ab"), st.tuples(st.integers(1, 5), st.integers(1, 9)), max_size=2),
    errors=st.dictionaries(st.sampled_from("ab"), st.none() | st.just(JobError("", "why", NOON, NOON)), max_size=2).map(
        lambda them: {job: error and JobError(job, error.error, NOON, NOON) for job, error in them.items()}
    ),
)


@given(polls=st.lists(POLLS, max_size=10))
def test_after_any_polls_the_last_word_about_each_job_is_stored(
    new_engine: Callable[[], Engine], polls: list[Progress]
) -> None:
    jobs: dict[tuple[str, str], JobCursor] = {}
    builds: dict[tuple[str, str], tuple[OpenBuild, ...]] = {}
    missed: dict[tuple[str, str], int] = {}
    errors: dict[tuple[str, str], JobError | None] = {}
    with closing(new_engine().open()) as outbox:
        for poll in polls:
            outbox.save_progress(poll)
            name = poll.controller
            jobs |= {(name, cursor.full_name): cursor for cursor in poll.cursors}
            builds |= {(name, job): of_job for job, of_job in poll.open_builds.items()}
            errors |= {(name, job): error for job, error in poll.errors.items()}
            for job, (count, _) in poll.missed.items():
                missed[name, job] = missed.get((name, job), 0) + count
        for name in ("main", "other"):
            assert outbox.jobs(name) == {job: cursor for (of, job), cursor in jobs.items() if of == name}
            assert outbox.open_builds(name) == {
                job: [*of_job] for (of, job), of_job in builds.items() if of == name and of_job
            }
            assert outbox.job_errors(name) == {
                job: error for (of, job), error in errors.items() if of == name and error
            }
        assert {(each.controller, each.full_name): each.builds for each in outbox.missed()} == missed
