"""How long lists, counts and groups of deployments take in a full outbox, and how many statements.

``make bench BENCH=lists`` runs it; see README.md beside this file.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from agent.model.deployment import State
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Filter, Page
from tests.benchmarks.dora import DAY, ROWS, YEAR, fill
from tests.benchmarks.output import machine, table, target

if TYPE_CHECKING:
    from collections.abc import Callable

JOBS = 500
ROUNDS = 5
# 500 jobs of three controllers; a few wait, 300 failed in seven ways, 3,000 were discarded long ago.
_JOBS = """
INSERT INTO projects (provider, scope, name)
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :jobs)
SELECT 'jenkins', CASE WHEN i % 10 = 0 THEN 'west' WHEN i % 97 = 0 THEN 'lab' ELSE 'main' END,
    printf('team-%02d/deploy-%03d', i % 20, i) FROM n
"""
_STATES = (
    "UPDATE deployments SET project_id = 2 + id % :jobs",
    "UPDATE deployments SET state = 'failed', reason = 'HTTP 400: field ' || (id % 7) || ' is not valid: ' || id"
    " WHERE id % 3333 = 0",
    "UPDATE deployments SET state = 'discarded', reason = 'a test' WHERE id < 300000 AND id % 101 = 0",
    "UPDATE deployments SET state = 'pending', settled_at = NULL WHERE id > (SELECT max(id) - 20 FROM deployments)",
    "UPDATE deployments SET environment = 'qa' WHERE id % 9999 = 7 AND id < 500000",
)


def prepare(path: Path, rows: int) -> None:
    """A full outbox with many jobs and all states."""
    fill(path, rows)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(_JOBS, {"jobs": JOBS})
        for statement in _STATES:
            connection.execute(statement, {"jobs": JOBS} if ":jobs" in statement else {})


def filters(now: int) -> dict[str, Filter]:
    """What people look for, and some combinations that no index has."""
    week = (now - 20 * 7 * DAY, now - 19 * 7 * DAY)
    repo = "https://git.example.com/platform/service-17"
    live = tuple(state for state in State if state is not State.DISCARDED)
    return {
        "no filter": Filter(),
        "state failed": Filter(states=(State.FAILED,)),
        "state discarded": Filter(states=(State.DISCARDED,)),
        "state pending, held": Filter(states=(State.PENDING, State.HELD)),
        "failed, by cause": Filter(states=(State.FAILED,), cause="HTTP 400: field … is not valid: …"),
        "environment": Filter(environment="production"),
        "rare environment": Filter(environment="qa"),
        "no such environment": Filter(environment="none"),
        "repository": Filter(repo_url=repo),
        "a figure of dora": Filter(live, *week, environment="production", status="failed", repo_url=repo),
        "one week": Filter(since=week[0], until=week[1]),
        "one week, one environment": Filter(since=week[0], until=week[1], environment="production"),
        "one week, failed": Filter(since=week[0], until=week[1], status="failed"),
        "last 7 days": Filter(since=now - 7 * DAY),
        "a quarter long ago": Filter(since=now - YEAR, until=now - YEAR + 90 * DAY),
        "status failed": Filter(status="failed"),
        "status unknown (none)": Filter(status="unknown"),
        "controller": Filter(scope="west"),
        "rare controller": Filter(scope="lab"),
        "controller, status unknown": Filter(scope="main", status="unknown"),
        "job": Filter(job="team-07/deploy-007"),
        "jobs of a folder": Filter(job_prefix="team-07/"),
        "text: an id": Filter(text="main:deploy/shop#12345"),
        "text: all ids": Filter(text="main:deploy"),
        "text: a job": Filter(text="team-07/deploy-0"),
        "environment, repository, status": Filter(environment="staging", repo_url=repo, status="canceled"),
        "everything at once": Filter(live, now - YEAR, now, "staging", "failed", repo, scope="main", text="team-0"),
    }


class Measured:
    """Calls an outbox, and counts milliseconds of CPU time and statements."""

    def __init__(self, outbox: SqliteOutbox) -> None:
        self._outbox = outbox
        self.slowest = 0.0
        self.most = 0

    def __call__(self, function: Callable[[], object]) -> tuple[float, int]:
        statements: list[str] = []
        self._outbox._connection.set_trace_callback(statements.append)
        times = []
        for _ in range(ROUNDS):
            began = time.thread_time()
            function()
            times.append(1_000 * (time.thread_time() - began))
        self._outbox._connection.set_trace_callback(None)
        taken, number = median(times), len(statements) // ROUNDS
        self.slowest, self.most = max(self.slowest, taken), max(self.most, number)
        return taken, number


def main() -> None:
    """A million deployments of 500 jobs within a year."""
    machine()
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "outbox.db"
        prepare(path, rows)
        with SqliteOutbox(path, Clock()) as outbox:
            measure(outbox)


def measure(outbox: SqliteOutbox) -> None:
    """All filters, then the parts of the other pages."""
    now, measured = outbox.clock.now_ms(), Measured(outbox)
    lines = []
    for name, which in filters(now).items():
        found = outbox.search(which, Page(), count_to=10_000)
        counted = found.count
        on = Page(before=found.older) if found.older else Page()
        asked: list[Callable[[Filter, Page], object]] = [
            lambda which, _: outbox.search(which, Page()),
            outbox.search,
            partial(outbox.search, count_to=10_000),
        ]
        first, second, both = [measured(partial(of, which, on)) for of in asked]
        more = f"{counted.n:,}{'+' if counted.more else ''}"
        shown = f"{len(found.deployments)}{'' if found.complete else '…'}"
        lines.append([name, more, shown, *(f"{ms:.1f}" for ms, _ in (first, second, both)), str(both[1])])
    table(("deployments", "count", "shown", "page ms", "next page ms", "next page and count ms", "statements"), lines)
    newest = outbox.query(Filter(), Page(1))[0]
    others: dict[str, Callable[[], object]] = {
        "one deployment": lambda: (outbox.find(str(newest.deployment_id)), outbox.attempts(newest)),
        "facts and deployments of its build": lambda: outbox.load([newest.run]),
        "failed groups": lambda: outbox.failed_groups(50),
        "names for menus": outbox.names,
        "24 hours": lambda: outbox.per_hour(now - DAY),
        "last 7 days": lambda: outbox.recent(now - 7 * DAY),
        "counts by state": outbox.counts,
    }
    results = {name: measured(function) for name, function in others.items()}
    table(("parts", "ms", "statements"), [[name, f"{ms:.1f}", str(number)] for name, (ms, number) in results.items()])
    target("ms for the slowest page, count or part", measured.slowest, below=30)
    target("statements of one call", measured.most, below=6)


if __name__ == "__main__":
    main()
