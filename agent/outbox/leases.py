"""Leases: which agent of a fleet polls which controller. The interface of their table, and its values.

All times are by the clock of the database. An agent knows only how long ago it asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


@dataclass(frozen=True)
class Fence:
    """What a poll's transactions must still hold: the lease of a controller, in this epoch."""

    controller: str
    holder: str
    epoch: int


@dataclass(frozen=True)
class Agent:
    """A process of the fleet. ``id`` is new for each process; a host or pod name can return while the old one lives."""

    id: str
    name: str
    version: str
    pid: int = 0


@dataclass(frozen=True)
class Member:
    """An agent as the others see it. ``leaving``: it gives its controllers away and takes no new ones.

    ``seen_ms_ago``: since its last renewal. ``living``: that is not longer ago than a lease holds.
    """

    agent: Agent
    seen_ms_ago: int
    living: bool
    leaving: bool = False
    holds: int = 0


@dataclass(frozen=True)
class Lease:
    """The lease of a controller. ``holder`` None: it is free. ``epoch`` grows each time an agent takes it.

    ``expires_in_ms``: negative if it has expired.
    """

    controller: str
    holder: str | None
    epoch: int
    expires_in_ms: int


@dataclass(frozen=True)
class View:
    """The answer to a renewal. ``mine``: the epochs of this agent's leases by controller, all just renewed.

    ``free``: controllers that can be taken. ``next_expiry_ms``: when the next lease of another agent expires, unless it
    is renewed; None if no other agent has any. ``leaving``: a person asked this agent to hand over its controllers.
    """

    mine: Mapping[str, int]
    free: Collection[str]
    members: Collection[Member]
    next_expiry_ms: int | None = None
    leaving: bool = False


class LeaseTable(Protocol):
    """The leases of a fleet. Every method raises :class:`agent.outbox.values.OutboxError`; it may be retried."""

    def declare(self, controllers: Collection[str]) -> None:
        """Make sure that these controllers have a lease, free or not."""
        ...

    def renew(self, me: Agent, ttl_ms: int) -> View:
        """Renew all leases of this agent for ``ttl_ms``, and note that it lives: one statement."""
        ...

    def take(self, me: Agent, controllers: Sequence[str], most: int, ttl_ms: int) -> dict[str, int]:
        """Take those of these controllers that are free, in this order, at most so many; returns their new epochs.

        A controller whose last holder is within a fenced transaction is not free yet.
        """
        ...

    def release(self, me: Agent, controllers: Collection[str]) -> None:
        """Make these leases free now, if this agent has them, and wake up the others."""
        ...

    def leave(self, me: Agent) -> None:
        """Release all leases of this agent and remove it from the fleet."""
        ...
