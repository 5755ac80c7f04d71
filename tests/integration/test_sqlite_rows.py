"""What the tables hold: little, and the same for whoever looks at them with other tools."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import sqlite_utils
from msgspec.structs import replace

from agent.model.deployment import Name, Scope, State
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Change, Keep
from tests.conformance.things import (
    DAY,
    clean_up,
    content,
    deployment,
    finished,
    in_state,
    inserted,
    reported,
    run,
    success,
)
from tests.integration.support import NOON, FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IDS = 5_000
BUILDS = 6_000


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def outbox(tmp_path: Path, clock: FakeClock) -> Iterator[SqliteOutbox]:
    with SqliteOutbox(tmp_path / "o.db", clock) as outbox:
        yield outbox


def table(outbox: SqliteOutbox, name: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(outbox.path)) as connection:
        return list(sqlite_utils.Database(connection)[name].rows)


def size(outbox: SqliteOutbox) -> int:
    """Bytes of the file once the log beside it is in it."""
    outbox._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return outbox.path.stat().st_size


# ---- NULL where another column says it


def test_what_other_columns_say_is_not_there_twice(outbox: SqliteOutbox) -> None:
    inserted(outbox, deployment(12))
    [row] = table(outbox, "deployments")
    unsaid = ("build_started_at", "build_ended_at", "build_number", "names", "stage", "said_environment", "pr_numbers")
    assert {name: row[name] for name in unsaid} == dict.fromkeys(unsaid)
    assert (row["run"], row["scope"], row["started_at"]) == ("12", "whole", NOON)


def test_what_a_delivered_deployment_learns_of_its_build_is_not_there_twice(outbox: SqliteOutbox) -> None:
    delivered = in_state(outbox, State.DELIVERED, build_started_at=NOON - 5, known=False)
    outbox.store([Change(rewritten=(replace(delivered, build_started_at=NOON, known=True),))])
    [row] = table(outbox, "deployments")
    assert (row["build_started_at"], row["build_ended_at"], row["known"]) == (None, None, 1)


@pytest.mark.parametrize(
    ("names", "columns", "as_json"),
    [
        ((Name(Scope.STAGE, "Deploy", "qa"),), ("stage", "Deploy", "qa"), False),
        ((Name(Scope.RULE, "Deploy", repository="r"),), ("rule", "Deploy", None), True),
        ((Name(Scope.STAGE, "Deploy", start=5),), ("stage", "Deploy", None), True),
        ((Name(Scope.STAGE, "Deploy", again=2),), ("stage", "Deploy", None), True),
        ((Name(Scope.WHOLE), Name(Scope.WHOLE, environment="qa")), ("whole", None, None), True),
    ],
)
def test_names_are_json_only_where_columns_cannot_say_them(
    outbox: SqliteOutbox, names: tuple[Name, ...], columns: tuple[str | None, ...], as_json: bool
) -> None:
    inserted(outbox, deployment(1, names=names))
    [row] = table(outbox, "deployments")
    assert (row["scope"], row["stage"], row["said_environment"]) == columns
    assert (row["names"] is not None) is as_json


@pytest.mark.parametrize(("said", "column"), [("12", None), (None, ""), ("", ""), ("12-rc", "12-rc")])
def test_a_build_number_is_there_only_if_it_is_not_that_of_the_run(
    outbox: SqliteOutbox, said: str | None, column: str | None
) -> None:
    [stored] = inserted(outbox, deployment(12, content=content(build_number=said)))
    assert table(outbox, "deployments")[0]["build_number"] == column
    assert stored.content.build_number == (said or None)


def test_the_body_of_a_build_leaves_out_what_its_key_says(outbox: SqliteOutbox) -> None:
    outbox.store([Change(facts=(finished(run(12)), reported(run(12))))])
    build, report = (row["body"] for row in table(outbox, "facts"))
    assert build.startswith('{"result":"SUCCESS","started_at":')
    assert report == '{"provider":"jenkins","status":"SUCCESS","environment":"production"}'


def test_the_name_of_a_project_stands_once(outbox: SqliteOutbox) -> None:
    for number in range(1, 9):
        outbox.store([Change(facts=(finished(run(number)),), inserted=(deployment(number),))])
    assert [row["name"] for row in table(outbox, "projects")] == ["deploy/shop"]


def test_a_success_is_no_row_of_attempts(outbox: SqliteOutbox) -> None:
    in_state(outbox, State.DELIVERED)
    assert table(outbox, "attempts") == []


# ---- bytes


def test_what_was_delivered_becomes_small_and_the_file_shrinks(outbox: SqliteOutbox, clock: FakeClock) -> None:
    for first in range(1, BUILDS, 500):
        numbers = range(first, first + 500)
        outbox.store([Change(facts=(finished(run(n)),), inserted=(deployment(n),)) for n in numbers])
    full = size(outbox)
    outbox.settle([success(claimed) for claimed in outbox.claim(BUILDS)])
    clock.advance(ms=31 * DAY)
    clean_up(outbox, Keep(30 * DAY, 400 * DAY, 400 * DAY))
    without_facts = size(outbox)
    clock.advance(ms=400 * DAY)
    clean_up(outbox, Keep(30 * DAY, 400 * DAY, 400 * DAY))
    assert (outbox.counts().delivered, table(outbox, "facts"), table(outbox, "attempts")) == (0, [], [])
    assert full / BUILDS < 800
    assert without_facts / BUILDS < 500
    assert size(outbox) < full / 3


def test_the_id_of_a_deleted_deployment_costs_a_few_tens_of_bytes(outbox: SqliteOutbox, clock: FakeClock) -> None:
    before = size(outbox)
    for first in range(1, IDS, 1_000):
        inserted(outbox, *(deployment(n) for n in range(first, first + 1_000)))
    while due := outbox.claim(1_000):
        outbox.settle([success(claimed) for claimed in due])
    clock.advance(ms=401 * DAY)
    clean_up(outbox, Keep(30 * DAY, 400 * DAY, 400 * DAY))
    assert len(table(outbox, "forgotten")) == IDS
    outbox._connection.execute("VACUUM")
    assert (size(outbox) - before) / IDS < 60
