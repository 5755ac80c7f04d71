"""Who makes life hard for a fleet; each acts at random moments in a thread of its own."""

from __future__ import annotations

import signal
import time
from abc import abstractmethod
from itertools import count
from typing import TYPE_CHECKING, Any

import httpx

from tests import webhooks
from tests.integration.hooked import deployment_status
from tests.integration.support import REPO
from tests.soak.actors import RESULTS, Actor

if TYPE_CHECKING:
    import random
    from collections import Counter
    from collections.abc import Sequence

    from agent.sandbox.jenkins import LocalJenkins
    from tests.postgresql.cluster import Cluster
    from tests.soak.fleet.seats import Seat, Spans

JOBS = ("deploy/shop", "deploy/api")
HOOK = "github"
MOST_WAITING = 20
EXTRA = f"""
[webhooks]
listen = "127.0.0.1:0"

[[webhook]]
name = "{HOOK}"
platform = "github"
secret_file = "github.secret"

[[webhook.rule]]
name = "Deploy"
environment = "staging"
"""
SECRETS = {"github.secret": webhooks.SECRET}


class Expected:
    """What Hivel must have at the end: by deployment_id, the status and when it was known first (UTC ms)."""

    def __init__(self) -> None:
        self.all: dict[str, tuple[str, int]] = {}

    def add(self, deployment_id: str, status: str, at_ms: int) -> None:
        self.all[deployment_id] = (status, at_ms)


class Builds(Actor):
    """Starts builds on all controllers, and finishes them up to ten seconds later."""

    every_s = (0.05, 0.4)

    def __init__(self, jenkins: dict[str, LocalJenkins], expected: Expected, rng: random.Random) -> None:
        super().__init__(rng)
        self._jenkins = jenkins
        self._expected = expected
        self._running: list[tuple[float, str, str, int]] = []
        for each in jenkins.values():
            for job in JOBS:
                if not each.has_job(job):
                    each.add_job(job)

    def act(self, counts: Counter[str]) -> None:
        controller, job = self.rng.choice(list(self._jenkins)), self.rng.choice(JOBS)
        number = self._jenkins[controller].start_build(job, repo=REPO)
        ends_at = time.monotonic() + self.rng.choice([0.0, 0.5, 10.0]) * self.rng.random()
        self._running.append((ends_at, controller, job, number))
        self._finish(time.monotonic())
        counts["builds started"] += 1

    def _finish(self, now: float) -> None:
        for build in [build for build in self._running if build[0] <= now]:
            _, controller, job, number = build
            jenkins, result = self._jenkins[controller], self.rng.choice(list(RESULTS))
            self._expected.add(f"{controller}:{job}#{number}", RESULTS[result], jenkins.now_ms)
            jenkins.finish_build(job, number, result)
            self._running.remove(build)

    def calm(self) -> None:
        self._finish(float("inf"))


class Restarts(Actor):
    """One of the controllers is restarted."""

    every_s = (5.0, 30.0)

    def __init__(self, jenkins: dict[str, LocalJenkins], rng: random.Random) -> None:
        super().__init__(rng)
        self._jenkins = jenkins

    def act(self, counts: Counter[str]) -> None:
        jenkins = self.rng.choice(list(self._jenkins.values()))
        counts["Jenkins: restarts"] += 1
        jenkins.stop()
        time.sleep(self.rng.uniform(0.2, 5.0))
        jenkins.boot()
        time.sleep(self.rng.uniform(0.2, 2.0))
        jenkins.restart()


class Sender(Actor):
    """Sends something to any of the agents until one has accepted it, as a careful CI system does."""

    every_s = (0.3, 2.0)
    TIMEOUT_S = 3.0

    def __init__(self, seats: Sequence[Seat], expected: Expected, rng: random.Random) -> None:
        super().__init__(rng)
        self._seats = seats
        self._expected = expected
        self._numbers = count(1)
        self._waiting: dict[int, Any] = {}
        self._over = False

    def act(self, counts: Counter[str]) -> None:
        if len(self._waiting) < MOST_WAITING and not self._over:
            number = next(self._numbers)
            self._waiting[number] = self.make(number)
        if not self._waiting:
            return
        number, content = next(iter(self._waiting.items()))
        seat = self.rng.choice(self._seats)
        try:
            answer = self.post(seat, number, content)
        except (httpx.HTTPError, AssertionError, OSError):  # it is down, or stands still
            counts[f"{self.what}: sent again"] += 1
            return
        if answer.status_code == 503:
            counts[f"{self.what}: answered with 503"] += 1
        elif answer.status_code != 202:
            counts[f"failure: {self.what} answered {answer.status_code} {answer.text[:300]}"] += 1
            del self._waiting[number]
        else:
            counts[f"{self.what}: accepted"] += 1
            self._expected.add(self.name_of(number), "success", time.time_ns() // 1_000_000)
            del self._waiting[number]

    @property
    def what(self) -> str:
        return type(self).__name__.lower()

    def calm(self) -> None:
        self._over = True

    @property
    def waiting(self) -> int:
        """How many nobody has accepted."""
        return len(self._waiting)

    @abstractmethod
    def name_of(self, number: int) -> str:
        """The deployment_id."""

    @abstractmethod
    def make(self, number: int) -> Any:
        """What is sent."""

    @abstractmethod
    def post(self, seat: Seat, number: int, content: Any) -> httpx.Response:
        """Send it to this agent."""


class Reports(Sender):
    """Reports of another CI system to the intake."""

    def name_of(self, number: int) -> str:
        return f"soak-{number}:production"

    def make(self, number: int) -> Any:
        return {
            "provider": "gitlab_ci", "run": f"soak-{number}", "environment": "production", "status": "success",
            "repo_url": REPO, "branch": "main",
        }  # fmt: skip

    def post(self, seat: Seat, number: int, content: Any) -> httpx.Response:
        url = f"{seat.running.url('intake')}/v1/events"
        headers = {"Authorization": "Bearer sandbox-token"}
        return httpx.post(url, json=content, headers=headers, timeout=self.TIMEOUT_S, trust_env=False)


class Webhooks(Sender):
    """Webhooks of GitHub. Each is sent with its own id until it is accepted."""

    def name_of(self, number: int) -> str:
        return f"github_actions:acme/shop#{number}/deploy:production"

    def make(self, number: int) -> Any:
        return deployment_status(workflow_run__id=number)

    def post(self, seat: Seat, number: int, content: Any) -> httpx.Response:
        url = f"{seat.running.url('webhooks')}/v1/hooks/{HOOK}"
        headers = webhooks.github(content, "deployment_status", delivery=f"delivery-{number}")
        body = webhooks.encoded(content)
        return httpx.post(url, content=body, headers=headers, timeout=self.TIMEOUT_S, trust_env=False)


class Fate(Actor):
    """What happens to one agent: it is killed, frozen for longer than a lease, stopped, handed over, reloaded."""

    every_s = (2.0, 25.0)

    def __init__(self, seat: Seat, lease_s: float, rng: random.Random) -> None:
        super().__init__(rng)
        self._seat = seat
        self._lease_s = lease_s

    def act(self, counts: Counter[str]) -> None:
        seat = self._seat
        if not seat.runs:
            counts[f"failure: an agent ended by itself with {seat.running.process.wait()}"] += 1
            seat.start()
            return
        what = self.rng.choice(
            ["kill", "kill", "kill", "kill at the start", "freeze", "freeze", "freeze and kill", "stop", "stop",
             "handover", "reload"]
        )  # fmt: skip
        counts[f"agents: {what}"] += 1
        getattr(self, "_" + what.replace(" ", "_"))(counts)

    def _kill(self, _: Counter[str]) -> None:
        self._seat.kill()
        time.sleep(self.rng.choice([0.0, 2 * self._lease_s]) * self.rng.random())
        self._seat.start()

    def _kill_at_the_start(self, _: Counter[str]) -> None:
        self._seat.kill()
        self._seat.start(wait=False)
        time.sleep(self.rng.uniform(0.0, 6.0))
        self._seat.kill()
        self._seat.start()

    def _freeze(self, _: Counter[str]) -> None:
        self._seat.freeze()
        time.sleep(self.rng.uniform(1.2, 5.0) * self._lease_s)
        self._seat.thaw()

    def _freeze_and_kill(self, _: Counter[str]) -> None:
        self._seat.freeze()
        time.sleep(self.rng.uniform(0.1, 3.0) * self._lease_s)
        self._seat.thaw()
        time.sleep(self.rng.uniform(0.0, 0.3))
        self._kill(_)

    def _stop(self, counts: Counter[str]) -> None:
        if (code := self._seat.stop()) != 0:
            counts[f"failure: SIGTERM ended an agent with {code}"] += 1
        self._seat.start()

    def _handover(self, counts: Counter[str]) -> None:
        done = self._seat.running.agent.run("handover")
        counts[f"handovers that ended with {done.returncode}"] += 1
        if "Traceback" in done.stderr:
            counts[f"failure of handover: {done.stderr[-300:]}"] += 1
        self._stop(counts)

    def _reload(self, _: Counter[str]) -> None:
        self._seat.running.process.send_signal(signal.SIGHUP)

    def calm(self) -> None:
        if not self._seat.runs:
            self._seat.start()


class Database(Actor):
    """Stops the database in either way, for a moment or for longer than a lease."""

    every_s = (15.0, 60.0)

    def __init__(self, cluster: Cluster, away: Spans, lease_s: float, rng: random.Random) -> None:
        super().__init__(rng)
        self._cluster = cluster
        self._away = away
        self._lease_s = lease_s

    def act(self, counts: Counter[str]) -> None:
        how = self.rng.choice([signal.SIGQUIT, signal.SIGINT])
        counts[f"database: {'immediate' if how is signal.SIGQUIT else 'fast'} stops"] += 1
        with self._away.running():
            self._cluster.stop(how)
            time.sleep(self.rng.choice([0.0, 0.0, 2 * self._lease_s]) * self.rng.random())
            self._cluster.start()
