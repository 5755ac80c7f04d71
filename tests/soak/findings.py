"""What a long run came to: lost, doubled, and what it went through."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from tests.soak.hostile import TOKEN

if TYPE_CHECKING:
    from pathlib import Path

    from agent.sandbox.hivel import LocalHivel
    from tests.integration.support import Agent
    from tests.soak.daemon import Daemon


@dataclass
class Findings:
    """The counts, and what of them must be nothing."""

    counts: dict[str, int]
    wrong: dict[str, int]

    @property
    def as_promised(self) -> bool:
        """Whether nothing is wrong."""
        return not any(self.wrong.values())

    def table(self) -> str:
        """As Markdown."""
        rows = [*self.wrong.items(), *sorted(self.counts.items())]
        return "\n".join(["| what | count |", "|---|---|", *(f"| {what} | {count} |" for what, count in rows)])


def look_at(
    agent: Agent, hivel: LocalHivel, expected: dict[str, tuple[str, int]], daemon: Daemon, counts: Counter[str]
) -> Findings:
    """Compare what Jenkins built with what Hivel has and what the outbox says."""
    deployments = hivel.deployments()
    arrived = {d.event.deployment_id: d for d in deployments}
    of_build = Counter(d.event.deployment_id.partition("@")[0] for d in deployments)
    log = (agent.folder / "agent.log").read_text()
    wrong = {
        "lost": len(expected.keys() - arrived.keys()),
        "doubled": sum(times - 1 for times in of_build.values()),
        "at Hivel, but never built": len(of_build.keys() - expected.keys()),
        "with another status than the build's": sum(
            expected[name][0] != d.event.status for name, d in arrived.items() if name in expected
        ),
        "tracebacks in the log": log.count("Traceback"),
        "tokens in the log or the outbox": log.count(TOKEN) + _count(agent.outbox, TOKEN),
        "exit code of the last stop": counts.pop("exit code of the last stop"),
    }  # fmt: skip
    wrong.update({name: counts.pop(name) for name in list(counts) if name.startswith("failure")})
    with closing(SqliteOutbox(agent.outbox, Clock())) as outbox:
        left = outbox.counts()
        wrong["pending at the end"], wrong["failed at the end"] = left.pending, left.failed
        wrong["damages in the outbox"] = int(outbox.find_damage() is not None or outbox.last_repair() is not None)
    with closing(sqlite3.connect(agent.outbox)) as file:
        deleted = int(file.execute("SELECT count(*) FROM forgotten").fetchone()[0])
    waits = sorted(d.received_at_ms - expected[name][1] for name, d in arrived.items() if name in expected)
    seen = {
        "builds finished": len(expected),
        "events at Hivel": len(deployments),
        "POSTs at Hivel": len(hivel.requests()),
        "sent again under the same id": sum(d.times_posted - 1 for d in deployments),
        "events deleted by retention": deleted,
        "starts of the daemon": daemon.starts,
        "slowest start until ready, ms": round(daemon.slowest_start_s * 1000),
        "largest resident size of the daemon, kB": daemon.largest_kb,
        "from a build's end to Hivel, median, ms": waits[len(waits) // 2] if waits else 0,
        "from a build's end to Hivel, longest, ms": waits[-1] if waits else 0,
    }
    return Findings({**counts, **seen}, wrong)


def _count(outbox: Path, text: str) -> int:
    """How often the text stands in the files of the outbox."""
    files = (outbox, outbox.with_name(outbox.name + "-wal"))
    return sum(file.read_bytes().count(text.encode()) for file in files if file.exists())
