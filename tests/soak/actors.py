"""Who makes life hard in the long run; each acts at random moments in a thread of its own."""

from __future__ import annotations

import random
import signal
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from agent.sandbox.hivel import Fault
from tests.integration.support import REPO

if TYPE_CHECKING:
    import threading
    from collections import Counter

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer
    from tests.integration.support import Agent
    from tests.soak.daemon import Daemon

JOBS = [f"deploy/app-{index}" for index in range(12)]
RESULTS = {"SUCCESS": "success", "UNSTABLE": "failed", "FAILURE": "failed", "ABORTED": "canceled"}


class Actor(ABC):
    """Acts every so many seconds until it is over; what goes wrong in it is counted as a crash of the soak itself."""

    every_s = (1.0, 2.0)

    def __init__(self, rng: random.Random) -> None:
        self.rng = random.Random(rng.random())

    def act_until(self, over: threading.Event, counts: Counter[str]) -> None:
        """Run until ``over`` is set."""
        while not over.wait(self.rng.uniform(*self.every_s)):
            try:
                self.act(counts)
            except Exception as error:  # noqa: BLE001 - told at the end, and the others go on
                counts[f"failure of the soak itself: {error!r}"] += 1

    @abstractmethod
    def act(self, counts: Counter[str]) -> None:
        """Do one thing."""

    def calm(self) -> None:  # noqa: B027 - most have nothing to put in order
        """Leave everything in order."""


class Builds(Actor):
    """Starts builds and finishes them up to half a minute later, several of a job at a time and in any order."""

    every_s = (0.05, 0.6)

    def __init__(self, jenkins: LocalJenkins, rng: random.Random) -> None:
        super().__init__(rng)
        self._jenkins = jenkins
        self._running: list[tuple[float, str, int]] = []
        # By deployment_id: the status that Hivel must have, and when the build had ended (UTC ms).
        self.expected: dict[str, tuple[str, int]] = {}
        for job in JOBS:
            jenkins.add_job(job, "freestyle" if job.endswith("0") else "pipeline")

    def act(self, counts: Counter[str]) -> None:
        job = self.rng.choice(JOBS)
        number = self._jenkins.start_build(job, repo=REPO)
        ends_at = time.monotonic() + self.rng.choice([0.0, 0.0, 0.5, 5.0, 30.0]) * self.rng.random()
        self._running.append((ends_at, job, number))
        self._finish(time.monotonic())
        counts["builds started"] += 1

    def _finish(self, now: float) -> None:
        for build in [build for build in self._running if build[0] <= now]:
            _, job, number = build
            result = self.rng.choice(list(RESULTS))
            # Noted before: the daemon may be faster than this thread.
            self.expected[f"main:{job}#{number}"] = (RESULTS[result], self._jenkins.now_ms)
            self._jenkins.finish_build(job, number, result)
            self._running.remove(build)

    def calm(self) -> None:
        self._finish(float("inf"))


class TroubleAtHivel(Actor):
    """Everything that a server, a proxy or a network between does wrong, for some seconds or some requests."""

    every_s = (1.0, 6.0)

    def __init__(self, hivel: LocalHivel, server: LocalServer, rng: random.Random) -> None:
        super().__init__(rng)
        self._hivel, self._server = hivel, server

    def act(self, counts: Counter[str]) -> None:
        seconds = self.rng.uniform(0.2, 4.0)
        times = self.rng.randint(1, 6)
        name, fault = self.rng.choice([
            ("503", Fault(kind="status", status=503, seconds=seconds)),
            ("500", Fault(kind="status", status=500, times=times)),
            ("429 with Retry-After", Fault(kind="status", status=429, retry_after=1, seconds=seconds)),
            ("400", Fault(kind="status", status=400, times=times)),
            ("401", Fault(kind="status", status=401, seconds=seconds)),
            ("login page", Fault(kind="html", seconds=seconds)),
            ("redirect", Fault(kind="redirect", location="https://login.example.test/", seconds=seconds)),
            ("reset", Fault(kind="reset", times=times)),
            ("reset after it was stored", Fault(kind="reset", stored=True, times=times)),
            ("cut in the answer, stored", Fault(kind="cut", times=times)),
            ("time-out after it was stored", Fault(kind="silent", stored=True, times=times)),
            ("slow", Fault(kind="slow", delay=0.5, seconds=seconds)),
            ("connection refused", None),
        ])  # fmt: skip
        counts[f"Hivel: {name}"] += 1
        if fault is not None:
            self._hivel.fault(fault)
            return
        self._server.stop()
        time.sleep(seconds)
        self._server.start()

    def calm(self) -> None:
        self._hivel.clear_faults()


class TroubleAtJenkins(Actor):
    """Restarts: refused connections, the page of a Jenkins that starts, then everything is there again."""

    every_s = (20.0, 60.0)

    def __init__(self, jenkins: LocalJenkins, rng: random.Random) -> None:
        super().__init__(rng)
        self._jenkins = jenkins

    def act(self, counts: Counter[str]) -> None:
        counts["Jenkins: restarts"] += 1
        self._jenkins.clear_requests()
        self._jenkins.stop()
        time.sleep(self.rng.uniform(0.2, 2.0))
        self._jenkins.boot()
        time.sleep(self.rng.uniform(0.2, 2.0))
        self._jenkins.restart()


class Killer(Actor):
    """Ends the daemon in every way that there is, at any moment of its life, and starts it again."""

    every_s = (0.5, 9.0)
    # Now and then it is left in peace for so long that it deletes old events.
    PEACE_S = 70.0

    def __init__(self, daemon: Daemon, rng: random.Random) -> None:
        super().__init__(rng)
        self._daemon = daemon

    def act(self, counts: Counter[str]) -> None:
        daemon = self._daemon
        if self.rng.random() < 0.03:
            time.sleep(self.PEACE_S)
        if not daemon.runs:
            counts[f"failure: the daemon ended by itself with {daemon.wait()}"] += 1
            daemon.start()
            return
        match self.rng.choice(["kill", "kill", "kill at the start", "stop", "reload", "reload and kill"]):
            case "kill":
                counts["SIGKILL"] += 1
                daemon.kill()
                time.sleep(self.rng.choice([0.0, 0.0, 3.0]) * self.rng.random())
                daemon.start()
            case "kill at the start":
                counts["SIGKILL"] += 2
                daemon.kill()
                daemon.launch()
                time.sleep(self.rng.uniform(0.0, 1.5))
                daemon.kill()
                daemon.start()
            case "stop":
                counts["SIGTERM"] += 1
                if daemon.stop() != 0:
                    counts["failure: SIGTERM ended with another exit code than 0"] += 1
                daemon.start()
            case "reload":
                counts["SIGHUP"] += 1
                if not daemon.reload():
                    counts[f"failure: SIGHUP ended the daemon with {daemon.wait()}"] += 1
                    daemon.start()
            case _:
                counts["SIGHUP"] += 1
                counts["SIGKILL"] += 1
                daemon.signal(signal.SIGHUP)
                time.sleep(self.rng.uniform(0.0, 0.5))
                daemon.kill()
                daemon.start()


class Visitor(Actor):
    """A person at the command line: looks, and sends again what failed or was delivered."""

    every_s = (3.0, 10.0)

    def __init__(self, agent: Agent, rng: random.Random) -> None:
        super().__init__(rng)
        self._agent = agent

    def act(self, counts: Counter[str]) -> None:
        verb = self.rng.choice([
            ("queue", "list"), ("status",), ("replay", "--failed", "--yes"), ("replay", "--failed", "--yes"),
            ("replay", "--all-delivered", "--since", "30s", "--yes"),
        ])  # fmt: skip
        counts["verbs at the command line"] += 1
        done = self._agent.run(*verb)
        if "Traceback" in done.stderr or "locked" in done.stderr or done.returncode not in (0, 1):
            counts[f"failure of {verb[0]}: {done.stderr[-300:]}"] += 1
