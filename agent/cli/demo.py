"""``demo``: the main job, without Jenkins or Hivel."""

from __future__ import annotations

import sys

import click

from agent.sandbox.demo import run_demo


@click.command("demo")
def command() -> None:
    """Show the main job with a local Jenkins and a local Hivel, in about ten seconds.

    Builds are found, events wait while Hivel is down, all are delivered, and a restart sends nothing twice.
    Exits with 0 only if all of this was true.

    \b
    Example: hivel-agent demo
    """
    sys.exit(0 if run_demo() else 1)
