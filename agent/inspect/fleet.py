"""The agents that share an outbox: who lives, who polls what, and what is left to hand over."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import msgspec

from agent.outbox.engines import leases_by, leases_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.config.settings import Settings
    from agent.outbox.interface import Outbox
    from agent.outbox.leases import Lease, Member

ACTIVE, LEAVING, GONE = "active", "leaving", "gone"


class AgentStatus(msgspec.Struct, frozen=True):
    """One agent. ``state``: active, leaving (it gives its controllers to the others) or gone (not seen for a lease).

    ``id`` is new for each process. ``controllers``: how many it polls.
    """

    id: str
    name: str
    version: str
    pid: int
    state: str
    seen_ms_ago: int
    controllers: int


class LeaseStatus(msgspec.Struct, frozen=True):
    """Who polls a controller. ``agent`` None: nobody now. ``epoch`` grows each time another agent takes over."""

    controller: str
    agent: str | None
    agent_id: str | None
    epoch: int
    expires_in_ms: int


def short(agent_id: str) -> str:
    """The beginning of an id. It tells agents apart that have the same name, because they run on one machine."""
    return agent_id[:8]


class FleetStatus(msgspec.Struct, frozen=True):
    """The agents that share the outbox, oldest first, and the lease of each controller."""

    agents: list[AgentStatus]
    leases: list[LeaseStatus]


def fleet_status(settings: Settings) -> FleetStatus | None:
    """The fleet of this configuration; None if its outbox is not shared.

    Raises :class:`agent.outbox.values.OutboxError`.
    """
    leases = leases_of(settings)
    if leases is None:
        return None
    with closing(leases):
        return described(leases.members(), leases.leases())


def fleet_by(outbox: Outbox) -> FleetStatus | None:
    """The fleet that shares this outbox, by its connection; None if it is a file.

    Raises :class:`agent.outbox.values.OutboxError`.
    """
    leases = leases_by(outbox)
    return None if leases is None else described(leases.members(), leases.leases())


def is_last(fleet: FleetStatus, agent: str) -> bool:
    """Whether no other agent would take over from the one with this id."""
    return not any(each.state == ACTIVE and each.id != agent for each in fleet.agents)


def described(members: Sequence[Member], leases: Sequence[Lease]) -> FleetStatus:
    """Members and leases for people."""
    names = {each.agent.id: each.agent.name for each in members}
    return FleetStatus([_agent(each) for each in members], [_lease(each, names) for each in leases])


def _agent(member: Member) -> AgentStatus:
    state = GONE if not member.living else LEAVING if member.leaving else ACTIVE
    agent = member.agent
    return AgentStatus(agent.id, agent.name, agent.version, agent.pid, state, member.seen_ms_ago, member.holds)


def _lease(lease: Lease, names: dict[str, str]) -> LeaseStatus:
    holder = lease.holder if lease.expires_in_ms > 0 else None
    name = None if holder is None else names.get(holder, "unknown")
    return LeaseStatus(lease.controller, name, holder, lease.epoch, max(0, lease.expires_in_ms))
