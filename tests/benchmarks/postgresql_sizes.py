"""What ten million deployments cost in PostgreSQL: disk, claims, enqueues, pages, and retention beside working agents.

``python -m tests.benchmarks.postgresql_sizes`` runs it; see README.md beside this file.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from statistics import median, quantiles
from typing import TYPE_CHECKING

import psycopg

from agent.model.deployment import State
from agent.model.times import Clock
from agent.outbox.postgresql.engine import PostgresqlOutbox
from agent.outbox.values import Change, Keep, Page, Settlement
from tests.benchmarks.enqueue import JOBS, Source
from tests.benchmarks.lists import filters
from tests.benchmarks.output import machine, say, table, target
from tests.postgresql.cluster import Cluster, running_cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.outbox.values import Claimed

ROWS = 10_000_000
CHUNK = 500_000
DAY = 86_400_000
# Deployments of 435 days, of which the oldest 35 days are to be deleted.
DAYS = 435
KEEP = Keep(bodies_ms=30 * DAY, deployments_ms=400 * DAY, ids_ms=3_650 * DAY)
SMALL = 10_000
PENDING = 100  # one of so many, the newest
FAILED_EVERY = 3_333
ROUNDS = 3
WARMING_UP = 30  # turns
TURNS = 100
WORKING_S = 60
BREATH_S = 0.01  # as the daemon
CLAIM = 100

Times = dict[str, list[float]]
_DEPLOYMENTS = """
INSERT INTO deployments (project_id, run, attempt, known, scope, anchor, deployment_id, state, revision, sent_revision,
    status, environment, repo_url, branch, commit_hash, first_commit_at, started_at, ended_at, pr_number, logs_url,
    created_at, next_attempt_at, attempts, settled_at, reason)
SELECT 1 + n %% %(jobs)s, n::text, 1, 1, 'whole', n,
    'main:deploy/shop-' || lpad((n %% %(jobs)s)::text, 3, '0') || '#' || n,
    CASE WHEN waits THEN 'pending' WHEN fails THEN 'failed' ELSE 'delivered' END, 1, CASE WHEN NOT waits AND NOT fails
    THEN 1 END, CASE WHEN n %% 11 = 0 THEN 'failed' ELSE 'success' END,
    (ARRAY['production', 'staging', 'test', 'eu-production', 'us-production'])[1 + n %% 5],
    'https://git.example.com/platform/service-' || n %% 200, 'main', md5(n::text) || '00000000', at - 600000, at,
    at + 65000, n::text, 'https://jenkins.example.test/job/deploy/shop-' || n %% %(jobs)s || '/' || n || '/',
    at + 66000, at + 66000, 1, CASE WHEN NOT waits THEN at + 67000 END,
    CASE WHEN fails THEN 'HTTP 400: field ' || n %% 7 || ' is not valid: ' || n END
FROM (SELECT n, n > %(rows)s - %(pending)s AS waits, n %% %(failed)s = 0 AS fails,
    %(now)s::bigint - ((%(rows)s - n) * %(span)s::float8 / %(rows)s)::bigint AS at
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n) AS numbers
"""
# Facts are kept for 30 days.
_FACTS = """
INSERT INTO facts (project_id, run, attempt, source, kind, received_at, word, started_at, principal, body)
SELECT project_id, run, 1, 'poller', 'final', ended_at, id, started_at, '', repeat('x', 500)
FROM deployments WHERE created_at > %(since)s
"""
_FORGOTTEN = """
INSERT INTO forgotten SELECT substr(decode(md5(n::text), 'hex'), 1, 12), %(now)s, %(now)s / 86400000 - 100
FROM generate_series(1, %(rows)s) AS n
"""


def fill(cluster: Cluster, rows: int) -> str:
    """A database with so many deployments; returns its name. Indexes are made at the end, which is faster."""
    database = cluster.new_outbox()
    now = int(time.time() * 1000)
    values = {
        "rows": rows,
        "jobs": JOBS,
        "now": now,
        "span": DAYS * DAY,
        "pending": rows // PENDING,
        "failed": FAILED_EVERY,
    }
    with psycopg.connect(cluster.url(database), autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute("SET maintenance_work_mem = '512MB'")
        connection.execute("SET session_replication_role = replica")  # no triggers
        connection.execute(
            "INSERT INTO projects (provider, scope, name)"
            " SELECT 'jenkins', 'main', 'deploy/shop-' || lpad(n::text, 3, '0')"
            f" FROM generate_series(0, {JOBS - 1}) AS n"
        )
        indexes = connection.execute(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid ="
            " 'deployments'::regclass AND NOT indisunique"
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        connection.execute("ALTER TABLE deployments DROP CONSTRAINT deployments_deployment_id_key")
        for first in range(1, rows + 1, CHUNK):
            connection.execute(_DEPLOYMENTS, values | {"first": first, "last": min(first + CHUNK - 1, rows)})
        connection.execute("ALTER TABLE deployments ADD UNIQUE (deployment_id)")
        for _, definition in indexes:
            connection.execute(definition)
        connection.execute(_FACTS, {"since": now - KEEP.bodies_ms})
        connection.execute(_FORGOTTEN, values)
        connection.execute("INSERT INTO counts SELECT state, count(*) FROM deployments GROUP BY state")
        connection.execute("VACUUM ANALYZE")
    return database


class Worker:
    """An agent with a database: enqueues one, claims many and settles them, and notes the seconds of each."""

    def __init__(self, cluster: Cluster, database: str, first: int) -> None:
        self._outbox = PostgresqlOutbox(cluster.server(database), Clock())
        self._source = Source(first)
        self._outbox.store([self._change() for _ in range(JOBS)])

    def close(self) -> None:
        self._outbox.close()

    def turn(self, times: Times) -> None:
        """Each of them once."""
        change = self._change()
        began = time.perf_counter()
        with self._outbox.transaction():
            self._outbox.load([change.facts[0].run])
            self._outbox.store([change])
        stored = time.perf_counter()
        claimed = self._outbox.claim(CLAIM)
        found = time.perf_counter()
        self._outbox.settle([_delivered(each) for each in claimed])
        settled = time.perf_counter()
        for name, seconds in (("enqueue", stored - began), ("claim", found - stored), ("settle", settled - found)):
            times.setdefault(name, []).append(seconds)

    def work(self, until: threading.Event) -> Times:
        """Turns until the event."""
        times: Times = {}
        while not until.is_set():
            self.turn(times)
        return times

    def _change(self) -> Change:
        [item] = self._source.take(1)
        return Change(facts=(item.fact,), inserted=(item.deployment,))


def sizes(cluster: Cluster, database: str) -> list[tuple[str, int]]:
    """The bytes of tables and indexes, the largest first; small ones are left out."""
    found = cluster.execute(
        "SELECT relname::text, CASE relkind WHEN 'r' THEN pg_table_size(oid) ELSE pg_relation_size(oid) END AS n"
        " FROM pg_class WHERE relkind IN ('r', 'i') AND relnamespace = 'public'::regnamespace ORDER BY n DESC",
        database,
    )
    return [(str(name), int(str(size))) for name, size in found if int(str(size)) > 1_000_000]


def pages(outbox: PostgresqlOutbox) -> dict[str, float]:
    """Seconds for each list with its count, and for the parts of pages."""
    now = outbox.clock.now_ms()
    asked: dict[str, Callable[[], object]] = {
        name: partial(outbox.search, which, Page(), count_to=10_000) for name, which in filters(now).items()
    }
    asked |= {
        "failed groups": lambda: outbox.failed_groups(50),
        "names for menus": outbox.names,
        "24 hours": lambda: outbox.per_hour(now - DAY),
        "last 7 days": lambda: outbox.recent(now - 7 * DAY),
        "counts by state": outbox.counts,
        "silent jobs": lambda: outbox.quiet_since(now - 7 * DAY, least=5),
    }
    return {name: median([_seconds(function) for _ in range(ROUNDS)]) for name, function in asked.items()}


def retention(cluster: Cluster, database: str, seconds: float) -> tuple[Times, int]:
    """Seconds of each step, and how many deployments were deleted: as the daemon does it, without its breaks."""
    times: list[float] = []
    count = "SELECT count(*) FROM deployments WHERE id < 1000000"
    before = cluster.execute(count, database)
    with PostgresqlOutbox(cluster.server(database), Clock()) as outbox:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            times.append(_seconds(lambda: outbox.prune(KEEP)))
            time.sleep(BREATH_S)
    return {"step of retention": times}, int(str(before[0][0])) - int(str(cluster.execute(count, database)[0][0]))


def _seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def _delivered(claimed: Claimed) -> Settlement:
    return Settlement(
        claimed=claimed, state=State.DELIVERED, counts_as_attempt=True, at=int(time.time() * 1000), duration_ms=50,
        http_status=202, verdict="accepted", answer="",
    )  # fmt: skip


def show_times(heading: str, times: Times) -> None:
    """Percentiles."""
    say(f"\n{heading}:")
    lines = []
    for name, found in times.items():
        cuts = quantiles(found, n=100)
        lines.append([name, str(len(found)), *(f"{each * 1e3:.1f}" for each in (cuts[49], cuts[98], max(found)))])
    table(("", "times", "p50 ms", "p99 ms", "max ms"), lines)


def show_sizes(heading: str, found: Sequence[tuple[str, int]], rows: int) -> None:
    """Sizes, and what they are for a deployment."""
    say(f"\n{heading}:")
    total = sum(size for _, size in found)
    lines = [[name, f"{size / 1e6:,.0f}", f"{size / rows:.0f}"] for name, size in (*found, ("all", total))]
    table(("table or index", "MB", "bytes a deployment"), lines)


def measure(cluster: Cluster, large: str, small: str, rows: int) -> None:
    """Everything, with both databases."""
    show_sizes(f"{rows:,} deployments", sizes(cluster, large), rows)
    with ExitStack() as stack:
        workers = [Worker(cluster, name, rows + 1) for name in (small, large)]
        for worker in workers:
            stack.callback(worker.close)
        alone: list[Times] = [{}, {}]
        for turn in range(-WARMING_UP, TURNS):
            for worker, times in zip(workers, alone, strict=True):
                worker.turn(times if turn >= 0 else {})
        show_times(f"An agent in {SMALL:,} deployments", alone[0])
        show_times(f"An agent in {rows:,} deployments", alone[1])
        with PostgresqlOutbox(cluster.server(large), Clock()) as outbox:
            found = pages(outbox)
        say("\nLists of pages, and their parts:")
        table(("", "ms"), [[name, f"{seconds * 1e3:.1f}"] for name, seconds in found.items()])
        over = threading.Event()
        with ThreadPoolExecutor(1) as thread:
            working = thread.submit(workers[1].work, over)
            steps, deleted = retention(cluster, large, WORKING_S)
            over.set()
            beside = working.result()
        show_times(f"Retention for {WORKING_S} s: {deleted:,} deployments deleted", steps)
        show_times("The agent beside it", beside)
        show_sizes("Afterwards", sizes(cluster, large), rows)
        vacuumed = cluster.execute(
            "SELECT relname::text, n_live_tup, n_dead_tup, autovacuum_count, autoanalyze_count FROM pg_stat_user_tables"
            " WHERE n_tup_ins + n_tup_upd + n_tup_del > 1000 ORDER BY n_live_tup DESC",
            large,
        )
        table(("table", "rows", "dead rows", "vacuums", "analyzes"), [[str(each) for each in row] for row in vacuumed])
    target("ms for the slowest page or part", max(found.values()) * 1e3, below=500)
    for name, slow in alone[1].items():
        target(f"{name} at {rows:,}, of {SMALL:,}", median(slow) / median(alone[0][name]), below=1.5)
    target("ms for the slowest step of retention", max(steps["step of retention"]) * 1e3, below=2_000)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What many deployments cost in PostgreSQL.")
    parser.add_argument("--rows", type=int, default=ROWS)
    rows = parser.parse_args().rows
    machine("psycopg", "msgspec")
    with running_cluster(shared_buffers="256MB", max_wal_size="4GB", autovacuum_naptime="15s") as cluster:
        began = time.perf_counter()
        small, large = fill(cluster, SMALL), fill(cluster, rows)
        say(f"filled in {time.perf_counter() - began:.0f} s")
        measure(cluster, large, small, rows)
    say(f"\nload now {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
