"""SIGKILL before and after every commit and every POST: after a restart nothing is lost and nothing is doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.model.deployment import State
from agent.model.keys import jenkins_run
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Change
from agent.sandbox.hivel import Fault, LocalHivel
from agent.sandbox.jenkins import LocalJenkins
from agent.sandbox.server import LocalServer
from tests.conformance.things import deployment
from tests.engines import on_both_engines
from tests.integration.crash_driver import MOST_POINTS
from tests.integration.support import REPO, Agent
from tests.simulation.support import memory_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.types import ASGIApp, Receive, Scope, Send

    from agent.outbox.interface import Outbox
    from tests.engines import Engine

JOBS = ("deploy/shop", "deploy/api")
EXPECTED = {f"main:{job}#{number}" for job in JOBS for number in (1, 2, 3)}


class Stage:
    """What is played at two addresses that stay."""

    jenkins: LocalJenkins
    hivel: LocalHivel

    def begin_anew(self) -> LocalHivel:
        """Six builds, and a Hivel at which the first POSTs of four events go wrong, each in another way."""
        self.jenkins = LocalJenkins()
        for job in JOBS:
            self.jenkins.add_job(job)
            self.jenkins.add_builds(job, 3, repo=REPO)
        self.hivel = LocalHivel()
        for name, fault in [
            ("shop#1", Fault(kind="status", status=503, times=1)),
            ("shop#2", Fault(kind="status", status=400, times=1)),
            ("api#1", Fault(kind="reset", stored=True, times=1)),
            ("api#2", Fault(kind="cut", times=1)),
        ]:
            self.hivel.fault(msgspec.structs.replace(fault, match=name))
        return self.hivel


class Current:
    """Serves whatever is on the stage at the moment."""

    def __init__(self, app: Callable[[], ASGIApp]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app()(scope, receive, send)


class Driver:
    """The process that does the agent's work and is killed at it."""

    def __init__(self, agent: Agent) -> None:
        self._errors = agent.folder / "errors"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.crash_driver", str(agent.config)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=agent.environment(),
            )  # fmt: skip

    def work(self, *, points: int = 0) -> int:
        """Do the work up to that point, or all of it; returns the number of points passed, or minus a signal."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{points}\n")
        self._process.stdin.flush()
        came_to = int(self._process.stdout.readline() or 255)
        assert came_to in (-signal.SIGKILL, *range(1, MOST_POINTS)), self._errors.read_text()
        return came_to

    def close(self) -> None:
        self._process.communicate(timeout=240)


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory: processes die here, no computers."""
    with memory_folder() as name:
        yield Path(name)


@pytest.fixture
def agent(stage: Stage, tmp_path: Path, engine: Engine) -> Iterator[Agent]:
    jenkins_app, hivel_app = Current(lambda: stage.jenkins.app), Current(lambda: stage.hivel.app)
    with LocalServer(jenkins_app) as jenkins, LocalServer(hivel_app) as hivel:
        agent = Agent.configured(tmp_path, jenkins=jenkins, hivel=hivel, backoff_initial="1ms", backoff_max="1ms")
        agent.store_in(engine.url)
        yield agent


@pytest.fixture
def driver(agent: Agent) -> Iterator[Driver]:
    driver = Driver(agent)
    yield driver
    driver.close()


@on_both_engines
def test_a_kill_before_or_after_any_commit_or_post_loses_nothing_and_doubles_nothing(
    stage: Stage, engine: Engine, driver: Driver
) -> None:
    stage.begin_anew()
    points = driver.work()
    stage.hivel.close()
    kills, sent_again, every = 0, 0, _every(engine)
    for point in range(1, points + 1, every):
        engine.make_empty()
        hivel = stage.begin_anew()
        kills += driver.work(points=point) < 0
        _check_what_the_kill_left(engine, hivel, point)
        engine.let_claims_run_out()
        driver.work()
        _check_the_end(engine, hivel, point)
        sent_again += sum(deployment.times_posted - 1 for deployment in hivel.deployments())
        hivel.close()
    # How often outcomes are stored depends on the time: the last points may not be there in each run.
    assert points > 45 and kills > 40 // every
    print(f"{kills} kills at {points} points, 6 events each: 0 lost, 0 doubled, {sent_again} POSTs of stored events")  # noqa: T201


def _every(engine: Engine) -> int:
    """On PostgreSQL, where all of it takes longer, a few of the points, or all with ``HIVEL_STORIES``."""
    return 8 if engine.url is not None and "HIVEL_STORIES" not in os.environ else 1


def _check_what_the_kill_left(engine: Engine, hivel: LocalHivel, point: int) -> None:
    """What Hivel has is in the outbox, and the file is sound."""
    with closing(engine.open()) as outbox:
        if isinstance(outbox, SqliteOutbox):
            assert outbox.find_damage() is None, point
        assert {row.deployment_id for row in outbox.all_deployments()} <= EXPECTED, point
        for deployment in hivel.deployments():
            assert _is_known(outbox, deployment.event.deployment_id), point


def _check_the_end(engine: Engine, hivel: LocalHivel, point: int) -> None:
    """Every build is at Hivel once, and is delivered or was deleted since, and then it is still known."""
    arrived = [deployment.event.deployment_id for deployment in hivel.deployments()]
    assert (sorted(arrived), point) == (sorted(EXPECTED), point)
    with closing(engine.open()) as outbox:
        counted = Counter(row.state.value for row in outbox.all_deployments())
        assert set(counted) <= {State.DELIVERED.value}, point
        assert all(_is_known(outbox, name) for name in EXPECTED), point
        assert {state: n for state, n in msgspec.to_builtins(outbox.counts()).items() if n} == dict(counted), point


def _is_known(outbox: Outbox, name: str) -> bool:
    """Whether the id is given, or was: then another deployment cannot have it."""
    job, _, number = name.removeprefix("main:").partition("#")
    asked = deployment(of=jenkins_run("main", job, int(number)))
    with suppress(_Undone), outbox.transaction():
        raise _Undone(bool(outbox.store([Change(inserted=(asked,))])))
    return _Undone.last


class _Undone(Exception):  # noqa: N818 - nothing went wrong
    """Ends a transaction of which nothing is to stay."""

    last = False

    def __init__(self, known: bool) -> None:
        _Undone.last = known
