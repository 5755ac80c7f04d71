"""What a durable enqueue costs: the outbox beside raw sqlite3 and other queues on SQLite, in one run.

``make bench BENCH=enqueue`` runs it; see README.md beside this file.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Protocol

from agent.model import event as events
from agent.model.status import Status
from agent.model.times import Clock
from agent.outbox.sqlite.store import Entry, Outbox
from tests.benchmarks.output import machine, say, table, target

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS = 100
SINGLES = 15  # one at a time, in each round
BATCH = 1_000
BATCH_EVERY = 4  # rounds
WARMING_UP = 8  # rounds
NOW = 1_795_435_200_000


def make_entry(number: int) -> Entry:
    """An event as a poll derives it, with everything that most events have."""
    name = f"main:deploy/shop-{number % 500:03}#{number}"
    event = events.completed(
        deployment_id=name,
        status=Status.SUCCESS,
        started_at=NOW + number,
        ended_at=NOW + number + 65_000,
        repo_url="https://github.example.test/acme/shop.git",
        environment="production",
        branch="main",
        commit_hash=f"{number:040x}",
        build_number=str(number),
        pr_number=str(number),
        image=f"registry.example.test/acme/shop:1.4.{number}",
        logs_url=f"https://jenkins.example.test/job/deploy/job/shop-{number % 500:03}/{number}/",
    )
    source = f'{{"controller":"main","job":"deploy/shop-{number % 500:03}","number":{number}}}'
    return Entry(name, NOW + number, source, event)


class Contender(Protocol):
    """Stores entries so that a power loss does not take them."""

    name: str

    def one_at_a_time(self, entries: Sequence[Entry]) -> None:
        """A commit for each."""

    def batch(self, entries: Sequence[Entry]) -> float | None:
        """All in one commit; returns the seconds it took. None: it has no such thing."""

    def durability(self) -> str:
        """What its own connection says."""


def pragmas(connection: sqlite3.Connection) -> str:
    """Journal mode and synchronous."""
    journal = connection.execute("PRAGMA journal_mode").fetchone()[0]
    synchronous = ("OFF", "NORMAL", "FULL", "EXTRA")[connection.execute("PRAGMA synchronous").fetchone()[0]]
    return f"{journal} {synchronous}".upper()


class Product:
    """The outbox, as the poller uses it: from the event to the commit."""

    name = "Outbox.enqueue"

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._outbox = stack.enter_context(Outbox(folder / "outbox.db", Clock()))

    def one_at_a_time(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._outbox.enqueue([entry])

    def batch(self, entries: Sequence[Entry]) -> float | None:
        started = time.perf_counter()
        added = self._outbox.enqueue(entries)
        seconds = time.perf_counter() - started
        assert len(added) == len(entries)
        return seconds

    def durability(self) -> str:
        return pragmas(self._outbox.connection)


class Raw:
    """The same row, encoded beforehand, into a table with the same columns and the unique id, and nothing else."""

    name = "raw sqlite3"

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._connection = sqlite3.connect(folder / "raw.db", isolation_level=None)
        stack.callback(self._connection.close)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(
            "CREATE TABLE events (id INTEGER PRIMARY KEY, deployment_id TEXT NOT NULL UNIQUE, state TEXT NOT NULL,"
            " payload TEXT, source TEXT, started_at INTEGER NOT NULL, created_at INTEGER NOT NULL,"
            " next_attempt_at INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, settled_at INTEGER, reason TEXT)"
        )
        self._insert = (
            "INSERT INTO events (deployment_id, state, payload, source, started_at, created_at, next_attempt_at,"
            " settled_at, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        self._rows: list[tuple[object, ...]] = []

    def prepare(self, entries: Sequence[Entry]) -> None:
        """Not part of what is measured."""
        self._rows = [
            (
                entry.deployment_id,
                "pending",
                _payload(entry).decode(),
                entry.source,
                entry.started_at,
                NOW,
                NOW,
                None,
                None,
            )
            for entry in entries
        ]

    def one_at_a_time(self, entries: Sequence[Entry]) -> None:
        for row in self._rows:
            self._connection.execute(self._insert, row)

    def batch(self, entries: Sequence[Entry]) -> float | None:
        started = time.perf_counter()
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(self._insert, self._rows)
        self._connection.execute("COMMIT")
        return time.perf_counter() - started

    def durability(self) -> str:
        return pragmas(self._connection)


class PersistQueue:
    """``UniqueQ`` of persist-queue, as its documentation shows it; it commits each item."""

    name = "persist-queue UniqueQ"

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        from persistqueue import UniqueQ

        self._queue = UniqueQ(str(folder / "persist-queue"), auto_commit=True)
        stack.callback(self._queue.close)

    def one_at_a_time(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._queue.put(_payload(entry))

    def batch(self, entries: Sequence[Entry]) -> float | None:
        return None

    def durability(self) -> str:
        return pragmas(self._queue._putter)


class Huey:
    """``SqliteHuey`` with ``fsync=True``: its storage takes the bytes of a task; it commits each one."""

    name = "huey SqliteHuey"

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        from huey import SqliteHuey

        self._huey = SqliteHuey("bench", filename=str(folder / "huey.db"), fsync=True)
        stack.callback(self._huey.storage.close)

    def one_at_a_time(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._huey.storage.enqueue(_payload(entry))

    def batch(self, entries: Sequence[Entry]) -> float | None:
        return None

    def durability(self) -> str:
        return pragmas(self._huey.storage.conn)


def _payload(entry: Entry) -> bytes:
    assert entry.event is not None
    return events.encode(entry.event)


class Source:
    """Entries that were not there before."""

    def __init__(self) -> None:
        self._next = 0

    def take(self, count: int) -> list[Entry]:
        first, self._next = self._next, self._next + count
        return [make_entry(number) for number in range(first, self._next)]


def measure(contenders: Sequence[Contender]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """All contenders by turns, each round beginning with another one; seconds for one event in each round."""
    source = Source()
    single: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    batches: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for turn in range(-WARMING_UP, ROUNDS):
        shift = turn % len(contenders)
        for contender in (*contenders[shift:], *contenders[:shift]):
            one = one_by_one(contender, source.take(SINGLES))
            several = batch(contender, source.take(BATCH)) if turn % BATCH_EVERY == 0 else None
            if turn >= 0:
                single[contender.name].append(one)
                batches[contender.name] += [] if several is None else [several]
    return single, batches


def one_by_one(contender: Contender, entries: Sequence[Entry]) -> float:
    """Seconds for one event with a commit of its own."""
    if isinstance(contender, Raw):
        contender.prepare(entries)
    started = time.perf_counter()
    contender.one_at_a_time(entries)
    return (time.perf_counter() - started) / len(entries)


def batch(contender: Contender, entries: Sequence[Entry]) -> float | None:
    """Seconds for one event of many in one commit."""
    if isinstance(contender, Raw):
        contender.prepare(entries)
    seconds = contender.batch(entries)
    return None if seconds is None else seconds / len(entries)


def overwrite(folder: Path) -> float:
    """Seconds for writing 4 kB in place and ``fdatasync``: what the disk itself takes."""
    times = []
    with (folder / "plain").open("wb", buffering=0) as file:
        for _ in range(SINGLES):
            started = time.perf_counter()
            os.pwrite(file.fileno(), b"x" * 4096, 0)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - started)
    return median(times)


def ratio(found: dict[str, list[float]], name: str) -> float:
    """How much of raw sqlite3's rate: the median of the rounds, since a disk is now faster and now slower."""
    return median(raw / own for raw, own in zip(found[Raw.name], found[name], strict=True))


def main() -> None:
    """Measure and print."""
    machine("persist-queue", "huey", "msgspec")
    with ExitStack() as stack:
        # Beside the environment, which is on a disk; a temporary directory may be in memory.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-enqueue-", dir=sys.prefix)))
        contenders: list[Contender] = [kind(folder, stack) for kind in (Raw, Product, PersistQueue, Huey)]
        durable = {contender.name: contender.durability() for contender in contenders}
        disk = overwrite(folder)
        single, batches = measure(contenders)
    size = len(_payload(make_entry(1_000)))
    say(f"\nOne commit for each event of {size} bytes, medians of {ROUNDS} rounds of {SINGLES}:")
    rows = [
        [name, durable[name], f"{median(times) * 1e6:.0f}", f"{1 / median(times):,.0f}", f"{ratio(single, name):.2f}"]
        for name, times in single.items()
    ]
    rows.append(
        [
            "(overwrite and fdatasync)",
            "",
            f"{disk * 1e6:.0f}",
            f"{1 / disk:,.0f}",
            f"{median(single[Raw.name]) / disk:.2f}",
        ]
    )
    table(("", "journal, synchronous", "µs an event", "events/s", "of raw sqlite3"), rows)
    say(f"\nOne commit for {BATCH:,} events, medians of {len(batches[Raw.name])}; the others have no such thing:")
    rows = [
        [name, f"{median(times) * 1e6:.1f}", f"{1 / median(times):,.0f}", f"{ratio(batches, name):.2f}"]
        for name, times in batches.items()
        if times
    ]
    table(("", "µs an event", "events/s", "of raw sqlite3"), rows)
    say(f"\nload now {os.getloadavg()[0]:.1f}")
    target("one at a time, of raw sqlite3", ratio(single, Product.name), at_least=0.8)
    target(f"in batches of {BATCH:,}, of raw sqlite3", ratio(batches, Product.name), at_least=0.5)


if __name__ == "__main__":
    main()
