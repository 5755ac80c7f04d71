"""Stages as two plugins tell them, and the events that rules make of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.jenkins.builds import Build, Checkout, Stage
from agent.jenkins.derive import Derivation, Options, derive
from agent.jenkins.rules import STAGE_ENVIRONMENT, Pattern, Rule, Template, first_match
from agent.jenkins.stages import stages_of_overview, stages_of_wfapi
from agent.status import Status

RECORDED = Path(__file__).parents[1] / "data" / "recorded-jenkins"
STAGE = "re:^Deploy (to )?(?P<environment>.+)$"


def wfapi(name: str) -> tuple[Stage, ...]:
    return stages_of_wfapi((RECORDED / "wfapi" / f"{name}-describe.json").read_bytes())


def overview(name: str) -> tuple[Stage, ...]:
    return stages_of_overview((RECORDED / "pipeline-overview" / f"{name}-tree.json").read_bytes())


def staged(stages: tuple[Stage, ...] | None, **changes: Any) -> Build:
    checkout = Checkout(("https://github.com/acme/shop.git",), ("refs/remotes/origin/main",), "c")
    fields = {"controller": "main", "job": "shop", "number": 7, "result": "SUCCESS", "started_at": 0, "ended_at": 9}
    url = "http://ci.example/job/shop/7/"
    return Build(**{**fields, "checkouts": (checkout,), "stages": stages, "url": url, **changes})


def derivations(build: Build, stage: str = STAGE, **options: Any) -> list[Derivation]:
    pattern = Pattern.parse(stage)
    rule_options = {key: options.pop(key) for key in ("without_stages",) if key in options}
    environment = Template.parse(STAGE_ENVIRONMENT, ("environment", "stage"))
    rule = Rule(Pattern.parse("**"), environment, stage=pattern, **rule_options)
    match = first_match([rule], build.job)
    assert match is not None
    return derive(build, match, Options(**options))


def shown(found: list[Derivation]) -> list[tuple[str, str]]:
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


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"stages": 1}', b"<html>", b'{"data": 1}'])
def test_what_is_no_answer_of_a_plugin_is_a_value_error(answer: bytes) -> None:
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
