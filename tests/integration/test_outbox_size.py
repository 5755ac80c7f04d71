"""How large the outbox is: what was delivered is deleted bit by bit and the file shrinks; ids stay, and are small."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.model import event as events
from agent.outbox.sqlite.retention import CHUNK, DAY_MS, Retention
from agent.outbox.sqlite.store import Outbox, State, id_hash
from tests.integration.support import NOON
from tests.integration.test_outbox import entry
from tests.integration.test_outbox_trouble import deliver

if TYPE_CHECKING:
    from tests.integration.support import FakeClock

EVENTS = 3_000
IDS = 100_000


def size(outbox: Outbox) -> int:
    """Bytes of the file once the log beside it is in it."""
    outbox.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return outbox.path.stat().st_size


def test_delivered_events_are_deleted_in_small_steps_and_the_file_shrinks(outbox: Outbox, clock: FakeClock) -> None:
    for first in range(0, EVENTS, 500):
        deliver(outbox, *range(first, first + 500))
    outbox.enqueue(entry(EVENTS + number, reason="no branch") for number in range(20))
    outbox.enqueue([entry(2 * EVENTS)])
    full = size(outbox)
    retention = Retention(outbox, 30 * DAY_MS, 400 * DAY_MS)
    assert not retention.step()
    assert size(outbox) == full
    clock.advance(ms=30 * DAY_MS + 1)
    more, left, steps = True, EVENTS, 0
    while more:
        more = retention.step()
        now = outbox.counts().delivered
        assert 0 <= left - now <= CHUNK
        left, steps = now, steps + 1
    assert (outbox.counts().delivered, outbox.counts().failed, outbox.counts().pending) == (0, 20, 1)
    assert outbox.connection.execute("SELECT count(*) FROM attempts").fetchone() == (0,)
    assert size(outbox) < full / 3
    assert outbox.enqueue(entry(number) for number in range(EVENTS)) == []
    print(f"{EVENTS} events deleted in {steps} steps: {full // 1024} KiB became {size(outbox) // 1024} KiB")  # noqa: T201


def test_failed_events_stay_for_years(outbox: Outbox, clock: FakeClock) -> None:
    outbox.enqueue([entry(1, reason="no branch")])
    for _ in range(10):
        clock.advance(ms=365 * DAY_MS)
        assert not Retention(outbox, 30 * DAY_MS, 400 * DAY_MS).step()
    assert [row.state for row in outbox.rows(None, 10)] == [State.FAILED]


def test_the_id_of_a_deleted_event_costs_a_few_tens_of_bytes(outbox: Outbox) -> None:
    names = [events.build_deployment_id("main", f"deploy/team-{n % 97}/service", n) for n in range(IDS)]
    before = size(outbox)
    with outbox.transaction() as connection:
        connection.executemany(
            "INSERT INTO pruned (id_hash, started_at, day) VALUES (?, ?, ?)",
            [(id_hash(name), NOON + 60_000 * n, NOON // DAY_MS) for n, name in enumerate(names)],
        )
    each = (size(outbox) - before) / IDS
    assert each < 60
    assert outbox.last_known_start(names[-1]) == NOON + 60_000 * (IDS - 1)
    print(f"{each:.1f} bytes for each of {IDS} ids")  # noqa: T201
