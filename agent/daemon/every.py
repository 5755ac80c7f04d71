"""When the daemon's jobs are run: at even intervals, whatever the wall clock does in between."""

from __future__ import annotations

from datetime import datetime, timedelta

from apscheduler.triggers.base import BaseTrigger


class Every(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """Every so many seconds.

    APScheduler's own trigger counts all runs that were missed, one by one: a clock that is set forward by years,
    as on a machine that starts without knowing the time, would keep it busy until the memory is used up.
    """

    def __init__(self, seconds: float) -> None:
        self._interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        """One interval after the run before, and always within one interval from now."""
        due = now if previous is None else previous + self._interval
        return due if now <= due <= now + self._interval else now + self._interval
