"""An id is used once, also if another agent deletes the deployment that has it at the same time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from agent.model.ids import run_id
from agent.model.times import Clock
from agent.outbox import rows
from agent.outbox.postgresql.engine import PostgresqlOutbox
from agent.outbox.values import Change
from tests.conformance.things import deployment, finished, inserted, run

if TYPE_CHECKING:
    from tests.postgresql.cluster import Cluster

LIMIT_S = 60


@pytest.mark.parametrize("count", [1, 2], ids=["one deployment", "two deployments"])
def test_an_id_that_is_forgotten_while_the_insertion_waits_is_refused(
    cluster: Cluster, database: str, count: int
) -> None:
    stored = deployment()
    name = run_id(stored.run)
    again = [deployment(9, deployment_id=name), deployment(10)][:count]
    change = Change(facts=(finished(run(9)),), inserted=tuple(again))
    with (
        PostgresqlOutbox(cluster.server(database), Clock()) as outbox,
        psycopg.connect(cluster.url(database)) as other,
        ThreadPoolExecutor(1) as thread,
    ):
        inserted(outbox, stored)
        other.execute("DELETE FROM deployments")
        other.execute("INSERT INTO forgotten VALUES (%s, 5, 1)", (rows.id_hash(name),))
        storing = thread.submit(outbox.store, [change])
        _wait_until_one_waits(cluster, database)
        other.commit()
        assert storing.result(LIMIT_S) == {name: 5}
        assert [each.deployment_id for each in outbox.all_deployments()] == [run_id(run(10))][: count - 1]
        assert len(outbox.facts(run(9))) == 1


def _wait_until_one_waits(cluster: Cluster, database: str) -> None:
    waiting = f"SELECT 1 FROM pg_stat_activity WHERE datname = '{database}' AND wait_event_type = 'Lock'"
    ends = time.monotonic() + LIMIT_S
    while not cluster.execute(waiting):
        assert time.monotonic() < ends
        time.sleep(0.01)
