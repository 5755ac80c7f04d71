"""Who may report what: ids of a controller are its builds', times are near now, and teams have their jobs."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import settings as settings_of_test
from hypothesis import strategies as st
from msgspec.structs import replace
from structlog.testing import capture_logs

from agent.config.credentials import Token
from agent.config.rules import Pattern, Template
from agent.config.rules import Rule as DeploymentRule
from agent.config.settings import Address, Allowed, IntakeSettings, JenkinsSettings
from agent.ingest.ingest import Ingest
from agent.inspect.derived import rules_of
from agent.model import fact as facts
from agent.model.build import Build
from agent.model.deployment import State
from agent.model.keys import Project, jenkins_run
from agent.model.report import ReportError
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Keep
from agent.sources.reports.accept import Reports
from agent.sources.reports.allowed import NotAllowedError
from agent.sources.reports.inbox import take_inbox
from tests.integration.reporting import HOUR, deliver, deployments, ids, reports_of, settings_of
from tests.integration.support import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

    from agent.config.settings import Settings
    from agent.model.deployment import Deployment

DAY = 86_400_000
COMPLETE = {"repo_url": "https://git.example.test/a", "branch": "main", "environment": "eu", "status": "success"}
MAIN = JenkinsSettings("main", "http://jenkins.test/", None, None, 15_000, "now", 5_000)
RULES = (DeploymentRule(Pattern.parse("**"), Template.parse("production")),)


def settings(outbox: SqliteOutbox, **teams: Allowed) -> Settings:
    from dataclasses import replace

    tokens = tuple((name, Token(name)) for name in teams)
    intake = IntakeSettings(Address("127.0.0.1", 0), tokens, teams)
    return replace(settings_of(outbox.path, MAIN, rules=RULES), intake=intake)


def allowed(*jobs: str, environments: tuple[str, ...] = ()) -> Allowed:
    return Allowed(tuple(map(Pattern.parse, jobs)) or None, tuple(map(Pattern.parse, environments)) or None)


def take(reports: Reports, team: str = "", **report: Any) -> str:
    now = reports.outbox.clock.now_ms()
    return reports.take(COMPLETE | report, source="intake", at=now, principal=team).deployment_id


def polled(reports: Reports, job: str, number: int, *, started_at: int = 0) -> None:
    """The poller reads a build that just ended."""
    now = reports.outbox.clock.now_ms()
    build = Build(
        controller="main", job=job, number=number, url="", result="SUCCESS", started_at=started_at or now - 60_000,
        ended_at=now,
    )  # fmt: skip
    reports._ingest.accept([facts.final(jenkins_run("main", job, number), build, at=now)])


# ---- ids


@pytest.mark.parametrize(
    "report",
    [
        {"provider": "other", "deployment_id": "main:deploy/shop#12"},
        {"provider": "other", "deployment_id": "main:deploy/shop#12:production"},
        {"deployment_id": "main:"},
        {"provider": "gitlab_ci", "run": "main:deploy/shop#12"},
        {"provider": "jenkins", "deployment_id": "main:deploy/shop#12"},
        {"job": "deploy/other", "build_number": 7, "deployment_id": "main:deploy/shop#12"},
        {"job": "shop", "build_number": 12, "controller": "main:deploy"},
    ],
)
def test_an_id_of_a_controller_is_given_to_its_builds_alone(outbox: SqliteOutbox, report: dict[str, Any]) -> None:
    """The build that comes later had no deployment, and nobody heard of it."""
    reports = reports_of(settings(outbox), outbox)
    with pytest.raises(ReportError, match=r"'main:.*' has the prefix of controller main; .* send job and build_number"):
        take(reports, **report)
    polled(reports, "deploy/shop", 12)
    assert ids(outbox) == ["main:deploy/shop#12"]


def test_the_inbox_shows_such_an_id_as_a_report_that_is_wrong(outbox: SqliteOutbox) -> None:
    import json

    outbox.add_report(json.dumps(COMPLETE | {"deployment_id": "main:deploy/shop#12"}))
    reports = reports_of(settings(outbox), outbox)
    take_inbox(reports)
    [row] = deployments(outbox).values()
    assert row.state is State.FAILED
    assert "has the prefix of controller main" in (row.reason or "")


def test_who_knows_the_id_of_a_deployment_that_is_there_reports_about_it(outbox: SqliteOutbox) -> None:
    reports = reports_of(settings(outbox), outbox)
    polled(reports, "deploy/shop", 12)
    assert take(reports, deployment_id="main:deploy/shop#12", image="shop:1") == "main:deploy/shop#12"
    assert deployments(outbox)["main:deploy/shop#12"].content.image == "shop:1"


def test_other_ids_are_taken_as_before(outbox: SqliteOutbox) -> None:
    reports = reports_of(settings(outbox), outbox)
    for name in ("mains:deploy/shop#12", "gitlab_ci:acme/shop#7", "main", "x:main:y"):
        assert take(reports, deployment_id=name) == name
    assert take(reports, job="a", build_number=1, controller="west") == "west:a#1"


# ---- times


@pytest.mark.parametrize("field", ["start_time", "end_time"])
@pytest.mark.parametrize("days", [-401, 1.1, 27_000], ids=["long ago", "after tomorrow", "in 2100"])
def test_a_time_far_from_now_is_refused(outbox: SqliteOutbox, field: str, days: float) -> None:
    reports = reports_of(settings(outbox), outbox)
    at = outbox.clock.now_ms() + round(days * DAY)
    with pytest.raises(ReportError, match=rf"^{field}: .* is more than (a day ahead of|400 days before) the agent's "):
        take(reports, job="deploy/shop", build_number=7, stage="Deploy", **{field: at})
    for near in (-399, 0.9):
        take(reports, run=f"x{near}", **{field: outbox.clock.now_ms() + round(near * DAY)})


def test_stages_that_are_dated_2100_silence_no_build_to_come(outbox: SqliteOutbox) -> None:
    reports = reports_of(settings(outbox), outbox)
    for number in range(1, 6):
        with pytest.raises(ReportError):
            take(reports, job="deploy/shop", build_number=number, stage="Deploy", start_time="2100-01-01T00:00:00Z")
        polled(reports, "deploy/shop", number)
    assert ids(outbox) == [f"main:deploy/shop#{number}" for number in range(1, 6)]


# ---- teams


def test_a_team_reports_of_its_jobs_and_of_no_others(outbox: SqliteOutbox) -> None:
    reports = reports_of(settings(outbox, shop=allowed("deploy/shop", "shop/**"), pay=allowed()), outbox)
    for job in ("deploy/shop", "shop/a/b"):
        assert take(reports, "shop", job=job, build_number=1) == f"main:{job}#1"
    for report in (
        {"job": "deploy/pay", "build_number": 1},
        {"job": "deploy/shop2", "build_number": 1},
        {"build_url": "http://jenkins.test/job/deploy/job/pay/1/"},
        {"job": "deploy/pay", "build_number": 1, "controller": "west"},
        {"run": "deploy/pay"},
        {"deployment_id": "one"},
    ):
        with pytest.raises(
            NotAllowedError, match=r"^\w+: team shop is not allowed to report .*; see \[intake.teams.shop\] jobs"
        ):
            take(reports, "shop", **report)
    assert take(reports, "shop", run="shop/7", provider="gitlab_ci").startswith("shop/7")
    assert take(reports, "pay", job="deploy/pay", build_number=1) == "main:deploy/pay#1"
    assert take(reports, "", job="deploy/pay", build_number=2) == "main:deploy/pay#2"
    assert take(reports, "a team that is gone", job="deploy/pay", build_number=3) == "main:deploy/pay#3"


def test_a_team_reports_of_its_environments_and_has_to_name_them(outbox: SqliteOutbox) -> None:
    reports = reports_of(settings(outbox, shop=allowed(environments=("staging", "test-*"))), outbox)
    for environment in ("staging", "test-7"):
        take(reports, "shop", job="a", build_number=1, environment=environment)
    for environment in ("production", "Staging", "", "stagings"):
        with pytest.raises(NotAllowedError, match=r"^environment: team shop .* \[intake.teams.shop\] environments"):
            take(reports, "shop", job="a", build_number=1, environment=environment)
    polled(reports, "b", 1)
    with pytest.raises(NotAllowedError, match=r"^environment: "):
        take(reports, "shop", deployment_id="main:b#1", environment="staging")
    assert deployments(outbox)["main:b#1"].content.environment == "production"


def test_a_given_id_opens_no_deployment_of_another_team(outbox: SqliteOutbox) -> None:
    """Neither one that Hivel has nor one that is held."""
    reports = reports_of(settings(outbox, shop=allowed("deploy/shop"), pay=allowed("deploy/pay")), outbox)
    polled(reports, "deploy/pay", 1)
    take(reports, "pay", job="deploy/pay", build_number=2)
    before = deployments(outbox)
    for name in ("main:deploy/pay#1", "main:deploy/pay#2"):
        with pytest.raises(NotAllowedError):
            take(reports, "shop", deployment_id=name, status="failed")
    assert deployments(outbox) == before


def test_what_a_team_said_of_a_job_counts_no_more_once_the_job_has_a_name_that_is_not_its(
    outbox: SqliteOutbox,
) -> None:
    from agent.deployments.derive import Rules, derive

    mine, now = allowed("old"), outbox.clock.now_ms()
    who = settings(outbox, shop=mine)
    rules = Rules(RULES, controllers=frozenset(["main"]), may_report=who.may_report)
    assert who.may_report("shop", Project("jenkins", "main", "old"))
    assert not who.may_report("shop", Project("jenkins", "main", "new"))
    said = facts.Report(provider="jenkins", status="failed", environment="eu")
    build = Build(controller="main", job="new", number=7, result="SUCCESS", started_at=now, ended_at=now + 1)
    told = [
        facts.final(jenkins_run("main", "new", 7), build, at=now),
        facts.report(jenkins_run("main", "old", 7), said, source="intake", at=now, principal="shop"),
    ]
    [part] = derive(told, rules).parts
    assert (part.content.environment, part.content.status) == ("production", "success")


# ---- everything that is suppressed is said


def test_a_build_whose_id_somebody_has_already_is_said(outbox: SqliteOutbox) -> None:
    """An outbox of an older version may have such ids."""
    west = reports_of(settings_of(outbox.path), outbox)  # nobody polls main here
    take(west, deployment_id="main:deploy/shop#12", end_time=outbox.clock.now_ms())
    deliver(outbox)
    reports = reports_of(settings(outbox), outbox)
    with capture_logs() as logs:
        polled(reports, "deploy/shop", 12)
    assert ids(outbox) == ["main:deploy/shop#12"]
    [line] = [line for line in logs if line["event"] == "no deployment"]
    assert (line["log_level"], line["run"]) == ("warning", "main:deploy/shop#12")
    assert "is already used by a reported deployment" in line["reason"]


# ---- no sequence of reports of one team reaches the deployments of another


NUMBERS = st.integers(1, 2)
MOMENTS = st.sampled_from(["2100-01-01T00:00:00Z", "1970-01-01T00:00:00Z", -2 * DAY, -HOUR, -1, HOUR, 20 * HOUR])
IDS = st.builds(
    "main:deploy/{}#{}{}".format, st.sampled_from("bba"), NUMBERS, st.sampled_from(["", ":production", ":eu", ":eu:S"])
)
WHICH = st.one_of(
    st.fixed_dictionaries({"deployment_id": IDS}),
    st.fixed_dictionaries({"provider": st.sampled_from(["other", "gitlab_ci"]), "run": IDS}),
    st.fixed_dictionaries({"job": st.sampled_from(["deploy/b", "deploy/a", "b"]), "build_number": NUMBERS}),
    st.fixed_dictionaries(
        {"controller": st.just("main:deploy"), "job": st.sampled_from(["b", "/b"]), "build_number": NUMBERS}
    ),
    st.builds(
        lambda job, number: {"build_url": f"http://jenkins.test/job/deploy/job/{job}/{number}/"},
        st.sampled_from("ab"),
        NUMBERS,
    ),
)
WHAT = st.fixed_dictionaries(
    {"status": st.just("failed")},
    optional={
        "stage": st.just("S"),
        "environment": st.sampled_from(["eu", "production"]),
        "start_time": MOMENTS,
        "end_time": MOMENTS,
        "given": st.just(["repo_url", "branch"]),
    },
)
HOSTILE = st.builds(lambda which, what: which | what, WHICH, WHAT)
THEIRS = st.sampled_from([{}, {"stage": "S"}, {"environment": "production"}])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hostile"), HOSTILE),
        st.tuples(st.just("hostile"), HOSTILE),
        st.tuples(st.just("poll"), st.sampled_from("bba")),
        st.tuples(st.just("theirs"), NUMBERS, THEIRS),
        st.tuples(st.just("later"), st.sampled_from([1_000, 5 * 60_000, HOUR, 40 * DAY])),
        st.tuples(st.sampled_from(["release", "deliver", "prune"])),
    ),
    min_size=4,
    max_size=14,
)


class World:
    """An outbox with a poller of two jobs, each of which one team may report of."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.outbox = SqliteOutbox(folder / "outbox.db", self.clock)
        by_team = settings(self.outbox, a=allowed("deploy/a"), b=allowed("deploy/b"))
        ingest = Ingest(self.outbox, rules_of(by_team), by_team.hold_for_ms)
        self.reports = Reports(by_team, ingest)
        self.built = {"a": 0, "b": 0}
        self.starts: list[tuple[str, int]] = []

    def play(self, what: str, *args: Any, hostile: bool) -> None:
        match what:
            case "hostile" if hostile:
                fields = dict(args[0])
                for name in ("start_time", "end_time"):
                    if isinstance(fields.get(name), int):
                        fields[name] += self.clock.now_ms()
                with suppress(ReportError):
                    take(self.reports, "a", **fields)
            case "theirs":
                number, fields = args
                take(self.reports, "b", job="deploy/b", build_number=number, **fields)
            case "poll":
                self._poll(args[0])
            case "later":
                self.clock.advance(ms=args[0])
            case "release":
                self.reports._ingest.release()
            case "deliver":
                deliver(self.outbox)
            case "prune":
                self.outbox.prune(Keep(30 * DAY, 400 * DAY, 3650 * DAY))

    def _poll(self, job: str) -> None:
        self.built[job] += 1
        self.clock.advance(ms=90_000)
        polled(self.reports, f"deploy/{job}", self.built[job])
        self.starts.append((f"deploy/{job}", self.clock.now_ms() - 60_000))

    def of(self, job: str) -> list[Deployment]:
        found = [row for row in self.outbox.all_deployments() if row.run.project.name == job]
        return sorted((replace(row, number=0) for row in found), key=lambda row: (row.run, row.anchor))


@given(STEPS)
@settings_of_test(deadline=None)
def test_no_reports_of_a_team_change_the_deployments_of_another_or_silence_a_build(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("worlds")
    worlds = []
    for hostile in (False, True):
        (folder / str(hostile)).mkdir()
        world = World(folder / str(hostile))
        with world.outbox:
            for step in steps:
                world.play(*step, hostile=hostile)
            worlds.append(world.of("deploy/b"))
            rows = list(world.outbox.all_deployments())
        assert set(world.starts) <= {(row.run.project.name, row.build_started_at) for row in rows if row.known}
        ids_of_others = [row.deployment_id or "" for row in rows if not row.run.project.reuses_numbers]
        assert not [each for each in ids_of_others if each.startswith("main:")]
    without, with_reports = worlds
    assert without == with_reports
