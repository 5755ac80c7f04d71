"""``status``: everything at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agent.cli.options import json_option, with_settings
from agent.cli.outbox import existing_outbox
from agent.cli.output import console, delivery_line, escape, styled, write_json
from agent.inspect.status import status
from agent.model.times import describe_duration

if TYPE_CHECKING:
    from rich.console import Console

    from agent.config.settings import Settings
    from agent.inspect.status import ControllerStatus, MissedStatus, Status

# Jobs whose missed builds are told one by one.
_MOST_MISSED = 10


@click.command("status")
@json_option
@with_settings
def command(settings: Settings, *, as_json: bool) -> None:
    """Show outbox, delivery and controllers at a glance.

    \b
    Example: hivel-agent status --json | jq .events.pending
    """
    with existing_outbox(settings) as outbox:
        value = status(settings, outbox)
    write_json(value) if as_json else show(value)


def show(value: Status) -> None:
    """A line for each of outbox, events and delivery, then the controllers."""
    out = console()
    daemon = "no daemon is running" if value.daemon_pid is None else f"daemon is process {value.daemon_pid}"
    out.print(f"outbox    {escape(value.outbox)}, {daemon}")
    counts = value.events
    waiting = "" if value.oldest_pending_ms is None else f" (oldest waits {describe_duration(value.oldest_pending_ms)})"
    failed = "[red]failed[/]" if counts.failed else "failed"
    out.print(
        f"events    {counts.pending} pending{waiting}, {counts.held} held, "
        f"{counts.delivered} delivered, {counts.failed} {failed}"
    )
    out.print(delivery_line(value.delivery))
    if value.repaired is not None:
        told = f"{value.repaired.problem}; {value.repaired.events} events were recovered from {value.repaired.moved_to}"
        out.print(f"repaired  [red]the outbox was damaged[/], found {value.repaired.at}: {escape(told)}")
    for controller in value.controllers:
        _show_controller(out, controller)
    _show_missed(out, value.missed)


def _show_controller(out: Console, controller: ControllerStatus) -> None:
    since = "" if controller.since is None else f" since {controller.since}"
    polled = "" if controller.polled_at is None else f", polled {controller.polled_at}"
    jobs = "" if controller.jobs is None else f", {controller.jobs} jobs, {controller.open_builds} builds followed"
    out.print(f"jenkins   {escape(controller.name)}: {styled(controller.state)}{since}{polled}{jobs}")
    if controller.last_error:
        out.print(f"          {escape(controller.last_error)}")


def _show_missed(out: Console, jobs: list[MissedStatus]) -> None:
    for job in jobs[:_MOST_MISSED]:
        out.print(
            f"missed    {job.builds} build(s) of {escape(job.job)} on {escape(job.controller)} were gone "
            f"before they could be read, up to #{job.newest_number}, noted {job.noted_at}"
        )
    if len(jobs) > _MOST_MISSED:
        out.print(f"missed    … and of {len(jobs) - _MOST_MISSED} more jobs: status --json")
