"""An idle agent leaves the database alone, and wakes up at once when there is something to send."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.integration.support import wait_until
from tests.postgresql.bouncer import bouncing, missing_bouncer
from tests.postgresql.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.postgresql.cluster import Cluster
    from tests.postgresql.fleet import Running

REPORT = {
    "provider": "gitlab_ci", "run": "42", "environment": "production", "status": "success",
    "repo_url": "https://gitlab.example.test/acme/shop", "branch": "main",
}  # fmt: skip


@pytest.fixture
def fleet(cluster: Cluster, database: str, tmp_path: Path) -> Iterator[Fleet]:
    """Its agents look by themselves only once an hour whether something is due."""
    with Fleet(tmp_path, cluster, database, cluster.url(database), delivery_interval="1h") as fleet:
        yield fleet


def report(running: Running) -> None:
    answer = httpx.post(
        f"{running.url('intake')}/v1/events", json=REPORT, headers={"Authorization": "Bearer sandbox-token"},
        timeout=120,
    )  # fmt: skip
    assert answer.status_code == 202, answer.text


def listens(fleet: Fleet, agents: int) -> bool:
    """Whether so many agents hear hints."""
    [(n,)] = fleet.execute("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN %' AND state = 'idle'")
    return int(n) >= agents


def replay_one(fleet: Fleet, running: Running) -> None:
    """A verb makes a delivered event pending again, and it is delivered again."""
    [(number, before)] = fleet.execute("SELECT id, settled_at FROM deployments WHERE state = 'delivered' LIMIT 1")
    done = running.agent.run("replay", str(number))
    assert done.returncode == 0, done.stderr
    again = f"SELECT 1 FROM deployments WHERE id = {number} AND state = 'delivered' AND settled_at > {before}"
    wait_until(lambda: fleet.execute(again) != [], "the event is delivered again")


def test_an_agent_sends_at_once_what_its_polls_find_and_what_is_reported_to_it(fleet: Fleet) -> None:
    one = fleet.start("one")
    fleet.settle(one)
    built = fleet.build(2)
    fleet.expect_delivered(built)
    report(one)
    fleet.expect_delivered(built + 1)


def test_an_agent_sends_at_once_what_a_verb_enqueues(fleet: Fleet) -> None:
    one = fleet.start("one")
    fleet.settle(one)
    fleet.expect_delivered(fleet.build(1))
    wait_until(lambda: listens(fleet, 1), "it hears hints")
    replay_one(fleet, one)


def test_what_is_reported_to_an_agent_that_left_is_sent_at_once_by_another_one(fleet: Fleet) -> None:
    one, two = fleet.start("one"), fleet.start("two")
    fleet.settle(one, two)
    assert two.agent.run("handover").returncode == 0
    fleet.settle(one)
    wait_until(lambda: listens(fleet, 2), "both hear hints")
    report(two)
    fleet.expect_delivered(1)


def test_without_hints_an_event_of_a_verb_waits_for_the_next_look(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    if (why := missing_bouncer()) is not None:
        pytest.skip(why)
    with bouncing(cluster) as url, Fleet(tmp_path, cluster, database, f"{url}/{database}") as fleet:
        one = fleet.start("one")
        fleet.settle(one)
        fleet.expect_delivered(fleet.build(1))
        assert not listens(fleet, 1)
        replay_one(fleet, one)
