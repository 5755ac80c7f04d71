"""The text output of ``preview --compare``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.cli.output import console, escape, table
from agent.inspect.differences import Change

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from agent.inspect.compare import ComparedEvent, Comparison, JobFigures

# The maximum number of events of one group, and of jobs.
_EXAMPLES = 5
_MOST_JOBS = 30


def show(value: Comparison) -> None:
    """The counts, then the differences in groups with examples, then the changed figures of each job."""
    out, counts = console(), value.counts
    compared = sum(counts.values())
    told = ", ".join(f"{counts[change]} {change.value}" for change in Change if counts[change])
    out.print(f"{compared} event(s) of builds that ended since {value.since}: {told or 'none'}")
    for group, events in _groups(value.events).items():
        _show_group(out, group, events)
    if value.left_out:
        out.print(f"… and {value.left_out} more events that differ; the counts and figures include them")
    _show_figures(out, value)
    for reason, count in value.not_comparable.items():
        out.print(f"not comparable: {count} event(s): {escape(reason)}")
    if value.not_read:
        out.print(
            f"left out: {value.not_read} build(s) that the agent has not read yet, or that ended before its first start"
        )
    if not value.asked_jenkins:
        out.print("Jenkins was not asked: builds without an event in the outbox are not compared")
    for problem in value.problems:
        out.print(f"[red]{escape(problem)}[/]")


def _groups(events: Iterable[ComparedEvent]) -> dict[str, list[ComparedEvent]]:
    groups: dict[str, list[ComparedEvent]] = {}
    for change in (Change.CHANGED, Change.GONE, Change.NEW):
        for event in events:
            if event.difference.change is change:
                groups.setdefault(_group(event), []).append(event)
    return groups


def _group(event: ComparedEvent) -> str:
    difference = event.difference
    match difference.change:
        case Change.CHANGED:
            return f"changed: {', '.join(each.field for each in difference.fields)}"
        case Change.GONE:
            return f"gone: {difference.reason}"
        case _:
            return "new: would become an event"


def _show_group(out: Console, group: str, events: list[ComparedEvent]) -> None:
    out.print(f"[bold]{escape(group)}[/]  ({len(events)})")
    for event in events[:_EXAMPLES]:
        difference = event.difference
        state = "" if event.state is None else f"  {event.state.value}"
        status = "" if difference.now is None or difference.before is not None else f"  {difference.now.value}"
        out.print(f"  {escape(difference.deployment_id)}{state}{status}")
        for each in difference.fields:
            out.print(f"    {escape(each.field):<12} {escape(_text(each.sent))} -> {escape(_text(each.known))}")
    if len(events) > _EXAMPLES:
        out.print(f"  … and {len(events) - _EXAMPLES} more: --json")


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def _show_figures(out: Console, value: Comparison) -> None:
    if not value.jobs:
        return
    out.print("")
    lines = table("JOB", "DEPLOYMENTS A WEEK", "FAILURES A WEEK", "FAILED OF ALL")
    for job in value.jobs[:_MOST_JOBS]:
        name = f"{job.controller}:{job.job}" if job.controller else job.job or "(events with a custom id)"
        lines.add_row(escape(name), *_figures(job, value.weeks))
    out.print(lines)
    if len(value.jobs) > _MOST_JOBS:
        out.print(f"… and {len(value.jobs) - _MOST_JOBS} more jobs: --json")


def _figures(job: JobFigures, weeks: float) -> tuple[str, str, str]:
    per_week = max(weeks, 1 / 7)
    before, now, failed_before, failed_now = (
        job.deployments_before, job.deployments_now, job.failures_before, job.failures_now,
    )  # fmt: skip
    return (
        f"{before / per_week:.1f} -> {now / per_week:.1f}",
        f"{failed_before / per_week:.1f} -> {failed_now / per_week:.1f}",
        f"{_share(failed_before, before)} -> {_share(failed_now, now)}",
    )


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%" if whole else "-"
