"""SIGKILL at random moments: after any number of crashes every build is at Hivel exactly once."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

from agent.sandbox.hivel import Fault
from tests.engines import on_both_engines
from tests.integration.support import REPO, Agent, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer
    from tests.engines import Engine

BUILDS = 200
KILLS = 20


@on_both_engines
def test_after_20_kills_200_builds_are_at_hivel_exactly_once(
    jenkins: LocalJenkins, hivel: LocalHivel, jenkins_server: LocalServer, hivel_server: LocalServer, engine: Engine,
    tmp_path: Path,
) -> None:  # fmt: skip
    rng = random.Random(20_261_123)
    jobs = [f"deploy/app-{index}" for index in range(10)]
    for job in jobs:
        jenkins.add_job(job)
    agent = Agent.configured(tmp_path, jenkins=jenkins_server, hivel=hivel_server)
    agent.store_in(engine.url)
    expected: set[str] = set()
    hivel.fault(Fault(kind="slow", delay=0.02))  # so that kills meet requests under way
    for kill in range(1, KILLS + 1):
        if kill == KILLS:  # on a fast machine, too, something is left for afterwards
            hivel.clear_faults()
            hivel.fault(Fault(kind="status", status=503, times=1_000))
        for _ in range(BUILDS // KILLS):
            job = rng.choice(jobs)
            [number] = jenkins.add_builds(job, 1, repo=REPO)
            expected.add(f"main:{job}#{number}")
        asked = len(jenkins.requests)
        process = agent.start()
        # On PostgreSQL first the lease of the one that was killed has to expire.
        wait_until(lambda asked=asked: len(jenkins.requests) > asked, "the daemon polls")
        if kill % 4 == 1:  # on a slow machine, too, some of the kills come after a delivery
            had = len(hivel.deployments())
            wait_until(lambda had=had: len(hivel.deployments()) > had, "something has arrived")
        # The moment of the kill is what is tested: anywhere between poll, commit, POST and settling.
        threading.Event().wait(rng.uniform(0, 0.25))
        process.kill()
        process.wait()
        engine.let_claims_run_out()
    assert len(expected) == BUILDS
    hivel.clear_faults()
    before_the_last = len(hivel.deployments())
    started = agent.log().count("event=started")
    process = agent.start()
    wait_until(lambda: len(hivel.deployments()) == BUILDS, "every build has arrived")
    wait_until(lambda: agent.log().count("event=started") > started, "the daemon has started")
    process.terminate()
    assert process.wait(120) == 0
    arrived = [deployment.event.deployment_id for deployment in hivel.deployments()]
    assert sorted(arrived) == sorted(expected)
    counts = agent.json("status")["events"]
    assert counts == {"pending": 0, "held": 0, "delivered": BUILDS, "failed": 0, "discarded": 0}
    assert 0 < before_the_last < BUILDS, "the kills were all too early or too late to prove anything"
    sent_again = sum(deployment.times_posted - 1 for deployment in hivel.deployments())
    print(f"{KILLS} kills, {BUILDS} builds: {before_the_last} at Hivel before the last start, {sent_again} sent again")  # noqa: T201
