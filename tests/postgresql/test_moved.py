"""An outbox that was moved to PostgreSQL, as a user meets it: nothing works on the original, and no report is lost."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.model.times import Clock
from agent.outbox.postgresql.engine import PostgresqlOutbox
from agent.outbox.sqlite.engine import SqliteOutbox
from tests.integration.support import REPO, Agent, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from agent.outbox.postgresql.server import Server
    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer

JOB = "deploy/shop"


@pytest.fixture
def agent(jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path) -> Agent:
    """With three events that Hivel has."""
    jenkins.add_job(JOB)
    jenkins.add_builds(JOB, 3, repo=REPO)
    agent = Agent.configured(tmp_path, jenkins=jenkins_server, hivel=hivel_server)
    assert agent.run("once").returncode == 0
    return agent


def report(agent: Agent, number: int) -> str:
    done = agent.run(
        "emit", "--strict", "--job", JOB, "--build-number", str(number), "--controller", "main", "--status", "SUCCESS",
        "--environment", "production", "--repo-url", REPO, "--branch", "main",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def use(agent: Agent, server: Server) -> None:
    """Set the configuration to the database."""
    text = agent.config.read_text()
    agent.config.write_text(text.replace('path = "outbox.db"', f'path = "outbox.db"\nurl = "{server.url}"'))


def test_nothing_works_on_the_original_and_the_database_gets_its_reports(
    agent: Agent, server: Server, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    done = agent.run("outbox", "copy", "--to", server.url)
    assert done.returncode == 0, done.stderr
    assert "copied 3 deployments" in done.stdout.replace("\n", " ")
    jenkins.add_builds(JOB, 1, repo=REPO)
    words = f"outbox.db was moved to {server.name}"
    for verb in ("run", "once", "status"):
        refused = agent.run(verb)
        assert refused.returncode != 0
        assert words in refused.stderr and "hivel-agent outbox unmark --from" in refused.stderr
        assert "Traceback" not in refused.stderr
    assert "stored in" in report(agent, 4)
    use(agent, server)
    with closing(PostgresqlOutbox(server, Clock())) as outbox:
        process = agent.start()
        try:
            wait_until(lambda: outbox.counts().delivered == 4, "the database has the report")
        finally:
            process.terminate()
            assert process.wait(120) == 0
    assert len(hivel.deployments()) == 4
    back = agent.folder / "back.db"
    assert agent.run("outbox", "copy", "--to", str(back)).returncode == 0
    refused = agent.run("run")
    assert refused.returncode != 0
    assert f"{server.name} was moved to {back}" in refused.stderr


def test_a_move_is_taken_back(agent: Agent, server: Server) -> None:
    assert agent.run("outbox", "copy", "--to", server.url).returncode == 0
    report(agent, 4)
    refused = agent.run("outbox", "unmark")
    assert refused.returncode != 0
    assert "repeat the command with --yes" in refused.stderr
    assert agent.run("outbox", "unmark", "--yes").returncode == 0
    assert agent.run("once").returncode in (0, 1)
    with closing(SqliteOutbox(agent.outbox, Clock())) as outbox:
        assert sum(msgspec.to_builtins(outbox.counts()).values()) == 4


def test_an_agent_that_uses_the_database_is_not_copied(agent: Agent, server: Server) -> None:
    use(agent, server)
    process = agent.start()
    try:
        wait_until(lambda: "event=started" in agent.log(), "the agent has started")
        refused = agent.run("outbox", "copy", "--to", str(agent.folder / "new.db"))
        assert refused.returncode != 0
        assert "agents use the outbox" in refused.stderr
    finally:
        process.terminate()
        process.wait(120)
