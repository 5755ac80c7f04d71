"""What is held, and what people do: replay and discard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from agent.model.deployment import State
from agent.outbox.values import Change, Counts
from tests.conformance.things import (
    claim_of,
    content,
    deployment,
    in_state,
    inserted,
    retry,
    rewritten,
    run,
    stored,
    success,
)
from tests.integration.support import NOON

if TYPE_CHECKING:
    from agent.outbox.interface import Outbox
    from tests.integration.support import FakeClock

SETTLED = (State.DELIVERED, State.FAILED, State.DISCARDED)


# ---- held


def test_a_run_with_held_deployments_is_named_once(outbox: Outbox) -> None:
    inserted(
        outbox,
        deployment(2, State.HELD),
        deployment(1, State.HELD),
        deployment(2, State.HELD),
        deployment(3),
    )
    assert outbox.held() == [run(2), run(1)]


def test_those_are_named_that_are_held_since_before_that_moment(outbox: Outbox) -> None:
    inserted(outbox, *(deployment(n, State.HELD, held_since=NOON - 10 * n) for n in (1, 2, 3)))
    assert outbox.held(NOON - 20) == [run(3)]
    assert outbox.held(NOON - 19) == [run(2), run(3)]
    assert outbox.held(NOON - 99) == []


def test_one_that_is_held_since_a_time_to_come_is_named_as_well(outbox: Outbox, clock: FakeClock) -> None:
    """The clock was set back: it must not wait until that time."""
    inserted(outbox, deployment(1, State.HELD, held_since=NOON))
    assert outbox.held(NOON - 60_000) == []
    clock.jump(ms=-1)
    assert outbox.held(NOON - 60_000) == [run(1)]


def test_a_deployment_that_is_not_held_any_more_is_not_named(outbox: Outbox) -> None:
    [held] = inserted(outbox, deployment(1, State.HELD, held_since=1))
    rewritten(outbox, held, state=State.PENDING, deployment_id="one", held_since=None)
    assert outbox.held() == []


# ---- replay


@pytest.mark.parametrize("state", SETTLED)
def test_what_is_replayed_is_due_as_it_is_with_fresh_attempts(outbox: Outbox, clock: FakeClock, state: State) -> None:
    before = in_state(outbox, state)
    clock.advance(s=60)
    assert outbox.replay([before]) == [True]
    after = stored(outbox, before.number)
    assert after == replace(
        before, state=State.PENDING, attempts=0, settled_at=None, reason=None, next_attempt_at=clock.now_ms()
    )
    assert [claimed.content for claimed in outbox.claim(9)] == [before.content]
    assert outbox.counts() == Counts(pending=1, held=0, delivered=0, failed=0)


def test_attempts_from_before_a_replay_are_gone(outbox: Outbox) -> None:
    [other, first] = inserted(outbox, deployment(2), deployment(1))
    for n in range(3):
        outbox.settle([retry(claimed, at=NOON + n) for claimed in outbox.claim(9)])
    outbox.settle([success(claim_of(outbox, first.number))])
    assert outbox.replay([stored(outbox, first.number)]) == [True]
    assert outbox.attempts(first) == []
    assert [attempt.n for attempt in outbox.attempts(other)] == [1, 2, 3]
    outbox.settle([retry(claim_of(outbox, first.number))])
    assert [attempt.n for attempt in outbox.attempts(first)] == [1]


@pytest.mark.parametrize("state", [State.HELD, State.PENDING])
def test_what_is_not_settled_is_not_replayed(outbox: Outbox, state: State) -> None:
    before = in_state(outbox, state)
    assert outbox.replay([before]) == [False]
    assert stored(outbox, before.number) == before


def test_what_changed_meanwhile_is_not_replayed(outbox: Outbox) -> None:
    failed, discarded = in_state(outbox, State.FAILED, 1), in_state(outbox, State.DISCARDED, 2)
    rewritten(outbox, failed, content=content("staging"), settled_at=NOON)
    delivered = in_state(outbox, State.DELIVERED, 3)
    gone = replace(delivered, number=99)
    assert outbox.replay([failed, discarded, replace(discarded, state=State.FAILED), gone, delivered]) == [
        False, True, False, False, True,
    ]  # fmt: skip
    assert stored(outbox, 1).state is State.FAILED


# ---- discard


@pytest.mark.parametrize("state", [State.FAILED, State.PENDING])
def test_what_is_discarded_is_kept_and_never_sent(outbox: Outbox, clock: FakeClock, state: State) -> None:
    before = in_state(outbox, state)
    clock.advance(s=60)
    assert outbox.discard([before], "not wanted: ops") == [True]
    after = stored(outbox, before.number)
    assert after == replace(before, state=State.DISCARDED, settled_at=clock.now_ms(), reason="not wanted: ops")
    assert outbox.claim(9) == []
    assert outbox.counts() == Counts(pending=0, held=0, delivered=0, failed=0, discarded=1)
    assert outbox.make_due(later_than=0) == 0


def test_the_id_of_what_was_discarded_stays_known(outbox: Outbox) -> None:
    in_state(outbox, State.DISCARDED)
    assert outbox.store([Change(inserted=(deployment(1),))]) == {"main:deploy/shop#1": NOON}


@pytest.mark.parametrize("state", [State.HELD, State.DELIVERED, State.DISCARDED])
def test_only_what_failed_or_is_pending_is_discarded(outbox: Outbox, state: State) -> None:
    before = in_state(outbox, state)
    assert outbox.discard([before], "why") == [False]
    assert stored(outbox, before.number) == before


def test_what_changed_meanwhile_is_not_discarded(outbox: Outbox) -> None:
    first, second = inserted(outbox, deployment(1), deployment(2))
    rewritten(outbox, first, content=content("staging"))
    outbox.settle([success(claim_of(outbox, second.number))])
    assert outbox.discard([first, second, stored(outbox, 1)], "why") == [False, False, True]
