"""A local Jenkins, a local Hivel and a clock that the test owns."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agent.config.credentials import Token
from agent.config.settings import DeliverySettings, HivelSettings, JenkinsSettings
from agent.sandbox.hivel import LocalHivel
from agent.sandbox.jenkins import LocalJenkins
from agent.sandbox.server import LocalServer
from tests.engines import Postgresql, Sqlite
from tests.integration.support import Agent, FakeClock, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from subprocess import Popen

    from agent.outbox.interface import Outbox
    from tests.engines import Engine
    from tests.postgresql.cluster import Cluster


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def engine(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[Engine]:
    """An empty outbox: a file, and where a test is marked ``on_both_engines`` a database, too."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield Sqlite(tmp_path, clock)
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    database = cluster.new_outbox()
    yield Postgresql(cluster, database, clock=clock)
    cluster.drop(database)


@pytest.fixture
def outbox(engine: Engine) -> Iterator[Outbox]:
    with closing(engine.open()) as outbox:
        yield outbox


@pytest.fixture
def jenkins(clock: FakeClock) -> LocalJenkins:
    return LocalJenkins(now_ms=clock.now_ms)


@pytest.fixture
def jenkins_server(jenkins: LocalJenkins) -> Iterator[LocalServer]:
    with LocalServer(jenkins.app) as server:
        yield server


@pytest.fixture
def controller(jenkins_server: LocalServer) -> JenkinsSettings:
    return JenkinsSettings(
        name="main",
        url=jenkins_server.url + "/",
        username="hivel-agent",
        token=Token("sandbox-token"),
        poll_interval_ms=15_000,
        since="now",
        timeout_ms=60_000,  # no test depends on how fast the machine is
    )


@pytest.fixture
def hivel() -> Iterator[LocalHivel]:
    hivel = LocalHivel()
    yield hivel
    hivel.clear_faults()
    hivel.close()


@pytest.fixture
def hivel_server(hivel: LocalHivel) -> Iterator[LocalServer]:
    with LocalServer(hivel.app) as server:
        yield server


@pytest.fixture
def hivel_settings(hivel_server: LocalServer) -> HivelSettings:
    return HivelSettings(hivel_server.url, Token("sandbox-token"))


@pytest.fixture
def delivery_settings() -> DeliverySettings:
    return replace(DeliverySettings(), concurrency=4, timeout_ms=2_000)


@pytest.fixture
def agent(jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path) -> Agent:
    """Between the two, with one job."""
    jenkins.add_job("deploy/shop")
    return Agent.configured(tmp_path, jenkins=jenkins_server, hivel=hivel_server)


@pytest.fixture
def daemon(agent: Agent) -> Iterator[Popen[str]]:
    process = agent.start()
    wait_until(lambda: "event=started" in agent.log(), "the daemon has started")
    yield process
    process.kill()
    process.wait()
    process.wait()
