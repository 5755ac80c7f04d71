"""A transaction is all or nothing, whatever happens in it; what is stored in it is there for others when it ends."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.outbox.values import Change, Counts, JobCursor, OpenBuild, OutboxError, Progress
from tests.conformance.things import (
    JOB,
    content,
    deployment,
    finished,
    inserted,
    reported,
    run,
    success,
)
from tests.integration.support import NOON

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.outbox.interface import Outbox
    from tests.engines import Engine


class CrashError(Exception):
    """What goes wrong in the middle."""


def crash() -> NoReturn:
    raise CrashError


def enqueue(outbox: Outbox, number: int, job: str = JOB) -> None:
    of = run(number, job)
    outbox.store([Change(facts=(finished(of),), inserted=(deployment(number, of=of),))])


def test_others_see_nothing_of_it_before_it_ends_and_all_of_it_then(engine: Engine, outbox: Outbox) -> None:
    with closing(engine.open()) as other:
        with outbox.transaction():
            enqueue(outbox, 1)
            outbox.save_progress(Progress("main", cursors=(JobCursor(JOB, 2, NOON),)))
            assert outbox.counts().pending == 1
            assert (other.counts().pending, other.facts(run(1)), other.jobs("main")) == (0, [], {})
        assert (other.counts().pending, other.facts(run(1))) == (1, [finished(run(1))])
        assert list(other.jobs("main")) == [JOB]


def test_an_exception_undoes_all_of_it(engine: Engine, outbox: Outbox) -> None:
    with pytest.raises(CrashError), outbox.transaction():
        enqueue(outbox, 1)
        outbox.add_report("{}")
        outbox.save_progress(Progress("main", cursors=(JobCursor(JOB, 2, NOON),)))
        raise CrashError
    with closing(engine.open()) as other:
        for each in (outbox, other):
            assert (each.counts(), each.facts(run(1))) == (Counts(pending=0, held=0, delivered=0, failed=0), [])
            assert (each.reports(9), each.jobs("main")) == ([], {})


def test_what_was_undone_can_be_done_again(engine: Engine, outbox: Outbox) -> None:
    """Also when others were stored meanwhile: numbers of projects that were undone are given away again."""
    with pytest.raises(CrashError), outbox.transaction():
        enqueue(outbox, 1, "a")
        raise CrashError
    with closing(engine.open()) as other:
        enqueue(other, 1, "b")
    assert outbox.facts(run(1, "a")) == []
    enqueue(outbox, 1, "a")
    assert [outbox.facts(run(1, job)) for job in "ab"] == [[finished(run(1, job))] for job in "ab"]
    assert [each.run for each in outbox.all_deployments()] == [run(1, "b"), run(1, "a")]


def test_a_transaction_within_another_is_undone_alone(engine: Engine, outbox: Outbox) -> None:
    with outbox.transaction():
        enqueue(outbox, 1)
        with pytest.raises(CrashError), outbox.transaction():
            enqueue(outbox, 2, "other")
            with outbox.transaction():
                enqueue(outbox, 3, "other")
            raise CrashError
        enqueue(outbox, 4, "other")
    with closing(engine.open()) as other:
        for each in (outbox, other):
            assert [one.run for one in each.all_deployments()] == [run(1), run(4, "other")]
            assert (each.facts(run(2, "other")), each.facts(run(4, "other"))) == ([], [finished(run(4, "other"))])


def test_a_transaction_within_another_ends_with_the_other(engine: Engine, outbox: Outbox) -> None:
    with closing(engine.open()) as other, suppress(CrashError), outbox.transaction():
        with outbox.transaction():
            enqueue(outbox, 1)
        assert other.counts().pending == 0
        raise CrashError
    assert outbox.counts().pending == 0


def test_what_a_failing_call_began_is_not_stored_even_if_its_exception_is_caught(outbox: Outbox) -> None:
    too_large = 2**70
    broken = Change(facts=(finished(run(1)),), inserted=(deployment(1), deployment(2, anchor=too_large)))
    with pytest.raises(OutboxError), outbox.transaction():
        enqueue(outbox, 3)
        with suppress(OverflowError, OutboxError):
            outbox.store([broken])
    assert (list(outbox.all_deployments()), outbox.facts(run(1))) == ([], [])
    with outbox.transaction():
        enqueue(outbox, 3)
        with suppress(OverflowError, OutboxError), outbox.transaction():
            outbox.store([broken])
    assert [each.run for each in outbox.all_deployments()] == [run(3)]
    assert outbox.facts(run(1)) == []


def test_a_failing_call_stores_nothing_of_its_work(outbox: Outbox) -> None:
    inserted(outbox, deployment(1), deployment(2))
    first, second = outbox.claim(9)
    with suppress(OverflowError, OutboxError):
        outbox.settle([success(first), success(second, at=2**70)])
    assert outbox.counts() == Counts(pending=2, held=0, delivered=0, failed=0)


# ---- any order of them


@dataclass
class Model:
    """What should be stored, in as many words as the tests below need."""

    facts: dict[str, int] = field(default_factory=dict)
    cursor: int = 0
    open_build: int = 0

    def copy(self) -> Model:
        return Model(dict(self.facts), self.cursor, self.open_build)


def accept(outbox: Outbox, model: Model, job: str, number: int) -> None:
    """A poll that read a build: facts and cursor together."""
    outbox.store([Change(facts=(reported(run(number, job)),))])
    model.facts[job] = model.facts.get(job, 0) + 1
    builds = (OpenBuild(number, seen=True, first_seen_at=NOON, started_at=NOON + number),)
    outbox.save_progress(
        Progress("main", cursors=(JobCursor(JOB, number, NOON),), open_builds={JOB: builds}),
    )
    model.cursor = model.open_build = number


STEPS = st.deferred(
    lambda: st.lists(
        st.tuples(st.just("accept"), st.sampled_from(["a", "b", "c"]))
        | st.tuples(st.sampled_from(["whole", "crash"]), STEPS),
        max_size=4,
    )
)


@given(steps=STEPS)
def test_facts_and_cursors_are_stored_together_or_not_at_all(
    new_engine: Callable[[], Engine], steps: list[tuple[str, object]]
) -> None:
    """Transactions within transactions, each of which may crash at its end."""
    engine, count = new_engine(), 0

    def play(outbox: Outbox, model: Model, these: object) -> None:
        nonlocal count
        assert isinstance(these, list)
        for kind, what in these:
            before = model.copy()
            if kind == "accept":
                count += 1
                with outbox.transaction():
                    accept(outbox, model, str(what), count)
                continue
            try:
                with outbox.transaction():
                    play(outbox, model, what)
                    if kind == "crash":
                        crash()
            except CrashError:
                model.facts, model.cursor, model.open_build = before.facts, before.cursor, before.open_build

    with closing(engine.open()) as outbox, closing(engine.open()) as other:
        model = Model()
        play(outbox, model, steps)
        for each in (outbox, other):
            jobs, builds = each.jobs("main"), each.open_builds("main")
            assert [cursor.next_build_number for cursor in jobs.values()] == [model.cursor] * bool(model.cursor)
            assert [build.number for of_job in builds.values() for build in of_job] == (
                [model.open_build] * bool(model.open_build)
            )
            found = {
                job: sum(len(state.facts) for state in each.load([run(n, job) for n in range(1, count + 1)]).values())
                for job in "abc"
            }
            assert {job: n for job, n in found.items() if n} == model.facts


def test_a_reader_never_waits_for_a_writer(engine: Engine, outbox: Outbox) -> None:
    inserted(outbox, deployment(1, content=content("staging")))
    with closing(engine.open()) as other, outbox.transaction():
        enqueue(outbox, 2)
        assert other.counts().pending == 1
        assert [claimed.content.environment for claimed in other.claim(9)] == ["staging"]
