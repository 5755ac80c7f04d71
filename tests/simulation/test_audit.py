"""What became of every build number; and jobs that are back after they were gone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agent.config.rules import Pattern
from agent.inspect.audit import Outcome
from agent.model.endings import Ended, Ending
from agent.outbox.values import Progress
from agent.sandbox.jenkins import Phase
from agent.sources.jenkins.discovery import BACK_AT_ONCE
from tests.integration.support import rule
from tests.simulation.support import REPO, Agent

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.support import Story

SHOP = "deploy/shop"


def told(agent: Agent, job: str = SHOP) -> list[tuple[int, int, str]]:
    """Ranges of numbers of a job with their outcomes."""
    found = agent.audit()
    assert (found.unaccounted, found.problems) == (0, [])
    return [(b.first, b.last, b.outcome) for each in found.jobs if each.job == job for b in each.builds]


# ---- what became of a number


def test_history_events_and_what_still_runs(story: Story) -> None:
    story.build()
    story.poll()
    story.start()
    story.poll()
    assert told(story.agent) == [(1, 3, Outcome.HISTORY), (4, 4, Outcome.EVENT), (5, 5, Outcome.RUNNING)]


def test_a_build_that_no_poll_has_seen_yet_waits_for_one(story: Story) -> None:
    story.build()
    assert told(story.agent) == [(1, 3, Outcome.HISTORY), (4, 4, Outcome.NOT_POLLED)]
    story.later(minutes=11)
    found = story.agent.audit()
    assert "1 build(s) wait for a poll, but the controller was last polled at" in found.problems[0]


def test_a_build_that_was_deleted_before_it_was_read_is_unreadable(story: Story) -> None:
    deleted = story.build()
    story.jenkins.delete_build(SHOP, deleted)
    story.build()
    story.poll()
    assert told(story.agent)[1:] == [(4, 4, Outcome.WAITING), (5, 5, Outcome.EVENT)]
    story.poll_for(minutes=5)
    assert told(story.agent)[1:] == [(4, 4, Outcome.UNREADABLE), (5, 5, Outcome.EVENT)]


def test_thousands_of_numbers_that_were_never_used_are_unreadable(story: Story) -> None:
    story.jenkins.set_next_build_number(SHOP, 5_000)
    story.build()
    story.poll_for(minutes=5)
    assert told(story.agent)[1:] == [(4, 4_999, Outcome.UNREADABLE), (5_000, 5_000, Outcome.EVENT)]


@pytest.mark.parametrize("result", [None, "SUCCESS"])
@pytest.mark.parametrize("followed", [True, False])
def test_a_build_whose_record_reloads_as_zeros_is_unreadable_and_not_forgotten(
    story: Story, *, result: str | None, followed: bool
) -> None:
    number = story.start()
    if followed:
        story.poll()
    lost = {"building": False, "inProgress": False, "result": result, "timestamp": 0, "duration": 0}
    story.jenkins.update_build(SHOP, number, **lost)
    assert story.poll_for(minutes=5) == []
    assert told(story.agent)[1:] == [(number, number, Outcome.UNREADABLE)]
    with story.agent.outbox() as outbox:
        assert [(missed.full_name, missed.builds) for missed in outbox.missed()] == [(SHOP, 1)]


def test_a_build_without_the_stage_that_the_rule_names_is_no_deployment_and_the_reason_says_so(story: Story) -> None:
    story.agent.restart((replace(rule("deploy/**"), stage=Pattern.parse("Deploy*")),))
    number = story.start()
    built = {"name": "Build", "state": "success", "type": "STAGE", "startTimeMillis": 1, "totalDurationMillis": 2}
    overview = {"status": "ok", "data": {"complete": True, "stages": [built]}}
    story.jenkins.set_stages(SHOP, number, overview=overview)
    story.later(seconds=20)
    story.jenkins.finish_build(SHOP, number)
    assert story.poll() == []
    found = next(job for job in story.agent.audit().jobs if job.job == SHOP).builds[-1]
    assert (found.first, found.outcome) == (number, Outcome.NO_DEPLOYMENT)
    assert found.detail == (
        '[[deployment]] number 1, job = "deploy/**": no stage that matches "Deploy*" ran; these ran: Build'
    )


def test_builds_from_the_time_without_a_rule_are_told_apart_from_those_after_it(story: Story) -> None:
    story.jenkins.add_job("lab/a")
    story.jenkins.add_builds("lab/a", 2, repo=REPO)
    story.agent.restart((rule("deploy/**"),))
    story.poll()
    story.agent.restart((rule(),))
    story.later(minutes=1)
    story.poll()
    assert told(story.agent, "lab/a") == [(1, 2, Outcome.NO_RULE)]
    story.build("lab/a")
    story.poll()
    assert told(story.agent, "lab/a") == [(1, 2, Outcome.NO_RULE), (3, 3, Outcome.EVENT)]


def test_a_job_under_another_name_keeps_what_became_of_its_builds(story: Story) -> None:
    deleted = story.build()
    story.jenkins.delete_build(SHOP, deleted)
    story.build()
    story.poll_for(minutes=5)
    before = told(story.agent)
    story.jenkins.rename_job(SHOP, "deploy/store")
    story.build("deploy/store")
    story.poll()
    assert told(story.agent, "deploy/store") == [*before[:-1], (5, 6, Outcome.EVENT)]
    assert told(story.agent, SHOP) == []


def test_two_jobs_that_change_names_with_each_other_keep_what_became_of_their_builds(story: Story) -> None:
    story.jenkins.add_job("deploy/api")
    story.jenkins.set_next_build_number("deploy/api", 7)
    for job in (SHOP, "deploy/api"):
        story.build(job)
    story.poll_for(minutes=5)
    before = told(story.agent, SHOP), told(story.agent, "deploy/api")
    story.jenkins.rename_job(SHOP, "deploy/x")
    story.jenkins.rename_job("deploy/api", SHOP)
    story.jenkins.rename_job("deploy/x", "deploy/api")
    for job in (SHOP, "deploy/api"):
        story.build(job)
    story.poll_for(minutes=5)
    after = told(story.agent, "deploy/api"), told(story.agent, SHOP)
    assert after == ([*before[0][:-1], (4, 5, Outcome.EVENT)], [*before[1][:-1], (7, 8, Outcome.EVENT)])


def test_a_job_that_was_created_again_begins_at_one(story: Story) -> None:
    story.build()
    story.poll()
    story.jenkins.delete_job(SHOP)
    story.jenkins.add_job(SHOP)
    story.build()
    story.poll()
    assert told(story.agent) == [(1, 1, Outcome.EVENT)]


def test_a_running_build_of_a_job_that_was_created_again_is_no_event_of_the_earlier_one(story: Story) -> None:
    for _ in range(2):
        story.build()
    story.poll()
    story.jenkins.delete_job(SHOP)
    story.jenkins.add_job(SHOP)
    story.start()
    assert told(story.agent) == [(1, 1, Outcome.NOT_POLLED)]
    story.poll_for(minutes=5)
    assert told(story.agent) == [(1, 1, Outcome.RUNNING)]


def test_a_deleted_job_is_told_as_far_as_it_was_known(story: Story) -> None:
    story.build()
    story.poll()
    story.jenkins.delete_job(SHOP)
    story.poll()
    [job] = story.agent.audit().jobs
    assert (job.job, job.gone, job.given_away) == (SHOP, True, 4)


def test_a_number_that_nobody_knows_anything_about_is_unaccounted_for(story: Story) -> None:
    """As it would be after a fault of the agent: the cursor went on, and no word of the build."""
    story.build()
    story.poll()
    with story.agent.outbox() as outbox:
        outbox.save_progress(Progress("main", begun=frozenset({SHOP})))
    found = story.agent.audit()
    assert found.unaccounted == 3
    assert [(b.first, b.last, b.outcome) for b in found.jobs[0].builds] == [
        (1, 3, Outcome.UNACCOUNTED), (4, 4, Outcome.EVENT),
    ]  # fmt: skip


def test_builds_of_before_are_counted_and_not_listed(story: Story) -> None:
    story.build()
    story.poll()
    found = story.agent.audit(since=story.clock.now_ms() + 1)
    assert found.jobs[0].numbers == {"history": 3, "event": 1}
    assert found.jobs[0].builds == []


def test_what_an_older_version_did_not_note_is_before_audit(story: Story) -> None:
    story.build()
    story.poll()
    with story.agent.outbox() as outbox:
        outbox.save_progress(Progress("main", begun=frozenset({SHOP})))
        outbox.save_progress(Progress("main", ended={SHOP: (Ended(1, 4, Ending.BEFORE_AUDIT, 1),)}))
    assert told(story.agent) == [(1, 3, Outcome.BEFORE_AUDIT), (4, 4, Outcome.EVENT)]


def test_a_build_that_never_gets_a_result_is_reported_although_jenkins_clock_was_set_back(story: Story) -> None:
    story.jenkins.skew_ms = -30 * 60_000  # before the agent's first poll
    odd = story.start()
    story.jenkins.update_build(SHOP, odd, building=False, inProgress=False)
    assert story.poll_for(minutes=5) == [f"main:{SHOP}#{odd}"]


def test_a_build_that_ran_at_the_first_poll_and_never_gets_a_result_is_reported(new_story: Story) -> None:
    new_story.jenkins.add_job(SHOP)
    running = new_story.start()
    new_story.poll()
    new_story.jenkins.update_build(SHOP, running, building=False, inProgress=False)
    assert new_story.poll_for(minutes=5) == [f"main:{SHOP}#{running}"]


# ---- jobs that are back


def test_another_branch_job_with_as_many_builds_as_the_one_that_was_gone_is_read(story: Story) -> None:
    story.build()
    story.poll()
    story.jenkins.delete_job(SHOP)
    story.poll_for(minutes=1)
    story.jenkins.add_job(SHOP)
    for _ in range(4):
        story.build()
    assert len(story.poll()) == 4
    assert told(story.agent) == [(1, 4, Outcome.EVENT)]


@pytest.mark.parametrize("builds_before", [1, 3])
def test_a_job_created_again_that_reaches_the_number_of_its_predecessor_at_once_is_read(
    new_story: Story, builds_before: int
) -> None:
    """Its lower number may be that of a replica that lags behind; when it is reached, its builds tell."""
    new_story.jenkins.add_job(SHOP)
    new_story.jenkins.add_builds(SHOP, builds_before, repo=REPO)
    new_story.later(minutes=1)
    new_story.poll()
    new_story.later()
    new_story.jenkins.delete_job(SHOP)
    new_story.jenkins.add_job(SHOP)
    new_story.poll()
    for _ in range(builds_before):
        new_story.build()
    assert len(new_story.poll_for(minutes=5)) == builds_before


def test_a_job_that_is_back_as_it_was_costs_one_question_and_gives_nothing(story: Story) -> None:
    story.build()
    story.poll()
    story.jenkins.hide(SHOP)
    story.poll_for(minutes=1)
    story.jenkins.show(SHOP)
    story.later()
    report = story.agent.poll()
    assert (report.enqueued, report.requests) == ([], 2)
    story.later()
    assert story.agent.poll().requests == 1


def test_whole_folders_that_are_back_are_asked_about_a_few_in_each_poll(
    story: Story, count_requests: Callable[[], int]
) -> None:
    names = [f"deploy/many/{n}" for n in range(BACK_AT_ONCE + 30)]
    for name in names:
        story.jenkins.add_job(name)
        story.jenkins.add_builds(name, 1, repo=REPO)
    story.poll()
    story.jenkins.hide("deploy/many")
    story.poll_for(minutes=1)
    story.jenkins.show("deploy/many")
    asked = []
    for _ in range(3):
        story.later()
        before = count_requests()
        assert story.poll() == []
        asked.append(count_requests() - before)
    assert asked == [1 + BACK_AT_ONCE, 1 + 30, 1]


@pytest.fixture
def count_requests(story: Story) -> Callable[[], int]:
    return lambda: len(story.jenkins.requests)


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.ENDING])
def test_a_build_between_two_states_is_open_and_ends_as_one_thing(story: Story, phase: Phase) -> None:
    number = story.start()
    story.jenkins.set_phase(SHOP, number, phase)
    story.poll()
    assert told(story.agent)[-1][2] in (Outcome.RUNNING, Outcome.WAITING)
    story.later(seconds=20)
    story.jenkins.finish_build(SHOP, number)
    story.poll_for(minutes=1)
    assert told(story.agent)[-1] == (number, number, Outcome.EVENT)
