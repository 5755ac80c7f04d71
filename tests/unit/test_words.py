"""What ``explain`` tells of every word: over all recorded builds, and over whatever builds say of themselves."""

from __future__ import annotations

import json
from pathlib import Path

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from agent.deployments.derive import Part, Rules, derive
from agent.inspect.words import Told, Verdict, is_about, words_of
from agent.model import fact as facts
from agent.model.build import Build
from agent.model.fact import Fact, Kind, Report
from agent.model.keys import jenkins_run
from agent.sources.jenkins.raw import RawBuild, build_of
from tests.unit.facts import NOON, RULES, lived, rules

RECORDED = Path(__file__).parents[1] / "data" / "recorded-jenkins" / "2.504.3" / "checkouts"


def told(part: Part, said: list[Fact], by: Rules) -> Told:
    builds = [fact.body for fact in said if isinstance(fact.body, Build)]
    reports = [fact for fact in said if isinstance(fact.body, Report) and is_about(fact.body, part)]
    return Told(part, sorted(reports, key=lambda fact: fact.received_at), builds[0] if builds else None, by)


@pytest.mark.parametrize("recording", sorted(RECORDED.glob("*.json")), ids=lambda path: path.stem)
def test_of_every_recorded_build_one_word_counts_and_the_others_agree_or_have_a_reason(recording: Path) -> None:
    job = json.loads(recording.read_text(encoding="utf-8"))
    for answer in job["builds"]:
        raw = msgspec.convert(answer, RawBuild)
        branch_job = job["fullName"].startswith("samples/store-mb/")
        build = build_of(raw, controller="main", job=job["fullName"], branch_job=branch_job)
        fact = facts.final(jenkins_run("main", build.job, build.number), build, at=build.ended_at)
        for part in derive([fact], rules()).parts:
            for field, words in words_of(told(part, [fact], rules())).items():
                assert all(word.why for word in words if word.verdict is Verdict.LEFT_OUT), (field, words)
                counted = [word for word in words if word.verdict is Verdict.COUNTS]
                of_one = part.origins.get(field, "").startswith(("checkout", "tag of", "what", "job name", "parameter"))
                assert len(counted) == of_one, (field, part.origins.get(field), words)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.sampled_from(RULES))
def test_whatever_a_build_says_of_itself_no_word_is_left_out_without_a_reason(data: st.DataObject, by: Rules) -> None:
    said = [fact for _, fact in data.draw(lived(NOON)).all if by.may_report(fact.principal, fact.run.project)]
    for part in derive(said, by).parts:
        about = words_of(told(part, said, by))
        for field, words in about.items():
            assert all(word.why for word in words if word.verdict is Verdict.LEFT_OUT), (field, part, words)
        reported = [fact for fact in said if fact.kind is Kind.REPORT and is_about(fact.body, part)]
        if len({fact.body.image for fact in reported}) > 1:
            assert len(about["image"]) == len(reported)
