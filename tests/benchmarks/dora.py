"""How long the figures of DORA take over a full outbox, and how much memory.

``make bench BENCH=dora`` runs it; see README.md beside this file.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from agent.model.deployment import Content, Deployment, Name, Scope, State
from agent.model.keys import jenkins_run
from agent.model.status import Status
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Change
from tests.benchmarks.output import machine, table, target

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
        results = {case: measured(folder, "--since", case[0], case[1]) for case in CASES}
    table(
        ("dora --since", "seconds", "CPU s", "peak MB"),
        [(" ".join(case), *(f"{value:.1f}" for value in values)) for case, values in results.items()],
    )
    target("seconds for a year as CSV", results[CASES[0]][0], below=5)


if __name__ == "__main__":
    main()
