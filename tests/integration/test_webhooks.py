"""Webhooks through a real daemon: what platforms send becomes events at Hivel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.hooked import Hooked, deployment_status
from tests.integration.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.server import LocalServer


@pytest.fixture
def daemon(jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path) -> Iterator[Hooked]:
    agent = Hooked.opened(tmp_path, jenkins=jenkins_server, hivel=hivel_server)
    process = agent.begin()
    yield agent
    process.kill()
    process.wait()


def test_a_deployment_of_github_is_answered_with_202_and_reaches_hivel(daemon: Hooked, hivel: LocalHivel) -> None:
    answer = daemon.github(deployment_status(), "deployment_status", delivery="one")
    name = "github_actions:acme/shop#289782451/deploy:production"
    assert (answer.status_code, answer.json()) == (202, {"deployment_id": name, "state": "pending"})
    wait_until(lambda: len(hivel.deployments()) == 1, "the event has arrived")
    event = hivel.deployments()[0].event
    assert (event.deployment_id, event.status, event.environment) == (name, "success", "production")
    assert (event.repo_url, event.branch) == ("https://github.com/acme/shop", "main")
