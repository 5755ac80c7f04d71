"""Rules proposed from the names of jobs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.inspect.proposals import MOST, matching, propose
from agent.sources.jenkins.client import Job


def jobs(*names: str, branches: tuple[str, ...] = ()) -> list[Job]:
    return [*(Job(name, 2, False) for name in names), *(Job(name, 2, True) for name in branches)]


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        (["deploy/shop", "deploy/eu/cart", "lab/x"], ["deploy/**"]),
        (["platform/Deployments/a", "platform/build"], ["platform/Deployments/**"]),
        (["deploy-shop", "deploy-cart"], ["deploy-*"]),
        (["shop-prod", "cart-prod", "product-catalog"], ["*-prod"]),
        (["team/shop-deploy", "team/cart-deploy"], ["team/*-deploy"]),
        (["a/deploy-shop", "b/deploy-cart"], ["**/deploy-*"]),
        (["old-deploy-shop", "deploy"], ["*deploy*"]),
        (["DeployShop", "deployCart"], ["re:(?i)deploy[^/]*$"]),
        (["billing-release"], ["billing-release"]),
        (["staging/shop", "shop-uat"], ["staging/**", "shop-uat"]),
        (["stagehand", "nightly-tests", "backstage"], []),
    ],
)
def test_names_that_look_like_deployments_give_simple_patterns(names: list[str], patterns: list[str]) -> None:
    found = propose(jobs(*names))
    assert [each.pattern for each in found] == patterns
    assert all(each.likely for each in found)


def test_the_main_branches_of_projects_are_proposed_and_likely_only_if_the_project_says_so() -> None:
    branches = (
        "services/shop/main",
        "services/shop/feature%2Fx",
        "services/cart/main",
        "deploy-all/master",
        "solo/main",
    )
    found = propose(jobs("lab", branches=branches))
    assert [(each.pattern, each.likely) for each in found] == [
        ("deploy-all/master", True), ("services/*/main", False), ("solo/main", False),
    ]  # fmt: skip
    assert found[1].jobs == ("services/shop/main", "services/cart/main")


def test_names_that_could_steer_a_terminal_or_break_the_file_give_no_proposal() -> None:
    assert propose(jobs("deploy-\x1b[2J", "deploy-\ud800", "deploy-\x7f")) == []


SEGMENTS = st.sampled_from(
    ["deploy", "Deploy-x", "release", "prod", "shop", "a b", "main", "staging_eu", "x.y", "ÄDEPLOYß"]
)
NAMES = st.lists(st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join), max_size=30, unique=True)


@given(NAMES, NAMES)
def test_each_proposal_matches_what_it_says_and_none_says_only_what_others_say(
    plain: list[str], branches: list[str]
) -> None:
    branches = [name for name in branches if name not in plain]
    found = propose(jobs(*plain, branches=tuple(branches)))
    assert len(found) <= MOST
    assert [each.likely for each in found] == sorted((each.likely for each in found), reverse=True)
    for each in found:
        assert each.jobs and list(each.jobs) == matching(each.pattern, [*plain, *branches])
    assert len({each.jobs for each in found}) == len(found)
