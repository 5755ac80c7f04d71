"""Stories of builds that report themselves before a poll knows them: each is read, with or without a rule, and once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from starlette.responses import HTMLResponse, Response

from agent.model.deployment import State
from agent.model.fact import Kind
from agent.model.keys import jenkins_run
from agent.sources.jenkins.wanted import ASKED_AT_ONCE
from tests.integration.support import rule
from tests.simulation.support import HOLD_FOR_MS, REPO, Agent, Story

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.model.deployment import Deployment
    from agent.sandbox.jenkins import LocalJenkins
    from tests.integration.support import FakeClock
    from tests.simulation.engines import Engine

LAB = "lab/shop"  # no rule matches it
INTERVAL_S = 15  # of the polls, by the configuration
DAY_S = 86_400


@pytest.fixture
def reporting(engine: Engine, clock: FakeClock, jenkins: LocalJenkins) -> Iterator[Story]:
    """A Jenkins with a job that a rule matches and one that none matches, which had their first poll."""
    for name in ("deploy/shop", LAB):
        jenkins.add_job(name)
    story = Story(clock, jenkins, Agent(engine, {"main": jenkins}, (rule("deploy/**"),)))
    story.poll()
    story.later()
    yield story
    story.agent.kill()


def deployments(story: Story) -> list[Deployment]:
    with story.agent.outbox() as outbox:
        return list(outbox.all_deployments())


def wanted(story: Story) -> int:
    with story.agent.outbox() as outbox:
        return len(outbox.wanted_builds("main"))


def report(story: Story, job: str, number: int, **said: str) -> None:
    story.agent.take(job, number, **({"status": "SUCCESS", "environment": "eu"} | said))


@pytest.mark.parametrize("job", ["deploy/shop", LAB], ids=["a rule", "no rule"])
def test_a_running_build_that_reported_is_followed_and_its_result_is_the_polls(reporting: Story, job: str) -> None:
    number = reporting.start(job)
    report(reporting, job, number)
    assert reporting.poll() == []
    assert wanted(reporting) == 0
    assert [each.state for each in deployments(reporting)] == [State.HELD]
    reporting.jenkins.clear_requests()
    for _ in range(5):
        reporting.later()
        assert reporting.agent.poll().requests == 2  # the jobs, and what occupies executors
    reporting.jenkins.finish_build(job, number, "FAILURE")
    assert reporting.poll() == [f"main:{job}#{number}"]
    [event] = reporting.agent.reported()
    assert (event.status, event.ended_at) == ("failed", reporting.clock.now_ms())
    assert reporting.agent.poll().requests == 1


@pytest.mark.parametrize("job", ["deploy/shop", LAB], ids=["a rule", "no rule"])
def test_a_build_that_reported_and_ended_is_read_once(reporting: Story, job: str) -> None:
    number = reporting.start(job)
    report(reporting, job, number)
    reporting.jenkins.finish_build(job, number, "FAILURE")
    assert reporting.poll() == [f"main:{job}#{number}"]
    assert (reporting.agent.reported()[0].status, wanted(reporting)) == ("failed", 0)
    assert reporting.agent.poll().requests == 1


def test_a_build_that_a_poll_knows_already_is_not_asked_for(reporting: Story) -> None:
    number = reporting.start("deploy/shop")
    reporting.poll()
    report(reporting, "deploy/shop", number)
    assert reporting.agent.poll().requests == 2
    reporting.jenkins.finish_build("deploy/shop", number)
    assert reporting.poll() == [f"main:deploy/shop#{number}"]
    report(reporting, "deploy/shop", number, image="shop:1")
    assert reporting.agent.poll().requests == 1
    assert len(deployments(reporting)) == 1


def test_a_report_that_comes_an_hour_after_the_end_is_of_the_build_that_the_poll_knows(reporting: Story) -> None:
    number = reporting.build("deploy/shop")
    assert reporting.poll() == [f"main:deploy/shop#{number}"]
    for image in ("shop:1", "shop:2"):
        reporting.later(minutes=60)
        report(reporting, "deploy/shop", number, image=image)
        reporting.poll()
        [deployment] = deployments(reporting)
        assert (deployment.content.image, wanted(reporting)) == (image, 0)


def test_three_hundred_reports_of_builds_that_jenkins_does_not_have_cost_a_few_requests_at_a_time(
    reporting: Story,
) -> None:
    for index in range(300):
        report(reporting, f"unknown/app-{index}", 1)
    assert reporting.agent.poll().requests == 1 + ASKED_AT_ONCE
    number = reporting.start(LAB)  # this one is there
    report(reporting, LAB, number)
    for _ in range(30):
        reporting.later(seconds=1)
        assert reporting.agent.poll().requests <= 1 + ASKED_AT_ONCE + 1
    with reporting.agent.outbox() as outbox:
        assert [build.number for build in outbox.open_builds("main")[LAB]] == [number]
    assert wanted(reporting) == 300


def test_who_goes_on_reporting_of_jobs_that_are_not_there_cannot_raise_the_load_on_jenkins(reporting: Story) -> None:
    """Each report wakes the poller, so that it polls every second."""
    asked = 0
    for second in range(60):
        for index in range(300):
            if index % 60 == second % 60 or second == 0:
                report(reporting, f"unknown/app-{index}", 1, image=f"i:{second}")
        asked += reporting.agent.poll().requests - 1
        reporting.later(seconds=1)
    print(f"60 polls in a minute, 300 reports of unknown jobs: {asked} questions about them")  # noqa: T201
    assert asked <= ASKED_AT_ONCE * 60 / INTERVAL_S + ASKED_AT_ONCE


def test_a_job_that_is_not_there_is_asked_for_once_however_many_of_its_builds_report(reporting: Story) -> None:
    for number in range(1, 101):
        report(reporting, "unknown/app", number)
    assert reporting.agent.poll().requests == 2
    asked = 0
    for _ in range(60):
        reporting.later(seconds=60)
        asked += reporting.agent.poll().requests - 1
    print(f"an hour, 100 builds of one unknown job: {asked} questions about them")  # noqa: T201
    assert asked < 15
    reporting.later(minutes=25 * 60)
    reporting.poll_for(minutes=61)
    assert wanted(reporting) == 0


def test_reports_again_and_again_of_a_build_that_was_deleted_do_not_raise_the_load_either(reporting: Story) -> None:
    numbers = [reporting.build(LAB) for _ in range(20)]
    for number in numbers:
        reporting.jenkins.delete_build(LAB, number)
    reporting.poll()
    asked = 0
    for second in range(60):
        for number in numbers:
            report(reporting, LAB, number, image=f"i:{second}")
        asked += reporting.agent.poll().requests - 1
        reporting.later(seconds=1)
    print(f"60 polls in a minute, 1,200 reports of 20 deleted builds: {asked} questions about them")  # noqa: T201
    assert len(numbers) <= asked <= len(numbers) + ASKED_AT_ONCE * 60 / INTERVAL_S + ASKED_AT_ONCE


def test_reports_of_builds_that_jenkins_does_not_have_are_asked_for_less_and_less_often_and_given_up(
    reporting: Story,
) -> None:
    for index in range(20):
        report(reporting, f"unknown/app-{index}", 1)
    asked = []
    for _ in range(3):
        asked.append(0)
        for _ in range(60):
            reporting.later(seconds=60)
            asked[-1] += reporting.agent.poll().requests - 1
    assert asked[-1] <= 2 * 20
    reporting.later(minutes=20 * 60)
    reporting.poll()
    assert wanted(reporting) == 20
    for _ in range(70):
        reporting.later(seconds=120)
        reporting.poll()
    assert wanted(reporting) == 0
    assert reporting.agent.poll().requests == 1


def test_a_wanted_build_that_is_not_there_yet_is_asked_for_less_and_less_often(reporting: Story) -> None:
    number = reporting.start(LAB)
    reporting.jenkins.reveal_build(LAB, number, listed=False, found=False)
    report(reporting, LAB, number)
    reporting.jenkins.clear_requests()
    reporting.poll_for(minutes=120)
    assert sum(LAB.rpartition("/")[2] in request.path for request in reporting.jenkins.requests) < 15
    reporting.jenkins.finish_build(LAB, number)
    reporting.poll_for(minutes=61)
    assert [event.status for event in reporting.agent.reported()] == ["success"]


@pytest.mark.parametrize("trouble", ["silence", "an odd answer"])
def test_a_wanted_build_that_cannot_be_read_keeps_nothing_else_waiting(reporting: Story, trouble: str) -> None:
    def broken(path: str, _: str) -> Response | None:
        if "/lab/" not in path:
            return None
        if trouble == "silence":
            raise TimeoutError("timed out")
        return HTMLResponse("", 500)

    reporting.jenkins.break_with(broken)
    number = reporting.start(LAB)
    report(reporting, LAB, number)
    reporting.build("deploy/shop")
    polled = reporting.agent.poll()
    assert (polled.enqueued, polled.problems, polled.job_errors) == (["main:deploy/shop#1"], [], 0)
    reporting.jenkins.break_with(None)
    reporting.jenkins.finish_build(LAB, number)
    assert reporting.poll_for(minutes=1) == [f"main:{LAB}#{number}"]


def test_a_wanted_build_in_a_folder_that_is_hidden_is_read_once_it_is_shown(reporting: Story) -> None:
    number = reporting.start(LAB)
    report(reporting, LAB, number)
    reporting.jenkins.hide("lab")
    reporting.poll_for(minutes=5)
    reporting.jenkins.show("lab")
    reporting.poll_for(minutes=10)
    assert wanted(reporting) == 0
    reporting.jenkins.finish_build(LAB, number)
    assert reporting.poll() == [f"main:{LAB}#{number}"]


@pytest.mark.parametrize("at", [*range(1, 6)])
@pytest.mark.parametrize("ended", [False, True], ids=["runs", "ended"])
def test_a_wanted_build_is_not_lost_by_a_process_that_dies(reporting: Story, ended: bool, at: int) -> None:
    number = reporting.start(LAB)
    report(reporting, LAB, number)
    if ended:
        reporting.jenkins.finish_build(LAB, number, "FAILURE")
    reporting.agent.poll_and_die(statement=4 * at)
    reporting.poll_for(minutes=1)
    if not ended:
        reporting.jenkins.finish_build(LAB, number, "FAILURE")
    reporting.poll_for(minutes=1)
    assert [event.status for event in reporting.agent.reported()] == ["failed"]
    assert wanted(reporting) == 0


# ---- numbers that were used before


def test_a_build_of_before_the_first_start_that_somebody_reports_late_is_read(
    engine: Engine, clock: FakeClock, jenkins: LocalJenkins
) -> None:
    """What still has the number is what the report is about."""
    jenkins.add_job("deploy/old")
    [number] = jenkins.add_builds("deploy/old", 1, result="FAILURE", repo=REPO)
    clock.advance(s=60)
    story = Story(clock, jenkins, Agent(engine, {"main": jenkins}))
    story.poll()
    story.later(minutes=60)
    report(story, "deploy/old", number)
    assert story.poll() == [f"main:deploy/old#{number}"]
    assert [event.status for event in story.agent.reported()] == ["failed"]
    story.agent.kill()


def test_a_report_of_a_job_that_was_created_again_says_nothing_about_the_build_that_has_its_number_now(
    reporting: Story,
) -> None:
    number = reporting.start(LAB)
    report(reporting, LAB, number)
    reporting.jenkins.delete_job(LAB)
    reporting.later(minutes=30)
    reporting.jenkins.add_job(LAB)
    assert reporting.build(LAB, "FAILURE") == number
    assert reporting.poll() == []
    [deployment] = deployments(reporting)
    assert (deployment.state, deployment.known, wanted(reporting)) == (State.HELD, False, 0)


def test_a_running_build_that_is_gone_gets_no_reports_any_more(reporting: Story) -> None:
    """Without the word that it is gone, the reports of the next job's build would be taken for its own."""
    number = reporting.start(LAB)
    report(reporting, LAB, number)
    reporting.poll()
    first = reporting.clock.now_ms() - 1_000
    reporting.jenkins.delete_job(LAB)
    reporting.jenkins.add_job(LAB)
    reporting.later(minutes=30)
    second = reporting.clock.now_ms()
    again = reporting.start(LAB)
    assert again == number
    reporting.poll()
    report(reporting, LAB, number, environment="us")
    reporting.jenkins.finish_build(LAB, again)
    reporting.poll()
    with reporting.agent.outbox() as outbox:
        gone = [fact for fact in outbox.facts(jenkins_run("main", LAB, number)) if fact.kind is Kind.GONE]
    assert [fact.started_at for fact in gone] == [first]
    reporting.later(seconds=HOLD_FOR_MS / 1000)
    reporting.agent.release()
    reporting.poll()
    found = {each.content.environment: each.build_started_at for each in deployments(reporting)}
    assert found == {"eu": first, "us": second}


@pytest.mark.parametrize("how", ["deleted", "created again", "created again and further"])
def test_a_followed_build_that_is_gone_is_said_to_be_gone(reporting: Story, how: str) -> None:
    number = reporting.start("deploy/shop")
    started_at = reporting.clock.now_ms() - 1_000
    report(reporting, "deploy/shop", number)
    reporting.poll()
    if how == "deleted":
        reporting.jenkins.delete_build("deploy/shop", number)
    else:
        reporting.jenkins.delete_job("deploy/shop")
        reporting.jenkins.add_job("deploy/shop")
        reporting.later(minutes=30)
        for _ in range(1 if how == "created again" else 3):
            reporting.build("deploy/shop")
    reporting.poll_for(minutes=5)
    with reporting.agent.outbox() as outbox:
        gone = [fact for fact in outbox.facts(jenkins_run("main", "deploy/shop", number)) if fact.kind is Kind.GONE]
        assert outbox.open_builds("main") == {}
    assert [fact.started_at for fact in gone] == [started_at]


def test_a_running_build_of_a_job_that_gets_another_name_is_not_gone(reporting: Story) -> None:
    number = reporting.start("deploy/shop")
    report(reporting, "deploy/shop", number)
    reporting.poll()
    reporting.jenkins.rename_job("deploy/shop", "deploy/store")
    reporting.jenkins.add_job("deploy/shop")
    for _ in range(2):
        reporting.build("deploy/shop")
    reporting.poll()
    with reporting.agent.outbox() as outbox:
        assert not [f for f in outbox.facts(jenkins_run("main", "deploy/store", number)) if f.kind is Kind.GONE]
    reporting.jenkins.finish_build("deploy/store", number)
    reporting.poll()
    found = [each for each in deployments(reporting) if each.content.environment == "eu"]
    assert [(each.state, each.known) for each in found] == [(State.PENDING, True)]
