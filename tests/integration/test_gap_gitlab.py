"""GitLab: jobs and pipelines that are deployments by rule. The answers of the API are made, from its documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agent.config.rules import Pattern
from agent.config.settings import WebhookRule
from agent.model.times import rfc3339
from agent.sandbox.hivel.answers import json_answer
from agent.sandbox.platforms.gitlab import job, pipeline
from agent.sources.webhooks.gaps.values import Cursor
from agent.sources.webhooks.platforms.gitlab import read
from agent.sources.webhooks.values import Ended
from tests.integration.platforms import world
from tests.integration.support import NOON

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from starlette.responses import Response

    from tests.integration.platforms import World

HOUR = 3_600_000
SINCE_MORNING = Cursor(begun=NOON - 6 * HOUR, at=NOON - 6 * HOUR)
JOBS = WebhookRule(Pattern.parse("acme/*"), Pattern.parse("deploy*"), "production")
PIPELINES = WebhookRule(Pattern.parse("acme/*"), Pattern.parse("Deploy"), "staging")


@pytest.fixture
def gitlab() -> Iterator[World]:
    with world("gitlab", rules=(JOBS, PIPELINES)) as found:
        yield found


def reports(gitlab: World) -> list[Mapping[str, str]]:
    steps = gitlab.read(SINCE_MORNING, "pipelines")
    found = [read(delivery, gitlab.hook) for step in steps for delivery in step.deliveries]
    return [each.report for each in found if isinstance(each, Ended)]


def test_a_job_and_a_pipeline_with_rules_are_found_as_their_hooks_would_report_them(gitlab: World) -> None:
    one = gitlab.platform.deploy(outcome="failed", branch="release/1", created_at=NOON - HOUR, started_at=NOON - 60_000)
    page = "https://gitlab.example.test/acme/shop"
    common = {
        "provider": "gitlab_ci", "status": "failed", "repo_url": page, "branch": "release/1",
        "commit_hash": one.commit, "start_time": rfc3339(one.started_at), "end_time": rfc3339(NOON),
    }  # fmt: skip
    assert reports(gitlab) == [
        common
        | {"run": f"gitlab_ci:acme/shop#{one.job_number}", "job": "deploy", "build_number": str(one.job_number)}
        | {"environment": "production", "logs_url": f"{page}/-/jobs/{one.job_number}"},
        common
        | {"run": f"gitlab_ci:acme/shop#pipeline-{one.run}", "job": "Deploy", "build_number": str(one.number)}
        | {"environment": "staging", "logs_url": f"{page}/-/pipelines/{one.run}"},
    ]


def test_an_outage_with_many_pipelines_is_read_completely(gitlab: World) -> None:
    expected = [gitlab.platform.deploy(ended_at=NOON - HOUR - i).job_number for i in range(120)]
    found = [each for each in reports(gitlab) if each["environment"] == "production"]
    assert sorted(int(each["build_number"]) for each in found) == sorted(expected)


def test_a_job_is_found_while_its_pipeline_goes_on(gitlab: World) -> None:
    one = gitlab.platform.deploy(ended_at=None, started_at=NOON - HOUR)
    ended = job(one) | {"status": "success", "finished_at": rfc3339(NOON - 60_000)}
    gitlab.platform.hook = lambda path, _: json_answer([ended]) if path.endswith("/jobs") else None
    [report] = reports(gitlab)
    assert report["run"] == f"gitlab_ci:acme/shop#{one.job_number}"


def test_the_branch_of_a_pipeline_for_a_merge_request_is_that_of_the_merge_request(gitlab: World) -> None:
    one = gitlab.platform.deploy(job="test")
    of_request = pipeline(one) | {"ref": "refs/merge-requests/12/head"}

    def answer(path: str, _: Mapping[str, str]) -> Response | None:
        pages: dict[str, Any] = {
            "/pipelines": [of_request],
            f"/pipelines/{one.run}": of_request,
            "/merge_requests/12": {"iid": 12, "source_branch": "feature/x"},
        }
        found = next((value for end, value in pages.items() if path.endswith(end)), None)
        return None if found is None else json_answer(found)

    gitlab.platform.hook = answer
    [report] = reports(gitlab)
    assert (report["branch"], report["pr_number"]) == ("feature/x", "12")


def test_pipelines_are_read_only_where_a_rule_is_about_the_project() -> None:
    with world("gitlab") as without, pytest.raises(StopIteration):
        without.subject("pipelines")


def test_a_pipeline_whose_jobs_were_deleted_does_not_stop_the_others(gitlab: World) -> None:
    gone, there = gitlab.platform.deploy(ended_at=NOON - HOUR), gitlab.platform.deploy()
    gitlab.platform.hook = lambda path, _: json_answer({}, 404) if f"/{gone.run}/jobs" in path else None
    assert {each["commit_hash"] for each in reports(gitlab)} == {there.commit}
    assert [step.problem for step in gitlab.steps if step.problem] != []
