"""Milliseconds inside, RFC 3339 outside, durations and moments as people write them."""

from __future__ import annotations

import contextlib
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from agent.model.times import Clock, describe_duration, parse_duration, parse_moment, parse_since, rfc3339

SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000
JAN_31 = 1769817600000  # 2026-01-31T00:00:00Z


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1700385632846, "2023-11-19T09:20:32.846Z"),
        (1700385632000, "2023-11-19T09:20:32.000Z"),
        (1709164800000, "2024-02-29T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (253402300799999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_rfc3339_is_utc_with_milliseconds(ms: int, text: str) -> None:
    assert rfc3339(ms) == text


@pytest.mark.parametrize("ms", [253402300800000, -62135596800001, 10**30, -(10**30)])
def test_rfc3339_refuses_what_no_calendar_holds(ms: int) -> None:
    with pytest.raises(OverflowError):
        rfc3339(ms)


@given(st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31)))  # noqa: DTZ001
def test_a_time_written_as_rfc3339_is_read_back_to_the_millisecond(moment: datetime) -> None:
    ms = (moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert parse_moment(rfc3339(ms)) == ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("500ms", 500),
        ("15s", 15 * SECOND),
        ("5m", 5 * MINUTE),
        ("24h", 24 * HOUR),
        ("7d", 7 * DAY),
        ("1h30m", 90 * MINUTE),
        ("1d2h3m4s5ms", DAY + 2 * HOUR + 3 * MINUTE + 4 * SECOND + 5),
        ("1.5h", 90 * MINUTE),
        ("0.25s", 250),
        ("0s", 0),
        ("  10s ", 10 * SECOND),
    ],
)
def test_durations_as_people_write_them(text: str, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize(("text", "ms"), [("1.001s", 1001), ("1.005s", 1005), ("0.001s", 1)])
def test_a_fraction_of_a_second_loses_no_millisecond(text: str, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize(
    "text", ["", " ", "15", "s", "-5s", "5 s", "5S", "5sec", "1h 30m", "1e3s", "1.s", ".5s", "5s!"]
)
def test_what_is_no_duration_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration; (write|the unit)") as error:
        parse_duration(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("15", "the unit is missing: 15s, 15m, 15h or 15d"), ("7 days", "write 7d"), ("2 weeks", "write 14d"),
        ("24hours", "write 24h"), ("5 MIN", "write 5m"), ("3 moons", "write it like 500ms, 15s, 5m, 24h or 7d"),
    ],
)  # fmt: skip
def test_what_may_be_meant_by_a_duration_in_words_is_said(text: str, advice: str) -> None:
    for parse in (parse_duration, lambda text: parse_since(text, 0)):
        with pytest.raises(ValueError, match="a duration; ") as error:
            parse(text)
        if "like" not in advice:
            assert str(error.value).endswith(advice)
    with pytest.raises(ValueError, match="write it like 24h, 7d, 2026-01-31 or 2026"):
        parse_since("soon", 0)


@given(st.text() | st.from_regex(r"(\d{1,20}(\.\d{1,5})?(ms|s|m|h|d)){1,4}", fullmatch=True))
def test_a_duration_is_a_whole_number_of_milliseconds_or_a_value_error(text: str) -> None:
    try:
        ms = parse_duration(text)
    except ValueError:
        return
    assert isinstance(ms, int)
    assert ms >= 0


def test_a_duration_beyond_all_numbers_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="9999"):
        parse_duration("9" * 400 + "s")


@given(st.integers(0, 365), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_the_parts_of_a_duration_add_up(days: int, hours: int, minutes: int, seconds: int) -> None:
    expected = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    assert parse_duration(f"{days}d{hours}h{minutes}m{seconds}s") == expected // timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        ("2026-01-31", JAN_31),
        ("2026-01-31T18:00:00Z", JAN_31 + 18 * HOUR),
        ("2026-01-31T18:00:00.250Z", JAN_31 + 18 * HOUR + 250),
        ("2026-01-31 18:00", JAN_31 + 18 * HOUR),
        ("2026-01-31T18:00:00+02:00", JAN_31 + 16 * HOUR),
        (" 2026-01-31 ", JAN_31),
        (date(2026, 1, 31), JAN_31),
        (datetime(2026, 1, 31, 18), JAN_31 + 18 * HOUR),  # noqa: DTZ001 - TOML's local times have no zone
        (datetime(2026, 1, 31, 18, tzinfo=timezone(timedelta(hours=-5))), JAN_31 + 23 * HOUR),
    ],
)
def test_moments_are_utc_unless_they_name_a_zone(value: str | date, ms: int) -> None:
    assert parse_moment(value) == ms


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2026-13-01", "month must be in 1..12"),
        ("2026-02-30", "day is out of range for month"),
        ("2026-01-31T25:00Z", "hour must be in 0..23"),
    ],
)
def test_a_time_that_does_not_exist_is_refused_with_the_part_that_is_wrong(text: str, why: str) -> None:
    for parse in (parse_moment, lambda value: parse_since(value, 0)):
        with pytest.raises(ValueError, match=f"^'{text}' does not exist: {why}"):
            parse(text)


@pytest.mark.parametrize("text", ["", "yesterday", "31.01.2026", "18:00", "1700385632846"])
def test_what_is_no_moment_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="is not a date or time; write it like") as error:
        parse_moment(text)
    assert repr(text) in str(error.value)


@given(st.text())
def test_text_is_a_moment_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_moment(text)


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        ("now", JAN_31),
        (" now ", JAN_31),
        ("24h", JAN_31 - DAY),
        ("1h30m", JAN_31 - 90 * MINUTE),
        ("2025-12-31", JAN_31 - 31 * DAY),
        (date(2026, 1, 30), JAN_31 - DAY),
    ],
)
def test_since_is_now_or_a_time_ago_or_a_date(value: str | date, ms: int) -> None:
    assert parse_since(value, JAN_31) == ms


@pytest.mark.parametrize("text", ["", "Now", "tomorrow", "-1h"])
def test_since_refuses_other_words(text: str) -> None:
    with pytest.raises(ValueError, match="is not a date"):
        parse_since(text, JAN_31)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-5, "0ms"),
        (999, "999ms"),
        (1000, "1s"),
        (61_000, "1m 1s"),
        (2 * HOUR + 5 * MINUTE + 7 * SECOND, "2h 5m"),
        (3 * DAY, "3d"),
        (3 * DAY + 4 * SECOND, "3d 4s"),
    ],
)
def test_durations_are_described_by_their_two_largest_units(ms: int, text: str) -> None:
    assert describe_duration(ms) == text


def test_the_wall_clock_tells_milliseconds_since_1970() -> None:
    with freeze_time("2026-01-31T00:00:00.500Z"):
        assert Clock().now_ms() == JAN_31 + 500


def test_the_monotonic_clock_does_not_go_back() -> None:
    clock = Clock()
    assert clock.monotonic() <= clock.monotonic()
