"""One pass: a mistake in one part of it is told, and keeps no other part from its work."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.integration.support import REPO, Agent

if TYPE_CHECKING:
    from pathlib import Path

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer

JOB = "deploy/shop"
BROKEN = """
from agent.daemon import composition
from agent.main import main

async def wrong(self):
    raise RuntimeError("nobody expected this")

composition.{place} = wrong
main()
"""


@pytest.fixture
def agent(jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path) -> Agent:
    jenkins.add_job(JOB)
    jenkins.add_builds(JOB, 3, repo=REPO)
    return Agent.configured(tmp_path, jenkins=jenkins_server, hivel=hivel_server)


def once(agent: Agent, place: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A pass in which this part stumbles."""
    command = [sys.executable, "-c", BROKEN.format(place=place), "once", "--config", str(agent.config), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=agent.environment(), check=False)


@pytest.mark.parametrize(
    ("place", "work", "delivered"),
    [
        ("Reporting.take", "reports", 3),
        ("Reporting.release", "held events", 3),
        ("Controller.poll", "polls of main", 0),
        ("Parts.deliver", "delivery", 0),
    ],
)
def test_a_mistake_is_told_and_everything_else_is_done(
    agent: Agent, hivel: LocalHivel, place: str, work: str, delivered: int
) -> None:
    done = once(agent, place, "--json")
    assert done.returncode == 1
    report = msgspec.json.decode(done.stdout)
    assert list(report["mistakes"]) == [work]
    assert "nobody expected this" in report["mistakes"][work]
    [line] = done.stderr.splitlines()
    assert "Traceback" in line and "level=error" in line
    assert len(hivel.deployments()) == delivered
    assert report["counts"]["pending"] == (3 if place == "Parts.deliver" else 0)


def test_what_people_read_of_it_names_the_work(agent: Agent) -> None:
    done = once(agent, "Reporting.take")
    assert done.returncode == 1
    assert "reports: unexpected error: RuntimeError: nobody expected this" in done.stdout
