"""``handover``: an agent gives its work to the others, before an upgrade."""

from __future__ import annotations

import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING

import click

from agent.cli.options import with_settings
from agent.cli.output import console, escape
from agent.inspect.fleet import described, is_last, short
from agent.outbox.engines import leases_of
from agent.outbox.sqlite.connection import RunLock

if TYPE_CHECKING:
    from agent.config.settings import Settings
    from agent.outbox.leases import Member
    from agent.outbox.postgresql.leases import Leases

# The leases are given away with the next renewal, or at once after a hint. This is for an agent that hangs.
PATIENCE_S = 60.0
_LOOK_S = 0.1


@click.command("handover")
@click.option(
    "--agent",
    "name",
    metavar="NAME|ID",
    help="The agent's name or id, as status shows it. Default: that of this machine.",
)
@click.option("--back", is_flag=True, help="Take part again.")
@click.option("--force", is_flag=True, help="Also if no other agent is there: then nothing is polled and delivered.")
@with_settings
def command(settings: Settings, *, name: str | None, back: bool, force: bool) -> None:
    """Give the work of an agent to the others, before an upgrade.

    The agent stops polling and delivering, and the others take its controllers. It still accepts reports and shows
    pages. After a restart, or with --back, it takes part again. The exit code is 1 if it still has controllers after a
    minute.

    \b
    Example: hivel-agent handover && systemctl restart hivel-agent
    """
    leases = leases_of(settings)
    if leases is None:
        raise click.ClickException(
            "handover needs several agents on one PostgreSQL; this outbox is a file: see [outbox] url"
        )
    with closing(leases):
        members = leases.members()
        chosen = _chosen(members, name, RunLock(settings.outbox).holder())
        if not back and not force and is_last(described(members, []), chosen.agent.id):
            raise click.ClickException(
                "no other agent is there to take over; start one first, or use --force to stop polling and delivering"
            )
        leases.ask_to_leave([chosen.agent.id], leaving=not back)
        if back:
            console().print(f"{escape(chosen.agent.name)} takes part again")
            return
        left = _wait(leases, chosen.agent.id)
    if left:
        raise click.ClickException(
            f"{chosen.agent.name} still polls {left} controller(s) after {PATIENCE_S:g} s; is it running? See its log"
        )
    console().print(f"{escape(chosen.agent.name)} handed over {chosen.holds} controller(s)")


def _chosen(members: list[Member], name: str | None, pid: int | None) -> Member:
    living = [each for each in members if each.living]
    if name is not None:
        found = [each for each in living if name == each.agent.name or each.agent.id.startswith(name)]
        where = f"no agent with the name or id {name!r} is running"
    else:
        host = socket.gethostname()
        found = [each for each in living if each.agent.name == host and pid in (None, each.agent.pid)]
        where = f"no agent of this machine ({host}) is running"
    if not found:
        known = ", ".join(each.agent.name for each in living) or "none"
        raise click.ClickException(f"{where}; running agents: {known}")
    if len(found) > 1:
        ids = ", ".join(f"{short(each.agent.id)} (process {each.agent.pid})" for each in found)
        raise click.ClickException(f"several agents have this name; choose one with --agent ID: {ids}")
    return found[0]


def _wait(leases: Leases, agent: str) -> int:
    """How many controllers the agent still has."""
    ends = time.monotonic() + PATIENCE_S
    while (left := next((each.holds for each in leases.members() if each.agent.id == agent), 0)) > 0:
        if time.monotonic() >= ends:
            break
        time.sleep(_LOOK_S)
    return left
