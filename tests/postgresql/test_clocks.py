"""Agents whose machines have wrong clocks: what one of them lets wait, waits as long for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.config.file import load
from agent.outbox.clock import DatabaseClock
from agent.outbox.engines import PostgresqlEngine
from agent.outbox.leases import Agent
from agent.outbox.values import Keep
from tests.conformance.things import deployment, inserted, retry
from tests.integration.support import Agent as Command
from tests.integration.support import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.outbox.postgresql.server import Server
    from tests.postgresql.cluster import Cluster

HOUR, DAY = 3_600_000, 86_400_000


@pytest.fixture
def machine(tmp_path: Path, server: Server, cluster: Cluster, database: str) -> Callable[[int], PostgresqlEngine]:
    """The engine of an agent on a machine whose clock is so many milliseconds ahead."""
    settings = load(Command.configured(tmp_path, jenkins="http://127.0.0.1:1", hivel="http://127.0.0.1:1").config)
    [[now]] = cluster.execute("SELECT now_ms()", database)
    return lambda ahead: PostgresqlEngine(server, settings, DatabaseClock(FakeClock(now + ahead)))


@pytest.mark.parametrize("ahead", [-HOUR, HOUR])
def test_the_clock_of_all_is_that_of_the_database(
    machine: Callable[[int], PostgresqlEngine], cluster: Cluster, database: str, ahead: int
) -> None:
    engine = machine(ahead)
    before = engine.clock.own.now_ms() - ahead
    with engine.open() as outbox:
        assert before <= outbox.clock.now_ms() <= before + 120_000
        engine.clock.own.jump(ms=DAY)
        assert before <= outbox.clock.now_ms() <= before + 120_000
        cluster.execute(
            "CREATE OR REPLACE FUNCTION now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS"
            f" 'SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint + {DAY}'",
            database,
        )
        connections = engine.connections()
        connections.leases.renew(Agent("00000000-0000-0000-0000-000000000001", "one", "1"), 1_000)
        connections.close()
        assert outbox.clock.now_ms() >= before + DAY


def test_what_an_agent_with_a_wrong_clock_stores_is_due_at_once_for_all(
    machine: Callable[[int], PostgresqlEngine],
) -> None:
    with machine(HOUR).open() as ahead, machine(-HOUR).open() as behind:
        inserted(ahead, deployment(1, next_attempt_at=ahead.clock.now_ms()))
        behind.clock.own.advance(s=1)  # type: ignore[attr-defined]
        assert [each.deployment_id for each in behind.claim(9)] == ["main:deploy/shop#1"]


@pytest.mark.parametrize(("one", "other"), [(HOUR, -HOUR), (-HOUR, HOUR)])
def test_a_wait_that_one_agent_sets_holds_for_the_other(
    machine: Callable[[int], PostgresqlEngine], one: int, other: int
) -> None:
    with machine(one).open() as first, machine(other).open() as second:
        inserted(first, deployment(1, next_attempt_at=first.clock.now_ms()))
        [claimed] = first.claim(9)
        first.settle([retry(claimed, at=first.clock.now_ms(), next_attempt_at=first.clock.now_ms() + 60_000)])
        assert second.claim(9) == []
        assert second.make_due(later_than=second.clock.now_ms() + 90_000) == 0  # as an agent does with its longest wait
        second.clock.own.advance(s=61)  # type: ignore[attr-defined]
        assert [each.attempts for each in second.claim(9)] == [1]


def test_an_agent_that_is_ahead_by_a_year_deletes_nothing_early(machine: Callable[[int], PostgresqlEngine]) -> None:
    with machine(0).open() as right:
        inserted(right, deployment(1))
        right.discard(list(right.all_deployments()), "let go")
    with machine(365 * DAY).open() as wrong:
        for _ in range(3):
            wrong.prune(Keep(DAY, DAY, DAY))
        assert len(list(wrong.all_deployments())) == 1
