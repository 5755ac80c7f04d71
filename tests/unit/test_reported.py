"""Reports beside what Jenkins knows: what somebody gave wins, what was only found in the environment does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.rules import Options, Pattern, Rule, Template
from agent.deployments.derive import Part, Rules, derive, said_in
from agent.model import fact as facts
from agent.model.build import Build, Checkout, Related, Relation
from agent.model.deployment import State
from agent.model.fact import Report
from agent.model.keys import Project, Run, jenkins_run
from tests.unit.facts import HOLD_FOR, World, rules

NOON = 1_790_000_000_000
SHOP = "https://git.example.test/acme/shop.git"
CONFIG = "https://git.example.test/acme/config.git"
SHARED = "https://git.example.test/acme/jenkins-shared.git"
APP = Checkout((SHOP,), ("refs/remotes/origin/main",), "a" * 40)
LIBRARY = Checkout((SHARED,), ("main",), "b" * 40)
RUN = jenkins_run("main", "deploy", 7)
FOUND = {"repo_url": SHARED, "branch": "main", "commit_hash": "b" * 40}
PLACES = tuple(FOUND)


def built(*checkouts: Checkout, **fields: Any) -> Build:
    common = {"result": "SUCCESS", "started_at": NOON, "ended_at": NOON + 60_000, "url": "https://j/job/deploy/7/"}
    return Build(**common | {"checkouts": checkouts, "libraries": ("shared@main",)} | fields)


def said(**fields: Any) -> Report:
    return Report(**{"provider": "jenkins", "status": "SUCCESS", "environment": "production"} | fields)


def parts(*reports: Report, build: Build | None = None, libraries: str = "", **rule: Any) -> list[Part]:
    templates = {name: Template.parse(text) for name, text in rule.items()}
    by = Rule(Pattern.parse("**"), Template.parse("production"), **templates)
    options = Options(libraries=(Pattern.parse(libraries),) if libraries else ())
    told = [facts.report(RUN, each, source="emit", at=NOON + 1_000 + n) for n, each in enumerate(reports)]
    if build is not None:
        told.append(facts.final(RUN, build, at=NOON + 61_000))
    return derive(told, Rules((by,), options, frozenset({"main"}))).parts


def sent(*reports: Report, **world: Any) -> tuple[str | None, str | None, str | None]:
    [part] = parts(*reports, **world)
    return part.content.repo_url, part.content.branch, part.content.commit_hash


APPLICATION = (SHOP, "main", "a" * 40)


@pytest.mark.parametrize("stage", [None, "Deploy"], ids=["whole", "stage"])
def test_what_was_found_in_the_environment_does_not_win_against_the_builds_own_checkout(stage: str | None) -> None:
    [part] = parts(said(**FOUND, stage=stage), build=built(LIBRARY, APP))
    content = part.content
    assert (content.repo_url, content.branch, content.commit_hash) == APPLICATION
    assert part.origins["repo_url"] == (
        f"checkout 2 of 2 (origin); the build's own report says {SHARED}: values from the environment "
        "do not override what the build itself checked out"
    )
    assert part.origins["branch"] == "checkout 2 of 2 (origin)"  # the report says the same


def test_what_was_given_wins_against_everything() -> None:
    given = said(repo_url=CONFIG, branch="release", commit_hash="c" * 40, given=PLACES)
    assert sent(given, build=built(LIBRARY, APP)) == (CONFIG, "release", "c" * 40)
    [part] = parts(given, build=built(LIBRARY, APP))
    assert part.origins["repo_url"] == "the build's own report"


def test_each_field_is_given_or_found_by_itself() -> None:
    report = said(repo_url=SHARED, branch="release", commit_hash="b" * 40, given=("branch",))
    assert sent(report, build=built(LIBRARY, APP)) == (SHOP, "release", "a" * 40)


def test_what_was_found_counts_where_jenkins_knows_no_checkout() -> None:
    found = said(repo_url=CONFIG, branch="release", commit_hash="c" * 40)
    assert sent(found, build=built()) == (CONFIG, "release", "c" * 40)
    assert sent(found) == (CONFIG, "release", "c" * 40)
    [part] = parts(found, build=built())
    assert part.origins["commit_hash"] == "the build's own report, from its environment"


def test_what_was_found_of_a_library_does_not_count_even_if_there_is_nothing_else() -> None:
    above = Build(job="build", number=3, started_at=1, ended_at=2, checkouts=(APP,))
    assert sent(said(**FOUND), build=built(LIBRARY)) == (None, None, None)
    assert sent(said(**FOUND), build=built(LIBRARY, related=(Related(Relation.CAUSE, above),))) == APPLICATION
    only_commit = said(commit_hash="b" * 40)
    assert sent(only_commit, build=built(LIBRARY, related=(Related(Relation.CAUSE, above),))) == APPLICATION


@pytest.mark.parametrize("given", [(), PLACES], ids=["found", "given"])
def test_a_declared_library_never_wins(given: tuple[str, ...]) -> None:
    report = said(**FOUND, given=given)
    assert sent(report, build=built(LIBRARY, APP), libraries="**/jenkins-shared") == APPLICATION
    [part] = parts(report, libraries="**/jenkins-shared")
    assert part.content.repo_url is None
    assert part.content.problem is not None
    assert (
        f"the build's own report says {SHARED}: the repository is listed in [repositories] libraries"
        in (part.origins["repo_url"])
    )


def test_a_declared_library_is_not_sent_for_another_system_either() -> None:
    rules = Rules((), Options(libraries=(Pattern.parse("**/jenkins-shared"),)))
    run = Run(Project("gitlab_ci", "", ""), "acme/shop:1")
    report = said(**FOUND, provider="gitlab_ci", given=PLACES)
    [part] = derive([facts.report(run, report, source="intake", at=NOON)], rules).parts
    assert part.content.problem == f"{SHARED} is listed in [repositories] libraries"


def test_the_repository_that_is_given_chooses_among_what_the_build_checked_out() -> None:
    config = Checkout((CONFIG,), ("refs/remotes/origin/next",), "c" * 40)
    report = said(repo_url="git@git.example.test:acme/config.git", given=("repo_url",))
    assert sent(report, build=built(APP, config))[1:] == ("next", "c" * 40)


def test_the_commit_that_is_given_chooses_among_checkouts_of_one_repository() -> None:
    other = Checkout((SHOP,), ("refs/tags/v1.4",), "c" * 40)
    report = said(commit_hash="a" * 40, given=("commit_hash",))
    assert sent(report, build=built(APP, other)) == APPLICATION


def test_templates_of_the_rule_go_before_what_was_found_and_does_not_count() -> None:
    report = said(**FOUND)
    assert sent(report, build=built(LIBRARY, APP), repo_url=CONFIG, branch="live") == (CONFIG, "live", "a" * 40)


def test_of_several_reports_the_last_word_that_was_given_counts() -> None:
    told = [
        said(commit_hash="1" * 40, given=("commit_hash",)),
        said(commit_hash="2" * 40, given=("commit_hash", "image"), image="i:2"),
        said(commit_hash="3" * 40, image="i:3", branch="x"),
    ]
    words = [facts.report(RUN, each, source="emit", at=NOON + n) for n, each in enumerate(told)]
    merged = said_in(words)
    assert (merged.commit_hash, merged.image, merged.branch) == ("2" * 40, "i:2", "x")
    assert merged.given == ("commit_hash", "image")
    assert said_in(words[2:]).given == ()


# ---- a stage that reports itself: at once, or with the poller's word


def stage_report(at: int = NOON + 1_000, **fields: Any) -> facts.Fact:
    said_of_stage = said(**{"stage": "Deploy", "started_at": NOON, **fields})
    return facts.report(RUN, said_of_stage, source="intake", at=at)


def test_a_stage_whose_repository_was_found_waits_for_the_pollers_word_and_gets_the_builds_own() -> None:
    """The checkout of a shared library leaves its own in the environment: that must not be sent."""
    world = World(rules())
    world.accept(stage_report(**FOUND))
    assert [row.state for row in world.rows] == [State.HELD]
    world.accept(facts.final(RUN, built(LIBRARY, APP), at=NOON + 61_000))
    world.deliver()
    [sent] = world.hivel.values()
    assert (sent.repo_url, sent.branch, sent.commit_hash) == APPLICATION


def test_if_the_poller_never_has_that_word_it_goes_out_with_what_was_found() -> None:
    world = World(rules())
    world.accept(stage_report(**FOUND))
    world.now += HOLD_FOR - 1
    world.plan()
    assert [row.state for row in world.rows] == [State.HELD]
    world.now += 1
    world.plan()
    assert [(row.state, row.content.repo_url) for row in world.rows] == [(State.PENDING, SHARED)]


def test_of_a_controller_that_nobody_polls_a_stage_is_final_at_once() -> None:
    world = World(rules(controllers=()))
    world.accept(stage_report(**FOUND))
    assert [row.state for row in world.rows] == [State.PENDING]


@pytest.mark.parametrize(
    ("given", "templates", "final"),
    [
        (("repo_url", "branch", "commit_hash"), {}, True),
        (("repo_url", "branch"), {}, False),  # the commit may be a library's
        (("repo_url",), {}, False),
        ((), {"repo_url": "https://git.example.test/acme/shop", "branch": "main"}, False),  # the report goes before it
    ],
)
def test_a_stage_is_final_at_once_only_if_nothing_of_its_place_was_merely_found(
    given: tuple[str, ...], templates: dict[str, str], final: bool
) -> None:
    [part] = parts(said(stage="Deploy", given=given, **FOUND), **templates)
    assert part.final is final
    [part] = parts(said(stage="Deploy", given=given, **FOUND), build=built(APP), **templates)
    assert part.final


def test_a_stage_that_says_nothing_of_its_place_is_final_at_once_only_where_the_rule_says_it() -> None:
    [part] = parts(said(stage="Deploy"))
    assert (part.final, part.content.problem) == (False, part.content.problem)
    assert "no repo_url" in (part.content.problem or "")
    [part] = parts(said(stage="Deploy"), repo_url="https://git.example.test/acme/shop", branch="main")
    assert (part.final, part.content.problem) == (True, None)


def test_a_stage_of_a_build_that_runs_on_for_long_is_mended_by_the_pollers_word() -> None:
    world = World(rules())
    world.accept(stage_report())
    world.now += HOLD_FOR
    world.plan()
    assert [row.state for row in world.rows] == [State.FAILED]
    world.accept(facts.final(RUN, built(LIBRARY, APP, ended_at=NOON + 2 * HOLD_FOR), at=NOON + 2 * HOLD_FOR))
    [row] = world.rows
    assert (row.state, row.content.repo_url, row.deployment_id) == (State.PENDING, SHOP, "main:deploy#7:production")


_STAGES = st.sampled_from([
    stage_report(NOON + 1_000, **FOUND),
    stage_report(NOON + 2_000, environment="eu", **FOUND),
    stage_report(NOON + 3_000, stage="Verify", repo_url=SHARED),
    stage_report(NOON + 4_000, commit_hash="b" * 40),
    stage_report(NOON + 5_000, given=("repo_url", "branch"), **FOUND | {"repo_url": SHOP, "branch": "main"}),
    facts.report(RUN, said(**FOUND), source="emit", at=NOON + 6_000),
])  # fmt: skip


@given(st.lists(_STAGES, max_size=5), st.integers(0, 5))
def test_within_hold_for_nothing_of_a_library_is_ever_sent_in_whatever_order_it_comes(
    reports: list[facts.Fact], polled_after: int
) -> None:
    world = World(rules())
    for place, report in enumerate([*reports, None]):
        if place == min(polled_after, len(reports)):
            world.accept(facts.final(RUN, built(LIBRARY, APP), at=NOON + 61_000))
        if report is not None:
            world.accept(report)
        world.deliver()
    assert {(sent.repo_url, sent.branch, sent.commit_hash) for sent in world.hivel.values()} == {APPLICATION}
