"""``explain`` as a person reads it: every word about a build, who said it, which one counts, and why not the others.

The texts are in ``tests/data/explained/``. What they hold of this run alone (when it was read) is left out of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agent.outbox.sqlite.engine import SqliteOutbox
from tests.integration.filled import Filled
from tests.integration.support import NOON, REPO, Agent

if TYPE_CHECKING:
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer
    from tests.integration.support import FakeClock

DATA = Path(__file__).parents[1] / "data"
CHECKOUTS = DATA / "recorded-jenkins" / "2.504.3" / "checkouts"
EXPLAINED = DATA / "explained"
LIBRARY, LIBRARY_COMMIT = "https://git.example.test/acme/jenkins-shared.git", "9cbdcf943e7a6cb23fa7da779db160b8af316c88"
RULES = """
[[deployment]]
job = "store-mb/*"

[[deployment]]
job = "deploy-store"
environment = "{params.ENVIRONMENT}|production"

[[deployment]]
job = "pipeline"
stage = "re:^Deploy (?P<environment>.+)$"
"""
STAGES: list[dict[str, Any]] = [
    {"name": "Build", "state": "success", "startTimeMillis": NOON, "totalDurationMillis": 1_000},
    {"name": "Deploy qa", "state": "failure", "startTimeMillis": NOON + 1_000, "totalDurationMillis": 2_000},
    {"name": "Deploy live", "state": "skipped", "startTimeMillis": NOON + 3_000, "totalDurationMillis": 0},
]
OVERVIEW: dict[str, Any] = {"status": "ok", "data": {"complete": True, "stages": STAGES}}
# The other plugin's words for the same: it cannot tell that the last one was skipped, but its steps can.
WFAPI: dict[str, Any] = {
    "status": "FAILED",
    "stages": [
        {"id": "6", "name": "Build", "status": "SUCCESS", "startTimeMillis": NOON, "durationMillis": 1_000},
        {"id": "9", "name": "Deploy qa", "status": "FAILED", "startTimeMillis": NOON + 1_000, "durationMillis": 20_000},
    ],
}


@pytest.fixture
def agent(jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path) -> Agent:
    return Agent.configured(tmp_path, jenkins=jenkins_server, hivel=hivel_server, extra=RULES)


def recorded(jenkins: LocalJenkins, recording: str, number: int, job: str, parameters: dict[str, str]) -> int:
    """A build of a job of ours with what a real Jenkins recorded of another one; returns its number."""
    builds = json.loads((CHECKOUTS / f"{recording}.json").read_text(encoding="utf-8"))["builds"]
    [was] = [build for build in builds if build["number"] == number]
    given = [{"_class": "hudson.model.StringParameterValue", "name": k, "value": v} for k, v in parameters.items()]
    actions = [*was["actions"], {"_class": "hudson.model.ParametersAction", "parameters": given}]
    made = jenkins.start_build(job)
    jenkins.finish_build(job, made, duration=was["duration"])
    jenkins.update_build(job, made, actions=actions, changeSets=was["changeSets"], timestamp=was["timestamp"])
    return made


def explained(agent: Agent, path: str) -> str:
    """Without what this run alone tells: when the poller read it."""
    done = agent.run("explain", f"http://127.0.0.1:8080/{path}/")
    assert done.returncode == 0, done.stderr
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    return "\n".join(line for line in lines if "enqueued 20" not in line and "poller: final" not in line) + "\n"


def expected(name: str) -> str:
    return (EXPLAINED / f"{name}.txt").read_text(encoding="utf-8")


def test_a_branch_job_whose_library_has_a_branch_of_the_same_name(agent: Agent, jenkins: LocalJenkins) -> None:
    jenkins.add_folder("store-mb", "multibranch")
    jenkins.add_job("store-mb/main")
    recorded(jenkins, "branchjob-main", 3, "store-mb/main", {})
    agent.run("once")
    assert explained(agent, "job/store-mb/job/main/1") == expected("library-on-the-same-branch")


def test_the_same_repository_twice_and_a_tag_that_a_parameter_names(agent: Agent, jenkins: LocalJenkins) -> None:
    jenkins.add_job("deploy-store")
    parameters = {"TAG": "v2.0.0", "ENVIRONMENT": "staging"}
    recorded(jenkins, "app-twice-tag-then-branch", 1, "deploy-store", parameters)
    agent.run("once")
    assert explained(agent, "job/deploy-store/1") == expected("repository-twice-with-a-tag")


def test_a_stage_report_that_found_the_librarys_values_against_the_builds_checkout(
    agent: Agent, jenkins: LocalJenkins, clock: FakeClock
) -> None:
    jenkins.add_folder("store-mb", "multibranch")
    jenkins.add_job("store-mb/main")
    recorded(jenkins, "branchjob-main", 3, "store-mb/main", {})
    at = jenkins.builds("store-mb/main")[0][1]["timestamp"] + 1_000
    with SqliteOutbox(agent.outbox, clock) as outbox:
        stage = {"stage": "Deploy staging", "environment": "staging", "started_at": at - 500}
        found = {"repo_url": LIBRARY, "branch": "main", "commit_hash": LIBRARY_COMMIT}
        Filled(agent, outbox).reported("store-mb/main", at=at, **stage, **found)
    agent.run("once")
    assert explained(agent, "job/store-mb/job/main/1") == expected("stage-report-with-the-librarys-values")


def test_whose_word_about_stages_counts_and_what_came_of_each(agent: Agent, jenkins: LocalJenkins) -> None:
    jenkins.add_job("pipeline")
    jenkins.add_builds("pipeline", 2, repo=REPO)
    jenkins.set_stages("pipeline", 1, overview=OVERVIEW)
    jenkins.set_stages("pipeline", 2, wfapi=WFAPI)
    agent.run("once")
    by_overview, by_wfapi = explained(agent, "job/pipeline/1"), explained(agent, "job/pipeline/2")
    assert (
        '  stages   stage = "re:^Deploy (?P<environment>.+)$"; read from pipeline-graph-view: only this plugin '
        "marks skipped stages reliably; pipeline-rest-api was not asked\n"
        "    Build: success -> no event: the rule does not match it\n"
        "    Deploy qa: failure -> main:pipeline#1:qa\n"
        "    Deploy live: skipped -> no event: it did not run\n"
    ) in by_overview
    assert (
        "    status         failed   (stage Deploy qa: failure (according to pipeline-graph-view) -> failed)\n"
        in by_overview
    )
    assert "; read from pipeline-rest-api: pipeline-graph-view listed none\n" in by_wfapi
    assert "    Deploy qa: FAILED -> main:pipeline#2:qa\n" in by_wfapi


def test_stages_that_nobody_can_read_are_said_to_be_so(agent: Agent, jenkins: LocalJenkins) -> None:
    jenkins.add_job("pipeline")
    jenkins.add_builds("pipeline", 1, repo=REPO)
    agent.run("once")
    assert "; they could not be read: pipeline-overview/tree: " in explained(agent, "job/pipeline/1")


def test_a_report_that_was_overruled_by_a_later_one_or_by_the_poller_is_told(
    agent: Agent, jenkins: LocalJenkins, clock: FakeClock
) -> None:
    jenkins.add_job("deploy-store")
    number = jenkins.start_build("deploy-store", repo=REPO)
    with SqliteOutbox(agent.outbox, clock) as outbox:
        filled = Filled(agent, outbox)
        told = {"environment": "eu", "repo_url": None, "branch": None}
        filled.reported("deploy-store", number, at=NOON + 1, image="store:1", status="SUCCESS", **told)
        filled.reported("deploy-store", number, at=NOON + 2, image="store:2", status="FAILURE", **told)
    clock.advance(s=60)
    jenkins.finish_build("deploy-store", number, result="UNSTABLE")
    agent.run("once")
    text = explained(agent, f"job/deploy-store/{number}")
    assert (
        "    status         failed   (result UNSTABLE -> failed)\n"
        "      counts    Jenkins: result UNSTABLE\n"
        "      left out  emit at 2026-11-23T12:00:00.001Z: SUCCESS   (the result and the times are those of Jenkins)\n"
        "      agrees    emit at 2026-11-23T12:00:00.002Z: FAILURE\n"
    ) in text
    assert (
        "    image          store:2   (the build's own report)\n"
        "      left out  emit at 2026-11-23T12:00:00.001Z: store:1   (a later report has another value)\n"
        "      counts    emit at 2026-11-23T12:00:00.002Z: store:2\n"
    ) in text


def test_a_build_of_which_everything_is_said_once_has_no_more_lines_than_fields(
    agent: Agent, jenkins: LocalJenkins
) -> None:
    jenkins.add_job("deploy-store")
    jenkins.add_builds("deploy-store", 1, repo=REPO)
    agent.run("once")
    text = explained(agent, "job/deploy-store/1")
    assert "left out" not in text and "counts" not in text and "values   " not in text
    assert agent.json("explain", "http://127.0.0.1:8080/job/deploy-store/1/")["words"] == {"main:deploy-store#1": {}}


def test_the_checkout_of_the_build_that_started_it_is_told_as_such(agent: Agent, jenkins: LocalJenkins) -> None:
    """And that another report says something else of it."""
    jenkins.add_job("build-store")
    jenkins.add_job("deploy-store")
    [built] = jenkins.add_builds("build-store", 1, repo=REPO, commit="b" * 40)
    cause = {"_class": "hudson.model.Cause$UpstreamCause", "upstreamProject": "build-store", "upstreamBuild": built}
    jenkins.add_builds("deploy-store", 1, causes=[cause], parameters={"BRANCH": "release"})
    agent.run("once")
    assert (
        "    branch         main   (checkout 1 of 1 of upstream build build-store#1 (origin))\n"
        "      counts    checkout 1 of 1 of upstream build build-store#1: refs/remotes/origin/main\n"
        "      left out  parameter BRANCH: release   (the branch of the checkout takes precedence)\n"
    ) in explained(agent, "job/deploy-store/1")


def test_what_hivel_has_is_told_where_something_else_is_known_by_now(
    agent: Agent, jenkins: LocalJenkins, clock: FakeClock
) -> None:
    jenkins.add_job("deploy-store")
    [number] = jenkins.add_builds("deploy-store", 1, repo=REPO)
    agent.run("once")
    with SqliteOutbox(agent.outbox, clock) as outbox:
        Filled(agent, outbox).reported("deploy-store", number, at=NOON, environment="eu", repo_url=None, branch=None)
    text = explained(agent, f"job/deploy-store/{number}")
    assert "           Hivel has environment production; known now: eu\n" in text
