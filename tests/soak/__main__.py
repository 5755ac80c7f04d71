"""A long run: a Jenkins that builds all the time, a Hivel that misbehaves, both hostile now and then, and a daemon that
is killed at random and may take 256 MB of memory.

``make soak`` takes 20 minutes, ``make soak SOAK_MINUTES=2`` two. At the end it is counted what was lost and what was
doubled; the exit code is 1 when that is not nothing. ``SOAK_SEED=n`` plays the same troubles again, if not at the
same moments.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.sandbox.hivel import LocalHivel
from agent.sandbox.jenkins import LocalJenkins
from agent.sandbox.server import LocalServer
from tests.integration.support import Agent
from tests.soak.actors import Builds, Killer, TroubleAtHivel, TroubleAtJenkins, Visitor
from tests.soak.daemon import Daemon
from tests.soak.findings import Findings, look_at
from tests.soak.hostile import Crowd, Front, Hostile, Watcher
from tests.soak.memory import bounded

if TYPE_CHECKING:
    from collections.abc import Callable

# How long what is left over may take to arrive once all troubles are over.
AFTERWARDS_S = 180.0
# As MemoryMax of the unit would be; where the system lets us.
MEMORY_BYTES = 256 * 1024 * 1024


def main() -> int:
    """Play, then count; returns the exit code."""
    minutes = float(os.environ.get("SOAK_MINUTES", "20"))
    seed = int(os.environ.get("SOAK_SEED", str(int(time.time()))))
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # the faults are on purpose
    say(f"{minutes:g} minutes, SOAK_SEED={seed}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hivel-soak-")))
        findings = play(folder, minutes * 60, random.Random(seed), stack)
        say(findings.table())
        if not findings.as_promised:
            say(f"\nThe end of the daemon's log:\n{(folder / 'agent.log').read_text()[-5_000:]}")
        return 0 if findings.as_promised else 1


def play(folder: Path, seconds: float, rng: random.Random, stack: ExitStack) -> Findings:
    """The run itself: the troubles, the quiet at the end, and what was found."""
    jenkins, hivel = LocalJenkins(), LocalHivel()
    stack.callback(hivel.close)
    before_jenkins, before_hivel = Front(jenkins.app), Front(hivel.app)
    jenkins_server = stack.enter_context(LocalServer(before_jenkins))
    hivel_server = stack.enter_context(LocalServer(before_hivel))
    agent = Agent.configured(folder, jenkins=jenkins_server, hivel=hivel_server, backoff_max="3s", timeout="2s")
    agent.config.write_text(
        agent.config.read_text().replace(
            'path = "outbox.db"', 'path = "outbox.db"\nkeep_delivered = "3m"\nkeep_deployments = "3m"'
        )
    )
    memory = stack.enter_context(bounded(MEMORY_BYTES))
    daemon = stack.enter_context(Daemon(agent, memory))
    builds = Builds(jenkins, rng)
    troubles = [
        builds, TroubleAtHivel(hivel, hivel_server, rng), TroubleAtJenkins(jenkins, rng), Killer(daemon, rng),
        Visitor(agent, rng), Crowd(agent, rng), Hostile("Hivel", before_hivel, rng),
        Hostile("Jenkins", before_jenkins, rng, ("", "/job/", "/computer/")),
    ]  # fmt: skip
    counts: Counter[str] = Counter()
    daemon.start()
    started = time.monotonic()
    watcher = Watcher(agent)
    watcher.start()
    over = threading.Event()
    threads = [threading.Thread(target=trouble.act_until, args=(over, counts)) for trouble in troubles]
    for thread in threads:
        thread.start()
    _sample(agent, counts, until=started + seconds)
    over.set()
    for thread in threads:
        thread.join()
    for trouble in troubles:
        trouble.calm()
    watcher.end()
    counts["/healthz: answers"], counts["/healthz: longest wait, ms"] = watcher.answers, watcher.longest_ms
    if memory is not None:
        counts["most memory of the daemon with its files in the cache, kB"] = memory.peak_kb()
    daemon.ensure_running()
    agent.run("replay", "--failed", "--yes")
    quiet = time.monotonic()
    _wait(lambda: {d.event.deployment_id for d in hivel.deployments()} >= builds.expected.keys())
    _wait(lambda: _pending(agent) == 0)
    counts["seconds until all had arrived"] = round(time.monotonic() - quiet)
    counts["exit code of the last stop"] = daemon.stop()
    counts["seconds"] = round(time.monotonic() - started)
    return look_at(agent, hivel, builds.expected, daemon, counts)


def _sample(agent: Agent, counts: Counter[str], *, until: float) -> None:
    """Note how large things become."""
    waiter = threading.Event()
    while (left := until - time.monotonic()) > 0:
        waiter.wait(min(left, 2.0))
        for name, suffix in (("largest outbox, kB", ""), ("largest log beside it, kB", "-wal")):
            file = agent.outbox.with_name(agent.outbox.name + suffix)
            try:
                counts[name] = max(counts[name], file.stat().st_size // 1000)
            except FileNotFoundError:
                continue


def _wait(condition: Callable[[], bool]) -> None:
    """Until it holds or the time is over: what is missing then is told by the count."""
    deadline = time.monotonic() + AFTERWARDS_S
    waiter = threading.Event()
    while not condition() and time.monotonic() < deadline:
        waiter.wait(0.5)


def _pending(agent: Agent) -> int:
    with SqliteOutbox(agent.outbox, Clock()) as outbox:
        return outbox.counts().pending


def say(text: str) -> None:
    """To whoever waits."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
