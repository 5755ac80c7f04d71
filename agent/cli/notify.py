"""``notify``: the notifications of ``[notify]``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from agent.cli.options import with_settings
from agent.model.times import Clock
from agent.notify.message import encode, for_a_test
from agent.notify.send import SendError, send

if TYPE_CHECKING:
    from agent.config.settings import Settings


@click.group("notify")
def command() -> None:
    """Test the notifications of [notify].

    \b
    Example: hivel-agent notify test
    """


@command.command("test")
@with_settings
def test(settings: Settings) -> None:
    """Send a test notification to the command or the URL of [notify].

    The exit code is 1 if it is not accepted.

    \b
    Example: hivel-agent notify test --config /etc/hivel-agent/config.toml
    """
    if settings.notify is None:
        raise click.ClickException(f"{settings.file} has no [notify] table: no notifications are sent")
    message = for_a_test(Clock().now_ms())
    try:
        asyncio.run(send(settings.notify, encode(message)))
    except SendError as error:
        raise click.ClickException(f"the test notification was not sent: {error}") from error
    accepted_by = settings.notify.command[0] if settings.notify.command else "the server"
    click.echo(f"{accepted_by} accepted the test notification")
