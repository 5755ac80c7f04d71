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
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Protocol

import msgspec

from agent.model import event as events
from agent.model.build import Build, Checkout
from agent.model.deployment import Content, Deployment, Name, Scope, State, event_of
from agent.model.fact import Fact, final
from agent.model.ids import run_id
from agent.model.keys import Project, jenkins_run
from agent.model.status import Status
from agent.model.times import Clock
from agent.outbox import rows
from agent.outbox.sqlite import inserting
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Change
from tests.benchmarks.output import machine, say, table, target

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS = 100
SINGLES = 15  # one at a time, in each round
BATCH = 1_000
BATCH_EVERY = 4  # rounds
WARMING_UP = 8  # rounds
JOBS = 500
NOW = 1_795_435_200_000


@dataclass(frozen=True)
class Item:
    """A finished build as a poll reads it, and the deployment that it makes, with what most of them have."""

    fact: Fact
    deployment: Deployment

    @property
    def event(self) -> bytes:
        """What Hivel gets of it."""
        assert self.deployment.deployment_id is not None
        return events.encode(event_of(self.deployment.deployment_id, self.deployment.content))


def make_item(number: int) -> Item:
    """The same in every run."""
    job = f"deploy/shop-{number % JOBS:03}"
    run = jenkins_run("main", job, number)
    started_at, ended_at = NOW + number, NOW + number + 65_000
    repository, url = "https://github.example.test/acme/shop.git", f"https://jenkins.example.test/job/{job}/{number}/"
    build = Build(
        controller="main",
        job=job,
        number=number,
        url=url,
        result="SUCCESS",
        started_at=started_at,
        ended_at=ended_at,
        parameters={"ENVIRONMENT": "production"},
        checkouts=(Checkout((repository,), ("main",), f"{number:040x}"),),
    )
    fact = final(run, build, at=ended_at)
    deployment = Deployment(
        run=run,
        build_started_at=started_at,
        build_ended_at=ended_at,
        known=True,
        names=(Name(Scope.WHOLE),),
        anchor=fact.word,
        deployment_id=run_id(run),
        state=State.PENDING,
        content=Content(
            status=Status.SUCCESS,
            started_at=started_at,
            ended_at=ended_at,
            environment="production",
            repo_url=repository,
            branch="main",
            commit_hash=f"{number:040x}",
            first_commit_at=started_at - 600_000,
            build_number=str(number),
            pr_number=str(number),
            image=f"registry.example.test/acme/shop:1.4.{number}",
            logs_url=url,
        ),
        next_attempt_at=NOW,
    )
    return Item(fact, deployment)


class Contender(Protocol):
    """Stores deployments so that a power loss does not take them."""

    name: str

    def prepare(self, items: Sequence[Item]) -> None:
        """Not part of what is measured."""

    def one_at_a_time(self, items: Sequence[Item]) -> None:
        """A commit for each."""

    def batch(self, items: Sequence[Item]) -> float | None:
        """All in one commit; returns the seconds it took. None: it has no such thing."""

    def durability(self) -> str:
        """What its own connection says."""


def pragmas(connection: sqlite3.Connection) -> str:
    """Journal mode and synchronous."""
    journal = connection.execute("PRAGMA journal_mode").fetchone()[0]
    synchronous = ("OFF", "NORMAL", "FULL", "EXTRA")[connection.execute("PRAGMA synchronous").fetchone()[0]]
    return f"{journal} {synchronous}".upper()


class Product:
    """The outbox, as ingest uses it: asks what is known of the run, then stores the fact and its deployment."""

    name = "SqliteOutbox, load and store"

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._outbox = stack.enter_context(SqliteOutbox(folder / "outbox.db", Clock()))
        self._changes: list[Change] = []

    def prepare(self, items: Sequence[Item]) -> None:
        self._changes = [Change(facts=(item.fact,), inserted=(item.deployment,)) for item in items]

    def one_at_a_time(self, items: Sequence[Item]) -> None:
        for change in self._changes:
            self._store([change])

    def batch(self, items: Sequence[Item]) -> float | None:
        started = time.perf_counter()
        self._store(self._changes)
        return time.perf_counter() - started

    def _store(self, changes: Sequence[Change]) -> None:
        with self._outbox.transaction():
            known = self._outbox.load([change.facts[0].run for change in changes])
            refused = self._outbox.store(changes)
        assert not refused and len(known) == len(changes)

    def durability(self) -> str:
        return pragmas(self._outbox._connection)


class Raw:
    """One row with the payload, encoded beforehand, into a table with a unique id, and nothing else."""

    name = "raw sqlite3, one row"

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._connection = raw_connection(folder / "raw.db", stack)
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

    def prepare(self, items: Sequence[Item]) -> None:
        self._rows = [
            (
                item.deployment.deployment_id, "pending", item.event.decode(), None, item.fact.started_at, NOW, NOW,
                None, None,
            )
            for item in items
        ]  # fmt: skip

    def one_at_a_time(self, items: Sequence[Item]) -> None:
        for row in self._rows:
            self._connection.execute(self._insert, row)

    def batch(self, items: Sequence[Item]) -> float | None:
        started = time.perf_counter()
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(self._insert, self._rows)
        self._connection.execute("COMMIT")
        return time.perf_counter() - started

    def durability(self) -> str:
        return pragmas(self._connection)


class RawRows:
    """The same rows and bytes as the outbox into the same tables, made beforehand and without any check."""

    name = "raw sqlite3, the same rows"

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        path = folder / "raw-rows.db"
        SqliteOutbox(path, Clock()).close()
        self._connection = raw_connection(path, stack)
        self._projects: dict[Project, int] = {}
        columns = rows.COLUMNS.partition(", ")[2]
        marks = ", ".join("?" for _ in columns.split(","))
        self._insert = f"INSERT INTO deployments ({columns}) VALUES ({marks})"
        self._facts: list[tuple[object, ...]] = []
        self._deployments: list[tuple[object, ...]] = []

    def prepare(self, items: Sequence[Item]) -> None:
        places = [self._project(item.fact.run.project) for item in items]
        self._facts = [rows.fact_row(item.fact, place) for item, place in zip(items, places, strict=True)]
        self._deployments = [
            rows.deployment_row(item.deployment, place, NOW) for item, place in zip(items, places, strict=True)
        ]

    def _project(self, project: Project) -> int:
        if project not in self._projects:
            self._projects[project] = len(self._projects) + 1
            self._connection.execute("INSERT INTO projects VALUES (?, ?, ?, ?)",
                                     (self._projects[project], *msgspec.structs.astuple(project)))  # fmt: skip
        return self._projects[project]

    def one_at_a_time(self, items: Sequence[Item]) -> None:
        for fact, deployment in zip(self._facts, self._deployments, strict=True):
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(inserting.INSERT_FACT, fact)
            self._connection.execute(self._insert, deployment)
            self._connection.execute("COMMIT")

    def batch(self, items: Sequence[Item]) -> float | None:
        started = time.perf_counter()
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(inserting.INSERT_FACT, self._facts)
        self._connection.executemany(self._insert, self._deployments)
        self._connection.execute("COMMIT")
        return time.perf_counter() - started

    def durability(self) -> str:
        return pragmas(self._connection)


def raw_connection(path: Path, stack: ExitStack) -> sqlite3.Connection:
    """A connection whose commits are durable."""
    connection = sqlite3.connect(path, isolation_level=None)
    stack.callback(connection.close)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


class PersistQueue:
    """``UniqueQ`` of persist-queue, as its documentation shows it; it commits each item."""

    name = "persist-queue UniqueQ"

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        from persistqueue import UniqueQ

        self._queue = UniqueQ(str(folder / "persist-queue"), auto_commit=True)
        stack.callback(self._queue.close)
        self._payloads: list[bytes] = []

    def prepare(self, items: Sequence[Item]) -> None:
        self._payloads = [item.event for item in items]

    def one_at_a_time(self, items: Sequence[Item]) -> None:
        for payload in self._payloads:
            self._queue.put(payload)

    def batch(self, items: Sequence[Item]) -> float | None:
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
        self._payloads: list[bytes] = []

    def prepare(self, items: Sequence[Item]) -> None:
        self._payloads = [item.event for item in items]

    def one_at_a_time(self, items: Sequence[Item]) -> None:
        for payload in self._payloads:
            self._huey.storage.enqueue(payload)

    def batch(self, items: Sequence[Item]) -> float | None:
        return None

    def durability(self) -> str:
        return pragmas(self._huey.storage.conn)


class Source:
    """Items that were not there before."""

    def __init__(self, first: int = 0) -> None:
        self._next = first

    def take(self, count: int) -> list[Item]:
        first, self._next = self._next, self._next + count
        return [make_item(number) for number in range(first, self._next)]


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


def one_by_one(contender: Contender, items: Sequence[Item]) -> float:
    """Seconds for one event with a commit of its own."""
    contender.prepare(items)
    started = time.perf_counter()
    contender.one_at_a_time(items)
    return (time.perf_counter() - started) / len(items)


def batch(contender: Contender, items: Sequence[Item]) -> float | None:
    """Seconds for one event of many in one commit."""
    contender.prepare(items)
    seconds = contender.batch(items)
    return None if seconds is None else seconds / len(items)


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


def ratio(found: dict[str, list[float]], name: str, of: str) -> float:
    """How much of the other's rate: the median of the rounds, since a disk is now faster and now slower."""
    return median(raw / own for raw, own in zip(found[of], found[name], strict=True))


def ratios(found: dict[str, list[float]], name: str) -> list[str]:
    """Of both raw lines."""
    return [f"{ratio(found, name, of):.2f}" for of in (Raw.name, RawRows.name)]


def main() -> None:
    """Measure and print."""
    machine("persist-queue", "huey", "msgspec")
    with ExitStack() as stack:
        # Beside the environment, which is on a disk; a temporary directory may be in memory.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-enqueue-", dir=sys.prefix)))
        contenders: list[Contender] = [kind(folder, stack) for kind in (Raw, RawRows, Product, PersistQueue, Huey)]
        durable = {contender.name: contender.durability() for contender in contenders}
        disk = overwrite(folder)
        single, batches = measure(contenders)
    size = len(make_item(1_000).event)
    say(f"\nOne commit for each event of {size} bytes, medians of {ROUNDS} rounds of {SINGLES}:")
    lines = [
        [name, durable[name], f"{median(times) * 1e6:.0f}", f"{1 / median(times):,.0f}", *ratios(single, name)]
        for name, times in single.items()
    ]
    lines.append(["(overwrite and fdatasync)", "", f"{disk * 1e6:.0f}", f"{1 / disk:,.0f}", "", ""])
    table(("", "journal, synchronous", "µs an event", "events/s", "of one row", "of the same rows"), lines)
    say(f"\nOne commit for {BATCH:,} events, medians of {len(batches[Raw.name])}; the others have no such thing:")
    lines = [
        [name, f"{median(times) * 1e6:.1f}", f"{1 / median(times):,.0f}", *ratios(batches, name)]
        for name, times in batches.items()
        if times
    ]
    table(("", "µs an event", "events/s", "of one row", "of the same rows"), lines)
    say(f"\nload now {os.getloadavg()[0]:.1f}")
    target("one at a time, of the same rows raw", ratio(single, Product.name, RawRows.name), at_least=0.8)
    target(f"in batches of {BATCH:,}, of the same rows raw", ratio(batches, Product.name, RawRows.name), at_least=0.8)


if __name__ == "__main__":
    main()
