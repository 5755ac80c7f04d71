"""The files of other-ci/, run with the variables that each CI system documents, against a real intake."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from agent.config.credentials import Token
from agent.config.settings import Address, IntakeSettings
from agent.model.status import Provider
from agent.model.times import Clock, rfc3339
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.sandbox.server import LocalServer
from agent.sources.reports.intake import Intake
from tests.integration.answering import Answer, Answering
from tests.integration.reporting import deployments, reports_of, settings_of
from tests.integration.test_emit_send import emit
from tests.unit.other_ci import FILES, FOLDER, SCRIPT, block_of, with_script

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.sources.reports.accept import Taken

TOKEN = "token-of-a-test.0123456789"
COMMIT = "c0ffee0123456789c0ffee0123456789c0ffee01"
START = rfc3339(Clock().now_ms() - 3_600_000).replace(".000Z", "Z")
WARNING = "The deployment was not reported to Hivel: "
PROVIDERS = {
    "github": Provider.GITHUB_ACTIONS, "gitlab": Provider.GITLAB_CI, "circleci": Provider.CIRCLECI,
    "azure": Provider.AZURE_DEVOPS, "argo": Provider.ARGO_WORKFLOWS,
}  # fmt: skip
# What the CI system sets, and what the file sets for the step (the variables that begin with HIVEL_).
VARIABLES = {
    "github": {
        "GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "acme/shop", "GITHUB_SERVER_URL": "https://github.example.com",
        "GITHUB_RUN_ID": "77", "GITHUB_RUN_NUMBER": "12", "GITHUB_RUN_ATTEMPT": "1", "GITHUB_JOB": "deploy",
        "GITHUB_REF": "refs/heads/main", "GITHUB_REF_NAME": "main", "GITHUB_HEAD_REF": "", "GITHUB_SHA": COMMIT,
        "HIVEL_ENVIRONMENT": "production", "HIVEL_IMAGE": "", "HIVEL_START_TIME": START,
    },
    "gitlab": {
        "GITLAB_CI": "true", "CI_PROJECT_PATH": "acme/shop", "CI_PROJECT_URL": "https://gitlab.example.com/acme/shop",
        "CI_JOB_ID": "77", "CI_JOB_NAME": "deploy", "CI_JOB_URL": "https://gitlab.example.com/acme/shop/-/jobs/77",
        "CI_JOB_STARTED_AT": START, "CI_COMMIT_REF_NAME": "main", "CI_COMMIT_SHA": COMMIT,
        "CI_ENVIRONMENT_NAME": "production",
    },
    "circleci": {
        "CIRCLECI": "true", "CIRCLE_PROJECT_USERNAME": "acme", "CIRCLE_PROJECT_REPONAME": "shop",
        "CIRCLE_PROJECT_ID": "0f1e2d", "CIRCLE_BUILD_NUM": "77", "CIRCLE_JOB": "deploy", "CIRCLE_BRANCH": "main",
        "CIRCLE_SHA1": COMMIT, "CIRCLE_REPOSITORY_URL": "https://github.example.com/acme/shop",
        "CIRCLE_BUILD_URL": "https://circleci.example.com/gh/acme/shop/77",
        "HIVEL_ENVIRONMENT": "production", "HIVEL_IMAGE": "", "HIVEL_START_TIME": START,
    },
    "azure": {
        "TF_BUILD": "True", "SYSTEM_COLLECTIONURI": "https://dev.azure.example.com/acme/",
        "SYSTEM_TEAMPROJECT": "web shop", "BUILD_BUILDID": "77", "BUILD_BUILDNUMBER": "20261126.1",
        "BUILD_DEFINITIONNAME": "deploy", "BUILD_REPOSITORY_URI": "https://acme@dev.azure.example.com/acme/_git/shop",
        "BUILD_SOURCEBRANCH": "refs/heads/main", "BUILD_SOURCEVERSION": COMMIT, "SYSTEM_STAGENAME": "Deploy",
        "SYSTEM_PHASENAME": "__default", "SYSTEM_STAGEATTEMPT": "1", "SYSTEM_JOBATTEMPT": "1",
        "HIVEL_ENVIRONMENT": "production", "HIVEL_IMAGE": "", "HIVEL_START_TIME": START,
    },
    "argo": {
        "ARGO_WORKFLOW_NAME": "deploy-shop-x7k2p", "ARGO_WORKFLOW_UID": "0f1e2d3c", "HIVEL_START_TIME": START,
        "HIVEL_ENVIRONMENT": "production", "HIVEL_REPO_URL": "https://git.example.com/acme/shop",
        "HIVEL_BRANCH": "main", "HIVEL_COMMIT_HASH": COMMIT, "HIVEL_IMAGE": "",
    },
}  # fmt: skip
STATUS = {"github": "HIVEL_STATUS", "gitlab": "CI_JOB_STATUS", "circleci": "HIVEL_STATUS", "azure": "AGENT_JOBSTATUS",
          "argo": "HIVEL_STATUS"}  # fmt: skip
BRANCH = {"github": "GITHUB_HEAD_REF", "gitlab": "CI_COMMIT_REF_NAME", "circleci": "CIRCLE_BRANCH",
          "azure": "SYSTEM_PULLREQUEST_SOURCEBRANCH", "argo": "HIVEL_BRANCH"}  # fmt: skip
WORDS = [
    ("github", "success", "success"), ("github", "failure", "failed"), ("github", "cancelled", "canceled"),
    ("gitlab", "success", "success"), ("gitlab", "failed", "failed"), ("gitlab", "canceled", "canceled"),
    ("circleci", "success", "success"), ("circleci", "failed", "failed"),
    ("azure", "Succeeded", "success"), ("azure", "SucceededWithIssues", "unknown"), ("azure", "Failed", "failed"),
    ("azure", "Canceled", "canceled"),
    ("argo", "Succeeded", "success"), ("argo", "Failed", "failed"), ("argo", "Error", "failed"),
]  # fmt: skip
# The words of these systems that emit takes from a flag.
SUCCESS = {"github": "success", "gitlab": "success", "circleci": "success", "azure": "Succeeded", "argo": "Succeeded"}
HOSTILE = [
    "x$(touch${IFS}hacked);`touch${IFS}hacked`",
    "a\"b'c\\d with blanks",
    "'; touch hacked; '",
    '","status":"success","x":"',
    "größe-日本語",
    "%s%n-@/etc/passwd&|<>",
    "$HIVEL_TOKEN",
    "a\tb\x01c",
]
# More variables that change what is reported: a retry, a pull request, a tag, names to be quoted.
VARIANTS = [
    ("github", {"GITHUB_REF": "refs/pull/7/merge", "GITHUB_HEAD_REF": "feature/x", "GITHUB_RUN_ATTEMPT": "2"}),
    ("github", {"GITHUB_REF": "refs/tags/v1.4", "GITHUB_REF_NAME": "v1.4"}),
    ("github", {"HIVEL_IMAGE": "registry.example.com/shop:1.4"}),
    ("gitlab", {"CI_MERGE_REQUEST_IID": "7", "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "feature/x"}),
    ("gitlab", {"CI_EXTERNAL_PULL_REQUEST_IID": "8", "CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_NAME": "feature/y"}),
    ("circleci", {"CIRCLE_BRANCH": "pull/7", "CIRCLE_PULL_REQUEST": "https://github.example.com/acme/shop/pull/7",
                  "CIRCLE_TAG": "v1.4"}),
    ("circleci", {"CIRCLE_PROJECT_USERNAME": ""}),
    ("azure", {"SYSTEM_STAGEATTEMPT": "2", "SYSTEM_PHASENAME": "Job"}),
    ("azure", {"SYSTEM_JOBATTEMPT": "3", "SYSTEM_STAGENAME": "__default", "SYSTEM_TEAMPROJECT": "größe & mehr"}),
    ("azure", {"BUILD_SOURCEBRANCH": "refs/pull/7/merge", "SYSTEM_PULLREQUEST_SOURCEBRANCH": "refs/heads/feature/x"}),
    ("azure", {"HIVEL_ENVIRONMENT": "", "ENVIRONMENT_NAME": "production"}),
]  # fmt: skip


def run(ci: str, folder: Path, url: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the block of the file as the CI system does: with its shell and options."""
    script = folder / "script"
    block = block_of((FOLDER / FILES[ci]).read_text(encoding="utf-8"))
    # Fewer tries with shorter pauses.
    assert "--retry 3 --retry-delay 2" in block
    script.write_text(block.replace("--retry 3 --retry-delay 2", "--retry 1 --retry-delay 1"), encoding="utf-8")
    shells = {
        "github": ["bash", "--noprofile", "--norc", "-eo", "pipefail"],
        "gitlab": ["sh", "-e"],
        "circleci": ["bash", "-eo", "pipefail"],
        "azure": ["bash", "--noprofile", "--norc"],
        "argo": ["sh"],
    }
    environment = {
        **VARIABLES[ci], "PATH": os.environ["PATH"], "HIVEL_AGENT_SEND_URL": url, "HIVEL_TOKEN": TOKEN, **variables
    }  # fmt: skip
    return subprocess.run(
        [*shells[ci], str(script)], cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[SqliteOutbox]:
    with SqliteOutbox(tmp_path / "outbox.db", Clock()) as outbox:
        yield outbox


@pytest.fixture
def intake(stored: SqliteOutbox) -> Iterator[str]:
    reports = reports_of(settings_of(stored.path), stored)

    async def accept(report: dict[str, object], team: str) -> Taken:
        return reports.take(report, source="intake", at=stored.clock.now_ms(), principal=team)

    app = Intake(IntakeSettings(Address("127.0.0.1", 0), (("", Token(TOKEN)),)), accept, lambda _: []).app
    with LocalServer(app) as server:
        yield server.url


@pytest.fixture(autouse=True)
def programs() -> None:
    lacking = [name for name in ("bash", "curl", "awk") if not shutil.which(name)]
    if lacking and os.environ.get("CI"):
        pytest.fail(f"not installed: {lacking}")
    if lacking:
        pytest.skip(f"not installed: {lacking}")


# ---- what is reported


@pytest.mark.parametrize(("ci", "word", "status"), WORDS)
def test_a_deployment_becomes_an_event(
    tmp_path: Path, stored: SqliteOutbox, intake: str, ci: str, word: str, status: str
) -> None:
    done = run(ci, tmp_path, intake, **{STATUS[ci]: word})
    assert (done.returncode, done.stderr) == (0, "")
    ((name, deployment),) = deployments(stored).items()
    assert done.stdout.startswith(f'The deployment is reported to Hivel: {{"deployment_id":"{name}"')
    content = deployment.content
    assert (content.status, content.environment, content.branch, content.commit_hash) == (
        status, "production", "main", COMMIT
    )  # fmt: skip
    assert rfc3339(content.started_at).replace(".000Z", "Z") == START


def by_emit(ci: str, variables: dict[str, str]) -> Any:
    """The report of ``emit`` in the same job, which gets as flags what the file passes in variables of its own."""
    flags = {"HIVEL_STATUS": "status", "HIVEL_ENVIRONMENT": "environment", "HIVEL_IMAGE": "image",
             "HIVEL_START_TIME": "start-time", "HIVEL_REPO_URL": "repo-url", "HIVEL_BRANCH": "branch",
             "HIVEL_COMMIT_HASH": "commit-hash"}  # fmt: skip
    given = [part for name, flag in flags.items() if variables.get(name) for part in (f"--{flag}", variables[name])]
    report = json.loads(emit("--dry-run", *given, **variables).stdout)["report"]
    report.pop("given", None)  # what a person gave matters only beside a build of Jenkins
    return report


@pytest.mark.parametrize(("ci", "more"), [*((ci, {}) for ci in FILES), *VARIANTS])
def test_the_report_is_the_one_of_emit(tmp_path: Path, ci: str, more: dict[str, str]) -> None:
    variables = {STATUS[ci]: SUCCESS[ci], **more}
    answer = Answer(202, '{"deployment_id":"x","state":"pending"}')
    with Answering([answer]) as server:
        run(ci, tmp_path, server.url, **variables)
    [request] = server.requests
    sent = json.loads(request.body)
    assert (request.path, request.headers["authorization"]) == ("/v1/events", f"Bearer {TOKEN}")
    # The intake removes credentials from the address of a repository.
    if "repo_url" in sent:
        sent["repo_url"] = re.sub(r"//[^/@]*@", "//", sent["repo_url"])
    assert sent == by_emit(ci, {**VARIABLES[ci], **variables})
    assert sent["provider"] == PROVIDERS[ci].value


@pytest.mark.parametrize("ci", FILES)
@pytest.mark.parametrize("branch", HOSTILE)
def test_no_branch_name_breaks_the_report_or_runs_anything(
    tmp_path: Path, stored: SqliteOutbox, intake: str, ci: str, branch: str
) -> None:
    done = run(ci, tmp_path, intake, **{STATUS[ci]: SUCCESS[ci], BRANCH[ci]: branch})
    assert (done.returncode, done.stderr) == (0, "")
    (deployment,) = deployments(stored).values()
    assert deployment.content.branch == branch
    assert not (tmp_path / "hacked").exists()


def test_a_job_of_circleci_that_failed_before_its_deployment_reports_nothing(tmp_path: Path) -> None:
    with Answering([Answer(202)]) as server:
        done = run("circleci", tmp_path, server.url, HIVEL_STATUS="failed", HIVEL_START_TIME="")
    assert (done.returncode, done.stdout, server.requests) == (
        0, "The deployment did not start: nothing is reported.\n", [],
    )  # fmt: skip


def test_another_system_is_not_guessed(tmp_path: Path) -> None:
    with Answering([Answer(202)]) as server:
        done = run("gitlab", tmp_path, server.url, GITLAB_CI="")
    assert (done.stdout, server.requests) == (f"WARNING: {WARNING}this CI system is not recognised\n", [])


# ---- what goes wrong


def warning_of(ci: str) -> str:
    """How this system marks a warning in a log."""
    return {"github": "::warning::", "azure": "##vso[task.logissue type=warning]"}.get(ci, "WARNING: ") + WARNING


@pytest.mark.parametrize("ci", FILES)
def test_a_dead_intake_is_a_warning(tmp_path: Path, ci: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        script = FOLDER / FILES[ci]
        assert "--retry-max-time 15" in script.read_text()
        done = run(ci, tmp_path, url, **{STATUS[ci]: SUCCESS[ci]})
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert done.stdout.startswith(warning_of(ci))
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.parametrize("ci", FILES)
def test_a_wrong_token_is_a_warning_with_the_words_of_the_intake(
    tmp_path: Path, stored: SqliteOutbox, intake: str, ci: str
) -> None:
    done = run(ci, tmp_path, intake, HIVEL_TOKEN="another", **{STATUS[ci]: SUCCESS[ci]})
    assert done.returncode == 0
    assert done.stdout.startswith(f'{warning_of(ci)}{{"error":"a token is required')
    assert "HTTP 401" in done.stdout
    assert not deployments(stored)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"HIVEL_TOKEN": ""}, "HIVEL_TOKEN is not set"),
        ({"HIVEL_TOKEN": "$(HIVEL_TOKEN)"}, "HIVEL_TOKEN is not set"),  # a variable that Azure DevOps does not have
        ({"HIVEL_AGENT_SEND_URL": ""}, "HIVEL_AGENT_SEND_URL is not an https address"),
        ({"HIVEL_AGENT_SEND_URL": "http://agent.example.test"}, "HIVEL_AGENT_SEND_URL is not an https address"),
        ({"HIVEL_AGENT_SEND_URL": "http://127.0.0.1.example.test"}, "HIVEL_AGENT_SEND_URL is not an https address"),
    ],
)
def test_without_a_token_or_without_encryption_nothing_is_sent(
    tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    script = tmp_path / "report.sh"
    script.write_text(SCRIPT)
    environment = {**VARIABLES["gitlab"], "PATH": os.environ["PATH"], "HIVEL_TOKEN": TOKEN,
                   "HIVEL_AGENT_SEND_URL": "http://127.0.0.1:9", **variables}  # fmt: skip
    done = subprocess.run(["sh", "-eu", str(script)], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"WARNING: {WARNING}{said}\n", "")


@pytest.mark.parametrize("address", ["{}/", "{}/v1/events", "{}/v1/events/"])
def test_an_address_may_end_with_the_path_of_the_intake_and_a_token_with_a_line_end(
    tmp_path: Path, address: str
) -> None:
    with Answering([Answer(202)]) as server:
        run("argo", tmp_path, address.format(server.url), HIVEL_STATUS="Succeeded", HIVEL_TOKEN=f"{TOKEN}\r\n")
    [request] = server.requests
    assert (request.path, request.headers["authorization"]) == ("/v1/events", f"Bearer {TOKEN}")


def test_an_answer_cannot_give_commands_to_the_ci_system(tmp_path: Path) -> None:
    answer = Answer(400, "no\r\n::set-env name=PATH::/tmp\n##vso[task.setvariable variable=x]y\n")
    with Answering([answer]) as server:
        for ci in ("github", "azure"):
            done = run(ci, tmp_path, server.url, **{STATUS[ci]: SUCCESS[ci]})
            [line] = done.stdout.splitlines()
            assert line.startswith(warning_of(ci))
            assert "##vso" not in line.removeprefix(warning_of(ci))


@pytest.mark.parametrize("ci", FILES)
def test_an_intake_that_is_away_for_a_moment_is_asked_again(tmp_path: Path, ci: str) -> None:
    with Answering([Answer(503), Answer(202)]) as server:
        done = run(ci, tmp_path, server.url, **{STATUS[ci]: SUCCESS[ci]})
    assert (done.returncode, WARNING in done.stdout) == (0, False)
    first, second = server.requests
    assert first.body == second.body


# ---- the files


@pytest.mark.parametrize("ci", FILES)
def test_every_file_has_the_script_as_it_is(ci: str) -> None:
    """To write it into them: python -m tests.unit.other_ci"""
    text = (FOLDER / FILES[ci]).read_text(encoding="utf-8")
    assert with_script(text) == text
    assert block_of(text).endswith(SCRIPT)


@pytest.mark.parametrize("ci", FILES)
def test_no_system_replaces_anything_in_the_script(ci: str) -> None:
    """Expressions of GitHub, parameters of CircleCI and Argo, inputs of GitLab: all values come from variables."""
    block = block_of((FOLDER / FILES[ci]).read_text(encoding="utf-8"))
    assert not re.search(r"\$\{\{|\{\{|<<|\$\[", block)
    assert not re.search(r"\$\([A-Za-z_.]+\)", block)  # a macro of Azure DevOps


def test_the_files_pass_each_value_in_a_variable_that_the_tests_set() -> None:
    for ci in ("github", "circleci", "azure", "argo"):
        text = (FOLDER / FILES[ci]).read_text(encoding="utf-8")
        outside = text.replace(block_of(text), "")
        passed = set(re.findall(r"(?:^ +|name: )((?:HIVEL|ARGO)_[A-Z_]+)(?::|$)", outside, re.MULTILINE))
        assert passed <= {*VARIABLES[ci], STATUS[ci], "HIVEL_TOKEN", "HIVEL_AGENT_SEND_URL"}, ci
        assert passed >= {"HIVEL_ENVIRONMENT", "HIVEL_IMAGE"}, ci


@pytest.mark.parametrize(
    ("ci", "variable", "expected"),
    [
        ("github", "GITHUB_ENV", r"HIVEL_START_TIME=(\S+)\n"),
        ("circleci", "BASH_ENV", r"export HIVEL_START_TIME=(\S+)\n"),
        ("azure", "", r"##vso\[task\.setvariable variable=HIVEL_START_TIME\](\S+)\n"),
    ],
)
def test_the_start_is_noted_by_a_step_before_the_deployment(
    tmp_path: Path, ci: str, variable: str, expected: str
) -> None:
    """These systems have no variable for it."""
    text = (FOLDER / FILES[ci]).read_text(encoding="utf-8")
    [command] = re.findall(r"(?:run|command|bash): (echo .*HIVEL_START_TIME.*)", text)
    noted = tmp_path / "noted"
    noted.touch()
    environment = {"PATH": os.environ["PATH"], **({variable: str(noted)} if variable else {})}
    # CircleCI's BASH_ENV is read by each later step.
    done = subprocess.run(["bash", "-eo", "pipefail", "-c", command], env=environment, capture_output=True, text=True,
                          check=True)  # fmt: skip
    found = re.fullmatch(expected, noted.read_text() if variable else done.stdout)
    assert found is not None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found[1])


def test_the_workflow_reports_also_failures_and_never_fails_itself() -> None:
    text = (FOLDER / "github" / "workflow.yml").read_text(encoding="utf-8")
    assert all(key in text for key in ("if: ${{ always() }}", "continue-on-error: true", "timeout-minutes: 1"))
    azure = (FOLDER / FILES["azure"]).read_text(encoding="utf-8")
    assert all(key in azure for key in ("always()", "continueOnError: true", "timeoutInMinutes: 1"))
