"""``preview``: the events that the rules would send."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
import msgspec

from agent.cli.comparison import show as show_comparison
from agent.cli.opening import existing_outbox
from agent.cli.options import json_option, refuse_without_controller, refusing_endless_patterns, with_settings
from agent.cli.output import console, escape, table, write_json
from agent.cli.values import builds_since, job_pattern
from agent.daemon import logs
from agent.inspect.compare import compare
from agent.inspect.preview import Sample, preview
from agent.model.times import Clock
from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.history import Span

if TYPE_CHECKING:
    from agent.config.settings import Settings
    from agent.inspect.preview import Preview

DEFAULT_SINCE = "7d"
# The default number of builds of each job that are compared. Jenkins lists a hundred builds in one answer.
MOST_BUILDS = 500


@click.command("preview")
@click.option(
    "--since",
    metavar="TIME",
    default=DEFAULT_SINCE,
    show_default=True,
    help="Builds that ended at or after this time: 7d, 12h, 2026-01-31, 2026-01-31T18:00:00Z.",
)
@click.option("--job", metavar="PATTERN", help='Jobs that match the pattern, such as "deploy/**" or "re:…".')
@click.option("--limit", type=click.IntRange(min=1, max=1_000_000_000), help="Stop after this number of events.")
@click.option("--compare", "compares", is_flag=True, help="Compare with the events in the outbox.")
@click.option("--offline", is_flag=True, help="With --compare: send no request to Jenkins; use the stored facts only.")
@click.option(
    "--builds",
    type=click.IntRange(min=1),
    help=f"With --compare: number of builds of each job, newest first. [default: {MOST_BUILDS}]",
)
@json_option
@with_settings
@refusing_endless_patterns
def command(
    settings: Settings,
    *,
    since: str,
    job: str | None,
    limit: int | None,
    compares: bool,
    offline: bool,
    builds: int | None,
    as_json: bool,
) -> None:
    """Show what the rules would send, without storing or sending anything.

    Jobs that match no rule are listed too.

    --compare shows what a change of the rules or of the version would change: events in the outbox whose content
    would differ (changed), events that would no longer exist (gone), additional events (new), and the number of
    deployments and failures per week of each job. The exit code is 1 if there is a difference or a problem.

    \b
    Examples: hivel-agent preview --since 24h --job 'deploy/**'
              hivel-agent preview --compare --since 30d --config new.toml
    """
    logs.configure(quiet=True)
    if not compares and (offline or builds is not None):
        raise click.UsageError("--offline and --builds need --compare")
    if compares and limit is not None:
        raise click.UsageError("--limit cannot be used with --compare; --builds limits the builds of each job")
    if not offline:
        refuse_without_controller(settings)
    span, jobs = Span(*builds_since(since, Clock().now_ms())), job_pattern("--job", job)
    if compares:
        with existing_outbox(settings) as outbox:
            client_of = None if offline else JenkinsClient
            compared = compare(settings, outbox, client_of, span, MOST_BUILDS if builds is None else builds, jobs=jobs)
        write_json(compared) if as_json else show_comparison(compared)
        sys.exit(1 if compared.differs or compared.problems else 0)
    result = preview(settings, JenkinsClient, span, Sample(events=limit, job=jobs))
    write_json(result) if as_json else show(result)
    sys.exit(1 if result.problems else 0)


def show(value: Preview) -> None:
    """The events, then the jobs without a rule, then the problems."""
    show_rows(value)
    out = console()
    failing = sum(row.derived.reason is not None for row in value.rows)
    out.print(f"{len(value.rows) - failing} event(s) since {value.since}, {failing} build(s) without a valid event")
    if value.limited:
        out.print("[yellow]stopped at --limit[/]: there are more events")
    if value.unmatched:
        out.print(f"{len(value.unmatched)} job(s) match no rule:")
        for name in value.unmatched:
            out.print(f"  {escape(name)}")
    show_problems(value)


def show_rows(value: Preview) -> None:
    """The events as a table, if there are any."""
    lines = table("DEPLOYMENT_ID", "STATUS", "ENVIRONMENT", "REPOSITORY", "BRANCH", "REASON")
    for row in value.rows:
        event = {} if row.derived.event is None else msgspec.to_builtins(row.derived.event)
        cells = [event.get(field, "-") for field in ("status", "environment", "repo_url", "branch")]
        lines.add_row(*map(escape, [row.derived.deployment_id, *cells, row.derived.reason or ""]))
    if value.rows:
        console().print(lines)


def show_problems(value: Preview) -> None:
    """The problems: what could not be read."""
    for problem in value.problems:
        console().print(f"[red]{escape(problem)}[/]")
