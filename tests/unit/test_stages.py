"""Stages as two plugins tell them, and the events that rules make of them."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.rules import STAGE_ENVIRONMENT, Options, Pattern, Rule, Template
from agent.deployments.derive import Rules
from agent.deployments.stages import (
    questions_of_overview,
    questions_of_wfapi,
    result_of,
    stages_of_overview,
    stages_of_wfapi,
)
from agent.ingest.ingest import Ingest
from agent.ingest.replay import Outcome, choose, replay
from agent.inspect.derived import DerivedView, of_build
from agent.model import fact as facts
from agent.model.build import Build, Checkout, Stage
from agent.model.deployment import State
from agent.model.keys import jenkins_run
from agent.model.status import Status
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Filter, Page

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RECORDED = Path(__file__).parents[1] / "data" / "recorded-jenkins"
STAGE = "re:^Deploy (to )?(?P<environment>.+)$"


def wfapi(name: str) -> tuple[Stage, ...]:
    return stages_of_wfapi(json.loads((RECORDED / "wfapi" / f"{name}-describe.json").read_bytes()))


def overview(name: str) -> tuple[Stage, ...]:
    return stages_of_overview(json.loads((RECORDED / "pipeline-overview" / f"{name}-tree.json").read_bytes()))


def staged(stages: tuple[Stage, ...] | None, **changes: Any) -> Build:
    checkout = Checkout(("https://github.com/acme/shop.git",), ("refs/remotes/origin/main",), "c")
    fields = {"controller": "main", "job": "shop", "number": 7, "result": "SUCCESS", "started_at": 0, "ended_at": 9}
    url = "http://ci.example/job/shop/7/"
    return Build(**{**fields, "checkouts": (checkout,), "stages": stages, "url": url, **changes})


def derivations(build: Build, stage: str = STAGE, **options: Any) -> list[DerivedView]:
    """The deployments of a build whose final word is all that is known of it."""
    pattern = Pattern.parse(stage)
    rule_options = {key: options.pop(key) for key in ("without_stages", "checkouts", "attempts") if key in options}
    environment = Template.parse(STAGE_ENVIRONMENT, ("environment", "stage"))
    rule = Rule(Pattern.parse("**"), environment, stage=pattern, **rule_options)
    return of_build(build, Rules((rule,), Options(**options), frozenset({"main"})))


def shown(found: list[DerivedView]) -> list[tuple[str, str]]:
    return [(each.deployment_id, each.event.status.value if each.event else each.reason or "") for each in found]


@pytest.mark.parametrize("read", [wfapi, overview], ids=["wfapi", "overview"])
def test_both_plugins_tell_the_same_stages_of_a_recorded_build(read: Any) -> None:
    stages = read("pipe-deploy-7")
    assert [stage.name for stage in stages if stage.name.startswith("Deploy ")] == [
        "Deploy staging",
        "Deploy production",
    ]
    staging = next(stage for stage in stages if stage.name == "Deploy staging")
    assert (staging.status.lower(), staging.started_at) == ("success", 1_795_419_789_347)


def test_each_stage_that_ran_is_an_event_with_its_own_times_and_environment() -> None:
    found = derivations(staged(wfapi("pipe-deploy-7")))
    assert shown(found) == [("main:shop#7:staging", "success"), ("main:shop#7:production", "success")]
    first = found[0].event
    assert first is not None
    assert (first.environment, first.start_time, first.end_time) == (
        "staging",
        "2026-11-23T07:43:09.347Z",
        "2026-11-23T07:43:10.561Z",
    )


def test_a_skipped_stage_is_none_and_a_failed_one_is_failed_although_the_build_went_on() -> None:
    stages = (
        Stage("Deploy to staging", "FAILED", 1, 2),
        Stage("Deploy to qa", "NOT_EXECUTED", 2, 2),
        Stage("Deploy to production", "SUCCESS", 3, 4),
        Stage("Test", "SUCCESS", 0, 1),
    )
    assert shown(derivations(staged(stages))) == [
        ("main:shop#7:staging", "failed"),
        ("main:shop#7:production", "success"),
    ]


def test_a_stage_without_an_end_in_a_final_build_is_unknown() -> None:
    [(_, status)] = shown(derivations(staged((Stage("Deploy qa", "PAUSED_PENDING_INPUT", 1, 0),))))
    assert status == "unknown"


def test_two_stages_of_one_environment_have_different_ids() -> None:
    stages = (Stage("Deploy qa", "SUCCESS", 1, 2), Stage("Deploy to qa", "FAILED", 3, 4))
    assert [name for name, _ in shown(derivations(staged(stages)))] == [
        "main:shop#7:qa",
        "main:shop#7:qa:Deploy to qa",
    ]


def test_a_build_whose_stages_cannot_be_read_is_one_event_or_none_as_the_rule_says() -> None:
    build = staged(None, stages_missing="wfapi/describe: HTTP 404")
    [(name, status)] = shown(derivations(build))
    assert (name, status) == ("main:shop#7", "success")
    [(name, reason)] = shown(derivations(build, without_stages="none"))
    assert name == "main:shop#7" and "could not be read: wfapi/describe: HTTP 404" in reason


def test_the_status_map_holds_for_stages_too() -> None:
    stages = (Stage("Deploy qa", "UNSTABLE", 1, 2),)
    [found] = derivations(staged(stages), status_map={"UNSTABLE": Status.SUCCESS})
    assert found.event is not None and found.event.status is Status.SUCCESS
    assert "mapped by [status]: UNSTABLE -> success" in found.origins["status"]


def test_the_environment_map_is_applied_in_any_case() -> None:
    stages = (Stage("Deploy PROD", "SUCCESS", 1, 2),)
    [found] = derivations(staged(stages), environment_map={"prod": "production"})
    assert found.deployment_id == "main:shop#7:production"
    assert "PROD -> production" in found.origins["environment"]


RECORDED_BUILDS = sorted(
    file.name.removesuffix("-describe.json")
    for file in (RECORDED / "wfapi").glob("*-describe.json")
    if (RECORDED / "pipeline-overview" / file.name.replace("-describe", "-tree")).exists()
)


@pytest.mark.parametrize("name", RECORDED_BUILDS)
def test_whichever_plugin_is_asked_the_events_are_the_same(name: str) -> None:
    """But for the end: one plugin counts the block's last step and the other does not."""
    outcomes = [
        [(each.deployment_id, each.event and (each.event.status, each.event.start_time)) for each in found]
        for found in (derivations(staged(read(name))) for read in (wfapi, overview))
    ]
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("shop-mb-feature_2Fx-1", [("main:shop#7:staging", "success")]),  # production is skipped by `when`
        ("pipe-unstable-stage-1", [("main:shop#7:production", "failed")]),  # the build went on: it is UNSTABLE
        ("pipe-fail-prod-1", [("main:shop#7:staging", "success"), ("main:shop#7:production", "failed")]),
        ("pipe-timeout-1", [("main:shop#7:production", "canceled")]),
        ("deploy-param-4", [("main:shop#7:staging", "failed")]),
        ("pipe-waiting-1", [("main:shop#7:production", "unknown")]),
        ("pipe-syntax-error-1", []),
        ("pipe-input-1", []),
    ],
)
def test_the_events_of_recorded_stages(name: str, outcome: list[tuple[str, str]]) -> None:
    for read in (wfapi, overview):
        assert shown(derivations(staged(read(name)))) == outcome


def test_a_stage_that_waits_for_input_is_unfinished() -> None:
    for read in (wfapi, overview):
        [(name, status)] = shown(derivations(staged(read("pipe-input-1")), "re:(?P<environment>Approve)"))
        assert (name, status) == ("main:shop#7:Approve", "unknown")


# ---- which stages ran: what a real Jenkins 2.504.3 answered, and what is right

# Situation and build -> the stages that ran, in order, with what came of each.
RAN = {
    "abort-previous#1": "Build SUCCESS, Deploy production NOT_BUILT",  # it worked for four seconds
    "abort-previous#2": "Build SUCCESS, Deploy production SUCCESS",
    "aborted-by-user#1": "Build SUCCESS, Deploy production ABORTED",
    "aborted-by-user#2": "Build SUCCESS, Deploy production ABORTED",
    "aborted-by-user-scripted#1": "Build SUCCESS, Deploy production ABORTED",
    "aborted-in-parallel#1": "Deploy eu SUCCESS, Deploy us SUCCESS, Verify SUCCESS",
    "aborted-in-parallel#2": "Deploy eu SUCCESS, Deploy us ABORTED",
    "agent-none-stage-agents#1": "Build SUCCESS, Deploy production ABORTED",
    "catcherror#1": "Deploy failure FAILURE, Deploy unstable UNSTABLE, Deploy aborted ABORTED, "
    "Deploy not_built NOT_BUILT, Deploy success SUCCESS, Verify SUCCESS",
    "catcherror-then-same-error#1": "Deploy staging FAILURE, Deploy production FAILURE, Verify SUCCESS",
    "checkout-fails-in-stage#1": "Checkout FAILURE",
    "currentbuild-result#1": "Test SUCCESS, Deploy production SUCCESS, After SUCCESS",
    "does-not-compile#1": "",
    "error-in-script#1": "Build SUCCESS, Deploy production FAILURE",
    "exception-in-script#1": "Deploy production FAILURE",
    "fast-fail-both#1": "Build FAILURE, Deploy production FAILURE",
    "input-aborted#1": "Build SUCCESS, Approve ABORTED",
    "input-aborted#2": "Build SUCCESS, Approve ABORTED",
    "input-directive-aborted#1": "Build SUCCESS, Deploy production ABORTED",
    "input-directive-proceeded#1": "Build SUCCESS, Deploy production SUCCESS, Verify SUCCESS",
    "input-in-deploy-aborted#1": "Deploy production ABORTED",
    "input-proceeded#1": "Build SUCCESS, Approve SUCCESS, Deploy production SUCCESS",
    "input-timeout#1": "Build SUCCESS, Approve ABORTED",
    "input-timeout-caught#1": "Approve SUCCESS, Deploy production SUCCESS",
    "library-stage#1": "Build SUCCESS, Deploy staging SUCCESS, Deploy production FAILURE",
    "matrix-one-cell-fails#1": "Deploy all FAILURE, Deploy SUCCESS, Check SUCCESS, Deploy SUCCESS, Check SUCCESS, "
    "Deploy SUCCESS, Check SUCCESS, Deploy FAILURE",
    "milestone-superseded#1": "Build NOT_BUILT",
    "milestone-superseded#2": "Build SUCCESS, Deploy production SUCCESS",
    "nested-declarative#1": "Release FAILURE, Build SUCCESS, Deploy production FAILURE",
    "nested-stages#1": "Release FAILURE, Build SUCCESS, Deploy production FAILURE",
    "nested-stages-caught#1": "Release SUCCESS, Deploy production FAILURE, Rollback SUCCESS",
    "no-stage#1": "",
    "not-built-error#1": "Build NOT_BUILT, Deploy production SUCCESS",
    "old-stage-step#1": "Build SUCCESS, Deploy production SUCCESS",
    "parallel-deploys#1": "Build SUCCESS, Deploy UNSTABLE, Deploy eu SUCCESS, Deploy us UNSTABLE, Deploy ap SUCCESS, "
    "Migrate SUCCESS, Roll out SUCCESS",
    "parallel-failfast-declarative#1": "Fan out FAILURE, Deploy eu ABORTED, Deploy us FAILURE",
    "parallel-failfast-scripted#1": "Fan out FAILURE, Deploy eu ABORTED, Deploy us FAILURE",
    "parallel-nested-scripted#1": "Deploy SUCCESS, Deploy eu SUCCESS, Check eu SUCCESS",
    "parallel-no-failfast#1": "Deploy eu SUCCESS, Deploy us FAILURE",
    "post-build-fails#1": "Deploy production SUCCESS",
    "post-fails#1": "Deploy production FAILURE",
    "post-sections#1": "Deploy production SUCCESS",
    "post-unstable#1": "Deploy production SUCCESS",
    "replay#1": "Build SUCCESS, Deploy production SUCCESS",
    "replay#2": "Build SUCCESS, Deploy production SUCCESS",
    "restart-from-middle#1": "Build SUCCESS, Deploy staging SUCCESS, Test FAILURE",
    "restart-from-middle#2": "Test SUCCESS, Deploy production SUCCESS",
    "restart-from-stage#1": "Build SUCCESS, Test SUCCESS, Deploy production FAILURE",
    "restart-from-stage#2": "Deploy production SUCCESS, Verify SUCCESS",
    "resumed-after-crash#1": "Build SUCCESS, Deploy production SUCCESS, Verify SUCCESS",
    "resumed-after-restart#1": "Build SUCCESS, Deploy production SUCCESS, Verify SUCCESS",
    "resumed-after-restart-sleep#1": "Build SUCCESS, Deploy production SUCCESS, Verify SUCCESS",
    "retry-all-fail#1": "Deploy production FAILURE, Deploy production FAILURE, Deploy production FAILURE",
    "retry-around-stage#1": "Deploy production FAILURE, Deploy production FAILURE, Deploy production SUCCESS, "
    "Verify SUCCESS",
    "retry-stage-option#1": "Deploy production SUCCESS, Verify SUCCESS",
    "same-name-twice#1": "Deploy SUCCESS, Deploy FAILURE",
    "same-name-twice-ok#1": "Deploy SUCCESS, Deploy SUCCESS",
    "skip-after-failure#1": "Build SUCCESS, Test FAILURE",
    "skip-after-failure-nested#1": "Test FAILURE",
    "skip-after-failure-slow#1": "Deploy staging FAILURE",
    "skip-after-unstable#1": "Build SUCCESS, Test UNSTABLE",
    "stage-post-unstable#1": "Deploy production UNSTABLE, Verify SUCCESS",
    "timeout-stage#1": "Deploy production ABORTED",
    "timeout-step#1": "Build SUCCESS, Deploy production ABORTED",
    "timeout-whole#1": "Build SUCCESS, Deploy production ABORTED",
    "try-catch#1": "Deploy production FAILURE, Rollback SUCCESS",
    "try-catch-inside#1": "Deploy production SUCCESS, Verify SUCCESS",
    "try-catch-rethrow#1": "Deploy production FAILURE, Rollback SUCCESS",
    "unstable-step#1": "Test UNSTABLE, Deploy production SUCCESS, Smoke UNSTABLE",
    "warnerror#1": "Deploy production UNSTABLE, Verify SUCCESS",
    "when-false#1": "Build SUCCESS, Verify SUCCESS",
    "when-false-nested#1": "Build SUCCESS, Half SUCCESS, Deploy d SUCCESS",
    "when-false-stage-agent#1": "Build SUCCESS, Test FAILURE",
}
# Where the steps tell more: the node never came, or nobody answered the input. Nothing was done in the stage.
BY_STEPS = {
    "agent-none-stage-agents#1": "Build SUCCESS",
    "input-aborted#1": "Build SUCCESS",
    "input-aborted#2": "Build SUCCESS",
    "input-directive-aborted#1": "Build SUCCESS",
    "input-in-deploy-aborted#1": "",
    "input-timeout#1": "Build SUCCESS",
}
# A branch of a parallel that Declarative made: the id of its node is none that the other plugin knows as a stage's.
UNASKED = {"parallel-failfast-declarative#1"}
# What one of the plugins lists besides: branches of a scripted parallel and cells, actions after all stages.
_BESIDES = ("eu", "us", "Post Actions", "Declarative: Post Actions")


def situation(name: str) -> dict[str, Any]:
    """The answers of both plugins for one build, and the steps of some of its stages by their ids."""
    folder, _, number = name.partition("#")
    answers: dict[str, Any] = json.loads((RECORDED / "2.504.3" / "stages" / f"{folder}.json").read_bytes())[number]
    return answers


def ran(stages: Iterable[Stage]) -> list[str]:
    found = [(stage.name, result_of(stage)) for stage in stages if not stage.name.startswith(("Matrix", *_BESIDES[2:]))]
    return [f"{name} {result}" for name, result in found if result is not None and name not in _BESIDES]


def expected(stages: str) -> list[str]:
    return stages.split(", ") if stages else []


def test_every_recorded_situation_is_judged() -> None:
    files = (RECORDED / "2.504.3" / "stages").glob("*.json")
    assert {f"{file.stem}#{number}" for file in files for number in json.loads(file.read_bytes())} == set(RAN)


@pytest.mark.parametrize("name", RAN)
def test_the_overview_tells_which_stages_ran_and_what_came_of_them(name: str) -> None:
    stages = stages_of_overview(situation(name)["overview"])
    assert ran(stages) == ([] if name == "old-stage-step#1" else expected(RAN[name]))
    assert {stage.told_by for stage in stages} <= {"pipeline-graph-view"}


@pytest.mark.parametrize("name", RAN)
def test_the_steps_of_stopped_stages_tell_which_of_them_the_overview_should_not_count(name: str) -> None:
    answers = situation(name)
    asked = questions_of_overview(answers["overview"], lambda _: True)
    assert bool(asked) == any(" ABORTED" in each for each in expected(RAN[name])) or name in UNASKED
    stages = stages_of_overview(answers["overview"], {node: answers["nodes"][node] for node in asked})
    right = BY_STEPS.get(name, RAN[name])
    assert ran(stages) == ([] if name == "old-stage-step#1" else expected(right))


@pytest.mark.parametrize("name", RAN)
def test_wfapi_tells_the_same_where_it_is_asked_for_the_steps_of_doubtful_stages(name: str) -> None:
    """But for parents, which it calls SUCCESS whatever their stages did."""
    answers = situation(name)
    asked = questions_of_wfapi(answers["wfapi"], lambda _: True)
    not_recorded = {node for node in asked if node not in answers["nodes"]}
    stages = stages_of_wfapi(answers["wfapi"], {node: answers["nodes"][node] for node in {*asked} - not_recorded})
    kept = [
        stage
        for stage, entry in zip(stages, answers["wfapi"]["stages"], strict=True)
        if entry["id"] not in not_recorded and stage.name not in ("Release", "Fan out", "Deploy all")
    ]
    left_out = [
        *(entry["name"] for entry in answers["wfapi"]["stages"] if entry["id"] in not_recorded),
        *("Release", "Fan out", "Deploy all"),
    ]
    told, right = sorted(ran(kept)), sorted(expected(BY_STEPS.get(name, RAN[name])))
    if name == "parallel-deploys#1":
        right[right.index("Deploy UNSTABLE")] = "Deploy SUCCESS"  # a parent
    assert [each for each in told if each.rpartition(" ")[0] not in left_out] == sorted(
        each for each in right if each.rpartition(" ")[0] not in left_out
    )


def failed(name: str, start: int, took: int, node: str) -> dict[str, Any]:
    error = {"message": "exit code 1", "type": "hudson.AbortException"}
    times = {"startTimeMillis": start, "durationMillis": took}
    return {"id": node, "name": name, "status": "FAILED", "error": error} | times


TWO_FAILURES = {
    "status": "FAILED",
    "stages": [failed("Build", 1_000, 4_000, "6"), failed("Deploy qa", 6_000, 80, "11")],
}
SKIPPED = {"stageFlowNodes": [{"name": "Get contextual object from internal APIs"}]}


@pytest.mark.parametrize(
    ("steps", "deployed"),
    [
        ({"11": SKIPPED}, []),
        ({"11": {"stageFlowNodes": [{"name": "Check out from version control"}, *SKIPPED["stageFlowNodes"]]}}, []),
        ({"11": {"stageFlowNodes": [*SKIPPED["stageFlowNodes"], {"name": "Shell Script"}]}}, ["main:shop#7:qa"]),
        ({"11": {"stageFlowNodes": [{"name": "Check out from version control"}]}}, ["main:shop#7:qa"]),
        ({"11": {"stageFlowNodes": []}}, ["main:shop#7:qa"]),  # an exception within script {}
        ({"11": {"stageFlowNodes": "odd"}}, ["main:shop#7:qa"]),
        ({"6": SKIPPED}, ["main:shop#7:qa"]),
        ({}, ["main:shop#7:qa"]),
    ],
    ids=["skipped", "with checkout", "worked", "failed checkout", "no steps", "odd", "another's", "not told"],
)
def test_only_its_steps_make_a_failed_stage_a_skipped_one(steps: dict[str, Any], deployed: list[str]) -> None:
    """Not the same error within an instant: two stages may well fail alike."""
    assert [each.deployment_id for each in derivations(staged(stages_of_wfapi(TWO_FAILURES, steps)))] == deployed


@pytest.mark.parametrize("word", ["ABORTED", "NOT_EXECUTED"])
@pytest.mark.parametrize("steps", [[], ["Wait for interactive input"]], ids=["no node", "no answer"])
def test_nothing_was_deployed_in_a_stage_that_was_stopped_before_its_steps(word: str, steps: list[str]) -> None:
    told = {"11": {"stageFlowNodes": [{"name": step} for step in steps]}}
    assert ran(stages_of_wfapi({"stages": [stage_of_wfapi(word, 60_000)]}, told)) == []
    told["11"]["stageFlowNodes"].append({"name": "Shell Script"})
    assert len(ran(stages_of_wfapi({"stages": [stage_of_wfapi(word, 60_000)]}, told))) == 1


def stage_of_wfapi(status: str, took: int = 80, **more: Any) -> dict[str, Any]:
    return {"id": "11", "name": "Deploy qa", "status": status, "startTimeMillis": 1, "durationMillis": took} | more


@pytest.mark.parametrize(
    ("build", "stage", "asked"),
    [
        ("SUCCESS", stage_of_wfapi("SUCCESS"), False),
        ("SUCCESS", stage_of_wfapi("NOT_EXECUTED"), True),
        ("SUCCESS", stage_of_wfapi("NOT_EXECUTED", 60_000), True),
        ("ABORTED", stage_of_wfapi("ABORTED", 60_000), True),
        ("UNSTABLE", stage_of_wfapi("SUCCESS"), True),
        ("UNSTABLE", stage_of_wfapi("SUCCESS", 60_000), False),
        ("FAILED", stage_of_wfapi("FAILED"), True),
        ("FAILED", stage_of_wfapi("FAILED", 60_000), False),
        ("FAILED", stage_of_wfapi("FAILED", id="../../delete"), False),
        ("FAILED", stage_of_wfapi("FAILED", id=11), False),
        ("FAILED", stage_of_wfapi("FAILED", name="Build"), False),
    ],
)
def test_only_a_stage_that_matters_and_may_not_have_run_is_asked_for_its_steps(
    build: str, stage: dict[str, Any], asked: bool
) -> None:
    questions = questions_of_wfapi({"status": build, "stages": [stage]}, lambda name: name.startswith("Deploy"))
    assert questions == (["11"] if asked else [])


def stage_of_overview(state: str = "aborted", **more: Any) -> dict[str, Any]:
    plain = {"id": "11", "name": "Deploy qa", "state": state, "type": "STAGE", "children": []}
    return plain | {"startTimeMillis": 1, "totalDurationMillis": 60_000} | more


@pytest.mark.parametrize(
    ("stage", "asked"),
    [
        (stage_of_overview(), True),
        *((stage_of_overview(state), False) for state in ("success", "failure", "unstable", "skipped", "not_built")),
        (stage_of_overview(name="Build"), False),
        (stage_of_overview(type="PARALLEL"), False),
        (stage_of_overview(children=[stage_of_overview("success", id="12", name="Migrate")]), False),
        (stage_of_overview(id=11), False),
        (stage_of_overview(id="../../delete"), False),
        (stage_of_overview(id=None), False),
    ],
)
def test_only_a_stopped_stage_that_matters_and_stands_alone_is_asked_where_the_overview_answers(
    stage: dict[str, Any], asked: bool
) -> None:
    questions = questions_of_overview({"data": {"stages": [stage]}}, lambda name: name.startswith("Deploy"))
    assert questions == (["11"] if asked else [])


@pytest.mark.parametrize("steps", [[], ["Wait for interactive input"], ["Get contextual object from internal APIs"]])
def test_a_stopped_stage_of_the_overview_that_never_came_to_its_steps_is_no_deployment(steps: list[str]) -> None:
    answer = {"data": {"stages": [stage_of_overview()]}}
    told: dict[str, Any] = {"11": {"stageFlowNodes": [{"name": step} for step in steps]}}
    assert derivations(staged(stages_of_overview(answer, told))) == []
    for other in ({}, {"11": {"stageFlowNodes": "odd"}}, {"11": {}}, {"12": told["11"]}):
        assert shown(derivations(staged(stages_of_overview(answer, other)))) == [("main:shop#7:qa", "canceled")]
    told["11"]["stageFlowNodes"].append({"name": "Shell Script"})
    assert shown(derivations(staged(stages_of_overview(answer, told)))) == [("main:shop#7:qa", "canceled")]


def test_what_went_on_after_a_failure_is_asked_although_the_build_is_a_success() -> None:
    stages = [failed("Build", 1_000, 4_000, "6"), stage_of_wfapi("SUCCESS")]
    assert questions_of_wfapi({"status": "SUCCESS", "stages": stages}, lambda name: name == "Deploy qa") == ["11"]


def test_nothing_below_a_skipped_stage_ran_whatever_is_said_of_it() -> None:
    child = {"name": "Deploy eu", "state": "success", "type": "STAGE", "children": []}
    parent = {"name": "Release", "state": "skipped", "type": "STAGE", "children": [child]}
    assert ran(stages_of_overview({"stages": [parent]})) == []


def test_the_origin_of_the_status_says_whose_word_it_is() -> None:
    [found] = derivations(staged(stages_of_overview(situation("try-catch#1")["overview"])))
    assert found.origins["status"] == "stage Deploy production: failure (according to pipeline-graph-view) -> failed"
    answers = situation("fast-fail-both#1")
    [found] = derivations(staged(stages_of_wfapi(answers["wfapi"], answers["nodes"])))
    assert "FAILED (according to pipeline-rest-api, by the stage's steps)" in found.origins["status"]


def test_a_stage_that_an_older_version_stored_as_skipped_stays_skipped() -> None:
    stored = msgspec.json.decode(b'{"name":"Deploy qa","status":"SKIPPED_FOR_FAILURE","started_at":1}', type=Stage)
    assert derivations(staged((stored,))) == []


def test_the_stages_within_parallel_branches_are_found_and_blocks_are_none() -> None:
    assert [stage.name for stage in wfapi("pipe-scripted-1")] == [
        *("Checkout", "Build", "Unit tests", "Integration tests", "Deploy")
    ]
    names = [stage.name for stage in overview("pipe-scripted-1")]
    assert names == ["Checkout", "Build", "unit", "Unit tests", "integration", "Integration tests", "Deploy"]


def test_a_branch_of_the_same_name_as_its_stage_counts_once() -> None:
    child = {"name": "Deploy eu", "state": "success", "type": "STAGE", "children": []}
    branch = {"name": "Deploy eu", "state": "success", "type": "PARALLEL", "children": [child]}
    assert len(stages_of_overview({"stages": [branch]})) == 1


@pytest.mark.parametrize(
    ("url", "page", "logs_url"),
    [
        ("http://ci/job/shop/7/", "/job/shop/7/p?n=6", "http://ci/job/shop/7/p?n=6"),
        ("http://ci/jenkins/job/shop/7/", "/job/shop/7/p?n=6", "http://ci/jenkins/job/shop/7/p?n=6"),
        ("http://ci/job/shop/7/", "https://other/p", "https://other/p"),
        ("http://ci/job/shop/7/", "", "http://ci/job/shop/7/"),
        ("http://ci/job/renamed/7/", "/job/shop/7/p", "http://ci/job/renamed/7/"),
        ("http://ci/job/shop/7/", "javascript:alert(1)", "http://ci/job/shop/7/"),
        ("http://ci/job/shop/7/", "http://[::1", "http://ci/job/shop/7/"),
    ],
)
def test_the_logs_are_the_stages_page_or_the_builds(url: str, page: str, logs_url: str) -> None:
    [found] = derivations(staged((Stage("Deploy qa", "SUCCESS", 1, 2, page),), url=url))
    assert found.event is not None
    assert found.event.logs_url == logs_url


def test_stages_and_repositories_multiply() -> None:
    checkouts = tuple(Checkout((f"https://h/acme/{name}",), ("origin/main",), "c") for name in ("shop", "infra"))
    build = staged((Stage("Deploy qa", "SUCCESS", 1, 2),), checkouts=checkouts)
    found = derivations(build, checkouts="each")
    assert [each.deployment_id for each in found] == ["main:shop#7:qa:acme/shop", "main:shop#7:qa:acme/infra"]


def test_the_environment_of_a_stage_without_one_is_that_of_the_build() -> None:
    build = staged((Stage("Deploy", "SUCCESS", 1, 2),), parameters={"ENVIRONMENT": "canary"})
    [found] = derivations(build, "re:^Deploy( (?P<environment>.+))?$")
    assert found.deployment_id == "main:shop#7:canary"
    assert found.origins["environment"] == "parameter ENVIRONMENT"


def test_the_origins_of_a_stages_event_name_the_stage() -> None:
    [found] = derivations(staged((Stage("Deploy qa", "FAILED", 1, 0),)))
    assert found.origins["environment"] == "stage Deploy qa"
    assert found.origins["status"] == "stage Deploy qa: FAILED -> failed"
    assert found.origins["end_time"] == "the build's end; stage Deploy qa has no end"


# ---- again


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[SqliteOutbox]:
    with closing(SqliteOutbox(tmp_path / "outbox.db", Clock())) as outbox:
        yield outbox


def under(outbox: SqliteOutbox, rule: Rule) -> Ingest:
    """The door into the outbox under one rule."""
    return Ingest(outbox, Rules((rule,), Options(), frozenset({"main"})), hold_for_ms=3_600_000)


def accept(ingest: Ingest, build: Build) -> list[tuple[str | None, str]]:
    """The poller's final word; returns ids and states."""
    run = jenkins_run(build.controller, build.job, build.number)
    accepted = ingest.accept([facts.final(run, build, at=build.ended_at)])
    return [(each.deployment_id, each.state.value) for each in accepted.deployments]


def stage_rule(environment: str) -> Rule:
    groups = ("environment", "stage")
    return Rule(Pattern.parse("**"), Template.parse(environment, groups), stage=Pattern.parse(STAGE))


def replay_failed(ingest: Ingest) -> list[Outcome]:
    return replay(ingest, choose(ingest.outbox, Filter(states=(State.FAILED,))), "ada")


def test_a_stages_event_that_had_no_environment_is_mended_by_the_rule_under_the_same_id(outbox: SqliteOutbox) -> None:
    stages = (Stage("Deploy qa", "SUCCESS", 1, 2), Stage("Deploy prod", "SUCCESS", 3, 4))
    broken = accept(under(outbox, stage_rule("{params.NONE}")), staged(stages))
    assert sorted(broken) == [("main:shop#7:Deploy prod", "failed"), ("main:shop#7:Deploy qa", "failed")]
    assert [outcome.done for outcome in replay_failed(under(outbox, stage_rule("{environment}")))] == [True, True]
    for environment in ("qa", "prod"):
        mended = outbox.find(f"main:shop#7:Deploy {environment}")
        assert mended is not None
        assert (mended.state, mended.content.environment) == (State.PENDING, environment)


def test_a_number_used_again_keeps_its_suffix(outbox: SqliteOutbox) -> None:
    first, again = (
        staged((Stage("Deploy qa", "SUCCESS", at + 1, at + 2),), started_at=at, ended_at=at + 9)
        for at in (0, 86_400_000)
    )
    broken = under(outbox, stage_rule("{params.NONE}"))
    assert accept(broken, first) == [("main:shop#7:Deploy qa", "failed")]
    assert accept(broken, again) == [("main:shop#7:Deploy qa@86400000", "failed")]
    assert [(o.deployment_id, o.done) for o in replay_failed(under(outbox, stage_rule("{environment}")))] == [
        ("main:shop#7:Deploy qa", True), ("main:shop#7:Deploy qa@86400000", True),
    ]  # fmt: skip
    mended = outbox.find("main:shop#7:Deploy qa@86400000")
    assert mended is not None
    assert (mended.content.environment, mended.content.started_at) == ("qa", 86_400_001)


def test_an_event_that_the_rule_gives_no_more_stays_failed_and_nothing_comes_beside_it(outbox: SqliteOutbox) -> None:
    whole = Rule(Pattern.parse("**"), Template.parse("{params.NONE}"))
    build = staged((Stage("Deploy qa", "SUCCESS", 1, 2),))
    assert accept(under(outbox, whole), build) == [("main:shop#7", "failed")]
    [outcome] = replay_failed(under(outbox, stage_rule("{environment}")))
    assert not outcome.done
    assert outcome.reason
    assert [row.deployment_id for row in outbox.query(Filter(), Page())] == ["main:shop#7"]


# ---- odd answers


@pytest.mark.parametrize("answer", [{}, {"stages": 1}, {"data": 1}, {"data": {"stages": {}}}])
def test_what_is_no_answer_of_a_plugin_is_a_value_error(answer: dict[str, Any]) -> None:
    for parse in (stages_of_wfapi, stages_of_overview):
        with pytest.raises(ValueError, match=r"."):
            parse(answer)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "status", "state", "startTimeMillis", "durationMillis", "children", "type"]), inner
        )
    ),
    max_leaves=12,
)


@given(st.lists(_JSON, max_size=4))
def test_odd_entries_break_nothing(entries: list[Any]) -> None:
    for parse in (stages_of_wfapi, stages_of_overview):
        for stage in parse({"stages": json.loads(json.dumps(entries))}):
            assert stage.name.strip()
            assert msgspec.json.decode(msgspec.json.encode(stage), type=Stage) == stage


_STAGES = st.lists(st.builds(Stage, st.text(max_size=5) | st.just("Deploy qa"), st.text(max_size=5), st.integers()))


@given(_STAGES, st.text(), st.sampled_from(["one", "each"]), st.sampled_from(["last", "each"]))
def test_whatever_stages_there_are_no_two_events_have_the_same_id(
    stages: list[Stage], url: str, each: str, attempts: str
) -> None:
    build = staged(tuple(stages), url=url)
    found = derivations(build, "re:(?s)^(?P<environment>.*)$", checkouts=each, attempts=attempts)
    assert len({each.deployment_id for each in found}) == len(found)
    assert all((each.event is None) == (each.reason is not None) for each in found)


def test_stages_nested_beyond_all_depths_are_read() -> None:
    inner: dict[str, Any] = {"name": "a", "state": "success"}
    for level in range(5_000):
        inner = {"name": f"a{level}", "state": "success", "children": [inner]}
    assert len(stages_of_overview({"stages": [inner]})) == 5_001
