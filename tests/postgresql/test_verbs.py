"""Verbs show the outbox in PostgreSQL, not the file in which this machine keeps reports."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.inspect import bundle
from agent.model.deployment import State
from agent.model.times import Clock
from agent.outbox.postgresql.engine import PostgresqlOutbox
from agent.outbox.sqlite.engine import SqliteOutbox
from tests.conformance import things
from tests.integration.support import Agent

if TYPE_CHECKING:
    from pathlib import Path

    from agent.outbox.postgresql.server import Server


@pytest.fixture
def agent(server: Server, tmp_path: Path) -> Agent:
    """With a failed event in PostgreSQL, and a file for reports."""
    with closing(PostgresqlOutbox(server, Clock())) as outbox:
        things.in_state(outbox, State.FAILED, 1)
    agent = Agent.configured(tmp_path, jenkins="http://127.0.0.1:1", hivel="http://127.0.0.1:1")
    text = agent.config.read_text()
    agent.config.write_text(text.replace('path = "outbox.db"', f'path = "outbox.db"\nurl = "{server.url}"'))
    SqliteOutbox(agent.outbox, Clock()).close()
    return agent


def test_a_support_bundle_has_the_state_of_the_shared_outbox(agent: Agent) -> None:
    files = bundle.files(agent.config)
    assert msgspec.json.decode(files["status.json"])["events"]["failed"] == 1
    assert msgspec.json.decode(files["failures.json"])["counts"]["failed"] == 1


def test_check_names_the_database(agent: Agent, server: Server) -> None:
    done = agent.run("check", "--offline")
    assert f"outbox: {server.name} can be written; 0 pending, 1 failed" in done.stdout


def test_check_names_a_password_that_others_can_read(agent: Agent) -> None:
    text = agent.config.read_text()
    agent.config.write_text(text.replace("[monitoring]", 'password_file = "outbox.password"\n\n[monitoring]', 1))
    password = agent.folder / "outbox.password"
    password.write_text("of-the-database\n")
    password.chmod(0o644)
    assert f"chmod 600 {password}" in agent.run("check", "--offline").stdout
