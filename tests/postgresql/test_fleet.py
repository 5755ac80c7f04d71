"""Several agents on one PostgreSQL, as processes: whatever happens to one, the others go on. Each event counts once."""

from __future__ import annotations

import signal
from socket import gethostname
from typing import TYPE_CHECKING

import pytest

from agent.config.file import ConfigError, load
from agent.outbox.engines import server_of
from tests.integration.support import Agent, wait_until
from tests.postgresql.fleet import REPORT, Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.postgresql.cluster import Cluster


@pytest.fixture(autouse=True)
def _needs_the_engine(tmp_path: Path) -> None:
    """Skipped until the configuration has [outbox] url and an engine behind it."""
    agent = Agent.configured(tmp_path, jenkins="http://127.0.0.1:1", hivel="http://127.0.0.1:1")
    text = agent.config.read_text()
    agent.config.write_text(text.replace('path = "outbox.db"', 'path = "outbox.db"\nurl = "postgresql:///outbox"'))
    try:
        supported = server_of(load(agent.config)) is not None
    except ConfigError as error:
        assert "outbox.url" in str(error)  # nothing else is wrong
        supported = False
    if not supported:
        pytest.skip("needs [outbox] url and the engine for PostgreSQL")


@pytest.fixture
def fleet(_needs_the_engine: None, cluster: Cluster, database: str, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path, cluster, database, cluster.url(database)) as fleet:
        yield fleet


@pytest.fixture
def own_fleet(_needs_the_engine: None, own_cluster: Cluster, tmp_path: Path) -> Iterator[Fleet]:
    """On a server that the test may stop."""
    database = own_cluster.new_outbox()
    with Fleet(tmp_path, own_cluster, database, own_cluster.url(database)) as fleet:
        yield fleet


def test_two_agents_share_the_controllers_and_deliver_each_deployment_once(fleet: Fleet) -> None:
    one, two = fleet.start("one"), fleet.start("two")
    fleet.settle(one, two)
    fleet.expect_delivered(fleet.build(5))


def test_an_agent_that_is_killed_is_replaced(fleet: Fleet) -> None:
    fleet.log_fences()
    one, two = fleet.start("one"), fleet.start("two")
    fleet.settle(one, two)
    first = fleet.build(2)
    fleet.expect_delivered(first)
    one.kill()
    second = fleet.build(2)
    fleet.settle(two)
    fleet.expect_delivered(first + second)
    assert fleet.assert_epochs_grow()


def test_an_agent_that_stops_is_replaced_before_its_leases_expire(fleet: Fleet) -> None:
    fleet.lease_s = 60.0  # nothing here waits for the end of a lease
    one = fleet.start("one")
    fleet.settle(one)
    two = fleet.start("two")
    assert one.stop() == 0
    fleet.settle(two)
    fleet.expect_delivered(fleet.build(1))


def test_a_frozen_agent_that_wakes_up_writes_nothing(fleet: Fleet) -> None:
    fleet.log_fences()
    one, two = fleet.start("one"), fleet.start("two")
    fleet.settle(one, two)
    one.freeze()
    built = fleet.build(3)
    fleet.settle(two)
    fleet.expect_delivered(built)
    one.thaw()
    wait_until(lambda: fleet.polled_by(one, two), "it takes part again")
    fleet.expect_delivered(built + fleet.build(1))
    assert fleet.assert_epochs_grow()


def test_a_database_that_crashes_stops_polls_and_everything_goes_on_by_itself(own_fleet: Fleet) -> None:
    one, two = own_fleet.start("one"), own_fleet.start("two")
    own_fleet.settle(one, two)
    first = own_fleet.build(2)
    own_fleet.expect_delivered(first)
    own_fleet.cluster.stop(signal.SIGQUIT)
    wait_until(lambda: not one.ready()["ready"], "it says that it is not ready")
    [outbox] = [each for each in one.ready()["checks"] if each["name"] == "outbox"]
    assert not outbox["ok"]
    second = own_fleet.build(2)
    own_fleet.cluster.start()
    own_fleet.settle(one, two)
    own_fleet.expect_delivered(first + second)
    wait_until(lambda: one.ready()["ready"], "it is ready again")


@pytest.mark.parametrize("begun", ["before", "after"], ids=["running agent", "agent started without the database"])
def test_reports_are_kept_while_the_database_is_away(own_fleet: Fleet, begun: str) -> None:
    if begun == "before":
        one = own_fleet.start("one")
        own_fleet.settle(one)
        own_fleet.cluster.stop()
    else:
        own_fleet.cluster.stop()
        one = own_fleet.start("one", wait=False)
        wait_until(lambda: "opening the outbox" in one.agent.log(), "it has noticed")
    one.report()
    fields = ("--system", "gitlab_ci", "--run", "43", "--environment", "production", "--status", "success")
    said = one.agent.run("emit", *fields, "--repo-url", REPORT["repo_url"], "--branch", "main")
    assert "warning" not in said.stderr.lower(), said.stderr
    own_fleet.cluster.start()
    own_fleet.expect_delivered(2)


def test_handover_gives_everything_to_the_others_until_a_restart(fleet: Fleet) -> None:
    one = fleet.start("one")
    fleet.settle(one)
    alone = one.agent.run("handover")
    assert alone.returncode == 1
    assert "no other agent is there to take over" in alone.stderr
    two = fleet.start("two")
    fleet.settle(one, two)
    done = one.agent.run("handover")
    assert done.returncode == 0, done.stderr
    fleet.settle(two)
    fleet.expect_delivered(fleet.build(2))
    status = two.agent.json("status")["fleet"]
    assert sorted(each["state"] for each in status["agents"]) == ["active", "leaving"]
    one.stop()
    again = fleet.start("one")
    fleet.settle(again, two)


def test_agents_of_one_machine_are_told_apart_by_id_and_process(fleet: Fleet) -> None:
    one, two = fleet.start("one"), fleet.start("two")
    fleet.settle(one, two)
    ids = {each["pid"]: each["id"] for each in one.agent.json("status")["fleet"]["agents"]}
    shown = one.agent.run("status").stdout
    for each in (one, two):
        assert f"({ids[each.process.pid][:8]}, process {each.process.pid}): active, polls 1" in shown
    ambiguous = two.agent.run("handover", "--agent", gethostname())
    assert ambiguous.returncode == 1
    assert f"{ids[two.process.pid][:8]} (process {two.process.pid})" in ambiguous.stderr
    done = one.agent.run("handover", "--agent", ids[two.process.pid][:8])
    assert done.returncode == 0, done.stderr
    fleet.settle(one)


def test_idle_polls_write_nothing(fleet: Fleet) -> None:
    fleet.lease_s = 60.0  # its renewals write
    one = fleet.start("one")
    fleet.settle(one)
    fleet.expect_delivered(fleet.build(1))
    [(before,)] = fleet.execute("SELECT pg_current_xact_id()::text::bigint")
    asked = sum(len(each.requests) for each in fleet.jenkins.values())
    wait_until(lambda: sum(len(each.requests) for each in fleet.jenkins.values()) >= asked + 60, "it polls")
    [(after,)] = fleet.execute("SELECT pg_current_xact_id()::text::bigint")
    assert after - before < 20
