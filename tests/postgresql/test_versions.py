"""Agents of two versions on one outbox: the newer one changes the tables while the older one works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.outbox.postgresql.migrations import VERSION
from tests.integration.support import wait_until
from tests.postgresql.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.postgresql.cluster import Cluster

NEWER = "tests.postgresql.newer_version"


@pytest.fixture
def fleet(cluster: Cluster, database: str, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path, cluster, database, cluster.url(database)) as fleet:
        yield fleet


def test_an_older_agent_works_on_with_tables_that_a_newer_one_has_extended(fleet: Fleet) -> None:
    one = fleet.start("one")
    fleet.settle(one)
    built = fleet.build(2)
    fleet.expect_delivered(built)
    two = fleet.start("two", module=(NEWER, str(VERSION)))
    assert fleet.execute("SELECT max(version) FROM schema_version") == [(VERSION + 1,)]
    fleet.settle(one, two)
    built += fleet.build(3)
    fleet.expect_delivered(built)
    one.stop()
    again = fleet.start("one")  # the older version also starts with them
    fleet.settle(again, two)
    assert two.agent.run("handover").returncode == 0
    fleet.settle(again)
    fleet.expect_delivered(built + fleet.build(1))
    assert "does not work" not in one.agent.log() + again.agent.log()


def test_an_older_agent_stops_to_use_tables_that_it_cannot_work_with(fleet: Fleet) -> None:
    """It keeps reports on its disk until it is upgraded. The newer agent takes over everything."""
    one = fleet.start("one")
    fleet.settle(one)
    two = fleet.start("two", module=(NEWER, str(VERSION + 1)))
    wait_until(lambda: "install the newer hivel-agent" in one.agent.log(), "the older one says why it stops")
    fleet.settle(two)
    built = fleet.build(2)
    fleet.expect_delivered(built)
    wait_until(lambda: "opening the outbox" in one.agent.log(), "it waits for its upgrade")
    assert one.process.poll() is None
    one.report()
    assert one.stop() == 0
    again = fleet.start("one", module=(NEWER, str(VERSION + 1)))
    fleet.settle(again, two)
    fleet.expect_delivered(built + 1)
