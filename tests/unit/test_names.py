"""Names of jobs, their URLs, and the environments that names tell."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.model.names import build_of_url, environment_of_name, job_path

# Full names and URLs as a Jenkins 2.516 recorded them.
RECORDED_JOBS = [
    ("deploy-free", "job/deploy-free"),
    ("shop-mb/feature%2Fx", "job/shop-mb/job/feature%252Fx"),
    ("shop-mb/fix%2342", "job/shop-mb/job/fix%252342"),
    ("shop-mb/größe", "job/shop-mb/job/gr%C3%B6%C3%9Fe"),
    ("team-a/backend/api-build", "job/team-a/job/backend/job/api-build"),
]


@pytest.mark.parametrize(("full_name", "path"), RECORDED_JOBS)
def test_the_path_of_a_job_is_the_recorded_one(full_name: str, path: str) -> None:
    assert job_path(full_name) == path


@pytest.mark.parametrize(("full_name", "path"), RECORDED_JOBS)
@pytest.mark.parametrize("root", ["http://127.0.0.1:8080/", "https://ci.example/jenkins/", "http://[::1]:8080/"])
def test_the_url_of_a_build_names_job_and_number(root: str, full_name: str, path: str) -> None:
    assert build_of_url(f"{root}{path}/17/") == (full_name, 17)
    assert build_of_url(f"{root}{path}/17") == (full_name, 17)


def test_a_job_with_spaces_and_a_plus_in_its_recorded_url() -> None:
    url = "http://127.0.0.1:8080/job/team-a/job/My%20Folder%20With%20Space/job/j%C3%B6b%20+%201/1/"
    assert build_of_url(url) == ("team-a/My Folder With Space/jöb + 1", 1)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://127.0.0.1:8080/",
        "http://127.0.0.1:8080/job/shop/",
        "http://127.0.0.1:8080/job/shop/lastBuild/",
        "http://127.0.0.1:8080/job/shop/7/console",
        "http://127.0.0.1:8080/job/matrix-app/JDK=17,OS=linux/3/",  # a cell is not a build of its own
        "http://127.0.0.1:8080/job/folder/job/7/",  # a job that is called 7
        "http://[/job/shop/7/",
        "https://[your-jenkins]/job/shop/7/",
        "http://127.0.0.1:8080/job/shop/" + 5000 * "7",  # more digits than Python makes a number of
        "http://127.0.0.1:8080/job/shop/٧/",
        "http://127.0.0.1:8080/job/%2e%2e/job/shop/7/",
    ],
)
def test_an_url_of_anything_else_names_no_build(url: str) -> None:
    assert build_of_url(url) is None


_JOB_PART = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1).filter(lambda x: x.strip("."))


@given(st.lists(_JOB_PART, min_size=1, max_size=4), st.integers(1, 10**9))
@example(["job", "job", "7"], 3)
def test_path_and_url_are_each_others_inverse(parts: list[str], number: int) -> None:
    full_name = "/".join(parts)
    assert build_of_url(f"https://ci.example/{job_path(full_name)}/{number}/") == (full_name, number)


@pytest.mark.parametrize(
    ("full_name", "environment"),
    [
        ("deploy-prod", "production"),
        ("Deploy/PRODUCTION/shop", "production"),
        ("deploy-staging", "staging"),
        ("deploy_stage_eu", "staging"),
        ("DeployToStaging", "staging"),
        ("deploy-dev", "dev"),
        ("development/deploy", "dev"),
        ("deploy-test", "test"),
        ("deploytest", "test"),
        ("QADeploy", "qa"),
        ("deploy-qa2", "qa"),
        ("test-shop/deploy-staging", "staging"),  # the last word says most
        ("staging/deploy-prod", "production"),
        ("deploy-shop", "production"),
        ("latest-deploy", "production"),
        ("devices/deploy", "production"),
        ("", "production"),
    ],
)
def test_the_environment_that_a_name_tells(full_name: str, environment: str) -> None:
    assert environment_of_name(full_name) == environment
