"""`outbox copy` between a file and PostgreSQL."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from agent.model.deployment import State
from agent.outbox import tables
from agent.outbox.postgresql import tables as postgresql
from agent.outbox.postgresql.connection import Connection
from agent.outbox.postgresql.engine import PostgresqlOutbox
from agent.outbox.postgresql.shared import Moved
from agent.outbox.sqlite import tables as sqlite
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.sqlite.inbox import add_report
from agent.outbox.values import Change, MovedError, OutboxError
from agent.sources.reports.kept import LocalInbox
from tests.conformance import things
from tests.integration.support import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import FrameType
    from typing import Any

    from agent.outbox.postgresql.server import Server
    from agent.outbox.tables import Progress
    from tests.postgresql.cluster import Cluster

# A row for each table that the outbox below does not fill.
_ROWS = (
    "INSERT INTO former_names VALUES (1, 1)",
    "INSERT INTO forgotten VALUES (x'00ff10', 1, 2)",
    "INSERT INTO reports VALUES (7, 1, '{}')",
    "INSERT INTO set_aside VALUES (3, 1, 'run', 'a', 'b', NULL)",
    "INSERT INTO delivery VALUES (1, 'paused', 5, 'HTTP 401', 9)",
    "INSERT INTO controllers VALUES ('main', 'ok', 1, 2, 3, 4, NULL, -5)",
    "INSERT INTO jobs (controller, full_name, next_build_number, looked_at) VALUES ('main', 'é', 3, 4)",
    "INSERT INTO open_builds VALUES ('main', 'a', 2, 1, NULL, 3, 4)",
    "INSERT INTO wanted_builds VALUES ('main', 'a', 2, 1)",
    "INSERT INTO job_errors VALUES ('main', 'a', 'HTTP 500', 1, 2)",
    "INSERT INTO missed VALUES ('main', 'a', 2, 3, 4)",
    "INSERT INTO endings VALUES ('main', 'a', 1, 2, 'read', 3)",
    "INSERT INTO backfills VALUES ('x', 1, 2)",
    "INSERT INTO backfilled_jobs VALUES ('x', 'main', 'a')",
    "INSERT INTO webhook_deliveries VALUES (4, 'h', 'd', 1, 'e', 'stored', '', '', '')",
    "INSERT INTO webhook_starts VALUES ('s', NULL, '{}', 3)",
    "INSERT INTO webhook_gaps VALUES ('h', 'p', 's', 1, 2, '[]', 3, NULL, NULL)",
    "INSERT INTO hours VALUES (17, 40, 2)",  # of deployments that were deleted since
    "INSERT INTO attempts VALUES (1, 1, 2, 3, 503, 'retry', 'busy')",
    "INSERT INTO actions VALUES (1, 1, 2, 'replay', 'me', '')",
)


# Processes are killed around each transaction and each change of a name; with HYPOTHESIS_PROFILE=explore, at every
# statement.
_EVERYWHERE = os.environ.get("HYPOTHESIS_PROFILE") == "explore"
_STATEMENTS = {"execute", "executemany", "copy", "link", "unlink", "fsync", "replace"}
_NAMES = {"link", "unlink"}
# What is called when both outboxes have their marks.
_MARKED = {"_copy_rows", "_give_name", "end"}
# A place at which some portions are stored.
_MIDDLE = 12


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An outbox with rows in every table."""
    path = tmp_path / "outbox.db"
    with closing(SqliteOutbox(path, FakeClock())) as outbox:
        outbox.store([Change(facts=(things.finished(things.run(1)), things.reported(things.run(2))))])
        for number, state in enumerate(State, 1):
            things.in_state(outbox, state, number)
        for sql in _ROWS:
            outbox._connection.execute(sql)
    return path


@dataclass(frozen=True)
class Place:
    """An outbox as the source or the target of a copy."""

    reading: Callable[[], AbstractContextManager[Any]]
    writing: Callable[[], AbstractContextManager[Any]]
    unmark: Callable[[], None]
    clear: Callable[[], None]

    def content(self) -> dict[str, list[Any]]:
        found = {}
        with self.reading() as source:
            for table in tables.TABLES:
                columns = sorted(set(source.columns(table)) - tables._OF_THE_ENGINE)
                found[table] = source.portion(table, columns, None)
        return found


def copy(source: Place, target: Place) -> Progress:
    with source.reading() as whence, target.writing() as where:
        return tables.copy(whence, where)


@pytest.fixture
def first(file: Path) -> Place:
    """The outbox in a file."""
    return in_file(file)


@pytest.fixture
def second(server: Server, cluster: Cluster, database: str) -> Place:
    """The empty outbox in PostgreSQL."""
    return Place(
        lambda: postgresql.reading(server),
        lambda: postgresql.writing(server),
        lambda: postgresql.unmark(server, confirmed=True),
        lambda: cluster.empty(database),
    )


@pytest.fixture
def third(tmp_path: Path) -> Place:
    """A file that does not exist."""
    return in_file(tmp_path / "back.db")


def in_file(path: Path) -> Place:
    def clear() -> None:
        for each in path.parent.glob(f"{path.name}*"):
            each.unlink()

    return Place(
        lambda: sqlite.reading(path),
        lambda: sqlite.writing(path),
        lambda: sqlite.unmark(path, confirmed=True),
        clear,
    )


def test_a_copy_to_postgresql_and_back_has_equal_content(first: Place, second: Place, third: Place) -> None:
    before = first.content()
    copy(first, second)
    assert second.content() == before
    copy(second, third)
    assert third.content() == before
    assert all(before.values()), [name for name, rows in before.items() if not rows]


def test_the_copy_works_as_an_outbox(file: Path, server: Server, first: Place, second: Place) -> None:
    with closing(SqliteOutbox(file, FakeClock())) as old:
        counts = old.counts()
    copy(first, second)
    with closing(PostgresqlOutbox(server, FakeClock())) as new:
        assert new.counts() == counts
        [added] = things.inserted(new, things.deployment(99))
        assert added.number == len(State) + 1


@pytest.mark.parametrize("to_file", [False, True])
def test_a_copy_that_is_killed_within_and_after_each_transaction_continues(
    first: Place, second: Place, third: Place, to_file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = first.content()
    monkeypatch.setattr(sqlite, "BATCH", 3)
    monkeypatch.setattr(postgresql, "BATCH", 3)
    source, target = first, second
    if to_file:
        copy(first, second)
        source, target = second, third
    kills = sum(killed(place, source, target) for place in range(8))  # while both get their marks
    while killed(0, source, target, after=_MARKED) + killed(1, source, target, after=_MARKED):
        kills += 2
    assert kills > len(tables.TABLES)
    assert copy(source, target).rows == {}
    monkeypatch.undo()
    assert target.content() == expected


@pytest.mark.skipif(not _EVERYWHERE, reason="takes minutes; run with HYPOTHESIS_PROFILE=explore")
@pytest.mark.parametrize("to_file", [False, True])
def test_a_copy_that_is_killed_before_any_statement_continues(
    first: Place, second: Place, third: Place, to_file: bool
) -> None:
    expected = first.content()
    source, target = first, second
    if to_file:
        copy(first, second)
        source, target = second, third
    place = 0
    while killed(place, source, target):
        copy(source, target)
        assert target.content() == expected, place
        source.unmark()
        target.clear()
        place += 1
    assert target.content() == expected
    assert place > 5 * len(tables.TABLES)


def killed(place: int, source: Place, target: Place, *, after: Collection[str] = ()) -> bool:
    """Copy in a process that is killed at this place; False if there are fewer.

    ``after``: places count when one of these functions has begun.
    """
    if (child := os.fork()) == 0:
        seen, counts = 0, not after

        def count(frame: FrameType, event: str, argument: Any) -> None:
            nonlocal seen, counts
            counts = counts or (event == "call" and frame.f_code.co_name in after)
            if counts and _is_place(frame, event, argument):
                if seen == place:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1

        code = 1
        try:
            sys.setprofile(count)
            copy(source, target)
            code = 0
        finally:
            sys.setprofile(None)
            os._exit(code)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended in (0, -signal.SIGKILL)
    return ended != 0


def _is_place(frame: FrameType, event: str, argument: Any) -> bool:
    """Before a statement or a change of a name; after the begin and the end of a transaction."""
    if event == "c_call":
        return argument.__name__ in (_STATEMENTS if _EVERYWHERE else _NAMES)
    name = frame.f_code.co_name
    return (event == "return" and name == "_transaction") or (event == "call" and _EVERYWHERE and name in _STATEMENTS)


@pytest.mark.parametrize("after", ["", "projects", "hours", "reports"])
def test_reports_that_come_during_a_copy_are_stored_once(
    file: Path, server: Server, first: Place, second: Place, after: str
) -> None:
    """The agent of the copy keeps its reports in the file that was copied."""
    tables_of_it: list[str] = []

    def report(progress: Progress) -> None:
        if progress.table == after and after not in tables_of_it:
            add_report(str(file), "late", 5)
        tables_of_it.append(progress.table)

    with first.reading() as source, second.writing() as target:
        tables.copy(source, target, report)
    add_report(str(file), "later", 5)
    assert set(tables_of_it) == set(tables.TABLES)
    with closing(SqliteOutbox(file, FakeClock(), as_inbox=True)) as local, Connection(server) as connection:
        taken = [each.body for each in LocalInbox(local, Moved(connection)).reports(10)]
        [*copied] = [body for (body,) in connection.execute("SELECT body FROM reports")]
    assert sorted([*copied, *taken]) == sorted(["{}", "later", *(["late"] if after else [])])


def test_a_database_with_another_outbox_is_refused(file: Path, server: Server, first: Place, second: Place) -> None:
    with closing(PostgresqlOutbox(server, FakeClock())) as outbox:
        things.inserted(outbox, things.deployment(1))
    with pytest.raises(OutboxError, match="not empty"):
        copy(first, second)


def test_a_database_with_a_part_of_another_copy_is_refused(first: Place, second: Place) -> None:
    assert killed(_MIDDLE, first, second)
    first.unmark()
    with pytest.raises(OutboxError, match="has a part of another copy"):
        copy(first, second)


def test_a_file_that_exists_is_refused(first: Place, second: Place, file: Path) -> None:
    copy(first, second)
    add_report(str(file), "{}", 5)
    with pytest.raises(OutboxError, match=r"already exists \(2 reports wait in it"):
        copy(second, first)


def test_a_finished_copy_is_not_repeated(first: Place, second: Place) -> None:
    copy(first, second)
    assert copy(first, second).rows == {}


@pytest.mark.parametrize("complete", [False, True])
def test_neither_outbox_can_be_used_before_the_copy_is_complete_and_the_original_not_after_it(
    file: Path, server: Server, first: Place, second: Place, complete: bool
) -> None:
    assert killed(_MIDDLE, first, second)
    with pytest.raises(MovedError, match=r"is an incomplete copy of .*outbox\.db; repeat the same"):
        PostgresqlOutbox(server, FakeClock())
    if complete:
        copy(first, second)
    with pytest.raises(MovedError, match=r"was moved to postgresql://" if complete else r"is being moved to"):
        SqliteOutbox(file, FakeClock())
    with first.reading() as source, pytest.raises(OutboxError, match="mov"):
        source.begin("another")
    first.unmark()
    with closing(SqliteOutbox(file, FakeClock())) as outbox:
        things.inserted(outbox, things.deployment(99))


def test_an_agent_that_stood_still_during_the_copy_changes_nothing_afterwards(
    file: Path, server: Server, first: Place, second: Place, third: Place
) -> None:
    with closing(SqliteOutbox(file, FakeClock())) as old:
        copy(first, second)
        with pytest.raises(OutboxError, match="it is moved to another outbox, or was moved"):
            things.inserted(old, things.deployment(99))
    with closing(PostgresqlOutbox(server, FakeClock())) as newer:
        copy(second, third)
        with pytest.raises(OutboxError, match="it is moved to another outbox, or was moved"):
            newer.claim(10)
    expected = third.content()
    assert first.content() == second.content() == expected


def test_a_complete_copy_is_given_up_only_if_it_is_confirmed(file: Path, first: Place, second: Place) -> None:
    copy(first, second)
    with pytest.raises(OutboxError, match="repeat the command with --yes"):
        sqlite.unmark(file, confirmed=False)
    sqlite.unmark(file, confirmed=True)
    with pytest.raises(OutboxError, match="has no mark"):
        sqlite.unmark(file, confirmed=True)
