"""A full outbox takes in nothing new and drops nothing: what is there goes on, and makes room."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from agent.model.deployment import State
from agent.outbox.values import Change, JobCursor, Keep, OutboxError, OutboxFullError, Progress
from tests.conformance.things import (
    DAY,
    clean_up,
    content,
    deployment,
    finished,
    inserted,
    reported,
    run,
    stored,
    success,
)
from tests.integration.support import NOON

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.outbox.interface import Outbox
    from tests.engines import Engine
    from tests.integration.support import FakeClock


@pytest.fixture
def full(engine: Engine) -> Iterator[Outbox]:
    """It holds five hundred builds, and may not grow."""
    with closing(engine.open()) as outbox:
        outbox.store(
            [Change(facts=(finished(run(n)),), inserted=(deployment(n),)) for n in range(1, 501)]
            + [Change(facts=(reported(run(900)),), inserted=(deployment(900, State.HELD),))]
        )
        size = outbox.size()
    with closing(engine.open(max_size=size)) as full:
        yield full


def test_a_full_outbox_takes_in_nothing_new(full: Outbox) -> None:
    before = (full.counts(), full.size())
    for change in (Change(inserted=(deployment(600),)), Change(facts=(reported(run(1)),))):
        with pytest.raises(OutboxFullError, match="max_size"):
            full.store([Change(facts=(finished(run(700)),)), change])
    with pytest.raises(OutboxFullError, match="max_size"):
        full.add_report("{}")
    assert (full.counts(), full.size()) == before
    assert (full.facts(run(700)), full.facts(run(1)), full.reports(9)) == ([], [finished(run(1))], [])


def test_a_full_outbox_keeps_the_cursor_where_its_facts_are(full: Outbox) -> None:
    with pytest.raises(OutboxError), full.transaction():
        full.save_progress(Progress("main", cursors=(JobCursor("deploy/shop", 601, NOON),)))
        full.store([Change(facts=(finished(run(600)),), inserted=(deployment(600),))])
    assert full.jobs("main") == {}


def test_what_is_there_goes_on(full: Outbox, clock: FakeClock) -> None:
    """The final word about a build that reported itself, deliveries, replays, and whatever people do."""
    held = stored(full, 501)
    released = replace(held, state=State.PENDING, deployment_id="main:deploy/shop#900", held_since=None)
    released = replace(released, content=content("staging"), revision=2)
    full.store([Change(facts=(finished(run(900)),), rewritten=(released,))])
    assert stored(full, 501).content == content("staging")
    full.settle([success(claimed, at=clock.now_ms()) for claimed in full.claim(900)])
    assert full.replay([stored(full, 1)]) == [True]
    assert full.discard([stored(full, 1)], "why") == [True]
    full.save_progress(Progress("main", cursors=(JobCursor("deploy/shop", 901, NOON),)))
    assert full.counts().delivered == 500


def test_there_is_room_again_once_something_was_deleted(full: Outbox, clock: FakeClock) -> None:
    full.settle([success(claimed) for claimed in full.claim(900)])
    clock.advance(ms=31 * DAY)
    clean_up(full, Keep(30 * DAY, 400 * DAY, 400 * DAY))
    full.add_report("{}")
    assert inserted(full, deployment(600))


def test_without_a_bound_there_is_none(full: Outbox, engine: Engine) -> None:
    with closing(engine.open()) as unbounded:
        unbounded.add_report("{}")
        assert inserted(unbounded, deployment(600))
