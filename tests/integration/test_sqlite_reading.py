"""A reader never delays an enqueue: a page that reads for long, and a writer, do not wait for each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.outbox.sqlite import connection
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Filter, OutboxError, Page
from tests.conformance.things import deployment, inserted, success
from tests.integration.support import NOON, FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FULL = 2_000


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SqliteOutbox]:
    with SqliteOutbox(tmp_path / "o.db", FakeClock()) as outbox:
        inserted(outbox, *(deployment(n) for n in range(1, FULL + 1)))
        yield outbox


@pytest.fixture
def reader(writer: SqliteOutbox) -> Iterator[SqliteOutbox]:
    with SqliteOutbox(writer.path, FakeClock(), read_only=True) as outbox:
        yield outbox


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long anybody waited for a lock."""
    waited: list[float] = []
    monkeypatch.setattr(connection.time, "sleep", waited.append)
    return waited


def test_an_enqueue_does_not_wait_for_a_read_that_takes_long(
    writer: SqliteOutbox, reader: SqliteOutbox, waits: list[float]
) -> None:
    """Nor does a delivery. The read ends with what was there when it began."""
    rows = reader.deployed_by_week(0, NOON * 2)
    read = [next(rows)]
    for number in range(FULL + 1, FULL + 101):
        inserted(writer, deployment(number))
        writer.settle([success(claimed) for claimed in writer.claim(3)])
    writer._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    inserted(writer, deployment(FULL + 200))
    read += rows
    assert (len(read), waits) == (FULL, [])
    assert reader.counts().delivered == 300
    assert reader.search(Filter(), Page(1)).deployments[0].number == FULL + 101


def test_a_page_does_not_wait_for_a_writer(writer: SqliteOutbox, reader: SqliteOutbox, waits: list[float]) -> None:
    with writer.transaction():
        inserted(writer, deployment(FULL + 1))
        assert reader.search(Filter(), Page(1)).deployments[0].number == FULL
        assert reader.search(Filter(), Page(1), count_to=9_999).count.n == FULL
    assert waits == []


def test_a_lock_that_is_waited_for_is_noticed_here(writer: SqliteOutbox, waits: list[float]) -> None:
    """Two writers do wait: the other tests can fail."""
    connection.wait_for_locks(stopping=True)
    try:
        with (
            SqliteOutbox(writer.path, FakeClock()) as other,
            writer.transaction(),
            pytest.raises(OutboxError, match="locked"),
        ):
            inserted(other, deployment(FULL + 1))
    finally:
        connection.wait_for_locks(stopping=False)
    assert waits


def test_a_reader_cannot_write(reader: SqliteOutbox) -> None:
    before = reader.counts()
    with pytest.raises(OutboxError, match="cannot be written"):
        reader.add_report("{}")
    with pytest.raises(OutboxError, match="cannot be written"):
        reader.discard(reader.query(Filter(), Page(1)), "why")
    assert (reader.counts(), reader.reports(9)) == (before, [])
