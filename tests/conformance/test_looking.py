"""What people look at: filters, pages by number, counts that are always those of the deployments."""

from __future__ import annotations

from contextlib import closing
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.deployment import State
from agent.model.keys import Project, run_of_id
from agent.model.status import Status
from agent.outbox.values import Change, Counts, Deployed, Filter, JobCursor, Keep, Page, Progress, Renamed
from tests.conformance.things import (
    DAY,
    claim_of,
    clean_up,
    content,
    deployment,
    finished,
    in_state,
    inserted,
    refusal,
    retry,
    rewritten,
    run,
    stored,
    success,
)
from tests.integration.support import NOON

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.model.deployment import Deployment
    from agent.model.keys import Run
    from agent.outbox.interface import Outbox
    from tests.engines import Engine
    from tests.integration.support import FakeClock


def shown(outbox: Outbox, limit: int = 99, before: int | None = None, **conditions: Any) -> list[int]:
    return [each.number for each in outbox.query(Filter(**conditions), Page(limit, before))]


def test_projects_are_those_whose_builds_ended_in_the_time(outbox: Outbox) -> None:
    """By the build's end, not by that of a stage, and not by when it was enqueued."""
    early, late = run(1), run(2, "deploy/api")
    inserted(outbox, deployment(of=early, build_started_at=NOON, build_ended_at=NOON + 5))
    inserted(outbox, deployment(of=late, build_started_at=NOON, build_ended_at=NOON + 10))
    inserted(outbox, deployment(of=run(3, "deploy/api"), build_started_at=NOON, build_ended_at=NOON + 11))
    assert set(outbox.projects(NOON + 5)) == {early.project, late.project}
    assert outbox.projects(NOON + 6) == [late.project]
    assert outbox.projects(NOON + 12) == []
    assert shown(outbox, build_ended_since=NOON + 10) == [3, 2]


# ---- filters


@pytest.fixture
def several(outbox: Outbox) -> Outbox:
    said = [
        content("production", repo_url="https://a.test/x", ended_at=NOON),
        content("staging", status=Status.FAILED, ended_at=NOON + 1),
        content("production", status=Status.FAILED, repo_url="https://a.test/x", ended_at=NOON + 2),
        content("Production", ended_at=NOON + 3),
        content(environment=None, ended_at=NOON + 4),  # type: ignore[arg-type]
    ]
    runs = [run(1), run(2), run(1, "deploy/shop-2"), run(4, controller="other"), run_of_id("given")]
    states = [State.PENDING, State.FAILED, State.PENDING, State.HELD, State.FAILED]
    for n, (of, state, body) in enumerate(zip(runs, states, said, strict=True)):
        reason = f"No Répo_URL 100% of {n}" if state is State.FAILED else None
        inserted(outbox, deployment(of=of, state=state, content=body, created_at=NOON + 9 - n, reason=reason))
    outbox.settle([success(outbox.claim(1)[0], reason="already there")])
    return outbox


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, [5, 4, 3, 2, 1]),
        ({"states": (State.FAILED,)}, [5, 2]),
        ({"states": (State.DELIVERED, State.HELD, State.FAILED)}, [5, 4, 2, 1]),
        ({"states": (State.DISCARDED,)}, []),
        ({"since": NOON + 2}, [5, 4, 3]),
        ({"until": NOON + 2}, [2, 1]),
        ({"since": NOON + 1, "until": NOON + 3}, [3, 2]),
        ({"build_ended_since": NOON - 1}, [5, 4, 3, 2, 1]),
        ({"build_ended_since": NOON + 10 * DAY}, []),
        ({"environment": "production"}, [3, 1]),
        ({"status": "failed"}, [3, 2]),
        ({"repo_url": "https://a.test/x"}, [3, 1]),
        ({"reason": "rÉPO_url"}, [5, 2]),
        ({"reason": "100%"}, [5, 2]),
        ({"reason": "%"}, [5, 2]),
        ({"reason": "ALREADY"}, [1]),
        ({"reason": "nobody"}, []),
        ({"project": Project("jenkins", "main", "deploy/shop")}, [2, 1]),
        ({"project": Project("jenkins", "main", "deploy/SHOP")}, []),
        ({"project": Project("", "", "")}, [5]),
        ({"scope": "main"}, [3, 2, 1]),
        ({"scope": "other"}, [4]),
        ({"scope": "nobody"}, []),
        ({"states": (State.FAILED,), "scope": "main"}, [2]),
        ({"states": (State.FAILED, State.DELIVERED), "project": Project("jenkins", "main", "deploy/shop")}, [2, 1]),
        ({"states": (State.PENDING, State.DELIVERED), "environment": "production", "status": "failed"}, [3]),
        ({"states": (State.PENDING, State.PENDING)}, [3]),
    ],
    ids=str,
)
def test_conditions_add_up(several: Outbox, conditions: dict[str, Any], expected: list[int]) -> None:
    assert shown(several, **conditions) == expected
    assert shown(several, limit=1, **conditions) == expected[:1]
    paged, before = [], None
    while page := shown(several, limit=2, before=before, **conditions):
        paged += page
        before = page[-1]
    assert paged == expected


def test_pages_go_on_where_the_last_one_ended_whatever_comes_meanwhile(outbox: Outbox) -> None:
    inserted(outbox, *(deployment(n) for n in range(1, 8)))
    first = shown(outbox, limit=3)
    inserted(outbox, deployment(8))
    assert (first, shown(outbox, limit=3, before=first[-1])) == ([7, 6, 5], [4, 3, 2])
    assert shown(outbox, limit=3, before=1) == []
    assert len(outbox.query(Filter(), Page())) == 8


# ---- one deployment


def test_a_deployment_is_found_by_its_id_else_by_its_number(outbox: Outbox) -> None:
    first, second = inserted(outbox, deployment(1), deployment(of=run_of_id("1")))
    assert outbox.find("main:deploy/shop#1") == first
    assert outbox.find("1") == second
    assert outbox.find("2") == second
    for name in ("3", "main:deploy/shop#2", "", "-1", "٣", "9" * 30, "1 "):
        assert outbox.find(name) is None


def test_the_deployments_of_a_run_are_told_in_their_order(outbox: Outbox) -> None:
    inserted(outbox, *(deployment(1, deployment_id=name) for name in "bac"), deployment(2))
    outbox.store([Change(facts=(finished(run(1)),))])
    assert [each.deployment_id for each in outbox.of_run(run(1))] == ["b", "a", "c"]


# ---- what was deployed


def ends(found: Iterator[Deployed]) -> list[tuple[int, int]]:
    return [(each.number, each.ended_at - NOON) for each in found]


def test_what_was_deployed_comes_in_the_order_of_its_ends(outbox: Outbox) -> None:
    """By the end of the deployment, not by that of its build; those with the same end by their numbers."""
    for number, end in enumerate((50, 10, 30, 10, 40), 1):
        inserted(outbox, deployment(number, content=content(ended_at=NOON + end), build_ended_at=NOON + 99 - end))
    assert ends(outbox.deployed(NOON, NOON + 100)) == [(2, 10), (4, 10), (3, 30), (5, 40), (1, 50)]
    assert ends(outbox.deployed(NOON + 10, NOON + 40)) == [(2, 10), (4, 10), (3, 30)], "the end is exclusive"
    assert ends(outbox.deployed(NOON + 11, NOON + 30)) == []


def test_what_was_deployed_has_the_columns_of_the_figures(outbox: Outbox) -> None:
    said = content(
        "staging",
        status=Status.CANCELED,
        repo_url="https://a.test/x",
        commit_hash="ab" * 20,
        first_commit_at=NOON - 5,
        started_at=NOON + 1,
        ended_at=NOON + 2,
        branch="hotfix/login",
    )
    inserted(outbox, deployment(1, content=said), deployment(2, content=content(environment=None, ended_at=NOON + 3)))  # type: ignore[arg-type]
    assert list(outbox.deployed(NOON, NOON + 9)) == [
        Deployed(
            1, Status.CANCELED, "staging", "https://a.test/x", "ab" * 20, NOON - 5, NOON + 1, NOON + 2, hotfix=True
        ),
        Deployed(2, Status.SUCCESS, None, None, None, None, NOON, NOON + 3),
    ]


def test_what_was_deployed_counts_in_every_state_but_discarded(outbox: Outbox) -> None:
    for number, state in enumerate(State, 1):
        in_state(outbox, state, number)
    states = {stored(outbox, each.number).state for each in outbox.deployed(NOON, NOON + DAY)}
    assert states == set(State) - {State.DISCARDED}


def test_what_was_deployed_can_be_limited_to_an_environment_and_a_repository(several: Outbox) -> None:
    def numbers(**conditions: str) -> list[int]:
        return [each.number for each in several.deployed(NOON, NOON + DAY, **conditions)]

    assert numbers(environment="production") == [1, 3]
    assert numbers(repo_url="https://a.test/x") == [1, 3]
    assert numbers(environment="staging", repo_url="https://a.test/x") == []
    assert numbers(environment="Production") == [4]


def test_what_was_deployed_is_read_from_one_state_of_the_outbox(engine: Engine) -> None:
    """A deployment that is stored by somebody else during the iteration is not in it, and nobody waits."""
    with closing(engine.open()) as outbox, closing(engine.open()) as other:
        inserted(outbox, *(deployment(number) for number in range(1, 200)))
        found = outbox.deployed(NOON, NOON + DAY)
        next(found)
        inserted(other, deployment(500))
        assert len(list(found)) == 198
        assert len(list(outbox.deployed(NOON, NOON + DAY))) == 200


def test_an_iteration_that_was_given_up_leaves_the_outbox_usable(outbox: Outbox) -> None:
    inserted(outbox, deployment(1), deployment(2))
    found = outbox.deployed(NOON, NOON + DAY)
    next(found)
    found.close()  # type: ignore[attr-defined]
    inserted(outbox, deployment(3))
    assert outbox.try_writing() is None


# ---- counts


def counted(outbox: Outbox) -> Counts:
    states = [each.state.value for each in outbox.all_deployments()]
    return Counts(**{state.value: states.count(state.value) for state in State})


KEEP = Keep(0, 0, DAY)
STEPS = st.one_of(
    st.tuples(st.just("insert"), st.sampled_from([State.HELD, State.PENDING, State.FAILED])),
    st.tuples(st.just("settle"), st.sampled_from([success, retry, refusal])),
    st.tuples(st.sampled_from(["remove", "release", "discard", "replay"]), st.integers(0, 9)),
    st.tuples(st.sampled_from(["prune", "crash"]), st.none()),
)


@given(steps=st.lists(STEPS, max_size=30))
def test_the_counts_are_those_of_the_deployments(
    new_engine: Callable[[], Engine], steps: list[tuple[str, Any]]
) -> None:
    """Also when the newest ones are deleted and their numbers are given away again."""
    engine, numbers = new_engine(), count(1)
    with closing(engine.open()) as outbox, closing(engine.open()) as other:
        for step, how in steps:
            if step == "crash":
                with pytest.raises(ZeroDivisionError), outbox.transaction():
                    outbox.store([Change(inserted=(deployment(next(numbers)),))])
                    raise ZeroDivisionError
            elif step == "prune":
                engine.clock.advance(s=1)
                clean_up(outbox, KEEP)
            else:
                _change(outbox, step, how, numbers)
            assert outbox.counts() == counted(outbox)
        assert other.counts() == counted(outbox)


def _change(outbox: Outbox, step: str, how: Any, numbers: count[int]) -> None:
    if step == "insert":
        inserted(outbox, deployment(next(numbers), how))
    elif step == "settle":
        outbox.settle([how(claimed) for claimed in outbox.claim(1)])
    elif there := list(outbox.all_deployments()):
        each = there[how % len(there)]
        if step == "remove":
            outbox.store([Change(removed=(each,))])
        elif step == "release" and each.state is State.HELD:
            rewritten(outbox, each, state=State.PENDING, deployment_id=f"released {next(numbers)}", held_since=None)
        elif step == "discard":
            outbox.discard([each], "why")
        elif step == "replay":
            outbox.replay([each])


def test_the_oldest_pending_one_tells_how_long_hivel_is_behind(outbox: Outbox, clock: FakeClock) -> None:
    assert outbox.backlog().oldest_pending is None
    in_state(outbox, State.FAILED, 1)
    clock.advance(ms=5)
    first, _ = inserted(outbox, deployment(2), deployment(3, created_at=NOON + 90))
    assert outbox.backlog().oldest_pending == NOON + 5
    outbox.settle([success(claim_of(outbox, first.number))])
    assert outbox.backlog().oldest_pending == NOON + 90


def test_what_was_attempted_is_told_of_each_deployment_alone(outbox: Outbox) -> None:
    inserted(outbox, deployment(1), deployment(2))
    outbox.settle([retry(claim_of(outbox, 1), at=NOON + 1), refusal(claim_of(outbox, 2), at=NOON + 2)])
    found: list[Deployment] = [stored(outbox, number) for number in (1, 2)]
    assert [[attempt.at for attempt in outbox.attempts(each)] for each in found] == [[NOON + 1], [NOON + 2]]


# ---- what has been quiet


def ended(of: Run, at: int, **changes: Any) -> Deployment:
    return deployment(of=of, build_started_at=at - 10, build_ended_at=at, **changes)


def test_quiet_is_what_deployed_and_ended_before(outbox: Outbox) -> None:
    inserted(outbox, *(ended(run(n), NOON + n) for n in range(1, 61)))
    inserted(outbox, *(ended(run(n, "deploy/api"), NOON + 100 * n) for n in (1, 2, 3)))
    [shop] = outbox.quiet_since(NOON + 200, least=3)
    assert (shop.project, shop.newest_run, shop.newest_started_at) == (run().project, "60", NOON + 50)
    assert shop.ends == tuple(NOON + n for n in range(11, 61)), "the last fifty, in their order"
    assert {each.project.name for each in outbox.quiet_since(NOON + 400, least=3)} == {"deploy/shop", "deploy/api"}
    assert outbox.quiet_since(NOON + 60, least=3) == [], "not before: then"
    assert outbox.quiet_since(NOON + 400, least=61) == []


def test_a_build_with_several_deployments_counts_once_and_what_is_none_does_not(outbox: Outbox) -> None:
    of = [ended(run(1), NOON, deployment_id=f"s{n}") for n in range(3)]
    inserted(outbox, *of, ended(run(2), NOON + 5), ended(run(1), NOON + 9, deployment_id="again"))
    inserted(outbox, ended(run(3), NOON + 500, content=content(problem="no branch"), state=State.FAILED))
    [found] = outbox.quiet_since(NOON + 501, least=3)
    assert found.ends == (NOON, NOON + 5, NOON + 9), "the number was used again by another build"
    assert outbox.quiet_since(NOON + 501, least=4) == []


def test_what_was_stored_last_may_be_older_than_the_rest(outbox: Outbox) -> None:
    """As after a backfill."""
    inserted(outbox, ended(run(9), NOON + 100), ended(run(1), NOON))
    assert outbox.quiet_since(NOON + 50, least=1) == []
    assert len(outbox.quiet_since(NOON + 101, least=1)) == 1


def test_a_renamed_job_is_not_quiet_under_its_former_name(outbox: Outbox) -> None:
    inserted(outbox, ended(run(1, "old"), NOON))
    cursor = JobCursor("old", 2, NOON)
    outbox.save_progress(Progress("main", cursors=(cursor,)))
    outbox.save_progress(Progress("main", cursors=(JobCursor("new", 2, NOON),), renamed=(Renamed(cursor, "new"),)))
    assert outbox.quiet_since(NOON + 1, least=1) == []


def test_deployments_are_read_by_their_numbers(outbox: Outbox) -> None:
    inserted(outbox, *(deployment(n, of=run(n, f"deploy/shop-{n}")) for n in range(1, 5)))
    found = outbox.with_numbers([3, 1, 99, 0, -1, 2**63, 2**70])
    assert {number: row.run.project.name for number, row in found.items()} == {1: "deploy/shop-1", 3: "deploy/shop-3"}
    assert found[3] == stored(outbox, 3)
    assert outbox.with_numbers([]) == {}
