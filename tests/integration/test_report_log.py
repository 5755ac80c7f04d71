"""Nothing that is reported is dropped or merged without a line in the log that says so."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agent.config.settings import JenkinsSettings
from agent.model import fact as facts
from agent.model.build import Build, Checkout
from agent.model.keys import jenkins_run
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Keep
from agent.sources.reports.accept import Outcome, Reports
from tests.deployments import NOON, rows
from tests.integration.reporting import deliver, reports_of, settings_of
from tests.integration.support import REPO, FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from structlog.typing import EventDict

    from agent.model.fact import Fact

HOUR = 3_600_000
JENKINS = JenkinsSettings("main", "https://jenkins.example.test/", None, None, 15_000, "now", 5_000)
RUN = jenkins_run("main", "deploy/shop", 7)
PLACE: dict[str, Any] = {"repo_url": REPO, "branch": "main", "given": ["repo_url", "branch"]}


class Doors:
    """Reports of one build, and the lines of the log that they leave."""

    def __init__(self, outbox: SqliteOutbox, clock: FakeClock) -> None:
        self.outbox, self.clock = outbox, clock
        self.reports: Reports = reports_of(settings_of(outbox.path, JENKINS), outbox)
        self.lines: list[EventDict] = []

    def report(self, **fields: Any) -> list[str]:
        """Take it; the events of the lines about it, but for what is enqueued."""
        told = {"job": "deploy/shop", "build_number": "7", "controller": "main", "status": "SUCCESS"} | fields
        self.clock.advance(s=1)
        with capture_logs() as lines:
            self.reports.take(told, source="intake", at=self.clock.now_ms())
        self.lines = [line for line in lines if line["event"] != "enqueued"]
        return [line["event"] for line in self.lines]

    def poll(self, *facts_of_it: Fact) -> list[str]:
        with capture_logs() as lines:
            self.reports._ingest.accept(facts_of_it)
        self.lines = [line for line in lines if line["event"] != "enqueued"]
        return [line["event"] for line in self.lines]

    def final(self) -> list[str]:
        now = self.clock.now_ms()
        checkout = Checkout((REPO,), ("refs/remotes/origin/main",), "c" * 40)
        build = Build(result="SUCCESS", started_at=now - 60_000, ended_at=now, checkouts=(checkout,))
        return self.poll(facts.final(RUN, build, at=now))

    def deliver(self) -> None:
        deliver(self.outbox)

    def prune(self) -> None:
        self.clock.advance(ms=2 * HOUR)
        while self.outbox.prune(Keep(bodies_ms=HOUR, deployments_ms=HOUR, ids_ms=1_000 * HOUR)):
            pass

    def numbers(self) -> set[int]:
        return {row.number for row in rows(self.outbox)}


@pytest.fixture
def doors(tmp_path: Path) -> Iterator[Doors]:
    clock = FakeClock()
    with closing(SqliteOutbox(tmp_path / "outbox.db", clock)) as outbox:
        yield Doors(outbox, clock)


def test_the_first_word_of_a_deployment_is_reported_the_second_is_merged_and_the_same_again_is_repeated(
    doors: Doors,
) -> None:
    assert doors.report(environment="eu") == ["reported"]
    assert doors.report(environment="eu", image="shop:1") == ["report merged"]
    assert doors.report(environment="eu", image="shop:1") == ["report repeated"]
    assert doors.report(environment="us") == ["reported"]
    [line] = doors.lines
    assert (line["deployment_id"], line["state"]) == ("main:deploy/shop#7:us", "held")


def test_what_the_poller_made_before_is_merged_with_too(doors: Doors) -> None:
    doors.final()
    assert doors.report(image="shop:1") == ["reported"], "no rule made a deployment of the build"
    doors.deliver()
    assert doors.report(image="shop:2") == ["report merged"]
    [line] = doors.lines
    assert line["state"] == "delivered"
    assert line["reason"].startswith("the deployment was already delivered; new values are only stored")


def test_what_comes_to_a_discarded_deployment_says_that_nobody_will_send_it(doors: Doors) -> None:
    doors.report(stage="Deploy", environment="eu", **PLACE)
    [row] = rows(doors.outbox)
    doors.outbox.discard([row], "an exercise")
    assert doors.report(stage="Deploy", environment="eu", image="shop:1", **PLACE) == ["report merged"]
    assert doors.lines[0]["reason"].startswith("the deployment was discarded")


def test_a_report_whose_deployment_was_deleted_is_dropped_with_a_warning(doors: Doors) -> None:
    told: dict[str, Any] = {"stage": "Deploy", "environment": "eu", "start_time": doors.clock.now_ms(), **PLACE}
    doors.report(**told)
    doors.final()
    doors.deliver()
    doors.prune()
    assert rows(doors.outbox) == []
    assert doors.report(**told) == ["report dropped"]
    [line] = doors.lines
    assert (line["log_level"], line["deployment_id"]) == ("warning", "main:deploy/shop#7:eu")
    assert line["reason"].startswith("its deployment no longer exists: it was settled and deleted")
    assert rows(doors.outbox) == []


def test_a_report_of_a_build_that_is_set_aside_is_kept_with_a_warning(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.ingest.ingest.derive", lambda *_: {}["nobody expected it"])
    assert doors.report(environment="eu")[-1] == "report kept"
    assert doors.lines[-1]["log_level"] == "warning"


def test_held_deployments_that_turn_out_to_be_one_are_merged_with_a_line(doors: Doors) -> None:
    """Two names of one environment, until the configuration says that they are one."""
    doors.report(environment="prod")
    doors.report(environment="production")
    assert len(rows(doors.outbox)) == 2
    options = replace(doors.reports._settings.options, environment_map={"prod": "production"})
    changed = replace(doors.reports._settings, options=options)
    doors.reports = reports_of(changed, doors.outbox)
    assert doors.report(environment="prod", image="shop:1") == ["held deployment merged", "report merged"]
    assert len(rows(doors.outbox)) == 1
    line = doors.lines[0]
    assert (line["run"], line["environment"]) == ("main:deploy/shop#7", "production")


# ---- whatever is said, in any order

_REPORT = st.fixed_dictionaries(
    {"environment": st.sampled_from([None, "eu", "us"]), "stage": st.sampled_from([None, None, "a", "b"])},
    optional={
        "image": st.sampled_from(["shop:1", "shop:2"]), "repo_url": st.just(REPO), "branch": st.just("main"),
        "start_time": st.integers(0, 3).map(lambda n: NOON - 600_000 + n * 60_000),
        "given": st.just(["repo_url", "branch"]),
    },
)  # fmt: skip
_STEP = st.one_of(_REPORT, _REPORT, _REPORT, st.sampled_from(["final", "deliver", "release", "prune"]))


@settings(max_examples=40)
@given(st.lists(_STEP, max_size=9))
def test_every_report_leaves_one_line_and_no_held_deployment_goes_without_one(steps: list[Any]) -> None:
    clock = FakeClock()
    with TemporaryDirectory() as folder, closing(SqliteOutbox(Path(folder) / "outbox.db", clock)) as outbox:
        doors = Doors(outbox, clock)
        for step in steps:
            before = doors.numbers()
            if isinstance(step, dict):
                lines = doors.report(**step)
                told = [line for line in lines if line in list(Outcome)]
                assert len(told) == 1, lines
                assert (told == ["reported"]) == bool(doors.numbers() - before), "a new deployment, and only that"
            elif step == "final":
                lines = doors.final()
            elif step == "release":
                clock.advance(ms=2 * HOUR)
                with capture_logs() as logs:
                    doors.reports._ingest.release()
                lines = [line["event"] for line in logs]
            else:
                getattr(doors, step)()
                continue
            gone = [line for line in lines if line.startswith("held deployment ")]
            assert len(gone) == len(before - doors.numbers())
