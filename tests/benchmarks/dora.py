"""How long the figures of DORA take over a full outbox, and how much memory.

``make bench BENCH=dora`` runs it; see README.md beside this file.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from agent.inspect.dora.figures import Collected, dora
from agent.inspect.dora.weeks import Span
from agent.model.deployment import Content, Deployment, Name, Scope, State
from agent.model.keys import jenkins_run
from agent.model.status import Status
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Change, Keep
from tests.benchmarks.output import machine, say, table, target

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
DAY = 86_400_000
YEAR = 365 * DAY
ROWS = 1_000_000
# One in 25 fails. 200 repositories deploy to two environments. The ends of neighbouring rows are not in order.
_FILL = """
INSERT INTO deployments (project_id, run, attempt, known, scope, anchor, deployment_id, state, revision, sent_revision,
    status, environment, repo_url, branch, commit_hash, first_commit_at, started_at, ended_at, logs_url, created_at,
    next_attempt_at, attempts, settled_at)
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)
SELECT t.project_id, n.i, 1, 1, t.scope, t.anchor, 'main:deploy/shop#' || n.i, 'delivered', 1, 1,
    CASE WHEN (n.i * 2654435761 / 4096) % 25 = 0 THEN 'failed' WHEN n.i % 97 = 0 THEN 'canceled' ELSE 'success' END,
    CASE WHEN (n.i * 2654435761 / 512) % 3 = 0 THEN 'production' ELSE 'staging' END,
    'https://git.example.com/platform/service-' || (n.i % 200), 'main',
    printf('%08x%032x', (n.i * 2654435761) % 4294967296, n.i),
    CASE WHEN (n.i * 40503 / 64) % 6 = 0 THEN NULL ELSE :begin + n.i * :step - 90000000 END,
    :begin + n.i * :step - 300000 - (n.i * 2654435761 / 1024) % 240000,
    :begin + n.i * :step - (n.i * 2654435761 / 1024) % 240000,
    'https://jenkins.example.com/job/deploy/job/shop/' || n.i || '/', :begin + n.i * :step + 5000,
    0, 1, :begin + n.i * :step + 6000
FROM n, deployments AS t WHERE t.id = 1
"""


def fill(path: Path, rows: int) -> None:
    """An outbox with this many deployments, which ended within the last year."""
    clock = Clock()
    begin = clock.now_ms() - YEAR + DAY
    with closing(SqliteOutbox(path, clock)) as outbox:
        content = Content(status=Status.SUCCESS, started_at=begin, ended_at=begin + 1, environment="production")
        first = Deployment(
            run=jenkins_run("main", "deploy/shop", 0),
            build_started_at=begin,
            build_ended_at=begin + 1,
            known=True,
            names=(Name(Scope.WHOLE),),
            anchor=7,
            deployment_id="main:deploy/shop#0",
            state=State.PENDING,
            content=content,
        )
        outbox.store([Change(inserted=(first,))])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(_FILL, {"rows": rows, "begin": begin, "step": (YEAR - 2 * DAY) // rows})


CONFIGURATION = """
[hivel]
url = "http://127.0.0.1:9"
[[jenkins]]
url = "http://127.0.0.1:9"
[outbox]
path = "outbox.db"
"""
# Prints the seconds and the largest resident memory of the verb, without those of the start of Python.
_MEASURED = """
import resource, sys, time
from agent.cli.main import cli
started, cpu = time.perf_counter(), time.process_time()
cli.main(sys.argv[1:], standalone_mode=False)
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(time.perf_counter() - started, time.process_time() - cpu, used, file=sys.stderr)
"""
CASES = (("365d", "--csv"), ("365d", "--json"), ("90d", "--csv"), ("90d", "--json"))


def measured(folder: Path, *options: str) -> tuple[float, float, float]:
    """Seconds, CPU seconds, and the largest resident memory in MB of one call of the verb."""
    words = [sys.executable, "-c", _MEASURED, "--config", str(folder / "config.toml"), "dora", *options]
    environment = {**os.environ, "HIVEL_API_TOKEN": "bench-token", "JENKINS_API_TOKEN": "bench-token"}
    ended = subprocess.run(
        words, cwd=ROOT, env=environment, check=True, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    seconds, cpu, memory = map(float, ended.stderr.split())
    return seconds, cpu, memory


def main() -> None:
    """A million deployments of 200 repositories in two environments within a year."""
    machine("msgspec")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.toml").write_text(CONFIGURATION)
        fill(folder / "outbox.db", ROWS)
        before = {case: measured(folder, "--since", case[0], case[1]) for case in CASES[:1]}
        with SqliteOutbox(folder / "outbox.db", Clock()) as outbox:
            add_up(outbox)
            parts = page_parts(outbox)
        results = {case: measured(folder, "--since", case[0], case[1]) for case in CASES}
    lines = [(f"{' '.join(case)}, nothing added up", values) for case, values in before.items()]
    lines += [(" ".join(case), values) for case, values in results.items()]
    table(
        ("dora --since", "seconds", "CPU s", "peak MB"),
        [(name, *(f"{value:.1f}" for value in values)) for name, values in lines],
    )
    table(("in the daemon, a year", "CPU ms"), [(name, f"{ms:.0f}") for name, ms in parts.items()])
    target("seconds for a year as CSV", results[CASES[0]][0], below=2)
    target("CPU ms for the slowest page", max(list(parts.values())[:3]), below=300)


def add_up(outbox: SqliteOutbox) -> None:
    """What housekeeping does in the background: some steps each minute."""
    slowest, steps, began = 0.0, 0, time.thread_time()
    while True:
        step = time.thread_time()
        if not outbox.prune(Keep(10 * YEAR, 10 * YEAR, 10 * YEAR)):
            break
        slowest, steps = max(slowest, time.thread_time() - step), steps + 1
    whole = time.thread_time() - began
    say(f"all weeks are added up: {steps} steps, {whole:.1f} s of CPU, the longest {1_000 * slowest:.0f} ms")


def page_parts(outbox: SqliteOutbox) -> dict[str, float]:
    """Milliseconds of CPU time for what a page shows."""
    now = outbox.clock.now_ms()
    span = Span(now - YEAR, now)
    one = {"environment": "production", "repo_url": "https://git.example.com/platform/service-17"}
    cases: dict[str, Callable[[], object]] = {
        "the page: 6 of 400 places, weeks of all together": lambda: of_page(outbox, span),
        "the page of one environment": lambda: of_page(outbox, span, environment="production"),
        "the page of one environment and repository": lambda: of_page(outbox, span, **one),
        "all figures of 400 places": lambda: dora(outbox.deployed_by_week(*span), span),
    }
    return {name: min(_cpu_ms(function) for _ in range(3)) for name, function in cases.items()}


def of_page(outbox: SqliteOutbox, span: Span, **place: str) -> object:
    collected = Collected(outbox.deployed_by_week(*span, **place), span)
    places = collected.places
    return collected.dora(places[:6], weeks=len(places) == 1), collected.by_week()


def _cpu_ms(function: Callable[[], object]) -> float:
    began = time.thread_time()
    function()
    return 1_000 * (time.thread_time() - began)


if __name__ == "__main__":
    main()
