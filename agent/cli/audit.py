"""``audit``: the outcome of every build number."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from agent.cli.opening import existing_outbox
from agent.cli.options import json_option, refuse_without_controller, refusing_endless_patterns, with_settings
from agent.cli.output import console, escape, table, write_json
from agent.cli.spreadsheet import write_csv as write_rows
from agent.cli.values import builds_since, job_pattern
from agent.daemon import logs
from agent.inspect.audit import Outcome
from agent.inspect.audit import audit as look
from agent.model.terminal import printable
from agent.model.times import Clock
from agent.sources.jenkins.client import JenkinsClient

if TYPE_CHECKING:
    from agent.config.settings import Settings
    from agent.inspect.audit import Audit, BuildsView, JobAudit

DEFAULT_SINCE = "30d"


@click.command("audit")
@click.option(
    "--since",
    default=DEFAULT_SINCE,
    show_default=True,
    metavar="TIME",
    help="List builds since this time: 7d, 12h, 2026-01-31, 2026-01-31T18:00:00Z. All builds are counted.",
)
@click.option("--job", metavar="PATTERN", help='Jobs that match the pattern, such as "deploy/**" or "re:…".')
@click.option(
    "--csv",
    "as_csv",
    is_flag=True,
    help="Print CSV with one line for each range of builds.",
)
@json_option
@with_settings
@refusing_endless_patterns
def command(settings: Settings, *, since: str, job: str | None, as_csv: bool, as_json: bool) -> None:
    """Show the outcome of every build number of every deploying job.

    Each build number is counted once: event, discarded, no deployment (with the reason), history, running,
    waiting, unreadable, … The counts are compared with the next build number in Jenkins. The exit code is 1 if a
    number is unaccounted for or a controller cannot be reached.

    \b
    Example: hivel-agent audit --since 30d --job 'deploy/**'
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json: choose one")
    logs.configure(quiet=True)
    refuse_without_controller(settings)
    (begin, _), jobs = builds_since(since, Clock().now_ms()), job_pattern("--job", job)
    with existing_outbox(settings) as outbox:
        result = look(settings, outbox, JenkinsClient, since=begin, jobs=jobs)
    if as_json:
        write_json(result)
    elif as_csv:
        write_csv(result)
    else:
        show(result)
    sys.exit(1 if result.unaccounted or result.problems else 0)


def write_csv(value: Audit) -> None:
    """Print ``controller,job,first,last,outcome,detail,at``. Problems are printed on standard error."""
    rows = ((job.controller, job.job, *_cells(builds)) for job in value.jobs for builds in job.builds)
    write_rows(("controller", "job", "first", "last", "outcome", "detail", "at"), rows)
    for problem in value.problems:
        click.echo(printable(problem), err=True)


def _cells(builds: BuildsView) -> tuple[int, int, str, str, str]:
    return builds.first, builds.last, builds.outcome.value, builds.detail, builds.at or ""


def show(value: Audit) -> None:
    """The counts of each job, then its builds."""
    out = console()
    used = [outcome for outcome in Outcome if any(job.numbers.get(outcome) for job in value.jobs)]
    heads = ["BUILDS", *(outcome.value.upper() for outcome in used)]
    counts = table("JOB", *heads, right=tuple(heads))
    for job in value.jobs:
        counts.add_row(_name(job), str(job.given_away), *(str(job.numbers.get(outcome, 0)) for outcome in used))
    if value.jobs:
        out.print(counts)
    lines = table("BUILDS", "OUTCOME", "AT", "DETAIL")
    for job in value.jobs:
        for builds in job.builds:
            numbers = f"{_name(job)}#{builds.first}" + (f"-{builds.last}" if builds.last > builds.first else "")
            lines.add_row(numbers, builds.outcome.value, (builds.at or "-")[:19], escape(builds.detail))
    if lines.row_count:
        out.print(f"\nsince {value.since}:")
        out.print(lines)
    given_away = sum(job.given_away for job in value.jobs)
    out.print(
        f"\n{len(value.jobs)} deploying job(s), {given_away} build number(s), {value.unaccounted} unaccounted for"
    )
    for problem in value.problems:
        out.print(f"[red]{escape(problem)}[/]")


def _name(job: JobAudit) -> str:
    return escape(f"{job.controller}:{job.job}" + (" (not in Jenkins' list)" if job.gone else ""))
