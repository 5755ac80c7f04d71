"""``preview``: what the rules would send."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
import msgspec

from agent.cli.options import json_option, with_settings
from agent.cli.output import console, escape, table, write_json
from agent.cli.values import FUTURE_MS, moment
from agent.daemon import logs
from agent.inspect.preview import preview as look
from agent.model.times import Clock
from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.history import Span

if TYPE_CHECKING:
    from agent.config.settings import Settings
    from agent.inspect.preview import Preview

DEFAULT_SINCE = "7d"


@click.command("preview")
@click.option("--since", default=DEFAULT_SINCE, show_default=True, help="Builds that ended since then: 7d, 2026-01-31.")
@json_option
@with_settings
def command(settings: Settings, *, since: str, as_json: bool) -> None:
    """Show what the rules would send, without storing or sending anything.

    Jobs that match no rule are listed by name, so that a missing rule is seen.

    \b
    Example: hivel-agent preview --since 24h
    """
    logs.configure(quiet=True)
    result = preview(settings, since)
    write_json(result) if as_json else show(result)
    sys.exit(1 if result.problems else 0)


def preview(settings: Settings, since: str = DEFAULT_SINCE) -> Preview:
    """Ask each Jenkins what ended since then."""
    now = Clock().now_ms()
    return look(settings, JenkinsClient, Span(moment("--since", since, now), now + FUTURE_MS))


def show(value: Preview) -> None:
    """The events, then the jobs without a rule and what could not be read."""
    out = console()
    lines = table("DEPLOYMENT_ID", "STATUS", "ENVIRONMENT", "REPOSITORY", "BRANCH", "REASON")
    for row in value.rows:
        event = {} if row.derived.event is None else msgspec.to_builtins(row.derived.event)
        cells = [event.get(field, "-") for field in ("status", "environment", "repo_url", "branch")]
        lines.add_row(*map(escape, [row.derived.deployment_id, *cells, row.derived.reason or ""]))
    if value.rows:
        out.print(lines)
    failing = sum(row.derived.reason is not None for row in value.rows)
    out.print(f"{len(value.rows) - failing} event(s) since {value.since}, {failing} build(s) of which none can be made")
    if value.unmatched:
        out.print(f"{len(value.unmatched)} job(s) match no rule:")
        for name in value.unmatched:
            out.print(f"  {escape(name)}")
    for problem in value.problems:
        out.print(f"[red]{escape(problem)}[/]")
