"""Builds that report themselves: hook and poller agree, in whatever order they come, and Hivel gets one event."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from structlog.testing import capture_logs

from agent.config.rules import Options, Pattern, Template
from agent.ingest.ingest import Ingest
from agent.ingest.replay import replay
from agent.model.deployment import State
from agent.model.report import ReportError
from agent.outbox.values import Filter, Keep, OutboxFullError, Page
from agent.sources.jenkins.backfill import Request, backfill
from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.history import Span
from agent.sources.jenkins.poller import Poller
from agent.sources.reports import inbox
from agent.sources.reports.accept import Reports
from agent.sources.reports.inbox import take_inbox
from tests.deployments import rows
from tests.engines import on_both_engines
from tests.integration.reporting import (
    HOUR,
    deliver,
    event,
    ids,
    ingest_of,
    poison,
    reports_of,
    settings_of,
    states,
)
from tests.integration.support import REPO, rule

if TYPE_CHECKING:
    from agent.config.rules import Rule
    from agent.config.settings import JenkinsSettings
    from agent.outbox.interface import Outbox
    from agent.sandbox.jenkins import LocalJenkins
    from tests.integration.support import FakeClock


class Hook:
    """A daemon without its loop: it takes reports, polls, and lets go of what was held too long."""

    def __init__(
        self, controller: JenkinsSettings, outbox: Outbox, rules: tuple[Rule, ...], hold_for_ms: int = HOUR
    ) -> None:
        options = Options(environment_map={"prod": "production"})
        settings = settings_of(Path("outbox.db"), controller, rules=rules, options=options)
        self.settings = replace(settings, hold_for_ms=hold_for_ms)
        self.outbox = outbox
        self.ingest = ingest_of(self.settings, outbox)
        self.reports = Reports(self.settings, self.ingest)
        self.requests = 0

    def report(self, **fields: Any) -> str:
        """Report as a build does; returns the state of its event."""
        return self.reports.take(fields, source="intake", at=self.outbox.clock.now_ms()).state.value

    def build_reports(self, job: str, number: int, **fields: Any) -> str:
        url = f"{self.settings.controllers[0].url}job/{job.replace('/', '/job/')}/{number}/"
        return self.report(job=job, build_number=str(number), build_url=url, **fields)

    def stored(self, *reports: dict[str, Any]) -> None:
        """Reports that ``emit`` stored."""
        for report in reports:
            self.outbox.add_report(msgspec.json.encode(report).decode())

    def take(self) -> list[str]:
        """Take the inbox; the states of what it was."""
        return [taken.state.value for taken in take_inbox(self.reports)]

    def poll(self) -> list[str]:
        settings = self.settings
        client = JenkinsClient(settings.controllers[0])
        try:
            take = partial(take_inbox, self.reports)
            report = Poller(settings.controllers[0], client, self.ingest, take_reports=take).poll()
            self.requests += report.requests
            return report.enqueued
        finally:
            client.close()

    def release(self) -> None:
        self.ingest.release()

    def states(self) -> dict[str, str]:
        return states(self.outbox)


@pytest.fixture
def hook(controller: JenkinsSettings, outbox: Outbox, jenkins: LocalJenkins, clock: FakeClock) -> Hook:
    jenkins.add_job("deploy/shop")
    jenkins.add_job("build/shop")
    hook = Hook(controller, outbox, (rule("deploy/**"),))
    hook.poll()
    clock.advance(s=30)
    return hook


class KilledError(BaseException):
    """The process ends."""


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
    [under_way] = outbox.claim(10)
    hook.poll()
    deliver(outbox, under_way)
    assert hook.states() == {f"main:deploy/shop#{number}": "delivered"}
    assert event(outbox, f"main:deploy/shop#{number}")["status"] == "success", "it went out already"


def test_what_goes_out_alone_and_lacks_a_field_says_so(hook: Hook, jenkins: LocalJenkins, clock: FakeClock) -> None:
    number = start(jenkins, clock)
    hook.build_reports("deploy/shop", number, status="SUCCESS")
    clock.advance(ms=HOUR)
    hook.release()
    [row] = rows(hook.outbox, State.FAILED)
    assert "no repo_url, no branch" in (row.reason or "")


def test_what_went_out_alone_and_is_not_at_hivel_yet_gets_the_pollers_word(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = start(jenkins, clock)
    hook.build_reports("deploy/shop", number, status="SUCCESS", repo_url=REPO, branch="main")
    clock.advance(ms=HOUR)
    hook.release()
    jenkins.finish_build("deploy/shop", number, "FAILURE")
    hook.poll()
    assert event(outbox, f"main:deploy/shop#{number}")["status"] == "failed"
    assert hook.states() == {f"main:deploy/shop#{number}": "pending"}


def test_a_shorter_hold_for_releases_only_what_has_been_held_that_long(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    common: dict[str, Any] = {"status": "SUCCESS", "repo_url": REPO, "branch": "main"}
    first, second = start(jenkins, clock), start(jenkins, clock)
    hook.build_reports("deploy/shop", first, **common)
    clock.advance(s=300)
    hook.build_reports("deploy/shop", second, **common)
    clock.advance(s=300)
    hook.release()
    assert set(hook.states().values()) == {"held"}
    shorter = Hook(hook.settings.controllers[0], outbox, hook.settings.rules, hold_for_ms=400_000)
    shorter.release()
    assert shorter.states() == {f"main:deploy/shop#{first}": "pending", f"main:deploy/shop#{second}": "held"}
    clock.advance(s=99)
    shorter.release()
    assert shorter.states()[f"main:deploy/shop#{second}"] == "held"
    clock.advance(s=1)
    shorter.release()
    assert shorter.states()[f"main:deploy/shop#{second}"] == "pending"


@pytest.mark.parametrize("back_ms", [60_000, 48 * HOUR, 5 * 365 * 24 * HOUR], ids=["a minute", "two days", "years"])
def test_a_clock_that_is_set_back_releases_nothing_early_and_holds_nothing_for_years(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, back_ms: int
) -> None:
    hook.build_reports("deploy/shop", start(jenkins, clock), status="SUCCESS", repo_url=REPO, branch="main")
    clock.advance(ms=HOUR // 2)
    clock.jump(ms=-back_ms)
    hook.release()
    assert set(hook.states().values()) == {"held"}
    clock.advance(ms=HOUR - 1)
    if back_ms > HOUR:
        hook.release()
        assert set(hook.states().values()) == {"held"}
    clock.advance(ms=1)
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
        hook = by_stage(hook, outbox)
    number = start(jenkins, clock)
    stages_run(jenkins, clock, number, "eu", "us")
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
    common = {**GIVEN, "start_time": clock.now_ms() - 5_000}
    for environment, status in (("staging", "SUCCESS"), ("prod", "FAILURE")):
        told = hook.build_reports(
            "deploy/shop", number, stage=f"Deploy {environment}", environment=environment, status=status, **common
        )
        assert told == "pending"
    jenkins.finish_build("deploy/shop", number, "FAILURE")
    hook.poll()
    assert ids(outbox) == [f"main:deploy/shop#{number}:staging", f"main:deploy/shop#{number}:production"]
    told = [event(outbox, name) for name in ids(outbox)]
    assert [(each["status"], each["start_time"]) for each in told] == [
        ("success", "2026-11-23T12:01:25.000Z"), ("failed", "2026-11-23T12:01:25.000Z"),
    ]  # fmt: skip


def test_a_stage_that_found_a_librarys_repository_is_held_and_sent_with_what_the_build_checked_out(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = start(jenkins, clock)
    library = {"repo_url": "https://git.example.test/acme/jenkins-shared", "branch": "v2", "commit_hash": "b" * 40}
    told = hook.build_reports("deploy/shop", number, stage="Deploy", environment="eu", status="SUCCESS", **library)
    assert told == "held"
    hook.poll()
    assert outbox.claim(10) == [], "the build still runs: nobody knows yet what it checked out"
    jenkins.finish_build("deploy/shop", number, "FAILURE")
    hook.poll()
    assert ids(outbox) == [f"main:deploy/shop#{number}:eu"]
    sent = event(outbox, f"main:deploy/shop#{number}:eu")
    assert (sent["status"], sent["repo_url"], sent["branch"]) == ("success", REPO, "main")


def test_a_stage_is_held_no_longer_than_hold_for(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = start(jenkins, clock)
    hook.build_reports(
        "deploy/shop", number, stage="Deploy", environment="eu", status="SUCCESS", repo_url=REPO, branch="main"
    )
    clock.advance(s=3_599)
    hook.release()
    assert set(hook.states().values()) == {"held"}
    clock.advance(s=1)
    hook.release()
    assert hook.states() == {f"main:deploy/shop#{number}:eu": "pending"}


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
        ({}, "deployment_id: the report does not identify a deployment"),
        ({"job": "a", "build_number": "x"}, "build_number: 'x' is not a build number"),
        ({"job": "a", "build_number": "1", "start_time": "yesterday"}, "start_time: 'yesterday' is not a time"),
        ({"provider": "cvs", "run": "x"}, "provider: 'cvs' is not a known provider; use one of jenkins, "),
        ({"run": "x", "status": "success"}, "invalid report: no repo_url, no environment, no branch"),
        ({"deployment_id": "x", "repo_url": "r", "branch": "b", "environment": "e" * 300}, "environment is 300"),
        ({"job": "a", "build_number": "1", "colour": "red"}, "unknown field 'colour'"),
        ({"job": ["a"]}, "job: text is expected, not a list"),
        ({"pr_numbers": ["1"]}, "pr_numbers: a list of whole numbers"),
        ({"build_number": True}, "build_number: text or a number is expected, not true or false"),
        ({"job": "a", "build_number": "1", "event_type": "started"}, "event_type: must be"),
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
    assert hook.take() == ["failed", "pending"]
    assert outbox.reports(10) == []
    [failed] = rows(outbox, State.FAILED)
    assert "the report is not JSON" in (failed.reason or "")


@pytest.mark.parametrize(
    "moment", ["9" * 400, "99999999999999999999", "1e5", "-1", "0001-01-01T00:00:00+23:59", "Mon, 1"]
)
def test_no_time_is_so_absurd_that_it_stops_the_reports_behind_it(hook: Hook, outbox: Outbox, moment: str) -> None:
    for job in ("deploy/shop", "other"):
        outbox.add_report(msgspec.json.encode({"job": job, "build_number": "1", "start_time": moment}).decode())
    outbox.add_report('{"deployment_id": "x", "repo_url": "r", "branch": "b", "environment": "e", "status": "success"}')
    hook.take()
    assert outbox.reports(10) == []
    assert "x" in ids(outbox)


PLACEHOLDER = "https://[your-jenkins]/job/a/2/"
# Somebody wrote down where it comes from: it is final at once.
GIVEN: dict[str, Any] = {"repo_url": REPO, "branch": "main", "given": ["repo_url", "branch"]}
STAGE: dict[str, Any] = {"job": "deploy/shop", "stage": "Deploy", "status": "SUCCESS", **GIVEN}


@pytest.mark.parametrize("field", ["build_url", "repo_url", "logs_url"])
def test_an_address_that_nobody_can_read_stops_nothing(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox, field: str
) -> None:
    """One report with a placeholder raised in every poll and every round from then on, restart included."""
    hook.stored({"job": "a", "build_number": "2", field: PLACEHOLDER}, {**STAGE, "build_number": "7"})
    jenkins.finish_build("deploy/shop", start(jenkins, clock))
    for _ in range(2):
        hook.poll()
        hook = Hook(hook.settings.controllers[0], outbox, hook.settings.rules)
    assert outbox.reports(10) == []
    assert sorted(hook.states().values()) == ["failed", "pending", "pending"]
    [failed] = rows(outbox, State.FAILED)
    assert (failed.reason or "").startswith(f"{field}: '{PLACEHOLDER}' is not a URL: ")
    assert (failed.reason or "").endswith("; the report is about job a, build_number 2")
    for report in ({"job": "a", "build_number": "2", field: PLACEHOLDER}, {"deployment_id": "x", field: PLACEHOLDER}):
        with pytest.raises(ReportError, match=f"{field}: .* is not a URL"):
            hook.report(**report)


def test_a_report_that_raises_what_nobody_expected_is_set_aside_and_the_others_are_taken_once(
    hook: Hook, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"7{n}" for n in range(4)]
    bodies = [{**STAGE, "build_number": name} for name in names]
    hook.stored(*bodies[:2], {"deployment_id": "poison", "status": "SUCCESS"}, *bodies[2:])
    poison(monkeypatch)
    with capture_logs() as logs:
        assert hook.take() == ["pending"] * 4
        assert hook.take() == []
    assert ids(outbox) == [f"main:deploy/shop#{name}:production" for name in names]
    assert all(row.revision == 1 for row in rows(outbox))
    assert outbox.reports(10) == []
    [item] = outbox.things_set_aside(10)
    assert (item.kind, item.body) == ("report", '{"deployment_id":"poison","status":"SUCCESS"}')
    assert item.error.endswith("KeyError: 'nobody expected it'\n")
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["report set aside: unexpected error"]


@on_both_engines
def test_a_full_batch_that_raises_is_not_lost_and_not_doubled_by_a_crash(
    hook: Hook, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.stored(*({**STAGE, "build_number": str(number)} for number in range(1, 6)))

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(Ingest, "accept", killed)
        with pytest.raises(KilledError):
            hook.take()
    assert (len(outbox.reports(10)), ids(outbox)) == (5, [])
    assert hook.take() == ["pending"] * 5


def test_many_reports_are_taken_in_batches_that_are_committed_as_they_go(
    hook: Hook, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5,000 in one transaction kept everybody else out for seconds."""
    reports = [{**STAGE, "build_number": str(number)} for number in range(1, 2 * inbox.AT_ONCE + 51)]
    with outbox.transaction():
        hook.stored(*reports)
    left: list[int] = []
    tell = inbox.tell

    def committed(taken: Any) -> None:
        with type(outbox)(outbox.path, outbox.clock) as other:
            left.append(len(other.reports(10_000)))
        tell(taken)

    monkeypatch.setattr(inbox, "tell", committed)
    assert hook.take() == ["pending"] * len(reports)
    assert left == [inbox.AT_ONCE + 50, 50, 0]
    assert len(ids(outbox)) == len(reports)


def test_an_outbox_that_is_full_keeps_the_reports_in_the_inbox(
    hook: Hook, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.stored({**STAGE, "build_number": "7"})
    with monkeypatch.context() as patched:
        patched.setattr(outbox, "max_size", 1)
        with pytest.raises(OutboxFullError):
            hook.take()
        with pytest.raises(OutboxFullError):
            hook.build_reports("deploy/shop", 8, status="SUCCESS")
    assert len(outbox.reports(10)) == 1
    assert hook.take() == ["pending"]


def test_a_stored_report_that_is_wrong_says_of_which_build_it_is(hook: Hook, outbox: Outbox) -> None:
    outbox.add_report('{"job": "deploy/shop", "build_number": "7", "start_time": "yesterday"}')
    hook.take()
    [failed] = rows(outbox, State.FAILED)
    assert (failed.reason or "").endswith("the report is about job deploy/shop, build_number 7")


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


def test_a_report_does_not_rewrite_what_is_on_its_way(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    """The outbox said staging and an image; Hivel had production without one."""
    number = start(jenkins, clock)
    jenkins.finish_build("deploy/shop", number)
    hook.poll()
    [under_way] = outbox.claim(10)
    hook.build_reports("deploy/shop", number, environment="staging", image="acme/shop:1.2.3")
    deliver(outbox, under_way)
    assert hook.states() == {f"main:deploy/shop#{number}": "delivered"}
    has = event(outbox, f"main:deploy/shop#{number}")
    assert (has["environment"], has.get("image")) == ("production", None)
    assert outbox.claim(10) == [], "a second event under this id would only earn: already there"


def test_a_stage_that_is_run_again_is_a_second_deployment(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = start(jenkins, clock)
    for status in ("FAILURE", "FAILURE", "SUCCESS"):
        began = clock.now_ms()
        clock.advance(s=20)
        for _ in range(2):  # the second says it again
            hook.build_reports(
                "deploy/shop", number, stage="Deploy", environment="eu", status=status, start_time=began, repo_url=REPO,
                branch="main",
            )  # fmt: skip
    base = f"main:deploy/shop#{number}:eu"
    assert ids(outbox) == [base, f"{base}~2", f"{base}~3"]
    assert [event(outbox, name)["status"] for name in ids(outbox)] == ["failed", "failed", "success"]


@pytest.mark.parametrize("delivered", [True, False], ids=["delivered", "pending"])
def test_a_job_with_a_long_name_whose_stage_reports_itself_has_one_event(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox, delivered: bool
) -> None:
    """Ids are cut; what a deployment is of is not read out of them."""
    job = f"deploy/{'x' * 232}"
    assert len(job) == 239
    jenkins.add_job(job)
    hook.poll()
    number = start(jenkins, clock, job)
    hook.build_reports(
        job, number, stage="Deploy", environment="production", status="SUCCESS", repo_url=REPO, branch="main"
    )
    if delivered:
        deliver(outbox)
    jenkins.finish_build(job, number)
    hook.poll()
    [name] = ids(outbox)
    assert len(name) == 255


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
    assert list(hook.states().values()) == [before] * 2
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


@pytest.mark.parametrize("again", [True, False], ids=["another has its number", "nobody has its number"])
def test_a_build_that_was_gone_before_a_poll_knew_it_is_not_asked_for_for_ever(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox, again: bool
) -> None:
    hook.build_reports("build/shop", start(jenkins, clock, "build/shop"), status="SUCCESS", repo_url=REPO, branch="b")
    jenkins.delete_job("build/shop")
    clock.advance(s=700)
    jenkins.add_job("build/shop")
    if again:
        number = start(jenkins, clock, "build/shop")
        hook.build_reports("build/shop", number, status="SUCCESS", repo_url=REPO, branch="main")
        jenkins.finish_build("build/shop", number)
    for _ in range(10):
        hook.poll()
        clock.advance(s=15)
    clock.advance(ms=HOUR)
    hook.release()
    deliver(outbox)
    said = [len(outbox.facts(row.run)) for row in rows(outbox)]
    hook.requests = 0
    for _ in range(20):
        hook.poll()
        clock.advance(s=15)
    assert hook.requests == 20, "nothing happened"
    assert [len(outbox.facts(row.run)) for row in rows(outbox)] == said
    assert len(ids(outbox)) == (2 if again else 1)


def test_a_report_that_arrives_while_the_poller_reads_its_build_is_not_a_second_event(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = start(jenkins, clock)
    jenkins.finish_build("deploy/shop", number, "FAILURE")
    accept = Ingest.accept

    def reported_first(*arguments: Any) -> Any:
        monkeypatch.undo()
        hook.build_reports("deploy/shop", number, status="SUCCESS", image="i:1")
        return accept(*arguments)

    monkeypatch.setattr(Ingest, "accept", reported_first)
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
    before = [(row.deployment_id, row.state, row.content) for row in rows(outbox)]
    hook.build_reports(
        "deploy/shop", number, stage="Deploy", environment="prod", status="SUCCESS", repo_url=REPO, branch="main"
    )
    assert [(row.deployment_id, row.state, row.content) for row in rows(outbox)] == before


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
    assert list(hook.states().values()) == ["pending"]
    [name] = ids(outbox)
    assert event(outbox, name)["environment"] == "eu"


def by_stage(hook: Hook, outbox: Outbox) -> Hook:
    """With a rule that makes a deployment of each stage that deploys."""
    pattern = Pattern.parse("re:^Deploy (?P<environment>.+)$")
    stages = replace(rule("deploy/**"), stage=pattern, environment=Template.parse("{environment}", ("environment",)))
    return Hook(hook.settings.controllers[0], outbox, (stages,))


def stages_run(jenkins: LocalJenkins, clock: FakeClock, number: int, *names: str) -> None:
    told = {"startTimeMillis": clock.now_ms() - 9_000, "durationMillis": 2_000, "status": "SUCCESS"}
    shown = [{"id": name, "name": f"Deploy {name}", **told} for name in names]
    jenkins.set_stages("deploy/shop", number, wfapi={"stages": shown})


def test_a_build_that_the_poller_found_in_stages_stays_as_it_is_but_for_what_it_could_not_know(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    hook, number = by_stage(hook, outbox), start(jenkins, clock)
    stages_run(jenkins, clock, number, "eu", "us")
    jenkins.finish_build("deploy/shop", number)
    hook.poll()
    before = [row.content for row in rows(outbox)]
    hook.build_reports("deploy/shop", number, status="FAILURE", environment="eu", image="i:1")
    assert [row.content for row in rows(outbox)] == before
    hook = by_stage(hook, outbox)
    another = start(jenkins, clock)
    stages_run(jenkins, clock, another, "eu", "us")
    jenkins.finish_build("deploy/shop", another)
    hook.poll()
    hook.build_reports("deploy/shop", another, status="FAILURE", image="i:1")
    told = [event(outbox, f"main:deploy/shop#{another}:{name}") for name in ("eu", "us")]
    assert [(each["status"], each["image"]) for each in told] == [("success", "i:1")] * 2
    assert len(ids(outbox)) == 4


def test_what_reported_itself_is_derived_again_by_replay_without_a_rule_and_with_environments(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = start(jenkins, clock, "build/shop")
    for environment in ("eu", "us"):
        hook.build_reports("build/shop", number, environment=environment, status="SUCCESS", branch="main")
    clock.advance(ms=HOUR)
    hook.release()
    assert set(hook.states().values()) == {"failed"}
    mended = Hook(hook.settings.controllers[0], outbox, (rule("build/**", repo_url=REPO),))
    failed = outbox.query(Filter(states=(State.FAILED,)), Page())
    assert [outcome.done for outcome in replay(hook.ingest, failed, "ada")] == [False, False]
    assert "no repo_url" in (rows(outbox, State.FAILED)[0].reason or "")
    assert [outcome.reason for outcome in replay(mended.ingest, failed, "ada")] == [None, None]
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
    report = backfill(hook.settings, hook.ingest, JenkinsClient, Request(span, "all"), lambda *_: None)
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
@pytest.mark.parametrize(
    ("engine", "skew_ms"),
    [
        pytest.param("sqlite", 0, id="one time"),
        pytest.param("sqlite", -48 * HOUR, id="Jenkins behind"),
        pytest.param("sqlite", 48 * HOUR, id="Jenkins ahead"),
        pytest.param("postgresql", 0, id="postgresql"),
    ],
    indirect=["engine"],
)
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


@on_both_engines
def test_a_crash_between_report_and_event_repeats_the_report_and_not_the_event(
    hook: Hook, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox.add_report('{"deployment_id": "x", "repo_url": "r", "branch": "b", "environment": "e", "status": "success"}')

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(type(outbox), "remove_report", killed)
        with pytest.raises(KilledError):
            hook.take()
    assert len(outbox.reports(10)) == 1
    assert ids(outbox) == []
    hook.take()
    assert ids(outbox) == ["x"]


def test_two_controllers_are_told_apart_by_the_address_of_the_build(
    controller: JenkinsSettings, outbox: Outbox
) -> None:
    west = replace(controller, name="west", url="https://west.example.com/jenkins/")
    reports = reports_of(settings_of(outbox.path, controller, west), outbox)
    now = outbox.clock.now_ms()
    for url in (f"{controller.url}job/deploy/1/", "https://west.example.com/jenkins/job/deploy/1/"):
        reports.take({"build_url": url, "status": "SUCCESS"}, source="intake", at=now)
    taken = reports.take({"build_url": "https://else.example.com/job/deploy/1/"}, source="intake", at=now)
    assert taken.controller is None
    assert ids(outbox) == ["main:deploy#1", "west:deploy#1", "else.example.com:deploy#1"]


# ---- ids that somebody gives


COMPLETE: dict[str, Any] = {"status": "SUCCESS", "repo_url": REPO, "branch": "other", "environment": "qa"}


@pytest.mark.parametrize("named", [True, False], ids=["names its build", "the id alone"])
@pytest.mark.parametrize("late_s", [0, 3 * 3_600])
@pytest.mark.parametrize("before", ["pending", "delivered"])
def test_who_gives_the_id_of_a_deployment_that_the_poller_made_adds_to_that_one(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox, named: bool, late_s: int, before: str
) -> None:
    number = start(jenkins, clock)
    jenkins.finish_build("deploy/shop", number, "FAILURE")
    hook.poll()
    if before == "delivered":
        deliver(outbox)
    clock.advance(s=late_s)
    build = {"job": "deploy/shop", "build_number": number} if named else {}
    told = hook.report(deployment_id=f"main:deploy/shop#{number}", image="i:1", **build, **COMPLETE)
    if told == "held":  # it names no more than its build, and comes late
        clock.advance(s=1)
    hook.poll()
    assert hook.states() == {f"main:deploy/shop#{number}": before}
    has = event(outbox, f"main:deploy/shop#{number}")
    assert (has["status"], has.get("image")) == ("failed", None if before == "delivered" else "i:1")


@pytest.mark.parametrize("named", [True, False], ids=["names its build", "the id alone"])
def test_who_gives_the_id_that_a_held_deployment_will_get_adds_to_that_one(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox, named: bool
) -> None:
    number = start(jenkins, clock)
    hook.build_reports("deploy/shop", number, status="SUCCESS")
    build = {"job": "deploy/shop", "build_number": number} if named else {}
    assert hook.report(deployment_id=f"main:deploy/shop#{number}", image="i:1", **build, **COMPLETE) == "held"
    jenkins.finish_build("deploy/shop", number, "FAILURE")
    hook.poll()
    assert hook.states() == {f"main:deploy/shop#{number}": "pending"}
    has = event(outbox, f"main:deploy/shop#{number}")
    assert (has["status"], has["image"], has["environment"]) == ("failed", "i:1", "qa")


def test_who_gives_the_id_of_a_part_adds_to_that_part_alone(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    number = start(jenkins, clock)
    base, common = f"main:deploy/shop#{number}", {"status": "SUCCESS", **GIVEN}
    for environment in ("eu", "us"):
        hook.build_reports("deploy/shop", number, stage="Deploy", environment=environment, **common)
    assert hook.report(deployment_id=f"{base}:us", image="i:1", **COMPLETE) == "pending"
    assert ids(outbox) == [f"{base}:eu", f"{base}:us"]
    told = [event(outbox, name) for name in ids(outbox)]
    assert [(each["environment"], each.get("image")) for each in told] == [("eu", None), ("us", "i:1")]
    for environment in ("eu", "us"):
        hook.report(run="nightly-7", provider="other", **common, environment=environment)
    hook.report(deployment_id="nightly-7:us", image="i:2", **COMPLETE)
    assert ids(outbox)[2:] == ["nightly-7:eu", "nightly-7:us"]
    told = [event(outbox, name) for name in ids(outbox)[2:]]
    assert [(each["environment"], each.get("image")) for each in told] == [("eu", None), ("us", "i:2")]


def test_who_gives_the_id_of_a_stage_that_the_rule_found_makes_no_second_one(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox
) -> None:
    hook, number = by_stage(hook, outbox), start(jenkins, clock)
    stages_run(jenkins, clock, number, "eu", "us")
    jenkins.finish_build("deploy/shop", number)
    hook.poll()
    before = [row.content for row in rows(outbox)]
    assert hook.report(deployment_id=f"main:deploy/shop#{number}:us", image="i:1", **COMPLETE) == "pending"
    assert [row.content for row in rows(outbox)] == before


@pytest.mark.parametrize("name", ["1", "shop-7", "mains:deploy/shop#99", "x" * 300])
def test_a_given_id_that_is_of_no_other_run_is_a_deployment_of_its_own(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox, name: str
) -> None:
    jenkins.finish_build("deploy/shop", start(jenkins, clock))
    hook.poll()
    for _ in range(2):
        assert hook.report(deployment_id=name, **COMPLETE) == "pending"
    assert len(ids(outbox)) == 2


# ---- what is answered where there is no deployment to see


def test_a_report_of_what_was_delivered_and_deleted_makes_no_second_event(
    hook: Hook, clock: FakeClock, outbox: Outbox
) -> None:
    report = {"run": "nightly-7", "provider": "other", **COMPLETE}
    hook.report(**report)
    deliver(outbox)
    clock.advance(ms=2 * HOUR)
    while outbox.prune(Keep(bodies_ms=HOUR, deployments_ms=HOUR, ids_ms=1_000 * HOUR)):
        pass
    assert ids(outbox) == []
    assert hook.report(**report) == "delivered"
    assert ids(outbox) == []


def test_a_report_of_a_run_that_cannot_be_derived_is_kept_and_waits(
    hook: Hook, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = {"run": "nightly-7", "provider": "other", **COMPLETE}
    with monkeypatch.context() as patched:
        patched.setattr("agent.ingest.ingest.derive", lambda *_: {}["nobody expected it"])
        assert hook.report(**report) == "held"
    assert ids(outbox) == []
    assert [(item.kind, item.subject) for item in outbox.things_set_aside(10)] == [("run", "nightly-7")]
    hook.report(**report, image="i:1")
    assert event(outbox, "nightly-7:qa")["image"] == "i:1"


# ---- when something was said


def test_a_clock_that_steps_back_does_not_let_an_earlier_word_win(hook: Hook, clock: FakeClock, outbox: Outbox) -> None:
    """FAILURE, SUCCESS, FAILURE: three words, the last one counts."""
    for status in ("FAILURE", "SUCCESS", "FAILURE", "SUCCESS"):
        hook.report(run="x", provider="other", **{**COMPLETE, "status": status})
        clock.jump(ms=-60_000)
    assert event(outbox, "x:qa")["status"] == "success"


def test_reports_of_one_moment_count_in_the_order_in_which_they_came(hook: Hook, outbox: Outbox) -> None:
    words = ["success", "failed", "canceled", "success", "failed", "canceled"]
    hook.stored(*({"run": "x", "provider": "other", **COMPLETE, "status": word} for word in words))
    hook.take()
    assert event(outbox, "x:qa")["status"] == "canceled"


@pytest.mark.parametrize("ahead_ms", [-48 * HOUR, 48 * HOUR, 59_000])
def test_what_says_no_time_is_of_the_moment_of_its_report_by_the_controllers_clock(
    hook: Hook, jenkins: LocalJenkins, clock: FakeClock, outbox: Outbox, ahead_ms: int
) -> None:
    jenkins.skew_ms = ahead_ms
    hook.poll()
    hook.build_reports(
        "deploy/shop", 7, stage="Deploy", environment="eu", repo_url=REPO, branch="main", status="UNSTABLE"
    )
    expected = clock.now_ms() + (ahead_ms if abs(ahead_ms) > 60_000 else 0)
    assert abs(rows(outbox)[0].content.ended_at - expected) <= 1_000
