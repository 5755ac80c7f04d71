"""``explain``: why one build did or did not become an event."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click
import msgspec

from agent.cli.opening import has_outbox, open_outbox
from agent.cli.options import json_option, refusing_endless_patterns, with_settings
from agent.cli.output import console, escape, styled, write_json
from agent.daemon import logs
from agent.deployments.reported import SAID
from agent.deployments.stages import BY_STEPS
from agent.inspect.explain import explain
from agent.inspect.facts import in_words
from agent.inspect.target import TargetError
from agent.sources.jenkins.client import JenkinsClient, JenkinsError

if TYPE_CHECKING:
    from rich.console import Console

    from agent.config.settings import Settings
    from agent.inspect.derived import DerivedView
    from agent.inspect.explain import Explanation
    from agent.inspect.stages import StagesView
    from agent.inspect.words import WordView


@click.command("explain")
@click.argument("build", metavar="BUILD")
@json_option
@with_settings
@refusing_endless_patterns
def command(settings: Settings, *, build: str, as_json: bool) -> None:
    """Explain why one build did or did not become an event.

    Shows the rule that matched, the source of each field, and what the outbox has stored about the build.

    BUILD is the address of a page of the build (also /console, /lastBuild/, Blue Ocean), CONTROLLER:JOB#NUMBER, or
    the deployment_id or number of an event in the outbox. The exit code is 1 if Jenkins cannot be asked.

    \b
    Examples: hivel-agent explain https://jenkins.example.com/job/deploy/job/shop/12/console
              hivel-agent explain 'main:deploy/shop#12'
    """
    logs.configure(quiet=True)
    with open_outbox(settings) if has_outbox(settings) else nullcontext() as outbox:
        try:
            result = explain(settings, outbox, JenkinsClient, build)
        except TargetError as error:
            raise click.UsageError(str(error)) from None
        except JenkinsError as error:
            raise click.ClickException(f"{build} cannot be looked up: {error}") from None
    write_json(result) if as_json else show(result)
    sys.exit(1 if result.problem is not None else 0)


def show(value: Explanation) -> None:
    """The verdict, then each event with the origin of its fields, then what the outbox has."""
    out = console()
    out.print(f"{escape(value.build)}  {escape(value.verdict)}")
    out.print(f"  rule     {escape(value.rule or 'none matches the job')}")
    out.print(f"  jenkins  {escape(value.jenkins)}")
    for derived in value.derived:
        _show_event(out, derived, value.words.get(derived.deployment_id, {}))
    if value.stages is not None:
        _show_stages(out, value.stages)
    if any(value.words.values()):
        out.print("  values   counts: this value is used; agrees: the same value; left out: not used, with the reason")
    for stored in value.outbox:
        reason = f": {escape(stored.reason)}" if stored.reason else ""
        out.print(
            f"  outbox   {escape(stored.deployment_id)}: {styled(stored.state)}, enqueued {stored.enqueued_at}, "
            f"{stored.attempts} attempt(s){reason}"
        )
        for each in stored.differences:
            was, now = (escape("-" if said is None else str(said)) for said in (each.sent, each.known))
            out.print(f"           Hivel has {escape(each.field)} {was}; known now: [yellow]{now}[/]")
    if not value.outbox:
        out.print("  outbox   has no event of this build")
    for fact in value.facts:
        out.print(f"  fact     {fact.received_at}  {escape(fact.source)}: {escape(in_words(fact))}")
    if value.wanted:
        out.print("  next     the build reported itself; the next poll will read it")
    if value.set_aside is not None:
        out.print(f"  error    [red]{escape(value.set_aside.strip(), lines=True)}[/]")


def _show_event(out: Console, derived: DerivedView, words: dict[str, list[WordView]]) -> None:
    """Each field with its source, and below it the values of the other sources."""
    out.print(f"  event    {escape(derived.deployment_id)}")
    event = derived.known if derived.event is None else msgspec.to_builtins(derived.event)
    if derived.reason:
        out.print(f"           [red]{escape(derived.reason)}[/]")
    for name in dict.fromkeys([*event, *derived.origins]):
        value = event.get(name, "-")
        text = escape(", ".join(map(str, value)) if isinstance(value, tuple) else str(value))
        origin = derived.origins.get(name, "")
        if name in words:  # reports that are not used are listed below
            origin = origin.partition(f"; {SAID} says ")[0]
        origin = escape(origin)
        out.print(f"    {name:<14} {text}" + (f"   [dim]({origin})[/]" if origin else ""))
        for word in words.get(name, []):
            _show_word(out, word)


def _show_word(out: Console, word: WordView) -> None:
    why = f"   [dim]({escape(word.why)})[/]" if word.why else ""
    out.print(f"      {word.verdict.value:<9} {escape(word.who)}: {escape(word.says)}{why}")


def _show_stages(out: Console, stages: StagesView) -> None:
    """The plugin that listed the stages, and the event of each stage."""
    out.print(f"  stages   {escape(stages.rule)}; {escape(stages.whose)}")
    for stage in stages.listed:
        came = ", ".join(stage.events) or f"no event: {stage.reason}"
        by_steps = ", by its steps" if stage.told_by.endswith(BY_STEPS) else ""
        out.print(f"    {escape(stage.name)}: {escape(stage.says)}{by_steps} -> {escape(came)}")
