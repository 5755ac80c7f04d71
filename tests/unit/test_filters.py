"""The filters in the address of a page."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.deployment import State
from agent.outbox.values import Filter
from agent.web.filters import LONGEST, Filters, read_filters, read_number
from agent.web.page import RefusedError

NOW = 1_795_435_200_000
# Whatever a browser can send: any text but lone surrogates, which no address has.
TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30).map(str.strip).filter(bool)
FILTERS = st.builds(
    Filters,
    state=st.lists(TEXT, unique=True, max_size=4).map(tuple),
    **{name: st.none() | TEXT for name in Filters.__struct_fields__ if name != "state"},
)


@given(FILTERS)
def test_filters_survive_the_way_through_an_address(filters: Filters) -> None:
    address = urlencode(filters.query, doseq=True)
    assert read_filters(parse_qsl(address, keep_blank_values=True)) == filters


@given(FILTERS)
def test_filters_survive_the_way_through_hidden_fields(filters: Filters) -> None:
    assert read_filters(filters.pairs) == filters


def test_other_fields_of_the_address_are_not_filters() -> None:
    assert read_filters([("before", "7"), ("limit", "9"), ("what", "replay"), ("query", "x")]) == Filters()


@pytest.mark.parametrize(
    ("job", "which"),
    [
        ("deploy/shop", Filter(job="deploy/shop")),
        ("deploy/**", Filter(job_prefix="deploy/")),
        ("**", Filter()),
    ],
)
def test_a_job_is_a_full_name_or_a_folder(job: str, which: Filter) -> None:
    assert Filters(job=job).which(NOW) == which


@pytest.mark.parametrize("job", ["deploy/*", "deploy/**/x", "**/x", "deploy**", "re:deploy", "d?"])
def test_other_patterns_of_jobs_are_refused(job: str) -> None:
    with pytest.raises(RefusedError, match="use the full name of a job, or a folder"):
        Filters(job=job).which(NOW)


def test_times_are_those_of_the_command_line() -> None:
    which = Filters(since="7d", until="2026-11-23T12:00:00Z", state=("failed",)).which(NOW)
    assert which == Filter(states=(State.FAILED,), since=NOW - 7 * 86_400_000, until=NOW)


def test_a_value_that_is_too_long_is_refused() -> None:
    with pytest.raises(RefusedError, match=f"more than {LONGEST} characters"):
        read_filters([("text", "x" * (LONGEST + 1))])


@pytest.mark.parametrize("text", ["-1", "1.0", "٣", "x", "1" * 16])
def test_what_is_not_the_number_of_a_deployment_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match="is not the number of a deployment"):
        read_number("before", text)
