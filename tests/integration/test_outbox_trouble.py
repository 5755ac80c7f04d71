"""An outbox out of order for a while, and clocks that were wrong: afterwards all goes on by itself."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from agent.config.settings import DeliverySettings
from agent.delivery.answers import Answer
from agent.delivery.dispatcher import Drain
from agent.outbox.values import OutboxError
from agent.outbox.sqlite.retention import Retention
from agent.outbox.sqlite.store import Outbox, State
from tests.integration.support import NOON
from tests.integration.test_outbox import entry, settlement

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.integration.support import FakeClock

DAY = 86_400_000
YEARS = 5 * 365 * DAY
STORED = Answer(200, '{"success":true}', "application/json")
UNAVAILABLE = Answer(503)


class Scripted:
    """Answers as the test says; ``post`` may be replaced at any time."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.answer: Callable[[bytes], Awaitable[Answer]] = self.stored

    async def stored(self, body: bytes) -> Answer:
        return STORED

    async def unavailable(self, body: bytes) -> Answer:
        return UNAVAILABLE

    async def post(self, body: bytes, *, lane: int = 0) -> Answer:
        self.sent.append(body)
        return await self.answer(body)

    def reload_token(self) -> bool:
        return False


@pytest.fixture
def hivel() -> Scripted:
    return Scripted()


@pytest.fixture
def drain(outbox: Outbox, hivel: Scripted) -> Drain:
    return Drain(outbox, hivel, replace(DeliverySettings(), concurrency=2))


def cannot_be_read(outbox: Outbox, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    def claim(limit: int, *, besides: Any = ()) -> Any:
        raise sqlite3.OperationalError(message)

    monkeypatch.setattr(outbox, "claim", claim)


def test_what_was_in_flight_when_the_outbox_could_not_be_read_is_sent_again(
    outbox: Outbox, hivel: Scripted, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = asyncio.Event()

    async def silent_once(body: bytes) -> Answer:
        hivel.answer = hivel.stored
        cannot_be_read(outbox, monkeypatch, "disk I/O error")
        await never.wait()
        return UNAVAILABLE

    outbox.enqueue([entry(1), entry(2)])
    hivel.answer = silent_once
    with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
        asyncio.run(drain.run())
    assert len(hivel.sent) == 2
    monkeypatch.undo()
    asyncio.run(drain.run())
    assert outbox.counts().delivered == 2


def test_an_outbox_that_cannot_be_read_is_told_as_what_it_is(
    outbox: Outbox, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not as a group of exceptions, in which nobody would find the damage."""
    outbox.enqueue([entry(1)])
    cannot_be_read(outbox, monkeypatch, "database disk image is malformed")
    with pytest.raises(sqlite3.OperationalError, match="malformed"):
        asyncio.run(drain.run())


def test_a_clock_that_was_set_back_while_the_disk_was_full_makes_nobody_wait(
    outbox: Outbox, hivel: Scripted, drain: Drain, clock: FakeClock
) -> None:
    outbox.enqueue([entry(1)])
    hivel.answer = hivel.unavailable
    asyncio.run(drain.run())
    outbox.connection.execute("PRAGMA query_only = ON")
    clock.jump(ms=-YEARS)
    asyncio.run(drain.run())
    outbox.connection.execute("PRAGMA query_only = OFF")
    clock.advance(s=900)
    hivel.answer = hivel.stored
    asyncio.run(drain.run())
    assert outbox.counts().delivered == 1


def test_an_outcome_that_could_not_be_stored_before_the_clock_was_set_back_makes_nobody_wait(
    outbox: Outbox, hivel: Scripted, drain: Drain, clock: FakeClock
) -> None:
    outbox.enqueue([entry(1)])
    hivel.answer = hivel.unavailable
    outbox.connection.execute("PRAGMA query_only = ON")
    asyncio.run(drain.run())
    clock.jump(ms=-YEARS)
    asyncio.run(drain.run())
    outbox.connection.execute("PRAGMA query_only = OFF")
    asyncio.run(drain.run())
    clock.advance(s=900)
    hivel.answer = hivel.stored
    asyncio.run(drain.run())
    assert outbox.counts().delivered == 1


def deliver(outbox: Outbox, *numbers: int) -> None:
    outbox.enqueue(entry(number) for number in numbers)
    outbox.settle(
        [
            replace(settlement(row.id, State.DELIVERED), at=outbox.clock.now_ms())
            for row in outbox.rows(State.PENDING, 999)
        ]
    )


def clean_up(retention: Retention) -> None:
    while retention.step():
        pass


def test_what_was_delivered_under_a_clock_years_ahead_keeps_nothing_from_being_deleted(
    outbox: Outbox, clock: FakeClock
) -> None:
    clock.jump(ms=YEARS)
    deliver(outbox, 1)
    clock.jump(ms=-YEARS)
    deliver(outbox, 2)
    retention = Retention(outbox, 30 * DAY, 400 * DAY)
    clean_up(retention)
    assert outbox.counts().delivered == 2
    clock.advance(ms=30 * DAY + 1)
    clean_up(retention)
    assert outbox.counts().delivered == 0
    assert outbox.knows("main:deploy/shop#1", NOON) and outbox.knows("main:deploy/shop#2", NOON)


def test_what_was_delivered_under_a_clock_years_behind_is_known_as_long_as_anything_else(
    outbox: Outbox, clock: FakeClock
) -> None:
    clock.jump(ms=-YEARS)
    deliver(outbox, 1)
    clock.jump(ms=YEARS)
    clean_up(Retention(outbox, 30 * DAY, 400 * DAY))
    assert outbox.counts().delivered == 0
    assert outbox.knows("main:deploy/shop#1", NOON)
    clock.advance(ms=399 * DAY)
    clean_up(Retention(outbox, 30 * DAY, 400 * DAY))
    assert outbox.knows("main:deploy/shop#1", NOON)
    clock.advance(ms=3 * DAY)
    clean_up(Retention(outbox, 30 * DAY, 400 * DAY))
    assert not outbox.knows("main:deploy/shop#1", NOON)


def test_giving_space_back_waits_for_another_writer_as_every_other_write_does(
    outbox: Outbox, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.outbox.sqlite.connection.BUSY_DEADLINE_S", 0.05)
    monkeypatch.setattr("agent.outbox.sqlite.retention.PAGES", 10_000)
    deliver(outbox, *range(500))
    clock.advance(ms=31 * DAY)
    retention = Retention(outbox, 30 * DAY, 400 * DAY)
    clean_up(retention)
    monkeypatch.setattr("agent.outbox.sqlite.retention.PAGES", 16)
    with Outbox(outbox.path, clock) as other, other.transaction(), pytest.raises(OutboxError, match="locked"):
        retention.step()
    clean_up(retention)
