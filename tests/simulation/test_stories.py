"""Stories of what happens to a Jenkins while the agent watches it, or while it does not."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from agent.model.keys import Project
from agent.sandbox.jenkins import LocalJenkins, Phase
from agent.sources.jenkins.renames import ASK_ABOUT_NAMES
from tests.simulation.support import REPO, Agent

if TYPE_CHECKING:
    from tests.integration.support import FakeClock
    from tests.simulation.engines import Engine
    from tests.simulation.support import Story

SHOP = "deploy/shop"
KINDS = ["freestyle", "pipeline", "matrix"]
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


# ---- a build's life


@pytest.mark.parametrize("kind", KINDS)
def test_a_build_that_runs_at_the_time_of_a_poll_is_reported_when_it_ended(story: Story, kind: str) -> None:
    story.jenkins.add_job("deploy/api", kind)
    story.jenkins.queue_build("deploy/api")
    assert story.poll() == []
    number = story.start("deploy/api")
    assert story.poll_for(minutes=5) == []
    story.jenkins.finish_build("deploy/api", number, "FAILURE")
    assert story.poll() == ["main:deploy/api#1"]
    assert story.poll_for(minutes=2) == []
    assert story.event("main:deploy/api#1").status == "failed"


def test_number_nine_finishes_after_number_ten(story: Story) -> None:
    story.jenkins.set_next_build_number(SHOP, 9)
    nine, ten = story.start(), story.start()
    story.jenkins.finish_build(SHOP, ten)
    assert story.poll() == ["main:deploy/shop#10"]
    story.poll_for(minutes=10)
    story.jenkins.finish_build(SHOP, nine)
    assert story.poll() == ["main:deploy/shop#9"]


def test_a_build_of_long_ago_finishes_after_hundreds_of_others(story: Story) -> None:
    slow = story.start()
    story.poll()
    for _ in range(3):
        story.later(minutes=60)
        story.jenkins.add_builds(SHOP, 80, every=1_000, repo=REPO)
        assert len(story.poll()) == 80
    story.jenkins.finish_build(SHOP, slow)
    assert story.poll() == [f"main:deploy/shop#{slow}"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_provisional_result_gets_worse(story: Story, kind: str) -> None:
    story.jenkins.add_job("deploy/api", kind)
    number = story.start("deploy/api")
    for provisional in ("SUCCESS", "UNSTABLE"):
        story.jenkins.set_phase("deploy/api", number, Phase.PROVISIONAL, provisional)
        assert story.poll_for(minutes=1) == []
    story.jenkins.finish_build("deploy/api", number, "FAILURE")
    assert story.poll() == ["main:deploy/api#1"]
    assert story.event("main:deploy/api#1").status == "failed"


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.ENDING])
@pytest.mark.parametrize("kind", KINDS)
def test_a_build_between_two_states_is_read_once_more(story: Story, kind: str, phase: Phase) -> None:
    story.jenkins.add_job("deploy/api", kind)
    number = story.start("deploy/api")
    story.jenkins.set_phase("deploy/api", number, phase, "SUCCESS")
    assert story.poll() == []
    story.later(seconds=1)
    story.jenkins.finish_build("deploy/api", number, duration=12_345)
    assert story.poll() == ["main:deploy/api#1"]
    event = story.event("main:deploy/api#1")
    assert (event.status, event.ended_at - event.started_at) == ("success", 12_345)


@pytest.mark.parametrize("listed", [True, False], ids=["only listed", "neither listed nor there"])
@pytest.mark.parametrize("polls", [1, 3])
def test_a_number_was_given_away_and_its_build_is_not_there_yet(story: Story, listed: bool, polls: int) -> None:
    number = story.start()
    story.jenkins.reveal_build(SHOP, number, listed=listed, found=False)
    for _ in range(polls):
        assert story.poll() == []
        story.later(seconds=5)
    story.jenkins.reveal_build(SHOP, number)
    assert story.poll_for(minutes=3) == []
    story.jenkins.finish_build(SHOP, number)
    assert story.poll() == [f"main:deploy/shop#{number}"]


def test_the_first_builds_of_a_new_job_begin_at_once_and_are_not_there_yet(story: Story) -> None:
    story.jenkins.add_job("deploy/api")
    numbers = [story.start("deploy/api") for _ in range(3)]
    for number in numbers:
        story.jenkins.reveal_build("deploy/api", number, listed=False, found=False)
    assert story.poll() == []
    story.later(seconds=5)
    for number in numbers:
        story.jenkins.finish_build("deploy/api", number)
    assert story.poll_for(minutes=2) == [f"main:deploy/api#{number}" for number in numbers]


def test_a_build_ends_that_was_never_seen_while_it_ran(story: Story) -> None:
    number = story.start()
    story.jenkins.reveal_build(SHOP, number, listed=False, found=False)
    assert story.poll() == []
    story.later(seconds=5)
    story.jenkins.finish_build(SHOP, number)
    assert story.poll_for(minutes=2) == [f"main:deploy/shop#{number}"]


# ---- builds that go


def test_a_build_is_discarded_before_it_could_be_read(story: Story) -> None:
    story.jenkins.keep_builds(SHOP, 2)
    for _ in range(5):
        story.build()
    assert story.poll() == ["main:deploy/shop#7", "main:deploy/shop#8"]
    assert story.poll_for(minutes=3) == []
    story.build()
    assert story.poll() == ["main:deploy/shop#9"]


def test_a_build_is_deleted_while_it_is_followed(story: Story) -> None:
    number = story.start()
    story.poll()
    story.jenkins.delete_build(SHOP, number)
    assert story.poll_for(minutes=5) == []
    story.build()
    assert story.poll() == ["main:deploy/shop#5"]


@pytest.mark.parametrize("jump", [50, 5_000, 2_000_000])
def test_the_numbers_jump(story: Story, jump: int) -> None:
    story.build()
    story.jenkins.set_next_build_number(SHOP, jump)
    assert story.poll() == ["main:deploy/shop#4"]
    story.build()
    assert story.poll() == [f"main:deploy/shop#{jump}"]
    assert story.poll_for(minutes=5) == []
    assert story.agent.poll().requests == 1


# ---- jobs that come, go and change their names


def test_a_job_gets_another_name(story: Story) -> None:
    story.build()
    story.poll()
    running = story.start()
    story.poll()
    story.jenkins.rename_job(SHOP, "deploy/store")
    assert story.poll_for(minutes=2) == []
    story.jenkins.finish_build("deploy/store", running)
    story.later()
    story.build("deploy/store")
    assert story.poll() == ["main:deploy/store#5", "main:deploy/store#6"]
    assert story.poll_for(minutes=2) == []


def test_a_job_gets_another_name_while_its_builds_were_not_read_yet(story: Story) -> None:
    story.build()
    story.poll()
    story.build()
    story.jenkins.rename_job(SHOP, "deploy/store")
    story.build("deploy/store")
    assert story.poll() == ["main:deploy/store#5", "main:deploy/store#6"]


@pytest.mark.parametrize("builds", [99, 100, 350], ids="{} builds".format)
def test_a_job_gets_another_name_while_the_agent_is_down_for_days(story: Story, builds: int) -> None:
    story.build()
    assert story.poll() == ["main:deploy/shop#4"]
    story.jenkins.rename_job(SHOP, "deploy/store")
    story.later(minutes=3 * 24 * 60)
    story.jenkins.add_builds("deploy/store", builds, every=MINUTE, repo=REPO)
    story.poll_for(minutes=1)
    assert sorted(event.number for event in story.agent.reported()) == list(range(4, 4 + builds + 1))


def test_a_job_gets_another_name_and_the_newest_build_that_was_known_is_gone(story: Story) -> None:
    """What was reported tells as well whose job it is."""
    for _ in range(3):
        story.build()
    assert len(story.poll()) == 3
    story.jenkins.rename_job(SHOP, "deploy/store")
    story.jenkins.delete_build("deploy/store", 6)
    story.build("deploy/store")
    assert story.poll() == ["main:deploy/store#7"]
    story.jenkins.delete_build("deploy/store", 7)
    story.jenkins.rename_job("deploy/store", "deploy/market")
    story.jenkins.delete_build("deploy/market", 4)
    story.build("deploy/market")
    assert story.poll() == ["main:deploy/market#8"]
    assert story.poll_for(minutes=1) == []


def test_a_job_gets_another_name_while_a_number_waits_for_its_build(story: Story) -> None:
    story.build()
    assert story.poll() == ["main:deploy/shop#4"]
    story.start()
    story.jenkins.reveal_build(SHOP, 5, listed=False, found=False)
    assert story.poll() == []
    story.later()
    story.jenkins.rename_job(SHOP, "deploy/store")
    story.jenkins.update_build("deploy/store", 5, timestamp=story.clock.now_ms())
    story.later(seconds=5)
    story.jenkins.finish_build("deploy/store", 5)
    story.poll_for(minutes=1)
    assert {event.number for event in story.agent.reported()} == {4, 5}


def test_a_job_moves_to_another_folder(story: Story) -> None:
    story.build()
    story.poll()
    story.jenkins.rename_job(SHOP, "deploy/team-a/shop")
    story.build("deploy/team-a/shop")
    assert story.poll() == ["main:deploy/team-a/shop#5"]


def test_a_whole_folder_moves(story: Story) -> None:
    for name in ("deploy/team-a/api", "deploy/team-a/web"):
        story.jenkins.add_job(name)
        story.build(name)
    assert len(story.poll()) == 2
    story.jenkins.rename_job("deploy/team-a", "deploy/team-b")
    assert story.poll_for(minutes=2) == []
    story.build("deploy/team-b/web")
    assert story.poll() == ["main:deploy/team-b/web#2"]


def test_jobs_that_one_timer_starts_cost_no_question_beyond_their_own(story: Story) -> None:
    """Their newest builds have the same number, and started in the same millisecond."""
    names = [f"nightly/app-{index}" for index in range(10)]
    timed(story, names)
    assert story.agent.poll().requests == 11
    for _ in range(3):
        story.later(minutes=60)
        assert timed(story, names) == 10
        assert story.agent.poll().requests == 11
        assert story.agent.poll().requests == 1
    assert len(story.agent.ids()) == 40


def test_a_job_that_is_shown_late_is_none_of_those_that_the_same_timer_started(story: Story) -> None:
    names = [f"nightly/app-{index}" for index in range(10)]
    timed(story, names)
    story.jenkins.hide(names[4])
    assert len(story.poll()) == 9
    story.jenkins.show(names[4])
    report = story.agent.poll()
    assert (report.enqueued, report.renamed) == ([f"main:{names[4]}#1"], 0)
    assert report.requests <= 2 + ASK_ABOUT_NAMES
    assert story.agent.poll().requests == 1


def test_a_folder_of_jobs_that_one_timer_starts_moves(story: Story) -> None:
    names = [f"nightly/app-{index}" for index in range(10)]
    timed(story, names)
    story.poll()
    running = {name: story.jenkins.start_build(name, repo=REPO) for name in names}
    story.poll()
    story.jenkins.rename_job("nightly", "daily")
    report = story.agent.poll()
    assert (report.renamed, report.enqueued) == (10, [])
    moved = [f"daily/app-{index}" for index in range(10)]
    for name in moved:
        story.jenkins.finish_build(name, running[f"nightly/{name.removeprefix('daily/')}"])
    assert sorted(story.poll()) == sorted(f"main:{name}#2" for name in moved)
    with story.agent.outbox() as outbox:
        for name in moved:
            [former] = outbox.former_names(Project("jenkins", "main", name))
            assert former.name == f"nightly/{name.removeprefix('daily/')}"


def test_jobs_that_one_timer_starts_are_told_apart_by_their_other_builds_when_they_get_other_names(
    story: Story,
) -> None:
    names = ["nightly/one", "nightly/two", "nightly/three"]
    for name in names:
        story.jenkins.add_job(name)
        story.build(name)
    story.later(minutes=60)
    timed(story, names)
    story.poll()
    assert len(story.agent.ids()) == 6
    for name, other in zip(names, ["nightly/a", "nightly/b", "nightly/c"], strict=True):
        story.jenkins.rename_job(name, other)
    assert story.poll_for(minutes=1) == []
    with story.agent.outbox() as outbox:
        formers = {name: outbox.former_names(Project("jenkins", "main", f"nightly/{name}")) for name in "abc"}
    assert {name: [former.name for former in found] for name, found in formers.items()} == {
        "a": ["nightly/one"], "b": ["nightly/two"], "c": ["nightly/three"],
    }  # fmt: skip


def timed(story: Story, names: list[str]) -> int:
    """A build of each of the jobs, all in the same millisecond; returns how many."""
    at = story.clock.now_ms()
    for name in names:
        with suppress(KeyError):
            story.jenkins.numbers(name)
            continue
        story.jenkins.add_job(name)
    story.poll()
    for name in names:
        story.jenkins.start_build(name, repo=REPO, timestamp=at)
    story.later(seconds=30)
    for name in names:
        story.jenkins.finish_build(name, story.jenkins.numbers(name)[-1])
    return len(names)


def test_a_job_takes_the_name_of_another(story: Story) -> None:
    story.jenkins.add_job("deploy/shop-new")
    for _ in range(7):
        story.build("deploy/shop-new")
    story.build()
    assert len(story.poll()) == 8
    story.jenkins.rename_job(SHOP, "deploy/shop-old")
    story.jenkins.rename_job("deploy/shop-new", SHOP)
    assert story.poll_for(minutes=2) == []
    story.build()
    story.build("deploy/shop-old")
    assert sorted(e.number for e in story.agent.reported()) == [1, 2, 3, 4, 4, 5, 6, 7]
    story.poll_for(minutes=2)
    assert sorted(e.number for e in story.agent.reported()) == [1, 2, 3, 4, 4, 5, 5, 6, 7, 8]


def test_two_jobs_swap_their_names(story: Story) -> None:
    story.jenkins.add_job("deploy/api")
    for _ in range(2):
        story.build("deploy/api")
    story.build()
    assert len(story.poll()) == 3
    for old, new in ((SHOP, "deploy/aside"), ("deploy/api", SHOP), ("deploy/aside", "deploy/api")):
        story.jenkins.rename_job(old, new)
    assert story.poll_for(minutes=2) == []
    story.build()
    story.build("deploy/api")
    story.poll_for(minutes=2)
    assert sorted(event.number for event in story.agent.reported()) == [1, 2, 3, 4, 5]


def test_a_job_takes_the_name_of_another_with_just_its_next_number_and_nothing_else_happens(story: Story) -> None:
    """The old name's cursor goes with the other job; that the answer stays the same does not mean that all was read."""
    story.jenkins.add_job("deploy/api")
    running = story.start("deploy/api")
    story.build()
    assert story.poll() == ["main:deploy/shop#4"]
    story.jenkins.set_next_build_number("deploy/api", 5)
    story.jenkins.rename_job(SHOP, "deploy/store")
    story.start("deploy/store")
    story.jenkins.rename_job("deploy/api", SHOP)
    story.jenkins.finish_build(SHOP, running)
    assert story.poll_for(minutes=1) == ["main:deploy/shop#1"]


def test_a_job_takes_the_name_of_one_that_is_gone_and_was_never_built(story: Story) -> None:
    story.jenkins.add_job("deploy/empty")
    story.poll()
    story.later(minutes=5)
    story.build()
    story.jenkins.delete_job("deploy/empty")
    assert story.poll() == ["main:deploy/shop#4"]
    story.jenkins.rename_job(SHOP, "deploy/empty")
    story.poll()
    story.build("deploy/empty")
    story.poll()
    assert [event.number for event in story.agent.reported()] == [4, 5]


def test_a_job_is_deleted_and_created_again(story: Story) -> None:
    story.build()
    story.poll()
    story.jenkins.delete_job(SHOP)
    story.poll()
    story.jenkins.add_job(SHOP)
    story.build()
    assert story.poll() == ["main:deploy/shop#1"]
    story.build()
    assert story.poll() == ["main:deploy/shop#2"]


# Exactly back at the old next number, it is told by the next build: see tests/integration/test_poller.py.
@pytest.mark.parametrize("builds", [3, 5, 20, 103, 104, 105, 150], ids="{} builds".format)
def test_a_job_is_created_again_and_catches_up_with_its_old_number_between_two_polls(story: Story, builds: int) -> None:
    story.build()
    assert story.poll() == ["main:deploy/shop#4"]
    story.later(minutes=30)
    story.jenkins.delete_job(SHOP)
    story.jenkins.add_job(SHOP)
    story.later(minutes=300)
    story.jenkins.add_builds(SHOP, builds, repo=REPO)
    story.poll_for(minutes=2)
    reported = [event.number for event in story.agent.reported()]
    assert sorted(reported) == sorted([4, *range(1, builds + 1)])


def test_a_job_is_created_again_while_the_clock_is_set_back_and_passes_the_old_number(story: Story) -> None:
    """Its builds did not start later, but the newest that is known started at another time."""
    story.later(minutes=60)
    story.build()
    assert story.poll() == ["main:deploy/shop#4"]
    story.jenkins.delete_job(SHOP)
    story.jenkins.add_job(SHOP)
    story.jenkins.skew_ms = -15 * MINUTE
    for _ in range(5):
        story.build()
    story.poll_for(minutes=1)
    assert sorted(event.number for event in story.agent.reported()) == [1, 2, 3, 4, 4, 5]


def test_a_branch_appears_and_vanishes(story: Story) -> None:
    story.jenkins.add_folder("deploy/mb", "multibranch")
    story.jenkins.add_job("deploy/mb/main")
    story.poll()
    branch = "deploy/mb/feature%2Fx"
    story.jenkins.add_job(branch)
    story.build(branch)
    assert story.poll() == ["main:deploy/mb/feature%2Fx#1"]
    story.build(branch)
    story.jenkins.disable_job(branch)
    assert story.poll() == ["main:deploy/mb/feature%2Fx#2"]
    story.start(branch)
    story.poll()
    story.jenkins.delete_job(branch)
    assert story.poll_for(minutes=3) == []
    story.build("deploy/mb/main")
    assert story.poll() == ["main:deploy/mb/main#1"]


# ---- the controller


@pytest.mark.parametrize("kind", KINDS)
def test_the_controller_restarts(story: Story, kind: str) -> None:
    story.jenkins.add_job("deploy/api", kind)
    number = story.start("deploy/api")
    story.build()
    assert story.poll() == ["main:deploy/shop#4"]
    story.jenkins.stop()
    assert story.poll_for(minutes=1) == []
    story.jenkins.boot()
    assert story.poll_for(minutes=1) == []
    story.jenkins.restart("aborted")
    enqueued = story.poll()
    if kind == "pipeline":  # goes on
        assert enqueued == []
        story.jenkins.finish_build("deploy/api", number, "ABORTED")
        enqueued = story.poll()
    assert enqueued == ["main:deploy/api#1"]
    assert story.event("main:deploy/api#1").status == "canceled"


def test_the_controller_crashes_and_forgets_a_running_build(story: Story) -> None:
    story.jenkins.add_job("deploy/api", "freestyle")
    story.start("deploy/api")
    story.poll()
    story.jenkins.stop()
    story.poll()
    story.jenkins.restart("vanished")
    assert story.poll_for(minutes=3) == []
    story.build("deploy/api")
    assert story.poll() == ["main:deploy/api#2"]


def test_a_permission_is_taken_and_given_back(story: Story) -> None:
    running = story.start()
    story.poll()
    story.jenkins.hide("deploy")
    story.jenkins.finish_build(SHOP, running)
    story.build()
    assert story.poll_for(minutes=10) == []
    story.jenkins.show("deploy")
    assert story.poll() == ["main:deploy/shop#4", "main:deploy/shop#5"]
    assert story.poll_for(minutes=2) == []


def test_a_job_is_shown_for_the_first_time_after_the_first_start(story: Story) -> None:
    story.jenkins.add_job("secret/deploy")
    story.jenkins.hide("secret")
    story.poll()
    story.build("secret/deploy")
    story.later(minutes=10)
    story.jenkins.show("secret")
    assert story.poll() == ["main:secret/deploy#1"]


@pytest.mark.parametrize("skew", [-7 * MINUTE, 7 * MINUTE], ids=["behind", "ahead"])
def test_the_controllers_clock_is_off(new_story: Story, skew: int) -> None:
    story = new_story
    story.jenkins.skew_ms = skew
    story.jenkins.add_job(SHOP)
    story.build()
    story.later(seconds=2)
    assert story.poll() == []
    for number in (2, 3):
        story.build()
        assert story.poll() == [f"main:deploy/shop#{number}"]
    story.jenkins.add_job("deploy/api")
    story.build("deploy/api")
    assert story.poll() == ["main:deploy/api#1"]


@pytest.mark.parametrize("step", [-15 * MINUTE, 15 * MINUTE], ids=["back", "ahead"])
def test_the_controllers_clock_is_set(story: Story, step: int) -> None:
    story.build()
    story.poll()
    running = story.start()
    story.jenkins.skew_ms = step
    story.poll()
    story.build()
    assert story.poll() == ["main:deploy/shop#6"]
    story.jenkins.update_build(SHOP, running, building=False, inProgress=False)  # and it stays so, without a result
    assert story.poll_for(minutes=5) == ["main:deploy/shop#5"]


def test_a_clock_that_is_set_back_makes_no_job_another_one(story: Story) -> None:
    """Builds that were read when the clock was ahead seem to start after the last look."""
    story.build()
    odd = story.start()
    story.jenkins.update_build(SHOP, odd, building=False, inProgress=False)  # and it stays so, without a result
    story.jenkins.skew_ms = -15 * MINUTE
    story.start()
    assert story.poll_for(minutes=5) == ["main:deploy/shop#4", "main:deploy/shop#5"]


def test_a_clock_that_is_set_back_forgets_no_build_of_long_ago(new_story: Story) -> None:
    story = new_story
    story.jenkins.add_job(SHOP)
    slow = story.start()
    story.later(minutes=300)
    story.jenkins.add_builds(SHOP, 150, repo=REPO)
    story.later()
    story.poll()
    story.build()
    assert story.poll() == ["main:deploy/shop#152"]
    story.jenkins.skew_ms = -15 * MINUTE
    running = story.start()
    assert story.poll() == []
    story.jenkins.finish_build(SHOP, running)
    story.start()
    assert story.poll() == [f"main:deploy/shop#{running}"]
    story.jenkins.finish_build(SHOP, slow)
    assert story.poll() == [f"main:deploy/shop#{slow}"]


@pytest.mark.parametrize("step", [-40 * MINUTE, 40 * MINUTE], ids=["back", "ahead"])
def test_the_agents_clock_is_set(story: Story, step: int) -> None:
    running = story.start()
    story.poll()
    story.clock.jump(ms=step)
    story.jenkins.skew_ms -= step  # the controller's own time goes on as before
    story.build()
    assert story.poll() == ["main:deploy/shop#5"]
    story.jenkins.finish_build(SHOP, running)
    assert story.poll() == ["main:deploy/shop#4"]


def test_two_controllers_have_a_job_of_the_same_name(engine: Engine, clock: FakeClock) -> None:
    controllers = {name: LocalJenkins(now_ms=clock.now_ms) for name in ("east", "west")}
    agent = Agent(engine, controllers)
    for name, jenkins in controllers.items():
        jenkins.add_job(SHOP)
        agent.poll(name)
    clock.advance(s=30)
    for name, jenkins in controllers.items():
        jenkins.add_builds(SHOP, 2, every=5_000, repo=REPO)
        agent.poll(name)
    controllers["west"].delete_job(SHOP)
    agent.poll("west")
    agent.poll("east")
    agent.kill()
    assert agent.ids() == [f"{name}:deploy/shop#{number}" for name in controllers for number in (1, 2)]


# ---- much at once


@pytest.mark.parametrize(
    ("since", "expected"), [("now", 0), ("30d", 30), ("3650d", 900)], ids=["now", "a month", "everything"]
)
def test_the_first_start_meets_years_of_history(
    engine: Engine, clock: FakeClock, jenkins: LocalJenkins, since: str, expected: int
) -> None:
    for name in ("deploy/a", "deploy/b", "deploy/c"):
        jenkins.add_job(name)
    jenkins.add_builds("deploy/a", 900, every=DAY, repo=REPO)
    jenkins.add_builds("deploy/b", 200, every=30 * DAY, duration=29 * DAY)
    for number in range(1, 201):
        jenkins.delete_build("deploy/b", number)
    clock.advance(s=60)
    agent = Agent(engine, {"main": jenkins}, since=since)
    report = agent.poll()
    agent.kill()
    assert len(report.enqueued) == expected
    if since == "now":
        assert report.requests <= 2


def test_jobs_that_were_never_built_cost_nothing(engine: Engine, clock: FakeClock, jenkins: LocalJenkins) -> None:
    for index in range(3_000):
        jenkins.add_job(f"deploy/app-{index}")
    agent = Agent(engine, {"main": jenkins}, since="30d")
    assert agent.poll().requests == 1
    with agent.outbox() as outbox:
        assert len(outbox.jobs("main")) == 3_000
    jenkins.start_build("deploy/app-7", repo=REPO)
    clock.advance(s=30)
    jenkins.finish_build("deploy/app-7", 1)
    report = agent.poll()
    assert (report.enqueued, report.requests) == (["main:deploy/app-7#1"], 2)
    agent.kill()


def test_the_agent_was_down_for_days(story: Story) -> None:
    story.poll()
    story.agent.kill()
    story.later(minutes=3 * 24 * 60)
    for name in ("deploy/api", "deploy/web"):
        story.jenkins.add_job(name)
        story.jenkins.add_builds(name, 40, every=MINUTE, repo=REPO)
    numbers = story.jenkins.add_builds(SHOP, 2_500, every=MINUTE, repo=REPO)
    running = story.start()
    story.poll_for(minutes=1)
    reported = [e.number for e in story.agent.reported() if e.deployment_id.startswith("main:deploy/shop#")]
    assert sorted(reported) == numbers
    assert len(story.agent.ids()) == 2_580
    story.jenkins.finish_build(SHOP, running)
    assert story.poll() == [f"main:deploy/shop#{running}"]


# ---- what cannot be read


def test_a_corrupt_build_hides_no_other(story: Story) -> None:
    numbers = [story.build() for _ in range(3)]
    story.jenkins.corrupt_build(SHOP, numbers[1])
    story.poll_for(minutes=2)
    assert [event.number for event in story.agent.reported()] == [numbers[0], numbers[2]]
    for _ in range(2):
        expected = story.build()
        assert story.poll() == [f"main:deploy/shop#{expected}"]


def test_a_build_that_becomes_corrupt_while_it_is_followed_hides_no_other(story: Story) -> None:
    number = story.start()
    story.poll()
    story.jenkins.finish_build(SHOP, number)
    story.jenkins.corrupt_build(SHOP, number)
    story.build()
    assert story.poll() == ["main:deploy/shop#5"]
    assert story.poll_for(minutes=2) == []
    story.build()
    assert story.poll() == ["main:deploy/shop#6"]


def test_a_build_that_could_not_be_read_for_some_minutes_is_reported_after_all(story: Story) -> None:
    number = story.build()
    story.jenkins.corrupt_build(SHOP, number)
    assert story.poll_for(minutes=4) == []
    story.jenkins.corrupt_build(SHOP, number, corrupt=False)
    assert story.poll_for(minutes=2) == [f"main:deploy/shop#{number}"]
