"""Stories of one job, or one build, that cannot be read: it keeps nobody else waiting, and is not forgotten."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from starlette.responses import HTMLResponse, Response

from agent.config.rules import Pattern, Template
from agent.sources.jenkins.round import SILENT_JOBS
from tests.integration.support import rule
from tests.simulation.support import Agent, Story

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.outbox.values import ControllerState, JobError
    from agent.sandbox.jenkins import LocalJenkins
    from tests.integration.support import FakeClock
    from tests.simulation.engines import Engine

SHOP = "deploy/shop"
DAYS = 7
OTHERS = [f"deploy/app-{index}" for index in range(7)]


def silence() -> Response:
    raise TimeoutError("timed out")


def reset() -> Response:
    raise ConnectionResetError("Connection reset by peer")


FAILURES: dict[str, Callable[[], Response]] = {
    **{str(status): lambda status=status: HTMLResponse("", status) for status in (408, 425, 429, 500, 502, 503, 504)},
    "401": lambda: Response(b"", 401),
    "403": lambda: Response(b"", 403),
    "404": lambda: Response(b"", 404),
    "a login page": lambda: HTMLResponse("<html>login</html>"),
    "cut": lambda: Response(b'{"builds":[{"numb', media_type="application/json"),
    "another shape": lambda: Response(b'{"builds":7}', media_type="application/json"),
    "silence": silence,
    "reset": reset,
}


def errors(story: Story) -> dict[str, JobError]:
    """What ``status`` shows."""
    with story.agent.outbox() as outbox:
        return outbox.job_errors("main")


def state(story: Story) -> ControllerState:
    with story.agent.outbox() as outbox:
        [found] = outbox.controllers()
        return found


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_job_that_cannot_be_read_for_a_week_keeps_no_other_waiting(
    story: Story, failure: Callable[[], Response]
) -> None:
    for name in OTHERS:
        story.jenkins.add_job(name)
    story.poll()
    broken = "/job/deploy/job/shop/api/json"
    story.jenkins.break_with(lambda path, _: failure() if path == broken else None)
    first = story.build(SHOP)
    asked = 0
    for round_ in range(DAYS * 24 * 2):
        story.later(minutes=29)
        built = OTHERS[round_ % 7], OTHERS[(round_ + 3) % 7]
        for name in built:
            story.jenkins.finish_build(name, story.start(name))
        report = story.agent.poll()
        assert (len(report.enqueued), report.job_errors) == (len(built), 1)
        asked += sum(SHOP in problem for problem in report.problems)
    # The waits double up to an hour, of which at least half is waited.
    assert DAYS * 24 / 2 < asked < DAYS * 24 + 20
    assert (state(story).state, list(errors(story))) == ("ok", [SHOP])
    story.jenkins.break_with(None)
    story.later(minutes=60)
    assert story.poll() == [f"main:{SHOP}#{first}"]
    assert errors(story) == {}


def test_status_says_of_a_job_what_is_wrong_since_when_and_when_it_is_tried_again(story: Story) -> None:
    story.jenkins.break_with(lambda path, _: HTMLResponse("", 504) if "/job/shop" in path else None)
    story.build()
    since = story.clock.now_ms()
    assert story.agent.poll().problems == [f"job {SHOP}: {errors(story)[SHOP].error}"]
    for _ in range(3):
        story.later(minutes=60)
        assert len(story.agent.poll().problems) == 1
    [error] = errors(story).values()
    assert "HTTP 504 from /job/deploy/job/shop/api/json" in error.error
    assert error.since == since
    assert story.clock.now_ms() < error.next_try_at <= story.clock.now_ms() + 3_600_000


def test_whoever_starts_anew_tries_at_once_and_remembers_since_when_it_fails(story: Story) -> None:
    story.jenkins.break_with(lambda path, _: HTMLResponse("", 504) if "/job/shop" in path else None)
    story.build()
    story.poll_for(minutes=30)
    [before] = errors(story).values()
    story.agent.kill()
    assert len(story.agent.poll().problems) == 1
    [after] = errors(story).values()
    assert after.since == before.since
    story.agent.kill()
    story.jenkins.break_with(None)
    assert story.poll() == ["main:deploy/shop#4"]
    assert errors(story) == {}


@pytest.mark.parametrize("end", ["deleted", "renamed", "no rule any more"])
def test_a_job_that_is_gone_is_no_error_any_more(story: Story, end: str) -> None:
    story.jenkins.break_with(lambda path, _: HTMLResponse("", 504) if "/job/shop" in path else None)
    story.build()
    story.poll()
    assert list(errors(story)) == [SHOP]
    if end == "deleted":
        story.jenkins.delete_job(SHOP)
    elif end == "renamed":
        story.jenkins.rename_job(SHOP, "deploy/store")
    else:
        story.agent.restart((rule("other/**"),))
    story.later(minutes=1)
    assert story.poll() == (["main:deploy/store#4"] if end == "renamed" else [])
    assert errors(story) == {}


def test_a_job_that_could_not_be_read_is_read_although_nothing_else_happens(story: Story) -> None:
    """Jenkins' list of jobs is the same as before: that does not mean that all was read."""
    story.jenkins.break_with(lambda path, _: HTMLResponse("", 504) if "/job/shop" in path else None)
    story.build()
    assert story.poll_for(minutes=1) == []
    story.jenkins.break_with(None)
    assert story.poll_for(minutes=3) == ["main:deploy/shop#4"]


def test_an_exception_that_nobody_expected_sets_one_job_aside_and_nothing_else(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.sources.jenkins.reader import JobReader

    read = JobReader.read
    story.jenkins.add_job("deploy/api")
    story.poll()

    def odd(self: JobReader, candidate: object, *rest: object) -> object:
        if "shop" in str(candidate):
            raise ZeroDivisionError("of all things")
        return read(self, candidate, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(JobReader, "read", odd)
    story.build()
    story.build("deploy/api")
    assert story.poll() == ["main:deploy/api#1"]
    assert errors(story)[SHOP].error == "ZeroDivisionError: of all things"
    monkeypatch.setattr(JobReader, "read", read)
    assert story.poll_for(minutes=1) == ["main:deploy/shop#4"]


def test_an_exception_while_jobs_are_stored_sets_the_one_aside_that_it_is_about(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.ingest.ingest import Ingest

    accept = Ingest.accept

    def odd(self: Ingest, facts: object, progress: object = None) -> object:
        if "deploy/shop" in str(facts):
            raise OverflowError("too large")
        return accept(self, facts, progress)  # type: ignore[arg-type]

    monkeypatch.setattr(Ingest, "accept", odd)
    for name in ("deploy/api", "deploy/web"):
        story.jenkins.add_job(name)
        story.build(name)
    story.build()
    assert story.poll() == ["main:deploy/api#1", "main:deploy/web#1"]
    assert errors(story)[SHOP].error == "OverflowError: too large"
    monkeypatch.setattr(Ingest, "accept", accept)
    assert story.poll_for(minutes=1) == ["main:deploy/shop#4"]


@pytest.fixture
def staged(engine: Engine, clock: FakeClock, jenkins: LocalJenkins) -> Iterator[Story]:
    """A Jenkins with a job of whose builds the stages deploy, and nobody answers for those of the first build."""
    stages = replace(rule(), stage=Pattern.parse("Deploy"), environment=Template.parse("production"))
    jenkins.add_job(SHOP)
    story = Story(clock, jenkins, Agent(engine, {"main": jenkins}, (stages,)))
    story.poll()
    pages = "/1/wfapi/describe", "/1/pipeline-overview/tree"
    jenkins.break_with(lambda path, _: HTMLResponse("", 504) if path.endswith(pages) else None)
    build_stages(story)
    yield story
    story.agent.kill()


def build_stages(story: Story) -> None:
    number = story.build()
    deploy = {"name": "Deploy", "status": "SUCCESS", "startTimeMillis": story.clock.now_ms(), "durationMillis": 1_000}
    story.jenkins.set_stages(SHOP, number, wfapi={"stages": [deploy]})


def test_a_build_whose_stages_cannot_be_asked_waits_and_the_other_builds_of_its_job_do_not(staged: Story) -> None:
    build_stages(staged)
    assert staged.poll() == ["main:deploy/shop#2:production"]
    assert "build 1: HTTP 504" in errors(staged)[SHOP].error
    staged.later(minutes=60)
    build_stages(staged)
    assert staged.poll() == ["main:deploy/shop#3:production"]
    staged.jenkins.break_with(None)
    assert staged.poll_for(minutes=61) == ["main:deploy/shop#1:production"]
    assert errors(staged) == {}
    assert staged.agent.poll().requests == 1


def test_a_build_whose_stages_cannot_be_asked_for_a_day_is_taken_without_them(staged: Story) -> None:
    enqueued: list[str] = []
    staged.jenkins.clear_requests()
    for _ in range(23 * 6):
        staged.later(minutes=10)
        enqueued += staged.poll()
    assert enqueued == []
    # The build and its stages, each time.
    assert sum("/1/" in request.path for request in staged.jenkins.requests) <= 2 * (2 * 23 + 10)
    for _ in range(3 * 6):
        staged.later(minutes=10)
        enqueued += staged.poll()
    assert enqueued == ["main:deploy/shop#1"]
    assert errors(staged) == {}


def test_a_build_that_jenkins_cannot_read_is_asked_for_about_once_a_minute_for_a_day(story: Story) -> None:
    number = story.build()
    story.jenkins.corrupt_build(SHOP, number)
    story.poll_for(minutes=2)
    story.jenkins.clear_requests()
    story.poll_for(minutes=60)
    asked = sum(f"/{number}/" in request.path for request in story.jenkins.requests)
    assert 55 <= asked <= 120
    assert errors(story)[SHOP].error.startswith(f"build {number}: ")
    story.later(minutes=22 * 60)
    assert story.poll_for(minutes=2) == []
    assert list(errors(story)) == [SHOP]
    story.later(minutes=60)
    story.poll_for(minutes=2)
    with story.agent.outbox() as outbox:
        [missed] = outbox.missed()
    assert (missed.full_name, missed.builds, errors(story)) == (SHOP, 1, {})
    assert story.agent.poll().requests == 1


def test_a_long_build_that_cannot_be_read_for_a_moment_is_not_given_up(story: Story) -> None:
    number = story.start()
    for _ in range(3 * 24):
        story.later(minutes=60)
        story.poll()
    story.jenkins.finish_build(SHOP, number)
    story.jenkins.corrupt_build(SHOP, number)
    assert story.poll_for(minutes=2) == []
    story.jenkins.corrupt_build(SHOP, number, corrupt=False)
    assert story.poll_for(minutes=2) == [f"main:deploy/shop#{number}"]


# ---- the job, or the controller?


def test_the_executors_page_is_not_the_controller(story: Story) -> None:
    running = story.start()
    story.jenkins.break_with(lambda path, _: HTMLResponse("", 504) if path.startswith("/computer") else None)
    for _ in range(5):
        story.later(minutes=1)
        assert story.agent.poll().problems == []
    assert state(story).state == "ok"
    story.jenkins.clear_requests()
    story.poll_for(minutes=60)
    assert sum(request.path.startswith("/computer") for request in story.jenkins.requests) < 20
    story.jenkins.finish_build(SHOP, running)
    assert story.poll() == [f"main:deploy/shop#{running}"]


def test_when_job_after_job_is_silent_the_controller_is_asked_whether_it_is_there(story: Story) -> None:
    names = [f"deploy/app-{index:02}" for index in range(4 * SILENT_JOBS)]
    for name in names:
        story.jenkins.add_job(name)
        story.build(name)
    asked: list[str] = []

    def overloaded(path: str, _: str) -> Response | None:
        asked.append(path)
        return silence() if len(asked) > 1 else None

    story.jenkins.break_with(overloaded)
    report = story.agent.poll()
    assert (state(story).state, report.enqueued, errors(story)) == ("unreachable", [], {})
    assert len(asked) < len(names)
    story.jenkins.break_with(None)
    story.later(minutes=1)
    assert len(story.poll()) == len(names)


def test_many_jobs_that_are_silent_are_no_silent_controller(story: Story) -> None:
    names = [f"deploy/app-{index:02}" for index in range(4 * SILENT_JOBS)]
    for name in names:
        story.jenkins.add_job(name)
        story.build(name)
    story.jenkins.break_with(lambda path, _: silence() if "/app-" in path else None)
    report = story.agent.poll()
    assert (state(story).state, report.job_errors) == ("ok", len(names))
    assert report.requests <= 1 + len(names) + 3
    story.jenkins.break_with(None)
    assert len(story.poll_for(minutes=1)) == len(names)


def test_a_connection_that_is_refused_ends_the_poll(story: Story) -> None:
    for name in OTHERS:
        story.jenkins.add_job(name)
        story.build(name)
    requests = [0]

    def count() -> None:
        requests[0] += 1
        if requests[0] == 4:
            story.jenkins.stop()

    story.agent.at_request = count
    report = story.agent.poll()
    assert (state(story).state, len(report.enqueued), errors(story)) == ("unreachable", 2, {})
    story.agent.at_request = lambda: None
    story.jenkins.restart()
    story.later(minutes=1)
    assert len(story.poll()) == len(OTHERS) - 2


def test_a_build_that_cannot_be_asked_for_alone_keeps_its_job_from_nothing(story: Story) -> None:
    slow = story.start()
    for _ in range(120):  # so far back that no list shows it
        story.jenkins.finish_build(SHOP, story.start(), duration=500)
    story.poll_for(minutes=1)
    story.jenkins.finish_build(SHOP, slow)
    story.jenkins.break_with(lambda path, _: HTMLResponse("", 504) if path.endswith(f"/{slow}/api/json") else None)
    assert story.poll_for(minutes=5) == []
    assert f"build {slow}: HTTP 504" in errors(story)[SHOP].error
    number = story.build()
    assert story.poll() == [f"main:deploy/shop#{number}"]
    for _ in range(3 * 24):  # longer than for a build that Jenkins says it cannot read
        story.later(minutes=60)
        story.poll()
    story.jenkins.break_with(None)
    story.later(minutes=60)
    assert story.poll() == [f"main:deploy/shop#{slow}"]
    assert errors(story) == {}
