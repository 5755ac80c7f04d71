"""How long a controller is polled by nobody when its agent dies or stops: from the signal to the first poll by another.

``python -m tests.benchmarks.failover`` runs it; see README.md beside this file.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING

from tests.benchmarks.output import machine, say, table, target
from tests.integration.support import wait_until
from tests.postgresql.cluster import running_cluster
from tests.postgresql.fleet import Fleet

if TYPE_CHECKING:
    from tests.postgresql.fleet import Running

AGENTS = 4
CONTROLLERS = 24
LIMIT_S = 300.0


class Measurement:
    """The agents, and what was measured so far: for each signal, the seconds of each controller."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._running = [fleet.start(f"agent-{number}", wait=False) for number in range(AGENTS)]
        self.seconds: dict[signal.Signals, list[float]] = {signal.SIGKILL: [], signal.SIGTERM: []}
        self.signals = dict.fromkeys(self.seconds, 0)

    def settle(self) -> None:
        """Until every agent polls something."""
        wait_until(self._has_settled, "every agent polls something", LIMIT_S)

    def _has_settled(self) -> bool:
        return all(self._fleet.front.polled_by(each.user) for each in self._running)

    def end(self, how: signal.Signals, at_once: int, rng: random.Random) -> None:
        """End agents, start them again at once as a service manager does, and wait until all is polled again."""
        victims = rng.sample(self._running, at_once)
        waiting = []
        for victim in victims:
            held = self._fleet.front.polled_by(victim.user)
            sent = time.monotonic()
            victim.process.send_signal(how)
            waiting.append((victim.user, held, sent))
            self.signals[how] += 1
        for victim in victims:
            victim.process.wait()
            self._replace(victim)
        for user, held, sent in waiting:
            for controller in held:
                self.seconds[how].append(self._taken_over(controller, user, sent) - sent)

    def _replace(self, victim: Running) -> None:
        self._fleet.running.remove(victim)
        self._running[self._running.index(victim)] = self._fleet.start(victim.name, wait=False)

    def _taken_over(self, controller: str, user: str, sent: float) -> float:
        front = self._fleet.front
        wait_until(lambda: front.taken_over(controller, user, sent) is not None, f"{controller} is polled", LIMIT_S)
        return front.taken_over(controller, user, sent) or 0.0


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--kills", type=int, default=100)
    arguments.add_argument("--stops", type=int, default=40)
    arguments.add_argument("--at-once", type=int, default=2, help="agents that are killed at the same time")
    arguments.add_argument("--lease", type=float, default=15.0, help="seconds")
    given = arguments.parse_args()
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    machine("psycopg")
    rng = random.Random(1)
    with running_cluster(fsync=True) as cluster, tempfile.TemporaryDirectory(prefix="failover-") as folder:
        database = cluster.new_outbox()
        fleet = Fleet(
            Path(folder), cluster, database, cluster.url(database), CONTROLLERS, given.lease, poll_interval="2s"
        )
        with fleet:
            measurement = Measurement(fleet)
            for how, times, at_once in ((signal.SIGTERM, given.stops, 1), (signal.SIGKILL, given.kills, given.at_once)):
                while measurement.signals[how] < times:
                    measurement.settle()
                    time.sleep(rng.uniform(0, given.lease / 3))  # at any moment between two renewals
                    measurement.end(how, min(at_once, times - measurement.signals[how]), rng)
    _report(measurement, given.lease)


def _report(measurement: Measurement, lease_s: float) -> None:
    rows, worst = [], {}
    for how, seconds in measurement.seconds.items():
        if len(seconds) < 2:
            continue
        worst[how] = quantiles(seconds, n=100, method="inclusive")[98]
        values = (median(seconds), worst[how], max(seconds))
        rows.append([how.name, str(measurement.signals[how]), str(len(seconds)), *(f"{each:.2f}" for each in values)])
    say(f"\n{AGENTS} agents, {CONTROLLERS} controllers, lease {lease_s:g} s; seconds until another process polls:\n")
    table(("", "signals", "controllers", "p50", "p99", "max"), rows)
    say(f"\nload now {os.getloadavg()[0]:.1f}")
    for how, limit in ((signal.SIGKILL, lease_s + 5), (signal.SIGTERM, 2.0)):
        if how in worst:
            target(f"p99 after {how.name}, s", worst[how], below=limit)


if __name__ == "__main__":
    main()
