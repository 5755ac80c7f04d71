"""``hivel-agent emit`` as builds meet it: a process that stores a report and never stands in a build's way."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ingest.replay import replay
from agent.main import direct
from agent.model.report import FIELDS, ReportError, checked
from agent.model.times import Clock, rfc3339
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.sources.reports import emit as verb
from agent.sources.reports.fields import refuse_hopeless
from agent.sources.reports.inbox import take_inbox
from tests.engines import on_both_engines
from tests.integration.doors import Doors
from tests.integration.reporting import ingest_of, reports_of, rows, settings_of
from tests.integration.support import REPO, FakeClock, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer
    from agent.sources.reports.accept import Reports
    from tests.engines import Engine

PROGRAM = [sys.executable, "-c", "from agent.main import main; main()", "emit"]
ONE = ["--job", "deploy/shop", "--build-number", "7", "--status", "SUCCESS"]
NOBODY = 65534
# Times far from the machine's clock are refused.
AN_HOUR_AGO = rfc3339(Clock().now_ms() - 3_600_000)
# Somebody else may not be able to run the tests' Python: everything is loaded before.
AS_NOBODY = [
    sys.executable, "-c",
    "import os, json, locale, shutil, sqlite3, tomllib, agent.sources.reports.emit, agent.outbox.sqlite.inbox; "
    f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY}); from agent.main import main; main()", "emit",
]  # fmt: skip

JENKINS = {
    "JENKINS_URL": "https://jenkins.example.test/", "JENKINS_HOME": "/var/jenkins_home", "CI": "true",
    "BUILD_URL": "https://jenkins.example.test/job/deploy/job/shop/12/", "BUILD_TAG": "jenkins-deploy-shop-12",
    "BUILD_ID": "12", "BUILD_NUMBER": "12", "BUILD_DISPLAY_NAME": "#12", "JOB_NAME": "deploy/shop",
    "JOB_BASE_NAME": "shop", "JOB_URL": "https://jenkins.example.test/job/deploy/job/shop/",
    "NODE_NAME": "agent-3", "EXECUTOR_NUMBER": "1", "WORKSPACE": "/home/jenkins/workspace/deploy/shop",
    "GIT_URL": "https://user:secret@git.example.test/acme/shop.git", "GIT_BRANCH": "origin/main",
    "GIT_COMMIT": "0f1e2d3c4b5a69788796a5b4c3d2e1f001234567", "ENVIRONMENT": "production",
}  # fmt: skip
SYSTEMS = {
    "github_actions": {
        "CI": "true", "GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "acme/shop", "GITHUB_RUN_ID": "9",
        "GITHUB_RUN_ATTEMPT": "1", "GITHUB_SERVER_URL": "https://github.example.test", "GITHUB_JOB": "deploy",
        "GITHUB_REF": "refs/heads/main", "GITHUB_SHA": "a" * 40, "GITHUB_RUN_NUMBER": "3", "DEPLOY_ENV": "production",
    },
    "gitlab_ci": {
        "CI": "true", "GITLAB_CI": "true", "CI_PROJECT_PATH": "acme/shop", "CI_JOB_ID": "9", "CI_JOB_NAME": "deploy",
        "CI_PROJECT_URL": "https://gitlab.example.test/acme/shop", "CI_COMMIT_REF_NAME": "main",
        "CI_COMMIT_SHA": "a" * 40, "CI_ENVIRONMENT_NAME": "production", "CI_JOB_STATUS": "success",
        "CI_JOB_STARTED_AT": AN_HOUR_AGO,
    },
    "circleci": {
        "CI": "true", "CIRCLECI": "true", "CIRCLE_BUILD_NUM": "9", "CIRCLE_PROJECT_USERNAME": "acme",
        "CIRCLE_PROJECT_REPONAME": "shop", "CIRCLE_BRANCH": "main", "CIRCLE_SHA1": "a" * 40, "CIRCLE_JOB": "deploy",
        "CIRCLE_REPOSITORY_URL": "https://git.example.test/acme/shop", "ENVIRONMENT": "production",
    },
    "azure_devops": {
        "TF_BUILD": "True", "SYSTEM_COLLECTIONURI": "https://dev.example.test/acme/", "SYSTEM_TEAMPROJECT": "shop",
        "BUILD_BUILDID": "9", "BUILD_SOURCEBRANCH": "refs/heads/main", "BUILD_SOURCEVERSION": "a" * 40,
        "BUILD_REPOSITORY_URI": "https://git.example.test/acme/shop", "AGENT_JOBSTATUS": "Succeeded",
        "ENVIRONMENT_NAME": "production", "BUILD_BUILDNUMBER": "20261123.1",
    },
    "argo_workflows": {
        "ARGO_WORKFLOW_NAME": "deploy-x7", "ARGO_WORKFLOW_UID": "0f1e", "ENVIRONMENT": "production",
    },
}  # fmt: skip
# What the systems do not tell and a build has to say.
SAID = {"argo_workflows": ["--repo-url", "https://git.example.test/acme/shop", "--branch", "main"]}


class Build:
    """A build on a node with the agent's configuration: its environment, and what it gets from ``emit``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.toml"
        self.outbox = folder / "outbox.db"
        self.spool = folder / "spool"
        self.config.write_text('[outbox]\npath = "outbox.db"\n[hook]\nspool = "spool"\n')
        SqliteOutbox(self.outbox, Clock()).close()

    def environment(self, **variables: str) -> dict[str, str]:
        """Little of the test's own, so that nobody's CI is recognised."""
        mine = ("PATH", "PYTHONPATH", "LANG", "COVERAGE", "COV_")
        kept = {name: value for name, value in os.environ.items() if name.startswith(mine)}
        return kept | {"PYTHONPATH": str(Path(__file__).parents[2])} | variables

    def emit(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run it with the configuration; ``variables`` is the environment of the build."""
        variables = {"HIVEL_AGENT_CONFIG": str(self.config), **options.pop("variables", {})}
        options = {"capture_output": True, "text": True, "timeout": 60, **options}
        command = [*options.pop("program", PROGRAM), *arguments]
        return subprocess.run(command, env=self.environment(**variables), check=False, **options)

    def stored(self) -> list[dict[str, Any]]:
        """The reports in the outbox."""
        with sqlite3.connect(self.outbox) as connection:
            found = connection.execute("SELECT body FROM reports ORDER BY id").fetchall()
        connection.close()
        return [json.loads(body) for (body,) in found]

    def spooled(self) -> list[dict[str, Any]]:
        """The reports in the spool folder; there is nothing else in it."""
        return [json.loads(path.read_bytes()) for path in sorted(self.spool.iterdir())]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return Build(tmp_path)


# ---- what is reported


def test_a_build_of_jenkins_says_nothing_but_its_result(build: Build) -> None:
    done = build.emit("--status", "SUCCESS", variables=JENKINS)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"hivel-agent emit: stored in {build.outbox}\n", "")
    assert build.stored() == [
        {
            "provider": "jenkins", "job": "deploy/shop", "build_number": "12", "status": "SUCCESS",
            "build_url": "https://jenkins.example.test/job/deploy/job/shop/12/",
            "repo_url": "https://git.example.test/acme/shop.git", "branch": "main",
            "commit_hash": "0f1e2d3c4b5a69788796a5b4c3d2e1f001234567", "environment": "production",
        }
    ]  # fmt: skip


def test_options_go_before_the_environment(build: Build) -> None:
    build.emit(
        "--environment", "staging", "--branch=release/1", "--commit-hash", "abc", "--repo-url", "https://x.test/y",
        "--job", "other", "--build-number", "8", "--build-url", "https://j.test/job/other/8/", "--image", "i:1",
        "--pr-numbers", "7, 9 11", "--stage", "Deploy", "--start-time", AN_HOUR_AGO, variables=JENKINS,
    )  # fmt: skip
    assert build.stored() == [
        {
            "provider": "jenkins", "job": "other", "build_number": "8", "build_url": "https://j.test/job/other/8/",
            "repo_url": "https://x.test/y", "branch": "release/1", "commit_hash": "abc", "environment": "staging",
            "stage": "Deploy", "start_time": AN_HOUR_AGO, "image": "i:1", "pr_numbers": [7, 9, 11],
            "given": ["repo_url", "branch", "commit_hash"],
        }
    ]  # fmt: skip


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_other_system_is_recognised_and_its_report_becomes_an_event(build: Build, system: str) -> None:
    done = build.emit("--status", "success", *SAID.get(system, []), variables=SYSTEMS[system])
    assert (done.returncode, done.stderr) == (0, "")
    [report] = build.stored()
    assert (report["provider"], report["environment"]) == (system, "production")
    from agent.config.settings import JenkinsSettings

    controller = JenkinsSettings("main", "https://jenkins.example.test/", None, None, 15_000, "now", 5_000)
    with SqliteOutbox(build.outbox, Clock()) as outbox:
        [taken] = take_inbox(reports_of(settings_of(build.outbox, controller), outbox))
    assert (taken.state.value, taken.deployment_id.split(":")[0]) == ("pending", system)


def test_the_resource_of_argo_cd_comes_on_standard_input_or_from_a_file(build: Build) -> None:
    resource = {
        "kind": "Application", "metadata": {"name": "shop", "uid": "u-1"},
        "spec": {
            "source": {"repoURL": "https://git.example.test/acme/shop", "targetRevision": "main"},
            "destination": {"namespace": "production"},
        },
        "status": {
            "sync": {"revision": "b" * 40}, "health": {"status": "Healthy"},
            "operationState": {"phase": "Succeeded", "startedAt": AN_HOUR_AGO,
                               "finishedAt": AN_HOUR_AGO},
        },
    }  # fmt: skip
    text = json.dumps(resource)
    (build.folder / "app.json").write_text(text)
    assert build.emit("--system", "argocd", "--resource", "-", input=text).returncode == 0
    assert build.emit("--system", "argocd", "--resource", str(build.folder / "app.json")).returncode == 0
    first, second = build.stored()
    assert first == second
    assert (first["environment"], first["commit_hash"]) == ("production", "b" * 40)


def test_a_build_of_jenkins_can_be_reported_from_anywhere(build: Build) -> None:
    assert build.emit(*ONE).returncode == 0
    assert build.stored()[0]["provider"] == "jenkins"
    assert build.emit("--job", "x", *WHOLE).returncode == 0
    assert build.stored()[1]["provider"] == "other"


@pytest.mark.parametrize(
    "value",
    ["'; rm -rf / #", '"$(id)`id`\\', "ä€😀\u202e", "-", "--strict", "a\nb\tc", " spaces ", "%s%n{0}", "x" * 1_000],
)
def test_hostile_values_are_stored_as_they_are(build: Build, value: str) -> None:
    done = build.emit(f"--branch={value}", f"--environment={value}", variables={**JENKINS, "GIT_COMMIT": value})
    assert (done.returncode, done.stderr) == (0, "")
    [report] = build.stored()
    assert {report["branch"], report["environment"], report["commit_hash"]} == {value.strip()}


def test_bytes_that_are_no_text_do_not_keep_the_rest_from_being_reported(build: Build) -> None:
    latin = "caf\udce9"
    done = build.emit("--environment", latin, variables={**JENKINS, "GIT_BRANCH": latin, "LC_ALL": "C"})
    assert (done.returncode, done.stderr) == (0, "")
    [report] = build.stored()
    assert (report["environment"], "branch" in report) == ("caf?", False)


def test_a_variable_that_nothing_can_be_made_of_is_left_out_and_said(build: Build) -> None:
    """Who says it is told that it is wrong; who only has such a variable reports all the rest."""
    odd = {**JENKINS, "GIT_URL": "https://[git]/acme/shop", "GIT_COMMIT": "c" * 1_001, "CHANGE_ID": "1" * 11}
    done = build.emit("--status", "SUCCESS", variables=odd)
    assert (done.returncode, done.stdout) == (0, f"hivel-agent emit: stored in {build.outbox}\n")
    assert [line.partition("ignored: ")[2][:12] for line in done.stderr.splitlines()] == [
        "repo_url: 'h", "commit_hash:", "pr_number: 1",
    ]  # fmt: skip
    [report] = build.stored()
    assert (report["job"], report["environment"]) == ("deploy/shop", "production")
    assert not {"repo_url", "commit_hash", "pr_number"} & report.keys()


def test_credentials_in_an_address_are_not_stored(build: Build) -> None:
    build.emit(*ONE, "--repo-url", "https://user:secret@git.example.test/a", "--logs-url", "https://u:secret@l.test/")
    assert [build.stored()[0][name] for name in ("repo_url", "logs_url")] == [
        "https://git.example.test/a", "https://l.test/",
    ]  # fmt: skip
    assert not any(b"secret" in path.read_bytes() for path in build.folder.glob("outbox.db*"))


# ---- it never stands in a build's way


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--enviroment", "production"], "unrecognized arguments: --enviroment production"),
        (["--env", "production"], "unrecognized arguments: --env production"),
        (["--status"], "argument --status: expected one argument"),
        (["--system", "cvs"], "argument --system: invalid choice: 'cvs'"),
        (["--timeout", "soon"], "argument --timeout: 'soon' is not a number of seconds up to 3600"),
        (["--timeout", "nan"], "argument --timeout"),
        (["--timeout", "0"], "argument --timeout"),
        (["production"], "unrecognized arguments: production"),
        (["--pr-numbers", "seven"], "--pr-numbers: 'seven' is not a list of numbers"),
        (["--pr-numbers", "-1"], "pr_numbers: a list of whole numbers above 0"),
        (["--resource", "/nowhere.json"], "No such file or directory: '/nowhere.json'"),
        (["--resource", "/dev/null"], "the JSON of a resource can be read for argocd and argo_workflows only"),
        (["--system", "argocd", "--resource", "/dev/null"], "this is not the JSON of one Application: it is empty"),
        (["--config", "/nowhere.toml"], "cannot read /nowhere.toml: No such file or directory"),
        (["--image", "x" * 70_000], "image: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'… has 70000 characters"),
        (["--branch", "x" * 1_001], "branch: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'… has 1001 characters"),
        (["--build-url", "https://[your-jenkins]/job/a/"], "build_url: 'https://[your-jenkins]/job/a/' is not a URL"),
        (
            ["--status", "sucess", "--provider", "jenkins"],
            "--status: 'sucess' is not a status of jenkins; use one of success, failure, ",
        ),
        (["--provider", "cvs", "--run", "1"], "--provider: 'cvs' is not a known provider; use one of jenkins, "),
        (["--start-time", "soon"], "start_time: 'soon' is not a time; write it like 2026-01-31T18:00:00Z"),
        (
            ["--start-time", "7" * 60_000],
            "start_time: '7777777777777777777777777777777777777777'… has 60000 characters",
        ),
        (
            ["--end-time", "2100-01-01"],
            "end_time: 2100-01-01T00:00:00.000Z is more than a day ahead of the agent's clock",
        ),
        (["--start-time", "2001-01-01"], "start_time: 2001-01-01T00:00:00.000Z is more than 400 days before"),
        (["--build-number", "-1"], "build_number: '-1' is not a build number"),
        (["--build-number", "12345678901"], "build_number: '12345678901' is not a build number"),
        (["--build-number", "7" * 60_000], "build_number: '7777777777777777777777777777777777777777'… has 60000"),
        (["--pr-number", "12345678901"], "pr_number: 12345678901 has 11 digits; the maximum is 10"),
        (["--pr-numbers", "7" * 60_000], "is not a list of numbers"),
        (["--job", "deploy/../shop"], "job: 'deploy/../shop' is not the full name of a job"),
        (["--provider", "gitlab_ci", "--run", "9"], "invalid report: no repo_url, no environment, no branch"),
        (
            ["--provider", "other", "--run", "9", "--repo-url", REPO, "--branch", "main"],
            "invalid report: no environment",
        ),
        (
            ["--provider", "other", "--run", "9", "--repo-url", REPO, "--branch", "HEAD", "--environment", "x" * 256],
            "invalid report: no branch",
        ),
        (
            ["--provider", "other", "--run", "9", "--repo-url", REPO, "--branch", "b", "--environment", "x" * 256],
            "invalid report: environment is 256 characters long, more than 255",
        ),
        (["--repo-url", "https://[your-git]/acme/shop"], "repo_url: 'https://[your-git]/acme/shop' is not a URL"),
    ],
)
@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
def test_wrong_options_are_a_warning_and_0_and_with_strict_1(
    build: Build, arguments: list[str], complaint: str, strict: bool
) -> None:
    done = build.emit(*ONE, *arguments, *(["--strict"] if strict else []))
    assert (done.returncode, done.stdout) == (int(strict), "")
    [line] = done.stderr.splitlines()
    assert line.startswith("hivel-agent emit: warning: not reported: ")
    assert complaint in line
    assert build.stored() == []


WHOLE = ["--run", "7", "--environment", "production", "--repo-url", REPO, "--branch", "main"]
_TEXTS = st.sampled_from(
    ["", "7", "-1", "0", "soon", "1795435200000", "12345678901", "2026-13-45", "production", "success", "SUCCESS",
     "main", "HEAD", REPO, "https://[your-jenkins]/job/a/2/", "https://j.test/job/a/2/", "..", "a/../b", "x" * 256,
     "jenkins", "gitlab_ci", "other", "cvs", "\u0663"]
)  # fmt: skip
_REPORTS = st.dictionaries(st.sampled_from(sorted({*FIELDS} - {"pr_numbers", "given", "event_type"})), _TEXTS)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reports]:
    path = tmp_path_factory.mktemp("intake") / "outbox.db"
    with SqliteOutbox(path, FakeClock()) as outbox:
        yield reports_of(settings_of(path), outbox)


@given(report=_REPORTS)
def test_emit_refuses_nothing_that_the_intake_takes_and_the_intake_nothing_that_emit_takes(
    reports: Reports, report: dict[str, object]
) -> None:
    """But for reports with an id, of which the outbox may know the rest."""
    report = {"provider": "other", **report}

    def refused(refuse: Callable[[dict[str, object]], object]) -> str | None:
        try:
            refuse(checked(report))
        except ReportError as error:
            return str(error)
        return None

    now = FakeClock().now_ms()
    by_emit = refused(lambda each: refuse_hopeless(each, now))
    by_intake = refused(lambda each: reports.take(each, source="intake", at=now))
    assert by_emit == by_intake or ("deployment_id" in checked(report) and by_emit is None)


def test_a_report_that_says_too_little_of_another_system_is_not_stored(build: Build) -> None:
    done = build.emit("--run", "7", "--status", "success")
    assert (done.returncode, done.stdout, build.stored()) == (0, "", [])
    assert done.stderr == (
        "hivel-agent emit: warning: not reported: invalid report: no repo_url, no environment, no branch\n"
    )


def test_a_time_that_was_only_found_and_is_none_is_left_out_and_said(build: Build) -> None:
    done = build.emit(variables=SYSTEMS["gitlab_ci"] | {"CI_JOB_STARTED_AT": "soon"})
    assert "warning: ignored: start_time: 'soon' is not a time" in done.stderr
    assert "start_time" not in build.stored()[0]


def test_a_dry_run_shows_the_report_and_stores_nothing(build: Build) -> None:
    done = build.emit("--dry-run", "--status", "SUCCESS", variables=JENKINS)
    shown = json.loads(done.stdout)
    assert (done.returncode, done.stderr, build.stored()) == (0, "", [])
    assert build.emit("--status", "SUCCESS", variables=JENKINS).returncode == 0
    assert shown == {"accepted": True, "reason": None, "report": build.stored()[0]}


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
def test_a_dry_run_says_why_a_report_would_not_be_stored(build: Build, strict: bool) -> None:
    done = build.emit("--dry-run", "--run", "7", "--branch", "main", *(["--strict"] if strict else []))
    assert (done.returncode, build.stored()) == (int(strict), [])
    assert json.loads(done.stdout) == {
        "accepted": False,
        "reason": "invalid report: no repo_url, no environment",
        "report": {"provider": "other", "run": "7", "branch": "main", "given": ["branch"]},
    }


def test_a_dry_run_shows_no_credentials(build: Build) -> None:
    for repository in ("https://user:secret@git.example.test/a", "https://user:secret@[your-git]/a"):
        done = build.emit(*ONE, "--dry-run", "--repo-url", repository)
        assert json.loads(done.stdout)["accepted"] == ("[" not in repository)
        assert "secret" not in done.stdout + done.stderr


def test_what_few_reports_need_is_not_loaded_for_the_others() -> None:
    """Each of these takes as long to load as all of emit."""
    heavy = ("email", "http", "ssl", "urllib", "msgspec", "datetime", "tomllib", "typing", "dataclasses", "pathlib")
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from agent.main import direct\n"
        "from agent.sources.reports.emit import main\n"
        "try:\n"
        "    main(sys.argv[1:], direct)\n"
        "finally:\n"
        f"    print([name for name in {heavy!r} if name in sys.modules])\n"
    )
    arguments = [*ONE, "--build-url", "https://j.test/job/deploy/job/shop/7/", "--dry-run"]
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_any_word_may_come_of_a_system_that_has_no_table(build: Build) -> None:
    build.emit(*WHOLE, "--status", "sucess")
    assert [(report["provider"], report["status"]) for report in build.stored()] == [("other", "sucess")]


def test_a_word_that_was_only_found_and_nobody_knows_is_left_out_and_said(build: Build) -> None:
    done = build.emit(variables=SYSTEMS["gitlab_ci"] | {"CI_JOB_STATUS": "brand_new"})
    assert done.returncode == 0
    assert "warning: ignored: status: 'brand_new' is not a status of gitlab_ci; use one of " in done.stderr
    assert "status" not in build.stored()[0]


def test_what_an_older_emit_stored_with_a_word_that_nobody_knows_goes_out_as_unknown_and_is_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with SqliteOutbox(tmp_path / "outbox.db", Clock()) as outbox:
        report = {"provider": "gitlab_ci", "run": "7", "status": "sucess", "environment": "eu", "repo_url": REPO}
        outbox.add_report(json.dumps(report | {"branch": "main"}))
        [taken] = take_inbox(reports_of(settings_of(tmp_path / "outbox.db"), outbox))
        found = outbox.find(taken.deployment_id)
    assert found is not None
    assert (taken.state, found.content.status, found.content.environment) == ("pending", "unknown", "eu")
    assert "'sucess' is not a status of gitlab_ci; use one of " in "".join(capsys.readouterr())


def test_a_report_that_says_not_which_build_it_is_is_not_stored(build: Build) -> None:
    for arguments in ([], ["--job", "x"], ["--build-number", "7"], ["--system", "gitlab_ci", "--job", "x"]):
        done = build.emit(*arguments)
        assert (done.returncode, build.stored()) == (0, [])
        assert "no build is identified: pass --job and --build-number, --run, or --dep" in done.stderr


def test_help_is_a_manual_and_needs_nothing(build: Build) -> None:
    done = subprocess.run([*PROGRAM, "--help"], env=build.environment(), capture_output=True, text=True, check=True)
    for words in ("exit codes:", "examples:", "files and variables:", "--environment NAME", "$HIVEL_AGENT_CONFIG"):
        assert words in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 120


@pytest.mark.parametrize("broken", [">&-", "2>&-", ">/dev/full", ">&- 2>&-", ">/dev/full 2>/dev/full", "<&-"])
def test_nobody_has_to_listen(build: Build, broken: str) -> None:
    """Python would end with 120 where it cannot write what it said."""
    command = " ".join(f"'{part}'" for part in [*PROGRAM, *ONE])
    environment = build.environment(HIVEL_AGENT_CONFIG=str(build.config))
    for arguments, stored in (("", 1), ("--enviroment x", 1)):
        done = subprocess.run(["sh", "-c", f"{command} {arguments} {broken}"], env=environment, check=False)
        assert (done.returncode, len(build.stored())) == (0, stored)


@pytest.mark.parametrize("content", ["[outbox\npath = 1", "outbox = 7", "[outbox]\npath = 7", 'path = "\xff"'])
def test_a_wrong_configuration_is_a_warning(build: Build, content: str) -> None:
    build.config.write_bytes(content.encode("latin-1"))
    done = build.emit(*ONE)
    assert (done.returncode, done.stdout) == (0, "")
    if content != "outbox = 7":  # which says neither a path nor a spool
        assert f"not reported: {build.config} is not a valid configuration" in done.stderr


def test_a_configuration_that_is_not_there_means_the_usual_places_and_is_named(build: Build) -> None:
    missing = str(build.folder / "missing.toml")
    done = build.emit(*ONE, variables={"HIVEL_AGENT_CONFIG": missing})
    assert done.returncode == 0
    if not Path("/var/lib/hivel-agent").exists():
        assert "/var/lib/hivel-agent/outbox.db does not exist, or this user cannot write to it" in done.stderr
        assert f"({missing} cannot be read: No such file or directory)" in done.stderr


# ---- where it is stored


def test_without_an_outbox_it_goes_into_the_spool_folder(build: Build) -> None:
    build.outbox.unlink()
    build.spool.mkdir()
    done = build.emit(*ONE, umask=0o077)
    assert (done.returncode, done.stdout.startswith(f"hivel-agent emit: stored in {build.spool}/")) == (0, True)
    assert [report["job"] for report in build.spooled()] == ["deploy/shop"]
    assert not build.outbox.exists(), "it would belong to whoever ran the build"
    [path] = build.spool.iterdir()
    assert path.stat().st_mode & 0o777 == 0o644, "the agent is another user"


def test_with_neither_outbox_nor_spool_it_is_a_warning_and_with_strict_1(build: Build) -> None:
    build.outbox.unlink()
    done = build.emit(*ONE)
    assert done.returncode == 0
    assert done.stderr == (
        f"hivel-agent emit: warning: not reported: {build.outbox} does not exist, or this user cannot write to it; "
        f"the spool folder {build.spool} does not exist either\n"
    )
    assert build.emit(*ONE, "--strict").returncode == 1


@pytest.mark.parametrize("content", [b"", b"no database at all, but long enough to look at" * 100])
def test_what_is_no_outbox_sends_it_to_the_spool_folder(build: Build, content: bytes) -> None:
    for beside in build.folder.glob("outbox.db*"):
        beside.unlink()
    build.outbox.write_bytes(content)
    done = build.emit(*ONE)
    assert (done.returncode, "not reported" in done.stderr) == (0, True)
    build.spool.mkdir()
    assert build.emit(*ONE).returncode == 0
    assert len(build.spooled()) == 1
    assert build.outbox.read_bytes() == content


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o1777, 0o1733], ids=["usual", "nobody may look into it"])
def test_a_user_who_may_not_write_the_outbox_uses_the_spool_folder(mode: int) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as name:
        build = Build(Path(name))
        build.folder.chmod(0o755)
        build.spool.mkdir()
        build.spool.chmod(mode)
        done = build.emit(*ONE, program=AS_NOBODY, umask=0o077)
        assert (done.returncode, done.stderr) == (0, "")
        assert build.stored() == []
        assert len(build.spooled()) == 1
        [path] = build.spool.iterdir()
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (NOBODY, 0o644)
        build.spool.chmod(0o755)
        refused = build.emit(*ONE, program=AS_NOBODY)
        assert (refused.returncode, "Permission denied" in refused.stderr) == (0, True)
        assert len(build.spooled()) == 1


def test_a_full_disk_leaves_nothing_half_in_the_spool_folder(build: Build) -> None:
    build.outbox.unlink()
    build.spool.mkdir()
    limited = f"ulimit -f 0; exec {' '.join(repr(part) for part in [*PROGRAM, *ONE])}"
    environment = build.environment(HIVEL_AGENT_CONFIG=str(build.config))
    done = subprocess.run(["sh", "-c", limited], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "File too large" in done.stderr) == (0, True)
    assert build.spooled() == []


# ---- beside others, and bounded in time


@pytest.fixture
def writer(build: Build) -> Iterator[sqlite3.Connection]:
    """Somebody else with the outbox open."""
    connection = sqlite3.connect(build.outbox, isolation_level=None, check_same_thread=False)
    yield connection
    connection.close()


def test_a_locked_outbox_is_waited_for_a_bounded_time_and_then_the_spool_is_used(
    build: Build, writer: sqlite3.Connection
) -> None:
    writer.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    done = build.emit(*ONE, "--timeout", "1")
    assert (done.returncode, "database is locked" in done.stderr) == (0, True)
    assert time.monotonic() - began < 10
    build.spool.mkdir()
    assert build.emit(*ONE, "--timeout", "1").returncode == 0
    assert len(build.spooled()) == 1


@pytest.mark.parametrize("how", ["writing", "opening or closing"])
def test_an_outbox_that_is_locked_for_a_moment_gets_the_report(
    build: Build, writer: sqlite3.Connection, how: str
) -> None:
    """Who opens it first or closes it last keeps even readers out for a moment."""
    if how == "writing":
        writer.execute("BEGIN IMMEDIATE")
    else:
        writer.execute("PRAGMA locking_mode = EXCLUSIVE")
        writer.execute("BEGIN EXCLUSIVE")
    threading.Timer(0.7, writer.close).start()
    done = build.emit(*ONE)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(build.stored()) == 1


def test_a_standard_input_that_never_ends_is_given_up(build: Build) -> None:
    read, write = os.pipe()
    try:
        began = time.monotonic()
        done = build.emit(*ONE, "--resource", "-", "--timeout", "0.5", stdin=read)
        assert time.monotonic() - began < 10
    finally:
        os.close(read)
        os.close(write)
    assert (done.returncode, "it took longer than 0.5 s" in done.stderr) == (0, True)


# ---- with the daemon


@pytest.fixture
def doors(jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path) -> Doors:
    jenkins.add_job("deploy/shop")
    return Doors.opened(tmp_path, jenkins=jenkins_server, hivel=hivel_server)


def emit(doors: Doors, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments, "--config", str(doors.config)],
        env=doors.environment() | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


STAGE = [
    "--job", "deploy/shop", "--stage", "Deploy", "--environment", "eu", "--status", "SUCCESS", "--repo-url", REPO,
    "--branch", "main", "--build-number",
]  # fmt: skip


@on_both_engines
def test_what_was_stored_while_the_daemon_was_down_and_killed_is_delivered_when_it_starts(
    doors: Doors, hivel: LocalHivel, engine: Engine
) -> None:
    doors.store_in(engine.url)
    process = doors.begin()
    assert emit(doors, *STAGE, "1").returncode == 0
    process.kill()
    process.wait()
    done = emit(doors, *STAGE, "2")
    assert (done.returncode, done.stdout) == (0, f"hivel-agent emit: stored in {doors.outbox}\n")
    engine.let_claims_run_out()
    process = doors.begin()
    wait_until(lambda: len(hivel.deployments()) == 2, "both are at Hivel")
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    assert sorted(d.event.deployment_id for d in hivel.deployments()) == [f"main:deploy/shop#{n}:eu" for n in (1, 2)]


@on_both_engines
def test_it_is_on_the_disk_when_the_command_ends(doors: Doors, hivel: LocalHivel, engine: Engine) -> None:
    """Whatever is killed right after: here the daemon that had the file open, each time."""
    doors.store_in(engine.url)
    for number in range(1, 6):
        process = doors.begin()
        assert emit(doors, *STAGE, str(number)).returncode == 0
        process.kill()
        process.wait()
    engine.let_claims_run_out()
    process = doors.begin()
    try:
        wait_until(lambda: len(hivel.deployments()) == 5, "all are at Hivel")
    finally:
        process.kill()
        process.wait()


def test_the_spool_folder_is_emptied_by_the_daemon(doors: Doors, hivel: LocalHivel) -> None:
    assert emit(doors, *STAGE, "1").returncode == 0  # there is no outbox yet
    assert [path.suffix for path in doors.spool.iterdir()] == [".json"]
    process = doors.begin()
    try:
        wait_until(lambda: len(hivel.deployments()) == 1, "it is at Hivel")
        wait_until(lambda: list(doors.spool.iterdir()) == [], "the folder is empty")
    finally:
        process.kill()
        process.wait()


def test_ten_at_once_beside_a_busy_daemon_are_all_stored_in_time(
    doors: Doors, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    jenkins.add_builds("deploy/shop", 300, repo=REPO)
    process = doors.begin()
    try:
        began = time.monotonic()
        emits = [
            subprocess.Popen(
                [*PROGRAM, *STAGE, str(number), "--config", str(doors.config), "--strict"],
                env=doors.environment() | {"PYTHONPATH": str(Path(__file__).parents[2])},
            )
            for number in range(1001, 1011)
        ]
        assert [each.wait(60) for each in emits] == [0] * 10
        print(f"ten at once: {time.monotonic() - began:.2f} s")  # noqa: T201
        assert list(doors.spool.iterdir()) == []
        wait_until(lambda: len(hivel.deployments()) == 310, "everything is at Hivel", 240)
    finally:
        process.kill()
        process.wait()


def test_a_full_outbox_takes_nothing_and_the_spool_folder_does(build: Build) -> None:
    """[outbox] max_size: what does not fit waits beside it."""
    build.spool.mkdir()
    config = build.folder / "full.toml"
    config.write_text(f'[outbox]\npath = "{build.outbox}"\nmax_size = "1KB"\n[hook]\nspool = "{build.spool}"\n')
    done = build.emit("--config", str(config), "--strict", "--status", "SUCCESS", variables=JENKINS)
    assert done.returncode == 0, done.stderr
    assert build.stored() == []
    assert len(list(build.spool.glob("*.json"))) == 1


# ---- replay


def test_replay_says_why_a_stored_report_can_never_become_an_event(tmp_path: Path) -> None:
    """As `emit` of an older version stored it."""
    settings = settings_of(tmp_path / "outbox.db")
    with SqliteOutbox(settings.outbox, FakeClock()) as outbox:
        outbox.add_report(json.dumps({"provider": "other", "run": "7", "status": "success"}))
        outbox.add_report("{")
        take_inbox(reports_of(settings, outbox))
        outcomes = replay(ingest_of(settings, outbox), rows(outbox), "ada")
    assert [(outcome.done, (outcome.reason or "")[:40]) for outcome in outcomes] == [
        (False, "the report is not JSON: Expecting proper"),
        (False, "invalid report: no repo_url, no environm"),
    ]


def test_replay_does_not_take_the_id_of_another_deployment_for_a_number(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "outbox.db")
    whole = {"environment": "production", "repo_url": REPO, "branch": "main"}
    with SqliteOutbox(settings.outbox, FakeClock()) as outbox:
        outbox.add_report(json.dumps({"provider": "other", "run": "7", "status": "success"}))
        take_inbox(reports_of(settings, outbox))
        outbox.add_report(json.dumps({"deployment_id": "1", "status": "success"} | whole))
        take_inbox(reports_of(settings, outbox))
        failed = [row for row in rows(outbox) if row.number == 1]
        [outcome] = replay(ingest_of(settings, outbox), failed, "ada")
    assert outcome.reason is not None
    assert outcome.reason.startswith("invalid report: no repo_url, no environment, no branch")


@pytest.mark.parametrize("arguments", [["--dry-run"], ["--dry-run", "--status", "SUCCESS"], ["--status", "nonsense"]])
def test_no_alarm_is_left_when_it_ends(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        verb.main([*arguments, "--config", str(tmp_path / "none.toml")], direct)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
