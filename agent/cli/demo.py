"""``demo``: the agent with a local Jenkins and a local Hivel."""

from __future__ import annotations

import sys

import click

from agent.sandbox.demo import run_demo


@click.command("demo")
@click.option("--stay", is_flag=True, help="Then serve the pages, with new builds, until Ctrl-C.")
def command(*, stay: bool) -> None:
    """Demonstrate the agent with a local Jenkins and a local Hivel, in about ten seconds.

    The demo shows that builds are found, that events wait while Hivel is down, that all events are delivered, and
    that a restart sends no event twice. The exit code is 0 only if all of this is true.

    \b
    Example: hivel-agent demo
    Example: hivel-agent demo --stay
    """
    sys.exit(0 if run_demo(stay=stay) else 1)
