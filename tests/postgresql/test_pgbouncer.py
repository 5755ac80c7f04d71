"""PgBouncer in transaction mode between agents and server: each transaction may run on another connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.outbox.postgresql.connection import Connection
from agent.outbox.postgresql.hints import Hints
from agent.outbox.postgresql.server import Server
from agent.outbox.postgresql.transactions import Transactions
from tests.integration.support import wait_until
from tests.postgresql.bouncer import bouncing, missing_bouncer
from tests.postgresql.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.postgresql.cluster import Cluster


@pytest.fixture(scope="module")
def bouncer(cluster: Cluster) -> Iterator[str]:
    """The begin of the URLs of databases behind it."""
    if (why := missing_bouncer()) is not None:
        pytest.skip(why)
    with bouncing(cluster) as url:
        yield url


def test_nothing_of_one_transaction_is_left_to_the_next_client(bouncer: str, database: str) -> None:
    """One connection to the server is shared by all: settings and locks end with their transactions."""
    connections = [Connection(Server(f"{bouncer}/{database}")) for _ in range(3)]
    for connection in connections:
        assert connection.usual().prepare_threshold is None
        with Transactions(connection).nested:
            Transactions(connection).lock([1, 2])
            connection.execute("INSERT INTO hours VALUES (1, 1, 1) ON CONFLICT DO NOTHING")
        for name in ("lock_timeout", "idle_in_transaction_session_timeout"):
            assert connection.one(f"SHOW {name}") == ("0",)
        assert connection.all("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []
    for _ in range(8):  # as often as a statement would be prepared
        for connection in connections:
            assert connection.one("SELECT %s::integer", (7,)) == (7,)
    for connection in connections:
        connection.close()


def test_no_agent_waits_for_hints(bouncer: str, database: str) -> None:
    hints = Hints(Connection(Server(f"{bouncer}/{database}")))
    assert hints.open() is None
    hints.close()


def test_agents_share_die_and_hand_over(bouncer: str, cluster: Cluster, database: str, tmp_path: Path) -> None:
    with Fleet(tmp_path, cluster, database, f"{bouncer}/{database}") as fleet:
        fleet.log_fences()
        one, two = fleet.start("one"), fleet.start("two")
        fleet.settle(one, two)
        built = fleet.build(5)
        fleet.expect_delivered(built)
        one.kill()
        built += fleet.build(2)
        fleet.settle(two)
        fleet.expect_delivered(built)
        again = fleet.start("one")
        fleet.settle(again, two)
        done = two.agent.run("handover")
        assert done.returncode == 0, done.stderr
        fleet.settle(again)
        fleet.expect_delivered(built + fleet.build(1))
        assert fleet.assert_epochs_grow()
        wait_until(lambda: again.ready()["ready"], "it is ready")
        for running in (again, two):
            assert "does not work" not in running.agent.log(), running.agent.log()
