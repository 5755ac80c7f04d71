"""``run``: the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agent.cli.options import refusing_endless_patterns, with_settings
from agent.daemon import logs, service
from agent.model.times import Clock

if TYPE_CHECKING:
    from agent.config.settings import Settings


@click.command("run")
@click.option(
    "--log-format",
    type=click.Choice(["logfmt", "json"]),
    default="logfmt",
    show_default=True,
    help="One line for each thing that matters: key=value for people and journald, or JSON.",
)
@with_settings
@refusing_endless_patterns
def command(settings: Settings, *, log_format: str) -> None:
    """Poll and deliver until SIGTERM or SIGINT: the daemon. SIGHUP makes it read the configuration anew.

    \b
    Example: hivel-agent run --config /etc/hivel-agent/config.toml
    """
    logs.configure(as_json=log_format == "json")
    logs.take_standard_error()
    service.run(settings, Clock())
