"""A backfill that was interrupted goes on where it was, with the span that it had."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.outbox.interface import Outbox
    from tests.engines import Engine


def test_a_backfill_remembers_its_span_and_its_jobs(engine: Engine, outbox: Outbox) -> None:
    assert outbox.backfill_span("--since 7d") is None
    outbox.begin_backfill("--since 7d", 1_000, 2_000)
    for controller, job in (("main", "a"), ("main", "b"), ("main", "a"), ("other", "c")):
        outbox.note_backfilled_job("--since 7d", controller, job)
    with closing(engine.open()) as other:
        assert other.backfill_span("--since 7d") == (1_000, 2_000)
        assert other.backfilled_jobs("--since 7d", "main") == {"a", "b"}
        assert other.backfilled_jobs("--since 7d", "other") == {"c"}


def test_backfills_of_other_words_are_others(outbox: Outbox) -> None:
    outbox.begin_backfill("--since 7d", 1_000, 2_000)
    outbox.begin_backfill("--since 8d", 500, 2_000)
    outbox.note_backfilled_job("--since 7d", "main", "a")
    assert outbox.backfilled_jobs("--since 8d", "main") == set()
    assert outbox.backfill_span("--since 8d") == (500, 2_000)


def test_what_is_done_is_asked_for_anew(outbox: Outbox) -> None:
    outbox.begin_backfill("--since 7d", 1_000, 2_000)
    outbox.note_backfilled_job("--since 7d", "main", "a")
    outbox.end_backfill("--since 7d")
    assert (outbox.backfill_span("--since 7d"), outbox.backfilled_jobs("--since 7d", "main")) == (None, set())
    outbox.begin_backfill("--since 7d", 5_000, 6_000)
    assert outbox.backfill_span("--since 7d") == (5_000, 6_000)
    assert outbox.backfilled_jobs("--since 7d", "main") == set()
    outbox.end_backfill("never begun")


def test_to_begin_again_is_to_begin_from_the_start(outbox: Outbox) -> None:
    outbox.begin_backfill("--since 7d", 1_000, 2_000)
    outbox.note_backfilled_job("--since 7d", "main", "a")
    outbox.begin_backfill("--since 7d", 5_000, 6_000)
    assert outbox.backfill_span("--since 7d") == (5_000, 6_000)
    assert outbox.backfilled_jobs("--since 7d", "main") == set()


def test_a_job_of_a_backfill_that_ended_meanwhile_is_not_noted(outbox: Outbox) -> None:
    outbox.note_backfilled_job("--since 7d", "main", "a")
    outbox.begin_backfill("--since 7d", 1_000, 2_000)
    assert outbox.backfilled_jobs("--since 7d", "main") == set()
