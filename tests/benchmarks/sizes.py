"""What a large outbox costs: claims, start, status, memory; and what the daemon costs while nothing happens.

``make bench BENCH=sizes`` runs it; see README.md beside this file.
"""

from __future__ import annotations

import argparse
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from agent.model.times import Clock
from agent.outbox.sqlite import migrations
from agent.outbox.sqlite.engine import SqliteOutbox
from tests.benchmarks.controller import TOKEN, USERNAME
from tests.benchmarks.output import machine, say, table, target
from tests.benchmarks.polling import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
JOBS = 1_000
SMALL, LARGE = 10_000, 10_000_000
PENDING = 10  # one of so many events is pending, the others were delivered before
CHUNK = 1_000_000
CLAIMS = 300
STARTS = 7
STATUSES = 15
IDLE_S = 60
SETTLING_S = 15  # after the start, before memory and CPU are looked at

CONFIGURATION = """
[hivel]
url = "http://127.0.0.1:9"
token_file = "token"
[[jenkins]]
name = "main"
url = "{url}"
username = "{username}"
token_file = "token"
[[deployment]]
job = "**"
environment = "{{params.ENVIRONMENT}}|{{job.environment}}"
[outbox]
path = "outbox.db"
[monitoring]
listen = "127.0.0.1:0"
[web]
listen = ""
"""


@dataclass
class Agent:
    """A folder with a configuration and an outbox; Hivel is down."""

    name: str
    folder: Path

    @classmethod
    def configured(cls, name: str, folder: Path, jenkins: str) -> Agent:
        folder.mkdir()
        (folder / "config.toml").write_text(CONFIGURATION.format(url=jenkins, username=USERNAME))
        (folder / "token").write_text(TOKEN)
        (folder / "token").chmod(0o600)
        return cls(name, folder)

    @property
    def outbox(self) -> Path:
        return self.folder / "outbox.db"

    def command(self, *verb: str) -> list[str]:
        return [sys.executable, "-m", "agent", *verb, "--config", str(self.folder / "config.toml")]

    def status(self) -> float:
        """Seconds for ``status``."""
        started = time.perf_counter()
        subprocess.run(self.command("status", "--json"), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


class Daemon:
    """``hivel-agent run``, started as systemd does: it says itself when it is ready."""

    def __init__(self, agent: Agent) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, (agent.folder / "log").open("a") as log:
            address = str(agent.folder / "notify")
            Path(address).unlink(missing_ok=True)
            ready.bind(address)
            ready.settimeout(60)
            started = time.perf_counter()
            self._process = subprocess.Popen(
                agent.command("run"), cwd=ROOT, stdout=log, stderr=log, env=os.environ | {"NOTIFY_SOCKET": address}
            )
            while b"READY=1" not in ready.recv(1_000):
                pass
            self.start_s = time.perf_counter() - started

    def stop(self) -> None:
        """With SIGTERM."""
        self._process.terminate()
        self._process.wait(60)

    def resident(self) -> int:
        """Bytes of memory."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fill(path: Path, rows: int) -> None:
    """An outbox of so many deployments: one in ten is pending, those are the newest, and have a fact."""
    SqliteOutbox(path, Clock()).close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -200000")
    now, delivered = int(time.time() * 1000), rows - rows // PENDING
    connection.execute("INSERT INTO projects (provider, scope, name) VALUES ('jenkins', 'main', 'deploy/shop')")
    numbers = "WITH RECURSIVE numbers (n) AS (SELECT ?1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?2)"
    for first in range(0, rows, CHUNK):
        connection.execute(
            f"{numbers} INSERT INTO deployments (project_id, run, attempt, known, scope, anchor, deployment_id, state,"
            " revision, sent_revision, status, environment, repo_url, branch, started_at, ended_at, created_at,"
            " next_attempt_at, attempts, settled_at) SELECT 1, n, 1, 1, 'whole', n, printf('main:deploy/shop#%d', n),"
            " CASE WHEN n <= ?3 THEN 'delivered' ELSE 'pending' END, 1, CASE WHEN n <= ?3 THEN 1 END, 'success',"
            " 'production', 'https://github.example.test/acme/shop.git', 'main',"
            " ?4, ?4, ?4, ?4, n <= ?3, CASE WHEN n <= ?3 THEN ?4 END FROM numbers",
            (first + 1, min(first + CHUNK, rows), delivered, now),
        )
    connection.execute(
        f"{numbers} INSERT INTO facts (project_id, run, attempt, source, kind, received_at, word, started_at,"
        " principal) SELECT 1, n, 1, 'poller', 'seen', ?3, n, ?3, '' FROM numbers",
        (delivered + 1, rows, now),
    )
    migrations.recount(connection)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()


def claims(paths: Sequence[Path]) -> list[float]:
    """Seconds for a claim of 100 from each file, by turns."""
    with ExitStack() as stack:
        outboxes = [stack.enter_context(SqliteOutbox(path, Clock())) for path in paths]
        times: list[list[float]] = [[] for _ in outboxes]
        for _ in range(CLAIMS):
            for outbox, found in zip(outboxes, times, strict=True):
                started = time.perf_counter()
                due = outbox.claim(100)
                found.append(time.perf_counter() - started)
                assert len(due) == 100
    return [median(found) for found in times]


def starts(agents: Sequence[Agent]) -> list[float]:
    """Seconds from the command to READY, by turns."""
    times: list[list[float]] = [[] for _ in agents]
    for _ in range(STARTS):
        for agent, found in zip(agents, times, strict=True):
            daemon = Daemon(agent)
            found.append(daemon.start_s)
            daemon.stop()
    return [median(found) for found in times]


def statuses(agents: Sequence[Agent]) -> list[float]:
    """Seconds for ``status``, by turns."""
    times = [[agent.status() for agent in agents] for _ in range(STATUSES)]
    return [median(found) for found in zip(*times, strict=True)]


def idle(agents: Sequence[Agent], seconds: int) -> tuple[list[int], list[float]]:
    """Resident bytes, and CPU seconds for an hour of doing nothing but look; all of them at the same time."""
    daemons = [Daemon(agent) for agent in agents]
    time.sleep(SETTLING_S)
    before = [daemon.cpu_s() for daemon in daemons]
    time.sleep(seconds)
    cpu = [(daemon.cpu_s() - start) * 3600 / seconds for daemon, start in zip(daemons, before, strict=True)]
    resident = [daemon.resident() for daemon in daemons]
    for daemon in daemons:
        daemon.stop()
    return resident, cpu


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What a large outbox costs.")
    parser.add_argument("--rows", type=int, default=LARGE, help="in the large outbox; one in ten is pending")
    rows = parser.parse_args().rows
    machine("msgspec", "apscheduler")
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("HIVEL_")]:
        del os.environ[name]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-sizes-", dir=sys.prefix)))
        jenkins = Server(stack)
        jenkins.tell(f"reset?jobs={JOBS}&latency_ms=0")
        small, large = folder / "small.db", folder / "large.db"
        fill(small, SMALL)
        started = time.perf_counter()
        fill(large, rows)
        gigabytes, seconds = large.stat().st_size / 1e9, time.perf_counter() - started
        say(f"made an outbox of {rows:,} deployments, {gigabytes:.1f} GB, in {seconds:.0f} s")
        claim = claims((small, large))

        empty, full = (Agent.configured(name, folder / name, jenkins.url) for name in ("empty", "full"))
        large.rename(full.outbox)
        starting, status = starts((empty, full)), statuses((empty, full))
        resident, cpu = idle((empty, full), IDLE_S)
    say(f"\nLarge: {rows - rows // PENDING:,} delivered, {rows // PENDING:,} pending. Small: {SMALL:,} deployments.\n")
    lines = [
        ["claim of 100, µs", f"small: {claim[0] * 1e6:.0f}", f"{claim[1] * 1e6:.0f}", f"{claim[1] / claim[0]:.2f}"],
        ["start of the daemon until READY, ms", *_of_two(starting, 1e3)],
        ["status, ms", *_of_two(status, 1e3)],
        [f"resident after {SETTLING_S + IDLE_S} s, Hivel down, MB", *_of_two(resident, 1e-6)],
        [f"idle, {JOBS:,} jobs polled every 15 s, CPU s an hour", *_of_two(cpu, 1)],
    ]
    table(("", "empty", "large", "ratio"), lines)
    say(f"\nload now {os.getloadavg()[0]:.1f}")
    target(f"claim at {rows:,} deployments, of {SMALL:,}", claim[1] / claim[0], below=2)
    target("start, of an empty one's", starting[1] / starting[0], below=2)
    target("status, of an empty one's", status[1] / status[0], below=2)
    target("memory more than an empty one's, MB", (resident[1] - resident[0]) / 1e6, below=10)
    target("idle, CPU seconds an hour", cpu[0], below=10)


def _of_two(values: Sequence[float], factor: float) -> list[str]:
    return [*(f"{value * factor:.1f}" for value in values), f"{values[1] / values[0]:.2f}"]


if __name__ == "__main__":
    main()
