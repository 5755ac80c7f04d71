"""How much faster four agents deliver than one, against a Hivel that takes 50 ms for each event.

``python -m tests.benchmarks.deliveries`` runs it; see README.md beside this file.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from agent.model.times import Clock
from agent.outbox.postgresql.engine import PostgresqlOutbox
from agent.outbox.values import Change
from tests.benchmarks.drain import TOKEN, server
from tests.benchmarks.enqueue import make_item
from tests.benchmarks.output import machine, say, table, target
from tests.integration.support import Agent, wait_until
from tests.postgresql.cluster import running_cluster

if TYPE_CHECKING:
    from tests.postgresql.cluster import Cluster

LATENCY_MS = 50
CONCURRENCY = 8
EVENTS = 3_000
ROUNDS = 3
FLEET = 4
LIMIT_S = 600.0
CONFIG = """
[hivel]
url = "{hivel}"
token_file = "token"
[outbox]
path = "outbox.db"
url = "{outbox}"
[monitoring]
listen = ""
[intake]
listen = "127.0.0.1:0"
token_file = "token"
[web]
listen = ""
[delivery]
concurrency = {concurrency}
"""
LEFT = "SELECT count(*) FROM deployments WHERE state = 'pending'"
LIVING = "SELECT count(*) FROM agents WHERE seen_at > now_ms() - ttl_ms"


def measure(folder: Path, cluster: Cluster, hivel: str, agents: int) -> float:
    """Events a second with so many agents, from the commit of all events to the last delivery."""
    database = cluster.new_outbox()
    with ExitStack() as stack:
        for number in range(agents):
            agent = Agent(folder / f"{database}-{number}")
            agent.folder.mkdir()
            agent.config.write_text(CONFIG.format(hivel=hivel, outbox=cluster.url(database), concurrency=CONCURRENCY))
            (agent.folder / "token").write_text(f"{TOKEN}\n")
            (agent.folder / "token").chmod(0o600)
            process = agent.start()
            stack.callback(process.wait)
            stack.callback(process.kill)
        wait_until(lambda: cluster.execute(LIVING, database) == [(agents,)], "all agents are there", LIMIT_S)
        time.sleep(2)  # they have nothing else to do any more
        changes = [Change(inserted=(make_item(number).deployment,)) for number in range(EVENTS)]
        with PostgresqlOutbox(cluster.server(database), Clock()) as outbox:
            outbox.announce()  # as a verb does, for example a backfill
            with outbox.transaction():
                outbox.store(changes)
        began = time.monotonic()
        wait_until(lambda: cluster.execute(LEFT, database) == [(0,)], "everything is delivered", LIMIT_S)
        return EVENTS / (time.monotonic() - began)


def main() -> None:
    """Measure and print."""
    machine("psycopg", "aiohttp")
    found: dict[int, list[float]] = {1: [], FLEET: []}
    with (
        running_cluster(fsync=True, max_connections=200) as cluster,
        server(LATENCY_MS) as hivel,
        tempfile.TemporaryDirectory(prefix="deliveries-") as folder,
    ):
        for turn in range(ROUNDS):
            for agents in sorted(found, reverse=bool(turn % 2)):
                found[agents].append(measure(Path(folder), cluster, hivel, agents))
    limit = CONCURRENCY * 1000 / LATENCY_MS
    rows = [
        [f"{agents} agents", f"{median(rates):,.0f}", f"{median(rates) / agents / limit:.2f}",
         f"{median(rates) / median(found[1]):.2f}"]
        for agents, rates in found.items()
    ]  # fmt: skip
    say(f"\n{EVENTS:,} events, {LATENCY_MS} ms each, concurrency = {CONCURRENCY}; medians of {ROUNDS} rounds:\n")
    table(("", "events/s", "of the latency's limit", "of one agent"), rows)
    say(f"\nload now {os.getloadavg()[0]:.1f}")
    target("four agents, of one", median(found[FLEET]) / median(found[1]), at_least=3)


if __name__ == "__main__":
    main()
