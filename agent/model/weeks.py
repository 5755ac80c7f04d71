"""Days and ISO weeks in UTC. Times are UTC milliseconds. A week has a number, counted from the week of 1970-01-01."""

from __future__ import annotations

DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS
# 1970-01-01 was a Thursday: the ISO week with number 0 began three days earlier.
BEFORE_1970_MS = 3 * DAY_MS


def week_of(ms: int) -> int:
    """The number of the ISO week of this time."""
    return (ms + BEFORE_1970_MS) // WEEK_MS


def begin_of(week: int) -> int:
    """Monday 00:00 UTC of this week. The week ends when the next one begins."""
    return week * WEEK_MS - BEFORE_1970_MS
