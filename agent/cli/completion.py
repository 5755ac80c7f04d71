"""``completion``: shell completion of verbs and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    \b
    Example: hivel-agent completion bash > /etc/bash_completion.d/hivel-agent
    """
    complete = get_completion_class(shell)
    if complete is None:
        raise click.ClickException(f"there is no completion for {shell}")
    click.echo(complete(context.find_root().command, {}, "hivel-agent", "_HIVEL_AGENT_COMPLETE").source())
