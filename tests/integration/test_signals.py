"""Signals that come when the daemon is between two readings of its configuration are neither lost nor its end."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.integration.support import Agent

if TYPE_CHECKING:
    from pathlib import Path

    from agent.sandbox.server import LocalServer

# Signals while the outbox is looked at, while a life begins, in a life, and while the last one begins.
PROGRAM = """
import os, signal, sys
from contextlib import asynccontextmanager
from pathlib import Path
from agent.daemon import service
from agent.config.file import load
from agent.model.times import Clock

def at(moment):
    number = signals.get(moment + str(lives))
    if number is not None:
        del signals[moment + str(lives)]
        os.kill(os.getpid(), number)

lives = 0
signals = {"mend0": signal.SIGHUP, "begin1": signal.SIGHUP, "ready2": signal.SIGHUP, "begin3": signal.SIGTERM}
mend, assembled = service.make_ready, service.assembled

def mend_and_be_told(*args):
    at("mend")
    mend(*args)

@asynccontextmanager
async def begin_and_be_told(*args):
    global lives
    lives += 1
    at("begin")
    async with assembled(*args) as parts:
        yield parts

def told(state):
    if state == "READY=1":
        at("ready")

service.make_ready, service.assembled, service.notify = mend_and_be_told, begin_and_be_told, told
service.run(load(Path(sys.argv[1])), Clock())
assert not signals, signals
os.kill(os.getpid(), signal.SIGHUP)  # too late, and no reason to die of it
"""


def run(program: str, agent: Agent) -> subprocess.CompletedProcess[str]:
    """Run a program that is given the agent's configuration."""
    return subprocess.run(
        [sys.executable, "-c", program, str(agent.config)],
        capture_output=True, text=True, timeout=240, env=agent.environment(), check=False,
    )  # fmt: skip


def test_a_signal_between_two_lives_of_the_daemon_reaches_the_next_one(
    jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path
) -> None:
    done = run(PROGRAM, Agent.configured(tmp_path, jenkins=jenkins_server, hivel=hivel_server))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("configuration reloaded") == 3
    assert "stopped" in done.stdout and "Traceback" not in done.stdout


# Each job is begun by the scheduler in the moment in which the daemon stops, and has not made its first step yet.
STOPPED_AT_A_BEGINNING = """
import os, signal, sys
from pathlib import Path
from agent.daemon import life, schedule, service
from agent.config.file import load
from agent.model.times import Clock

every = schedule.Schedule.every

def every_but_not_yet(self, seconds, work, *, name, first_in_s=0):
    return every(self, seconds, work, name=name, first_in_s=86_400)

def begin_everything_and_end(self, within_s, **how):
    for repeated in self._repeated:
        repeated.bring_forward()
    self._repeated[0]._job._scheduler._process_jobs()
    return end(self, within_s, **how)

end = life.Life.end
life.Life.end = begin_everything_and_end
schedule.Schedule.every = every_but_not_yet

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


STOPPED_BY_AN_IMPORT = """
import os, sys
name, number = sys.argv[1:]
class Finder:
    @staticmethod
    def find_spec(wanted, path, target=None):
        if wanted == name:
            os.kill(os.getpid(), int(number))
sys.meta_path.insert(0, Finder)
sys.argv = ["hivel-agent", "run"]
from agent.main import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_the_daemon_is_still_being_loaded_is_a_clean_end(number: int, tmp_path: Path) -> None:
    """It takes half a second until it listens to signals."""
    agent = Agent.configured(tmp_path, jenkins="http://127.0.0.1:1", hivel="http://127.0.0.1:1")
    for module in ("agent.cli.main", "agent.cli.run", "agent.daemon.service", "uvicorn"):
        done = subprocess.run(
            [sys.executable, "-c", STOPPED_BY_AN_IMPORT, module, str(int(number))], capture_output=True, text=True,
            timeout=240, env=agent.environment() | {"HIVEL_AGENT_CONFIG": str(agent.config)}, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), module
