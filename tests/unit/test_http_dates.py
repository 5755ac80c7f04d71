"""Dates as HTTP and mail write them: the same moment wherever the agent runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.times import parse_http_date, parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Iterator

NEW_YEAR = 1_767_225_600_000  # 2026-01-01T00:00:00Z


@pytest.fixture(params=["UTC", "Asia/Tokyo", "America/New_York", "Australia/Lord_Howe"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's own time zone."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize(
    "text",
    [
        "Thu, 01 Jan 2026 00:00:00 GMT",
        "Thu, 01 Jan 2026 00:00:00",
        "Thu, 01 Jan 2026 00:00:00 -0000",
        "Thu, 01 Jan 2026 00:00:00 +0000",
        "Thu, 01 Jan 2026 09:00:00 +0900",
        "Wed, 31 Dec 2025 19:00:00 EST",
        "Thu, 01 Jan 2026 00:00:00 NOWHERE",
        "Thursday, 01-Jan-26 00:00:00 GMT",  # RFC 850
        "Thu Jan  1 00:00:00 2026",  # asctime
        "1 Jan 2026 00:00 GMT",
        "  Thu, 01 Jan 2026 00:00:00 GMT  ",
    ],
)
def test_a_date_is_the_same_moment_in_every_zone(text: str) -> None:
    assert parse_http_date(text) == NEW_YEAR


@pytest.mark.usefixtures("zone")
def test_a_date_without_a_zone_in_retry_after_is_utc_too() -> None:
    assert parse_retry_after("Thu, 01 Jan 2026 00:01:00", NEW_YEAR) == 60_000


@pytest.mark.parametrize(
    "text",
    [
        None, "", " ", ",", "soon", "2026", "2026-01-01T00:00:00Z", "Thu, 99 Jan 2026 00:00:00 GMT",
        "Thu, 01 Jan 2026 25:00:00 GMT", "Thu, 01 Jan 99999 00:00:00 GMT", "Thu, 01 Jan 2026 00:00:00 +9999999999",
        f"Thu, 01 Jan {10**30} 00:00:00 GMT", "Thu, 01 Jan 2026 00:00:00 +99999",
    ],
)  # fmt: skip
def test_anything_else_is_none(text: str | None) -> None:
    assert parse_http_date(text) is None


_WORDS = st.lists(
    st.sampled_from(
        ["Thu,", "01", "99", "Jan", "2026", "0", "00:01:00", "10:20", "GMT", "-9999", "+99999", ",", ":", "-", "(", '"']
    )
).map(" ".join)


@given(st.text() | _WORDS | st.text("0123456789:, -+", min_size=10))
def test_a_date_is_read_or_ignored_and_never_an_error(text: str) -> None:
    found = parse_http_date(text)
    assert found is None or isinstance(found, int)
