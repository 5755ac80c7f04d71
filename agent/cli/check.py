"""``check``: find what is wrong with the configuration, Jenkins and Hivel."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from agent.cli.options import config_option, json_option
from agent.cli.output import console, escape, styled, write_json
from agent.config.file import ConfigError, find_file, load
from agent.daemon import logs
from agent.inspect.check import check, config_only, unusable
from agent.inspect.findings import Level
from agent.model.times import Clock

if TYPE_CHECKING:
    from pathlib import Path

    from agent.inspect.findings import Finding


@click.command("check")
@click.option("--offline", is_flag=True, help="Check configuration, tokens and outbox. Send no request.")
@click.option(
    "--config-only",
    "only_file",
    is_flag=True,
    help="Check the configuration file only. Read no token and no outbox, and send no request.",
)
@json_option
@config_option
@click.pass_context
def command(context: click.Context, config: Path | None, *, offline: bool, only_file: bool, as_json: bool) -> None:
    """Check the configuration, each Jenkins, and Hivel, and say what to correct. No event is sent.

    \b
    Example: hivel-agent check --config /etc/hivel-agent/config.toml
    """
    logs.configure(quiet=True)
    try:
        settings = load(find_file(config or context.obj), tokens=not only_file)
    except ConfigError as error:
        if not as_json:
            raise
        write_json(unusable(error))
        sys.exit(2)
    findings = config_only(settings) if only_file else check(settings, Clock(), offline=offline)
    write_json(findings) if as_json else show(findings)
    sys.exit(1 if any(finding.level is Level.ERROR for finding in findings) else 0)


def show(findings: list[Finding]) -> None:
    """A line for each finding."""
    out = console()
    for finding in findings:
        padding = " " * (len("warning") - len(finding.level))
        out.print(f"{styled(finding.level)}{padding}  {escape(finding.subject)}: {escape(finding.message)}")
