"""``webhook``: what a delivery of a webhook would become, and the last deliveries."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import json_option, with_settings
from agent.cli.output import console, escape, write_json
from agent.model.times import Clock
from agent.outbox.hooks import Verdict

if TYPE_CHECKING:
    from rich.console import Console

    from agent.config.settings import Settings, WebhookSettings
    from agent.inspect.hook_preview import HookPreview
    from agent.inspect.webhooks import DeliveryView

_STYLES = {Verdict.STORED: "green", Verdict.STARTED: "cyan", Verdict.IGNORED: "yellow", Verdict.REFUSED: "red"}


@click.group("webhook")
def command() -> None:
    """Test a webhook with a body, list the last deliveries, and repair gaps.

    \b
    Examples: hivel-agent webhook test github --body delivery.json
              hivel-agent webhook list
    """


@command.command("test")
@click.argument("name")
@click.option(
    "--body", "file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), required=True, metavar="FILE",
    help="The body of the delivery; - for standard input.",
)  # fmt: skip
@click.option("--event", help="The event in the headers, such as deployment_status. Default: what the body looks like.")
@json_option
@with_settings
def test(settings: Settings, *, name: str, file: Path, event: str | None, as_json: bool) -> None:
    """Show what a delivery would become. Nothing is stored, and no signature is required.

    NAME is the name of a [[webhook]]. The exit code is 1 if the agent would refuse the body.

    \b
    Examples: hivel-agent webhook test github --body delivery.json
              hivel-agent webhook test github --body ping.json --event ping --json
    """
    from agent.inspect.hook_preview import preview  # noqa: PLC0415 - it loads the listener

    found = preview(settings, _hook(settings, name), _read(file), event, Clock().now_ms())
    write_json(found) if as_json else _show(console(), found)
    sys.exit(1 if found.verdict is Verdict.REFUSED else 0)


@command.command("list")
@click.argument("name", required=False)
@click.option("--limit", type=click.IntRange(1, 20_000), default=50, show_default=True, help="Number of deliveries.")
@json_option
@with_settings
def listed(settings: Settings, *, name: str | None, limit: int, as_json: bool) -> None:
    """List the last deliveries with a valid signature, newest first, and what became of each.

    NAME is the name of a [[webhook]]. Default: all.

    \b
    Examples: hivel-agent webhook list
              hivel-agent webhook list github --limit 10 --json
    """
    from agent.cli.opening import existing_outbox  # noqa: PLC0415
    from agent.inspect.webhooks import deliveries  # noqa: PLC0415

    with existing_outbox(settings) as outbox:
        found = deliveries(outbox, limit, name)
    if as_json:
        write_json(found)
        return
    out = console()
    for each in found:
        _show_delivery(out, each)
    if not found:
        out.print(f"no delivery of {'any webhook' if name is None else escape(name)} is stored")


@command.command("repair")
@click.argument("name")
@click.option(
    "--since", metavar="TIME", help="Deployments that ended since then: 6h, 3d, 2026-01-31. Default: last look."
)
@click.option("--dry-run", is_flag=True, help="List what is missing. Nothing is stored.")
@with_settings
def repair(settings: Settings, *, name: str, since: str | None, dry_run: bool) -> None:
    """Ask a platform's API for deployments whose webhook did not arrive, and store those that are missing.

    NAME is the name of a [[webhook]] with repair and api_token_file. The daemon does the same once an hour. It may run
    meanwhile. The exit code is 1 if a project cannot be read.

    \b
    Examples: hivel-agent webhook repair github
              hivel-agent webhook repair github --since 6h --dry-run
    """
    from agent.cli.opening import existing_outbox, ingest_of  # noqa: PLC0415
    from agent.cli.values import moment  # noqa: PLC0415
    from agent.daemon import logs  # noqa: PLC0415
    from agent.daemon.gaps import repaired  # noqa: PLC0415
    from agent.sources.reports.accept import Reports  # noqa: PLC0415
    from agent.sources.webhooks.gaps.look import Result  # noqa: PLC0415

    logs.configure(quiet=True)
    hook = _hook(settings, name)
    if not hook.repair or hook.api_token is None:
        raise click.BadParameter(f"{name} has no repair or no api_token_file; see docs/webhooks.md", param_hint="NAME")
    begin = None if since is None else moment("--since", since, Clock().now_ms())
    with existing_outbox(settings) as outbox:
        looks = repaired(Reports(settings, ingest_of(settings, outbox)), hook, begin, dry_run=dry_run)
    out = console()
    for subject, seen in looks:
        for took in seen.took:
            if took.result is Result.FOUND:
                out.print(f"{'missing' if dry_run else 'stored'}  {escape(took.deployment_id)}")
        for problem in (*seen.problems, *filter(None, [seen.error])):
            out.print(f"[red]{escape(str(subject))}: {escape(problem)}[/]")
        if seen.unfinished:
            out.print(f"{escape(str(subject))}: not complete; to continue, run the same command again")
    known = sum(took.result is Result.KNOWN for _, seen in looks for took in seen.took)
    out.print(f"{sum(seen.found for _, seen in looks)} missing, {known} already known")
    sys.exit(1 if any(seen.error for _, seen in looks) else 0)


def _hook(settings: Settings, name: str) -> WebhookSettings:
    hooks = () if settings.webhooks is None else settings.webhooks.hooks
    found = next((hook for hook in hooks if hook.name == name), None)
    if found is None:
        known = ", ".join(hook.name for hook in hooks)
        advice = f"the webhooks are {known}" if known else f"{settings.file} has no [[webhook]]"
        raise click.BadParameter(f"there is no webhook {name!r}; {advice}", param_hint="NAME")
    return found


def _read(file: Path) -> bytes:
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise click.BadParameter(f"cannot read {file}: {error.strerror}", param_hint="--body") from None


def _show(out: Console, found: HookPreview) -> None:
    style = _STYLES[found.verdict]
    event = f", event {escape(found.event)}" if found.event else ""
    out.print(f"webhook {escape(found.hook)} ({found.platform}){event}: [{style}]{found.verdict}[/]")
    if found.reason:
        out.print(f"  {escape(found.reason)}")
    if found.deployment_id:
        out.print(f"  deployment_id  {escape(found.deployment_id)}")
    for name, value in found.fields.items():
        out.print(f"  {name:<13}  {escape(value)}")


def _show_delivery(out: Console, each: DeliveryView) -> None:
    style = _STYLES[each.verdict]
    about = each.deployment_id or each.reason
    event = escape(each.event or "-")
    out.print(f"{each.at}  {escape(each.hook)}  {event}  [{style}]{each.verdict}[/]  {escape(about)}")
