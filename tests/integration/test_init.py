"""``init``: from nothing to a tested configuration, asked for or given."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from agent.config.file import load
from tests.integration.support import Agent, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer

TOKEN = "sandbox-token"


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", "init", "--folder", str(folder), *arguments]
    clean = Agent(folder).environment()
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, env=clean | environment,
        check=False,
    )  # fmt: skip


@pytest.fixture
def told(jenkins_server: LocalServer, hivel_server: LocalServer) -> list[str]:
    return [
        "--hivel-url", hivel_server.url, "--jenkins-url", jenkins_server.url, "--jenkins-name", "main",
        "--username", "hivel-agent", "--since", "30d", "--job", "deploy/**", "--job", 're:a"b\\.c$',
    ]  # fmt: skip


TOKENS = {"HIVEL_API_TOKEN": TOKEN, "JENKINS_API_TOKEN": TOKEN}


def test_what_it_writes_is_tested_works_and_is_safe(
    tmp_path: Path, jenkins: LocalJenkins, hivel: LocalHivel, told: list[str]
) -> None:
    jenkins.add_job("deploy/shop")
    jenkins.add_job("lab/other")
    jenkins.add_builds("deploy/shop", 3, repo="https://github.example.test/acme/shop.git")
    folder = tmp_path / "etc" / "agent"
    done = run(folder, *told, **TOKENS)
    assert done.returncode == 0, done.stderr
    assert "accepts the token (no event was sent)" in done.stdout
    assert "1 of them deploy by the rules" in done.stdout
    assert "main:lab/other" in done.stdout, "jobs without a rule are listed"
    assert hivel.deployments() == []
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {
        "config.toml": "0o640", "hivel.token": "0o600", "jenkins.token": "0o600",
    }  # fmt: skip
    settings = load(folder / "config.toml")
    assert [rule.job.text for rule in settings.rules] == ["deploy/**", 're:a"b\\.c$']
    assert TOKEN not in done.stdout + done.stderr + (folder / "config.toml").read_text()
    once = subprocess.run(
        [sys.executable, "-m", "agent", "once", "--config", str(folder / "config.toml")],
        capture_output=True, text=True, timeout=240, env=Agent(folder).environment(), check=False,
    )  # fmt: skip
    assert once.returncode == 0, once.stderr


def test_nothing_is_written_when_jenkins_or_hivel_say_no(tmp_path: Path, told: list[str]) -> None:
    done = run(tmp_path / "a", *told, **(TOKENS | {"HIVEL_API_TOKEN": "wrong"}))
    assert done.returncode == 1
    assert "the token is not accepted" in done.stdout
    assert "nothing was written; mend it, or write it with --no-test" in done.stderr
    assert not (tmp_path / "a").exists()
    assert run(tmp_path / "a", *told, "--no-test", **(TOKENS | {"HIVEL_API_TOKEN": "wrong"})).returncode == 0


def test_a_configuration_that_is_there_is_written_over_only_by_force(tmp_path: Path, told: list[str]) -> None:
    (tmp_path / "config.toml").write_text("# mine\n")
    done = run(tmp_path, *told, "--no-test", **TOKENS)
    assert done.returncode == 1
    assert "is there already; --force writes another one" in done.stderr
    assert (tmp_path / "config.toml").read_text() == "# mine\n"
    assert run(tmp_path, *told, "--no-test", "--force", **TOKENS).returncode == 0


@pytest.mark.parametrize(
    ("missing", "complaint"),
    [
        ({"HIVEL_API_TOKEN"}, "--hivel-token-file is missing (or HIVEL_API_TOKEN in the environment)"),
        ({"JENKINS_API_TOKEN"}, "--jenkins-token-file is missing"),
        ({"--jenkins-url"}, "--jenkins-url is missing; without a terminal nobody can be asked"),
    ],
)
def test_without_a_terminal_it_says_what_is_missing(
    tmp_path: Path, told: list[str], missing: set[str], complaint: str
) -> None:
    pairs = list(zip(told[::2], told[1::2], strict=True))
    arguments = [part for pair in pairs if pair[0] not in missing for part in pair]
    done = run(tmp_path / "a", *arguments, **{name: value for name, value in TOKENS.items() if name not in missing})
    assert done.returncode == 1
    assert complaint in done.stderr


def test_a_wrong_answer_names_the_key_without_a_traceback(tmp_path: Path, told: list[str]) -> None:
    told[told.index("--since") + 1] = "sometime"
    done = run(tmp_path / "a", *told, **TOKENS)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: jenkins[0].since: 'sometime'")


def test_on_a_terminal_it_asks_and_hides_the_tokens(
    tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer
) -> None:
    folder = tmp_path / "agent"
    answers = [hivel_server.url, TOKEN, jenkins_server.url, "main", "", TOKEN, "deploy/** shop-*", "7d"]
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "agent", "init", "--folder", str(folder)],
        stdin=follower, stdout=follower, stderr=follower, env=Agent(folder).environment() | {"TERM": "dumb"},
    )  # fmt: skip
    os.close(follower)
    shown = ""
    for answer in answers:
        shown += _read_until_question(leader)
        os.write(leader, answer.encode() + b"\n")
    deadline = time.monotonic() + 30
    while process.poll() is None or select.select([leader], [], [], 0)[0]:
        assert time.monotonic() < deadline
        try:
            shown += os.read(leader, 65536).decode()
        except OSError:
            break
    wait_until(lambda: process.poll() is not None, "it ends")
    os.close(leader)
    assert process.returncode == 0, shown
    assert TOKEN not in shown
    assert [rule.job.text for rule in load(folder / "config.toml").rules] == ["deploy/**", "shop-*"]


def _read_until_question(leader: int) -> str:
    shown = ""
    while not shown.endswith(": "):
        ready, _, _ = select.select([leader], [], [], 30)
        assert ready, shown
        shown += os.read(leader, 65536).decode()
    return shown


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agent", "completion", shell], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0
    assert "_HIVEL_AGENT_COMPLETE" in done.stdout
