"""Connections: opened again after they broke, transactions that store all or nothing, tables created once."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from agent.config.credentials import Token
from agent.outbox.postgresql.connection import Connection
from agent.outbox.postgresql.migrations import VERSION, migrate
from agent.outbox.postgresql.server import Server
from agent.outbox.postgresql.transactions import Transactions
from agent.outbox.values import OutboxError
from tests.postgresql.cluster import PASSWORD

if TYPE_CHECKING:
    from tests.postgresql.cluster import Cluster


def test_several_agents_that_start_at_once_create_the_tables_once(cluster: Cluster) -> None:
    server = cluster.server(cluster.new_database())

    def start(_: int) -> None:
        with Connection(server) as connection:
            migrate(connection)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(start, range(8)))
    with Connection(server) as connection:
        versions = connection.all("SELECT version FROM schema_version ORDER BY version")
        assert versions == [(number,) for number in range(1, VERSION + 1)]


def test_tables_of_a_newer_version_are_used_only_if_they_say_that_they_can_be(server: Server) -> None:
    with Connection(server) as connection:
        connection.execute("INSERT INTO schema_version (version, agents_since) VALUES (998, %s)", (VERSION,))
        migrate(connection)
        connection.execute("INSERT INTO schema_version (version, agents_since) VALUES (999, %s)", (VERSION + 1,))
        with pytest.raises(OutboxError, match=f"by a newer hivel-agent \\(format version 999; .* up to {VERSION}\\)"):
            migrate(connection)


def test_the_password_comes_from_elsewhere_and_appears_nowhere(cluster: Cluster, database: str) -> None:
    url = cluster.url(database, tcp=True)
    with Connection(Server(url, Token(PASSWORD))) as connection:
        assert connection.one("SELECT 1") == (1,)
    wrong = Server(url, Token("wrong password"))
    with Connection(wrong) as connection, pytest.raises(OutboxError, match="check the user of") as raised:
        connection.one("SELECT 1")
    assert "wrong password" not in f"{raised.value} {wrong} {wrong!r}"


def test_a_connection_that_the_server_ended_is_opened_again(cluster: Cluster, server: Server) -> None:
    with Connection(server) as connection:
        for sql in ("SELECT 1", "BEGIN"):
            [pid] = connection.one("SELECT pg_backend_pid()") or ()
            cluster.execute(f"SELECT pg_terminate_backend({pid}, 10000)")
            connection.execute(sql)
        assert connection.in_transaction


def test_a_transaction_without_statements_needs_no_server(own_cluster: Cluster) -> None:
    with Connection(own_cluster.server(own_cluster.new_outbox())) as connection:
        connection.one("SELECT 1")
        own_cluster.stop()
        transactions = Transactions(connection)
        with transactions.nested:
            assert connection.in_transaction
        with pytest.raises(ZeroDivisionError), transactions.nested:
            _ = 1 / 0
        with pytest.raises(OutboxError, match="is the server running"), transactions.nested:
            connection.execute("SELECT 1")
        assert not connection.in_transaction


def test_a_connection_that_breaks_within_a_transaction_stores_nothing(cluster: Cluster, server: Server) -> None:
    with Connection(server) as connection:
        transactions = Transactions(connection)
        with pytest.raises(OutboxError), transactions.nested:
            connection.execute("INSERT INTO hours VALUES (1, 1, 1)")
            [pid] = connection.one("SELECT pg_backend_pid()") or ()
            cluster.execute(f"SELECT pg_terminate_backend({pid}, 10000)")
            connection.execute("INSERT INTO hours VALUES (2, 1, 1)")
        with transactions.nested:
            connection.execute("INSERT INTO hours VALUES (3, 1, 1)")
        assert connection.all("SELECT hour FROM hours") == [(3,)]


def test_a_fence_keeps_a_transaction_from_beginning(server: Server) -> None:
    class Shut:
        def check(self, connection: Connection) -> None:
            raise OutboxError("the lease is lost")

    with Connection(server) as connection:
        transactions = Transactions(connection)
        transactions.fence = Shut()
        with pytest.raises(OutboxError, match="lease is lost"), transactions.nested:
            raise AssertionError
        assert not connection.in_transaction


def test_a_database_that_is_not_there_is_an_error_with_advice(cluster: Cluster) -> None:
    with Connection(cluster.server("nowhere")) as connection, pytest.raises(OutboxError, match="create the database"):
        connection.one("SELECT 1")


def test_a_name_that_no_index_can_hold_is_an_error_that_says_so(server: Server) -> None:
    name = "".join(chr(random.Random(number).randrange(0x4E00, 0x9FA5)) for number in range(3_000))
    with Connection(server) as connection:
        migrate(connection)
        with pytest.raises(OutboxError, match="a name is too long"), Transactions(connection).nested:
            connection.execute("INSERT INTO controllers (name, state, since) VALUES (%s, '', 1)", (name,))


def test_a_server_that_is_away_is_an_error_and_the_connection_comes_back_with_it(own_cluster: Cluster) -> None:
    server = own_cluster.server(own_cluster.new_outbox())
    with Connection(server) as connection:
        connection.one("SELECT 1")
        own_cluster.stop()
        with pytest.raises(OutboxError, match="is the server running"):
            connection.one("SELECT 1")
        own_cluster.start()
        assert connection.one("SELECT 1") == (1,)
