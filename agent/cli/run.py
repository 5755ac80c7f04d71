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
    help="Format of the log on standard error.",
)
@with_settings
@refusing_endless_patterns
def command(settings: Settings, *, log_format: str) -> None:
    """Run the daemon: poll and deliver until SIGTERM or SIGINT.

    SIGHUP reloads the configuration and the tokens. If the new configuration is invalid, the daemon logs the errors
    and keeps the current one.

    \b
    Example: hivel-agent run --config /etc/hivel-agent/config.toml
    """
    logs.configure(as_json=log_format == "json")
    logs.take_standard_error()
    service.run(settings, Clock())
