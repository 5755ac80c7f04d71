"""How fast a queue drains: the agent's delivery beside a bare httpx loop and curl, in one run.

``make bench BENCH=drain`` runs it; see README.md beside this file.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import httpx

from agent.config.credentials import Token
from agent.config.settings import DeliverySettings, HivelSettings, TlsSettings
from agent.daemon import logs
from agent.delivery.dispatcher import Dispatcher
from agent.delivery.hivel import HivelClient
from agent.model.times import Clock
from agent.outbox.offloop import OffLoop
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Change
from tests.benchmarks.enqueue import make_item
from tests.benchmarks.output import machine, say, table, target

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
TOKEN = "bench-token"
PRODUCT, BARE = "outbox, Dispatcher, HivelClient", "bare httpx.AsyncClient"
# Latency in ms, at once, events in a round, rounds.
CASES = ((0, 8, 1_000, 9), (0, 64, 1_000, 3), (50, 64, 2_000, 5))
CURL_EVENTS = 40


@dataclass
class Runs:
    """The rounds of one contender: seconds and CPU seconds for one event."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, count: int, started: float, cpu: float) -> None:
        """A round that began at these readings of the clocks."""
        self.seconds.append((time.perf_counter() - started) / count)
        self.cpu.append((time.process_time() - cpu) / count)


@contextmanager
def server(latency_ms: int) -> Iterator[str]:
    """The URL of a local Hivel in another process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.hivel", str(latency_ms)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


async def product(folder: Path, url: str, at_once: int, count: int, runs: Runs) -> None:
    """As the daemon does: claims, makes events, posts, classifies, logs a line for each, settles in batches."""
    settings, clock = DeliverySettings(concurrency=at_once), Clock()
    hivel = HivelSettings(url=url, token=Token(TOKEN), tls=TlsSettings())
    with SqliteOutbox(folder / "outbox.db", clock) as outbox:
        first = outbox.counts().delivered
        outbox.store([Change(inserted=(make_item(number).deployment,)) for number in range(first, first + count)])
        async with HivelClient(hivel, settings, clock) as client, OffLoop() as off_loop:
            dispatcher = Dispatcher(outbox, client, settings, off_loop=off_loop, clock=clock)
            started, cpu = time.perf_counter(), time.process_time()
            await dispatcher.run()
            runs.add(count, started, cpu)
        assert outbox.counts().delivered == first + count


async def bare(url: str, at_once: int, count: int, runs: Runs) -> None:
    """Tasks that post from a list and look at the status; at most eight connections a client, as httpx likes it."""
    bodies = deque(make_item(number).event for number in range(count))
    clients = [
        httpx.AsyncClient(limits=httpx.Limits(max_connections=8, max_keepalive_connections=8), timeout=10)
        for _ in range(max(1, at_once // 8))
    ]

    async def post(client: httpx.AsyncClient) -> None:
        while bodies:
            answer = await client.post(
                f"{url}/api/hooks/v2/deployment",
                content=bodies.popleft(),
                headers={"X-API-Token": TOKEN, "Content-Type": "application/json"},
            )
            answer.raise_for_status()

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(post(clients[number % len(clients)]) for number in range(at_once)))
    runs.add(count, started, cpu)
    for client in clients:
        await client.aclose()


def curl(folder: Path, url: str) -> float:
    """Seconds for one event with a process for each, one after another."""
    body = folder / "body"
    body.write_bytes(make_item(1).event)
    command = [
        "curl", "-s", "-o", "/dev/null", "-H", f"X-API-Token: {TOKEN}", "-H", "Content-Type: application/json",
        "--data-binary", f"@{body}", f"{url}/api/hooks/v2/deployment",
    ]  # fmt: skip
    started = time.perf_counter()
    for _ in range(CURL_EVENTS):
        subprocess.run(command, check=True)
    return (time.perf_counter() - started) / CURL_EVENTS


def measure(folder: Path, url: str, at_once: int, count: int, rounds: int) -> tuple[Runs, Runs]:
    """Product and bare loop by turns."""
    own, plain = Runs(), Runs()
    for turn in range(rounds):
        for contender in ("own", "bare") if turn % 2 else ("bare", "own"):
            if contender == "own":
                asyncio.run(product(folder, url, at_once, count, own))
            else:
                asyncio.run(bare(url, at_once, count, plain))
    return own, plain


def main() -> None:
    """Measure and print."""
    machine("httpx", "httpcore", "aiohttp", "structlog")
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    rows = []
    reached: dict[tuple[int, int], float] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-drain-", dir=sys.prefix)))
        sys.stderr = stack.enter_context((folder / "log").open("w", buffering=1))  # the log is part of the work
        logs.configure()
        for latency_ms, at_once, count, rounds in CASES:
            with server(latency_ms) as url:
                own, plain = measure(folder, url, at_once, count, rounds)
                ratio = median(b / o for o, b in zip(own.seconds, plain.seconds, strict=True))
                reached[latency_ms, at_once] = (
                    ratio if not latency_ms else latency_ms / 1000 / at_once / median(own.seconds)
                )
                for name, runs, part in ((PRODUCT, own, ratio), (BARE, plain, 1.0)):
                    rows.append(_row(name, latency_ms, at_once, median(runs.seconds), median(runs.cpu), part))
        for latency_ms in (0, 50):
            with server(latency_ms) as url:
                rows.append(_row("curl, a process for each event", latency_ms, 1, curl(folder, url), None, None))
        sys.stderr = sys.__stderr__
    say()
    table(("", "latency", "at once", "events/s", "of latency's limit", "CPU µs an event", "of bare httpx"), rows)
    say(f"\nload now {os.getloadavg()[0]:.1f}")
    # With httpcore below it, the agent came to 0.9.
    target("at 0 ms, 8 at once, of a bare httpx loop", reached[0, 8], at_least=1.35)
    target("at 50 ms, 64 at once, of 64 / 0.05 s", reached[50, 64], at_least=0.8)


def _row(name: str, latency_ms: int, at_once: int, seconds: float, cpu: float | None, part: float | None) -> list[str]:
    limit = f"{latency_ms / 1000 / at_once / seconds:.2f}" if latency_ms else ""
    return [
        name, f"{latency_ms} ms", str(at_once), f"{1 / seconds:,.0f}", limit,
        "" if cpu is None else f"{cpu * 1e6:.0f}", "" if part is None else f"{part:.2f}",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
