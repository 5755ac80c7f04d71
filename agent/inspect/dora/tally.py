"""Counts the deployments of one repository in one environment, week by week. No I/O, no clock.

The definitions are in docs/dora.md. The deployments come in the order of their ends, so that one pass is enough and
only the measured times are kept in memory.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from agent.inspect.dora.weeks import DAY_MS, week_of, whole_week
from agent.model.status import Status

if TYPE_CHECKING:
    from agent.outbox.values import Deployed


class Tally:
    """The deployments that ended in one week. Times are in milliseconds, in the order of measurement."""

    __slots__ = (
        "canceled",
        "commits",
        "days",
        "durations",
        "failed",
        "lead",
        "recovery",
        "rollbacks",
        "success",
        "unknown",
    )

    def __init__(self) -> None:
        self.success = self.failed = self.canceled = self.unknown = 0
        self.days = 0
        """Days with a successful deployment."""
        self.durations = array("q")
        self.lead = array("q")
        self.recovery = array("q")
        """For each failed deployment of this week that was followed by a success: how long that took."""
        self.commits = 0
        """Successful deployments whose commit is known."""
        self.rollbacks = 0

    def add(self, other: Tally) -> None:
        """Add the deployments of another week."""
        self.success += other.success
        self.failed += other.failed
        self.canceled += other.canceled
        self.unknown += other.unknown
        self.days += other.days
        self.durations += other.durations
        self.lead += other.lead
        self.recovery += other.recovery
        self.commits += other.commits
        self.rollbacks += other.rollbacks


class Series:
    """The deployments of one repository in one environment."""

    __slots__ = ("_current", "_day", "_newest", "_seen", "_succeeded_at", "_week", "_week_ends_at", "open", "weeks")

    def __init__(self) -> None:
        self.weeks: dict[int, Tally] = {}
        self.open: list[Deployed] = []
        """The failed deployments without a later success, in the order of their ends."""
        self._week = Tally()
        self._week_ends_at: int | None = None
        self._day: int | None = None  # of the last successful deployment
        self._succeeded_at: int | None = None
        self._seen = set[str]()
        self._newest: str | None = None  # the commit that was deployed here for the first time most recently
        self._current: str | None = None  # the commit of the last successful deployment

    def add(self, row: Deployed) -> None:
        """Count the next deployment. It ended at the same time as the one before, or later."""
        if self._week_ends_at is None or row.ended_at >= self._week_ends_at:
            week = week_of(row.ended_at)
            self._week = self.weeks[week] = Tally()
            self._week_ends_at = whole_week(week).until
        tally, status = self._week, row.status
        if status is Status.SUCCESS:
            self._succeed(tally, row)
        elif status is Status.FAILED:
            tally.failed += 1
            if self._succeeded_at == row.ended_at:
                tally.recovery.append(0)
            else:
                self.open.append(row)
        elif status is Status.CANCELED:
            tally.canceled += 1
        else:
            tally.unknown += 1

    def _succeed(self, tally: Tally, row: Deployed) -> None:
        ended_at = row.ended_at
        tally.success += 1
        day = ended_at // DAY_MS
        if day != self._day:
            self._day = day
            tally.days += 1
        if ended_at >= row.started_at:
            tally.durations.append(ended_at - row.started_at)
        if row.first_commit_at is not None and ended_at >= row.first_commit_at:
            tally.lead.append(ended_at - row.first_commit_at)
        if self.open:
            for failed in self.open:
                self.weeks[week_of(failed.ended_at)].recovery.append(ended_at - failed.ended_at)
            self.open.clear()
        self._succeeded_at = ended_at
        if row.commit_hash:
            self._deploy(tally, row.commit_hash)

    def _deploy(self, tally: Tally, commit: str) -> None:
        tally.commits += 1
        if commit not in self._seen:
            self._seen.add(commit)
            self._newest = commit
        elif commit not in (self._newest, self._current):
            tally.rollbacks += 1
        self._current = commit
