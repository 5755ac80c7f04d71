"""``rules``: the [[deployment]] rules of the configuration."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from agent.cli.options import json_option, refusing_endless_patterns, with_settings
from agent.cli.output import console, escape, write_json
from agent.inspect.examples import run_examples

if TYPE_CHECKING:
    from agent.config.settings import Settings
    from agent.inspect.examples import ExampleResult


@click.group("rules")
def command() -> None:
    """Test the rules of the configuration with examples.

    \b
    Example: hivel-agent rules test
    """


@command.command("test")
@json_option
@with_settings
@refusing_endless_patterns
def test(settings: Settings, *, as_json: bool) -> None:
    """Derive the deployments of each [[example]] and compare them with those that it expects.

    Nothing is read from the outbox, and no request is sent. The exit code is 1 if an example fails, or if there is
    none.

    \b
    Examples: hivel-agent rules test
              hivel-agent rules test --config new.toml --json
    """
    results = run_examples(settings)
    if not results:
        raise click.ClickException(
            f"{settings.file} has no [[example]]; docs/rules.md, Examples, says how to write one"
        )
    write_json(results) if as_json else _show(results)
    sys.exit(0 if all(each.passes for each in results) else 1)


def _show(results: list[ExampleResult]) -> None:
    out = console()
    for each in results:
        told = "[green]passes[/]" if each.passes else "[red]fails[/]"
        out.print(f"{told}  {escape(each.example)}  {escape(each.job)}")
        for problem in each.problems:
            out.print(f"  {escape(problem)}")
    passing = sum(each.passes for each in results)
    out.print(f"{passing} of {len(results)} example(s) pass")
