"""How controllers are distributed over the agents of a fleet. Pure functions; every agent computes the same."""

from __future__ import annotations

from hashlib import blake2b
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from agent.outbox.leases import Member


def weight(controller: str, agent: str) -> bytes:
    """Rendezvous hashing: of the agents, the one with the largest weight is preferred for the controller.

    When an agent comes or goes, only its own controllers change hands.
    """
    return blake2b(f"{controller}\0{agent}".encode(), digest_size=8).digest()


def preferred(controller: str, agents: Iterable[str]) -> str:
    """The agent that takes this controller first."""
    return max(agents, key=lambda agent: weight(controller, agent))


def target(controllers: int, agents: int) -> int:
    """How many controllers an agent takes at most."""
    return ceil(controllers / max(1, agents))


def taken_by(me: str, free: Collection[str], agents: Collection[str], room: int) -> tuple[list[str], list[str]]:
    """The free controllers that this agent takes now, and those that it leaves to preferred agents for a moment."""
    mine: list[str] = []
    theirs: list[str] = []
    for controller in sorted(free, key=lambda each: weight(each, me), reverse=True):
        (mine if preferred(controller, agents) == me else theirs).append(controller)
    return mine[:room], theirs[: max(0, room - len(mine))]


def surplus(me: str, mine: Collection[str], controllers: int, living: Sequence[Member]) -> list[str]:
    """What this agent should give to others, those first for which it is least preferred.

    It has surplus above the target. If another agent has less than its share, already above that share.
    """
    others = [member.holds for member in living if member.agent.id != me]
    share = controllers // max(1, len(living))
    keeps = share if any(holds < share for holds in others) else target(controllers, len(living))
    return sorted(mine, key=lambda each: weight(each, me))[: max(0, len(mine) - keeps)]


def at_once(controllers: int) -> int:
    """How many controllers an agent gives away at a time: one, or with many controllers two percent of them."""
    return max(1, controllers // 50)
