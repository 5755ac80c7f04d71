"""The leases of a fleet in memory, with a clock of their own and transactions that can stay open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.outbox.leases import Agent, Fence, Lease, Member, View
from agent.outbox.values import OutboxError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


@dataclass
class Row:
    holder: str | None = None
    epoch: int = 0
    expires_at: float = 0.0


@dataclass
class Seen:
    agent: Agent
    at: float
    leaving: bool = False


@dataclass
class MemoryTable:
    """``open``: the controllers that a fenced transaction has locked, with their numbers of transactions."""

    now_ms: float = 0.0
    rows: dict[str, Row] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)
    open: dict[str, int] = field(default_factory=dict)

    def declare(self, controllers: Collection[str]) -> None:
        for name in controllers:
            self.rows.setdefault(name, Row())

    def renew(self, me: Agent, ttl_ms: int) -> View:
        seen = self.seen.setdefault(me.id, Seen(me, self.now_ms))
        seen.at = self.now_ms
        for row in self._of(me).values():
            row.expires_at = self.now_ms + ttl_ms
        others = [row.expires_at for row in self.rows.values() if row.holder != me.id and row.expires_at > self.now_ms]
        return View(
            mine={name: row.epoch for name, row in self._of(me).items()},
            free=[name for name, row in self.rows.items() if row.expires_at <= self.now_ms],
            members=[self._member(each, ttl_ms) for each in self.seen.values()],
            next_expiry_ms=round(min(others) - self.now_ms) if others else None,
            leaving=seen.leaving,
        )

    def take(self, me: Agent, controllers: Sequence[str], most: int, ttl_ms: int) -> dict[str, int]:
        taken: dict[str, int] = {}
        for name in controllers:
            row = self.rows[name]
            if len(taken) < most and row.expires_at <= self.now_ms and not self.open.get(name):
                row.holder, row.epoch, row.expires_at = me.id, row.epoch + 1, self.now_ms + ttl_ms
                taken[name] = row.epoch
        return taken

    def release(self, me: Agent, controllers: Collection[str]) -> None:
        for name, row in self._of(me).items():
            if name in controllers:
                row.holder, row.expires_at = None, self.now_ms

    def leave(self, me: Agent) -> None:
        self.release(me, self.rows)
        self.seen.pop(me.id, None)

    # ---- what the database does for transactions and for people

    def begin(self, fence: Fence) -> bool:
        """Begin a fenced transaction; False: the lease is lost."""
        row = self.rows[fence.controller]
        if (row.holder, row.epoch) != (fence.holder, fence.epoch) or row.expires_at <= self.now_ms:
            return False
        self.open[fence.controller] = self.open.get(fence.controller, 0) + 1
        return True

    def end(self, fence: Fence) -> None:
        self.open[fence.controller] -= 1

    def leases(self) -> list[Lease]:
        return [
            Lease(name, row.holder, row.epoch, round(row.expires_at - self.now_ms)) for name, row in self.rows.items()
        ]

    def _of(self, me: Agent) -> dict[str, Row]:
        return {name: row for name, row in self.rows.items() if row.holder == me.id}

    def _member(self, seen: Seen, ttl_ms: int) -> Member:
        ago = self.now_ms - seen.at
        return Member(seen.agent, round(ago), ago < ttl_ms, seen.leaving, len(self._of(seen.agent)))


@dataclass
class Unreliable:
    """A connection to the table: ``fails`` before or after the table has done what was asked."""

    table: MemoryTable
    fails: str = "never"

    def declare(self, controllers: Collection[str]) -> None:
        self._ask(lambda: self.table.declare(controllers))

    def renew(self, me: Agent, ttl_ms: int) -> View:
        return self._ask(lambda: self.table.renew(me, ttl_ms))

    def take(self, me: Agent, controllers: Sequence[str], most: int, ttl_ms: int) -> dict[str, int]:
        return self._ask(lambda: self.table.take(me, controllers, most, ttl_ms))

    def release(self, me: Agent, controllers: Collection[str]) -> None:
        self._ask(lambda: self.table.release(me, controllers))

    def leave(self, me: Agent) -> None:
        self._ask(lambda: self.table.leave(me))

    def _ask(self, what):
        if self.fails == "before":
            raise OutboxError("cut off before the server had it")
        answer = what()
        if self.fails == "after":
            raise OutboxError("cut off before the answer")
        return answer
