"""Claims and settlements: the oldest first, nothing written by a claim, and what was sent is what is recorded."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.model.deployment import State
from agent.outbox.values import ANSWER_LIMIT, LAST_ATTEMPTS, Attempt, Change, DeliveryState
from tests.conformance.things import (
    CONTENTS,
    claim_of,
    content,
    deployment,
    in_state,
    inserted,
    refusal,
    retry,
    rewritten,
    settlement,
    stored,
    success,
)
from tests.integration.support import NOON

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.model.deployment import Content, Deployment
    from agent.outbox.interface import Outbox
    from agent.outbox.values import Claimed, Settlement
    from tests.engines import Engine
    from tests.integration.support import FakeClock


def numbers(claimed: list[Claimed]) -> list[int]:
    return [each.number for each in claimed]


# ---- claims


@given(said=CONTENTS)
def test_what_is_claimed_is_what_is_stored(new_engine: Callable[[], Engine], said: Content) -> None:
    with closing(new_engine().open()) as outbox:
        [new] = inserted(outbox, deployment(1, content=said, revision=4))
        [claimed] = outbox.claim(1)
        assert (claimed.number, claimed.deployment_id, claimed.revision) == (new.number, "main:deploy/shop#1", 4)
        assert (claimed.content, claimed.attempts, claimed.created_at) == (said, 0, new.created_at)


def test_claims_come_oldest_first_and_leave_out_what_is_in_flight(outbox: Outbox) -> None:
    inserted(outbox, *(deployment(number) for number in (3, 1, 2, 5, 4)))
    assert [claimed.deployment_id[-2:] for claimed in outbox.claim(3)] == ["#3", "#1", "#2"]
    assert numbers(outbox.claim(2, besides={1, 3})) == [2, 4]
    assert numbers(outbox.claim(9, besides={1, 2, 3, 4, 5})) == []
    assert outbox.claim(0) == []


def test_a_claim_changes_no_deployment(engine: Engine, outbox: Outbox) -> None:
    """After a crash, what was in flight is due again."""
    before = inserted(outbox, deployment(1))
    assert outbox.claim(9) == outbox.claim(9)
    assert list(outbox.all_deployments()) == before
    engine.let_claims_run_out()
    with closing(engine.open()) as other:
        assert numbers(other.claim(9)) == [1]


def test_only_what_is_pending_is_claimed(outbox: Outbox) -> None:
    for number, state in enumerate(State, 1):
        in_state(outbox, state, number)
    assert [stored(outbox, claimed.number).state for claimed in outbox.claim(9)] == [State.PENDING]


def test_what_is_to_be_tried_later_is_not_claimed_before(outbox: Outbox, clock: FakeClock) -> None:
    inserted(outbox, deployment(1), deployment(2, next_attempt_at=NOON + 5_000))
    outbox.settle([retry(outbox.claim(1)[0], next_attempt_at=NOON + 9_000)])
    assert outbox.claim(9) == []
    clock.advance(s=5)
    assert numbers(outbox.claim(9)) == [2]
    clock.advance(s=4)
    assert [(claimed.number, claimed.attempts) for claimed in outbox.claim(9)] == [(1, 1), (2, 0)]


def test_what_waits_beyond_a_moment_is_made_due(outbox: Outbox) -> None:
    inserted(outbox, *(deployment(n, next_attempt_at=NOON + n * 1_000) for n in (1, 2, 3)))
    in_state(outbox, State.FAILED, 4, next_attempt_at=NOON + 9_000)
    assert outbox.make_due(later_than=NOON + 1_000) == 2
    assert numbers(outbox.claim(9)) == [2, 3]
    assert outbox.make_due(later_than=NOON + 1_000) == 0


# ---- settlements of the revision that is stored


def test_a_success_settles(outbox: Outbox) -> None:
    [before] = inserted(outbox, deployment(1))
    outbox.settle([success(outbox.claim(1)[0], at=NOON + 3, reason="a remark")])
    after = stored(outbox, 1)
    assert after == replace(
        before, state=State.DELIVERED, sent_revision=1, attempts=1, settled_at=NOON + 3, reason="a remark"
    )
    assert outbox.attempts(after) == []


def test_a_failure_is_tried_again_at_its_time(outbox: Outbox) -> None:
    [before] = inserted(outbox, deployment(1))
    outbox.settle([retry(outbox.claim(1)[0], at=NOON + 3, next_attempt_at=NOON + 9, answer="x" * 9_000)])
    assert stored(outbox, 1) == replace(before, attempts=1, reason="HTTP 503", next_attempt_at=NOON + 9)
    assert outbox.attempts(before) == [Attempt(1, NOON + 3, 12, 503, "retry", "x" * ANSWER_LIMIT)]


def test_without_a_time_it_stays_as_due_as_it_was(outbox: Outbox) -> None:
    inserted(outbox, deployment(1, next_attempt_at=NOON - 7))
    outbox.settle([retry(outbox.claim(1)[0])])
    assert stored(outbox, 1).next_attempt_at == NOON - 7


def test_a_refusal_needs_a_person(outbox: Outbox) -> None:
    [before] = inserted(outbox, deployment(1))
    outbox.settle([refusal(outbox.claim(1)[0], at=NOON + 3)])
    assert stored(outbox, 1) == replace(before, state=State.FAILED, attempts=1, reason="HTTP 400", settled_at=NOON + 3)
    assert [attempt.verdict for attempt in outbox.attempts(before)] == ["failed"]


def test_an_attempt_that_does_not_count_leaves_its_reason_only(outbox: Outbox) -> None:
    [before] = inserted(outbox, deployment(1))
    outbox.settle([retry(outbox.claim(1)[0], counts_as_attempt=False, reason="paused", http_status=401)])
    assert stored(outbox, 1) == replace(before, reason="paused")
    assert outbox.attempts(before) == []


def test_no_answer_is_no_status(outbox: Outbox) -> None:
    [before] = inserted(outbox, deployment(1))
    outbox.settle([retry(outbox.claim(1)[0], http_status=None)])
    assert [attempt.http_status for attempt in outbox.attempts(before)] == [None]


def test_two_attempts_with_the_same_time_and_outcome_both_count(outbox: Outbox) -> None:
    [before] = inserted(outbox, deployment(1))
    for _ in range(2):
        outbox.settle([retry(claim_of(outbox, before.number))])
    assert stored(outbox, 1).attempts == 2
    assert [attempt.n for attempt in outbox.attempts(before)] == [1, 2]


def test_of_many_attempts_the_first_and_the_last_are_kept_and_all_are_counted(outbox: Outbox) -> None:
    first, other = inserted(outbox, deployment(1), deployment(2))
    for n in range(1, 61):
        outbox.settle([retry(claim_of(outbox, first.number), at=NOON + n)])
        kept = [attempt.n for attempt in outbox.attempts(first)]
        assert kept == sorted({1, *range(max(1, n - LAST_ATTEMPTS + 1), n + 1)})
    outbox.settle([retry(claim_of(outbox, other.number))])
    assert (stored(outbox, 1).attempts, stored(outbox, 2).attempts) == (60, 1)
    assert [attempt.at - NOON for attempt in outbox.attempts(first)] == [1, *range(41, 61)]
    outbox.settle([success(claim_of(outbox, first.number))])
    assert (stored(outbox, 1).attempts, len(outbox.attempts(first))) == (61, 1 + LAST_ATTEMPTS)


def test_settlements_of_many_are_recorded_each(outbox: Outbox) -> None:
    inserted(outbox, *(deployment(n) for n in range(1, 10)))
    outcomes = [success, retry, refusal] * 3
    outbox.settle([outcome(claimed) for outcome, claimed in zip(outcomes, outbox.claim(9), strict=True)])
    outbox.settle([])
    expected = [State.DELIVERED, State.PENDING, State.FAILED] * 3
    assert [each.state for each in outbox.all_deployments()] == expected
    assert {each.attempts for each in outbox.all_deployments()} == {1}


# ---- settlements of another revision, or of what is not pending any more


@pytest.mark.parametrize("build_started_at", [NOON, NOON + 5, NOON + 7])
def test_what_was_sent_before_it_changed_is_delivered_as_it_was_sent(outbox: Outbox, build_started_at: int) -> None:
    """Else the outbox would say that Hivel has what it does not have. What the deployment is of stays known."""
    [first] = inserted(outbox, deployment(1, content=content("staging", image="shop:1", pr_numbers=(1, 2))))
    [claimed] = outbox.claim(1)
    said = content("production", started_at=NOON + 5, build_number="9")
    newer = rewritten(outbox, first, content=said, build_started_at=build_started_at)
    outbox.settle([success(claimed, at=NOON + 9)])
    after = stored(outbox, 1)
    assert after.content == first.content
    assert (after.state, after.revision, after.sent_revision, after.attempts) == (State.DELIVERED, 2, 1, 1)
    assert newer.build_started_at == build_started_at
    assert (after.build_started_at, after.build_ended_at) == (newer.build_started_at, newer.build_ended_at)
    assert outbox.claim(9) == []


@pytest.mark.parametrize("outcome", [retry, refusal])
def test_what_failed_before_it_changed_stays_due_as_it_is_now(
    outbox: Outbox, outcome: Callable[..., Settlement]
) -> None:
    [first] = inserted(outbox, deployment(1))
    [claimed] = outbox.claim(1)
    newer = rewritten(outbox, first, content=content("staging"))
    outbox.settle([outcome(claimed, next_attempt_at=NOON + 9_999)])
    assert stored(outbox, 1) == replace(newer, attempts=1)
    assert [attempt.n for attempt in outbox.attempts(newer)] == [1]
    assert [(again.revision, again.attempts) for again in outbox.claim(9)] == [(2, 1)]


@pytest.mark.parametrize(
    ("revision", "already_there", "expected"), [(1, False, 1), (3, False, 3), (1, True, 1), (3, True, 0)]
)
def test_which_revision_hivel_has_is_unknown_if_it_had_the_id_before(
    outbox: Outbox, revision: int, already_there: bool, expected: int
) -> None:
    inserted(outbox, deployment(1, revision=revision))
    outbox.settle([success(outbox.claim(1)[0], already_there=already_there)])
    assert stored(outbox, 1).sent_revision == expected


@pytest.mark.parametrize("move", ["discarded", "failed"])
def test_a_success_settles_also_what_was_let_go_or_failed_meanwhile(outbox: Outbox, move: str) -> None:
    [first] = inserted(outbox, deployment(1))
    [claimed] = outbox.claim(1)
    if move == "discarded":
        assert outbox.discard([first], "why") == [True]
    else:
        rewritten(outbox, first, state=State.FAILED, content=content(problem="no branch"), reason="no branch")
    outbox.settle([success(claimed)])
    after = stored(outbox, 1)
    assert (after.state, after.content, after.sent_revision) == (State.DELIVERED, first.content, 1)
    assert (outbox.counts().delivered, outbox.counts().discarded, outbox.counts().failed) == (1, 0, 0)


@pytest.mark.parametrize("outcome", [retry, refusal])
@pytest.mark.parametrize("state", [State.DISCARDED, State.DELIVERED])
def test_what_is_settled_is_not_moved_by_a_late_failure(
    outbox: Outbox, state: State, outcome: Callable[..., Settlement]
) -> None:
    [first] = inserted(outbox, deployment(1))
    [claimed] = outbox.claim(1)
    if state is State.DISCARDED:
        outbox.discard([first], "why")
    else:
        outbox.settle([success(claimed)])
    before = stored(outbox, 1)
    outbox.settle([outcome(claimed)])
    assert stored(outbox, 1) == replace(before, attempts=before.attempts + 1)


def test_a_success_is_recorded_once(outbox: Outbox) -> None:
    inserted(outbox, deployment(1))
    [claimed] = outbox.claim(1)
    outbox.settle([success(claimed)])
    before = stored(outbox, 1)
    outbox.settle([success(claimed, at=NOON + 99, reason="again")])
    assert stored(outbox, 1) == before


def test_a_settlement_of_a_deployment_that_is_not_there_changes_nothing(outbox: Outbox) -> None:
    before = inserted(outbox, deployment(1))
    claimed = outbox.claim(1)[0]
    nobody = type(claimed)(99, "x", 1, claimed.content, 0, NOON)
    outbox.settle([success(nobody), retry(nobody), refusal(nobody)])
    assert list(outbox.all_deployments()) == before


# ---- any order


class Model:
    """One deployment as it should be, and the attempts that are kept of it."""

    def __init__(self, new: Deployment) -> None:
        self.now = new
        self.failures: list[int] = []

    def rewrite(self, said: Content) -> Deployment:
        state = self.now.state
        self.now = replace(self.now, content=said, revision=self.now.revision + 1)
        if state is State.FAILED:
            self.now = replace(self.now, state=State.PENDING, settled_at=None, reason=None, next_attempt_at=0)
        return self.now

    def settle(self, outcome: Settlement) -> None:
        now, sent = self.now, outcome.claimed
        counted = replace(now, attempts=now.attempts + outcome.counts_as_attempt)
        if outcome.state is State.DELIVERED:
            if now.state is not State.DELIVERED:
                self.now = replace(
                    counted,
                    state=State.DELIVERED,
                    content=sent.content,
                    sent_revision=0 if outcome.already_there and sent.revision > 1 else sent.revision,
                    settled_at=outcome.at,
                    reason=outcome.reason,
                )
            return
        self.now = counted
        if now.state is State.PENDING and now.revision == sent.revision:
            failed = outcome.state is State.FAILED
            self.now = replace(
                counted,
                state=outcome.state,
                reason=outcome.reason,
                settled_at=outcome.at if failed else None,
                next_attempt_at=now.next_attempt_at if outcome.next_attempt_at is None else outcome.next_attempt_at,
            )
        if outcome.counts_as_attempt:
            self.failures.append(self.now.attempts)

    def kept(self) -> list[int]:
        return [n for n in self.failures if n == 1 or n > self.now.attempts - LAST_ATTEMPTS]


OUTCOMES = st.fixed_dictionaries(
    {
        "state": st.sampled_from([State.DELIVERED, State.PENDING, State.FAILED]),
        "counts_as_attempt": st.booleans(),
        "already_there": st.booleans(),
        "reason": st.sampled_from([None, "why"]),
        "next_attempt_at": st.sampled_from([None, NOON - 1, NOON + 9_000]),
    }
)
MOVES = st.one_of(
    st.tuples(st.just("claim"), st.none()),
    st.tuples(st.just("settle"), st.tuples(st.integers(0, 9), OUTCOMES)),
    st.tuples(st.just("rewrite"), CONTENTS),
    st.tuples(st.sampled_from(["discard", "replay", "wait"]), st.none()),
)


@given(moves=st.lists(MOVES, max_size=25))
def test_whatever_order_claims_changes_and_settlements_come_in(
    new_engine: Callable[[], Engine], moves: list[tuple[str, Any]]
) -> None:
    """The outbox always says what Hivel has, and nothing that is to be sent is lost or sent when it was let go."""
    engine = new_engine()
    clock = engine.clock
    with closing(engine.open()) as outbox:
        inserted(outbox, deployment(7))
        [new] = inserted(outbox, deployment(1))
        model, in_flight = Model(new), list[Any]()
        for move, how in moves:
            if move == "claim":
                due = [claimed for claimed in outbox.claim(9) if claimed.number == new.number]
                is_due = model.now.state is State.PENDING and model.now.next_attempt_at <= clock.now_ms()
                assert bool(due) == is_due
                in_flight += due
            elif move == "settle" and in_flight:
                which, outcome = how
                claimed = in_flight.pop(which % len(in_flight))
                clock.advance(ms=1)  # no two attempts of a deployment begin at the same time
                settled = settlement(claimed, at=clock.now_ms(), **outcome)
                outbox.settle([settled])
                model.settle(settled)
            elif move == "rewrite" and model.now.state in (State.PENDING, State.FAILED, State.DISCARDED):
                outbox.store([Change(rewritten=(model.rewrite(how),))])
            elif move == "discard" and model.now.state in (State.PENDING, State.FAILED):
                assert outbox.discard([model.now], "let go") == [True]
                model.now = replace(model.now, state=State.DISCARDED, settled_at=clock.now_ms(), reason="let go")
            elif move == "replay" and model.now.state in (State.DELIVERED, State.FAILED, State.DISCARDED):
                assert outbox.replay([model.now]) == [True]
                model.now = replace(
                    model.now,
                    state=State.PENDING, attempts=0, settled_at=None, reason=None, next_attempt_at=clock.now_ms(),
                )  # fmt: skip
                model.failures = []
            elif move == "wait":
                clock.advance(s=5)
            assert stored(outbox, new.number) == model.now
            assert [attempt.n for attempt in outbox.attempts(new)] == model.kept()
        assert stored(outbox, 1).state is State.PENDING


# ---- the delivery's state


def test_the_state_of_the_delivery_is_there_for_other_processes(engine: Engine, outbox: Outbox) -> None:
    assert outbox.delivery_state() is None
    for state in (DeliveryState("open", NOON, None, None), DeliveryState("outage", NOON + 1, "HTTP 503", NOON + 9)):
        outbox.save_delivery_state(state)
        with closing(engine.open()) as other:
            assert other.delivery_state() == state


# ---- what Hivel has, after a replay


@pytest.mark.parametrize("already_there", [True, False])
def test_a_replay_does_not_change_which_revision_hivel_has(outbox: Outbox, already_there: bool) -> None:
    """What is sent again is what was sent; a second event under an id changes nothing in Hivel."""
    [first] = inserted(outbox, deployment(1))
    claimed = claim_of(outbox, first.number)
    rewritten(outbox, first, content=content("staging"), revision=2)
    outbox.settle([success(claimed)])
    before = stored(outbox, first.number)
    assert (before.revision, before.sent_revision, before.content.environment) == (2, 1, "production")
    assert outbox.replay([before]) == [True]
    outbox.settle([success(claim_of(outbox, first.number), already_there=already_there)])
    after = stored(outbox, first.number)
    assert (after.revision, after.sent_revision, after.content.environment) == (2, 1, "production")


def test_of_which_nobody_knew_the_revision_is_known_once_hivel_takes_it(outbox: Outbox) -> None:
    [first] = inserted(outbox, deployment(1))
    rewritten(outbox, first, content=content("staging"), revision=2)
    outbox.settle([success(claim_of(outbox, first.number), already_there=True)])
    assert stored(outbox, first.number).sent_revision == 0
    outbox.replay([stored(outbox, first.number)])
    outbox.settle([success(claim_of(outbox, first.number))])
    assert stored(outbox, first.number).sent_revision == 2


def test_events_of_which_hivel_has_another_revision_are_counted_among_the_newest(outbox: Outbox) -> None:
    for number in (1, 2, 3):
        [one] = inserted(outbox, deployment(number))
        claimed = claim_of(outbox, one.number)
        if number != 2:
            rewritten(outbox, one, content=content("staging"), revision=2)
        outbox.settle([success(claimed)])
    inserted(outbox, deployment(4))
    assert [outbox.outdated(among) for among in (1, 2, 3, 4, 100)] == [0, 1, 1, 2, 2]
