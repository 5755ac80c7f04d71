"""What can go wrong around several agents, as processes: each event counts once, and all goes on without a person."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.integration.disks import mounted
from tests.integration.support import wait_until
from tests.postgresql.cluster import USER
from tests.postgresql.fleet import Fleet
from tests.postgresql.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.postgresql.cluster import Cluster

HOUR = "3600000"


@pytest.fixture
def fleet(cluster: Cluster, database: str, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path, cluster, database, cluster.url(database)) as fleet:
        yield fleet


@pytest.fixture
def proxy(cluster: Cluster) -> Iterator[Proxy]:
    with Proxy(str(cluster.folder), cluster.port) as proxy:
        yield proxy


def outbox_problem(ready: dict[str, object]) -> str:
    """What /readyz says about the outbox; empty: nothing is wrong."""
    [outbox] = [each for each in ready["checks"] if each["name"] == "outbox"]  # type: ignore[attr-defined]
    return "" if outbox["ok"] else str(outbox)


def test_agents_with_clocks_that_are_two_hours_apart_share_everything(fleet: Fleet) -> None:
    fleet.log_fences()
    wrong = "tests.postgresql.wrong_clock"
    ahead, behind = (fleet.start(name, module=(wrong, ms)) for name, ms in (("ahead", HOUR), ("behind", f"-{HOUR}")))
    fleet.settle(ahead, behind)
    first = fleet.build(2)
    fleet.expect_delivered(first)
    [[span]] = fleet.execute("SELECT max(abs(created_at - now_ms())) FROM deployments")
    assert span < int(HOUR) / 2  # by the clock of the database
    ahead.kill()
    fleet.settle(behind)
    fleet.expect_delivered(first + fleet.build(1))
    assert fleet.assert_epochs_grow()


def test_a_server_that_crashes_while_three_agents_are_busy(own_cluster: Cluster, tmp_path: Path) -> None:
    database = own_cluster.new_outbox()
    with Fleet(tmp_path, own_cluster, database, own_cluster.url(database), controllers=3) as fleet:
        agents = [fleet.start(name) for name in ("one", "two", "three")]
        fleet.settle(*agents)
        built = 0
        for round_ in range(1, 4):
            built += fleet.build(5)
            wait_until(lambda at_least=built - 14: len(fleet.delivered()) >= at_least, "some are delivered")
            own_cluster.restart(signal.SIGQUIT)
            built += fleet.build(1)
            wait_until(lambda: fleet.polled_by(*agents), f"all poll again after crash {round_}")
        fleet.expect_delivered(built)
        assert fleet.execute("SELECT DISTINCT attempts FROM deployments WHERE state = 'delivered'") == [(1,)]
        [[stored]] = fleet.execute("SELECT count(*) FROM deployments")
        assert stored == built


def test_an_agent_whose_connection_breaks_again_and_again(fleet: Fleet, proxy: Proxy, database: str) -> None:
    """Of its statements, each eleventh is cut: by turns before the server has it, and before the answer."""
    one = fleet.start("one", url=proxy.url(USER, database))
    fleet.settle(one)
    proxy.cuts = lambda n, _text: None if n % 11 else ("before", "after")[n % 2]
    built = fleet.build(10)
    wait_until(lambda: len(fleet.delivered()) >= built and len(proxy.done) >= 20, "all are delivered in spite of cuts")
    proxy.cuts = lambda _n, _text: None
    assert {"before", "after"} <= set(proxy.done)
    fleet.expect_delivered(built)
    wait_until(
        lambda: (
            fleet.execute("SELECT state, attempts, count(*) FROM deployments GROUP BY 1, 2")
            == [("delivered", 1, built)]
        ),
        "each is delivered with one attempt",
    )
    wait_until(lambda: one.ready()["ready"], "it is ready again")


def test_a_full_disk_of_the_database(fleet: Fleet, proxy: Proxy, database: str) -> None:
    """The error is made by the proxy: every statement that writes is answered as by a server with a full disk."""
    one = fleet.start("one", url=proxy.url(USER, database))
    fleet.settle(one)
    first = fleet.build(1)
    fleet.expect_delivered(first)
    writes = (b"INSERT", b"UPDATE", b"DELETE", b"COMMIT")
    proxy.cuts = lambda _n, text: "53100" if any(word in text for word in writes) else None
    wait_until(lambda: "disk is full" in outbox_problem(one.ready()), "it says so")
    second = fleet.build(1)
    wait_until(lambda: "the server's disk is full; free some space on it" in one.agent.log(), "the log says so, too")
    proxy.cuts = lambda _n, _text: None
    fleet.expect_delivered(first + second)
    wait_until(lambda: one.ready()["ready"], "it is ready again")
    assert one.process.poll() is None


@pytest.mark.root
def test_a_disk_of_the_database_that_is_really_full(cluster: Cluster, database: str, tmp_path: Path) -> None:
    """The database is in a tablespace on a small file system."""
    folder = cluster.folder / "small"
    folder.mkdir()
    with mounted(folder, "-t", "tmpfs", "-o", "size=32m", "tmpfs") as disk:
        owner = cluster.folder.stat()
        os.chown(folder, owner.st_uid, owner.st_gid)
        cluster.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
        cluster.execute(f"ALTER DATABASE {database} SET TABLESPACE small")
        with Fleet(tmp_path, cluster, database, cluster.url(database), controllers=1) as fleet:
            one = fleet.start("one")
            fleet.settle(one)
            disk.fill()
            built = fleet.build(60)
            wait_until(lambda: "disk is full" in outbox_problem(one.ready()), "it says so")
            assert one.process.poll() is None
            disk.make_room()
            fleet.expect_delivered(built)
            wait_until(lambda: one.ready()["ready"], "it is ready again")
        cluster.drop(database)
        cluster.execute("DROP TABLESPACE small")
