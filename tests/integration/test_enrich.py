"""What is asked beyond a build's own JSON, stages and upstream builds, and what becomes of answers that lie."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from starlette.responses import HTMLResponse, RedirectResponse, Response

from agent.config.rules import STAGE_ENVIRONMENT, Pattern, Template
from agent.deployments.derive import Rules, derive
from agent.model.fact import final
from agent.model.keys import jenkins_run
from agent.sandbox.jenkins.templates import build_data
from agent.sources.jenkins.client import JenkinsClient, Job
from agent.sources.jenkins.details import MOST_QUESTIONS, Details
from agent.sources.jenkins.history import History
from agent.sources.jenkins.poller import Poller
from agent.sources.jenkins.raw import RawBuild
from agent.sources.jenkins.related import REMEMBERED
from tests.integration.support import NOON, REPO, event, ids, ingest_of, poll, rule

if TYPE_CHECKING:
    from agent.config.rules import Rule
    from agent.config.settings import JenkinsSettings
    from agent.outbox.interface import Outbox
    from agent.sandbox.jenkins import LocalJenkins
    from tests.integration.support import FakeClock

SHOP = "deploy/shop"
WFAPI: dict[str, Any] = {
    "stages": [
        {"name": "Build", "status": "SUCCESS", "startTimeMillis": NOON, "durationMillis": 1_000},
        {"name": "Deploy qa", "status": "FAILED", "startTimeMillis": NOON + 1_000, "durationMillis": 2_000},
        {"name": "Deploy live", "status": "NOT_EXECUTED", "startTimeMillis": NOON + 3_000, "durationMillis": 0},
    ]
}
OVERVIEW: dict[str, Any] = {
    "status": "ok",
    "data": {
        "complete": True,
        "stages": [
            {"name": "Build", "state": "success", "startTimeMillis": NOON, "totalDurationMillis": 1_000},
            {"name": "Deploy qa", "state": "failure", "startTimeMillis": NOON + 1_000, "totalDurationMillis": 2_000},
            {"name": "Deploy live", "state": "skipped", "startTimeMillis": NOON + 3_000, "totalDurationMillis": 0},
        ],
    },
}
LIES = {
    "an outage": HTMLResponse("<html>starting</html>", 503),
    "a login page": HTMLResponse("<html>login</html>", 200),
    "a redirect": RedirectResponse("http://127.0.0.1:9/", 302),
    "a revoked token": Response(b"", 401),
    "cut": Response(b'{"stages": [{"na', media_type="application/json"),
}
NOTHING_TO_TELL = {
    "no plugin": Response(b"", 404),
    "not allowed": Response(b"", 403, headers={"X-You-Are-Authenticated-As": "bot", "X-Required-Permission": "Read"}),
    "a failure": HTMLResponse("<html>oops</html>", 500),
    "another shape": Response(b"[]", media_type="application/json"),
    "nested beyond all depths": Response(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, media_type="application/json"),
}


def stage_rule(**changes: Any) -> Rule:
    stage = Pattern.parse(r"re:^Deploy (to )?(?P<environment>.+)$")
    environment = Template.parse(STAGE_ENVIRONMENT, ("environment", "stage"))
    return replace(rule("deploy/**"), stage=stage, environment=environment, **changes)


@pytest.fixture
def watched(jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock) -> LocalJenkins:
    """A Jenkins with a job that had its first poll, and has a build since."""
    jenkins.add_job(SHOP)
    poll(controller, outbox)
    clock.advance(s=15)
    number = jenkins.start_build(SHOP, repo=REPO)
    clock.advance(s=30)
    jenkins.finish_build(SHOP, number)
    return jenkins


@pytest.mark.parametrize("pages", [{"wfapi": WFAPI}, {"overview": OVERVIEW}], ids=["wfapi", "overview"])
def test_the_stages_come_from_whichever_plugin_is_there(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, pages: dict[str, Any]
) -> None:
    watched.set_stages(SHOP, 1, **pages)
    poll(controller, outbox, stage_rule())
    assert ids(outbox) == ["main:deploy/shop#1:qa"]
    seen = event(outbox, "main:deploy/shop#1:qa")
    assert (seen["status"], seen["environment"]) == ("failed", "qa")
    assert (seen["start_time"], seen["end_time"]) == ("2026-11-23T12:00:01.000Z", "2026-11-23T12:00:03.000Z")


@pytest.mark.parametrize("answer", NOTHING_TO_TELL.values(), ids=NOTHING_TO_TELL)
@pytest.mark.parametrize("without_stages", ["build", "none"])
def test_when_no_plugin_tells_the_stages_the_rule_says_what_is_reported(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, answer: Response, without_stages: str
) -> None:
    watched.break_with(lambda path, _: answer if path.endswith(("/describe", "/tree")) else None)
    report = poll(controller, outbox, stage_rule(without_stages=without_stages))
    reported = report.enqueued if without_stages == "build" else report.underivable
    assert (reported, report.problems) == (["main:deploy/shop#1"], [])


@pytest.mark.parametrize("answer", LIES.values(), ids=LIES)
@pytest.mark.parametrize("page", ["wfapi/describe", "pipeline-overview/tree"])
def test_a_lie_about_stages_is_no_event_of_the_whole_build(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, answer: Response, page: str
) -> None:
    watched.set_stages(SHOP, 1, **({"wfapi": WFAPI} if page == "wfapi/describe" else {"overview": OVERVIEW}))
    watched.break_with(lambda path, _: answer if path.endswith(page) else None)
    report = poll(controller, outbox, stage_rule())
    assert (ids(outbox), len(report.problems)) == ([], 1)
    watched.break_with(None)
    assert poll(controller, outbox, stage_rule()).enqueued == ["main:deploy/shop#1:qa"]


def stage_pages(jenkins: LocalJenkins) -> list[str]:
    """What was asked of the first build's stages."""
    start = "/job/deploy/job/shop/1/"
    paths = [request.path.removeprefix(start) for request in jenkins.requests if request.path.startswith(start)]
    return [path for path in paths if path.endswith(("describe", "tree"))]


# Tests are unstable, what comes after them is skipped: one plugin tells it, the other calls it SUCCESS.
UNSTABLE: dict[str, Any] = {
    "status": "UNSTABLE",
    "stages": [
        {"id": "6", "name": "Test", "status": "UNSTABLE", "startTimeMillis": NOON, "durationMillis": 1_000},
        *(
            {
                "id": str(node),
                "name": f"Deploy {node}",
                "status": "SUCCESS",
                "startTimeMillis": NOON,
                "durationMillis": 9,
            }
            for node in range(11, 41)
        ),
    ],
}
SKIPPED = {"stageFlowNodes": [{"name": "Get contextual object from internal APIs"}]}
PLACEHOLDER = {"name": "System Generated", "state": "success", "type": "PIPELINE_START", "placeholder": True}


def test_one_page_is_asked_for_where_the_plugin_is_that_tells_a_skipped_stage(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox
) -> None:
    names = (each["name"] for each in UNSTABLE["stages"][1:])
    skipped = [{"name": name, "state": "skipped", "startTimeMillis": NOON} for name in names]
    watched.set_stages(SHOP, 1, wfapi=UNSTABLE, overview={"data": {"stages": skipped}})
    watched.clear_requests()
    assert poll(controller, outbox, stage_rule()).enqueued == []
    assert stage_pages(watched) == ["pipeline-overview/tree"]


def stopped(name: str, node: str, state: str = "aborted") -> dict[str, Any]:
    times = {"startTimeMillis": NOON + 1_000, "totalDurationMillis": 5_000}
    return {"id": node, "name": name, "state": state, "type": "STAGE", "children": []} | times


STOPPED = {"data": {"stages": [stopped("Build", "6"), stopped("Deploy qa", "11"), stopped("Deploy live", "16")]}}


def test_a_stopped_stage_whose_steps_never_began_is_no_deployment_where_the_overview_answers(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox
) -> None:
    """One question for each stopped stage that matches; who waited for a node or an answer deployed nothing."""
    steps = {"11": [], "16": [{"name": "Shell Script"}]}

    def answer(path: str, _: object) -> Response | None:
        node = path.partition("/execution/node/")[2].partition("/")[0]
        told = msgspec.json.encode({"stageFlowNodes": steps.get(node)})
        return Response(told, media_type="application/json") if node else None

    watched.set_stages(SHOP, 1, overview=STOPPED)
    watched.break_with(answer)
    watched.clear_requests()
    assert poll(controller, outbox, stage_rule()).enqueued == ["main:deploy/shop#1:live"]
    assert event(outbox, "main:deploy/shop#1:live")["status"] == "canceled"
    assert stage_pages(watched) == [
        *("pipeline-overview/tree", "execution/node/11/wfapi/describe", "execution/node/16/wfapi/describe"),
    ]


@pytest.mark.parametrize("state", ["success", "failure", "unstable", "not_built", "skipped", "running"])
def test_a_build_in_which_no_stage_that_matters_was_stopped_costs_one_page(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, state: str
) -> None:
    overview = {"data": {"stages": [stopped("Build", "6"), stopped("Deploy qa", "11", state)]}}
    watched.set_stages(SHOP, 1, overview=overview)
    watched.clear_requests()
    poll(controller, outbox, stage_rule())
    assert stage_pages(watched) == ["pipeline-overview/tree"]


@pytest.mark.parametrize("answer", NOTHING_TO_TELL.values(), ids=NOTHING_TO_TELL)
def test_a_stopped_stage_whose_steps_cannot_be_read_is_canceled(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, answer: Response
) -> None:
    watched.set_stages(SHOP, 1, overview=STOPPED)
    watched.break_with(lambda path, _: answer if "/execution/node/" in path else None)
    poll(controller, outbox, stage_rule())
    assert [event(outbox, f"main:deploy/shop#1:{where}")["status"] for where in ("qa", "live")] == ["canceled"] * 2


@pytest.mark.parametrize("answer", LIES.values(), ids=LIES)
def test_a_lie_about_the_steps_of_a_stopped_stage_is_no_event(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, answer: Response
) -> None:
    watched.set_stages(SHOP, 1, overview=STOPPED)
    watched.break_with(lambda path, _: answer if "/execution/node/" in path else None)
    report = poll(controller, outbox, stage_rule())
    assert (ids(outbox), len(report.problems)) == ([], 1)


@pytest.mark.parametrize("overview", [None, {"data": {"stages": [PLACEHOLDER]}}], ids=["no plugin", "placeholder"])
def test_without_it_the_steps_of_doubtful_stages_are_asked_for_and_not_without_end(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, overview: dict[str, Any] | None
) -> None:
    watched.set_stages(SHOP, 1, wfapi=UNSTABLE, overview=overview)
    watched.break_with(
        lambda path, _: (
            Response(msgspec.json.encode(SKIPPED), media_type="application/json")
            if "/execution/node/" in path
            else None
        )
    )
    watched.clear_requests()
    poll(controller, outbox, stage_rule())
    assert stage_pages(watched) == [
        *("pipeline-overview/tree", "wfapi/describe"),
        *(f"execution/node/{node}/wfapi/describe" for node in range(11, 11 + MOST_QUESTIONS)),
    ]
    assert set(ids(outbox)) == {f"main:deploy/shop#1:{node}" for node in range(11 + MOST_QUESTIONS, 41)}


@pytest.mark.parametrize("answer", LIES.values(), ids=LIES)
def test_a_lie_about_the_steps_of_a_stage_is_no_event(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, answer: Response
) -> None:
    watched.set_stages(SHOP, 1, wfapi={**UNSTABLE, "stages": UNSTABLE["stages"][:2]})
    watched.break_with(lambda path, _: answer if "/execution/node/" in path else None)
    report = poll(controller, outbox, stage_rule())
    assert (ids(outbox), len(report.problems)) == ([], 1)


@pytest.mark.parametrize("answer", NOTHING_TO_TELL.values(), ids=NOTHING_TO_TELL)
def test_where_the_steps_cannot_be_read_the_plugins_word_counts(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, answer: Response
) -> None:
    watched.set_stages(SHOP, 1, wfapi={**UNSTABLE, "stages": UNSTABLE["stages"][:2]})
    watched.break_with(lambda path, _: answer if "/execution/node/" in path else None)
    assert poll(controller, outbox, stage_rule()).enqueued == ["main:deploy/shop#1:11"]


def test_a_build_of_the_old_stage_step_is_no_build_without_stages_only_where_one_plugin_sees_them(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox
) -> None:
    watched.set_stages(SHOP, 1, overview={"data": {"stages": [PLACEHOLDER]}})
    report = poll(controller, outbox, stage_rule())
    assert (report.enqueued, report.underivable, report.problems) == ([], [], [])


def test_nothing_is_asked_of_the_stages_for_a_rule_without_any(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox
) -> None:
    watched.set_stages(SHOP, 1, wfapi=UNSTABLE, overview=OVERVIEW)
    watched.clear_requests()
    assert poll(controller, outbox, rule("deploy/**")).enqueued == ["main:deploy/shop#1"]
    assert stage_pages(watched) == []


@pytest.mark.parametrize("answer", LIES.values(), ids=LIES)
def test_a_lie_about_the_upstream_build_is_no_event_without_its_commit(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, answer: Response
) -> None:
    deployed = _caused_by_a_build(watched)
    watched.break_with(lambda path, _: answer if path == "/job/build/job/shop/1/api/json" else None)
    report = poll(controller, outbox, rule("deploy/**"))
    assert (ids(outbox), len(report.problems)) == (["main:deploy/shop#1"], 1)  # the other one, which has a commit
    watched.break_with(None)
    poll(controller, outbox, rule("deploy/**"))
    assert event(outbox, f"main:deploy/shop#{deployed}")["commit_hash"] == "c" * 40


def test_a_pipeline_that_triggers_a_deployment_before_its_own_checkout_does_not_spoil_those_after_it(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    client = JenkinsClient(controller)
    poller = Poller(controller, client, ingest_of(outbox, rule("deploy/**")))
    poller.poll()
    watched.add_job("build/shop")
    built = watched.start_build("build/shop")
    early = _caused_by(watched, "build/shop", built)
    assert poller.poll().underivable == [f"main:deploy/shop#{early}"]
    watched.update_build("build/shop", built, actions=[build_data(built, REPO, "origin/main", "c" * 40)])
    late = _caused_by(watched, "build/shop", built)
    assert poller.poll().enqueued == [f"main:deploy/shop#{late}"]
    watched.finish_build("build/shop", built)
    last = _caused_by(watched, "build/shop", built)
    poller.poll()
    assert event(outbox, f"main:deploy/shop#{last}")["commit_hash"] == "c" * 40
    client.close()


def test_one_build_that_starts_many_deployments_is_read_once_and_its_successor_of_that_number_as_well(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    client = JenkinsClient(controller)
    poller = Poller(controller, client, ingest_of(outbox, rule("deploy/**")))
    poller.poll()
    for commit in ("c" * 40, "d" * 40):
        watched.add_job("build/shop")
        watched.finish_build("build/shop", watched.start_build("build/shop", repo=REPO, commit=commit))
        watched.clear_requests()
        deployed = [_caused_by(watched, "build/shop", 1) for _ in range(5)]
        poller.poll()
        assert {event(outbox, f"main:deploy/shop#{number}")["commit_hash"] for number in deployed} == {commit}
        assert sum("/build/" in request.path for request in watched.requests) == 1
        watched.delete_job("build/shop")
        clock.advance(s=3_600)
    client.close()


def test_no_more_upstream_builds_are_remembered_than_there_is_room_for(controller: JenkinsSettings) -> None:
    details = Details(OneCommit(), "main")  # type: ignore[arg-type]
    for number in range(1, 3 * REMEMBERED):
        cause = {"_class": "hudson.model.Cause$UpstreamCause", "upstreamProject": "build/shop", "upstreamBuild": number}
        actions = [{"_class": "hudson.model.CauseAction", "causes": [cause]}]
        raw = msgspec.convert({"number": number, "timestamp": NOON, "actions": actions}, RawBuild)
        found = details.build(raw, Job(SHOP, number + 1, branch_job=False), None)
        assert [each.build.number for each in found.related] == [number]
    assert len(details._related._builds) == REMEMBERED


class OneCommit:
    """Has every build."""

    def build(self, _: str, number: int) -> RawBuild:
        fields = {"number": number, "result": "SUCCESS", "timestamp": NOON, "duration": 1_000}
        return msgspec.convert(fields | {"actions": [build_data(number, REPO, "main", "c" * 40)]}, RawBuild)

    def is_branch_job(self, _: str) -> bool:
        return False


@pytest.mark.parametrize("answer", NOTHING_TO_TELL.values(), ids=NOTHING_TO_TELL)
def test_an_upstream_build_that_cannot_be_read_blocks_nothing(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, answer: Response
) -> None:
    deployed = _caused_by_a_build(watched)
    watched.break_with(lambda path, _: answer if path == "/job/build/job/shop/1/api/json" else None)
    report = poll(controller, outbox, rule("deploy/**"))
    assert report.enqueued == ["main:deploy/shop#1"]
    assert (report.underivable, report.problems) == ([f"main:deploy/shop#{deployed}"], [])


@pytest.mark.parametrize(
    ("branch", "expected"),
    [("feature%2Fx", ("feature/x", None)), ("PR-71", ("PR-71", "71"))],
    ids=["detached head", "pull request"],
)
def test_a_deployment_of_a_branch_job_takes_branch_and_pull_request_from_the_jobs_name_at_no_cost(
    watched: LocalJenkins,
    controller: JenkinsSettings,
    outbox: Outbox,
    branch: str,
    expected: tuple[str, str | None],
) -> None:
    watched.add_folder("build/mb", "multibranch")
    watched.add_job(f"build/mb/{branch}")
    deployed = _caused_by_a_build(watched, f"build/mb/{branch}", "detached")
    watched.clear_requests()
    poll(controller, outbox, rule("deploy/**"))
    seen = event(outbox, f"main:deploy/shop#{deployed}")
    assert (seen["branch"], seen.get("pr_number")) == expected
    assert len(watched.requests) == 3  # the jobs, the builds of the one that moved, the upstream build


@pytest.mark.parametrize("polled_meanwhile", [False, True], ids=["ended", "followed"])
def test_the_pull_request_of_a_branch_job_is_that_of_its_page(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock, polled_meanwhile: bool
) -> None:
    job = "deploy/mb/contribution"
    watched.add_folder("deploy/mb", "multibranch")
    watched.add_job(job)
    watched.set_page(job, "https://bot:s3cr3t@github.example.test/acme/shop/pull/71")
    number = watched.start_build(job, repo=REPO)
    if polled_meanwhile:
        poll(controller, outbox)
    clock.advance(s=30)
    watched.finish_build(job, number)
    watched.clear_requests()
    poll(controller, outbox)
    assert event(outbox, f"main:{job}#{number}")["pr_number"] == "71"
    assert "s3cr3t" not in str(outbox.find(f"main:{job}#{number}"))
    assert sum("/contribution/" in request.path for request in watched.requests) == 1


def test_explaining_a_build_of_a_branch_job_knows_the_pull_request_of_its_page(
    watched: LocalJenkins, controller: JenkinsSettings
) -> None:
    job = "deploy/mb/contribution"
    watched.add_folder("deploy/mb", "multibranch")
    watched.add_job(job)
    watched.set_page(job, "https://github.example.test/acme/shop/pull/71")
    watched.finish_build(job, watched.start_build(job, repo=REPO))
    client = JenkinsClient(controller)
    rules = (rule("deploy/mb/*"),)
    history = History(client, "main", rules)
    [(branch, match)] = history.jobs().deploying
    _, build = history.build(branch, match, 1)
    client.close()
    [part] = derive([final(jenkins_run("main", job, 1), build, at=NOON)], Rules(rules)).parts
    assert part.content.pr_number == "71"


def _caused_by_a_build(jenkins: LocalJenkins, job: str = "build/shop", branch: str = "refs/remotes/origin/main") -> int:
    """Build, and deploy what was built; returns the number of the deployment."""
    if job == "build/shop":
        jenkins.add_job(job)
    built = jenkins.start_build(job, repo=REPO, branch=branch, commit="c" * 40)
    jenkins.finish_build(job, built)
    return _caused_by(jenkins, job, built)


def _caused_by(jenkins: LocalJenkins, job: str, built: int) -> int:
    """Deploy what was built; returns the number of the deployment."""
    cause = {"_class": "hudson.model.Cause$UpstreamCause", "upstreamProject": job, "upstreamBuild": built}
    deployed = jenkins.start_build(SHOP, causes=[cause])
    jenkins.finish_build(SHOP, deployed)
    return deployed
