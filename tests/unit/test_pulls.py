"""Pull requests: from the job of one, and from what merges say in their messages."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.deployments.pulls import numbers_of, of_build, of_message, of_messages, of_page
from agent.model.build import Build, Checkout


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


def checkout(*branches: str, urls: tuple[str, ...] = ("https://git.example.test/acme/shop.git",)) -> Checkout:
    return Checkout(urls, branches, None)


def test_a_builds_own_pull_request_goes_before_what_was_merged_and_is_told_once() -> None:
    found = of_build(
        build(
            parameters={"ghprbPullId": "71", "sha1": "origin/pr/71/merge"},
            checkouts=(checkout("refs/remotes/origin/pr/71/merge"),),
            change_messages=("Mend it (#35)",),
        )
    )
    assert (found.number, found.numbers) == ("71", (71, 35))
    ref = "the ref refs/remotes/origin/pr/71/merge"
    assert found.origin == f"parameter ghprbPullId, parameter sha1, {ref}, merges in the change sets"


def test_only_the_applications_checkouts_and_messages_count_where_they_are_known() -> None:
    library = checkout("refs/pull/501/head")
    made = build(checkouts=(library, checkout("refs/remotes/origin/main")), change_messages=("A (#75)", "B (#502)"))
    assert of_build(made).numbers == (501, 75, 502)
    assert of_build(made, checkouts=made.checkouts[1:], messages=made.change_messages[:1]).numbers == (75,)
    assert of_build(made, checkouts=(), messages=()).numbers == ()


def test_a_branch_that_is_called_like_a_pull_request_is_none_in_its_own_job() -> None:
    made = build(job="shop/pr%2F71", branch_job=True, checkouts=(checkout("pr/71"),))
    assert of_build(made).numbers == ()
    assert of_build(build(checkouts=(checkout("pr/71"),))).numbers == (71,)


def test_the_ref_of_a_pull_request_may_stand_below_any_remote() -> None:
    urls = ("https://a.example.test/shop", "https://b.example.test/shop")
    assert of_build(build(checkouts=(checkout("company/merge-requests/12", urls=urls),))).numbers == (12,)
    assert of_build(build(checkouts=(checkout("gitlab/merge-requests/12"),))).numbers == (12,)


def test_a_batch_of_merges_is_told_in_its_own_order_among_the_others() -> None:
    messages = ("Mend it (#90)", "Merge #71 #73\n\n71: x r=a", "Mend it (#12)")
    assert tuple(of_messages(messages)) == (90, 71, 73, 12)
    assert of_build(build(change_messages=messages)).numbers == (90, 71, 73, 12)


def test_a_number_that_no_pull_request_has_is_none() -> None:
    for value in ("0", "071", "7x", "-7", "99999999999", "", "７"):
        assert of_build(build(parameters={"ghprbPullId": value, "sha1": f"origin/pr/{value}/head"})).numbers == ()


_WORDS = st.sampled_from(
    [
        "(#71)",
        "(!7)",
        "#71",
        "Merge ",
        "pull request ",
        "'",
        "from ",
        "in ",
        "[skip ci]",
        "closes ",
        "SHOP-1",
        "\n",
        " ",
    ]
) | st.text(max_size=3)


@given(st.lists(_WORDS, max_size=12).map("".join) | st.text())
def test_no_message_breaks_it(message: str) -> None:
    numbers = numbers_of(message)
    assert all(0 < number < 10**9 for number in numbers)
    assert of_message(message) == next(iter(numbers), None)


@given(st.text(), st.dictionaries(st.sampled_from(["sha1", "ghprbPullId", "BRANCH"]), st.text(max_size=9)), st.text())
def test_no_build_breaks_it(job: str, parameters: dict[str, str], ref: str) -> None:
    made = build(job=job, parameters=parameters, checkouts=(checkout(ref),), branch_job=True, pull_request_url=ref)
    assert all(0 < number < 10**9 for number in of_build(made).numbers)


@pytest.mark.parametrize(
    "start", ["", "Merge pull request '", "Merge pull request 7 from ", "Merged in ", "Merge #7", "x (#71)", "x"]
)
@settings(max_examples=15, deadline=None)
@given(
    piece=st.lists(
        st.sampled_from(
            [" (#7)", "(#7)", "[", "]", "(", ")", " #7", " #a", " ", "\n", "' (#7) ", "🚀", " closes A", "-", "A1-",
             ":a", "See merge request !", "\nSee merge request !7 x", "\nReviewed-on: https://x/pulls/7 y", "(!7)",
             "/pull/7"]
        ),
        min_size=1, max_size=3,
    ).map("".join)
)  # fmt: skip
def test_a_message_of_100_kb_takes_no_longer_than_it_must(start: str, piece: str) -> None:
    message = start + piece * (100_000 // len(piece)) + "x"
    began = time.process_time()
    numbers_of(message)
    of_page(message)
    assert time.process_time() - began < 0.5
