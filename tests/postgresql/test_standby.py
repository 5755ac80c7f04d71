"""A standby that follows the primary, and takes over: agents find who accepts writes."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from agent.outbox.postgresql.connection import Connection
from agent.outbox.postgresql.server import Server
from agent.outbox.values import OutboxError
from tests.integration.support import wait_until
from tests.postgresql.cluster import USER, Cluster
from tests.postgresql.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def standby(own_cluster: Cluster) -> Iterator[Cluster]:
    """It follows ``own_cluster``."""
    standby = Cluster(primary=own_cluster)
    yield standby
    standby.close()


def of_both(database: str, *clusters: Cluster) -> str:
    """The URL with several hosts."""
    hosts, ports = (
        ",".join(map(str, each)) for each in zip(*((one.folder, one.port) for one in clusters), strict=True)
    )
    return f"postgresql://{USER}@/{database}?host={hosts}&port={ports}"


def test_agents_find_the_primary_and_the_standby_that_takes_over(
    own_cluster: Cluster, standby: Cluster, tmp_path: Path
) -> None:
    database = own_cluster.new_outbox()
    with Fleet(tmp_path, own_cluster, database, of_both(database, standby, own_cluster)) as fleet:
        one, two = fleet.start("one"), fleet.start("two")
        fleet.settle(one, two)
        built = fleet.build(2)
        fleet.expect_delivered(built)
        wait_until(
            lambda: fleet.execute("SELECT count(*) FROM deployments WHERE state = 'delivered'") == [(built,)],
            "all is recorded",
        )
        wait_until(lambda: standby.has_all_of(own_cluster), "the standby has it")
        own_cluster.stop(signal.SIGQUIT)
        wait_until(lambda: "read-only" in str(one.ready()), "it says that the standby accepts nothing")
        built += fleet.build(1)
        standby.promote()
        fleet.cluster = standby
        fleet.settle(one, two)
        fleet.expect_delivered(built + fleet.build(1))
        wait_until(lambda: one.ready()["ready"], "it is ready again")


def test_an_agent_with_a_standby_alone_says_so_and_goes_on_when_it_is_promoted(
    own_cluster: Cluster, standby: Cluster, tmp_path: Path
) -> None:
    database = own_cluster.new_outbox()
    wait_until(lambda: standby.has_all_of(own_cluster), "the standby has the database")
    with Fleet(tmp_path, standby, database, standby.url(database)) as fleet:
        one = fleet.start("one")
        wait_until(lambda: "the server is a read-only standby" in str(one.ready()), "it says so")
        assert "the server is a read-only standby" in one.agent.log()
        assert one.process.poll() is None
        standby.promote()
        fleet.settle(one)
        fleet.expect_delivered(fleet.build(1))
        wait_until(lambda: one.ready()["ready"], "it is ready")


def test_of_several_hosts_that_are_all_standbys_the_error_says_so(own_cluster: Cluster, standby: Cluster) -> None:
    alone = Connection(Server(of_both("postgres", standby, standby)))
    with pytest.raises(OutboxError, match="the server is a read-only standby"):
        alone.one("SELECT 1")
    with Connection(Server(of_both("postgres", standby, own_cluster))) as connection:
        assert connection.one("SELECT pg_is_in_recovery()") == (False,)
