"""How controllers are distributed over the agents of a fleet. Pure functions; every agent computes the same."""

from __future__ import annotations

from hashlib import blake2b
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from agent.outbox.leases import Member


def by_preference(me: str, controllers: Iterable[str]) -> list[str]:
    """The controllers in an order that is another one for each agent, and always the same for this one.

    So agents that take free controllers at the same time begin with different ones, and give back what they took last.
    """

    def weight(controller: str) -> bytes:
        return blake2b(f"{controller}\0{me}".encode(), digest_size=8).digest()

    return sorted(controllers, key=weight, reverse=True)


def target(controllers: int, agents: int) -> int:
    """How many controllers an agent takes at most. Together, the agents have room for all."""
    return ceil(controllers / max(1, agents))


def surplus(me: str, mine: Collection[str], controllers: int, living: Sequence[Member]) -> list[str]:
    """What this agent should give to others, the last in its order.

    It has surplus above the target. If another agent has less than its share, already above that share.
    """
    others = [member.holds for member in living if member.agent.id != me]
    share = controllers // max(1, len(living))
    keeps = share if any(holds < share for holds in others) else target(controllers, len(living))
    return by_preference(me, mine)[keeps:]


def at_once(controllers: int) -> int:
    """How many controllers an agent gives away at a time: one, or with many controllers two percent of them."""
    return max(1, controllers // 50)
