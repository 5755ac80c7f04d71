"""What the outbox costs in PostgreSQL: durable enqueues beside raw psycopg, and claims at a million rows.

``python -m tests.benchmarks.postgresql`` runs it; see README.md beside this file.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import psycopg

from agent.model.deployment import State
from agent.model.times import Clock
from agent.outbox import rows
from agent.outbox.postgresql.deployments import _array
from agent.outbox.postgresql.engine import PostgresqlOutbox
from agent.outbox.postgresql.loading import lock_of
from agent.outbox.values import Change, Settlement
from tests.benchmarks.enqueue import JOBS, NOW, Item, Source, make_item, ratio
from tests.benchmarks.output import machine, say, table, target
from tests.postgresql.cluster import Cluster, running_cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROUNDS = 30
WARMING_UP = 3  # rounds
SINGLES = 15  # one at a time on each connection, in each round
THREADS = 8
BATCH = 1_000
BATCHES = 15
SMALL, LARGE = 10_000, 1_000_000
CHUNK = 100_000
CLAIM = 100
CLAIMS = 30

Times = dict[str, list[float]]


class Worker(Protocol):
    """One connection, which stores items."""

    def prepare(self, items: Sequence[Item]) -> None:
        """Not part of what is measured."""

    def one_at_a_time(self) -> None:
        """A commit for each."""

    def batch(self) -> None:
        """All in one commit."""


class Product:
    """The outbox: stores the fact and its deployment."""

    name = "PostgresqlOutbox, store"
    loads = False

    def __init__(self, cluster: Cluster, database: str, stack: ExitStack) -> None:
        self._outbox = stack.enter_context(PostgresqlOutbox(cluster.server(database), Clock()))
        self._outbox._made_project_ids(make_item(number).fact.run.project for number in range(JOBS))
        self._changes: list[Change] = []

    def prepare(self, items: Sequence[Item]) -> None:
        self._changes = [Change(facts=(item.fact,), inserted=(item.deployment,)) for item in items]

    def one_at_a_time(self) -> None:
        for change in self._changes:
            self._store([change])

    def batch(self) -> None:
        self._store(self._changes)

    def _store(self, changes: Sequence[Change]) -> None:
        with self._outbox.transaction():
            if self.loads:
                self._outbox.load([change.facts[0].run for change in changes])
            refused = self._outbox.store(changes)
        assert not refused


class Loading(Product):
    """As ingest uses it: asks what is known of the run before it stores."""

    name = "PostgresqlOutbox, load and store"
    loads = True


class Raw:
    """The same rows into the same tables, made beforehand, with what keeps them correct beside other agents.

    That is the lock of the run, and the check that no deleted deployment had the id. A statement for each.
    """

    name = "raw psycopg, the same rows and checks"
    checks = True

    def __init__(self, cluster: Cluster, database: str, stack: ExitStack) -> None:
        self._connection = stack.enter_context(psycopg.connect(cluster.url(database), autocommit=True))
        self._projects = {}
        for number in range(JOBS):
            project = make_item(number).fact.run.project
            self._projects[project] = number + 1
            self._run(
                "INSERT INTO projects VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
                (number + 1, *msgspec.structs.astuple(project)),
            )
        columns = {"facts": rows.FACT_COLUMNS.split(", "), "deployments": list(rows.INSERTED)}
        self._values = [_insert(table, names, "VALUES (", "%s", ")") for table, names in columns.items()]
        self._unnest = [
            f"INSERT INTO {table} ({', '.join(names)}) SELECT * FROM unnest({', '.join(map(_array, names))})"
            for table, names in columns.items()
        ]
        if self.checks:
            for statements in (self._values, self._unnest):
                statements[1] += " ON CONFLICT (deployment_id) DO NOTHING RETURNING id"
        self._locks: list[int] = []
        self._hashes: list[bytes] = []
        self._rows: list[tuple[tuple[object, ...], tuple[object, ...]]] = []

    def prepare(self, items: Sequence[Item]) -> None:
        self._rows = [
            (rows.fact_row(item.fact, place), rows.deployment_row(item.deployment, place, NOW))
            for item in items
            for place in [self._projects[item.fact.run.project]]
        ]
        self._locks = [lock_of(item.fact.run) for item in items]
        self._hashes = [rows.id_hash(item.deployment.deployment_id or "") for item in items]

    def one_at_a_time(self) -> None:
        for (fact, deployment), key, digest in zip(self._rows, self._locks, self._hashes, strict=True):
            self._run("BEGIN")
            if self.checks:
                self._run("SELECT pg_advisory_xact_lock(%s, %s)", (1, key))
            self._run(self._values[0], fact)
            self._run(self._values[1], deployment)
            if self.checks:
                assert not self._all("SELECT 1 FROM forgotten WHERE id_hash = %s", (digest,))
            self._run("COMMIT")

    def batch(self) -> None:
        self._run("BEGIN")
        if self.checks:
            locks = "SELECT pg_advisory_xact_lock(%s, key) FROM unnest(%s::integer[]) AS key"
            self._run(locks, (1, sorted(set(self._locks))))
        for sql, column in zip(self._unnest, zip(*self._rows, strict=True), strict=True):
            self._run(sql, [list(values) for values in zip(*column, strict=True)])
        if self.checks:
            assert not self._all("SELECT 1 FROM forgotten WHERE id_hash = ANY(%s)", (self._hashes,))
        self._run("COMMIT")

    def _all(self, sql: str, values: Any) -> list[Any]:
        return self._connection.execute(sql, values).fetchall()

    def _run(self, sql: str, values: Any = None) -> None:
        self._connection.execute(sql, values)


class Bare(Raw):
    """The rows alone: two agents that store the same run would disturb each other."""

    name = "raw psycopg, the rows alone"
    checks = False


def _insert(table: str, names: Sequence[str], before: str, mark: str, after: str) -> str:
    return f"INSERT INTO {table} ({', '.join(names)}) {before}{', '.join(mark for _ in names)}{after}"


Kind = type[Product] | type[Raw]
KINDS: tuple[Kind, ...] = (Bare, Raw, Product, Loading)


def enqueue(cluster: Cluster, connections: int, rounds: int, work: Callable[[Worker], None], count: int) -> Times:
    """Seconds for an event in each round. All contenders by turns, each with a database and connections of its own."""
    source = Source()
    source.take(JOBS)
    times: Times = {kind.name: [] for kind in KINDS}
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(connections))
        workers: list[tuple[str, list[Product | Raw]]] = []
        for kind in KINDS:
            database = cluster.new_outbox()
            workers.append((kind.name, [kind(cluster, database, stack) for _ in range(connections)]))
        for turn in range(-WARMING_UP, rounds):
            shift = turn % len(workers)
            for name, several in (*workers[shift:], *workers[:shift]):
                for worker in several:
                    worker.prepare(source.take(count))
                started = time.perf_counter()
                list(pool.map(work, several))
                seconds = time.perf_counter() - started
                if turn >= 0:
                    times[name].append(seconds / (count * connections))
    return times


def fill(cluster: Cluster, size: int) -> str:
    """A database with so many deployments; returns its name. The newer half is pending."""
    database = cluster.new_outbox()
    now = int(time.time() * 1000)
    with psycopg.connect(cluster.url(database), autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute("INSERT INTO projects (provider, scope, name) VALUES ('jenkins', 'main', 'deploy/shop')")
        for first in range(1, size + 1, CHUNK):
            connection.execute(
                "INSERT INTO deployments (project_id, run, attempt, known, scope, anchor, deployment_id, state,"
                " revision, sent_revision, status, environment, repo_url, branch, started_at, ended_at, created_at,"
                " next_attempt_at, attempts, settled_at) SELECT 1, n::text, 1, 1, 'whole', n, 'main:deploy/shop#' || n,"
                " CASE WHEN done THEN 'delivered' ELSE 'pending' END, 1, CASE WHEN done THEN 1 END, 'success',"
                " 'production', 'https://github.example.test/acme/shop.git', 'main', at, at, at, at, done::integer,"
                " CASE WHEN done THEN at END"
                " FROM (SELECT n, n <= %s AS done, %s::bigint AS at"
                " FROM generate_series(%s::bigint, %s::bigint) AS n) AS numbers",
                (size // 2, now, first, min(first + CHUNK - 1, size)),
            )
        connection.execute("VACUUM ANALYZE")
    return database


def claims(cluster: Cluster, databases: Sequence[str]) -> list[float]:
    """Seconds for a claim of ``CLAIM`` deployments and their settlement in each database, by turns."""
    times: list[list[float]] = [[] for _ in databases]
    with ExitStack() as stack:
        outboxes = [stack.enter_context(PostgresqlOutbox(cluster.server(each), Clock())) for each in databases]
        for turn in range(-WARMING_UP, CLAIMS):
            for outbox, found in zip(outboxes, times, strict=True):
                started = time.perf_counter()
                claimed = outbox.claim(CLAIM)
                outbox.settle([_delivered(each) for each in claimed])
                if turn >= 0:
                    found.append(time.perf_counter() - started)
                assert len(claimed) == CLAIM
    return [median(found) for found in times]


def _delivered(claimed: Any) -> Settlement:
    return Settlement(
        claimed=claimed, state=State.DELIVERED, counts_as_attempt=True, at=NOW, duration_ms=50, http_status=202,
        verdict="accepted", answer="",
    )  # fmt: skip


def show(heading: str, times: Times) -> None:
    """A table of one comparison."""
    say(f"\n{heading}:")
    lines = [
        [
            name,
            f"{median(found) * 1e6:.0f}",
            f"{1 / median(found):,.0f}",
            *(f"{ratio(times, name, of.name):.2f}" for of in (Raw, Bare)),
        ]
        for name, found in times.items()
    ]
    table(("", "µs an event", "events/s", "of raw", "of the rows alone"), lines)


def main() -> None:
    """Measure and print."""
    machine("psycopg", "msgspec")
    with running_cluster(fsync=True) as cluster:
        settings = [cluster.execute(f"SHOW {name}")[0][0] for name in ("server_version", "fsync", "synchronous_commit")]
        say("PostgreSQL {}, fsync {}, synchronous_commit {}".format(*settings) + f", libpq: {psycopg.pq.__impl__}")
        one = enqueue(cluster, 1, ROUNDS, lambda worker: worker.one_at_a_time(), SINGLES)
        show(f"One commit for each event, one connection, medians of {ROUNDS} rounds of {SINGLES}", one)
        eight = enqueue(cluster, THREADS, ROUNDS, lambda worker: worker.one_at_a_time(), SINGLES)
        show(f"The same, {THREADS} threads, each with a connection", eight)
        batches = enqueue(cluster, 1, BATCHES, lambda worker: worker.batch(), BATCH)
        show(f"One commit for {BATCH:,} events, medians of {BATCHES}", batches)
        small, large = claims(cluster, [fill(cluster, size) for size in (SMALL, LARGE)])
    say(f"\nClaim of {CLAIM} and their settlement, half of the deployments pending, medians of {CLAIMS}:")
    lines = [[f"{SMALL:,}", f"{small * 1e3:.1f}", "1.00"], [f"{LARGE:,}", f"{large * 1e3:.1f}", f"{large / small:.2f}"]]
    table(("deployments", "ms", "ratio"), lines)
    say(f"\nload now {os.getloadavg()[0]:.1f}")
    target("store one at a time, one connection, of raw", ratio(one, Product.name, Raw.name), at_least=0.75)
    target(f"store one at a time, {THREADS} threads, of raw", ratio(eight, Product.name, Raw.name), at_least=0.85)
    target(f"store in batches of {BATCH:,}, of raw unnest", ratio(batches, Product.name, Raw.name), at_least=0.8)
    target(f"claim and settle at {LARGE:,}, of {SMALL:,}", large / small, below=1.5)


if __name__ == "__main__":
    main()
