"""``backfill``: enqueue events for past builds."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import Progress

from agent.cli.opening import has_outbox, ingest_of, open_outbox
from agent.cli.options import json_option, refuse_without_controller, refusing_endless_patterns, with_settings
from agent.cli.output import console, escape, table, write_json
from agent.cli.values import builds_since, job_pattern
from agent.daemon import logs
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.sources.jenkins.backfill import Request, backfill
from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.history import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.config.settings import Settings
    from agent.outbox.interface import Outbox
    from agent.sources.jenkins.backfill import BackfillReport


@click.command("backfill")
@click.option(
    "--since",
    metavar="TIME",
    required=True,
    help="Builds that ended at or after this time: 30d, 12h, 2026-01-31, 2026-01-31T18:00:00Z.",
)
@click.option("--until", metavar="TIME", help="Builds that ended before this time. [default: now]")
@click.option("--job", metavar="PATTERN", help='Jobs that match the pattern, such as "deploy/**" or "re:…".')
@click.option("--dry-run", is_flag=True, help="List the events that would be enqueued. Nothing is stored.")
@json_option
@with_settings
@refusing_endless_patterns
def command(
    settings: Settings, *, since: str, until: str | None, job: str | None, dry_run: bool, as_json: bool
) -> None:
    """Enqueue events for past builds that match a rule.

    Builds that have an event are skipped. If a backfill is interrupted, the same command resumes it. It may run
    while the daemon is running. The daemon, or the next `hivel-agent once`, delivers the events.

    \b
    Example: hivel-agent backfill --since 2026-01-01 --job 'deploy/**' --dry-run
    """
    logs.configure(quiet=True)
    refuse_without_controller(settings)
    now = Clock().now_ms()
    pattern = job_pattern("--job", job)
    span = Span(*builds_since(since, now, until))
    words = f"since {since}, until {until or 'now'}, job {job or '**'}"
    request = Request(span, words, pattern, dry_run)
    with _outbox(settings, dry_run=dry_run) as outbox, _progress(hidden=as_json) as progress:
        report = backfill(settings, ingest_of(settings, outbox), JenkinsClient, request, progress)
    write_json(report) if as_json else show(report, dry_run=dry_run)
    sys.exit(1 if report.problems else 0)


@contextmanager
def _outbox(settings: Settings, *, dry_run: bool) -> Iterator[Outbox]:
    """The outbox. A dry run does not create one: if it is missing, an empty one in a temporary folder is used."""
    if not dry_run or has_outbox(settings):
        with open_outbox(settings) as outbox:
            yield outbox
        return
    with TemporaryDirectory() as folder, SqliteOutbox(Path(folder) / "outbox.db", Clock()) as empty:
        yield empty


@contextmanager
def _progress(*, hidden: bool) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on standard error, if that is a terminal. Call it with done, total and the name of the job."""
    with Progress(console=Console(stderr=True), disable=hidden or not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def update(done: int, total: int, job: str) -> None:
            bar.update(task, completed=done, total=total, description=escape(job) or "done")

        yield update


def show(report: BackfillReport, *, dry_run: bool) -> None:
    """The events, then the counts."""
    out = console()
    if report.planned:
        lines = table("WOULD ENQUEUE", "STATUS", "ENVIRONMENT", "ENDED")
        for each in report.planned:
            ended = each.ended_at[:19] + "Z"
            lines.add_row(escape(each.deployment_id), each.status, escape(each.environment or "-"), ended)
        out.print(lines)
    for name, reason in report.underivable.items():
        out.print(f"[red]no event for[/]  {escape(name)}: {escape(reason)}")
    for problem in report.problems:
        out.print(f"[red]{escape(problem)}[/]")
    before = f" ({report.jobs_done_before} of them already done)" if report.jobs_done_before else ""
    out.print(
        f"{report.jobs} job(s){before}, {report.builds} build(s) read: {len(report.enqueued)} event(s) "
        f"{'would be enqueued' if dry_run else 'enqueued'}, {report.known} already known, "
        f"{len(report.underivable)} without an event"
    )
    if report.problems and not dry_run:
        out.print("not complete: to continue, run the same command again")
