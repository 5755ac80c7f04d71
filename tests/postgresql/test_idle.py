"""An idle agent leaves the database alone, and wakes up at once when there is something to send."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from agent.daemon.life import held_s
from agent.outbox.leases import Agent, Fence
from agent.outbox.postgresql.connection import Connection
from agent.outbox.postgresql.engine import PostgresqlOutbox
from agent.outbox.postgresql.leases import LeaseFence, Leases
from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.poller import Poller
from tests.engines import traced
from tests.integration.support import REPO, ingest_of, wait_until
from tests.postgresql.bouncer import bouncing, missing_bouncer
from tests.postgresql.fleet import JOB, Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.config.settings import JenkinsSettings
    from agent.outbox.postgresql.server import Server
    from agent.sandbox.jenkins import LocalJenkins
    from tests.integration.support import FakeClock
    from tests.postgresql.cluster import Cluster
    from tests.postgresql.fleet import Running


@pytest.fixture
def fleet(cluster: Cluster, database: str, tmp_path: Path) -> Iterator[Fleet]:
    """Its agents look by themselves only once an hour whether something is due."""
    with Fleet(tmp_path, cluster, database, cluster.url(database), delivery_interval="1h") as fleet:
        yield fleet


def listens(fleet: Fleet, agents: int) -> bool:
    """Whether so many agents hear hints."""
    [(n,)] = fleet.execute("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN %' AND state = 'idle'")
    return int(n) >= agents


def replay_one(fleet: Fleet, running: Running) -> None:
    """A verb makes a delivered event pending again, and it is delivered again."""
    delivered = "SELECT id, settled_at FROM deployments WHERE state = 'delivered'"
    wait_until(lambda: fleet.execute(delivered) != [], "the outcome is stored")
    number, before = fleet.execute(delivered)[0]
    done = running.agent.run("replay", str(number))
    assert done.returncode == 0, done.stderr
    again = f"SELECT 1 FROM deployments WHERE id = {number} AND state = 'delivered' AND settled_at > {before}"
    wait_until(lambda: fleet.execute(again) != [], "the event is delivered again")


def test_an_agent_sends_at_once_what_its_polls_find_and_what_is_reported_to_it(fleet: Fleet) -> None:
    one = fleet.start("one")
    fleet.settle(one)
    built = fleet.build(2)
    fleet.expect_delivered(built)
    one.report()
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
    two.report()
    fleet.expect_delivered(1)


@dataclass
class Sent:
    """What the clients of a database send from now on, from the log of the server."""

    cluster: Cluster
    database: str

    def __post_init__(self) -> None:
        self.cluster.execute(f"ALTER DATABASE {self.database} SET log_statement = 'all'")
        self.begin()

    def begin(self) -> None:
        """Count from here on."""
        self._pids = {str(pid) for (pid,) in self._agents()}
        self._from = self._log.stat().st_size
        self._began = self._now_ms()

    def texts(self) -> list[str]:
        """The statements of the connections that the agents had at the begin."""
        with self._log.open("rb") as log:
            log.seek(self._from)
            entries = ENTRY.split(log.read().decode())
        found = zip(entries[1::2], entries[2::2], strict=True)
        return [text for pid, text in found if pid in self._pids]

    def seconds(self) -> float:
        """How much time has passed in the database."""
        return (self._now_ms() - self._began) / 1000

    @property
    def _log(self) -> Path:
        return self.cluster.folder / "log"

    def _now_ms(self) -> int:
        [(now,)] = self.cluster.execute("SELECT now_ms()", self.database)
        assert isinstance(now, int)
        return now

    def _agents(self) -> list[tuple[object, ...]]:
        return self.cluster.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'hivel-agent' AND datname = current_database()",
            self.database,
        )


# The begin of an entry in the log of the server, up to its statement.
ENTRY = re.compile(r"^\S+ \S+ \S+ \[(\d+)\] LOG:  (?:statement|execute [^:]+): ", re.MULTILINE)
RENEWAL = "INSERT INTO agents"


def test_an_idle_agent_sends_little(cluster: Cluster, database: str, tmp_path: Path) -> None:
    """Whatever the speed of the machine, in some time an interval passes only so often."""
    sent = Sent(cluster, database)
    with Fleet(
        tmp_path, cluster, database, cluster.url(database), lease_s=3, poll_interval="2s", delivery_interval="1s"
    ) as fleet:
        fleet.build(1)
        fleet.settle(fleet.start("one"))
        fleet.expect_delivered(2)
        settled = "SELECT 1 FROM deployments WHERE state <> 'delivered'"
        wait_until(lambda: fleet.execute(settled) == [] and listens(fleet, 1), "it is idle")
        sent.begin()
        wait_until(lambda: sum(RENEWAL in text for text in sent.texts()) >= 12, "it has renewed its leases 12 times")
        texts, seconds = sent.texts(), sent.seconds()

    def most(what: str, every_s: float, begun: int = 1) -> None:
        found = sum(what in text for text in texts)
        assert found <= seconds / every_s + begun, (what, found, seconds)

    most("JOIN delivery", 5, 2)
    most(RENEWAL, 1)
    most("state = 'held'", held_s(3_600_000))
    most("FROM wanted_builds", 2 / 2, 2)
    for seldom in ("FROM controllers", "FROM open_builds WHERE controller", "FROM jobs", "INSERT INTO controllers"):
        most(seldom, 60 / 2, 2)
    for never in ("LISTEN", "NOTIFY", "SKIP LOCKED", "FROM agents LEFT JOIN"):
        most(never, 3_600, 0)


@pytest.fixture
def poller(server: Server, controller: JenkinsSettings, jenkins: LocalJenkins, clock: FakeClock) -> Iterator[Poller]:
    """Of a controller with a job, under a lease."""
    jenkins.add_job(JOB)
    jenkins.add_builds(JOB, 3, repo=REPO)
    me = Agent(str(uuid4()), "agent", "1", 1)
    with (
        Connection(server) as connection,
        PostgresqlOutbox(server, clock) as outbox,
        closing(JenkinsClient(controller, clock)) as client,
    ):
        leases = Leases(connection)
        leases.declare([controller.name])
        leases.take(me, [controller.name], 1, 3_600_000)
        outbox.fence(LeaseFence(Fence(controller.name, me.id, 1)))
        yield Poller(controller, client, ingest_of(outbox))


def statements_of(poller: Poller, clock: FakeClock, *, after_s: float = 5) -> list[str]:
    """What the next poll sends to the database."""
    clock.advance(s=after_s)
    with traced(poller._outbox) as statements:
        assert poller.poll().complete
    return statements


def test_a_poll_that_finds_nothing_new_asks_only_for_builds_that_were_reported(
    poller: Poller, jenkins: LocalJenkins, clock: FakeClock
) -> None:
    for _ in range(3):
        poller.poll()
    [only] = statements_of(poller, clock)
    assert "FROM wanted_builds" in only
    jenkins.add_builds(JOB, 1, repo=REPO)
    assert len(statements_of(poller, clock)) > 5
    statements_of(poller, clock)
    [only] = statements_of(poller, clock)
    assert "FROM wanted_builds" in only


def test_once_a_minute_an_idle_poll_stores_its_time(poller: Poller, clock: FakeClock) -> None:
    for _ in range(3):
        poller.poll()
    sent = [len(statements_of(poller, clock, after_s=15)) for _ in range(8)]
    assert sorted(sent) == [1, 1, 1, 1, 1, 1, 5, 5]
    assert poller._outbox.controllers()[0].polled_at == clock.now_ms() - 15_000 * sent[::-1].index(5)


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
