"""``replay``: send events again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
import msgspec

from agent.cli.login_name import login_name
from agent.cli.opening import existing_outbox, ingest_of, queue_of
from agent.cli.options import json_option, with_settings
from agent.cli.output import console, escape, write_json
from agent.cli.selection import Action, Wanted, choose, selection_options
from agent.ingest.replay import replay

if TYPE_CHECKING:
    from agent.config.settings import Settings

# The maximum number of events that are checked for a note.
_MOST_CAUTIONS = 1_000
REPLAY = Action(
    "replay", done="replayed", effect="sent again", takes_delivered=True, reason_names=("--reason", "--error")
)


@click.command("replay")
@selection_options(REPLAY)
@json_option
@with_settings
def command(settings: Settings, *, wanted: Wanted, as_json: bool) -> None:
    """Send failed or delivered events again.

    A failed event is derived again from the stored facts with the current rules: correct the rule, then replay. A
    delivered event is sent unchanged. --failed and --all-delivered select events, and the other options restrict the
    selection. The selected events are counted, and you must confirm. The daemon, or the next `once`, sends them. The
    exit code is 1 if an event cannot be replayed.

    \b
    Examples: hivel-agent replay --failed --yes
              hivel-agent replay 17 'main:deploy/shop#12'
              hivel-agent replay --failed --job 'deploy/**' --reason 'no branch'
              hivel-agent replay --all-delivered --since 2026-01-31 --environment production
    """
    with existing_outbox(settings) as outbox:
        queue = queue_of(settings, outbox)
        chosen = choose(outbox, queue, wanted, REPLAY)
        ids = queue.ids(chosen)
        cautions = {row.number: queue.caution(row) for row in chosen[:_MOST_CAUTIONS]}
        outcomes = [
            ReplayView(
                each.id,
                each.deployment_id or ids[each.id],
                each.done,
                each.reason,
                cautions.get(each.id) if each.done else None,
            )
            for each in replay(ingest_of(settings, outbox), chosen, login_name())
        ]
    write_json(outcomes) if as_json else show(outcomes)
    sys.exit(0 if all(outcome.replayed for outcome in outcomes) else 1)


class ReplayView(msgspec.Struct, frozen=True):
    """The result for one event. ``reason``: why it was not replayed. ``note``: what to know about a replayed event."""

    id: int
    deployment_id: str
    replayed: bool
    reason: str | None
    note: str | None


def show(outcomes: list[ReplayView]) -> None:
    """The result for each event."""
    out = console()
    for outcome in outcomes:
        note = f", {escape(outcome.note)}" if outcome.note else ""
        told = f"[green]pending again[/]{note}"
        if not outcome.replayed:
            told = f"[red]not replayed[/]: {escape(outcome.reason or '')}"
        out.print(f"{outcome.id:>6}  {escape(outcome.deployment_id)}  {told}")
    replayed = sum(outcome.replayed for outcome in outcomes)
    out.print(f"{replayed} of {len(outcomes)} event(s) will be sent again")
