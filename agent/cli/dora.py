"""``dora``: the figures of DORA, by environment, repository and week."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agent.cli.opening import existing_outbox
from agent.cli.options import json_option, with_settings
from agent.cli.output import console, escape, table, write_json
from agent.cli.spreadsheet import write_csv
from agent.inspect.dora.figures import dora
from agent.inspect.dora.request import span_of
from agent.inspect.dora.table import COLUMNS, rows
from agent.model.times import describe_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config.settings import Settings
    from agent.inspect.dora.figures import Dora, Figures, Group, Times
    from agent.inspect.dora.weeks import Span
    from agent.outbox.interface import Outbox

# The maximum number of names that a message lists if the given name does not exist.
_LISTED = 10
_COLUMNS = (
    "WEEK", "DEPLOYED", "DAYS", "FAILED", "SHARE", "CANCELED", "UNKNOWN", "NEXT SUCCESS", "DURATION", "LEAD TIME",
    "KNOWN FOR", "ROLLBACKS", "REWORK",
)  # fmt: skip


@click.command("dora")
@click.option(
    "--since", metavar="TIME", default="90d", show_default=True,
    help="Deployments that ended at or after this time: 90d, 2026-01-31, 2026-01-31T18:00:00Z.",
)  # fmt: skip
@click.option("--until", metavar="TIME", default="now", show_default=True, help="Deployments that ended before then.")
@click.option("--environment", metavar="NAME", help="Deployments to this environment.")
@click.option("--repo", metavar="URL", help="Deployments of the repository with this repo_url.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a line for each week, environment and repository as CSV.")
@json_option
@with_settings
def command(
    settings: Settings,
    *,
    since: str,
    until: str,
    environment: str | None,
    repo: str | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Show the figures of DORA by environment, repository and ISO week.

    Deployment frequency, share of failed deployments, time to the next success, duration, and lead
    time from the first commit. Every deployment in the outbox counts, whether Hivel has it or not,
    except discarded ones. It counts in the week in UTC in which it ended. A failed deployment is not
    a failed change: the agent sees that the deployment failed, not that the service did. Rollbacks
    are estimated. With --json, each figure has the options of `queue list` that show its deployments.

    \b
    Example: hivel-agent dora --since 90d --environment production
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json: choose one")
    with existing_outbox(settings) as outbox:
        span = _span(since, until, outbox.clock.now_ms())
        figures = dora(outbox.deployed_by_week(*span, environment=environment, repo_url=repo), span)
        if not figures.groups:
            _refuse_unknown_names(outbox, environment, repo)
    if as_json:
        write_json(figures)
    elif as_csv:
        write_csv(COLUMNS, rows(figures))
    else:
        show(figures)


def _span(since: str, until: str, now_ms: int) -> Span:
    try:
        return span_of(since, until, now_ms, names=("--since", "--until"))
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _refuse_unknown_names(outbox: Outbox, environment: str | None, repo: str | None) -> None:
    """Refuse an environment or repository that no deployment has, and list the existing ones."""
    names = outbox.names()
    for option, name, known in (
        ("--environment", environment, names.environments),
        ("--repo", repo, names.repositories),
    ):
        if name is not None and known and name not in known:
            more = f", and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
            raise click.UsageError(
                f"{option}: no deployment has {name!r}; there are {', '.join(known[:_LISTED])}{more}"
            )


# ---- for people


def show(value: Dora) -> None:
    """A table for each environment and repository, with a line for each week and their total."""
    out = console()
    first = f"; the first deployment ended {value.first_ended_at}" if value.first_ended_at else ""
    out.print(f"deployments that ended from {value.since} until {value.until}{first}")
    for group in value.groups:
        out.print(f"\n[bold]{escape(group.environment)}  {escape(group.repo)}[/]")
        lines = table(*_COLUMNS, right=_COLUMNS[1:])
        for week in group.weeks:
            lines.add_row(week.week + ("" if week.complete else " *"), *_columns(week.figures))
        lines.add_row("total", *_columns(group.total), style="bold")
        out.print(lines)
        for line in _notes(group):
            out.print(f"  {line}")
    if not value.groups:
        out.print("no deployments")
        return
    out.print(
        "\n* a part of the week. NEXT SUCCESS, DURATION, LEAD TIME: median / 90th percentile. KNOWN FOR: successful"
        " deployments with a lead time.\nA failed deployment is not a failed change."
        " ROLLBACKS and REWORK are estimated."
    )
    if value.incomplete:
        out.print(
            f"[yellow]{value.incomplete} deployment(s) without environment or repository are in no figure[/];"
            " see: hivel-agent queue list --state failed --state held"
        )


def _columns(of: Figures) -> Iterator[str]:
    lead = of.lead_time
    yield str(of.successful.count)
    yield f"{of.successful.days_with}/{of.successful.days}"
    yield str(of.failed.count)
    yield _percent(of.failed.share)
    yield str(of.canceled.count)
    yield str(of.unknown.count)
    yield from (_both(each) for each in (of.time_to_next_success, of.duration, lead))
    yield _percent(lead.coverage)
    yield str(of.rollbacks.count)
    yield str(of.rework.count)


def _notes(group: Group) -> Iterator[str]:
    """What does not fit in the table: coverage, and the failed deployments without a later success."""
    lead, rollbacks = group.total.lead_time, group.total.rollbacks
    if lead.of:
        yield f"lead time is known for {_percent(lead.coverage)} of the {lead.of} successful deployment(s)"
    if 0 < rollbacks.of < lead.of or (lead.of and not rollbacks.of):
        yield f"the commit is known for {rollbacks.of} of them; only these can count as rollbacks"
    failures = group.open_failures
    if failures.count:
        listed = ", ".join(f"{each.id} ({each.ended_at[:19]}Z)" for each in failures.newest)
        more = f", and {failures.count - len(failures.newest)} more" if failures.count > len(failures.newest) else ""
        yield f"[yellow]{failures.count} failed without a later success[/]: {listed}{more}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _both(times: Times) -> str:
    if times.median_ms is None or times.p90_ms is None:
        return "-"
    return f"{describe_duration(times.median_ms)} / {describe_duration(times.p90_ms)}"
