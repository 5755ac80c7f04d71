"""A long run of three agents on one PostgreSQL: 50 controllers that build all the time, a Hivel that misbehaves, agents
that are killed, frozen, stopped and handed over, and a database that is restarted.

``make soak-fleet`` takes 20 minutes, ``make soak-fleet SOAK_MINUTES=2`` two. At the end it is counted what was lost and
what was doubled, and the log of epochs is checked: no two agents may have been inside the fence of a controller. The
exit code is 1 if anything is wrong. ``SOAK_SEED=n`` plays the same troubles again, if not at the same moments.
``SOAK_KEEP=folder`` keeps the logs and the log of epochs.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tests.postgresql.cluster import missing, running_cluster
from tests.postgresql.fleet import Fleet
from tests.soak.__main__ import say
from tests.soak.actors import TroubleAtHivel
from tests.soak.fleet.actors import EXTRA, SECRETS, Builds, Database, Expected, Fate, Reports, Restarts, Webhooks
from tests.soak.fleet.epochs import begin_log
from tests.soak.fleet.findings import failovers, logs, look_at
from tests.soak.fleet.seats import Seat, Spans

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.soak.actors import Actor

AGENTS = 3
CONTROLLERS = 50
# Shorter than the usual 15 s, so that more agents can be killed in the time.
LEASE_S = 3.0
# Requests that are never answered must not keep the deliveries busy all the time.
DELIVERY_TIMEOUT = "1s"
# How long what is left over may take to arrive once all troubles are over.
AFTERWARDS_S = 300.0


def main() -> int:
    """Play, then count; returns the exit code."""
    if (why := missing()) is not None:
        say(f"the soak of a fleet {why}")
        return 1
    minutes = float(os.environ.get("SOAK_MINUTES", "20"))
    seed = int(os.environ.get("SOAK_SEED", str(int(time.time()))))
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # the faults are on purpose
    say(f"{minutes:g} minutes, SOAK_SEED={seed}, {AGENTS} agents, {CONTROLLERS} controllers, lease {LEASE_S:g} s")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hivel-soak-")))
        cluster = stack.enter_context(running_cluster(fsync=True, max_connections=200, track_commit_timestamp="on"))
        database = cluster.new_outbox()
        fleet = stack.enter_context(
            Fleet(
                folder, cluster, database, cluster.url(database), CONTROLLERS, LEASE_S,
                poll_interval="2s", delivery_timeout=DELIVERY_TIMEOUT, extra=EXTRA, secrets=SECRETS,
            )
        )  # fmt: skip
        begin_log(fleet)
        return play(fleet, minutes * 60, random.Random(seed))


def play(fleet: Fleet, seconds: float, rng: random.Random) -> int:
    """The run itself, the quiet at its end, and what was found; returns the exit code."""
    seats = [Seat(fleet, f"agent-{number}") for number in range(AGENTS)]
    expected, away, counts = Expected(), Spans(), Counter[str]()
    senders = [Reports(seats, expected, rng), Webhooks(seats, expected, rng)]
    troubles: list[Actor] = [
        Builds(fleet.jenkins, expected, rng), Restarts(fleet.jenkins, rng), *senders,
        TroubleAtHivel(fleet.hivel, fleet.hivel_server, rng), *(Fate(seat, LEASE_S, rng) for seat in seats),
    ]  # fmt: skip
    for seat in seats:
        seat.start()
    started = time.monotonic()
    trouble_for(seconds, troubles, Database(fleet.cluster, away, LEASE_S, rng), counts)
    counts["seconds of trouble"] = round(time.monotonic() - started)
    seats[0].running.agent.run("replay", "--failed", "--yes")
    quiet = time.monotonic()
    wait(lambda: not any(sender.waiting for sender in senders), lambda: [each.act(counts) for each in senders])
    wait(lambda: {each.event.deployment_id for each in fleet.hivel.deployments()} >= expected.all.keys())
    wait(lambda: fleet.execute("SELECT count(*) FROM deployments WHERE state IN ('pending', 'held')") == [(0,)])
    counts["seconds until all had arrived"] = round(time.monotonic() - quiet)
    for code in [seat.stop() for seat in seats]:
        counts["failure: exit code of the last stop"] += code
    findings, proof = look_at(fleet, seats, expected, counts)
    say(f"{findings.table()}\n\n{failovers(fleet, seats, away)}")
    if (folder := os.environ.get("SOAK_KEEP")) is not None:
        keep(Path(folder), fleet, seats, proof.log())
    return 0 if findings.as_promised else 1


def trouble_for(seconds: float, troubles: Sequence[Actor], database: Database, counts: Counter[str]) -> None:
    """Let all of them act for so long, then put everything in order.

    The database acts in this thread: the server dies with the thread that started it.
    """
    over = threading.Event()
    threads = [threading.Thread(target=trouble.act_until, args=(over, counts)) for trouble in troubles]
    end = threading.Timer(seconds, over.set)
    for thread in (*threads, end):
        thread.start()
    try:
        database.act_until(over, counts)
    finally:
        over.set()
        end.cancel()
    for thread in threads:
        thread.join()
    for trouble in troubles:
        trouble.calm()


def wait(condition: Callable[[], bool], meanwhile: Callable[[], object] = lambda: None) -> None:
    """Until it holds or the time is over: what is missing then is told by the count."""
    deadline = time.monotonic() + AFTERWARDS_S
    waiter = threading.Event()
    while not condition() and time.monotonic() < deadline:
        meanwhile()
        waiter.wait(0.5)


def keep(folder: Path, fleet: Fleet, seats: Sequence[Seat], epochs: str) -> None:
    """Copy what a person may want to read."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "epochs.csv").write_text(epochs)
    (folder / "postgresql.log").write_text(fleet.cluster.log())
    for seat in seats:
        for file in logs(fleet, seat):
            shutil.copy(file, folder / f"{seat.name}.{file.name}")


if __name__ == "__main__":
    sys.exit(main())
