"""``preview``: what the rules would send."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
import msgspec

from agent.cli.comparison import show as show_comparison
from agent.cli.options import json_option, refusing_endless_patterns, with_settings
from agent.cli.outbox import existing_outbox
from agent.cli.output import console, escape, table, write_json
from agent.cli.values import FUTURE_MS, moment
from agent.daemon import logs
from agent.inspect.compare import compare as look_at_differences
from agent.inspect.preview import preview as look
from agent.model.times import Clock
from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.history import Span

if TYPE_CHECKING:
    from agent.config.settings import Settings
    from agent.inspect.compare import Comparison
    from agent.inspect.preview import Preview

DEFAULT_SINCE = "7d"
# So many builds of each job are compared: a hundred of them are one answer of Jenkins.
MOST_BUILDS = 500


@click.command("preview")
@click.option("--since", default=DEFAULT_SINCE, show_default=True, help="Builds that ended since then: 7d, 2026-01-31.")
@click.option("--compare", "compares", is_flag=True, help="Show what would differ from the events in the outbox.")
@click.option("--offline", is_flag=True, help="With --compare: ask no Jenkins; what is kept of the builds has to do.")
@click.option(
    "--builds", type=click.IntRange(min=1), help=f"With --compare: the newest of each job. [default: {MOST_BUILDS}]"
)
@json_option
@with_settings
@refusing_endless_patterns
def command(
    settings: Settings, *, since: str, compares: bool, offline: bool, builds: int | None, as_json: bool
) -> None:
    """Show what the rules would send, without storing or sending anything.

    Jobs that match no rule are listed by name, so that a missing rule is seen.

    With --compare: before a change of rules or version, which events in the outbox would say something else
    (changed), would be none any more (gone), or would be there as well (new), and how many deployments and
    failures a week that makes of each job. Exits with 1 if there is a difference or a problem, else with 0.

    \b
    Examples: hivel-agent preview --since 24h
              hivel-agent preview --compare --since 30d --config new.toml
    """
    logs.configure(quiet=True)
    if not compares and (offline or builds is not None):
        raise click.UsageError("--offline and --builds need --compare")
    if compares:
        compared = compare(settings, since, MOST_BUILDS if builds is None else builds, offline=offline)
        write_json(compared) if as_json else show_comparison(compared)
        sys.exit(1 if compared.differs or compared.problems else 0)
    result = preview(settings, since)
    write_json(result) if as_json else show(result)
    sys.exit(1 if result.problems else 0)


def compare(settings: Settings, since: str, most_builds: int, *, offline: bool = False) -> Comparison:
    """Compare the outbox with what Jenkins and the rules say now. Raises :class:`agent.outbox.values.OutboxError`."""
    now = Clock().now_ms()
    span = Span(moment("--since", since, now), now + FUTURE_MS)
    with existing_outbox(settings) as outbox:
        return look_at_differences(settings, outbox, None if offline else JenkinsClient, span, most_builds)


def preview(settings: Settings, since: str = DEFAULT_SINCE) -> Preview:
    """Ask each Jenkins what ended since then."""
    now = Clock().now_ms()
    return look(settings, JenkinsClient, Span(moment("--since", since, now), now + FUTURE_MS))


def show(value: Preview) -> None:
    """The events, then the jobs without a rule and what could not be read."""
    show_rows(value)
    out = console()
    failing = sum(row.derived.reason is not None for row in value.rows)
    out.print(f"{len(value.rows) - failing} event(s) since {value.since}, {failing} build(s) of which none can be made")
    if value.unmatched:
        out.print(f"{len(value.unmatched)} job(s) match no rule:")
        for name in value.unmatched:
            out.print(f"  {escape(name)}")
    show_problems(value)


def show_rows(value: Preview) -> None:
    """The events in a table; nothing if there are none."""
    lines = table("DEPLOYMENT_ID", "STATUS", "ENVIRONMENT", "REPOSITORY", "BRANCH", "REASON")
    for row in value.rows:
        event = {} if row.derived.event is None else msgspec.to_builtins(row.derived.event)
        cells = [event.get(field, "-") for field in ("status", "environment", "repo_url", "branch")]
        lines.add_row(*map(escape, [row.derived.deployment_id, *cells, row.derived.reason or ""]))
    if value.rows:
        console().print(lines)


def show_problems(value: Preview) -> None:
    """What could not be read."""
    for problem in value.problems:
        console().print(f"[red]{escape(problem)}[/]")
