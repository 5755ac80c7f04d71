"""The connection is cut at each statement: before the server has it, and before the client has the answer.

The work is done again, as agents do. Nothing is lost or doubled, and attempts are counted once.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from agent.fleet.leases import Leases as Fleet
from agent.model.times import Clock
from agent.outbox.leases import Agent, Fence
from agent.outbox.postgresql.connection import Connection
from agent.outbox.postgresql.engine import PostgresqlOutbox
from agent.outbox.postgresql.leases import LeaseFence, Leases
from agent.outbox.postgresql.server import Server
from agent.outbox.postgresql.shared import Moved
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import JobCursor, OutboxError, Progress
from agent.sources.reports.inbox import take_batch
from agent.sources.reports.kept import LocalInbox
from tests.conformance.things import JOB, deployment, finished, inserted, refusal, retry, run, success
from tests.integration.reporting import reports_of, settings_of
from tests.integration.support import NOON, FakeClock, ingest_of, wait_until
from tests.postgresql.cluster import USER
from tests.postgresql.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.postgresql.cluster import Cluster

ME, OTHER = (Agent(str(UUID(int=number)), f"agent-{number}", "1") for number in (1, 2))
TTL_MS = 3_600_000
# `make test-postgresql` cuts at every statement, `make test` only at the first, the last, and each COMMIT.
ALL = "LONG_TESTS" in os.environ
REPORT = (
    '{"provider": "gitlab_ci", "run": "%d", "environment": "production", "status": "success", "branch": "main",'
    ' "repo_url": "https://gitlab.example.test/acme/shop"}'
)


class World:
    """An outbox behind the proxy, and another way to it."""

    def __init__(self, cluster: Cluster, database: str, proxy: Proxy) -> None:
        self._cluster = cluster
        self.database = database
        self.proxy = proxy
        self.through = Server(proxy.url(USER, database))
        self.direct = cluster.server(database)
        self.outboxes: list[PostgresqlOutbox] = []

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self._cluster.execute(sql, self.database)

    def repeated(self, work: Callable[[], object], nth: int, how: str) -> None:
        """Do the work with one cut, and again until it succeeds."""
        self.proxy.cut(nth, how)

        def succeeds() -> bool:
            try:
                work()
            except OutboxError:
                return False
            return True

        wait_until(succeeds, "it succeeds")  # the server may need a moment until it has noticed the cut

    def _empty(self) -> None:
        self.proxy.cut(0, "")
        self._cluster.empty(self.database)
        for each in self.outboxes:  # the projects that they know are gone, as after a rollback
            each._transactions.rollbacks += 1

    def every_cut(self, prepare: Callable[[], Callable[[], object]], check: Callable[[], None]) -> None:
        """Each with an empty outbox."""
        self._empty()
        work = prepare()
        self.proxy.cut(0, "")
        work()
        check()
        statements = self.proxy.texts
        last = len(statements)
        for nth in range(1, last + 1):
            if not (ALL or nth in (1, last) or b"COMMIT" in statements[nth - 1]):
                continue
            for how in ("before", "after"):
                self._empty()
                self.repeated(prepare(), nth, how)
                assert self.proxy.done.pop() == how
                try:
                    check()
                except AssertionError as error:
                    raise AssertionError(f"after a cut {how} statement {nth} of {last}: {error}") from error


@pytest.fixture
def world(cluster: Cluster, database: str) -> Iterator[World]:
    with Proxy(str(cluster.folder), cluster.port) as proxy:
        yield World(cluster, database, proxy)


@pytest.fixture
def outbox(world: World) -> Iterator[PostgresqlOutbox]:
    with closing(PostgresqlOutbox(world.through, FakeClock())) as outbox:
        world.outboxes.append(outbox)
        yield outbox


def counted(world: World) -> dict[str, int]:
    """The counters of states, which triggers keep."""
    with PostgresqlOutbox(world.direct, FakeClock()) as outbox:
        counts = outbox.counts()
        return {name: n for name in counts.__struct_fields__ if (n := getattr(counts, name))}


def test_an_enqueue_under_a_lease(world: World, outbox: PostgresqlOutbox) -> None:
    facts = [finished(run(number)) for number in (1, 2)]
    progress = Progress("main", cursors=(JobCursor(JOB, 3, NOON, 2, NOON),), missed={JOB: (1, 2)})

    def prepare() -> Callable[[], object]:
        with Connection(world.direct) as connection:
            leases = Leases(connection)
            leases.declare(["main"])
            leases.take(ME, ["main"], 1, TTL_MS)
        outbox.fence(LeaseFence(Fence("main", ME.id, 1)))
        ingest = ingest_of(outbox)

        def poll() -> None:
            if outbox.job("main", JOB) is None:  # as a poll: it begins with its cursors
                ingest.accept(facts, progress)

        return poll

    def check() -> None:
        assert world.rows("SELECT run FROM deployments ORDER BY run") == [("1",), ("2",)]
        assert len(world.rows("SELECT 1 FROM facts")) == 2
        assert world.rows("SELECT builds FROM missed") == [(1,)]
        assert counted(world) == {"pending": 2}

    world.every_cut(prepare, check)


def test_facts_that_are_read_again_after_a_lost_commit(world: World, outbox: PostgresqlOutbox) -> None:
    """The cursors are read from the outbox, but nothing depends on it."""
    world.every_cut(
        lambda: lambda: ingest_of(outbox).accept([finished(run(1)), finished(run(2))]),
        lambda: _equal(counted(world), {"pending": 2}),
    )


def test_claims_and_settlements(world: World, outbox: PostgresqlOutbox) -> None:
    def prepare() -> Callable[[], object]:
        outbox.release_claims()
        with PostgresqlOutbox(world.direct, FakeClock()) as direct:
            inserted(direct, *(deployment(number) for number in (1, 2, 3, 4)))
        claimed = []

        def deliver() -> None:
            if not claimed:
                wait_until(lambda: len(outbox.claim(9)) == 4, "nobody has locked them")
                claimed.extend(outbox.claim(9))
            one, two, three, four = claimed
            outbox.settle(
                [
                    success(one, at=NOON + 1),
                    retry(two, at=NOON + 2, next_attempt_at=NOON),
                    refusal(three, at=NOON + 3),
                    retry(four, at=NOON + 4, counts_as_attempt=False, reason="paused"),
                ]
            )

        return deliver

    def check() -> None:
        stored = world.rows("SELECT id, state, attempts FROM deployments ORDER BY id")
        assert stored == [(1, "delivered", 1), (2, "pending", 1), (3, "failed", 1), (4, "pending", 0)]
        assert world.rows("SELECT deployment, n FROM attempts ORDER BY deployment") == [(2, 1), (3, 1)]
        assert counted(world) == {"delivered": 1, "pending": 2, "failed": 1}

    world.every_cut(prepare, check)


def test_a_renewal_that_takes_controllers(world: World) -> None:
    with ExitStack() as stack:

        def prepare() -> Callable[[], object]:
            table = Leases(stack.enter_context(Connection(world.through)))
            return Fleet(table, ME, ["a", "b"], Clock(), TTL_MS).turn

        def check() -> None:
            held = world.rows("SELECT controller, holder::text, epoch FROM leases ORDER BY 1")
            assert held == [("a", ME.id, 1), ("b", ME.id, 1)]

        world.every_cut(prepare, check)


def test_a_hand_over(world: World) -> None:
    """Each controller is given away, and taken once. An agent whose answer was lost releases what it still has."""
    with ExitStack() as stack:

        def prepare() -> Callable[[], object]:
            direct, through = (
                Leases(stack.enter_context(Connection(server))) for server in (world.direct, world.through)
            )
            leaving, staying = Fleet(through, ME, ["a"], Clock(), TTL_MS), Fleet(direct, OTHER, ["a"], Clock(), TTL_MS)
            leaving.turn()

            def hand_over() -> None:
                through.ask_to_leave([ME.id], leaving=True)
                leaving.turn()
                staying.turn()
                staying.turn()
                assert leaving.mine == {}

            return hand_over

        def check() -> None:
            assert world.rows("SELECT holder::text, epoch FROM leases") == [(OTHER.id, 2)]

        world.every_cut(prepare, check)


def test_an_agent_that_leaves(world: World) -> None:
    with ExitStack() as stack:

        def prepare() -> Callable[[], object]:
            fleet = Fleet(Leases(stack.enter_context(Connection(world.through))), ME, ["a", "b"], Clock(), TTL_MS)
            fleet.turn()
            return lambda: (fleet.leave(), fleet.table.members())

        def check() -> None:
            assert world.rows("SELECT holder FROM leases") == [(None,), (None,)]
            assert world.rows("SELECT 1 FROM agents") == []

        world.every_cut(prepare, check)


def test_kept_reports_that_are_moved_up(world: World, outbox: PostgresqlOutbox, tmp_path: Path) -> None:
    with closing(SqliteOutbox(tmp_path / "kept.db", FakeClock())) as local:
        inbox = LocalInbox(local, Moved(outbox.connection))
        reports = reports_of(settings_of(tmp_path / "outbox.db"), outbox)

        def prepare() -> Callable[[], object]:
            for number in (1, 2):
                local.add_report(REPORT % number)

            def move() -> None:
                while take_batch(reports, inbox) is not None:
                    inbox.committed()

            return move

        def check() -> None:
            assert local.reports(9) == []
            assert world.rows("SELECT run FROM facts ORDER BY run") == [("1",), ("2",)]
            assert counted(world) == {"pending": 2}

        world.every_cut(prepare, check)


def test_a_report_of_the_intake_that_is_kept_because_its_commit_was_not_answered(
    world: World, outbox: PostgresqlOutbox, tmp_path: Path
) -> None:
    clock = FakeClock()
    report = {
        "provider": "gitlab_ci", "run": "7", "environment": "production", "status": "success", "branch": "main",
        "repo_url": "https://gitlab.example.test/acme/shop",
    }  # fmt: skip
    with closing(SqliteOutbox(tmp_path / "kept.db", clock)) as local:
        inbox = LocalInbox(local, Moved(outbox.connection))
        reports = reports_of(settings_of(tmp_path / "outbox.db"), outbox)

        def accept() -> None:
            """As Reporting does it."""
            clock.advance(ms=5)
            try:
                reports.take(report, source="intake", at=clock.now_ms(), principal="shop")
            except OutboxError:
                clock.advance(ms=5)
                reports.keep(report, local, "shop")
            while take_batch(reports, inbox) is not None:
                inbox.committed()

        world.every_cut(lambda: accept, lambda: _equal((counted(world), local.reports(9)), ({"pending": 1}, [])))


def _equal(found: object, expected: object) -> None:
    assert found == expected
