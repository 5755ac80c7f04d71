"""``status``: the state of the outbox, the delivery and the controllers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agent.cli.opening import existing_outbox
from agent.cli.options import json_option, with_settings
from agent.cli.output import console, delivery_line, escape, styled, write_json
from agent.config.sizes import describe_size
from agent.inspect.fleet import short
from agent.inspect.status import status
from agent.model.times import describe_duration

if TYPE_CHECKING:
    from rich.console import Console

    from agent.config.settings import Settings
    from agent.inspect.asked import Asked
    from agent.inspect.controllers import ControllerStatus, JobErrorStatus, MissedStatus
    from agent.inspect.fleet import FleetStatus
    from agent.inspect.silent import SilentJob
    from agent.inspect.status import SetAsideStatus, Status

NONE_POLLED = "jenkins   no controller is configured"
_WHICH = "see sent_revision in queue list --json, and queue show"
# The maximum number of jobs that are listed for one kind of problem.
_MOST_JOBS = 10


@click.command("status")
@json_option
@with_settings
def command(settings: Settings, *, as_json: bool) -> None:
    """Show the state of the outbox, the delivery and the controllers.

    \b
    Example: hivel-agent status --json | jq .events.pending
    """
    with existing_outbox(settings) as outbox:
        value = status(settings, outbox)
    write_json(value) if as_json else show(value)


def show(value: Status) -> None:
    """A line for outbox, events and delivery, then the controllers, then the problems."""
    out = console()
    daemon = "no daemon is running" if value.daemon_pid is None else f"daemon is running (PID {value.daemon_pid})"
    out.print(f"outbox    {escape(value.outbox)}, {daemon}{_size(value)}")
    if value.is_full:
        out.print("          [red]full[/]: no new events are stored until space is freed; raise \\[outbox] max_size")
    out.print(f"events    {_counts(value)}")
    out.print(delivery_line(value.delivery))
    if value.repaired is not None:
        told = f"{value.repaired.problem}; {value.repaired.events} events were recovered from {value.repaired.moved_to}"
        out.print(f"repaired  [red]the outbox was damaged[/], found {escape(value.repaired.at)}: {escape(told)}")
    for controller in value.controllers:
        _show_controller(out, controller)
    if not value.controllers:
        out.print(NONE_POLLED)
    if value.fleet is not None:
        _show_fleet(out, value.fleet)
    _show_job_errors(out, value.job_errors)
    _show_set_aside(out, value.set_aside)
    _show_missed(out, value.missed)
    _show_silent(out, value.silent_jobs)
    for hook in value.webhooks:
        last = "no delivery is stored" if hook.last_at is None else f"last delivery {hook.last_at}: {hook.last_verdict}"
        reason = f", {escape(hook.last_reason)}" if hook.last_reason else ""
        out.print(f"webhook   {escape(hook.name)} ({hook.platform}): {last}{reason}")
    for gap in value.gaps:
        looked = "never read" if gap.looked_at is None else f"read {gap.looked_at}, {gap.found} missed found in all"
        error = f"; [red]{escape(gap.error)}[/]" if gap.error else ""
        out.print(f"gaps      {escape(gap.webhook)} {escape(gap.project)} ({gap.stream}): {looked}{error}")
    if value.outdated_events:
        out.print(f"differs   Hivel has an older revision of {value.outdated_events} event(s): {_WHICH}")


def _show_fleet(out: Console, fleet: FleetStatus) -> None:
    for agent in fleet.agents:
        seen = "" if agent.state == "active" else f", seen {describe_duration(agent.seen_ms_ago)} ago"
        names = [f"{lease.controller} (epoch {lease.epoch})" for lease in fleet.leases if lease.agent_id == agent.id]
        shown = ", ".join(names[:_MOST_JOBS]) + (" and more: status --json" if len(names) > _MOST_JOBS else "")
        polls = f", polls {len(names)}: {escape(shown)}" if names else ", polls nothing"
        which = f"{escape(agent.name)} {agent.version} ({short(agent.id)}, process {agent.pid})"
        out.print(f"agent     {which}: {styled(agent.state)}{seen}{polls}")
    if free := [lease.controller for lease in fleet.leases if lease.agent is None]:
        out.print(f"agent     nobody polls {escape(', '.join(free[:_MOST_JOBS]))} now")


def _size(value: Status) -> str:
    if not value.max_size_bytes:
        return ""
    return f", {describe_size(value.size_bytes)} of at most {describe_size(value.max_size_bytes)}"


def _counts(value: Status) -> str:
    counts = value.events
    waiting = "" if value.oldest_pending_ms is None else f" (oldest waits {describe_duration(value.oldest_pending_ms)})"
    failed = "[red]failed[/]" if counts.failed else "failed"
    discarded = f", {counts.discarded} discarded" if counts.discarded else ""
    return (
        f"{counts.pending} pending{waiting}, {counts.held} held, {counts.delivered} delivered, "
        f"{counts.failed} {failed}{discarded}"
    )


def _show_controller(out: Console, controller: ControllerStatus) -> None:
    since = "" if controller.since is None else f" since {escape(controller.since)}"
    polled = "" if controller.polled_at is None else f", polled {controller.polled_at}"
    jobs = "" if controller.jobs is None else f", {controller.jobs} jobs, {controller.open_builds} open builds"
    out.print(f"jenkins   {escape(controller.name)}: {styled(controller.state)}{since}{polled}{jobs}")
    if controller.last_error:
        out.print(f"          {escape(controller.last_error)}")
    if controller.asked is not None and controller.asked.last_hour:
        out.print(f"requests  {escape(controller.name)}: {_asked(controller.asked)}")


def _asked(asked: Asked) -> str:
    """``every 15s; in the last hour 240 jobs, 12 builds: 1.2 MB, answered in 31ms on average, 400ms at most``."""
    often = f"every {describe_duration(asked.interval_ms)}"
    if asked.interval_ms > asked.setting_ms:
        often = f"[yellow]slow[/], {often} instead of {describe_duration(asked.setting_ms)}"
    kinds = ", ".join(f"{each.requests} {each.kind}" for each in asked.last_hour)
    average = round(sum(each.average_ms * each.requests for each in asked.last_hour) / asked.requests)
    slowest = max(each.slowest_ms for each in asked.last_hour)
    size = describe_size(sum(each.bytes for each in asked.last_hour))
    return (
        f"{often}; in the last hour {kinds}: {size}, answered in {describe_duration(average)} on average, "
        f"{describe_duration(slowest)} at most"
    )


def _show_job_errors(out: Console, jobs: list[JobErrorStatus]) -> None:
    for job in jobs[:_MOST_JOBS]:
        out.print(
            f"job       {escape(job.job)} on {escape(job.controller)} [red]cannot be read[/] "
            f"since {escape(job.since)}, next attempt {escape(job.next_try_at)}: {escape(job.error)}"
        )
    if len(jobs) > _MOST_JOBS:
        out.print(f"job       … and {len(jobs) - _MOST_JOBS} more jobs: status --json")


def _show_set_aside(out: Console, things: list[SetAsideStatus]) -> None:
    for item in things[:_MOST_JOBS]:
        out.print(f"set aside {item.kind} {escape(item.subject)} at {escape(item.at)}: [red]{escape(item.error)}[/]")
    if len(things) > _MOST_JOBS:
        out.print("set aside … and more: status --json")


def _show_missed(out: Console, jobs: list[MissedStatus]) -> None:
    for job in jobs[:_MOST_JOBS]:
        out.print(
            f"missed    {job.builds} build(s) of {escape(job.job)} on {escape(job.controller)} were discarded or "
            f"deleted before the agent read them, up to #{job.newest_number}, noticed {job.noted_at}"
        )
    if len(jobs) > _MOST_JOBS:
        out.print(f"missed    … and of {len(jobs) - _MOST_JOBS} more jobs: status --json")


def _show_silent(out: Console, jobs: list[SilentJob]) -> None:
    for job in jobs[:_MOST_JOBS]:
        silent, usual = describe_duration(job.silent_ms), describe_duration(job.usual_pause_ms)
        out.print(
            f"silent    {escape(job.job)} on {escape(job.controller)}: no deployment since {job.last_deployment_at} "
            f"({silent}; usually within {usual}); {_why_silent(job)}"
        )
    if len(jobs) > _MOST_JOBS:
        out.print(f"silent    … and {len(jobs) - _MOST_JOBS} more jobs: status --json")


def _why_silent(job: SilentJob) -> str:
    if not job.still_builds:
        return "it has had no builds since then" if job.builds_since == 0 else "its builds are not known"
    why = "none became an event" if job.has_rule else "no \\[\\[deployment]] rule matches the job any more"
    return f"[yellow]{job.builds_since} build(s) since then[/], {why}"
