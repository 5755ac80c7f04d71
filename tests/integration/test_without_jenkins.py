"""An agent without any controller: it takes reports, delivers them, and says what it cannot do."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.integration.doors import INTAKE_TOKEN, Doors
from tests.integration.support import Agent, wait_until
from tests.integration.terminal import Terminal
from tests.integration.test_emit import SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.server import LocalServer

MISSING = "no controller is configured: to read builds of a Jenkins, add a [[jenkins]] table"
TOKEN = {"Authorization": "Bearer token-of-the-pages"}
REPORT = {
    "run": "nightly-7", "environment": "production", "repo_url": "https://git.example.test/acme/shop",
    "branch": "main", "status": "success",
}  # fmt: skip


@pytest.fixture
def agent(hivel_server: LocalServer, tmp_path: Path) -> Doors:
    """Its configuration has the doors, and no ``[[jenkins]]``."""
    (tmp_path / "spool").mkdir()
    for name, token in (("hivel", "sandbox-token"), ("intake", INTAKE_TOKEN), ("web", "token-of-the-pages")):
        (tmp_path / f"{name}.token").write_text(f"{token}\n")
        (tmp_path / f"{name}.token").chmod(0o600)
    (tmp_path / "config.toml").write_text(
        f'[hivel]\nurl = "{hivel_server.url}"\ntoken_file = "hivel.token"\n'
        '[outbox]\npath = "outbox.db"\n[monitoring]\nlisten = "127.0.0.1:0"\n[hook]\nspool = "spool"\n'
        '[delivery]\ninterval = "100ms"\n[intake]\nlisten = "127.0.0.1:0"\ntoken_file = "intake.token"\n'
        '[web]\nlisten = "127.0.0.1:0"\ntoken_file = "web.token"\n'
        '[notify]\ncommand = ["/bin/true"]\n'
    )
    return Doors(tmp_path)


@pytest.fixture
def running(agent: Doors) -> Iterator[Doors]:
    process = agent.begin()
    yield agent
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0, agent.log()


def address(agent: Agent, what: str) -> str:
    return re.findall(rf"what={what} url=(http://\S+)", agent.log())[-1]


def test_reports_of_every_door_are_delivered(running: Doors, hivel: LocalHivel) -> None:
    assert running.post(REPORT).json() == {"deployment_id": "nightly-7:production", "state": "pending"}
    (running.folder / "new.json").write_text(json.dumps(REPORT | {"run": "nightly-8"}))
    (running.folder / "new.json").rename(running.spool / "8.json")
    assert running.run("emit", "--status", "success", **SYSTEMS["gitlab_ci"]).returncode == 0
    assert running.run("emit", "--job", "deploy/shop", "--build-number", "9", "--status", "SUCCESS", "--environment",
                       "staging", "--repo-url", REPORT["repo_url"], "--branch", "main").returncode == 0  # fmt: skip
    wait_until(lambda: len(hivel.deployments()) == 4, "all of them are at Hivel")
    assert {each.event.deployment_id for each in hivel.deployments()} == {
        "nightly-7:production", "nightly-8:production", "gitlab_ci:acme/shop#9:production", "jenkins:deploy/shop#9",
    }  # fmt: skip


def test_monitoring_and_pages_show_an_agent_without_controllers(running: Doors) -> None:
    ready = httpx.get(f"{address(running, 'monitoring')}/readyz", timeout=120)
    assert ready.status_code == 200, ready.text
    assert [check["name"] for check in ready.json()["checks"]] == ["outbox", "delivery", "log"]
    metrics = httpx.get(f"{address(running, 'monitoring')}/metrics", timeout=120).text
    assert 'controller="' not in metrics
    assert "hivel_agent_events" in metrics
    assert httpx.get(f"{address(running, 'monitoring')}/jenkins", timeout=120).json() == []
    assert running.post({}, "/v1/wake").json() == {"woken": []}
    with httpx.Client(base_url=address(running, "web"), headers=TOKEN, timeout=120) as client:
        for path in ("/", "/controllers", "/build", "/deployments", "/failed", "/dora", "/rules", "/about", "/tasks"):
            assert client.get(path).status_code == 200, path
        assert "No controller is configured" in client.get("/").text
        assert "No controller is configured" in client.get("/controllers").text
        assert client.get("/controllers.json").json() == {"controllers": [], "selected": None, "jobs": None}
        asked = client.post("/build", data={"build": "https://jenkins.example.test/job/shop/7/"})
        assert (asked.status_code, "no controller is configured" in asked.text) == (400, True)
        assert client.post("/controllers/poll", data={"controller": "main"}).status_code == 404


def test_the_verbs_work_or_say_that_there_is_no_controller(agent: Doors, hivel: LocalHivel) -> None:
    assert agent.run("emit", "--status", "success", **SYSTEMS["gitlab_ci"]).returncode == 0
    once = agent.run("once")
    assert (once.returncode, "jenkins   no controller is configured" in once.stdout) == (0, True), once.stderr
    assert len(hivel.deployments()) == 1
    status = agent.run("status")
    assert (status.returncode, "jenkins   no controller is configured" in status.stdout) == (0, True)
    assert agent.json("status")["controllers"] == []
    explained = agent.run("explain", "gitlab_ci:acme/shop#9:production")
    assert (explained.returncode, "not asked: a build of gitlab_ci" in explained.stdout) == (0, True), explained.stderr
    compared = agent.run("preview", "--compare", "--offline")
    assert (compared.returncode, compared.stderr) == (0, "")
    assert agent.run("notify", "test").returncode == 0
    for verb in (["preview"], ["preview", "--compare"], ["audit"], ["backfill", "--since", "7d"]):
        done = agent.run(*verb)
        assert (done.returncode, done.stdout) == (2, ""), verb
        assert done.stderr == f"hivel-agent: {agent.config}: {MISSING}\n"
    for build in ("https://jenkins.example.test/job/shop/7/", "main:shop#7"):
        done = agent.run("explain", build)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
    assert MISSING in agent.run("explain", "https://jenkins.example.test/job/shop/7/").stderr


def test_check_says_where_deployments_come_from(agent: Doors) -> None:
    said = [each["message"] for each in agent.json("check") if each["subject"] == "configuration"]
    assert "no controller is configured, so no Jenkins is polled; deployments come from [intake]" in said
    text = agent.config.read_text()
    agent.config.write_text(text[: text.index("[intake]")])
    warnings = [each["message"] for each in agent.json("check") if each["level"] == "warning"]
    assert any("only emit on this machine and the spool folder report deployments" in each for each in warnings)


# ---- init


def test_init_writes_a_configuration_without_jenkins_that_takes_a_report(
    tmp_path: Path, hivel: LocalHivel, hivel_server: LocalServer
) -> None:
    folder = tmp_path / "agent"
    done = subprocess.run(
        [sys.executable, "-m", "agent", "init", "--folder", str(folder), "--hivel-url", hivel_server.url,
         "--jenkins-url", "-"],
        env=Agent(tmp_path).environment() | {"HIVEL_API_TOKEN": "sandbox-token"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {
        "config.toml": "0o640", "hivel.token": "0o600", "intake.token": "0o400", "web.password": "0o400",
    }  # fmt: skip
    written = tomllib.loads((folder / "config.toml").read_text())
    assert written.keys() == {"hivel", "intake", "outbox"}
    token = (folder / "intake.token").read_text().strip()
    assert (len(token) >= 20, token in done.stdout) == (True, False)
    assert f"report to http://127.0.0.1:9470 with the token in {folder / 'intake.token'}" in done.stdout
    text = (folder / "config.toml").read_text().replace("[intake]", '[intake]\nlisten = "127.0.0.1:0"')
    quiet = '\n[web]\nlisten = ""\n[monitoring]\nlisten = ""\n[hook]\nspool = ""\n'
    (folder / "config.toml").write_text(text + quiet)
    agent = Doors(folder)
    process = agent.begin()
    try:
        sent = agent.run("emit", "--send", agent.intake, "--strict", HIVEL_TOKEN=token, **SYSTEMS["circleci"])
        assert (sent.returncode, sent.stderr) == (0, "")
        wait_until(lambda: len(hivel.deployments()) == 1, "the event is at Hivel")
    finally:
        process.terminate()
        assert process.wait(120) == 0


def test_init_on_a_terminal_offers_to_go_without_jenkins_and_can_add_one_later(
    tmp_path: Path, hivel_server: LocalServer, jenkins_server: LocalServer
) -> None:
    environment = Agent(tmp_path).environment()
    with Terminal("init", "--folder", str(tmp_path / "a"), env=environment) as terminal:
        terminal.answer("Hivel address", hivel_server.url)
        terminal.answer("Hivel API key", "sandbox-token")
        terminal.answer("Jenkins address", "-")
        terminal.answer("Contact", "")
        assert terminal.end() == 0
    assert "[[jenkins]]" not in (tmp_path / "a" / "config.toml").read_text()
    added = subprocess.run(
        [sys.executable, "-m", "agent", "init", "--folder", str(tmp_path / "a"), "--add-controller", "--username", "-",
         "--jenkins-url", jenkins_server.url, "--jenkins-name", "main", "--no-test"],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert added.returncode == 0, added.stderr
    assert [each["name"] for each in tomllib.loads((tmp_path / "a" / "config.toml").read_text())["jenkins"]] == ["main"]
