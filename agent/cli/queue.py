"""``queue``: the events in the outbox."""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING

import click
import msgspec

from agent.cli.filters import Filters, filter_options
from agent.cli.login_name import login_name
from agent.cli.opening import existing_outbox, queue_of
from agent.cli.options import json_option, refusing_endless_patterns, with_settings
from agent.cli.output import console, escape, styled, table, write_json
from agent.cli.selection import Action, Wanted, choose, selection_options
from agent.cli.spreadsheet import write_csv
from agent.ingest.replay import discard
from agent.inspect.facts import in_words
from agent.inspect.queue import COLUMNS, cells
from agent.model.deployment import State

if TYPE_CHECKING:
    from rich.console import Console

    from agent.config.settings import Settings
    from agent.inspect.queue import ActionView, AttemptView, DetailView, EventView, KnownView

DISCARD = Action("discard", done="discarded", effect="discarded and never sent")
_STATES = (State.PENDING, State.HELD, State.DELIVERED, State.FAILED, State.DISCARDED)


@click.group("queue")
def command() -> None:
    """List, show and discard events in the outbox.

    \b
    Example: hivel-agent queue list --state failed
    """


# ---- list


@command.command("list")
@click.option(
    "--state",
    "states",
    type=click.Choice([state.value for state in _STATES]),
    multiple=True,
    help="Events in this state. Repeat it for several states.",
)
@filter_options("--reason")
@click.option(
    "--limit",
    type=click.IntRange(min=1, max=1_000_000_000),
    default=50,
    show_default=True,
    help="Maximum number of events.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV for a spreadsheet instead of text.")
@json_option
@with_settings
@refusing_endless_patterns
def list_events(
    settings: Settings, *, states: tuple[str, ...], filters: Filters, limit: int, as_csv: bool, as_json: bool
) -> None:
    """List events, newest first.

    An event must meet all filters. --since and --until select by the end of the deployment, which is the column
    ENDED.

    \b
    Examples: hivel-agent queue list --state failed --since 7d
              hivel-agent queue list --job 'deploy/**' --environment production --csv --limit 100000
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json: choose one")
    with existing_outbox(settings) as outbox:
        rows = list(islice(filters.select(outbox, tuple(map(State, states))), limit))
        views = queue_of(settings, outbox).views(rows)
    if as_json:
        write_json(views)
    elif as_csv:
        write_csv(COLUMNS, map(cells, views))
    else:
        show_events(views)


def show_events(views: list[EventView]) -> None:
    """The events as a table."""
    if not views:
        console().print("no events")
        return
    lines = table(
        "ID", "STATE", "DEPLOYMENT_ID", "STATUS", "ENVIRONMENT", "ENDED", "TRIED", "REASON", right=("ID", "TRIED")
    )
    for view in views:
        lines.add_row(
            str(view.id),
            styled(view.state),
            escape(view.deployment_id),
            "-" if view.event is None else view.event.status.value,
            "-" if view.event is None else escape(view.event.environment),
            "-" if view.ended_at is None else view.ended_at[:19] + "Z",
            str(view.attempts),
            escape(view.reason or ""),
        )
    console().print(lines)


# ---- show


@command.command("show")
@click.argument("id")
@json_option
@with_settings
def show_event(settings: Settings, *, id: str, as_json: bool) -> None:  # noqa: A002 - click's name for ID
    """Show one event: the facts about its build, the delivery attempts, and what Hivel has.

    ID is the number of the event in the list, or its deployment_id.

    \b
    Example: hivel-agent queue show 'main:deploy/shop#12'
    """
    with existing_outbox(settings) as outbox:
        queue = queue_of(settings, outbox)
        row = queue.find(id)
        if row is None:
            raise click.ClickException(f"there is no event {id!r}; to list events, run: hivel-agent queue list")
        detail = queue.detail(row)
    write_json(detail) if as_json else show_detail(detail)


def show_detail(detail: DetailView) -> None:
    """All data about one event."""
    out, event = console(), detail.event
    out.print(f"{escape(event.deployment_id)}  {styled(event.state)}  (number {event.id} in the outbox)")
    if event.reason:
        out.print(f"  reason: {escape(event.reason)}")
    out.print(f"  enqueued {event.created_at}")
    for word, moment in (
        ("held; sent without confirmation at", event.held_until),
        ("next attempt", event.next_attempt_at),
        ("settled", event.settled_at),
    ):
        if moment is not None:
            out.print(f"  {word} {moment}")
    if event.revision > 1:
        out.print(f"  revision {event.revision}{_sent(event)}")
    if event.event is not None:
        _show_json(out, "event", event.event)
    if detail.known is not None:
        _show_known(out, detail.known)
    if detail.facts:
        out.print("  facts about its build:")
        for fact in detail.facts:
            out.print(f"    {fact.received_at}  {escape(fact.source)}: {escape(in_words(fact))}")
    if detail.source is not None:
        _show_json(out, "derived from", detail.source)
    _show_attempts(out, event, detail.attempts)
    _show_actions(out, detail.actions)


def _sent(event: EventView) -> str:
    if event.sent_revision is None:
        return ""
    if event.sent_revision == 0:
        return "; Hivel has an unknown revision"
    return "" if event.sent_revision == event.revision else f"; Hivel has revision {event.sent_revision}"


def _show_json(out: Console, title: str, value: object) -> None:
    out.print(f"  {title}:")
    out.print(escape(msgspec.json.format(msgspec.json.encode(value), indent=2).decode(), lines=True))


def _show_known(out: Console, known: KnownView) -> None:
    """The fields that would be sent with other values than the ones that Hivel has."""
    if known.reason is not None:
        out.print(f"  with the facts known now, there would be no event: [yellow]{escape(known.reason)}[/]")
    elif known.event is None:
        out.print("  with the facts known now, there would be [yellow]no such deployment[/]; Hivel keeps it")
    elif known.differences:
        out.print("  Hivel has -> [yellow]known now[/]:")
        for each in known.differences:
            out.print(f"    {escape(each.field):<14} {escape(_text(each.sent))} -> {escape(_text(each.known))}")


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def _show_attempts(out: Console, event: EventView, attempts: list[AttemptView]) -> None:
    shown = len(attempts) + (event.state is State.DELIVERED)
    some = "" if event.attempts <= shown else f", of which these are the first and the last {shown - 1}"
    out.print(f"  attempts: {event.attempts}{some}")
    for attempt in attempts:
        status = attempt.http_status if attempt.http_status is not None else "no answer"
        out.print(f"    {attempt.at}  {attempt.duration_ms} ms  {status}  {escape(attempt.verdict)}")
        out.print(f"      {escape(attempt.answer)}")
    if event.state is State.DELIVERED and event.settled_at is not None:
        out.print(f"    {event.settled_at}  [green]delivered[/]")


def _show_actions(out: Console, actions: list[ActionView]) -> None:
    for action in actions:
        why = f": {escape(action.reason)}" if action.reason else ""
        out.print(f"  {action.at}  {action.what} by {escape(action.who)}{why}")


# ---- discard


class DiscardView(msgspec.Struct, frozen=True):
    """The result for one event. ``reason``: why it was not discarded."""

    id: int
    deployment_id: str
    discarded: bool
    reason: str | None


@command.command("discard")
@selection_options(DISCARD)
@click.option("--reason", metavar="TEXT", help="Reason to store with the events.")
@json_option
@with_settings
def discard_events(settings: Settings, *, wanted: Wanted, reason: str | None, as_json: bool) -> None:
    """Discard failed events, or pending events by ID, so that they are never sent.

    A discarded event stays in the outbox with the name of the user and the reason. No poll, report or backfill
    creates it again. `replay ID` sends it. --failed selects events, and the other options restrict the selection.
    The selected events are counted, and you must confirm. The exit code is 1 if an event cannot be discarded.

    \b
    Examples: hivel-agent queue discard 17 'main:deploy/shop#12' --reason 'a test'
              hivel-agent queue discard --failed --job 'lab/**' --until 30d --yes
    """
    with existing_outbox(settings) as outbox:
        queue = queue_of(settings, outbox)
        chosen = choose(outbox, queue, wanted, DISCARD)
        ids = queue.ids(chosen)
        outcomes = [
            DiscardView(each.id, each.deployment_id or ids[each.id], each.done, each.reason)
            for each in discard(outbox, chosen, login_name(), reason or "")
        ]
    write_json(outcomes) if as_json else show_discarded(outcomes)
    sys.exit(0 if all(outcome.discarded for outcome in outcomes) else 1)


def show_discarded(outcomes: list[DiscardView]) -> None:
    """The result for each event."""
    out = console()
    for outcome in outcomes:
        told = "discarded" if outcome.discarded else f"[red]not discarded[/]: {escape(outcome.reason or '')}"
        out.print(f"{outcome.id:>6}  {escape(outcome.deployment_id)}  {told}")
    discarded = sum(outcome.discarded for outcome in outcomes)
    out.print(f"{discarded} of {len(outcomes)} event(s) were discarded")
