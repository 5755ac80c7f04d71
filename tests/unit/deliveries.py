"""An outbox in memory, as far as the delivery sees it, and a Hivel that answers as a test says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from agent.delivery.answers import Answer, Outcome, classify
from agent.model import event as events
from agent.model.deployment import Content, State, event_of
from agent.outbox.values import Claimed, DeliveryState, OutboxError, Settlement
from tests.deployments import NOON, content

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from agent.model.times import Clock

NOW = NOON
STORED = Answer(200, '{"success":true}', "application/json")
UNAVAILABLE = Answer(503)


def claimed(number: int, *, attempts: int = 0, revision: int = 1) -> Claimed:
    """A deployment that is due."""
    return Claimed(number, f"main:deploy/shop#{number}", revision, content(number), attempts, NOW)


async def at_once(function: Callable[..., Any], /, *args: Any) -> Any:
    """A runner without a thread: always the same order. Like the other, it never stops in the middle."""
    await asyncio.sleep(0)
    result = function(*args)
    await asyncio.sleep(0)
    return result


@dataclass
class Row:
    """A deployment as it is stored. ``content`` is what it says, once it is delivered what was sent."""

    number: int
    content: Content
    created_at: int
    state: State = State.PENDING
    revision: int = 1
    sent_revision: int | None = None
    next_attempt_at: int = 0
    attempts: int = 0
    reason: str | None = None
    history: list[Settlement] = field(default_factory=list)


class MemoryDeliveries:
    """Keeps what :class:`agent.outbox.interface.Deliveries` promises; ``broken`` is raised instead of any writing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._state: DeliveryState | None = None
        self.rows: dict[int, Row] = {}
        self.broken: Exception | None = None

    def add(self, *numbers: int) -> None:
        """New deployments."""
        now = self._clock.now_ms()
        for number in numbers:
            self.rows[number] = Row(number, content(number), created_at=now, next_attempt_at=now)

    def rewrite(self, number: int, **changes: Any) -> None:
        """A fact changed what a deployment says."""
        row = self.rows[number]
        row.content = msgspec.structs.replace(row.content, **changes)
        row.revision += 1
        if row.state in (State.PENDING, State.FAILED):
            row.state, row.next_attempt_at = State.PENDING, self._clock.now_ms()

    def states(self) -> dict[str, int]:
        """How many are in each state."""
        found = [row.state.value for row in self.rows.values()]
        return {state: found.count(state) for state in sorted(set(found))}

    # ---- Deliveries

    def claim(self, limit: int, *, besides: Collection[int] = ()) -> list[Claimed]:
        now = self._clock.now_ms()
        due = [
            Claimed(n, f"main:deploy/shop#{n}", row.revision, row.content, row.attempts, row.created_at)
            for n, row in sorted(self.rows.items())
            if row.state is State.PENDING and row.next_attempt_at <= now and n not in besides
        ]
        return due[:limit]

    def settle(self, settlements: Sequence[Settlement]) -> None:
        self._write()
        for settlement in settlements:
            self._settle(self.rows[settlement.claimed.number], settlement)

    def _settle(self, row: Row, settlement: Settlement) -> None:
        row.history.append(settlement)
        row.attempts += settlement.counts_as_attempt
        sent = settlement.claimed
        if settlement.state is State.DELIVERED:
            row.content, row.state, row.reason = sent.content, State.DELIVERED, settlement.reason
            row.sent_revision = 0 if settlement.already_there and sent.revision > 1 else sent.revision
        elif sent.revision == row.revision and row.state is State.PENDING:
            row.state, row.reason = settlement.state, settlement.reason
            if settlement.next_attempt_at is not None:
                row.next_attempt_at = settlement.next_attempt_at

    def make_due(self, *, later_than: int) -> int:
        self._write()
        late = [r for r in self.rows.values() if r.state is State.PENDING and r.next_attempt_at > later_than]
        for row in late:
            row.next_attempt_at = self._clock.now_ms()
        return len(late)

    def due_at(self) -> int | None:
        """When the first one is due that is pending."""
        return min((row.next_attempt_at for row in self.rows.values() if row.state is State.PENDING), default=None)

    def save_delivery_state(self, state: DeliveryState) -> None:
        self._write()
        self._state = state

    def delivery_state(self) -> DeliveryState | None:
        return self._state

    def _write(self) -> None:
        if self.broken is not None:
            raise self.broken


FULL = OutboxError("there is no space left for the outbox; free some space on its disk")


class ScriptedHivel:
    """A sender without sockets: ``answer`` may be replaced at any time."""

    def __init__(self, answer: Answer = STORED) -> None:
        self.sent: list[Claimed] = []
        self.at_once = self.most_at_once = 0
        self.answer: Callable[[Claimed], Awaitable[Answer]] = self.always(answer)
        self.new_token = False

    @staticmethod
    def always(answer: Answer) -> Callable[[Claimed], Awaitable[Answer]]:
        """The same answer for everything."""

        async def answered(_: Claimed) -> Answer:
            await asyncio.sleep(0)
            return answer

        return answered

    async def send(self, claimed: Claimed) -> Outcome:
        events.encode(event_of(claimed.deployment_id, claimed.content))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.sent.append(claimed)
        try:
            return classify(await self.answer(claimed), claimed.deployment_id, NOW)
        finally:
            self.at_once -= 1

    def reload_token(self) -> bool:
        return self.new_token

    @property
    def numbers(self) -> list[int]:
        """What was sent, in its order."""
        return [claimed.number for claimed in self.sent]
