"""``emit``, if it is not called by the short path in ``agent/main.py``."""

from __future__ import annotations

import click

from agent.main import direct
from agent.sources.reports import emit


@click.command("emit", context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Report the deployment of the build that runs this command. See: hivel-agent emit --help

    \b
    Example: hivel-agent emit --status "$RESULT" --environment production
    """
    config = [] if context.obj is None else ["--config", str(context.obj)]
    emit.main([*config, *arguments], direct)
