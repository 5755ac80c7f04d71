"""What 500 idle controllers cost one agent: CPU time, memory, threads and connections.

``python -m tests.benchmarks.capacity`` runs it; see README.md beside this file.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agent.sandbox.hivel import LocalHivel
from agent.sandbox.server import LocalServer
from tests.benchmarks.controller import TOKEN, USERNAME
from tests.benchmarks.output import machine, say, table, target
from tests.integration.support import Agent, wait_until
from tests.postgresql.cluster import running_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgresql.cluster import Cluster

ROOT = Path(__file__).parents[2]
JOBS = 100
LIMIT_S = 600.0
CONFIG = """
[hivel]
url = "{hivel}"
token_file = "token"
{controllers}
[[deployment]]
job = "**"
environment = "{{job.environment}}"
[outbox]
path = "outbox.db"
url = "{outbox}"
[monitoring]
listen = "127.0.0.1:0"
[web]
listen = ""
"""
CONTROLLER = """
[[jenkins]]
name = "jenkins-{number}"
url = "{url}"
username = "{user}"
token_file = "token"
"""


@contextmanager
def controller() -> Iterator[str]:
    """The URL of a controller that costs next to nothing, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.server"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        import httpx

        httpx.get(f"{url}/control/reset?jobs={JOBS}&latency_ms=20", timeout=60, trust_env=False)
        yield url
    finally:
        process.kill()
        process.communicate()


def cpu_s(pid: int) -> float:
    """CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def status(pid: int, field: str) -> int:
    """A number of /proc/…/status."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def measure(folder: Path, cluster: Cluster, controllers: int, seconds: float) -> list[float]:
    """Run an agent; returns CPU seconds a minute, those of the server, MB, MB of the server, threads, connections."""
    database = cluster.new_outbox()
    with controller() as jenkins, LocalServer(LocalHivel().app) as hivel:
        agent = Agent(folder)
        tables = "".join(CONTROLLER.format(number=n, url=jenkins, user=USERNAME) for n in range(controllers))
        agent.config.write_text(CONFIG.format(hivel=hivel.url, controllers=tables, outbox=cluster.url(database)))
        (folder / "token").write_text(f"{TOKEN}\n")
        (folder / "token").chmod(0o600)
        process = agent.start()
        try:
            polled = f"SELECT count(*) FROM controllers WHERE jobs = {JOBS}"
            wait_until(lambda: cluster.execute(polled, database) == [(controllers,)], "all are polled", LIMIT_S)
            time.sleep(20)  # the first polls are over
            backends = "SELECT pid FROM pg_stat_activity WHERE application_name = 'hivel-agent'"
            pids = [int(str(pid)) for (pid,) in cluster.execute(backends, database)]
            before, of_server, began = cpu_s(process.pid), sum(map(cpu_s, pids)), time.monotonic()
            time.sleep(seconds)
            minutes = (time.monotonic() - began) / 60
            private = sum(status(pid, "RssAnon") for pid in pids)
            return [
                (cpu_s(process.pid) - before) / minutes, (sum(map(cpu_s, pids)) - of_server) / minutes,
                status(process.pid, "VmRSS") / 1024, private / 1024,
                status(process.pid, "Threads"), len(pids),
            ]  # fmt: skip
        finally:
            process.kill()
            process.wait()


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--controllers", type=int, default=500)
    arguments.add_argument("--seconds", type=float, default=60)
    given = arguments.parse_args()
    machine("psycopg")
    rows, found = [], {}
    with running_cluster(fsync=True, max_connections=1_000) as cluster:
        for count in (1, given.controllers):
            with tempfile.TemporaryDirectory(prefix="capacity-") as folder:
                found[count] = measure(Path(folder), cluster, count, given.seconds)
            cpu, of_server, size, private, threads, connections = found[count]
            rows.append(
                [f"{count} controllers", f"{cpu:.1f}", f"{of_server:.1f}", f"{size:.0f}", f"{private:.0f}",
                 f"{threads:.0f}", f"{connections:.0f}"]
            )  # fmt: skip
    say(f"\nIdle controllers with {JOBS} jobs, polled every 15 s, 20 ms for each answer:\n")
    headings = ("", "CPU s/min", "of PostgreSQL", "MB", "of PostgreSQL", "threads", "connections")
    table(headings, rows)
    say(f"\nload now {os.getloadavg()[0]:.1f}")
    target("CPU seconds a minute", found[given.controllers][0], below=60)
    target("MB", found[given.controllers][2], below=250)


if __name__ == "__main__":
    main()
