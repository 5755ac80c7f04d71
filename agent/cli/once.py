"""``once``: poll and deliver once."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from agent.cli import values
from agent.cli.options import json_option, refusing_endless_patterns, with_settings
from agent.cli.output import console, delivery_line, escape, write_json
from agent.cli.status import NONE_POLLED
from agent.daemon import logs
from agent.daemon.once import once
from agent.model.times import Clock

if TYPE_CHECKING:
    from agent.config.settings import Settings
    from agent.daemon.once import OnceReport


LONGEST_MS = 24 * 3_600_000


@click.command("once")
@click.option(
    "--within",
    default="10m",
    show_default=True,
    metavar="DURATION",
    help="Time limit. Polls may use half of it. The next run continues with what is not done.",
)
@json_option
@with_settings
@refusing_endless_patterns
def command(settings: Settings, *, within: str, as_json: bool) -> None:
    """Poll each controller once, deliver what is due, and exit. For cron and for tests.

    The exit code is 1 if a poll failed, the time limit was reached, an event is failed, or the delivery is paused.
    It is 0 if Hivel is down: the next run delivers the events.

    \b
    Example: */5 * * * * hivel-agent once --config /etc/hivel-agent/config.toml
    """
    logs.configure(quiet=True)
    within_ms = values.duration("--within", within, most_ms=LONGEST_MS)
    report = once(settings, Clock(), within_ms=within_ms)
    write_json(report) if as_json else show(report)
    sys.exit(1 if report.needs_attention else 0)


def show(report: OnceReport) -> None:
    """The result of each poll, then the counts of events."""
    out = console()
    for poll in report.polls:
        out.print(
            f"jenkins   {escape(poll.controller)}: {poll.jobs} jobs, {poll.moved} changed, {len(poll.enqueued)} events "
            f"enqueued, {len(poll.underivable)} builds without an event, {poll.followed} open builds, "
            f"{poll.requests} request(s)"
        )
        for problem in poll.problems:
            out.print(f"          [red]{escape(problem)}[/]")
    if not report.polls and not report.mistakes and not report.unfinished:
        out.print(NONE_POLLED)
    for work, mistake in report.mistakes.items():
        out.print(f"[red]{escape(work)}: {escape(mistake)}[/]")
    for work in report.unfinished:
        out.print(f"[red]{escape(work)}: not finished in time; the next run continues[/]")
    counts = report.counts
    out.print(delivery_line(report.delivery))
    out.print(f"events    {counts.pending} pending, {counts.delivered} delivered, {counts.failed} failed")
