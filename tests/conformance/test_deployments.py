"""Deployments are inserted once, rewritten only from where they may come, and removed only while they are held."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.model.deployment import Deployment, Name, Scope, State
from agent.model.keys import run_of_id
from agent.model.status import Status
from agent.outbox.values import Change, Counts, Filter, Keep, Page
from tests.conformance.things import (
    CONTENTS,
    DAY,
    NAMES,
    clean_up,
    content,
    deployment,
    deployments,
    distinct,
    finished,
    in_state,
    inserted,
    rewritten,
    run,
    stored,
    success,
)
from tests.integration.support import NOON

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.model.deployment import Content
    from agent.outbox.interface import Outbox
    from tests.engines import Engine
    from tests.integration.support import FakeClock

ALL = tuple(State)
NEW = (State.HELD, State.PENDING, State.FAILED)


@given(these=st.lists(deployments(), max_size=8).map(distinct))
def test_any_deployments_are_found_as_they_were_stored(
    new_engine: Callable[[], Engine], these: list[Deployment]
) -> None:
    with closing(new_engine().open()) as outbox:
        expected = [replace(each, number=n) for n, each in enumerate(these, 1)]
        assert inserted(outbox, *these) == expected if these else True
        assert outbox.query(Filter(), Page(limit=99)) == expected[::-1]
        assert [outbox.find(str(each.number)) for each in expected] == expected
        named = [each for each in expected if each.deployment_id is not None]
        assert [outbox.find(each.deployment_id or "") for each in named] == named
        states = outbox.load({each.run for each in these})
        assert {each: list(state.deployments) for each, state in states.items()} == {
            each: [one for one in expected if one.run == each] for each in states
        }


@given(before=deployments(), after=deployments())
def test_a_held_deployment_can_become_any_that_is_not_settled(
    new_engine: Callable[[], Engine], before: Deployment, after: Deployment
) -> None:
    state = after.state if after.state in NEW else State.PENDING
    before = replace(before, state=State.HELD, deployment_id=None, held_since=5, settled_at=None)
    after = replace(
        after,
        state=state,
        revision=before.revision + 1,
        held_since=5 if state is State.HELD else None,
        settled_at=9 if state is State.FAILED else None,
    )
    with closing(new_engine().open()) as outbox:
        [held] = inserted(outbox, before)
        outbox.store([Change(rewritten=(replace(after, number=held.number),))])
        kept = {"number": held.number, "created_at": held.created_at}
        kept |= {"attempts": held.attempts, "sent_revision": held.sent_revision}
        assert stored(outbox, held.number) == replace(after, **kept)


def test_numbers_grow_in_the_order_of_storing(outbox: Outbox) -> None:
    outbox.store([Change(inserted=(deployment(5), deployment(3))), Change(inserted=(deployment(4),))])
    inserted(outbox, deployment(1))
    assert [(each.number, each.run.number) for each in outbox.all_deployments()] == [
        (1, "5"), (2, "3"), (3, "4"), (4, "1"),
    ]  # fmt: skip


def test_what_a_new_deployment_does_not_say_is_filled_in(outbox: Outbox, clock: FakeClock) -> None:
    clock.advance(s=7)
    now = clock.now_ms()
    pending, held, failed = inserted(outbox, deployment(1), deployment(2, State.HELD), deployment(3, State.FAILED))
    assert [each.created_at for each in (pending, held, failed)] == [now] * 3
    assert [each.held_since for each in (pending, held, failed)] == [None, now, None]
    assert [each.settled_at for each in (pending, held, failed)] == [None, None, now]


@pytest.mark.parametrize(
    "changes",
    [{"attempts": 3}, {"sent_revision": 0}, {"next_attempt_at": 5}, {"reason": "HTTP 503"}, {"known": False}],
    ids=str,
)
def test_what_is_copied_is_what_it_was(outbox: Outbox, changes: dict[str, Any]) -> None:
    """Nearly all of them have nothing of it."""
    first, second = inserted(outbox, deployment(1, created_at=NOON), deployment(2, created_at=NOON, **changes))
    assert first == replace(deployment(1), number=1, created_at=NOON)
    assert second == replace(deployment(2), number=2, created_at=NOON, **changes)


def test_every_deployment_comes_out_of_a_large_outbox_once_and_in_order(outbox: Outbox) -> None:
    outbox.store([Change(inserted=tuple(deployment(number) for number in range(1, 1_704)))])
    assert [each.number for each in outbox.all_deployments()] == list(range(1, 1_704))


# ---- ids


def test_an_id_is_given_once(outbox: Outbox) -> None:
    inserted(outbox, deployment(1, build_started_at=NOON - 5))
    other = deployment(1, build_started_at=NOON + 5)
    assert outbox.store([Change(inserted=(other, deployment(2)))]) == {"main:deploy/shop#1": NOON - 5}
    assert [each.deployment_id for each in outbox.all_deployments()] == ["main:deploy/shop#1", "main:deploy/shop#2"]


def test_of_two_with_one_id_in_the_same_change_the_first_gets_it(outbox: Outbox) -> None:
    twins = (deployment(1, build_started_at=NOON + 1), deployment(1, build_started_at=NOON + 2), deployment(2))
    assert outbox.store([Change(inserted=twins)]) == {"main:deploy/shop#1": NOON + 1}
    assert [each.build_started_at for each in outbox.all_deployments()] == [NOON + 1, NOON]


def test_the_facts_of_a_change_are_stored_whether_or_not_the_id_was_free(outbox: Outbox) -> None:
    inserted(outbox, deployment(1))
    outbox.store(
        [Change(facts=(finished(run(9)),), inserted=(deployment(1, of=run(9), deployment_id="main:deploy/shop#1"),))]
    )
    assert outbox.facts(run(9)) == [finished(run(9))]
    assert outbox.of_run(run(9)) == []


def test_deployments_that_are_held_have_no_id_and_are_in_nobodys_way(outbox: Outbox) -> None:
    assert len(inserted(outbox, *(deployment(1, State.HELD) for _ in range(3)))) == 3


def test_the_id_of_a_deleted_deployment_is_not_given_again(outbox: Outbox, clock: FakeClock) -> None:
    keep = Keep(30 * DAY, 400 * DAY, 3_650 * DAY)
    in_state(outbox, State.DELIVERED, build_started_at=NOON - 5)
    clock.advance(ms=401 * DAY)
    clean_up(outbox, keep)
    assert list(outbox.all_deployments()) == []
    batch = tuple(
        deployment(number, state) for number, state in ((1, State.PENDING), (2, State.PENDING), (3, State.HELD))
    )
    assert outbox.store([Change(inserted=batch)]) == {"main:deploy/shop#1": NOON - 5}
    rows = list(outbox.all_deployments())
    assert [each.run.number for each in rows] == ["2", "3"]
    again = replace(rows[1], state=State.PENDING, deployment_id="main:deploy/shop#1")
    assert outbox.store([Change(rewritten=(again,))]) == {"main:deploy/shop#1": NOON - 5}
    assert list(outbox.all_deployments()) == rows


def test_a_rewritten_deployment_gets_no_id_that_another_has(outbox: Outbox) -> None:
    _, held = inserted(outbox, deployment(1, build_started_at=NOON - 5), deployment(2, State.HELD))
    wanted = replace(held, state=State.PENDING, deployment_id="main:deploy/shop#1")
    assert outbox.store([Change(rewritten=(wanted,))]) == {"main:deploy/shop#1": NOON - 5}
    assert stored(outbox, 2) == held
    free = replace(wanted, deployment_id="main:deploy/shop#2")
    assert outbox.store([Change(rewritten=(free,))]) == {}
    assert stored(outbox, 2).deployment_id == "main:deploy/shop#2"


def test_an_id_that_somebody_gives_is_a_run_of_its_own(outbox: Outbox) -> None:
    [given_] = inserted(outbox, deployment(of=run_of_id("deploy-2026"), content=content()))
    assert given_.deployment_id == "deploy-2026"
    assert outbox.of_run(run_of_id("deploy-2026")) == [given_]
    assert outbox.find("deploy-2026") == given_


# ---- rewriting


@pytest.mark.parametrize("new", ALL)
@pytest.mark.parametrize("old", ALL)
def test_a_deployment_comes_only_from_where_it_may_come(outbox: Outbox, old: State, new: State) -> None:
    before = in_state(outbox, old)
    wanted = replace(
        before,
        state=new,
        content=content("staging"),
        names=(Name(Scope.WHOLE, environment="staging"),),
        deployment_id=before.deployment_id if new is State.HELD or before.deployment_id else "main:deploy/shop#1",
        revision=before.revision if new is State.DELIVERED else before.revision + 1,
    )
    assert outbox.store([Change(rewritten=(wanted,))]) == {}
    after = stored(outbox, before.number)
    ways = {
        State.HELD: (State.HELD, State.PENDING, State.FAILED),
        State.PENDING: (State.PENDING, State.FAILED),
        State.FAILED: (State.PENDING, State.FAILED),
        State.DISCARDED: (State.DISCARDED,),
        State.DELIVERED: (State.DELIVERED,),
    }
    if new not in ways[old]:
        assert after == before
    else:
        assert (after.state, after.names) == (new, wanted.names)
        assert after.content == (before.content if old is State.DELIVERED else wanted.content)


@pytest.mark.parametrize("revision", [1, 2, 4, 5])
def test_a_deployment_that_changed_meanwhile_stays_as_it_is(outbox: Outbox, revision: int) -> None:
    [first] = inserted(outbox, deployment(1, revision=3))
    late = replace(first, revision=revision, content=content("late"))
    assert outbox.store([Change(rewritten=(late,))]) == {}
    assert (stored(outbox, 1).content == content("late")) is (revision in (3, 4))


@given(said=CONTENTS, names=st.lists(NAMES, min_size=1, max_size=3).map(tuple))
def test_of_a_delivered_deployment_only_what_it_stands_for_is_rewritten(
    new_engine: Callable[[], Engine], said: Content, names: tuple[Name, ...]
) -> None:
    with closing(new_engine().open()) as outbox:
        before = in_state(outbox, State.DELIVERED, known=False)
        wanted = replace(
            before, known=True, names=names, build_started_at=said.started_at, build_ended_at=said.ended_at
        )
        outbox.store([Change(rewritten=(replace(wanted, content=said, attempts=9, reason="x", anchor=1),))])
        after = stored(outbox, before.number)
        assert after.content == before.content
        assert after.build_started_at == said.started_at
        assert after == replace(wanted, names=after.names)
        assert [name.environment or None for name in after.names] == [name.environment or None for name in names]
        assert after.names == names


def test_rewriting_leaves_alone_what_delivery_wrote(outbox: Outbox, clock: FakeClock) -> None:
    [first] = inserted(outbox, deployment(1))
    outbox.settle([success(outbox.claim(1)[0])])
    outbox.replay([stored(outbox, 1)])
    again = stored(outbox, 1)
    clock.advance(s=9)
    after = rewritten(outbox, again, content=content("staging"), attempts=7, sent_revision=None, created_at=1)
    assert (after.attempts, after.sent_revision, after.created_at) == (0, 1, first.created_at)


def test_a_failed_deployment_that_can_be_sent_now_is_due(outbox: Outbox, clock: FakeClock) -> None:
    failed = in_state(outbox, State.FAILED)
    clock.advance(s=5)
    now = clock.now_ms()
    after = rewritten(outbox, failed, state=State.PENDING, settled_at=None, reason=None, next_attempt_at=now)
    assert (after.settled_at, after.reason) == (None, None)
    assert [claimed.revision for claimed in outbox.claim(9)] == [2]


def test_the_times_of_the_build_stay_when_only_the_content_changes(outbox: Outbox) -> None:
    [before] = inserted(outbox, deployment(1))
    after = rewritten(outbox, before, content=content(started_at=NOON + 7, ended_at=NOON + 8))
    assert (after.build_started_at, after.build_ended_at) == (NOON, NOON + 1_000)
    again = rewritten(outbox, after, build_started_at=NOON + 7, build_ended_at=NOON + 8)
    assert (again.build_started_at, again.build_ended_at) == (NOON + 7, NOON + 8)


# ---- removing


@pytest.mark.parametrize("state", ALL)
def test_only_a_held_deployment_is_removed(outbox: Outbox, state: State) -> None:
    before = in_state(outbox, state)
    outbox.store([Change(removed=(before,))])
    assert (outbox.find("1") is None) is (state is State.HELD)


def test_what_is_removed_leaves_no_trace(outbox: Outbox) -> None:
    [held] = inserted(outbox, deployment(1, State.HELD))
    outbox.store([Change(removed=(held,), inserted=(deployment(1),))])
    [now] = outbox.all_deployments()
    assert (now.state, now.deployment_id) == (State.PENDING, "main:deploy/shop#1")
    assert outbox.counts() == Counts(pending=1, held=0, delivered=0, failed=0)


def test_a_status_of_each_kind_is_kept(outbox: Outbox) -> None:
    batch = (deployment(n, content=content(status=status)) for n, status in enumerate(Status, 1))
    assert [each.content.status for each in inserted(outbox, *batch)] == list(Status)
