"""One pass: a mistake in one part of it is told, and keeps no other part from its work."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.integration.scripted import JSON, Scripted, whole
from tests.integration.support import REPO, Agent

if TYPE_CHECKING:
    from pathlib import Path

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer
    from tests.integration.scripted import Connection

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
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=agent.environment(), check=False)


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


def dripping(path: str, connection: Connection) -> None:
    """A Jenkins with a thousand jobs, of each of which it tells a byte now and then."""
    if path.startswith("/api/json"):
        jobs = [{"fullName": f"deploy/j{number}", "nextBuildNumber": 2} for number in range(1000)]
        connection.send(whole(msgspec.json.encode({"jobs": jobs})))
    else:
        connection.send(JSON + b"Content-Length: 1000000\r\n\r\n")
        connection.drip(itertools.cycle(b" "))


def test_a_pass_ends_however_slowly_jenkins_answers(agent: Agent, hivel: LocalHivel, tmp_path: Path) -> None:
    """What others have is delivered all the same, and nobody is kept from the outbox."""
    with Scripted(dripping) as server:
        text = agent.config.read_text()
        table = f'[[jenkins]]\nname = "slow"\nurl = "{server.url}"\nsince = "2020-01-01"\n\n[outbox]'
        agent.config.write_text(text.replace("[outbox]", table))
        done = agent.run("once", "--within", "8s")
        assert done.returncode == 1, done.stdout
        assert "polls of slow: not finished in time; the next run continues" in done.stdout
        assert server.paths, "it was asked"
    assert len(hivel.deployments()) == 3
    agent.config.write_text(text)
    assert agent.run("once").returncode == 0


def test_the_rest_of_the_events_is_left_to_the_next_pass(agent: Agent, hivel: LocalHivel, tmp_path: Path) -> None:
    """One event goes out in a minute."""
    text = agent.config.read_text()
    agent.config.write_text(text.replace("[delivery]", "[delivery]\nconcurrency = 1\nper_minute = 1"))
    report = msgspec.json.decode(agent.run("once", "--within", "6s", "--json").stdout)
    assert "delivery" in report["unfinished"]
    assert report["counts"]["delivered"] == len(hivel.deployments()) < 3
    agent.config.write_text(text)
    assert agent.run("once").returncode == 0
    assert {each.times_posted for each in hivel.deployments()} == {1}
    assert len(hivel.deployments()) == 3


def test_a_time_that_is_none_is_told(agent: Agent) -> None:
    done = agent.run("once", "--within", "soon")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "--within: 'soon' is not a duration" in done.stderr
