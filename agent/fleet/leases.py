"""The leases of one agent: renews them, takes free ones, gives surplus away, and knows how long it may trust them.

A lease holds for a time (TTL) by the clock of the database. The agent counts from the moment before it asked for the
renewal, by its own monotonic clock, and stops a margin earlier. So it stops before the database gives the lease to
another agent, whatever the wall clock of this machine says. A process that is frozen in between cannot stop; for this
case each transaction of a poll checks its lease in the database (the fence).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.fleet.balance import at_once, by_preference, surplus, target
from agent.outbox.leases import Fence

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from agent.model.times import Clock
    from agent.outbox.leases import Agent, LeaseTable, Member, View

TTL_MS = 15_000
# Parts of the TTL: between renewals, between surrenders of surplus, and the safety margin of trust.
_RENEWAL = 1 / 3
_SURRENDER = 2 / 3
_MARGIN = 2 / 15
# Who has not renewed for this part of the TTL is given nothing, and what nobody took for this time is taken back.
_LATELY = 1 / 2
# After an expiry the agent asks this much later, plus as much at random: the agents do not all ask at once.
_AFTER_EXPIRY_MS = 50
# When to try again to take what was free and could not be taken, because its last holder is within a transaction, as a
# part of the TTL.
_AGAIN = 1 / 15


@dataclass
class Leases:
    """``mine``: the epochs of the leases that this agent has, by controller. Not thread-safe."""

    table: LeaseTable
    me: Agent
    controllers: Sequence[str]
    clock: Clock
    ttl_ms: int = TTL_MS
    rng: random.Random = field(default_factory=random.Random)
    mine: dict[str, int] = field(default_factory=dict, init=False)
    members: Collection[Member] = field(default=(), init=False)
    leaving: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._declared = False
        self._trusted_until = self.clock.monotonic()
        self._surrendered_at = self._trusted_until
        self._given_at: dict[str, float] = {}

    @property
    def trust_left_s(self) -> float:
        """For how many seconds the leases may still be trusted; 0 if no longer."""
        return max(0.0, self._trusted_until - self.clock.monotonic()) if self.mine else 0.0

    def fence(self, controller: str) -> Fence | None:
        """What a poll of this controller must hold; None if it must not poll."""
        epoch = self.mine.get(controller)
        return None if epoch is None or not self.trust_left_s else Fence(controller, self.me.id, epoch)

    @property
    def interval_s(self) -> float:
        """Seconds between renewals."""
        return self.ttl_ms * _RENEWAL / 1000

    def turn(self) -> float:
        """Renew, take what is free, give away what is too much; returns in how many seconds to do it again.

        Raises :class:`agent.outbox.values.OutboxError`; what was not renewed is then trusted as long as before.
        """
        if not self._declared:
            self.table.declare(self.controllers)
            self._declared = True
        began = self.clock.monotonic()
        view = self.table.renew(self.me, self.ttl_ms)
        self._renewed(view, began)
        if self.leaving:
            self._release(list(self.mine))
            return self.interval_s
        again_in_s = self._take(view)
        self._surrender()
        return again_in_s

    def leave(self) -> None:
        """Give everything to the others: the process ends. Raises :class:`agent.outbox.values.OutboxError`."""
        self.mine.clear()
        self.table.leave(self.me)

    # ---- parts of a turn

    def _renewed(self, view: View, began: float) -> None:
        self._trusted_until = began + self.ttl_ms * (1 - _MARGIN) / 1000
        self.mine = dict(view.mine)
        self.members = view.members
        self.leaving = view.leaving
        if foreign := [name for name in self.mine if name not in self.controllers]:
            self._release(foreign)  # a reload removed them from the configuration

    def _living(self) -> list[Member]:
        """The agents that share the controllers, this one included."""
        return [each for each in self.members if each.living and not each.leaving]

    def _take(self, view: View) -> float:
        """Take free controllers; returns when to look again."""
        most = target(len(self.controllers), len(self._living()))
        room = most - len(self.mine)
        now = self.clock.monotonic()
        free = [name for name in view.free if name in self.controllers]
        if any(each.holds < most for each in self._living() if each.agent.id != self.me.id):
            # What this agent gave away is for them.
            lately = now - self.ttl_ms * _LATELY / 1000
            free = [name for name in free if self._given_at.get(name, lately) <= lately]
        if room <= 0 or not free:
            return self._next_look(view, missed=False)
        taken = self.table.take(self.me, by_preference(self.me.id, free), room, self.ttl_ms)
        self.mine |= taken
        self._trusted_until = min(self._trusted_until, now + self.ttl_ms * (1 - _MARGIN) / 1000)
        return self._next_look(view, missed=len(taken) < min(room, len(free)))

    def _next_look(self, view: View, *, missed: bool) -> float:
        """The next renewal, or earlier: when a lease may expire, or when what was missed may be taken."""
        waits = [self.interval_s * 1000]
        if missed:
            waits.append(self.ttl_ms * _AGAIN)
        if view.next_expiry_ms is not None:
            jitter = self.rng.uniform(1, 2) * min(_AFTER_EXPIRY_MS, self.ttl_ms / 100)
            waits.append(view.next_expiry_ms + jitter)
        return max(0.0, min(waits)) / 1000

    def _surrender(self) -> None:
        """Give a little of the surplus away, so that agents that come and go cause no storm of first polls."""
        now = self.clock.monotonic()
        if now < self._surrendered_at + self.ttl_ms * _SURRENDER / 1000:
            return
        there = [each for each in self._living() if each.seen_ms_ago <= self.ttl_ms * _LATELY]
        if given := surplus(self.me.id, self.mine, len(self.controllers), there):
            self._surrendered_at = now
            given = given[: at_once(len(self.controllers))]
            self._given_at |= dict.fromkeys(given, now)
            self._release(given)

    def _release(self, controllers: list[str]) -> None:
        """Stop to trust these leases first, then release them."""
        for name in controllers:
            self.mine.pop(name, None)
        if controllers:
            self.table.release(self.me, controllers)
