"""The figures as a table: a row for each week of each environment and repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.inspect.dora.figures import Dora, Group, Week

_TIMES = ("time_to_next_success", "duration", "lead_time")
COLUMNS = (
    "environment", "repo", "week", "since", "until", "complete", "successful", "days_with_successful", "failed",
    "failed_share", "canceled", "unknown",
    *(f"{name}_{part}" for name in _TIMES for part in ("count", "of", "median_ms", "p90_ms")),
    "rollbacks_estimated", "rework_estimated",
)  # fmt: skip


def rows(value: Dora) -> Iterator[tuple[object, ...]]:
    """The cells of each row."""
    return (_cells(group, week) for group in value.groups for week in group.weeks)


def _cells(group: Group, week: Week) -> tuple[object, ...]:
    of = week.figures
    times = (of.time_to_next_success, of.duration, of.lead_time)
    return (
        group.environment,
        group.repo,
        week.week,
        week.since,
        week.until,
        "yes" if week.complete else "no",
        of.successful.count,
        of.successful.days_with,
        of.failed.count,
        of.failed.share,
        of.canceled.count,
        of.unknown.count,
        *(cell for each in times for cell in (each.count, each.of, each.median_ms, each.p90_ms)),
        of.rollbacks.count,
        of.rework.count,
    )
