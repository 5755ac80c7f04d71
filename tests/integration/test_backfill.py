"""Backfills: interrupted and resumed, soon or a month later; what can go wrong; and that a dry run keeps nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from starlette.responses import HTMLResponse

from agent.config.credentials import Token
from agent.config.rules import Options, Pattern
from agent.config.settings import DeliverySettings, HivelSettings, Settings
from agent.model.fact import Kind
from agent.model.keys import jenkins_run
from agent.sources.jenkins.backfill import SOON_MS, BackfillReport, Request, backfill
from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.errors import ControllerDownError
from agent.sources.jenkins.history import Span
from tests.integration.support import NOON, REPO, ids, ingest_of, poll, rule

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.config.settings import JenkinsSettings
    from agent.outbox.sqlite.engine import SqliteOutbox
    from agent.sandbox.jenkins import LocalJenkins
    from tests.integration.support import FakeClock

HOUR = 3_600_000
DAY = 24 * HOUR
# Jenkins' clock may be ahead: what the command line asks for without --until.
AHEAD = DAY


@pytest.fixture
def fill(
    jenkins: LocalJenkins, controller: JenkinsSettings, outbox: SqliteOutbox, clock: FakeClock, tmp_path: Path
) -> Callable[..., BackfillReport]:
    """``backfill --since`` so many days, of two jobs with ten builds each, one a day and the last an hour ago."""
    for name in ("deploy/api", "deploy/shop"):
        jenkins.add_job(name)
        jenkins.add_builds(name, 10, every=DAY, repo=REPO)
    clock.advance(ms=HOUR)
    rules = (rule("deploy/**"),)
    settings = Settings(
        file=tmp_path, hivel=HivelSettings("http://hivel.test", Token("t")), controllers=(controller,), rules=rules,
        options=Options(), outbox=tmp_path / "outbox.db", delivery=DeliverySettings(),
    )  # fmt: skip

    def run(
        days: float = 7, until: int | None = None, *, dry_run: bool = False, job: str | None = None
    ) -> BackfillReport:
        now = clock.now_ms()
        span = Span(now - round(days * DAY), now + AHEAD if until is None else until)
        pattern = None if job is None else Pattern.parse(job)
        request = Request(span, f"since {days}d, until {until}, job {job}", pattern, dry_run)
        return backfill(settings, ingest_of(outbox, *rules), JenkinsClient, request, lambda *_: None)

    return run


def shop_is_down(jenkins: LocalJenkins, *, down: bool = True) -> None:
    jenkins.break_with((lambda path, _: HTMLResponse("", 504) if "/job/shop" in path else None) if down else None)


def test_resumed_at_once_it_leaves_alone_what_is_done(
    fill: Callable[..., BackfillReport], jenkins: LocalJenkins, clock: FakeClock
) -> None:
    shop_is_down(jenkins)
    first = fill()
    assert (len(first.enqueued), first.jobs_done_before, len(first.problems)) == (7, 0, 1)
    shop_is_down(jenkins, down=False)
    clock.advance(ms=SOON_MS // 2)
    jenkins.clear_requests()
    second = fill()
    assert (len(second.enqueued), second.jobs_done_before, second.problems) == (7, 1, [])
    assert not [request for request in jenkins.requests if "/job/api" in request.path]


def test_resumed_a_day_later_it_reads_the_same_seven_days_and_the_day_since(
    fill: Callable[..., BackfillReport], jenkins: LocalJenkins, clock: FakeClock
) -> None:
    shop_is_down(jenkins)
    fill()
    shop_is_down(jenkins, down=False)
    clock.advance(ms=DAY)
    for name in ("deploy/api", "deploy/shop"):
        jenkins.add_builds(name, 1, repo=REPO)
    resumed = fill()
    expected = ["main:deploy/api#11", *(f"main:deploy/shop#{number}" for number in range(4, 12))]
    assert (sorted(resumed.enqueued), resumed.jobs_done_before) == (sorted(expected), 1)


def test_resumed_a_month_later_it_asks_for_the_last_seven_days_as_of_now(
    fill: Callable[..., BackfillReport], jenkins: LocalJenkins, clock: FakeClock
) -> None:
    shop_is_down(jenkins)
    fill()
    shop_is_down(jenkins, down=False)
    clock.advance(ms=30 * DAY)
    for name in ("deploy/api", "deploy/shop"):
        jenkins.add_builds(name, 3, every=DAY, repo=REPO)
    later = fill()
    expected = [f"main:deploy/{name}#{number}" for name in ("api", "shop") for number in (11, 12, 13)]
    assert (sorted(later.enqueued), later.jobs_done_before, later.problems) == (expected, 0, [])


def test_an_older_agent_that_noted_a_span_into_the_future_is_resumed_rightly_as_well(
    fill: Callable[..., BackfillReport], jenkins: LocalJenkins, outbox: SqliteOutbox, clock: FakeClock
) -> None:
    words = "since 7d, until None, job None"
    outbox.begin_backfill(words, NOON - 7 * DAY, NOON + AHEAD)
    outbox.note_backfilled_job(words, "main", "deploy/api")
    clock.advance(ms=30 * DAY)
    jenkins.add_builds("deploy/api", 1, repo=REPO)
    assert fill().enqueued == ["main:deploy/api#11"]


def test_with_an_end_that_was_asked_for_there_is_nothing_since(
    fill: Callable[..., BackfillReport], jenkins: LocalJenkins, clock: FakeClock
) -> None:
    until = clock.now_ms() - 2 * DAY
    shop_is_down(jenkins)
    fill(until=until)
    shop_is_down(jenkins, down=False)
    clock.advance(ms=DAY)
    jenkins.clear_requests()
    second = fill(until=until)
    assert (len(second.enqueued), second.jobs_done_before) == (5, 1)
    assert not [request for request in jenkins.requests if "/job/api" in request.path]


def test_the_same_words_ask_anew_once_all_is_done(
    fill: Callable[..., BackfillReport], jenkins: LocalJenkins, clock: FakeClock
) -> None:
    assert len(fill().enqueued) == 14
    jenkins.add_builds("deploy/api", 1, repo=REPO)
    again = fill()
    assert (again.enqueued, again.known, again.jobs_done_before) == (["main:deploy/api#11"], 14, 0)


def test_a_dry_run_says_what_would_be_and_keeps_nothing(
    fill: Callable[..., BackfillReport], outbox: SqliteOutbox
) -> None:
    tried = fill(dry_run=True)
    assert (len(tried.enqueued), tried.builds, ids(outbox)) == (14, 14, [])
    done = fill()
    assert (done.enqueued, ids(outbox)) == (tried.enqueued, done.enqueued)


def test_it_says_that_it_was_a_backfill(fill: Callable[..., BackfillReport], outbox: SqliteOutbox) -> None:
    fill()
    [fact] = outbox.facts(jenkins_run("main", "deploy/shop", 10))
    assert (fact.source, fact.kind) == ("backfill", Kind.FINAL)


def test_what_polls_reported_is_known(
    fill: Callable[..., BackfillReport], jenkins: LocalJenkins, controller: JenkinsSettings, outbox: SqliteOutbox,
    clock: FakeClock,
) -> None:  # fmt: skip
    poll(controller, outbox, rule("deploy/**"))
    clock.advance(s=60)
    jenkins.finish_build("deploy/shop", jenkins.start_build("deploy/shop", repo=REPO), duration=5)
    poll(controller, outbox, rule("deploy/**"))
    done = fill(job="deploy/shop")
    assert (len(done.enqueued), done.known) == (7, 1)
    assert len(ids(outbox)) == 8


@pytest.mark.parametrize("status", [408, 429, 500, 503, 504])
def test_one_build_whose_upstream_cannot_be_read_hides_no_other(
    fill: Callable[..., BackfillReport], jenkins: LocalJenkins, status: int
) -> None:
    jenkins.add_job("build/shop")
    jenkins.finish_build("build/shop", jenkins.start_build("build/shop", repo=REPO), duration=5)
    cause = {"_class": "hudson.model.Cause$UpstreamCause", "upstreamProject": "build/shop", "upstreamBuild": 1}
    jenkins.finish_build("deploy/shop", jenkins.start_build("deploy/shop", causes=[cause]), duration=5)
    jenkins.break_with(lambda path, _: HTMLResponse("", status) if "/job/build" in path else None)
    first = fill()
    if status == 500:  # nothing to tell
        assert (len(first.enqueued), list(first.underivable), first.problems) == (14, ["main:deploy/shop#11"], [])
        return
    assert (len(first.enqueued), len(first.problems)) == (14, 1)
    jenkins.break_with(None)
    assert fill().enqueued == ["main:deploy/shop#11"]


def test_when_the_controller_is_gone_no_job_after_the_other_is_tried(
    fill: Callable[..., BackfillReport], jenkins: LocalJenkins, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refused(*_: object) -> None:
        asked.append(1)
        raise ControllerDownError("connection refused")

    monkeypatch.setattr(JenkinsClient, "builds", refused)
    report = fill()
    assert (report.problems, len(asked)) == (["main: connection refused"], 1)


def test_an_exception_that_nobody_expected_is_of_one_job(
    fill: Callable[..., BackfillReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.sources.jenkins.history import History

    builds = History.builds

    def odd(self: History, job: object, *rest: object) -> object:
        if "shop" in str(job):
            raise ZeroDivisionError("of all things")
        return builds(self, job, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(History, "builds", odd)
    done = fill()
    assert (len(done.enqueued), done.problems) == (7, ["main: job deploy/shop: ZeroDivisionError: of all things"])
