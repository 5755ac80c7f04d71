"""Stages of one name in one build: the last attempt is the deployment, or each one is, as the rule says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.config.rules import STAGE_ENVIRONMENT, Options, Pattern, Rule, Template
from agent.deployments.attempts import each_attempt, last_attempts
from agent.deployments.derive import Rules
from agent.deployments.stages import result_of, stages_of_overview, stages_of_wfapi
from agent.model import fact as facts
from agent.model.build import Build, Checkout, Stage
from agent.model.keys import jenkins_run
from tests.unit.facts import HOUR, NOON, World
from tests.unit.test_stages import STAGE, derivations, shown, situation, staged

# What a real Jenkins answered -> what came of it: with "last", with "each".
RECORDED = {
    "retry-around-stage#1": ("success", ["failed", "failed", "success"]),
    "retry-all-fail#1": ("failed", ["failed", "failed", "failed"]),
    "retry-stage-option#1": ("success", ["success"]),
    "same-name-twice#1": ("failed", ["success", "failed"]),
    "same-name-twice-ok#1": ("success", ["success", "success"]),
    # Four cells at the same time are no attempts of one another: one failed, so the deployment did.
    "matrix-one-cell-fails#1": ("failed", ["success", "success", "success", "failed"]),
}


def recorded(name: str, plugin: str) -> tuple[Stage, ...]:
    answers = situation(name)
    if plugin == "overview":
        return stages_of_overview(answers["overview"])
    return stages_of_wfapi(answers["wfapi"], answers["nodes"])


@pytest.mark.parametrize("plugin", ["overview", "wfapi"])
@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_stage_that_was_tried_again_is_its_last_attempt_or_each(name: str, plugin: str) -> None:
    build, (last, each) = staged(recorded(name, plugin)), RECORDED[name]
    pattern = "re:^Deploy( production)?$"
    options: dict[str, Any] = {"environment_map": {"": "prod"}}
    build = replace(build, parameters={"ENVIRONMENT": "prod"})
    assert shown(derivations(build, pattern, attempts="last", **options)) == [("main:shop#7:prod", last)]
    ids = ["main:shop#7:prod", *(f"main:shop#7:prod~{number}" for number in range(2, len(each) + 1))]
    assert shown(derivations(build, pattern, attempts="each", **options)) == list(zip(ids, each, strict=True))


def test_without_a_word_of_the_rule_the_last_attempt_counts() -> None:
    stages = (Stage("Deploy qa", "FAILED", 1, 2), Stage("Deploy qa", "SUCCESS", 3, 4))
    [found] = derivations(staged(stages))
    assert found.event is not None
    assert (found.deployment_id, found.event.status.value) == ("main:shop#7:qa", "success")
    assert found.origins["status"] == "stage Deploy qa: SUCCESS, the last of 2 attempts -> success"


def test_the_last_attempt_has_its_own_times_and_page() -> None:
    first = Stage("Deploy qa", "FAILED", 1_000, 2_000, url="/job/shop/7/one")
    [attempt] = last_attempts([first, replace(first, started_at=3_000, ended_at=4_000, url="/job/shop/7/two")])
    assert (attempt.stage.started_at, attempt.stage.ended_at, attempt.stage.url) == (3_000, 4_000, "/job/shop/7/two")


def test_what_ran_at_the_same_time_is_one_deployment_with_the_worst_word_and_all_of_the_time() -> None:
    cells = [("SUCCESS", 10, 90), ("FAILED", 12, 20), ("SUCCESS", 50, 60)]
    [attempt] = last_attempts([Stage("Deploy", "FAILED", 0, 9), *(Stage("Deploy", *cell) for cell in cells)])
    assert (attempt.result, attempt.stage.started_at, attempt.stage.ended_at, attempt.of) == ("FAILURE", 10, 90, 4)


def test_an_attempt_that_did_not_run_is_none() -> None:
    stages = [Stage("Deploy", "success", 1, 2), Stage("Deploy", "skipped"), Stage("Other", "skipped")]
    for attempts in (last_attempts(stages), each_attempt(stages)):
        assert [(attempt.stage.name, attempt.result, attempt.of) for attempt in attempts] == [("Deploy", "SUCCESS", 1)]


def test_each_attempt_and_each_repository_have_ids_of_their_own() -> None:
    checkouts = tuple(Checkout((f"https://h/acme/{name}",), ("origin/main",), "c") for name in ("shop", "infra"))
    stages = (Stage("Deploy qa", "SUCCESS", 1, 2), Stage("Deploy qa", "SUCCESS", 3, 4))
    found = derivations(staged(stages, checkouts=checkouts), checkouts="each", attempts="each")
    assert [each.deployment_id for each in found] == [
        "main:shop#7:qa:acme/shop", "main:shop#7:qa:acme/infra",
        "main:shop#7:qa:acme/shop~2", "main:shop#7:qa:acme/infra~2",
    ]  # fmt: skip


# ---- any stages in any order

_WORDS = st.sampled_from(["SUCCESS", "FAILED", "UNSTABLE", "ABORTED", "NOT_EXECUTED", "skipped", "PAUSED", "odd"])
_STAGE = st.builds(
    lambda name, word, start, took: Stage(name, word, start, start + took if took is not None else 0),
    st.sampled_from(["Deploy qa", "Deploy eu", "Build"]), _WORDS, st.integers(0, 30), st.none() | st.integers(0, 9),
)  # fmt: skip
_STAGES = st.lists(_STAGE, max_size=8, unique_by=lambda stage: (stage.name, stage.started_at))


@given(_STAGES.flatmap(lambda stages: st.tuples(st.just(stages), st.permutations(stages))))
def test_the_order_in_which_they_are_listed_does_not_matter(listed: tuple[list[Stage], list[Stage]]) -> None:
    for attempts in ("last", "each"):
        one, other = (derivations(staged(tuple(stages)), attempts=attempts) for stages in listed)
        assert {each.deployment_id: each.event for each in one} == {each.deployment_id: each.event for each in other}


@given(_STAGES)
def test_there_is_one_for_each_name_that_ran_or_one_for_each_stage_that_ran(stages: list[Stage]) -> None:
    ran = [stage for stage in stages if result_of(stage) is not None]
    assert [attempt.stage.name for attempt in last_attempts(stages)] == list(dict.fromkeys(s.name for s in ran))
    assert sorted(str(attempt.stage) for attempt in each_attempt(stages)) == sorted(map(str, ran))


@given(_STAGES)
def test_one_after_another_the_last_speaks_for_itself(stages: list[Stage]) -> None:
    """However often a stage was tried before, and with whatever result."""
    apart = [replace(stage, started_at=100 * n + 1, ended_at=100 * n + 50) for n, stage in enumerate(stages)]
    for attempt in last_attempts(apart):
        mine = [stage for stage in apart if stage.name == attempt.stage.name and result_of(stage) is not None]
        assert (attempt.stage, attempt.of) == (mine[-1], len(mine))


@given(st.lists(_STAGE.filter(lambda stage: stage.name == "Deploy qa"), min_size=1, max_size=5), st.data())
def test_ids_stay_whenever_the_final_word_comes_again_and_whatever_the_rule_says_by_then(
    stages: list[Stage], data: st.DataObject
) -> None:
    run = jenkins_run("main", "deploy/shop", 12)
    build = replace(staged(tuple(stages), started_at=NOON, ended_at=NOON + HOUR), controller="", job="", number=0)
    first, then = (data.draw(st.sampled_from(["last", "each"])) for _ in "12")
    world = World(_rules(first), now=NOON + HOUR)
    world.accept(facts.final(run, build, at=NOON + HOUR))
    before = {row.number: row.deployment_id for row in world.rows}
    if data.draw(st.booleans()):
        world.deliver()
    world.rules = _rules(then)
    world.accept(facts.final(run, replace(build, url=f"{build.url}?again"), at=NOON + 2 * HOUR))
    world.deliver()
    assert {row.number: row.deployment_id for row in world.rows} == before


def _rules(attempts: Any) -> Rules:
    template = Template.parse(STAGE_ENVIRONMENT, ("environment", "stage"))
    rule = Rule(Pattern.parse("**"), template, stage=Pattern.parse(STAGE), attempts=attempts)
    return Rules((rule,), Options(), frozenset({"main"}))


def test_attempts_that_an_older_version_sent_keep_their_ids_and_nothing_is_doubled() -> None:
    """It made an event of each, and called the second by the stage's name."""
    build: Build = staged(tuple(Stage("Deploy qa", "SUCCESS", at, at + 1) for at in (1, 3, 5)))
    final = facts.final(jenkins_run("main", "shop", 7), build, at=9)
    world = World(_rules("each"))
    world.accept(final)
    older = ["main:shop#7:qa", "main:shop#7:qa:Deploy qa", "main:shop#7:qa:Deploy qa:2"]
    world.rows = [replace(row, deployment_id=name) for row, name in zip(world.rows, older, strict=True)]
    for attempts in ("last", "each"):
        world.rules = _rules(attempts)
        world.plan()
        assert [row.deployment_id for row in world.rows] == older
