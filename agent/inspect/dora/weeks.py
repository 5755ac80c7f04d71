"""Spans of time and ISO weeks, all in UTC. Times are UTC milliseconds, the end of a span is exclusive."""

from __future__ import annotations

from datetime import date, timedelta
from typing import NamedTuple

from agent.model.weeks import begin_of, week_of

# The Monday of the week with number 0.
_MONDAY = date(1969, 12, 29)


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


def whole_week(week: int) -> Span:
    """From Monday 00:00 UTC to the next one."""
    return Span(begin_of(week), begin_of(week + 1))


def name_of(week: int) -> str:
    """``2026-W48``. The year is that of the week's Thursday."""
    year, number, _ = (_MONDAY + timedelta(weeks=week)).isocalendar()
    return f"{year:04}-W{number:02}"
