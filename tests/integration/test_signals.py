"""Signals that come when the daemon is between two readings of its configuration are neither lost nor its end."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.integration.support import Agent

if TYPE_CHECKING:
    from pathlib import Path

    from agent.sandbox.server import LocalServer

# The daemon looks at its outbox before each of its lives, while no event loop runs.
PROGRAM = """
import os, signal, sys
from pathlib import Path
from agent.daemon import service
from agent.config.file import load
from agent.model.times import Clock

def tell(number):
    os.kill(os.getpid(), number)

def before_the_first_life():
    tell(signal.SIGHUP)
    signal.setitimer(signal.ITIMER_REAL, 0.3)  # and once more when it lives

actions = iter([before_the_first_life, lambda: tell(signal.SIGHUP), lambda: tell(signal.SIGTERM)])
mend = service._mend

def mend_and_be_told(*args):
    mend(*args)
    next(actions)()

signal.signal(signal.SIGALRM, lambda *_: tell(signal.SIGHUP))
service._mend = mend_and_be_told
service.run(load(Path(sys.argv[1])), Clock())
assert next(actions, None) is None
"""


def run(program: str, agent: Agent) -> subprocess.CompletedProcess[str]:
    """Run a program that is given the agent's configuration."""
    return subprocess.run(
        [sys.executable, "-c", program, str(agent.config)],
        capture_output=True, text=True, timeout=60, env=agent.environment(), check=False,
    )  # fmt: skip


def test_a_signal_between_two_lives_of_the_daemon_reaches_the_next_one(
    jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path
) -> None:
    done = run(PROGRAM, Agent.configured(tmp_path, jenkins=jenkins_server, hivel=hivel_server))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("configuration read anew") == 2


# Each job is begun by the scheduler in the moment in which the daemon stops, and has not made its first step yet.
STOPPED_AT_A_BEGINNING = """
import os, signal, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from agent.daemon import service
from agent.config.file import load
from agent.model.times import Clock

class Tomorrow(datetime):
    @classmethod
    def now(cls, zone):
        return datetime.now(zone) + timedelta(days=1)

service.datetime = Tomorrow  # nothing begins before the stop
pause = service.AsyncIOScheduler.pause

def begin_everything_and_pause(scheduler):
    for job in scheduler.get_jobs():
        job.modify(next_run_time=datetime.now(UTC))
    scheduler._process_jobs()
    pause(scheduler)

service.AsyncIOScheduler.pause = begin_everything_and_pause

def stop_when_ready(state):
    if state == "READY=1":
        os.kill(os.getpid(), signal.SIGTERM)

service.notify = stop_when_ready
service.run(load(Path(sys.argv[1])), Clock())
"""


def test_a_poll_that_begins_when_the_daemon_stops_comes_to_its_end(
    jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path
) -> None:
    done = run(STOPPED_AT_A_BEGINNING, Agent.configured(tmp_path, jenkins=jenkins_server, hivel=hivel_server))
    assert (done.returncode, done.stderr) == (0, "")
    assert "Traceback" not in done.stdout and "stopped" in done.stdout
