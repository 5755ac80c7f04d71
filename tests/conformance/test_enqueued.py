"""Who waits for something to send is called after the transaction with which it became due."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest

from agent.model.deployment import State
from agent.outbox.values import Change
from tests.conformance.things import deployment, finished, in_state, inserted, rewritten, run, success

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.outbox.interface import Outbox
    from tests.engines import Engine


@pytest.fixture
def calls(engine: Engine, outbox: Outbox) -> Iterator[list[int]]:
    """For each call: how many deployments another process finds due then."""
    found: list[int] = []
    with closing(engine.open()) as other:
        outbox.when_enqueued(lambda: found.append(other.counts().pending))
        yield found


def test_what_is_inserted_is_there_when_the_call_comes(outbox: Outbox, calls: list[int]) -> None:
    inserted(outbox, deployment(1), deployment(2))
    inserted(outbox, deployment(3))
    assert calls == [2, 3]


def test_within_a_transaction_the_call_comes_once_and_after_its_end(outbox: Outbox, calls: list[int]) -> None:
    with outbox.transaction():
        for number in (1, 2, 3):
            inserted(outbox, deployment(number))
        assert calls == []
    assert calls == [3]


def test_no_call_comes_for_what_was_undone(outbox: Outbox, calls: list[int]) -> None:
    with suppress(KeyError), outbox.transaction():
        inserted(outbox, deployment(1))
        raise KeyError
    outbox.store([Change(facts=(finished(run(1)),))])
    assert calls == []


@pytest.mark.parametrize("state", [State.HELD, State.FAILED])
def test_a_call_comes_when_what_was_held_or_could_not_be_created_is_to_be_sent(
    outbox: Outbox, calls: list[int], state: State
) -> None:
    before = in_state(outbox, state)
    assert calls == []
    rewritten(outbox, before, state=State.PENDING, held_since=None, settled_at=None)
    assert calls == [1]


def test_a_replay_makes_a_call_and_a_discard_does_not(outbox: Outbox, calls: list[int]) -> None:
    [first] = inserted(outbox, deployment(1))
    outbox.settle([success(claimed) for claimed in outbox.claim(9)])
    calls.clear()
    [delivered] = outbox.load([first.run])[first.run].deployments
    assert outbox.replay([delivered]) == [True]
    assert calls == [1]
    assert outbox.replay([delivered]) == [False]
    [pending] = outbox.load([first.run])[first.run].deployments
    assert outbox.discard([pending], "by ops") == [True]
    assert calls == [1]
