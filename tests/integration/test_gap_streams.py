"""What is read from a platform's API is what its webhooks would have said."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import Response

from agent.config.rules import Pattern
from agent.config.settings import WebhookRule
from agent.sandbox.hivel.answers import json_answer
from agent.sandbox.platforms.github import job
from agent.sources.webhooks.gaps import api as apis
from agent.sources.webhooks.gaps.errors import ApiError, GoneError, SpentError, WaitError
from agent.sources.webhooks.gaps.values import MOST_OPEN, Cursor
from tests.integration.platforms import world
from tests.integration.support import NOON

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agent.sandbox.platforms.model import Webhook
    from agent.sources.webhooks.gaps.values import Step
    from tests.integration.platforms import World

HOUR = 3_600_000
RUNS = 7_000_000  # the runs of the local platform are numbered from here
DAY = 24 * HOUR
SINCE_MORNING = Cursor(begun=NOON - 10 * DAY, at=NOON - 6 * HOUR)
LISTS = ("github", "gitlab", "circleci", "azure_devops")
PAGES = ("/deployments", "/pipeline", "/builds")
RULE = WebhookRule(Pattern.parse("acme/*"), Pattern.parse("deploy*"), "production")


@pytest.fixture(params=LISTS)
def any_world(request: pytest.FixtureRequest) -> Iterator[World]:
    with world(request.param, rules=(RULE,)) as found:
        yield found


@pytest.fixture
def github() -> Iterator[World]:
    with world("github") as found:
        yield found


@pytest.fixture
def gitlab() -> Iterator[World]:
    with world("gitlab") as found:
        yield found


def ended(steps: list[Step]) -> list[int]:
    """The numbers of the deployments that ended."""
    found = [_number(step.deliveries[-1].body.value) for step in steps if step.deliveries]
    return list(dict.fromkeys(found))  # CircleCI: a job and its workflow. Azure DevOps: a stage and its run


def _number(body: Any) -> int:
    if body.get("eventType") == "build.complete":
        return int(body["resource"]["id"]) - RUNS
    if "eventType" in body:
        return int(body["resource"]["run"]["id"]) - RUNS
    for place in (("deployment", "id"), ("deployment_id",), ("pipeline", "number")):
        found = body
        for name in place:
            found = found.get(name, {})
        if isinstance(found, int):
            return found
    pytest.fail(f"no number in {body}")


def within(part: Any, whole: Any, where: str = "") -> None:
    """Every member of ``part`` that ``whole`` has too has the same value there."""
    if isinstance(part, dict) and isinstance(whole, dict):
        for name in part.keys() & whole.keys():
            within(part[name], whole[name], f"{where}.{name}")
    elif not where.endswith(("_changed_at", ".url")):  # GitLab has several formats of time; CircleCI two servers
        assert part == whole, where


@pytest.mark.parametrize("outcome", ["success", "failed", "canceled"])
def test_bodies_from_the_api_agree_with_those_of_webhooks(any_world: World, outcome: str) -> None:
    one = any_world.platform.deploy(outcome=outcome, branch="feature/x", job="deploy eu", attempt=2)
    deliveries = [delivery for step in any_world.read(SINCE_MORNING) for delivery in step.deliveries]
    sent = any_world.platform._module.webhooks(one)
    if any_world.platform.kind == "azure_devops":  # the API knows when a stage began
        sent, deliveries = sent[1:], deliveries[:1]
    assert [delivery.event for delivery in deliveries] == [_event(webhook) for webhook in sent]
    for delivery, webhook in zip(deliveries, sent, strict=True):
        within(delivery.body.value, webhook.body)
        assert isinstance(delivery.body.value, dict)
        needed = {"check_run", "workflow_run", "deployment", "deployment_status", "repository", "commit_url", "ref"} | {
            "job"
        }
        assert webhook.body.keys() & needed <= delivery.body.value.keys()
    times = {"circleci": [one.ended_at] * 2, "azure_devops": [one.ended_at]}
    expected = times.get(any_world.platform.kind, [one.started_at, one.ended_at])
    assert [delivery.received_at for delivery in deliveries] == expected


def _event(webhook: Webhook) -> str:
    names = ("X-GitHub-Event", "X-Gitlab-Event", "circleci-event-type")
    named = [webhook.headers[name] for name in names if name in webhook.headers]
    return (named or [webhook.body["eventType"]])[0].lower()  # type: ignore[index]


def test_an_outage_of_six_hours_is_read_completely_over_several_pages(any_world: World) -> None:
    expected = [any_world.platform.deploy(ended_at=NOON - 6 * HOUR + i * 100_000).number for i in range(250)]
    steps = any_world.read(SINCE_MORNING)
    assert ended(steps) == expected
    # The next look starts where this one ended, and reads what is in the overlap again.
    again = ended(any_world.read(steps[-1].cursor))
    assert again == expected[-len(again) :] and len(again) < 10


def test_what_runs_is_taken_when_it_has_ended(any_world: World) -> None:
    slow = any_world.platform.deploy(ended_at=None, started_at=NOON - 5 * HOUR)
    quick = any_world.platform.deploy(ended_at=NOON - HOUR)
    steps = any_world.read(SINCE_MORNING)
    assert ended(steps) == [quick.number]
    any_world.clock.advance(ms=30 * HOUR)
    any_world.platform.change(slow.number, ended_at=any_world.clock.now_ms())
    for _ in range(3):
        any_world.platform.deploy()
    assert slow.number in ended(any_world.read(steps[-1].cursor))


def test_a_look_that_was_cut_short_is_continued_where_it_ended(
    any_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [any_world.platform.deploy(ended_at=NOON - 6 * HOUR + i * 1_000_000).number for i in range(20)]
    monkeypatch.setattr(apis, "MOST_REQUESTS", 12)
    found: list[int] = []
    cursor = SINCE_MORNING
    for _ in range(20):
        try:
            steps = any_world.read(cursor)
        except SpentError:
            steps = any_world.steps
        found += ended(steps)
        cursor = steps[-1].cursor
    assert sorted(set(found)) == expected


def test_pages_that_change_while_they_are_read_hide_nothing(any_world: World) -> None:
    """Others begin and end meanwhile; and deployments that were already read are deleted."""
    platform = any_world.platform
    expected = {platform.deploy(ended_at=NOON - 6 * HOUR + i * 1_000).number for i in range(210)}
    running = [platform.deploy(ended_at=None, started_at=NOON - 3 * HOUR + i).number for i in range(5)]
    listed = []

    def meanwhile(path: str, query: Mapping[str, str]) -> None:
        if path.endswith(PAGES):
            listed.append(query)
            if running and len(listed) > 1:
                platform.change(running.pop(), ended_at=any_world.clock.now_ms())
            if len(listed) in (2, 3):  # what is on the first page of both orders
                for each in (min(expected), max(expected)):
                    platform.delete(each)
                    expected.discard(each)
            platform.deploy(ended_at=any_world.clock.now_ms())

    platform.hook = meanwhile
    steps = any_world.read(SINCE_MORNING)
    platform.hook = None
    assert expected <= set(ended(steps))


def test_many_that_changed_in_the_same_moment_are_read_completely(gitlab: World) -> None:
    expected = [gitlab.platform.deploy(ended_at=NOON - HOUR).number for _ in range(250)]
    assert ended(gitlab.read(SINCE_MORNING)) == expected


def test_a_deployment_of_another_tool_has_no_run(github: World) -> None:
    github.platform.deploy(by_job=False)
    [step] = github.read(SINCE_MORNING)
    assert isinstance(step.deliveries[-1].body.value, dict)
    assert "workflow_run" not in step.deliveries[-1].body.value


def test_jobs_of_one_run_attempt_request_it_once(github: World) -> None:
    for _ in range(3):
        github.platform.deploy()
    one = github.platform.deployed()[0]

    def job_of_one_run(path: str, _: Mapping[str, str]) -> Response | None:
        return json_answer(job(one)) if "/actions/jobs/" in path else None

    github.platform.hook = job_of_one_run
    assert len(github.read(SINCE_MORNING)) == 3
    assert len([each for each in github.platform.requests if "/attempts/" in each.path]) == 1


def test_a_run_that_was_deleted_is_described_by_its_job(github: World) -> None:
    one = github.platform.deploy()
    github.platform.hook = lambda path, _: json_answer({}, 404) if "/attempts/" in path else None
    [step] = github.read(SINCE_MORNING)
    body: Any = step.deliveries[-1].body.value
    assert (body["workflow_run"]["id"], body["check_run"]["name"]) == (one.run, one.job)


def test_a_deployment_whose_job_was_deleted_is_named_and_does_not_stop_the_others(github: World) -> None:
    gone, there = github.platform.deploy(), github.platform.deploy()
    github.platform.hook = lambda path, _: (
        json_answer({}, 404) if path.endswith(f"/actions/jobs/{gone.job_number}") else None
    )
    steps = github.read(SINCE_MORNING)
    assert ended(steps) == [there.number]
    assert [step.problem for step in steps if step.problem] != []


def test_open_deployments_are_limited_and_deleted_ones_are_dropped(github: World) -> None:
    for i in range(MOST_OPEN + 50):
        github.platform.deploy(ended_at=None, started_at=NOON - HOUR + i)
    steps = github.read(SINCE_MORNING)
    cursor = steps[-1].cursor
    assert len(cursor.open) == MOST_OPEN
    for each in github.platform.deployed()[:-1]:
        github.platform.delete(each.number)
    github.clock.advance(ms=HOUR)
    assert len(github.read(cursor)[-1].cursor.open) == 1


def test_workflow_runs_are_read_where_a_rule_is_about_them(github: World) -> None:
    rule = WebhookRule(Pattern.parse("acme/*"), Pattern.parse("Deploy"), "production")
    one = github.platform.deploy()
    github.platform.deploy(ended_at=None)
    steps = github.read(SINCE_MORNING, "workflow runs", rules=(rule,))
    [delivery] = [delivery for step in steps for delivery in step.deliveries]
    assert delivery.event == "workflow_run"
    assert delivery.body.number("workflow_run.id") == str(one.run)
    assert len(steps[-1].cursor.open) == 1


# ---- errors


def test_a_wrong_token_says_where_to_look(any_world: World) -> None:
    any_world.platform.deploy()
    any_world.platform.token = "another"
    with pytest.raises(ApiError, match=r"HTTP 401: the token is wrong or has expired; check api_token_file"):
        any_world.read(SINCE_MORNING)


def test_a_project_that_is_not_there_says_what_to_check(any_world: World) -> None:
    with pytest.raises(GoneError, match="check repair"):
        any_world.read(SINCE_MORNING)


def test_a_rate_limit_says_how_long_to_wait(any_world: World) -> None:
    for _ in range(5):
        any_world.platform.deploy()
    any_world.platform.limit(1, seconds=900)
    with pytest.raises(WaitError) as caught:
        any_world.read(SINCE_MORNING)
    assert 890_000 <= caught.value.wait_ms <= 900_000


@pytest.mark.parametrize(
    ("status", "headers", "wait_ms"),
    [
        (429, {"retry-after": "30"}, 30_000),
        (403, {"retry-after": "60"}, 60_000),
        (403, {"x-ratelimit-remaining": "0"}, 60_000),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(NOON // 1000 + 120)}, 120_000),
        (429, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "9" * 40}, 3_600_000),
        (429, {}, 60_000),
        (429, {"retry-after": "0"}, 1_000),
        (503, {"retry-after": "999999"}, 3_600_000),
    ],
)
def test_every_form_of_a_rate_limit_is_understood(
    github: World, status: int, headers: dict[str, str], wait_ms: int
) -> None:
    github.platform.hook = lambda *_: Response("{}", status, headers)
    with pytest.raises(WaitError) as caught:
        github.read(SINCE_MORNING)
    assert caught.value.wait_ms == wait_ms


def test_a_403_without_a_rate_limit_is_a_missing_permission(github: World) -> None:
    github.platform.hook = lambda *_: json_answer({"message": "Resource not accessible by personal access token"}, 403)
    with pytest.raises(ApiError, match="the token lacks a permission") as caught:
        github.read(SINCE_MORNING)
    assert not isinstance(caught.value, WaitError)


def test_a_redirect_is_not_followed(github: World) -> None:
    github.platform.hook = lambda path, _: Response("", 301, {"location": "http://127.0.0.1:1/elsewhere"})
    with pytest.raises(ApiError, match=r"it redirects to http://127\.0\.0\.1:1/elsewhere"):
        github.read(SINCE_MORNING)
    assert len(github.platform.requests) == 1


HOSTILE = {
    "no JSON": (b"<html>login</html>", "did not return JSON"),
    "too large": (b"[" + b" " * (apis.BODY_LIMIT + 10) + b"]", "more than 8 MB"),
    "too deep": (b"[" * 300_000, "nested too deeply|did not return JSON"),
    "too many values": (b"[" + b"1," * 400_000 + b"1]", "JSON values"),
    "another type": (b'"text"', "not a list|not an object"),
    "null": (b"null", "returned null"),
    "an object in place of a list": (b'{"id": {}}', "not a list|not an object|(items|value) is missing"),
    "numbers in place of objects": (b"[1, 2]", "not an object|not a list"),
    "no times": (b'[{"id": 1}]', "missing|not an object"),
    "times that do not exist": (
        b'[{"id": 1, "created_at": "2026-02-30", "updated_at": "2026-02-30"}]',
        "2026-02-30|obj",
    ),
    "an id of 5000 digits": (b'[{"id": "' + b"9" * 5_000 + b'"}]', "missing|not an object"),
}


@pytest.mark.parametrize(("body", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_answers_end_the_look_with_a_message(any_world: World, body: bytes, message: str) -> None:
    any_world.platform.hook = lambda *_: Response(body, media_type="application/json")
    with pytest.raises((ApiError, ValueError), match=message):
        any_world.read(SINCE_MORNING)
    any_world.platform.deploy()
    any_world.platform.hook = lambda path, _: (
        Response(body, media_type="application/json") if path.endswith(PAGES) else None
    )
    with pytest.raises((ApiError, ValueError), match=message):
        any_world.read(SINCE_MORNING)


def test_a_compressed_answer_is_read(github: World) -> None:
    one = github.platform.deploy()
    content = gzip.compress(b"[]")
    github.platform.hook = lambda path, _: (
        Response(content, headers={"content-encoding": "gzip"}) if path.endswith("/deployments") else None
    )
    assert github.read(SINCE_MORNING) == []
    github.platform.hook = None
    assert ended(github.read(SINCE_MORNING)) == [one.number]


def test_the_names_of_projects_cannot_reach_other_pages(github: World) -> None:
    github.platform.deploy(project="acme/shop")
    with pytest.raises(GoneError):
        github.read(SINCE_MORNING, repair=("acme/shop?x=1#y",))
    assert github.platform.requests[-1].path.startswith("/repos/acme/shop%3Fx")
    with pytest.raises(ApiError, match="cannot be part of an address"):
        github.read(SINCE_MORNING, repair=("acme/shop/../../user",))
    assert len(github.platform.requests) == 1


def test_the_token_is_in_no_message(any_world: World) -> None:
    any_world.platform.hook = lambda *_: Response("the token sandbox-token is bad", 500)
    with pytest.raises(ApiError) as caught:
        any_world.read(SINCE_MORNING)
    assert "sandbox-token" not in str(caught.value)
