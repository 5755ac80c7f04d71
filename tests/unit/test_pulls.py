"""Pull requests: from the job of one, and from what merges say in their messages."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.deployments.pulls import of_build, of_message
from agent.model.build import Build


def build(**fields: Any) -> Build:
    return Build(**{"controller": "main", "job": "shop", "number": 7, "started_at": 0, "ended_at": 1, **fields})


@pytest.mark.parametrize(
    ("message", "number"),
    [
        ("Merge pull request #71 from acme/fix\n\nMend it", 71),
        ("Mend the cart (#71)\n\nfixes #12", 71),
        ("Merge branch 'fix' into 'main'\n\nMend it\n\nSee merge request acme/shop!71", 71),
        ("Merge branch 'fix' into 'main'\n\nSee merge request https://gitlab.example.test/acme/shop!71\n", 71),
        ("Merged in fix/cart (pull request #71)\n\nMend it", 71),
        ("Pull request #71: mend the cart", 71),
        ("Merged PR 71: mend the cart", 71),
        ("Merge pull request #71 in ACME/shop from fix to main", 71),
        ("Mend the cart\n\nfixes #12", None),
        ("Revert to (#71) what it was", None),
        ("see merge request acme/shop!71 and weep", None),
        ("Merge branch 'main' into fix", None),
        ("(#0)", None),
        ("Mend (#99999999999)", None),
        ("", None),
    ],
)
def test_merges_are_told_by_their_messages(message: str, number: int | None) -> None:
    assert of_message(message) == number


def test_numbers_come_newest_first_none_twice_and_not_without_end() -> None:
    messages = tuple(f"Mend it (#{n})" for n in (71, 35, 71, 23))
    assert of_build(build(change_messages=messages)).numbers == (71, 35, 23)
    assert of_build(build(change_messages=messages)).number == "71"
    many = tuple(f"Mend it (#{n})" for n in range(1, 100))
    assert of_build(build(change_messages=many)).numbers == tuple(range(1, 51))


@pytest.mark.parametrize("job", ["shop/PR-71", "shop/MR-71", "shop/PR-71-head", "shop/PR-71-merge"])
def test_the_job_of_a_pull_request_is_its_number(job: str) -> None:
    found = of_build(build(job=job, branch_job=True, change_messages=("Mend it (#35)",)))
    assert (found.number, found.numbers) == ("71", (71, 35))


def test_a_job_that_is_only_called_so_is_none() -> None:
    assert of_build(build(job="shop/PR-71")).numbers == ()
    assert of_build(build(job="shop/PR-71x", branch_job=True)).numbers == ()


@pytest.mark.parametrize(
    "page",
    [
        "https://github.example.test/acme/shop/pull/71",
        "https://gitlab.example.test/acme/shop/-/merge_requests/71",
        "https://bitbucket.example.test/projects/A/repos/shop/pull-requests/71/overview",
        "https://dev.azure.example.test/acme/_git/shop/pullrequest/71",
    ],
)
def test_the_page_of_the_pull_request_tells_its_number(page: str) -> None:
    assert of_build(build(branch_job=True, job="shop/feature", pull_request_url=page)).number == "71"


@given(st.text())
def test_no_message_breaks_it(message: str) -> None:
    number = of_message(message)
    assert number is None or 0 < number < 10**9
