"""``queue``: the events in the outbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from agent.cli.options import json_option, with_settings
from agent.cli.outbox import existing_outbox
from agent.cli.output import console, escape, styled, table, write_json
from agent.model.times import rfc3339
from agent.outbox.sqlite.store import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.config.settings import Settings
    from agent.outbox.sqlite.store import Attempt, Row


@click.group("queue")
def command() -> None:
    """Look at the events in the outbox.

    \b
    Example: hivel-agent queue list --state failed
    """


# ---- list


class EventView(msgspec.Struct, frozen=True):
    """An event in ``queue list --json``; times are RFC 3339. ``event`` is the payload as it is stored."""

    id: int
    deployment_id: str
    state: State
    reason: str | None
    attempts: int
    created_at: str
    next_attempt_at: str | None
    settled_at: str | None
    event: msgspec.Raw | None


@command.command("list")
@click.option("--state", type=click.Choice(["pending", "held", "delivered", "failed"]), help="Only this state.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@json_option
@with_settings
def list_events(settings: Settings, *, state: str | None, limit: int, as_json: bool) -> None:
    """List events, the newest first.

    \b
    Example: hivel-agent queue list --state failed --limit 20
    """
    with existing_outbox(settings) as outbox:
        rows = outbox.rows(State(state) if state else None, limit)
    write_json([event_view(row) for row in rows]) if as_json else show_events(rows)


def event_view(row: Row) -> EventView:
    """A row of the outbox for the eyes of others."""
    return EventView(
        id=row.id,
        deployment_id=row.deployment_id,
        state=row.state,
        reason=row.reason,
        attempts=row.attempts,
        created_at=rfc3339(row.created_at),
        next_attempt_at=rfc3339(row.next_attempt_at) if row.state is State.PENDING else None,
        settled_at=None if row.settled_at is None else rfc3339(row.settled_at),
        event=None if row.payload is None else msgspec.Raw(row.payload.encode()),
    )


def show_events(rows: list[Row]) -> None:
    """A line for each event."""
    if not rows:
        console().print("no events")
        return
    lines = table(
        "ID", "STATE", "DEPLOYMENT_ID", "STATUS", "ENVIRONMENT", "ENQUEUED", "TRIED", "REASON", right=("ID", "TRIED")
    )
    for row in rows:
        fields = {} if row.payload is None else msgspec.json.decode(row.payload)
        lines.add_row(
            str(row.id),
            styled(row.state),
            escape(row.deployment_id),
            fields.get("status", "-"),
            escape(fields.get("environment", "-")),
            rfc3339(row.created_at)[:19] + "Z",
            str(row.attempts),
            escape(row.reason or ""),
        )
    console().print(lines)


# ---- show


class AttemptView(msgspec.Struct, frozen=True):
    """An attempt in ``queue show --json``; ``at`` is RFC 3339, ``duration_ms`` milliseconds."""

    at: str
    duration_ms: int
    http_status: int | None
    verdict: str
    answer: str


class DetailView(msgspec.Struct, frozen=True):
    """``queue show --json``: the event, every attempt, and what it can be derived from again."""

    event: EventView
    attempts: list[AttemptView]
    source: msgspec.Raw | None


@command.command("show")
@click.argument("id")
@json_option
@with_settings
def show_event(settings: Settings, *, id: str, as_json: bool) -> None:  # noqa: A002 - click's name for ID
    """Show one event with every attempt. ID: its number in the list, or its deployment_id.

    \b
    Example: hivel-agent queue show 'main:deploy/shop#12'
    """
    with existing_outbox(settings) as outbox:
        row = outbox.find(id)
        if row is None:
            raise click.ClickException(f"there is no event {id!r}; see: hivel-agent queue list")
        attempts = outbox.attempts(row)
    write_json(detail_view(row, attempts)) if as_json else show_detail(row, attempts)


def detail_view(row: Row, attempts: Iterable[Attempt]) -> DetailView:
    """A row with its attempts."""
    return DetailView(
        event=event_view(row),
        attempts=[AttemptView(rfc3339(a.at), a.duration_ms, a.http_status, a.verdict, a.answer) for a in attempts],
        source=None if row.source is None else msgspec.Raw(row.source.encode()),
    )


def show_detail(row: Row, attempts: list[Attempt]) -> None:
    """Everything that is known of one event."""
    out = console()
    out.print(f"{escape(row.deployment_id)}  {styled(row.state)}  (number {row.id} in the outbox)")
    if row.reason:
        out.print(f"  reason: {escape(row.reason)}")
    out.print(f"  enqueued {rfc3339(row.created_at)}")
    if row.state is State.PENDING:
        out.print(f"  next attempt {rfc3339(row.next_attempt_at)}")
    if row.settled_at is not None:
        out.print(f"  settled {rfc3339(row.settled_at)}")
    for title, text in (("event", row.payload), ("derived from", row.source)):
        if text is not None:
            out.print(f"  {title}:")
            out.print(escape(msgspec.json.format(text, indent=2)))
    out.print(f"  attempts: {len(attempts)}")
    for attempt in attempts:
        status = attempt.http_status if attempt.http_status is not None else "no answer"
        out.print(f"    {rfc3339(attempt.at)}  {attempt.duration_ms} ms  {status}  {attempt.verdict}")
        out.print(f"      {escape(attempt.answer)}")
