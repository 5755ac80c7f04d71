"""The trial of rules, in a process of its own, with an outbox that needs a password."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agent.config.file import load
from agent.web.trial import run, trial_of
from tests.integration.support import Agent
from tests.postgresql.cluster import PASSWORD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.postgresql.cluster import Cluster


def test_a_trial_has_the_password_of_the_database(cluster: Cluster, database: str, tmp_path: Path) -> None:
    agent = Agent.configured(tmp_path, jenkins="http://127.0.0.1:1", hivel="http://127.0.0.1:1")
    url = cluster.url(database, tcp=True)
    text = agent.config.read_text()
    agent.config.write_text(text.replace('path = "outbox.db"', f'url = "{url}"\npassword_file = "outbox.password"'))
    password = tmp_path / "outbox.password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    result = asyncio.run(run(trial_of(load(agent.config), '[[deployment]]\njob = "**"\n', 0)))
    assert result.problem is None
    assert result.comparison is not None
