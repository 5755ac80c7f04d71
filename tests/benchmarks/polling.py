"""How long it takes to find new builds: the agent beside other clients, against one server, in one run.

``make bench BENCH=polling`` runs it; see README.md beside this file.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Self

from tests.benchmarks.controller import BUILDS, FRESH
from tests.benchmarks.output import machine, say, target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
PEERS = ("python-jenkins", "ujenkins", "api4jenkins")
SHOWN_VERSIONS = (*PEERS, "requests", "msgspec", "httpx", "aiohttp")
# So many times slower than the agent, at 10,000 jobs and 20 ms.
TARGETS = {"python-jenkins": 200.0, "ujenkins": 20.0}
IDLE_TARGET = 1.5
PEAK_TARGET_MB = 120
IDLE_ROUNDS = 25


@dataclass(frozen=True)
class Measured:
    """One client, once."""

    seconds: float
    cpu: float
    found: int
    share: float
    peak: int
    requests: int
    bytes: int

    @property
    def scaled(self) -> float:
        """Seconds for all jobs, if only a share was looked at."""
        return self.seconds / self.share


class Server:
    """The server's process, and what it is told."""

    def __init__(self, stack: ExitStack) -> None:
        process = stack.enter_context(_python("tests.benchmarks.server"))
        assert process.stdout is not None
        self.port = int(process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/"

    def tell(self, what: str) -> dict[str, Any]:
        """Send a command; returns the statistics so far."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request("GET", f"/control/{what}")
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            return answer
        finally:
            connection.close()


class Client:
    """A client's process. With it: ``client.find()`` as often as wanted."""

    def __init__(self, server: Server, name: str, jobs: int, url: str | None = None) -> None:
        self.name = name
        self._server = server
        self._stack = ExitStack()
        # Beside the environment, which is on a disk; a temporary directory may be in memory.
        folder = tempfile.mkdtemp(prefix=f"bench-{name}-", dir=sys.prefix)
        self._stack.callback(shutil.rmtree, folder)
        log = self._stack.enter_context((Path(folder) / "log").open("w"))
        self._log = Path(log.name)
        self._process = self._stack.enter_context(
            _python("tests.benchmarks.clients", name, url or server.url, str(jobs), folder, stderr=log)
        )

    def __enter__(self) -> Self:
        self._next()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def find(self) -> Measured:
        """Let it find what is new, once."""
        self._server.tell("zero")
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        answer = self._next()
        stats = self._server.tell("stats")
        return Measured(**answer, requests=stats["requests"], bytes=stats["bytes"])

    def _next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} failed:\n{self._log.read_text()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def _python(*command: str, stderr: Any = None) -> Iterator[subprocess.Popen[str]]:
    """A process of this Python that ends when its standard input does. No proxy is between it and the loopback."""
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    try:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait(10)
    finally:
        process.kill()
        process.wait()


def find_new(server: Server, name: str, jobs: int, latency_ms: int) -> Measured:
    """A client in a fresh process finds the new builds."""
    server.tell(f"reset?jobs={jobs}&latency_ms={latency_ms}")
    with Client(server, name, jobs) as client:
        server.tell("advance")
        measured = client.find()
    if measured.share == 1 and measured.found != FRESH:
        raise SystemExit(f"{name} found {measured.found} of {FRESH} builds")
    return measured


def compare(server: Server, jobs: int, latency_ms: int, rounds: int) -> dict[str, list[Measured]]:
    """All clients by turns, the agent before each of the others and at the end."""
    found: dict[str, list[Measured]] = {name: [] for name in ("agent", *PEERS)}
    for turn in range(rounds):
        for name in reversed(PEERS):
            if turn and name == "python-jenkins" and latency_ms:
                continue  # once takes long enough to be steady
            found["agent"].append(find_new(server, "agent", jobs, latency_ms))
            found[name].append(find_new(server, name, jobs, latency_ms))
    found["agent"].append(find_new(server, "agent", jobs, latency_ms))
    return found


def idle(server: Server, jobs: int) -> dict[str, list[Measured]]:
    """Polls with nothing new and the bare cost of the same bytes by turns, each in a process of its own."""
    server.tell(f"reset?jobs={jobs}&latency_ms=0")
    with ExitStack() as stack:
        product = stack.enter_context(Client(server, "agent", jobs))
        product.find()
        target = server.url + server.tell("stats")["root_target"].lstrip("/")
        clients = [product]
        clients += [stack.enter_context(Client(server, name, jobs, target)) for name in ("bare-msgspec", "bare-json")]
        found: dict[str, list[Measured]] = {client.name: [] for client in clients}
        for _ in range(IDLE_ROUNDS):
            for client in clients:
                found[client.name].append(client.find())
    return found


# ---- what is printed

COLUMNS = (
    ("jobs", 7), ("latency", 8), ("client", 15), ("runs", 5), ("seconds", 9), ("times agent", 12), ("CPU s", 8),
    ("requests", 9), ("kB", 9), ("peak MB", 8),
)  # fmt: skip


def row(*cells: object) -> str:
    """Text to the left, numbers to the right."""
    shown = [f"{c:>{w}}" if name != "client" else f" {c:<{w - 1}}" for c, (name, w) in zip(cells, COLUMNS, strict=True)]
    return " ".join(shown)


def middle(runs: Sequence[Measured], what: str) -> float:
    """The median of a column."""
    return median(float(getattr(run, what)) for run in runs)


def show(jobs: int, latency: str, found: dict[str, list[Measured]]) -> None:
    """The rows of one comparison."""
    own = middle(found["agent"], "scaled")
    for name, runs in found.items():
        seconds, mark = middle(runs, "scaled"), "~" if min(run.share for run in runs) < 1 else ""
        say(
            row(
                f"{jobs:,}", latency, name, len(runs), f"{mark}{seconds:.3f}", f"{seconds / own:.1f}",
                f"{middle(runs, 'cpu'):.3f}", f"{middle(runs, 'requests'):.0f}",
                f"{middle(runs, 'bytes') / 1000:,.0f}", f"{max(run.peak for run in runs) / 1e6:.0f}",
            )
        )  # fmt: skip
        if mark:
            say(f"        ~ scaled from the {min(run.share for run in runs):.0%} of the jobs that were looked at")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How long it takes to find new builds, beside other clients.")
    parser.add_argument("--quick", action="store_true", help="1,000 jobs only in the comparison with others")
    quick = parser.parse_args().quick
    began = time.monotonic()
    machine(*SHOWN_VERSIONS)
    with ExitStack() as stack:
        server = Server(stack)
        say(f"\nFinding {FRESH} newly finished builds (every job has {BUILDS} older ones):")
        heading = row(*(name for name, _ in COLUMNS))
        say(heading + "\n" + "-" * len(heading))
        found: dict[str, list[Measured]] = {}
        for jobs, rounds in ((1_000, 3),) if quick else ((1_000, 3), (10_000, 1)):
            for latency_ms in (0, 20):
                found = compare(server, jobs, latency_ms, rounds)
                show(jobs, f"{latency_ms} ms", found)
        nothing = idle(server, 10_000)
        say("\nFinding nothing new; bare: the same bytes fetched and decoded, and nothing else:")
        say(heading + "\n" + "-" * len(heading))
        show(10_000, "0 ms", nothing)

    if quick:
        say("\n(there are targets for 10,000 jobs only)")
    say()
    own = middle(found["agent"], "scaled")
    for name, times in TARGETS.items():
        ratio = middle(found[name], "scaled") / own
        if quick:
            say(f"1,000 jobs, 20 ms: {name} takes {ratio:.1f} times as long")
        else:
            target(f"10,000 jobs, 20 ms: {name}, times the agent", ratio, at_least=times)
    for name in ("bare-msgspec", "bare-json"):
        pairs = zip(nothing["agent"], nothing[name], strict=True)
        ratio = median(product.seconds / bare.seconds for product, bare in pairs)
        what = f"10,000 jobs, nothing new: a poll, of {name} (median of {IDLE_ROUNDS} pairs)"
        if name == "bare-msgspec":
            target(what, ratio, below=IDLE_TARGET)
        else:
            say(f"{what}: {ratio:.2f}")
    peak = max(run.peak for run in nothing["agent"]) / 1e6
    target("peak of the agent's memory, MB", peak, below=PEAK_TARGET_MB)
    say(f"\nmeasured in {time.monotonic() - began:.0f} s; load now {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
