"""Spans of time, days and ISO weeks, all in UTC. Times are UTC milliseconds, the end of a span is exclusive."""

from __future__ import annotations

from datetime import date, timedelta
from typing import NamedTuple

DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS
# 1970-01-01 was a Thursday: the ISO week with number 0 began three days earlier.
_MONDAY = date(1969, 12, 29)
_BEFORE_1970_MS = 3 * DAY_MS


class Span(NamedTuple):
    """From ``since`` until just before ``until``."""

    since: int
    until: int

    @property
    def weeks(self) -> range:
        """The numbers of all ISO weeks of which at least a part is in the span."""
        return range(week_of(self.since), week_of(self.until - 1) + 1) if self.since < self.until else range(0)

    def in_week(self, week: int) -> Span:
        """The part of the span that is in this week."""
        whole = whole_week(week)
        return Span(max(self.since, whole.since), min(self.until, whole.until))


def week_of(ms: int) -> int:
    """The number of the ISO week of this time, counted from the week of 1970-01-01."""
    return (ms + _BEFORE_1970_MS) // WEEK_MS


def whole_week(week: int) -> Span:
    """From Monday 00:00 UTC to the next one."""
    since = week * WEEK_MS - _BEFORE_1970_MS
    return Span(since, since + WEEK_MS)


def name_of(week: int) -> str:
    """``2026-W48``. The year is that of the week's Thursday."""
    year, number, _ = (_MONDAY + timedelta(weeks=week)).isocalendar()
    return f"{year:04}-W{number:02}"
