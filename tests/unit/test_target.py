"""Which build an address or a name means."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.inspect.target import TargetError, target_of_name, target_of_url
from tests.unit.test_report_parse import MAIN

if TYPE_CHECKING:
    from agent.config.settings import JenkinsSettings

HERE = replace(MAIN, name="main", url="https://jenkins.test/")
BELOW = replace(MAIN, name="ci", url="http://ci.test:8080/jenkins/")
OTHER = replace(MAIN, name="ci2", url="http://ci.test:9090/")
ALL = (HERE, BELOW, OTHER)


def shown(url: str, controllers: tuple[JenkinsSettings, ...] = ALL) -> tuple[str, str, int | str]:
    target = target_of_url(controllers, url)
    return target.controller.name, target.jobs[0], target.build


@pytest.mark.parametrize(
    "page",
    [
        *("", "/", "/console", "/consoleFull", "/consoleText", "/display/redirect", "/display/redirect?page=artifacts"),
        *("/pipeline-overview/", "/pipeline-console/?selected-node=7", "/api/json", "/testReport/junit/"),
        *("/execution/node/3/ws/", "/#top", "/changes"),
    ],
)
def test_every_page_of_a_build_is_the_build(page: str) -> None:
    assert shown(f"https://jenkins.test/job/deploy/job/shop/12{page}") == ("main", "deploy/shop", 12)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://jenkins.test/view/all/job/shop/3/", ("main", "shop", 3)),
        ("https://jenkins.test/job/deploy/view/x/job/shop/3/", ("main", "deploy/shop", 3)),
        ("https://jenkins.test/job/job/job/12/7/", ("main", "job/12", 7)),
        ("https://jenkins.test/job/mb/job/feature%252Fx/3/", ("main", "mb/feature%2Fx", 3)),
        ("https://jenkins.test/job/shop/lastBuild/", ("main", "shop", "lastBuild")),
        ("https://jenkins.test/job/shop/lastSuccessfulBuild/console", ("main", "shop", "lastSuccessfulBuild")),
        ("HTTPS://Jenkins.TEST:443/job/shop/3", ("main", "shop", 3)),
        ("http://jenkins.test:8080/job/shop/3", ("main", "shop", 3)),
        ("http://ci.test:8080/jenkins/job/shop/3/", ("ci", "shop", 3)),
        ("http://ci.test:8080/job/shop/3/", ("ci", "shop", 3)),
        ("http://ci.test:9090/job/shop/3/", ("ci2", "shop", 3)),
        (
            "https://jenkins.test/blue/organizations/jenkins/deploy%2Fshop/detail/shop/12/pipeline",
            ("main", "deploy/shop", 12),
        ),
        (
            "https://jenkins.test/blue/organizations/jenkins/a%2Fmb/detail/main/4/pipeline/21",
            ("main", "a/mb/main", 4),
        ),
        (
            "https://jenkins.test/blue/organizations/jenkins/mb/detail/feature%2Fx/4/tests",
            ("main", "mb/feature%2Fx", 4),
        ),
        ("https://jenkins.test/blue/organizations/jenkins/mb/detail/feature%252Fx/4", ("main", "mb/feature%2Fx", 4)),
        ("https://jenkins.test/job/blue/12/", ("main", "blue", 12)),
        ("http://ci.test:8080/jenkins/blue/organizations/jenkins/shop/detail/shop/1/", ("ci", "shop", 1)),
    ],
)
def test_views_permalinks_contexts_and_blue_ocean_are_understood(
    url: str, expected: tuple[str, str, int | str]
) -> None:
    assert shown(url) == expected


def test_blue_ocean_does_not_say_whether_a_job_has_branches() -> None:
    url = "https://jenkins.test/blue/organizations/jenkins/shop/detail/shop/1/"
    assert target_of_url(ALL, url).jobs == ("shop", "shop/shop")


@pytest.mark.parametrize(
    "url", ["https://elsewhere.test/job/shop/1/", "https://jenkins.test@elsewhere.test/job/shop/1/", "http:///job/x/1/"]
)
def test_another_host_is_refused_and_the_configured_ones_are_named(url: str) -> None:
    for controllers in (ALL, (HERE,)):
        with pytest.raises(
            TargetError, match=r"not the host of a configured controller: main \(https://jenkins.test/\)"
        ):
            target_of_url(controllers, url)


def test_a_host_of_several_controllers_is_not_guessed() -> None:
    with pytest.raises(TargetError, match="not the host of a configured controller"):
        target_of_url(ALL, "http://ci.test:7070/job/shop/1/")


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("", "not the address of a build"),
        ("job/", "not the address of a build"),
        ("job/matrix/JDK=17/4/", "not the address of a build"),
        ("job/shop/configure", "not the address of a build"),
        ("job/../1/", "not the address of a build"),
        ("job/shop/99999999999/", "not the address of a build"),
        ("blue/organizations/jenkins/shop/activity", "not the address of a build"),
        ("job/deploy/job/shop/", "is the address of job deploy/shop, not of a build"),
    ],
)
def test_a_page_that_is_of_no_build_is_refused(path: str, complaint: str) -> None:
    with pytest.raises(TargetError, match=complaint):
        target_of_url(ALL, f"https://jenkins.test/{path}")


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    for url in (text, f"http://{text}", f"https://jenkins.test/{text}", f"https://jenkins.test/job/{text}"):
        with suppress(TargetError):
            target_of_url(ALL, url)
    target_of_name(ALL, text)


def test_a_build_is_named_by_controller_job_and_number() -> None:
    target = target_of_name(ALL, "ci:deploy/shop#12")
    assert target is not None
    assert (target.controller.name, target.jobs, target.build) == ("ci", ("deploy/shop",), 12)
    for other in (
        "west:deploy/shop#12",
        "ci:deploy/shop",
        "ci:#12",
        "ci:deploy/shop#012",
        "12",
        "",
        "ci:a/../b#1",
        "ci:..#1",
    ):
        assert target_of_name(ALL, other) is None
