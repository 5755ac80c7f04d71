"""Azure DevOps: what its API knows about stages, runs and releases.

The answers of the API and the webhooks are made, from the documentation of both. Nothing of it was recorded.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from agent.config.rules import Pattern
from agent.config.settings import WebhookRule
from agent.model.part import Part
from agent.model.times import Clock
from agent.sandbox.hivel.answers import json_answer
from agent.sandbox.platforms.azure import build, stage, webhooks
from agent.sources.webhooks.gaps import azure as gaps
from agent.sources.webhooks.gaps.api import Reply
from agent.sources.webhooks.gaps.completion import Completion
from agent.sources.webhooks.gaps.errors import ApiError
from agent.sources.webhooks.gaps.values import Cursor
from agent.sources.webhooks.platforms.azure import read
from agent.sources.webhooks.values import Delivery, Ended, Ignored
from tests import webhooks as deliveries
from tests.integration.hooked import Hooked
from tests.integration.platforms import world
from tests.integration.support import NOON, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from starlette.responses import Response

    from agent.config.settings import WebhookSettings
    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.platforms import Deployed
    from agent.sandbox.server import LocalServer
    from agent.sources.webhooks.gaps.values import Step
    from agent.sources.webhooks.values import Meaning
    from tests.integration.platforms import World

HOUR = 3_600_000
SINCE_MORNING = Cursor(begun=NOON - 6 * HOUR, at=NOON - 6 * HOUR)
RULE = WebhookRule(Pattern.parse("acme/*"), Pattern.parse("deploy*"), "production")
RELEASES = WebhookRule(
    Pattern.parse("acme/*"), Pattern.parse("prod*"), "production", "https://azure.example.test/acme/shop/_git/shop"
)


@pytest.fixture
def azure() -> Iterator[World]:
    with world("azure_devops", rules=(RULE, RELEASES)) as found:
        yield found


def meanings(azure: World, steps: list[Step]) -> list[Meaning]:
    return [read(delivery, azure.hook) for step in steps for delivery in step.deliveries]


def reports(azure: World, steps: list[Step]) -> list[Mapping[str, str]]:
    return [each.report for each in meanings(azure, steps) if isinstance(each, Ended)]


def of_webhook(one: Deployed, hook: WebhookSettings) -> tuple[Delivery, Meaning]:
    """The webhook of the end."""
    body = Part(webhooks(one)[-1].body, "")
    delivery = Delivery(body.text("eventType"), "", body, NOON)
    return delivery, read(delivery, hook)


# ---- gap repair


def test_a_stage_that_ended_is_found_while_its_run_goes_on(azure: World) -> None:
    """Its run can wait for an approval of the next stage for days."""
    one = azure.platform.deploy(ended_at=None, started_at=NOON - 2 * HOUR, job="deploy-eu")
    ended = stage(replace(one, ended_at=NOON - HOUR))
    waiting = stage(replace(one, job="deploy-us")) | {"startTime": None}

    def answer(path: str, _: Mapping[str, str]) -> Response | None:
        return json_answer({"records": [ended, waiting]}) if path.endswith("/timeline") else None

    azure.platform.hook = answer
    [report] = reports(azure, azure.read(SINCE_MORNING))
    assert (report["run"], report["branch"], report["commit_hash"]) == (
        f"azure_devops:acme/shop#{one.run}/deploy-eu", "main", one.commit,
    )  # fmt: skip


def test_a_stage_that_did_not_run_is_no_deployment(azure: World) -> None:
    one = azure.platform.deploy()
    skipped = stage(one) | {"result": "skipped", "startTime": None, "finishTime": None}
    azure.platform.hook = lambda path, _: json_answer({"records": [skipped]}) if "/timeline" in path else None
    assert reports(azure, azure.read(SINCE_MORNING)) == []


def test_a_run_is_found_by_a_rule_for_its_pipeline(azure: World) -> None:
    one = azure.platform.deploy(job="test")
    steps = azure.read(SINCE_MORNING, rules=(replace(RULE, name=Pattern.parse("shop-ci")),))
    [report] = [read(step.deliveries[0], replace(azure.hook, rules=(replace(RULE, name=Pattern.parse("shop-ci")),)))
                for step in steps if step.deliveries and step.deliveries[0].event == "build.complete"]  # fmt: skip
    assert isinstance(report, Ended)
    assert report.report["run"] == f"azure_devops:acme/shop#{one.run}"


@pytest.mark.parametrize("outcome", ["success", "failed", "canceled"])
def test_a_deployment_of_a_classic_release_is_the_one_of_its_webhook(azure: World, outcome: Any) -> None:
    one = azure.platform.deploy(by_job=False, outcome=outcome, attempt=2)
    azure.platform.deploy(by_job=False, ended_at=None)
    [report] = reports(azure, azure.read(SINCE_MORNING, "releases"))
    _, meaning = of_webhook(one, azure.hook)
    assert isinstance(meaning, Ended)
    said = {name: value for name, value in meaning.report.items() if name != "status"}
    assert {name: value for name, value in report.items() if name != "status"} == said
    assert report["run"] == f"azure_devops:acme/shop#release-{one.run}/production.2"
    assert (report["status"], meaning.report["status"]) == {
        "success": ("succeeded", "succeeded"), "failed": ("failed", "rejected"), "canceled": ("canceled", "canceled"),
    }[outcome]  # fmt: skip


def test_many_releases_are_read_over_several_pages(azure: World) -> None:
    expected = {azure.platform.deploy(by_job=False, ended_at=NOON - HOUR - i).run for i in range(120)}
    found = reports(azure, azure.read(SINCE_MORNING, "releases"))
    assert {int(each["run"].partition("release-")[2].partition("/")[0]) for each in found} == expected


def test_the_cloud_has_another_server_for_releases() -> None:
    asked = []

    class Api:
        """Remembers where it was asked."""

        def __init__(self, url: str) -> None:
            self.url = url
            with world("azure_devops") as one:
                self.hook = one.hook

        async def get(self, path: str, query: Mapping[str, Any], *, base: str | None = None) -> Reply:
            asked.append((base or self.url) + path)
            return Reply(Part({"value": []}, ""), {})

    async def look(url: str) -> None:
        assert [step async for step in gaps.releases(Api(url), "acme/shop", SINCE_MORNING)] == []  # type: ignore[arg-type]

    asyncio.run(look("https://dev.azure.com"))
    asyncio.run(look("https://tfs.example.test/tfs"))
    assert asked == [
        "https://vsrm.dev.azure.com/acme/shop/_apis/release/deployments",
        "https://tfs.example.test/tfs/acme/shop/_apis/release/deployments",
    ]


@pytest.mark.parametrize("projects", [None, (Pattern.parse("acme/*"),), (Pattern.parse("acme/other"),)])
def test_a_project_whose_webhooks_have_other_ids_is_not_asked_for(azure: World, projects: Any) -> None:
    azure.platform.deploy()
    for stream in ("runs", "releases"):
        with pytest.raises(ApiError, match=r'set projects = \["acme/shop"\]'):
            azure.read(SINCE_MORNING, stream, projects=projects)


def test_a_repository_on_github_has_no_address_in_the_api(azure: World) -> None:
    one = azure.platform.deploy()
    on_github = build(one) | {"repository": {"id": "acme/shop", "type": "GitHub"}}
    azure.platform.hook = lambda path, _: json_answer({"value": [on_github]}) if path.endswith("/builds") else None
    assert {each["repo_url"] for each in reports(azure, azure.read(SINCE_MORNING))} == {"https://github.com/acme/shop"}


# ---- what the webhook of a stage lacks


def completed(azure: World, *ended: Deployed, hook: WebhookSettings | None = None) -> list[Meaning]:
    hook = hook or azure.hook

    async def run() -> list[Any]:
        async with Completion([hook], azure.clock) as completion:
            return [await completion.completed(hook, *of_webhook(each, hook)) for each in ended]

    return asyncio.run(run())


def test_the_webhook_of_a_stage_is_completed_from_its_build(azure: World) -> None:
    one = azure.platform.deploy(branch="release/1")
    _, alone = of_webhook(one, azure.hook)
    assert isinstance(alone, Ignored)
    assert alone.lacks
    first, again = completed(azure, one, one)
    assert isinstance(first, Ended)
    assert (first.report["repo_url"], first.report["branch"], first.report["commit_hash"]) == (
        "https://azure.example.test/acme/shop/_git/shop", "release/1", one.commit,
    )  # fmt: skip
    assert first.start == f"azure_devops:acme/shop#{one.run}/deploy"
    assert again == first
    assert len(azure.platform.requests) == 1


def test_the_daemon_completes_what_arrives(
    azure: World, jenkins_server: LocalServer, hivel_server: LocalServer, hivel: LocalHivel, tmp_path: Path
) -> None:
    azure.platform.secret = deliveries.SECRET
    hook = (
        '[webhooks]\nlisten = "127.0.0.1:0"\n'
        '[[webhook]]\nname = "azure"\nplatform = "azure_devops"\nsecret_file = "github.secret"\n'
        f'api_token_file = "api.token"\napi_url = "{azure.server.url}"\nprojects = ["acme/shop"]\n'
        '[[webhook.rule]]\nname = "deploy"\nenvironment = "production"\n'
    )
    agent = Hooked.opened(tmp_path, jenkins=jenkins_server, hivel=hivel_server, extra=hook)
    (tmp_path / "api.token").write_text(f"{azure.platform.token}\n")
    (tmp_path / "api.token").chmod(0o600)
    process = agent.begin()
    try:
        now = Clock().now_ms()
        one = azure.platform.deploy(ended_at=now, started_at=now - 60_000, branch="release/1")
        answers = azure.platform.send(f"{agent.url}/v1/hooks/azure", one)
        assert [each.status_code for each in answers] == [202, 202]
        wait_until(lambda: len(hivel.deployments()) == 1, "the event has arrived")
    finally:
        process.kill()
        process.wait()
    event = hivel.deployments()[0].event
    assert (event.branch, event.commit_hash, event.environment) == ("release/1", one.commit, "production")


def test_what_the_api_says_is_used_before_what_the_rule_says(azure: World) -> None:
    rule = replace(RULE, repo_url="https://git.example.test/other", branch="other")
    [found] = completed(azure, azure.platform.deploy(), hook=replace(azure.hook, rules=(rule,)))
    assert isinstance(found, Ended)
    assert found.report["branch"] == "main"


def test_without_an_answer_of_the_api_the_webhook_is_taken_as_it_is(azure: World) -> None:
    rule = replace(RULE, repo_url="https://git.example.test/shop", branch="main")
    one = azure.platform.deploy()
    azure.platform.hook = lambda *_: json_answer({}, 500)
    hook = replace(azure.hook, rules=(rule,))
    assert completed(azure, one, hook=hook) == [of_webhook(one, hook)[1]]
    [unknown] = completed(azure, one)
    assert isinstance(unknown, Ignored)


def test_without_a_token_nothing_is_asked(azure: World) -> None:
    one = azure.platform.deploy()
    [found] = completed(azure, one, hook=replace(azure.hook, api_token=None))
    assert isinstance(found, Ignored)
    assert azure.platform.requests == []


def test_only_deployments_are_asked_for(azure: World) -> None:
    one = azure.platform.deploy(job="test")
    [found] = completed(azure, one)
    assert isinstance(found, Ignored)
    assert azure.platform.requests == []
