"""Webhooks through a real daemon: what platforms send becomes events at Hivel."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import httpx
import pytest

from tests import webhooks
from tests.engines import on_both_engines
from tests.integration.hooked import Hooked, deployment_status
from tests.integration.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.server import LocalServer
    from tests.engines import Engine


@pytest.fixture
def daemon(jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path) -> Iterator[Hooked]:
    agent = Hooked.opened(tmp_path, jenkins=jenkins_server, hivel=hivel_server)
    agent.process = agent.begin()
    yield agent
    agent.process.kill()
    agent.process.wait()


def test_a_deployment_of_github_is_answered_with_202_and_reaches_hivel(daemon: Hooked, hivel: LocalHivel) -> None:
    answer = daemon.github(deployment_status(), "deployment_status", delivery="one")
    name = "github_actions:acme/shop#289782451/deploy:production"
    assert (answer.status_code, answer.json()) == (202, {"deployment_id": name, "state": "pending"})
    wait_until(lambda: len(hivel.deployments()) == 1, "the event has arrived")
    event = hivel.deployments()[0].event
    assert (event.deployment_id, event.status, event.environment) == (name, "success", "production")
    assert (event.repo_url, event.branch) == ("https://github.com/acme/shop", "main")


@on_both_engines
def test_nothing_that_was_answered_is_lost_when_the_agent_is_killed_and_nothing_is_doubled(
    jenkins_server: LocalServer, hivel_server: LocalServer, hivel: LocalHivel, engine: Engine, tmp_path: Path
) -> None:
    """Deliveries without an answer are sent again, as platforms do."""
    agent = Hooked.opened(tmp_path, jenkins=jenkins_server, hivel=hivel_server)
    agent.store_in(engine.url)
    process = agent.begin()
    waiting = list(range(1, 201))
    accepted: dict[int, str] = {}

    async def client(http: httpx.AsyncClient, url: str, numbers: list[int]) -> None:
        while numbers:
            number = numbers.pop()
            body = webhooks.encoded(deployment_status(workflow_run__id=number))
            headers = webhooks.github(body, "deployment_status", delivery=f"delivery-{number}")
            try:
                answer = await http.post(f"{url}/v1/hooks/github", content=body, headers=headers)
            except httpx.TransportError:
                return
            assert answer.status_code == 202
            accepted[number] = answer.json()["deployment_id"]
            if len(accepted) == 60:
                process.send_signal(signal.SIGKILL)

    async def send(numbers: list[int]) -> None:
        async with httpx.AsyncClient(timeout=120, trust_env=False) as http:
            await asyncio.gather(*(client(http, agent.url, numbers) for _ in range(16)))

    asyncio.run(send(list(waiting)))
    process.wait()
    before = dict(accepted)
    assert 60 <= len(before) < len(waiting)
    engine.let_claims_run_out()
    process = agent.begin()
    try:
        asyncio.run(send([number for number in waiting if number not in before]))
        names = {f"github_actions:acme/shop#{number}/deploy:production" for number in waiting}
        assert set(accepted.values()) == names
        wait_until(lambda: len(hivel.deployments()) == len(waiting), "all events have arrived")
        assert {each.event.deployment_id for each in hivel.deployments()} == names
    finally:
        process.kill()
        process.wait()


def test_a_reload_changes_the_secret_and_the_listener_answers_meanwhile(daemon: Hooked) -> None:
    body = deployment_status()
    assert daemon.github(body, "deployment_status", secret="the next secret").status_code == 401
    (daemon.folder / "github.secret").write_text("the next secret\n")
    process = daemon.process
    before = daemon.log().count("configuration reloaded")
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: daemon.log().count("configuration reloaded") > before, "the configuration is reloaded")
    wait_until(
        lambda: daemon.github(body, "deployment_status", secret="the next secret").status_code == 202,
        "the new secret is accepted",
    )
    assert daemon.github(body, "deployment_status").status_code == 401


def test_the_verbs_show_what_arrived_and_what_a_body_would_become(daemon: Hooked) -> None:
    daemon.github(webhooks.body("github/ping"), "ping", delivery="one")
    daemon.github(deployment_status(), "deployment_status", delivery="two")
    listed = daemon.json("webhook", "list")
    assert [(each["delivery_id"], each["verdict"], each["reason"]) for each in listed] == [
        ("two", "stored", ""),
        ("one", "ignored", "ping: the webhook works"),
    ]
    assert listed[0]["deployment_id"] == "github_actions:acme/shop#289782451/deploy:production"
    file = daemon.folder / "body.json"
    file.write_bytes(webhooks.encoded(deployment_status(workflow_run__id=7)))
    found = daemon.json("webhook", "test", "github", "--body", str(file))
    assert (found["verdict"], found["event"]) == ("stored", "deployment_status")
    assert found["deployment_id"] == "github_actions:acme/shop#7/deploy:production"
    assert found["fields"]["branch"] == "main"
    assert len(daemon.json("webhook", "list")) == 2  # a test stores nothing
    text = daemon.run("webhook", "list", "--limit", "1")
    assert "stored" in text.stdout and "ping" not in text.stdout
    refused = daemon.run("webhook", "test", "github", "--body", str(daemon.config))
    assert (refused.returncode, "the body is not JSON" in refused.stdout) == (1, True)
    unknown = daemon.run("webhook", "test", "other", "--body", str(file))
    assert (unknown.returncode, "the webhooks are github, gitlab" in unknown.stderr) == (2, True)
