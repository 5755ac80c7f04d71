"""Reports that wait on a machine's disk while PostgreSQL is away: each is stored there once, whatever breaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.model.report import ReportError
from agent.model.times import Clock
from agent.outbox.postgresql.connection import Connection
from agent.outbox.postgresql.shared import Moved
from agent.outbox.postgresql.transactions import Transactions
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.sources.reports.kept import Kept, LocalInbox, unwrapped, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.outbox.postgresql.server import Server


@pytest.fixture
def local(tmp_path: Path) -> Iterator[SqliteOutbox]:
    with SqliteOutbox(tmp_path / "outbox.db", Clock()) as local:
        yield local


@pytest.fixture
def connection(server: Server) -> Iterator[Connection]:
    with Connection(server) as connection:
        yield connection


def test_a_report_is_deleted_here_after_it_is_stored_there(local: SqliteOutbox, connection: Connection) -> None:
    inbox, transactions = LocalInbox(local, Moved(connection)), Transactions(connection)
    local.add_report("one")
    with transactions.nested:
        [report] = inbox.reports(10)
        inbox.remove_report(report)
    assert [each.body for each in local.reports(10)] == ["one"]
    inbox.committed()
    assert local.reports(10) == []


def test_a_report_whose_commit_failed_is_tried_again(local: SqliteOutbox, connection: Connection) -> None:
    inbox, transactions = LocalInbox(local, Moved(connection)), Transactions(connection)
    local.add_report("one")
    with pytest.raises(KeyError), transactions.nested:
        [report] = inbox.reports(10)
        inbox.remove_report(report)
        raise KeyError
    with transactions.nested:
        assert [each.body for each in inbox.reports(10)] == ["one"]


def test_a_report_whose_commit_succeeded_without_an_answer_is_not_stored_again(
    local: SqliteOutbox, connection: Connection
) -> None:
    """The process dies, or the connection breaks, between the commit and its answer."""
    inbox, transactions = LocalInbox(local, Moved(connection)), Transactions(connection)
    local.add_report("one")
    with transactions.nested:
        [report] = inbox.reports(10)
        inbox.remove_report(report)
    local.add_report("two")
    again = LocalInbox(local, Moved(connection))
    with transactions.nested:
        assert [each.body for each in again.reports(10)] == ["two"]
    assert [each.body for each in local.reports(10)] == ["two"]


def test_a_report_of_the_intake_keeps_its_team() -> None:
    assert unwrapped(wrapped({"job": "deploy/shop"}, "shop")) == Kept({"job": "deploy/shop"}, "intake", "shop")
    assert unwrapped('{"job": "deploy/shop"}') == Kept({"job": "deploy/shop"})
    for damaged in ('{"intake":{"team":1}}', '{"intake":', '{"intake":{"team":"shop","report":[]}}'):
        with pytest.raises(ReportError):
            unwrapped(damaged)
