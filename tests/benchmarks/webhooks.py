"""What a platform waits for: 1,000 deliveries to a daemon, 64 at once, each answered when it is on the disk.

``python -m tests.benchmarks.webhooks`` runs it; see README.md beside this file.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles

import httpx

from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.sandbox.hivel import LocalHivel
from agent.sandbox.jenkins import LocalJenkins
from agent.sandbox.server import LocalServer
from tests import webhooks
from tests.integration.hooked import Hooked, deployment_status

DELIVERIES = 1_000
AT_ONCE = 64


async def send(url: str) -> list[tuple[int, float]]:
    """The statuses of the answers, and the seconds that each took."""
    found: list[tuple[int, float]] = []
    bodies = (webhooks.encoded(deployment_status(workflow_run__id=number)) for number in range(1, DELIVERIES + 1))
    signed = [
        (body, webhooks.github(body, "deployment_status", delivery=f"delivery-{number}"))
        for number, body in enumerate(bodies)
    ]
    waiting = iter(signed)

    async def client() -> None:
        # With a connection of its own. Without verify=False each client loads the certificates of the system, which
        # holds up all the others.
        async with httpx.AsyncClient(timeout=120, trust_env=False, verify=False) as http:
            for body, headers in waiting:
                began = time.perf_counter()
                answer = await http.post(f"{url}/v1/hooks/github", content=body, headers=headers)
                found.append((answer.status_code, time.perf_counter() - began))

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return found


def sent(url: str) -> tuple[list[tuple[int, float]], float]:
    """Send all deliveries; returns also the seconds that this took."""
    began = time.perf_counter()
    return asyncio.run(send(url)), time.perf_counter() - began


def cpu_s(pid: int) -> float:
    """CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, and print one line for each figure."""
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalServer(LocalJenkins().app) as jenkins,
        LocalServer(LocalHivel().app) as hivel,
    ):
        daemon = Hooked.opened(Path(folder), jenkins=jenkins, hivel=hivel)
        process = daemon.begin()
        try:
            used = cpu_s(process.pid)
            with ProcessPoolExecutor(1, get_context("spawn")) as client:  # this process is Jenkins and Hivel
                found, took = client.submit(sent, daemon.url).result()
            used = cpu_s(process.pid) - used
        finally:
            process.kill()
            process.wait()
        with SqliteOutbox(daemon.outbox, Clock()) as outbox:
            stored = sum(1 for _ in outbox.all_deployments())
    seconds = [each for _, each in found]
    accepted = sum(status == 202 for status, _ in found)
    print(f"{len(found)} deliveries, {AT_ONCE} at once: {took:.1f} s, {len(found) / took:.0f} a second")  # noqa: T201
    print(f"answered with 202: {accepted}; deployments stored: {stored}")  # noqa: T201
    print(f"CPU time of the daemon, with the delivery to Hivel: {used / len(found) * 1000:.1f} ms a delivery")  # noqa: T201
    hundred = quantiles(seconds, n=100)
    print(f"p50 {median(seconds) * 1000:.0f} ms, p99 {hundred[98] * 1000:.0f} ms, max {max(seconds) * 1000:.0f} ms")  # noqa: T201


if __name__ == "__main__":
    main()
