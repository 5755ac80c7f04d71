"""`outbox copy` between a file and PostgreSQL."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from agent.model.deployment import State
from agent.outbox import tables
from agent.outbox.postgresql import tables as postgresql
from agent.outbox.postgresql.engine import PostgresqlOutbox
from agent.outbox.sqlite import tables as sqlite
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Change, OutboxError
from tests.conformance import things
from tests.integration.support import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from agent.outbox.postgresql.server import Server

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


def content(source: Any) -> dict[str, list[Any]]:
    found = {}
    for table in tables.TABLES:
        columns = sorted(set(source.columns(table)) - tables._OF_THE_ENGINE)
        found[table] = list(source.rows(table, columns))
    return found


def test_a_copy_to_postgresql_and_back_has_equal_content(file: Path, server: Server, tmp_path: Path) -> None:
    with sqlite.reading(file) as source, postgresql.writing(server) as target:
        tables.copy(source, target)
    back = tmp_path / "back.db"
    with postgresql.reading(server) as source, sqlite.writing(back) as target:
        tables.copy(source, target)
    with sqlite.reading(file) as first, postgresql.reading(server) as second:
        before = content(first)
        assert content(second) == before
    with sqlite.reading(back) as third:
        assert content(third) == before
    assert all(before.values()), [name for name, rows in before.items() if not rows]


def test_the_copy_works_as_an_outbox(file: Path, server: Server) -> None:
    with sqlite.reading(file) as source, postgresql.writing(server) as target:
        tables.copy(source, target)
    with closing(SqliteOutbox(file, FakeClock())) as old, closing(PostgresqlOutbox(server, FakeClock())) as new:
        assert new.counts() == old.counts()
        [added] = things.inserted(new, things.deployment(99))
        assert added.number == len(State) + 1


@pytest.mark.parametrize("to_file", [True, False])
def test_a_killed_copy_leaves_nothing_and_starts_again(
    file: Path, server: Server, tmp_path: Path, to_file: bool
) -> None:
    back = tmp_path / "back.db"
    if to_file:
        with sqlite.reading(file) as source, postgresql.writing(server) as target:
            tables.copy(source, target)

    def copy(*, killed: bool) -> None:
        reading = postgresql.reading(server) if to_file else sqlite.reading(file)
        writing = sqlite.writing(back) if to_file else postgresql.writing(server)
        with reading as source, writing as target:
            tables.copy(_Killed(source) if killed else source, target)

    if (child := os.fork()) == 0:
        try:
            copy(killed=True)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not back.exists()
    copy(killed=False)
    with sqlite.reading(file) as first:
        expected = content(first)
    with sqlite.reading(back) if to_file else postgresql.reading(server) as copied:
        assert content(copied) == expected


class _Killed:
    """Its process is killed when it reads deployments."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.columns = source.columns

    def rows(self, table: str, columns: list[str]) -> Iterator[tuple[Any, ...]]:
        for row in self._source.rows(table, columns):
            yield row
            if table == "deployments":
                os.kill(os.getpid(), signal.SIGKILL)


def test_a_database_with_an_outbox_is_refused(file: Path, server: Server) -> None:
    with closing(PostgresqlOutbox(server, FakeClock())) as outbox:
        things.inserted(outbox, things.deployment(1))
    with pytest.raises(OutboxError, match="not empty"), postgresql.writing(server):
        pass
