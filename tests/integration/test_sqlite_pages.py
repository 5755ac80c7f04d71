"""How the pages read SQLite's tables: never all deployments, whatever is asked, and no more when there are more."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.deployment import State
from agent.model.keys import Project
from agent.outbox.sqlite import conditions, pages
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Filter, Page
from tests.conformance.test_pages import CHOICES, ROWS, walked
from tests.conformance.things import content, deployment, inserted, run
from tests.engines import traced
from tests.integration.support import NOON, FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHOP = "https://git.example.test/acme/shop"
# Only these read a set of an index, or a state; the rest are conditions on rows that are read anyway.
SETS: dict[str, tuple[dict[str, Any], ...]] = {
    "states": ({}, {"states": (State.FAILED, State.HELD)}, {"states": (State.DELIVERED, State.FAILED)}),
    "time": ({}, {"since": NOON}, {"since": NOON, "until": NOON + 9}),
    "environment": ({}, {"environment": "production"}),
    "repo_url": ({}, {"repo_url": SHOP}),
    "job": ({}, {"job": "deploy/shop"}, {"job_prefix": "deploy/"}, {"project": Project("jenkins", "main", "a")}),
    "scope": ({}, {"scope": "main"}),
    "text": ({}, {"text": "main:deploy"}),
    "rest": ({}, {"status": "failed", "cause": "HTTP 400", "reason": "x", "build_ended_since": NOON}),
}
PAGES = (Page(5), Page(5, before=300), Page(5, after=20), Page(5, before=300, after=20))


def every_filter() -> Iterator[Filter]:
    for chosen in product(*SETS.values()):
        yield Filter(**{name: value for part in chosen for name, value in part.items()})


def with_limits(monkeypatch: pytest.MonkeyPatch, chosen: int, counted: int, walked: int) -> None:
    monkeypatch.setattr(pages, "CHOSEN", chosen)
    monkeypatch.setattr(pages, "COUNTED", counted)
    monkeypatch.setattr(pages, "WALKED", walked)


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[SqliteOutbox]:
    with SqliteOutbox(tmp_path / "o.db", FakeClock()) as outbox:
        yield outbox


def fill(outbox: SqliteOutbox, number: int) -> None:
    states = (State.PENDING, State.HELD, State.FAILED, State.DISCARDED)
    places = [("production", SHOP), ("staging", SHOP), ("production", "x"), (None, None)]
    with outbox.transaction():
        inserted(
            outbox,
            *(
                deployment(
                    of=run(n, f"deploy/shop-{n % 7}", controller=("main", "other")[n % 2]),
                    state=states[n % 41 % 4] if n % 3 else State.PENDING,
                    content=content(places[n % 4][0], repo_url=places[n % 4][1], ended_at=NOON + n),
                )
                for n in range(1, number + 1)
            ),
        )


@pytest.mark.parametrize("limits", [(5_000, 20_000, 60_000), (0, 20_000, 60_000), (0, 0, 50)])
def test_no_page_and_no_count_scans_the_deployments_whatever_is_asked(
    outbox: SqliteOutbox, monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int, int]
) -> None:
    """Every combination of filters, whether their sets are small, large, or too large to be counted."""
    fill(outbox, 400)
    with_limits(monkeypatch, *limits)
    most = 0
    with traced(outbox) as statements:
        for which in every_filter():
            for page in PAGES:
                before = len(statements)
                outbox.search(which, page, count_to=99)
                most = max(most, len(statements) - before)
    assert most <= 3
    assert scanned(outbox, statements) == set()


def test_no_other_part_of_a_page_scans_the_deployments(outbox: SqliteOutbox) -> None:
    fill(outbox, 400)
    newest = outbox.query(Filter(), Page(1))[0]
    with traced(outbox) as statements:
        outbox.failed_groups(9)
        outbox.names()
        outbox.per_hour(NOON)
        outbox.recent(NOON)
        outbox.counts()
        outbox.backlog()
    assert scanned(outbox, statements) == set()
    with traced(outbox) as statements:
        outbox.find(newest.deployment_id or "")
        outbox.attempts(newest)
        outbox.load([newest.run])
    assert scanned(outbox, statements) == set()
    assert len(statements) == 3


def scanned(outbox: SqliteOutbox, statements: list[str]) -> set[str]:
    """The steps that read all deployments, of each statement that is different but for its values."""
    found = set()
    with closing(sqlite3.connect(outbox.path)) as connection:
        for name in ("contains", "cause_of"):
            connection.create_function(name, -1, lambda *_: False)
        for statement in set(statements):
            steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()]
            found |= {f"{step}: {statement}" for step in steps if step.startswith(("SCAN deployments", "SCAN d"))}
    return found


def test_a_page_reads_no_more_when_there_are_ten_times_as_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the number of SQLite's instructions, which neither the machine nor its load changes."""
    with_limits(monkeypatch, 20, 80, 100)
    monkeypatch.setattr(pages, "MOST_FAILED", 20)
    monkeypatch.setattr(pages, "MOST_RECENT", 20)
    steps = {}
    for number in (1_000, 10_000):
        with SqliteOutbox(tmp_path / f"{number}.db", FakeClock()) as outbox:
            fill(outbox, number)
            steps[number] = {which: instructions(outbox, which) for which in every_filter()}
            steps[number][Filter(reason="all else")] = instructions_of(outbox, partial(all_else, outbox, NOON + number))
    worse = {which: (n, steps[1_000][which]) for which, n in steps[10_000].items() if n > steps[1_000][which] + 5}
    assert worse == {}


def all_else(outbox: SqliteOutbox, last: int) -> None:
    outbox.failed_groups(9)
    outbox.names()
    outbox.recent(last - 9)


def instructions(outbox: SqliteOutbox, which: Filter) -> int:
    return instructions_of(outbox, lambda: outbox.search(which, Page(5), count_to=20))


def instructions_of(outbox: SqliteOutbox, function: Any) -> int:
    """In hundreds."""
    n = 0

    def count() -> int:
        nonlocal n
        n += 1
        return 0

    outbox._connection.set_progress_handler(count, 100)
    function()
    outbox._connection.set_progress_handler(None, 0)
    return n


@given(
    rows=ROWS,
    which=CHOICES,
    limits=st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(1, 4), st.integers(1, 5)),
)
def test_pages_that_stop_early_lead_to_everything_that_matches(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], which: dict[str, Any], limits: tuple[int, ...]
) -> None:
    """Forwards and back, whatever the limits are: nothing is left out, and nothing comes twice."""
    path = tmp_path_factory.mktemp("limits") / "o.db"
    with pytest.MonkeyPatch.context() as monkeypatch, SqliteOutbox(path, FakeClock()) as outbox:
        with_limits(monkeypatch, *limits[:3])
        monkeypatch.setattr(pages, "MOST_PLACES", limits[3])
        monkeypatch.setattr(conditions, "MOST_PLACES", limits[3])
        for n, (state, job, controller, environment, repo_url, status, ended_at) in enumerate(rows, 1):
            said = content(environment, repo_url=repo_url, status=status, ended_at=ended_at)
            inserted(outbox, deployment(of=run(n, job, controller=controller), state=state, content=said))
        expected = [each.number for each in outbox.query(Filter(**which), Page(99))]
        assert [n for page in walked(outbox, Filter(**which)) for n in page] == expected
        assert [n for page in walked(outbox, Filter(**which), back=True) for n in page[::-1]] == expected[::-1]
        for page in PAGES:
            counted = outbox.search(Filter(**which), page, count_to=99).count
            assert counted.n == len(expected) if not counted.more else counted.n <= len(expected)
