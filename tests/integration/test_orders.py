"""Every order of arrival of hook and poller, with real processes in between: always one event at Hivel.

``HIVEL_ORDERS=FILE pytest tests/integration/test_orders.py`` writes what was seen into a table.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from agent.model.times import Clock
from agent.sandbox.hivel import Fault
from tests.engines import ENGINES
from tests.integration.doors import Doors
from tests.integration.support import REPO, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer
    from tests.engines import Engine
    from tests.integration.support import FakeClock

# One with a rule, and one whose builds deploy only when they say so.
JOBS = ("deploy/shop", "build/shop")
DAY = 86_400_000


@dataclass(frozen=True)
class Order:
    """``steps``: what happens, one after another. ``status`` and ``events`` (of each job) are those at Hivel."""

    name: str
    steps: str
    status: str = "failed"  # the builds report success, and end unstable
    events: tuple[int, int] = (1, 1)
    hold_for: str = "1h"
    skew_ms: int = 0


ORDERS = [
    Order("report, end, poll", "up start report finish seen"),
    Order("end, report, poll", "up start jenkins-down report finish jenkins-up seen"),
    Order("end, poll, report", "up start finish polled report seen"),
    Order("report, end, poll, the same report again", "up start report finish seen report"),
    Order("report, crash, end, start, poll", "up start report kill finish up seen"),
    Order("crash, report, end, start, poll", "up start kill report finish up seen"),
    Order("end, poll, crash, report, start", "up start finish polled kill report up seen"),
    Order(
        "report, end, poll, crash before the delivery",
        "up hivel-down start report finish stored kill hivel-up up seen",
    ),
    Order("report, poller never", "up start jenkins-down report seen", status="success", hold_for="1s"),
    Order("report, crash, poller never", "up start jenkins-down report kill up seen", status="success", hold_for="1s"),
    Order(
        "report, poller too late", "up start jenkins-down report seen finish jenkins-up", status="success",
        hold_for="1s",
    ),
    Order("report, end, poll, Jenkins a day ahead", "up start report finish seen", skew_ms=DAY),
    Order("end, poll, report, Jenkins a day behind", "up start finish polled report seen", skew_ms=-DAY),
    Order("end, poll, no report", "up start finish polled", events=(1, 0)),
]  # fmt: skip


@dataclass
class Play:
    """A build of each job for each door, and what happens to them."""

    doors: Doors
    engine: Engine
    jenkins: LocalJenkins
    hivel: LocalHivel
    builds: list[tuple[str, str, int]] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None

    def up(self) -> None:
        self.process = self.doors.begin()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None
        self.engine.let_claims_run_out()

    def start(self) -> None:
        for job in JOBS:
            for door in ("emit", "intake", "spool"):
                self.builds.append((door, job, self.jenkins.start_build(job, repo=REPO)))

    def finish(self) -> None:
        for _, job, number in self.builds:
            self.jenkins.finish_build(job, number, "UNSTABLE")

    def report(self) -> None:
        for door, job, number in self.builds:
            report = {
                "job": job, "build_number": str(number), "status": "SUCCESS", "repo_url": REPO, "branch": "main",
                "environment": "production", "image": f"{job}:{number}",
            }  # fmt: skip
            if door == "intake" and self.process is not None:
                assert self.doors.post(report).status_code == 202
            elif door == "spool":
                (self.doors.spool / f".{number}").write_text(json.dumps(report))
                (self.doors.spool / f".{number}").rename(self.doors.spool / f"{job.replace('/', '-')}-{number}.json")
            else:  # who gets no answer from the intake takes the door that is always open
                options = [word for name, text in report.items() for word in (f"--{name.replace('_', '-')}", text)]
                subprocess.run(
                    [sys.executable, "-c", "from agent.main import main; main()", "emit", "--strict", *options,
                     "--config", str(self.doors.config)],
                    env=self.doors.environment() | {"PYTHONPATH": str(Path(__file__).parents[2])},
                    check=True, stdout=subprocess.DEVNULL,
                )  # fmt: skip

    def jenkins_down(self) -> None:
        self.jenkins.stop()

    def jenkins_up(self) -> None:
        self.jenkins.restart()

    def hivel_down(self) -> None:
        self.hivel.fault(Fault(kind="reset"))

    def hivel_up(self) -> None:
        self.hivel.clear_faults()

    def polled(self) -> None:
        """The events of the job with a rule are at Hivel."""
        wait_until(lambda: len(self.arrived()) == 3, "what the poller found is at Hivel")

    def stored(self) -> None:
        wait_until(lambda: self.counts() == (6, 0), "all events are final, and wait for Hivel")

    def counts(self) -> tuple[int, int]:
        events = self.doors.json("status")["events"]
        return events["pending"], events["held"]

    def seen(self) -> None:
        wait_until(lambda: len(self.arrived()) >= 6, "everything is at Hivel", 240)

    def arrived(self) -> list[str]:
        return [deployment.event.deployment_id for deployment in self.hivel.deployments()]

    def settle(self) -> None:
        """Everything is read, taken up and sent: two more polls go by, and nothing waits."""
        before = self.polls()
        wait_until(lambda: self.polls() >= before + 2, "it has polled twice more")
        wait_until(lambda: list(self.doors.spool.glob("*.json")) == [], "the spool folder is empty")
        wait_until(lambda: self.counts() == (0, 0), "nothing waits")

    def polls(self) -> int:
        url = re.findall(r"what=monitoring url=(\S+)", self.doors.log())[-1]
        text = httpx.get(url + "/metrics").text
        return sum(int(float(n)) for n in re.findall(r"(?m)^hivel_agent_poll_duration_seconds_count\S* (\S+)$", text))


TABLE: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """What was seen, into the file that was asked for."""
    yield
    if name := os.environ.get("HIVEL_ORDERS"):
        head = "| order | what happened | jobs with a rule | jobs without | status at Hivel |\n|---|---|---|---|---|\n"
        Path(name).write_text(head + "".join(f"{line}\n" for line in TABLE))


@pytest.mark.parametrize(
    ("engine", "order"),
    [
        pytest.param(engine, order, id=f"{engine}: {order.name}")
        for order in ORDERS
        for engine in ENGINES
        if engine == "sqlite" or "kill" in order.steps
    ],
    indirect=["engine"],
)
def test_there_is_one_event_at_hivel(
    order: Order, clock: FakeClock, jenkins: LocalJenkins, jenkins_server: LocalServer, hivel: LocalHivel,
    hivel_server: LocalServer, engine: Engine, tmp_path: Path,
) -> None:  # fmt: skip
    clock.jump(ms=Clock().now_ms() - clock.now_ms())
    jenkins.skew_ms = order.skew_ms
    for job in JOBS:
        jenkins.add_job(job)
    doors = Doors.opened(tmp_path, jenkins=jenkins_server, hivel=hivel_server, hook=f'hold_for = "{order.hold_for}"')
    doors.store_in(engine.url)
    play = Play(doors, engine, jenkins, hivel)
    try:
        for step in order.steps.split():
            getattr(play, step.replace("-", "_"))()
        play.settle()
    finally:
        if play.process is not None:
            play.kill()
    found = Counter(play.arrived())
    expected = {f"main:{job}#{number}": 1 for _, job, number in play.builds if order.events[JOBS.index(job)]}
    assert found == expected
    statuses = {deployment.event.status for deployment in hivel.deployments()}
    assert statuses == {order.status}
    by_job = [sum(name.startswith(f"main:{job}#") for name in found) for job in JOBS]
    TABLE.append(
        f"| {order.name} | {order.steps.replace(' ', ', ')} | {by_job[0]} of 3 builds | {by_job[1]} of 3 builds"
        f" | {', '.join(sorted(statuses))} |"
    )
