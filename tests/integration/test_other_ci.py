"""The scripts of other-ci/, run with the variables that the CI sets, against a real intake."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.config.credentials import Token
from agent.config.settings import Address, IntakeSettings
from agent.deployments.systems.ci import fields
from agent.sandbox.server import LocalServer
from agent.sources.reports import accept as accepting
from agent.sources.reports.intake import Intake
from tests.integration.reporting import deployments, reports_of, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.outbox.sqlite.engine import SqliteOutbox
    from agent.sources.reports.accept import Taken

FOLDER = Path(__file__).parents[2] / "other-ci"
FILES = {"github": "github-actions.yml", "gitlab": "gitlab-ci.yml"}
TOKEN = "token-of-a-test.0123456789"
COMMIT = "c0ffee0123456789c0ffee0123456789c0ffee01"
WARNING = "deployment was not reported to Hivel"
VARIABLES = {
    "github": {
        "GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "acme/shop", "GITHUB_SERVER_URL": "https://github.example.com",
        "GITHUB_RUN_ID": "77", "GITHUB_RUN_NUMBER": "12", "GITHUB_RUN_ATTEMPT": "1", "GITHUB_JOB": "deploy",
        "GITHUB_REF": "refs/heads/main", "GITHUB_REF_NAME": "main", "GITHUB_HEAD_REF": "", "GITHUB_SHA": COMMIT,
        "ENVIRONMENT": "production", "IMAGE": "", "HIVEL_START": "2026-11-26T10:00:00Z",
    },
    "gitlab": {
        "GITLAB_CI": "true", "CI_PROJECT_PATH": "acme/shop", "CI_PROJECT_URL": "https://gitlab.example.com/acme/shop",
        "CI_JOB_ID": "77", "CI_JOB_NAME": "deploy", "CI_JOB_URL": "https://gitlab.example.com/acme/shop/-/jobs/77",
        "CI_JOB_STARTED_AT": "2026-11-26T10:00:00Z", "CI_COMMIT_REF_NAME": "main", "CI_COMMIT_SHA": COMMIT,
        "CI_ENVIRONMENT_NAME": "production",
    },
}  # fmt: skip
STATUS = {"github": "STATUS", "gitlab": "CI_JOB_STATUS"}
BRANCH = {"github": "GITHUB_REF_NAME", "gitlab": "CI_COMMIT_REF_NAME"}
WORDS = [
    ("github", "success", "success"), ("github", "failure", "failed"), ("github", "cancelled", "canceled"),
    ("gitlab", "success", "success"), ("gitlab", "failed", "failed"), ("gitlab", "canceled", "canceled"),
]  # fmt: skip
HOSTILE = [
    "x$(touch${IFS}hacked);`touch${IFS}hacked`",
    "a\"b'c\\d",
    "'; touch hacked; '",
    '","status":"success","x":"',
    "größe-日本語",
    "%s%n-@/etc/passwd",
    "$HIVEL_AGENT_TOKEN",
]


def text_of(ci: str) -> str:
    return (FOLDER / FILES[ci]).read_text(encoding="utf-8")


def script_of(ci: str) -> str:
    """The block of the YAML file that sends the report: the last one that begins with `|`."""
    lines = text_of(ci).splitlines()
    start = max(n for n, line in enumerate(lines) if re.fullmatch(r"\s*(- |run: )\|", line))
    margin = len(lines[start]) - len(lines[start].lstrip())
    block = []
    for line in lines[start + 1 :]:
        if line.strip() and len(line) - len(line.lstrip()) <= margin:
            break
        block.append(line)
    # The pauses between the tries are shorter here.
    return textwrap.dedent("\n".join(block) + "\n").replace("--retry-delay 2", "--retry-delay 1")


def run(ci: str, folder: Path, url: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script as the CI does: GitHub `bash -eo pipefail`, GitLab's runner a shell of the image with `-e`."""
    script = folder / "script"
    script.write_text(script_of(ci), encoding="utf-8")
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail"] if ci == "github" else ["sh", "-e"]
    environment = {
        **VARIABLES[ci], "PATH": os.environ["PATH"], "HIVEL_AGENT_URL": url, "HIVEL_AGENT_TOKEN": TOKEN, **variables
    }  # fmt: skip
    return subprocess.run(
        [*shell, str(script)], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def intake(outbox: SqliteOutbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(accepting, "refuse_far_times", lambda *_: None)  # the outbox's clock is not the machine's
    reports = reports_of(settings_of(outbox.path), outbox)

    async def accept(report: dict[str, object], team: str) -> Taken:
        return reports.take(report, source="intake", at=outbox.clock.now_ms(), principal=team)

    app = Intake(IntakeSettings(Address("127.0.0.1", 0), (("", Token(TOKEN)),)), accept, lambda _: []).app
    with LocalServer(app) as server:
        yield server.url


@pytest.fixture(autouse=True)
def programs() -> None:
    lacking = [name for name in ("bash", "curl", "jq", "awk") if not shutil.which(name)]
    if lacking and os.environ.get("CI"):
        pytest.fail(f"not installed: {lacking}")
    if lacking:
        pytest.skip(f"not installed: {lacking}")


@pytest.mark.parametrize(("ci", "word", "status"), WORDS)
def test_a_deployment_becomes_an_event(
    tmp_path: Path, outbox: SqliteOutbox, intake: str, ci: str, word: str, status: str
) -> None:
    done = run(ci, tmp_path, intake, **{STATUS[ci]: word})
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    provider = "github_actions" if ci == "github" else "gitlab_ci"
    ((name, deployment),) = deployments(outbox).items()
    assert name == fields(provider, VARIABLES[ci])["run"] + ":production"  # as `hivel-agent emit` names it
    content = deployment.content
    assert (content.status, content.environment, content.branch, content.commit_hash) == (
        status, "production", "main", COMMIT
    )  # fmt: skip
    assert content.repo_url == fields(provider, VARIABLES[ci])["repo_url"]


@pytest.mark.parametrize("ci", FILES)
@pytest.mark.parametrize("branch", HOSTILE)
def test_no_branch_name_breaks_the_report_or_runs_anything(
    tmp_path: Path, outbox: SqliteOutbox, intake: str, ci: str, branch: str
) -> None:
    done = run(ci, tmp_path, intake, **{STATUS[ci]: "success", BRANCH[ci]: branch})
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    (deployment,) = deployments(outbox).values()
    assert deployment.content.branch == branch
    assert [path.name for path in tmp_path.iterdir() if path.name in {"hacked", "script"}] == ["script"]


def test_a_pull_request_of_github_has_its_own_branch_and_number(
    tmp_path: Path, outbox: SqliteOutbox, intake: str
) -> None:
    ref = {"GITHUB_REF": "refs/pull/7/merge", "GITHUB_REF_NAME": "7/merge", "GITHUB_HEAD_REF": "feature/x"}
    run("github", tmp_path, intake, STATUS="success", GITHUB_RUN_ATTEMPT="2", **ref)
    ((name, deployment),) = deployments(outbox).items()
    assert (deployment.content.branch, deployment.content.pr_number) == ("feature/x", "7")
    assert name == "github_actions:acme/shop#77/deploy.2:production"


@pytest.mark.parametrize("ci", FILES)
def test_a_dead_intake_is_a_warning(tmp_path: Path, ci: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        done = run(ci, tmp_path, f"http://127.0.0.1:{taken.getsockname()[1]}", **{STATUS[ci]: "success"})
    assert done.returncode == 0
    assert WARNING in done.stdout
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.parametrize("ci", FILES)
def test_a_wrong_token_is_a_warning(tmp_path: Path, outbox: SqliteOutbox, intake: str, ci: str) -> None:
    done = run(ci, tmp_path, intake, HIVEL_AGENT_TOKEN="another", **{STATUS[ci]: "success"})
    assert done.returncode == 0
    assert "HTTP 401" in done.stdout
    assert not deployments(outbox)


@pytest.mark.parametrize("ci", FILES)
def test_an_intake_that_is_away_for_a_moment_is_asked_again(tmp_path: Path, ci: str) -> None:
    answers = [503, 202]
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(answers[len(bodies) - 1])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        done = run(ci, tmp_path, f"http://127.0.0.1:{server.server_address[1]}", **{STATUS[ci]: "success"})
        server.shutdown()
        thread.join()
    assert (done.returncode, WARNING in done.stdout) == (0, False)
    assert len(bodies) == 2
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize("ci", FILES)
def test_the_scripts_have_limits_and_take_no_value_but_from_the_environment(ci: str) -> None:
    script = script_of(ci)
    assert "${{" not in script
    assert all(option in script for option in ("--connect-timeout", "--max-time", "--retry-max-time"))
    if ci == "github":
        text = text_of(ci)
        assert all(key in text for key in ("always()", "continue-on-error: true", "timeout-minutes: 1"))
