"""How long each page takes, how many statements it makes, and how large it is, at a thousand and a million deployments.

``make bench BENCH=pages`` runs it; see README.md beside this file.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agent.config.file import load
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from tests.benchmarks.dora import CONFIGURATION, add_up, fill
from tests.benchmarks.output import machine, say, table, target
from tests.web.bare import Bare

if TYPE_CHECKING:
    import httpx

SIZES = (1_000, 1_000_000)
ROUNDS = 15
# A slow page is not asked again.
PATIENCE_S = 3.0
MOST_MS, MOST_STATEMENTS, MOST_BYTES = 30, 5, 20_480
DORA_MS = 300
PAGES = (
    "/",
    "/deployments",
    "/deployments?state=failed",
    "/deployments?state=delivered",
    "/deployments?environment=staging",
    "/deployments?repo=https://git.example.com/platform/service-7",
    "/deployments?status=canceled",
    "/deployments?controller=main&job=deploy/shop",
    "/deployments?since=30d&until=7d",
    "/deployments?text=main:deploy/shop%2399",
    "/deployments/{middle}",
    "/failed",
    "/controllers",
    "/rules",
    "/about",
    "/dora?since=365d",
    "/dora?since=365d&environment=production",
)


@dataclass(frozen=True)
class Cost:
    """Of one page: the median CPU time, statements without those that begin and end transactions, bytes of HTML."""

    ms: float
    statements: int
    size: int


async def measure(folder: Path, rows: int) -> dict[str, Cost]:
    """The cost of each page."""
    found = {}
    with closing(SqliteOutbox(folder / "outbox.db", Clock())) as outbox:
        add_up(outbox)
        statements: list[str] = []
        outbox._connection.set_trace_callback(statements.append)
        async with Bare(load(folder / "config.toml", tokens=False), outbox).client() as client:
            for page in PAGES:
                found[page] = await _cost(client, statements, page.format(middle=rows // 2))
    return found


async def _cost(client: httpx.AsyncClient, statements: list[str], page: str) -> Cost:
    answer = await client.get(page)  # the first request compiles the template
    if answer.status_code != 200:
        say(f"{page}: {answer.status_code}")
        return Cost(float("nan"), 0, 0)
    times = []
    for _ in range(ROUNDS):
        statements.clear()
        started = time.thread_time()
        answer = await client.get(page)
        times.append(time.thread_time() - started)
        if sum(times) > PATIENCE_S:
            break
    queries = [each for each in statements if not each.startswith(("BEGIN", "COMMIT", "ROLLBACK"))]
    return Cost(statistics.median(times) * 1000, len(queries), len(answer.content))


def main() -> None:
    machine("starlette", "jinja2")
    costs = {}
    for rows in SIZES:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "config.toml").write_text(CONFIGURATION)
            fill(folder / "outbox.db", rows)
            costs[rows] = asyncio.run(measure(folder, rows))
    few, many = costs.values()
    table(
        ("page", *(f"CPU ms at {rows:,}" for rows in SIZES), "ratio", "statements", "bytes"),
        [
            (
                page,
                f"{few[page].ms:.1f}",
                f"{cost.ms:.1f}",
                f"{cost.ms / few[page].ms:.2f}",
                str(cost.statements),
                f"{cost.size:,}",
            )
            for page, cost in many.items()
        ],
    )
    dora = [cost for page, cost in many.items() if page.startswith("/dora")]
    others = [cost for page, cost in many.items() if not page.startswith("/dora")]
    target("slowest page but /dora, CPU ms", max(cost.ms for cost in others), below=MOST_MS)
    target("/dora, CPU ms", max(cost.ms for cost in dora), below=DORA_MS)
    target("most statements of a page", max(cost.statements for cost in many.values()), below=MOST_STATEMENTS + 1)
    target("largest page, bytes", max(cost.size for cost in many.values()), below=MOST_BYTES + 1)


if __name__ == "__main__":
    main()
