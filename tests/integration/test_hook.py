"""Builds that report themselves: hook and poller agree, in whatever order they come, and Hivel gets one event."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agent.config.credentials import Token
from agent.config.rules import Pattern, Template
from agent.config.settings import DeliverySettings, HivelSettings, Settings
from agent.config.rules import Options
from agent.ingest.replay import replay
from agent.ingest.takeup import TakeUp
from agent.model.event import DeploymentEvent, completed
from agent.model.report import ReportError
from agent.model.status import Status
from agent.outbox.sqlite.store import Entry, Settlement, State
from agent.sources.jenkins.backfill import Request, backfill
from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.history import Span
from agent.sources.jenkins.poller import Poller
from tests.integration.support import NOON, REPO, event, ids, rule

if TYPE_CHECKING:
    from pathlib import Path

    from agent.config.rules import Rule
    from agent.config.settings import JenkinsSettings
    from agent.outbox.sqlite.store import Outbox
    from agent.sandbox.jenkins import LocalJenkins
    from tests.integration.support import FakeClock

HOUR = 3_600_000


class Hook:
    """A daemon without its loop: it takes reports up, polls, and lets go of what was held too long."""

    def __init__(self, controller: JenkinsSettings, outbox: Outbox, rules: tuple[Rule, ...]) -> None:
        self.settings = Settings(
            file=outbox.path, hivel=HivelSettings("http://hivel.test", Token("t")), controllers=(controller,),
            rules=rules, options=Options(environment_map={"prod": "production"}), outbox=outbox.path,
            delivery=DeliverySettings(), hold_for_ms=HOUR,
        )  # fmt: skip
        self.outbox = outbox
        self.takeup = TakeUp(self.settings, outbox)

    def report(self, **fields: Any) -> str:
        """Report as a build does; returns the state of its event."""
        return self.takeup.take(fields, self.outbox.clock.now_ms()).state.value

    def build_reports(self, job: str, number: int, **fields: Any) -> str:
        url = f"{self.settings.controllers[0].url}job/{job.replace('/', '/job/')}/{number}/"
        return self.report(job=job, build_number=str(number), build_url=url, **fields)

    def poll(self) -> list[str]:
        settings = self.settings
        client = JenkinsClient(settings.controllers[0])
        try:
            poller = Poller(
                settings.controllers[0], settings.rules, client, self.outbox, settings.options,
                take_reports=self.takeup.take_stored,
            )  # fmt: skip
            return poller.poll().enqueued
        finally:
            client.close()

    def release(self) -> None:
        self.outbox.release_overdue(HOUR)

    def states(self) -> dict[str, str]:
        return {row.deployment_id: row.state.value for row in reversed(self.outbox.rows(None, 1000))}


@pytest.fixture
def hook(controller: JenkinsSettings, outbox: Outbox, jenkins: LocalJenkins, clock: FakeClock) -> Hook:
    jenkins.add_job("deploy/shop")
    jenkins.add_job("build/shop")
    hook = Hook(controller, outbox, (rule("deploy/**"),))
    hook.poll()
    clock.advance(s=30)
    return hook


def start(jenkins: LocalJenkins, clock: FakeClock, job: str = "deploy/shop") -> int:
    number = jenkins.start_build(job, repo=REPO)
    clock.advance(s=60)
    return number


def test_a_report_of_a_running_build_is_held_until_the_poller_has_the_final_word(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = start(jenkins, clock)
    assert hook.build_reports("deploy/shop", number, status="SUCCESS", environment="prod", image="shop:7") == "held"
    assert hook.poll() == []
    clock.advance(s=15)
    jenkins.finish_build("deploy/shop", number, "UNSTABLE")  # a later post condition made it worse
    assert hook.poll() == [f"main:deploy/shop#{number}"]
    sent = event(outbox, f"main:deploy/shop#{number}")
    assert (sent["status"], sent["environment"], sent["image"]) == ("failed", "production", "shop:7")
    assert sent["repo_url"] == REPO
    assert hook.states() == {f"main:deploy/shop#{number}": "pending"}


def test_a_report_of_a_job_without_a_rule_is_confirmed_by_asking_for_that_build(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = start(jenkins, clock, "build/shop")
    hook.build_reports("build/shop", number, environment="staging", status="SUCCESS")
    assert hook.poll() == []
    jenkins.finish_build("build/shop", number, "FAILURE")
    assert hook.poll() == [f"main:build/shop#{number}"]
    assert event(outbox, f"main:build/shop#{number}")["status"] == "failed"
    assert event(outbox, f"main:build/shop#{number}")["environment"] == "staging"
    another = start(jenkins, clock, "build/shop")
    jenkins.finish_build("build/shop", another)
    assert hook.poll() == [], "a job without a rule deploys only when its builds say so"


def test_without_the_pollers_word_it_goes_out_alone_when_its_time_is_over(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = start(jenkins, clock)
    hook.build_reports(
        "deploy/shop", number, status="SUCCESS", repo_url=REPO, branch="origin/main", environment="production",
        start_time=clock.now_ms() - 50_000,
    )  # fmt: skip
    clock.advance(ms=HOUR - 1)
    hook.release()
    assert set(hook.states().values()) == {"held"}
    clock.advance(ms=1)
    hook.release()
    assert hook.states() == {f"main:deploy/shop#{number}": "pending"}
    sent = event(outbox, f"main:deploy/shop#{number}")
    assert (sent["status"], sent["branch"]) == ("success", "main")
    jenkins.finish_build("deploy/shop", number, "FAILURE")
    assert hook.poll() == [], "it went out already"


def test_what_goes_out_alone_and_lacks_a_field_says_so(hook: Hook, jenkins: LocalJenkins, clock: FakeClock) -> None:
    number = start(jenkins, clock)
    hook.build_reports("deploy/shop", number, status="SUCCESS")
    clock.advance(ms=HOUR)
    hook.release()
    [row] = hook.outbox.rows(State.FAILED, 10)
    assert "no repo_url, no branch" in (row.reason or "")


def test_a_clock_that_is_set_back_holds_nothing_for_years(hook: Hook, jenkins: LocalJenkins, clock: FakeClock) -> None:
    hook.build_reports("deploy/shop", start(jenkins, clock), status="SUCCESS", repo_url=REPO, branch="main")
    clock.jump(ms=-5 * 365 * 24 * HOUR)
    hook.release()
    assert set(hook.states().values()) == {"pending"}


def test_a_report_that_comes_after_the_poller_adds_what_only_the_build_knew(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = start(jenkins, clock)
    jenkins.finish_build("deploy/shop", number, "FAILURE")
    assert hook.poll() == [f"main:deploy/shop#{number}"]
    assert hook.build_reports("deploy/shop", number, status="SUCCESS", image="shop:8", pr_numbers=[7, 9]) == "pending"
    sent = event(outbox, f"main:deploy/shop#{number}")
    assert (sent["status"], sent["image"], sent["pr_number"], sent["pr_numbers"]) == ("failed", "shop:8", "7", [7, 9])
    assert len(ids(outbox)) == 1


@pytest.mark.parametrize("delivered", [True, False], ids=["delivered", "pending"])
@pytest.mark.parametrize("stages", [True, False], ids=["stages", "whole build"])
def test_a_report_that_comes_hours_after_the_poller_is_not_a_second_event(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox, delivered: bool, stages: bool
) -> None:
    if stages:
        pattern = Pattern.parse("re:^Deploy (?P<environment>.+)$")
        by_stage = replace(
            rule("deploy/**"), stage=pattern, environment=Template.parse("{environment}", ("environment",))
        )
        hook = Hook(hook.settings.controllers[0], outbox, (by_stage,))
    number = start(jenkins, clock)
    told = {"startTimeMillis": clock.now_ms() - 9_000, "durationMillis": 2_000, "status": "SUCCESS"}
    shown = [{"id": name, "name": f"Deploy {name}", **told} for name in ("eu", "us")]
    jenkins.set_stages("deploy/shop", number, wfapi={"stages": shown})
    jenkins.finish_build("deploy/shop", number, "FAILURE")
    hook.poll()
    before = hook.states()
    assert len(before) == (2 if stages else 1)
    if delivered:
        deliver(outbox)
    clock.advance(ms=3 * HOUR)
    hook.build_reports("deploy/shop", number, status="SUCCESS", environment="prod", image="shop:8")
    hook.poll()
    assert list(hook.states()) == list(before)
    assert set(hook.states().values()) == {"delivered" if delivered else "pending"}
    if not stages:
        sent = event(outbox, f"main:deploy/shop#{number}")
        assert (sent["status"], sent.get("image")) == ("failed", None if delivered else "shop:8")


def test_a_report_mends_an_event_that_the_poller_could_not_make(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = jenkins.start_build("deploy/shop")  # checks nothing out
    clock.advance(s=60)
    jenkins.finish_build("deploy/shop", number)
    hook.poll()
    assert set(hook.states().values()) == {"failed"}
    hook.build_reports("deploy/shop", number, repo_url=REPO, branch="main")
    assert set(hook.states().values()) == {"pending"}


def test_stages_that_report_themselves_are_final_and_the_build_is_not_reported_again(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = start(jenkins, clock)
    common = {"repo_url": REPO, "branch": "main", "start_time": clock.now_ms() - 5_000}
    for environment, status in (("staging", "SUCCESS"), ("prod", "FAILURE")):
        told = hook.build_reports(
            "deploy/shop", number, stage=f"Deploy {environment}", environment=environment, status=status, **common
        )
        assert told == "pending"
    jenkins.finish_build("deploy/shop", number, "FAILURE")
    assert hook.poll() == []
    assert ids(outbox) == [f"main:deploy/shop#{number}:staging", f"main:deploy/shop#{number}:production"]
    assert event(outbox, f"main:deploy/shop#{number}:production")["status"] == "failed"


def test_two_stages_of_one_environment_are_two_events_and_a_repeated_report_is_one(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = start(jenkins, clock)
    for stage in ("Deploy api", "Deploy web", "Deploy api", "Deploy web"):
        hook.build_reports(
            "deploy/shop", number, stage=stage, environment="production", status="SUCCESS", repo_url=REPO, branch="main"
        )
    base = f"main:deploy/shop#{number}:production"
    assert ids(outbox) == [base, f"{base}:Deploy web"]


@pytest.mark.parametrize("order", list(permutations(["eu", "us", "apac"])), ids="-".join)
def test_a_build_that_reports_several_environments_has_an_event_for_each(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox, order: tuple[str, ...]
) -> None:
    number = start(jenkins, clock)
    for environment in (*order, order[0]):
        assert hook.build_reports("deploy/shop", number, environment=environment, status="SUCCESS") == "held"
    jenkins.finish_build("deploy/shop", number)
    hook.poll()
    base = f"main:deploy/shop#{number}"
    assert sorted(ids(outbox)) == [f"{base}:apac", f"{base}:eu", f"{base}:us"]
    assert set(hook.states().values()) == {"pending"}


def test_a_number_that_an_earlier_job_had_is_another_build(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    first = start(jenkins, clock)
    jenkins.finish_build("deploy/shop", first)
    hook.poll()
    jenkins.delete_job("deploy/shop")
    hook.poll()
    clock.advance(ms=30 * 24 * HOUR)
    jenkins.add_job("deploy/shop")
    again = start(jenkins, clock)
    assert again == first
    told = hook.build_reports("deploy/shop", again, status="SUCCESS", image="x:2", start_time=clock.now_ms() - 60_000)
    assert told == "held"
    jenkins.finish_build("deploy/shop", again, "UNSTABLE")
    [second] = hook.poll()
    assert second.startswith(f"main:deploy/shop#{first}@")
    assert (event(outbox, second)["status"], event(outbox, second)["image"]) == ("failed", "x:2")
    assert len(ids(outbox)) == 2


def test_builds_of_a_controller_that_nobody_polls_are_final_at_once(hook: Hook, outbox: Outbox) -> None:
    told = hook.report(
        job="deploy/shop", build_number=7, controller="far-away", status="ABORTED", environment="production",
        repo_url=REPO, branch="main",
    )  # fmt: skip
    assert told == "pending"
    assert event(outbox, "far-away:deploy/shop#7")["status"] == "canceled"


def test_other_systems_are_final_at_once_and_once_only(hook: Hook, outbox: Outbox) -> None:
    report = {
        "provider": "gitlab_ci", "run": "gitlab_ci:acme/shop#77", "status": "success", "environment": "prod",
        "repo_url": "https://user:secret@gitlab.example.com/acme/shop.git", "branch": "main",
        "start_time": "2026-11-23T11:59:00Z",
    }  # fmt: skip
    assert [hook.report(**report) for _ in range(3)] == ["pending"] * 3
    [name] = ids(outbox)
    assert name == "gitlab_ci:acme/shop#77:prod"
    sent = event(outbox, name)
    assert (sent["status"], sent["environment"]) == ("success", "production")
    assert sent["repo_url"] == "https://gitlab.example.com/acme/shop.git"


@pytest.mark.parametrize(
    ("report", "complaint"),
    [
        ({}, "deployment_id: nothing says which deployment this is"),
        ({"job": "a", "build_number": "x"}, "build_number: 'x' is no number of a build"),
        ({"job": "a", "build_number": "1", "start_time": "yesterday"}, "start_time: 'yesterday' is no time"),
        ({"provider": "cvs", "run": "x"}, "provider: 'cvs' is not known; there are jenkins, github_actions"),
        ({"run": "x", "status": "success"}, "no repo_url, no environment, no branch in the report"),
        ({"deployment_id": "x", "repo_url": "r", "branch": "b", "environment": "e" * 300}, "environment is 300"),
        ({"job": "a", "build_number": "1", "colour": "red"}, "'colour': there is no such field"),
        ({"job": ["a"]}, "job: text is expected, not a list"),
        ({"pr_numbers": ["1"]}, "pr_numbers: a list of whole numbers"),
        ({"build_number": True}, "build_number: text or a number is expected, not true or false"),
        ({"job": "a", "build_number": "1", "event_type": "started"}, "event_type: only completed"),
    ],
)
def test_a_wrong_report_is_refused_with_the_field_that_is_wrong(
    hook: Hook, report: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ReportError, match=complaint.replace("(", r"\(")):
        hook.report(**report)
    assert hook.states() == {}


def test_a_stored_report_that_is_wrong_becomes_a_failed_event_and_holds_nobody_back(hook: Hook, outbox: Outbox) -> None:
    outbox.add_report("{nonsense")
    outbox.add_report('{"deployment_id": "x", "repo_url": "r", "branch": "b", "environment": "e", "status": "success"}')
    taken = hook.takeup.take_stored()
    assert [each.state.value for each in taken] == ["failed", "pending"]
    assert outbox.reports(10) == []
    [failed] = outbox.rows(State.FAILED, 10)
    assert "the report is no JSON" in (failed.reason or "")


@pytest.mark.parametrize(
    "moment", ["9" * 400, "99999999999999999999", "1e5", "-1", "0001-01-01T00:00:00+23:59", "Mon, 1"]
)
def test_no_time_is_so_absurd_that_it_stops_the_reports_behind_it(hook: Hook, outbox: Outbox, moment: str) -> None:
    for job in ("deploy/shop", "other"):
        outbox.add_report(msgspec.json.encode({"job": job, "build_number": "1", "start_time": moment}).decode())
    outbox.add_report('{"deployment_id": "x", "repo_url": "r", "branch": "b", "environment": "e", "status": "success"}')
    hook.takeup.take_stored()
    assert outbox.reports(10) == []
    assert "x" in ids(outbox)


def test_a_stored_report_that_is_wrong_says_of_which_build_it_is(hook: Hook, outbox: Outbox) -> None:
    outbox.add_report('{"job": "deploy/shop", "build_number": "7", "start_time": "yesterday"}')
    hook.takeup.take_stored()
    [failed] = outbox.rows(State.FAILED, 10)
    assert (failed.reason or "").endswith("the report is of job deploy/shop, build_number 7")


@pytest.mark.parametrize(
    ("word", "status"),
    [("failed", "failed"), ("canceled", "canceled"), ("Cancelled", "canceled"), ("unknown", "unknown"),
     ("success", "success"), ("UNSTABLE", "failed")],
)  # fmt: skip
def test_hivels_own_words_are_understood_of_a_jenkins_build_too(
    hook: Hook, outbox: Outbox, word: str, status: str
) -> None:
    hook.build_reports(
        "deploy/shop", 7, stage="Deploy", environment="e", status=word, repo_url=REPO, branch="main"
    )  # fmt: skip
    assert event(outbox, "main:deploy/shop#7:e")["status"] == status


def test_a_report_that_is_repeated_after_the_poll_changes_the_final_word_no_more(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = start(jenkins, clock)
    hook.build_reports("deploy/shop", number, status="SUCCESS", environment="prod")
    clock.advance(s=30)
    jenkins.finish_build("deploy/shop", number, "FAILURE")
    hook.poll()
    final = event(outbox, f"main:deploy/shop#{number}")
    clock.advance(s=30)
    hook.build_reports("deploy/shop", number, status="SUCCESS", image="i:2")
    assert event(outbox, f"main:deploy/shop#{number}") == final | {"image": "i:2"}
    assert (final["status"], final["environment"]) == ("failed", "production")


@pytest.mark.parametrize("polled", [True, False], ids=["confirmed", "not confirmed"])
@pytest.mark.parametrize("delivered", [True, False], ids=["delivered", "pending"])
def test_an_environment_that_is_reported_after_another_went_out_has_an_event_of_its_own(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox, polled: bool, delivered: bool
) -> None:
    number = start(jenkins, clock)
    common: dict[str, Any] = {"status": "SUCCESS", "repo_url": REPO, "branch": "main"}
    hook.build_reports("deploy/shop", number, environment="eu", **common)
    if polled:
        jenkins.finish_build("deploy/shop", number)
        hook.poll()
    else:
        clock.advance(ms=HOUR)
        hook.release()
    if delivered:
        deliver(outbox)
    for _ in range(2):
        for environment in ("us", "eu"):
            hook.build_reports("deploy/shop", number, environment=environment, **common)
            clock.advance(s=1)
    if not polled:
        jenkins.finish_build("deploy/shop", number)
    hook.poll()
    sent = [event(outbox, name)["environment"] for name in ids(outbox)]
    assert sorted(sent) == ["eu", "us"]
    assert set(hook.states().values()) <= {"pending", "delivered"}


def example(deployment_id: str, environment: str) -> DeploymentEvent:
    """An event as the poller makes it."""
    return completed(
        deployment_id=deployment_id, status=Status.SUCCESS, started_at=NOON, ended_at=NOON, repo_url=REPO,
        environment=environment, branch="main",
    )  # fmt: skip


def deliver(outbox: Outbox) -> None:
    """Settle everything that is due."""
    now = outbox.clock.now_ms()
    outbox.settle([Settlement(due.id, State.DELIVERED, True, now, 1, 200, "delivered", "") for due in outbox.claim(99)])


def test_an_event_that_may_be_on_its_way_keeps_its_id(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = start(jenkins, clock)
    common: dict[str, Any] = {"status": "SUCCESS", "repo_url": REPO, "branch": "main"}
    hook.build_reports("deploy/shop", number, environment="eu", **common)
    clock.advance(ms=HOUR)
    hook.release()
    [under_way] = outbox.claim(10)
    hook.build_reports("deploy/shop", number, environment="us", **common)
    hook.build_reports("deploy/shop", number, environment="eu", image="i:2", **common)
    assert under_way.deployment_id in ids(outbox)
    assert event(outbox, under_way.deployment_id)["environment"] == "eu"


@pytest.mark.parametrize("job", ["deploy/shop", "build/shop"])
@pytest.mark.parametrize("dated", [True, False], ids=["with its start", "without"])
@pytest.mark.parametrize("before", ["delivered", "failed", "pending"])
def test_a_job_that_is_created_again_has_its_own_events(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox, job: str, dated: bool, before: str
) -> None:
    common: dict[str, Any] = {"status": "SUCCESS", "environment": "production"}
    for image in ("i:1", "i:2"):
        number = start(jenkins, clock, job)
        assert number == 1
        when = {"start_time": clock.now_ms() - 60_000} if dated else {}
        missing: dict[str, Any] = {} if before == "failed" else {"repo_url": REPO, "branch": "main"}
        hook.build_reports(job, number, image=image, **when, **common, **missing)
        if before == "failed":
            clock.advance(ms=HOUR)
            hook.release()
        else:
            jenkins.finish_build(job, number)
            hook.poll()
        if before == "delivered":
            deliver(outbox)
        jenkins.delete_job(job)
        hook.poll()
        clock.advance(s=700)
        jenkins.add_job(job)
    rows = outbox.rows(None, 10)
    assert len(rows) == 2
    assert {row.state.value for row in rows} == {before}
    if before != "failed":
        assert sorted(event(outbox, name)["image"] for name in ids(outbox)) == ["i:1", "i:2"]


def test_a_stage_of_a_job_that_is_created_again_has_its_own_event(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    for _ in range(2):
        for _ in range(2):
            hook.build_reports(
                "build/shop", 1, stage="Deploy", environment="eu", status="SUCCESS", repo_url=REPO, branch="main"
            )
            clock.advance(s=5)
        deliver(outbox)
        clock.advance(s=700)
    assert len(ids(outbox)) == 2


def test_a_held_event_of_an_earlier_job_is_not_confirmed_by_another_ones_build(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = start(jenkins, clock, "build/shop")
    hook.build_reports("build/shop", number, status="SUCCESS", repo_url=REPO, branch="main", environment="eu")
    jenkins.delete_job("build/shop")
    clock.advance(s=700)
    jenkins.add_job("build/shop")
    again = start(jenkins, clock, "build/shop")
    jenkins.finish_build("build/shop", again, "FAILURE")
    assert hook.poll() == []
    clock.advance(ms=HOUR)
    hook.release()
    assert event(outbox, f"main:build/shop#{number}")["status"] == "success"
    assert len(ids(outbox)) == 1


def test_a_report_that_arrives_while_the_poller_reads_its_build_is_not_a_second_event(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = start(jenkins, clock)
    jenkins.finish_build("deploy/shop", number, "FAILURE")
    commit = Poller._commit

    def reported_first(*arguments: Any) -> None:
        hook.build_reports("deploy/shop", number, status="SUCCESS", image="i:1")
        commit(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Poller, "_commit", reported_first)
        hook.poll()
    assert ids(outbox) == [f"main:deploy/shop#{number}"]
    sent = event(outbox, f"main:deploy/shop#{number}")
    assert (sent["status"], sent["image"]) == ("failed", "i:1")


def test_a_job_that_gets_another_name_while_its_build_runs_has_one_event(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    first = start(jenkins, clock)
    jenkins.finish_build("deploy/shop", first)
    hook.poll()
    number = start(jenkins, clock)
    hook.poll()
    hook.build_reports("deploy/shop", number, status="SUCCESS", image="i:1")
    jenkins.rename_job("deploy/shop", "deploy/store")
    jenkins.finish_build("deploy/store", number, "FAILURE")
    hook.poll()
    assert ids(outbox)[1:] == [f"main:deploy/store#{number}"]
    assert event(outbox, f"main:deploy/store#{number}")["image"] == "i:1"


def test_what_went_out_of_time_without_a_repository_is_mended_by_the_poller(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = start(jenkins, clock)
    hook.build_reports("deploy/shop", number, status="SUCCESS", image="i:1")
    clock.advance(ms=HOUR)
    hook.release()
    assert set(hook.states().values()) == {"failed"}
    jenkins.finish_build("deploy/shop", number)
    assert hook.poll() == [f"main:deploy/shop#{number}"]
    assert hook.states() == {f"main:deploy/shop#{number}": "pending"}
    assert event(outbox, f"main:deploy/shop#{number}")["image"] == "i:1"


def test_a_report_without_an_environment_is_of_the_event_that_there_is(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = start(jenkins, clock)
    for fields in ({"environment": "eu"}, {"image": "i:1"}, {"environment": "eu", "pr_number": "7"}):
        assert hook.build_reports("deploy/shop", number, status="SUCCESS", **fields) == "held"
    jenkins.finish_build("deploy/shop", number)
    hook.poll()
    assert ids(outbox) == [f"main:deploy/shop#{number}"]
    sent = event(outbox, f"main:deploy/shop#{number}")
    assert (sent["environment"], sent["image"], sent["pr_number"]) == ("eu", "i:1", "7")


@pytest.mark.parametrize("order", list(permutations(["stage", "eu", "us"])), ids="-".join)
@pytest.mark.parametrize("before", [0, 1], ids=["", "in a job created again"])
def test_a_stage_and_a_whole_build_with_the_same_environment_do_not_take_each_others_id(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox, order: tuple[str, ...], before: int
) -> None:
    if before:
        hook.build_reports(
            "deploy/shop", 1, stage="Deploy", environment="eu", status="ABORTED", repo_url=REPO, branch="main"
        )
        clock.advance(s=700)
    started = clock.now_ms()
    number = jenkins.start_build("deploy/shop", repo=REPO)
    common: dict[str, Any] = {"status": "SUCCESS", "repo_url": REPO, "branch": "main", "start_time": started}
    for said in order:
        fields = {"stage": "Deploy", "environment": "eu"} if said == "stage" else {"environment": said}
        hook.build_reports("deploy/shop", number, **fields, **common)
    clock.advance(s=60)
    jenkins.finish_build("deploy/shop", number, "FAILURE")
    hook.poll()
    sent = [event(outbox, name) for name in ids(outbox)][before:]
    assert sorted((each["environment"], each["status"]) for each in sent) == [
        ("eu", "failed"), ("eu", "success"), ("us", "failed"),
    ]  # fmt: skip


def test_what_is_stored_but_not_taken_up_yet_is_known_to_the_poller(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    """The daemon was down; when it starts, the poller may be the first."""
    number = start(jenkins, clock)
    for stage in ("eu", "us"):
        said = {"job": "deploy/shop", "build_number": str(number), "stage": stage, "environment": stage}
        outbox.add_report(msgspec.json.encode(said | {"status": "SUCCESS", "repo_url": REPO, "branch": "m"}).decode())
    jenkins.finish_build("deploy/shop", number)
    hook.poll()
    assert ids(outbox) == [f"main:deploy/shop#{number}:{stage}" for stage in ("eu", "us")]


@pytest.mark.parametrize("delivered", [True, False])
def test_a_stage_that_reports_itself_after_the_poller_made_an_event_of_the_build_is_not_counted_twice(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox, delivered: bool
) -> None:
    number = start(jenkins, clock)
    jenkins.finish_build("deploy/shop", number)
    hook.poll()
    if delivered:
        deliver(outbox)
    before = outbox.rows(None, 10)
    hook.build_reports(
        "deploy/shop", number, stage="Deploy", environment="prod", status="SUCCESS", repo_url=REPO, branch="main"
    )
    assert outbox.rows(None, 10) == before


def test_a_stage_that_reports_itself_mends_what_the_poller_could_not_make(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = jenkins.start_build("deploy/shop")
    clock.advance(s=60)
    jenkins.finish_build("deploy/shop", number)
    hook.poll()
    hook.build_reports(
        "deploy/shop", number, stage="Deploy", environment="eu", status="SUCCESS", repo_url=REPO, branch="main"
    )
    assert hook.states() == {f"main:deploy/shop#{number}:eu": "pending"}


def test_a_build_that_the_poller_found_in_stages_stays_as_it_is(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    started = clock.now_ms()
    outbox.enqueue(
        [
            Entry(f"main:deploy/shop#7:{name}", started, None, example(f"main:deploy/shop#7:{name}", environment=name))
            for name in ("eu", "us")
        ]
    )
    before = outbox.rows(None, 10)
    for fields in ({"environment": "eu"}, {}):
        hook.build_reports("deploy/shop", 7, status="FAILURE", start_time=started, image="i:1", **fields)
    assert outbox.rows(None, 10) == before


def test_what_reported_itself_is_derived_again_by_replay_without_a_rule_and_with_environments(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = start(jenkins, clock, "build/shop")
    for environment in ("eu", "us"):
        hook.build_reports("build/shop", number, environment=environment, status="SUCCESS", branch="main")
    clock.advance(ms=HOUR)
    hook.release()
    assert set(hook.states().values()) == {"failed"}
    settings = replace(hook.settings, rules=(rule("build/**", repo_url=REPO),))
    failed = [row.id for row in outbox.rows(State.FAILED, 10)]
    assert [outcome.replayed for outcome in replay(outbox, hook.settings, failed)] == [False, False]
    assert "no repo_url" in (outbox.rows(State.FAILED, 10)[0].reason or "")
    assert [outcome.reason for outcome in replay(outbox, settings, failed)] == [None, None]
    base = f"main:build/shop#{number}"
    assert hook.states() == {f"{base}:eu": "pending", f"{base}:us": "pending"}


def test_a_backfill_leaves_builds_alone_that_reported_themselves(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = start(jenkins, clock)
    for environment in ("eu", "us"):
        hook.build_reports(
            "deploy/shop", number, environment=environment, status="SUCCESS", repo_url=REPO, branch="main"
        )
    clock.advance(ms=HOUR)
    hook.release()
    jenkins.finish_build("deploy/shop", number)
    before = hook.states()
    span = Span(0, clock.now_ms() + 1)
    report = backfill(hook.settings, outbox, JenkinsClient, Request(span, "all"), lambda *_: None)
    assert (report.enqueued, report.known) == ([], 1)
    assert hook.states() == before


# ---- every order of arrival, with crashes between


ORDERS = [
    pytest.param("report finish poll", id="report, then poll"),
    pytest.param("finish report poll", id="report after the end, then poll"),
    pytest.param("finish poll report", id="poll, then report"),
    pytest.param("poll report poll finish poll", id="followed, report, poll"),
    pytest.param("report report finish poll", id="reported twice"),
    pytest.param("report finish poll report poll", id="reported again after the poll"),
    pytest.param("report finish release", id="poller never"),
    pytest.param("report release finish poll", id="poller too late"),
    pytest.param("report finish release poll report", id="everything late"),
    pytest.param("finish poll", id="no report"),
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("job", ["deploy/shop", "build/shop"])
@pytest.mark.parametrize("skew_ms", [0, -48 * HOUR, 48 * HOUR], ids=["one time", "Jenkins behind", "Jenkins ahead"])
def test_in_every_order_of_report_and_poll_there_is_one_event(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox, order: str, job: str, skew_ms: int
) -> None:
    jenkins.skew_ms = skew_ms
    hook.poll()
    number = start(jenkins, clock, job)
    for step in order.split():
        match step:
            case "report":
                hook.build_reports(
                    job, number, status="SUCCESS", repo_url=REPO, branch="main", environment="production", image="i:1"
                )
            case "finish":
                jenkins.finish_build(job, number)
            case "poll":
                hook.poll()
            case "release":
                clock.advance(ms=HOUR)
                hook.release()
        hook = Hook(hook.settings.controllers[0], outbox, hook.settings.rules)  # a crash after every step
        clock.advance(s=5)
    hook.poll()
    expected = [] if job == "build/shop" and "report" not in order else [f"main:{job}#{number}"]
    assert ids(outbox) == expected
    if expected:
        assert hook.states()[expected[0]] == "pending"
        assert event(outbox, expected[0]).get("image") == ("i:1" if "report" in order else None)


def test_a_crash_between_report_and_event_repeats_the_report_and_not_the_event(
    hook: Hook, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox.add_report('{"deployment_id": "x", "repo_url": "r", "branch": "b", "environment": "e", "status": "success"}')

    class KilledError(BaseException):
        pass

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(type(outbox), "remove_report", killed)
        with pytest.raises(KilledError):
            hook.takeup.take_stored()
    assert len(outbox.reports(10)) == 1
    assert ids(outbox) == []
    hook.takeup.take_stored()
    assert ids(outbox) == ["x"]


def test_two_controllers_are_told_apart_by_the_address_of_the_build(
    hook: Hook, controller: JenkinsSettings, outbox: Outbox, tmp_path: Path
) -> None:
    west = replace(controller, name="west", url="https://west.example.com/jenkins/")
    settings = replace(hook.settings, controllers=(controller, west))
    takeup = TakeUp(settings, outbox)
    for url in (f"{controller.url}job/deploy/1/", "https://west.example.com/jenkins/job/deploy/1/"):
        takeup.take({"build_url": url, "status": "SUCCESS"}, outbox.clock.now_ms())
    taken = takeup.take({"build_url": "https://else.example.com/job/deploy/1/"}, outbox.clock.now_ms())
    assert taken.controller is None
    assert ids(outbox) == ["main:deploy#1", "west:deploy#1", "else.example.com:deploy#1"]
