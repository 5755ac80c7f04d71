"""Answers of Jenkins that are nearly right: one that is odd hides no other, and is said."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import Response

from agent.model.endings import Ending
from agent.sources.jenkins.look import GRACE_MS, STORE_AT
from tests.simulation.support import REPO

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.support import Story

SHOP = "deploy/shop"


def altered(story: Story, where: str, change: Callable[[Any], object]) -> None:
    """Let what Jenkins answers to questions about that page be changed on its way."""
    application = story.jenkins.app

    async def alter(scope: Any, receive: Any, send: Any) -> None:
        sent = []

        async def keep(message: Any) -> None:
            sent.append(message)

        story.jenkins.break_with(None)
        try:
            await application(scope, receive, keep)
        finally:
            story.jenkins.break_with(hook)
        content = json.loads(b"".join(message.get("body", b"") for message in sent))
        change(content)
        await Response(json.dumps(content).encode(), media_type="application/json")(scope, receive, send)

    def hook(path: str, _: str) -> Any:
        return alter if path.endswith(where) else None

    story.jenkins.break_with(hook)


@pytest.mark.parametrize("ended", [True, False], ids=["final", "running"])
def test_a_build_that_is_listed_twice_is_one(story: Story, ended: bool) -> None:
    number = story.start()
    if ended:
        story.jenkins.finish_build(SHOP, number)
    altered(story, "/shop/api/json", lambda content: content["builds"].extend(content["builds"]))
    polled = story.agent.poll()
    assert polled.problems == []
    assert polled.enqueued == ([f"main:{SHOP}#{number}"] if ended else [])
    story.jenkins.finish_build(SHOP, number)
    story.later()
    story.poll()
    assert story.agent.ids() == [f"main:{SHOP}#{number}"]


@pytest.mark.parametrize("odd", [2**63, 2**31, -1, 4.5, "5", True, [], {"a": 1}], ids=str)
def test_a_job_with_an_odd_next_number_hides_no_other(story: Story, odd: object) -> None:
    story.jenkins.add_job("deploy/api")
    story.poll()
    running = story.start()

    def change(content: Any) -> None:
        [job] = [job for folder in content["jobs"] for job in folder["jobs"] if job["fullName"] == SHOP]
        job["nextBuildNumber"] = odd

    altered(story, "/api/json", lambda content: "jobs" in content and change(content))
    story.build("deploy/api")
    polled = story.agent.poll()
    assert polled.enqueued == ["main:deploy/api#1"]
    [problem] = polled.problems
    assert problem.startswith(f"job {SHOP}: ") and "nextBuildNumber" in problem and len(problem) < 200
    with story.agent.outbox() as outbox:
        [state] = outbox.controllers()
        assert state.last_error == problem
    story.jenkins.break_with(None)
    story.jenkins.finish_build(SHOP, running)
    story.later()
    assert story.poll() == [f"main:{SHOP}#{running}"]
    assert story.agent.poll().problems == []


def test_what_ended_at_once_is_stored_while_the_rest_is_read(story: Story) -> None:
    """Only the newest hundred are in the list; the others cost a question each."""
    numbers = [story.jenkins.start_build(SHOP, repo=REPO) for _ in range(STORE_AT + 250)]
    story.poll()
    story.later()
    for number in numbers:
        story.jenkins.finish_build(SHOP, number)
    assert story.agent.poll_and_die(request=STORE_AT + 130)
    assert len(story.agent.ids()) >= STORE_AT
    story.poll_for(minutes=1)
    assert sorted(event.number for event in story.agent.reported()) == numbers


@pytest.mark.parametrize("seconds", [75, 2 * GRACE_MS // 1000])
@pytest.mark.parametrize("seen", [True, False], ids=["seen before", "never seen"])
def test_a_build_that_cannot_be_seen_for_a_while_is_taken_up(story: Story, seconds: int, seen: bool) -> None:
    number = story.start()
    if seen:
        story.poll()
    story.jenkins.reveal_build(SHOP, number, listed=False, found=False)
    for _ in range(seconds // 15):
        story.later()
        assert story.poll() == []
    story.jenkins.finish_build(SHOP, number, "FAILURE")  # which shows it again
    story.later()
    found = story.poll()
    other = story.build()
    found += story.poll()
    assert sorted(found) == [f"main:{SHOP}#{number}", f"main:{SHOP}#{other}"]
    assert story.poll_for(minutes=10) == []
    with story.agent.outbox() as outbox:
        endings = {number: each.ending for each in outbox.endings("main", SHOP) for number in (each.first, each.last)}
    assert endings[other] is endings.get(number, Ending.READ) is Ending.READ
