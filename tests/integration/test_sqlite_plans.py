"""How SQLite reads its tables: never a whole one, however large it is, but for a few that stay small."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from agent.model.deployment import State
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Change, DamagedError, Filter, JobCursor, Keep, OpenBuild, Page, Progress, Renamed
from tests.conformance.things import (
    DAY,
    clean_up,
    content,
    deployment,
    finished,
    inserted,
    refusal,
    reported,
    retry,
    rewritten,
    run,
    stored,
    success,
)
from tests.engines import traced
from tests.integration.support import NOON, FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# As many rows as renamed jobs, controllers, things set aside: these are read whole.
SMALL = {"former_names", "controllers", "set_aside", "repairs", "delivery", "missed", "job_errors", "counts"}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def outbox(tmp_path: Path, clock: FakeClock) -> Iterator[SqliteOutbox]:
    with SqliteOutbox(tmp_path / "o.db", clock) as outbox:
        yield outbox


def scans(outbox: SqliteOutbox, statements: list[str]) -> set[str]:
    """The tables that are read whole. Without a condition no more is read than the limit says."""
    found = set()
    statements = [each for each in statements if "WHERE" in each or "LIMIT" not in each]
    with closing(sqlite3.connect(outbox.path)) as connection:
        connection.create_function("contains", 2, lambda text, part: False)
        for statement in {each for each in statements if re.match("SELECT|INSERT|UPDATE|DELETE|WITH", each)}:
            for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall():
                if scanned := re.match(r"SCAN (?!CONSTANT|asked|given|own|named|\(subquery|\d+ CONST)(\w+)", step):
                    found.add(scanned[1])
    return found


def fill(outbox: SqliteOutbox) -> None:
    states = (State.PENDING, State.HELD, State.FAILED)
    outbox.store(
        [
            Change(facts=(finished(run(n)), reported(run(n))), inserted=(deployment(n, states[n % 3]),))
            for n in range(1, 400)
        ]
    )


def test_what_is_done_for_each_build_reads_no_table_whole(outbox: SqliteOutbox, clock: FakeClock) -> None:
    fill(outbox)
    with traced(outbox) as statements:
        for runs in ([run(1)], [run(n) for n in range(1, 50)], [run(1), run(2, "never/seen")]):
            with outbox.transaction():
                outbox.load(runs)
                outbox.store([Change(facts=(reported(run(800)),), inserted=(deployment(len(runs) + 1_000),))])
        rewritten(outbox, stored(outbox, 3), content=content("staging"))
        outbox.store([Change(removed=(stored(outbox, 1),), inserted=(deployment(3),))])
        builds = {"a": (OpenBuild(1, seen=True, first_seen_at=NOON),)}
        outbox.save_progress(
            Progress("main", cursors=(JobCursor("a", 1, 1),), open_builds=builds, missed={"a": (1, 1)})
        )
        outbox.want_builds("main", [("a", 3)])
        outbox.was_reported(run(1), NOON)
        outbox.job("main", "a")
    assert scans(outbox, statements) <= SMALL


def test_what_is_done_for_each_delivery_reads_no_table_whole(outbox: SqliteOutbox, clock: FakeClock) -> None:
    fill(outbox)
    with traced(outbox) as statements:
        due = outbox.claim(9)
        outcomes = (success, retry, refusal)
        outbox.settle([outcomes[n % 3](claimed) for n, claimed in enumerate(due)])
        outbox.make_due(later_than=NOON)
        outbox.replay([stored(outbox, due[0].number)])
        outbox.discard([stored(outbox, due[1].number)], "why")
        outbox.held(NOON)
        outbox.attempts(stored(outbox, due[1].number))
        outbox.counts()
        outbox.backlog()
    assert scans(outbox, statements) <= SMALL | {"deployments"}
    # The index says how many there are of a state.
    assert "SCAN deployments" not in " ".join(plan(outbox, each) for each in statements if "count(*)" in each)


def plan(outbox: SqliteOutbox, statement: str) -> str:
    return "; ".join(row[3] for row in outbox._connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall())


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, ["SCAN deployments"]),
        ({"states": (State.PENDING,)}, ["SEARCH deployments USING INDEX deployments_by_state (state=?)"]),
        (
            {"states": (State.PENDING, State.FAILED)},
            ["SEARCH deployments USING INDEX deployments_by_state (state=?)"] * 2,
        ),
        (
            {"states": (State.FAILED,), "scope": "main"},
            ["SEARCH deployments USING INDEX deployments_by_state (state=?)"],
        ),
        ({"project": run(1).project}, ["SEARCH deployments USING INDEX deployments_of_run (project_id=?)"]),
        (
            {"project": run(1).project, "states": (State.FAILED,)},
            ["SEARCH deployments USING INDEX deployments_of_run (project_id=?)"],
        ),
        ({"since": NOON, "environment": "production"}, ["SCAN deployments"]),
    ],
    ids=str,
)
def test_a_page_reads_in_the_order_of_its_numbers_and_sorts_no_state(
    outbox: SqliteOutbox, conditions: dict[str, Any], expected: list[str]
) -> None:
    """A scan is backwards by number, and ends with the page."""
    fill(outbox)
    with traced(outbox) as statements:
        outbox.query(Filter(**conditions), Page(5))
        outbox.query(Filter(**conditions), Page(5, 300))
    first, second = (each for each in statements if "FROM deployments" in each)
    steps = [row[3] for row in outbox._connection.execute(f"EXPLAIN QUERY PLAN {first}").fetchall()]
    assert [step for step in steps if "deployments" in step] == expected
    # A page is sorted once more; before that, only the deployments of one project are.
    unsorted = [before for before, step in pairwise(steps) if "TEMP B-TREE" in step]
    assert all(before.startswith("SCAN (subquery") for before in unsorted) is ("project" not in conditions)
    assert "SCAN deployments" not in plan(outbox, second)


def test_no_step_of_housekeeping_reads_a_table_whole(outbox: SqliteOutbox, clock: FakeClock) -> None:
    fill(outbox)
    outbox.save_progress(Progress("main", renamed=(Renamed(JobCursor("deploy/shop", 1, 1), "new"),)))
    outbox.settle([retry(claimed) for claimed in outbox.claim(9)])
    outbox.settle([success(claimed) for claimed in outbox.claim(999)])
    for days in (1, 31, 401, 5_000):
        clock.advance(ms=days * DAY)
        with traced(outbox) as statements:
            clean_up(outbox, Keep(30 * DAY, 400 * DAY, 3_650 * DAY))
        assert scans(outbox, statements) <= {"former_names", "set_aside"}
        assert not any("ORDER BY" in each and "TEMP B-TREE" in plan(outbox, each) for each in statements)
    inserted(outbox, deployment(5_000))


def test_a_claim_uses_the_index_of_what_is_due(outbox: SqliteOutbox) -> None:
    fill(outbox)
    with traced(outbox) as statements:
        outbox.claim(5, besides=[1, 2])
    assert [plan(outbox, each) for each in statements] == [
        "SEARCH deployments USING INDEX deployments_by_state (state=?)"
    ]


def test_looking_for_what_is_quiet_reads_an_index_and_single_rows(outbox: SqliteOutbox) -> None:
    fill(outbox)
    with traced(outbox) as statements:
        outbox.quiet_since(NOON + DAY, least=1)
    with closing(sqlite3.connect(outbox.path)) as connection:
        steps = [row[-1] for each in statements for row in connection.execute(f"EXPLAIN QUERY PLAN {each}")]
    assert [step for step in steps if step.startswith("SCAN deployments")] == [
        "SCAN deployments USING COVERING INDEX deployments_of_run"
    ]
    assert "SEARCH d USING INTEGER PRIMARY KEY (rowid=?)" in steps


@pytest.mark.parametrize("conditions", [{}, {"environment": "production"}, {"repo_url": "x", "environment": "y"}])
def test_what_was_deployed_is_read_in_one_pass_and_sorted_once(
    outbox: SqliteOutbox, conditions: dict[str, str]
) -> None:
    """The rest of the table is not sorted, only what is in the range."""
    fill(outbox)
    with traced(outbox) as statements:
        assert sum(1 for _ in outbox.deployed(NOON, NOON + DAY, **conditions)) in (0, 399)
    [statement] = statements
    in_order = "repo_url" in conditions
    expected = ["SCAN deployments", "SEARCH deployments USING INDEX deployments_by_place"]["environment" in conditions]
    assert plan(outbox, statement).startswith(expected)
    assert ("TEMP B-TREE" in plan(outbox, statement)) is not in_order


def test_a_status_that_no_version_wrote_is_a_damaged_outbox(outbox: SqliteOutbox) -> None:
    fill(outbox)
    outbox._connection.execute("UPDATE deployments SET status = 'fine' WHERE id = 7")
    with pytest.raises(DamagedError, match="status 'fine'"):
        list(outbox.deployed(NOON, NOON + DAY))
