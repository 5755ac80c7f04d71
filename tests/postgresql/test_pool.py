"""A few connections that many users share: each has one for a statement or a transaction, and nobody for longer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from agent.outbox.postgresql.connection import Connection
from agent.outbox.postgresql.pool import Pool
from agent.outbox.values import OutboxError
from tests.integration.support import wait_until
from tests.postgresql.fleet import Fleet

if TYPE_CHECKING:
    from pathlib import Path

    from agent.outbox.postgresql.server import Server
    from tests.postgresql.cluster import Cluster

PID = "SELECT pg_backend_pid()"
COUNT = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'hivel-agent' AND datname = current_database()"


def test_many_users_need_one_connection_if_they_come_one_after_another(server: Server) -> None:
    pool = Pool(server, 2)
    users = [Connection(server, pool) for _ in range(5)]
    assert len({user.one(PID) for user in users}) == 1
    pool.clear()


def test_a_transaction_has_its_connection_until_it_ends(server: Server) -> None:
    pool = Pool(server, 2)
    one, two = Connection(server, pool), Connection(server, pool)
    one.execute("BEGIN")
    mine = one.one(PID)
    assert two.one(PID) != mine == one.one(PID)
    assert one.in_transaction and not two.in_transaction
    one.execute("ROLLBACK")
    assert not one.in_transaction
    pool.clear()


def test_there_are_never_more_than_allowed_and_whoever_comes_later_waits(server: Server) -> None:
    pool = Pool(server, 2)

    def work(_: int) -> object:
        with Connection(server, pool) as connection:
            connection.execute("BEGIN")
            try:
                return connection.one(PID)
            finally:
                connection.execute("COMMIT")

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(work, range(40)))) <= 2
    pool.clear()


def test_the_places_of_broken_connections_become_free(cluster: Cluster, server: Server, database: str) -> None:
    pool = Pool(server, 2)
    users = [Connection(server, pool) for _ in range(2)]
    for user in users:
        user.execute("BEGIN")
    cluster.execute(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        f" AND datname = '{database}'"
    )
    for user in users:
        with pytest.raises(OutboxError):
            user.one(PID)
        assert not user.in_transaction
    for user in users:
        user.execute("BEGIN")
        assert user.one(PID)
        user.execute("COMMIT")
    pool.clear()


def test_all_broken_connections_are_opened_again(own_cluster: Cluster) -> None:
    server = own_cluster.server(own_cluster.new_outbox())
    pool = Pool(server, 3)
    users = [Connection(server, pool) for _ in range(3)]
    for sql in ("BEGIN", "COMMIT"):
        for user in users:
            user.execute(sql)
    own_cluster.restart()
    assert [user.one("SELECT 1") for user in users] == [(1,)] * 3
    pool.clear()


def test_a_server_that_is_away_takes_no_places(server: Server, cluster: Cluster) -> None:
    pool = Pool(cluster.server("nowhere"), 1)
    for _ in range(3):
        with pytest.raises(OutboxError, match="create the database"):
            Connection(server, pool).one("SELECT 1")


def test_an_agent_with_many_controllers_has_few_connections(cluster: Cluster, database: str, tmp_path: Path) -> None:
    url = cluster.url(database)
    with Fleet(tmp_path, cluster, database, url, controllers=40, poll_interval="1s") as fleet:
        one = fleet.start("one")
        wait_until(lambda: len(fleet.front.polled_by(one.user)) == 40, "all are polled")
        fleet.expect_delivered(fleet.build(1))
        assert fleet.execute(COUNT)[0][0] < 20
