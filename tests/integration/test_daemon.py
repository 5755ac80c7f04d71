"""The daemon's life: what systemd hears, signals at any moment, stops within their time, a clock that is set."""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import socket
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from agent.sandbox.hivel import Fault
from tests.integration.disks import mounted
from tests.integration.doors import Doors
from tests.integration.support import REPO, Agent, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.types import Receive, Scope, Send

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer

JOB = "deploy/shop"
# The agent with less patience at its end than 25 seconds.
IMPATIENT = "import agent.daemon.service; agent.daemon.service.STOP_S = 0.5; from agent.main import main; main()"
# The same, and nothing ends the waiting for an answer, as when the resolver hangs.
HANGING = "import agent.daemon.composition as c; c.Controller.cancel = lambda self: None; " + IMPATIENT
# The agent on a machine whose wall clock is as many seconds off as a file says.
SKEWED = """
import datetime, pathlib, sys, time
import apscheduler.schedulers.base, apscheduler.schedulers.asyncio
import agent.daemon.schedule, agent.daemon.service, agent.model.times
offset = lambda: float(pathlib.Path({file!r}).read_text() or 0)
class Skewed(datetime.datetime):
    @classmethod
    def now(cls, tz):
        return tz.fromutc((datetime.datetime.utcnow() + datetime.timedelta(seconds=offset())).replace(tzinfo=tz))
for module in (apscheduler.schedulers.base, agent.daemon.schedule):
    module.datetime = Skewed
agent.model.times.Clock.now_ms = lambda self: int((time.time() + offset()) * 1000)
agent.daemon.service.CLOCK_LOOK_S = 0.05
from agent.main import main; main()
"""


@pytest.fixture
def agent(jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path) -> Agent:
    jenkins.add_job(JOB)
    return Agent.configured(tmp_path, jenkins=jenkins_server, hivel=hivel_server, timeout="30s")


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Those that a test started; none outlives it."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def program(agent: Agent, text: str) -> subprocess.Popen[str]:
    """``run`` by a program around the agent's."""
    with (agent.folder / "agent.log").open("a") as log:
        command = [sys.executable, "-c", text, "run", "--config", str(agent.config)]
        return subprocess.Popen(command, stdout=log, stderr=log, text=True, env=agent.environment())


def wait_for_start(agent: Agent, count: int = 1) -> None:
    wait_until(lambda: agent.log().count("event=started") >= count, f"the daemon has started {count} times")


def never_answer(jenkins: LocalJenkins, seconds: float = 600) -> threading.Event:
    """Set when a request waits in vain."""
    waiting = threading.Event()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        waiting.set()
        await asyncio.sleep(seconds)

    jenkins.break_with(lambda *_: answer)  # type: ignore[arg-type,return-value]
    return waiting


def test_what_polls_and_reports_enqueue_is_sent_without_waiting_for_the_interval(
    jenkins: LocalJenkins,
    jenkins_server: LocalServer,
    hivel: LocalHivel,
    hivel_server: LocalServer,
    tmp_path: Path,
    processes: list[subprocess.Popen[str]],
) -> None:
    jenkins.add_job(JOB)
    agent = Doors.opened(tmp_path, jenkins=jenkins_server, hivel=hivel_server)
    agent.config.write_text(agent.config.read_text().replace('interval = "100ms"', 'interval = "1h"', 1))
    processes.append(agent.begin())
    jenkins.add_builds(JOB, 2, repo=REPO, every=1_000)
    wait_until(lambda: len(hivel.deployments()) == 2, "Hivel has what the poll found")
    report = {"provider": "gitlab_ci", "run": "42", "environment": "production", "status": "success"}
    answer = agent.post({**report, "repo_url": REPO, "branch": "main"})
    assert answer.status_code == 202, answer.text
    wait_until(lambda: len(hivel.deployments()) == 3, "Hivel has the report")


# ---- systemd


def test_systemd_hears_of_start_life_reload_and_stop(agent: Agent, processes: list[subprocess.Popen[str]]) -> None:
    address = f"hivel-agent-test-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + address)
        systemd.settimeout(20)
        process = agent.start(NOTIFY_SOCKET="@" + address, WATCHDOG_USEC="300000")
        processes.append(process)

        def heard(until: str) -> list[str]:
            words = []
            while not words or words[-1] != until:
                words.append(systemd.recv(200).decode().split("\n")[0])
            return words

        assert "READY=1" in heard("READY=1")
        assert set(heard("WATCHDOG=1")) == {"WATCHDOG=1"}
        process.send_signal(signal.SIGHUP)
        assert set(heard("RELOADING=1")) <= {"WATCHDOG=1", "RELOADING=1"}
        assert set(heard("READY=1")) <= {"WATCHDOG=1", "READY=1"}
        agent.config.write_text("this is no configuration")
        process.send_signal(signal.SIGHUP)
        heard("RELOADING=1")
        heard("READY=1")
        process.terminate()
        assert set(heard("STOPPING=1")) <= {"WATCHDOG=1", "STOPPING=1"}
        assert process.wait(120) == 0


# ---- a stop


def test_a_stop_during_a_slow_post_settles_it(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, processes: list[subprocess.Popen[str]]
) -> None:
    hivel.fault(Fault(kind="slow", delay=2))
    jenkins.add_builds(JOB, 3, repo=REPO)
    processes.append(agent.start())
    wait_until(lambda: len(hivel.requests()) == 3, "the events are on their way")
    processes[0].terminate()
    assert processes[0].wait(120) == 0
    assert agent.json("status")["events"] == {
        "pending": 0, "held": 0, "delivered": 3, "failed": 0, "discarded": 0,
    }  # fmt: skip
    assert [d.times_posted for d in hivel.deployments()] == [1, 1, 1]


def test_a_stop_does_not_wait_longer_than_its_time_for_a_post(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, processes: list[subprocess.Popen[str]]
) -> None:
    hivel.fault(Fault(kind="silent", stored=True))
    jenkins.add_builds(JOB, 3, repo=REPO)
    processes.append(program(agent, IMPATIENT))
    wait_until(lambda: len(hivel.requests()) == 3, "the events are on their way")
    processes[0].terminate()
    assert processes[0].wait(120) == 0
    assert agent.json("status")["events"]["pending"] == 3
    hivel.clear_faults()
    assert agent.run("once").returncode == 0
    assert agent.json("status")["events"]["delivered"] == 3
    assert len(hivel.deployments()) == 3


def test_a_stop_waits_for_a_slow_poll(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, processes: list[subprocess.Popen[str]]
) -> None:
    waiting = never_answer(jenkins, seconds=1)
    processes.append(agent.start())
    wait_for_start(agent)
    assert waiting.wait(120)
    processes[0].terminate()
    assert processes[0].wait(120) == 0
    assert "event=stopped" in agent.log() and "Traceback" not in agent.log()


def test_a_stop_ends_the_waiting_for_an_answer_that_does_not_come(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, processes: list[subprocess.Popen[str]]
) -> None:
    """It comes to its regular end, well before its time is over."""
    waiting = never_answer(jenkins)
    processes.append(program(agent, IMPATIENT.replace("0.5", "5")))
    wait_for_start(agent)
    assert waiting.wait(120)
    processes[0].terminate()
    assert processes[0].wait(120) == 0
    assert "event=stopped" in agent.log()
    assert "in the middle" not in agent.log() and "Traceback" not in agent.log()


def test_a_stop_does_not_wait_longer_than_its_time_for_a_poll(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, processes: list[subprocess.Popen[str]]
) -> None:
    waiting = never_answer(jenkins)
    processes.append(program(agent, HANGING))
    wait_for_start(agent)
    assert waiting.wait(120)
    jenkins.add_builds(JOB, 3, repo=REPO)
    processes[0].terminate()
    assert processes[0].wait(120) == 0
    jenkins.break_with(None)
    assert agent.run("once").returncode == 0
    assert [d.times_posted for d in hivel.deployments()] == [1, 1, 1]


# ---- a reload


@pytest.mark.parametrize("wrong", ["token", "address"])
def test_a_pause_ends_when_the_configuration_is_mended_and_read_anew(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, processes: list[subprocess.Popen[str]], wrong: str
) -> None:
    """A token file needs no SIGHUP; an address does. No attempt was burnt."""
    right = agent.config.read_text()
    if wrong == "token":
        (agent.folder / "hivel.token").write_text("an-old-one\n")
    else:
        agent.config.write_text(right.replace('"\ntoken_file = "hivel', '/not/here"\ntoken_file = "hivel'))
    jenkins.add_builds(JOB, 3, repo=REPO)
    processes.append(agent.start())
    wait_until(lambda: "state=paused" in agent.log(), "the delivery is paused")
    assert hivel.deployments() == []
    if wrong == "token":
        (agent.folder / "hivel.token").write_text("sandbox-token\n")
    else:
        agent.config.write_text(right)
        processes[0].send_signal(signal.SIGHUP)
    wait_until(lambda: len(hivel.deployments()) == 3, "everything has arrived")
    wait_until(lambda: agent.json("status")["events"]["delivered"] == 3, "everything is settled")
    assert {event["attempts"] for event in agent.json("queue", "list")} == {1}
    assert processes[0].poll() is None


def test_a_new_token_for_jenkins_is_taken_up_by_itself(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, processes: list[subprocess.Popen[str]]
) -> None:
    (agent.folder / "jenkins.token").write_text("an-old-one\n")
    agent.config.write_text(agent.config.read_text().replace('poll_interval = "200ms"', 'poll_interval = "2s"'))
    jenkins.add_builds(JOB, 3, repo=REPO)
    processes.append(agent.start())
    wait_until(lambda: "state=unauthorized" in agent.log(), "Jenkins refuses the token")
    (agent.folder / "jenkins.token").write_text("sandbox-token\n")
    wait_until(lambda: len(hivel.deployments()) == 3, "everything has arrived")


def test_a_missing_token_stops_its_own_controller_and_no_other_until_the_file_is_there(
    agent: Agent, jenkins: LocalJenkins, jenkins_server: LocalServer, hivel: LocalHivel,
    processes: list[subprocess.Popen[str]],
) -> None:  # fmt: skip
    with agent.config.open("a") as config:
        config.write(
            f'[[jenkins]]\nname = "second"\nurl = "{jenkins_server.url}"\nusername = "hivel-agent"\n'
            'token_file = "second.token"\npoll_interval = "200ms"\nsince = "2020-01-01"\n'
        )
    file = agent.folder / "second.token"
    reason = f"without its token: cannot read {file}: No such file or directory"
    jenkins.add_builds(JOB, 1, repo=REPO)
    for arguments in (["check"], ["check", "--offline"], ["once"]):
        done = agent.run(*arguments)
        assert f"cannot read {file}: No such file or directory" in done.stdout, done
        assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    processes.append(agent.start())
    wait_until(lambda: "controller=second state=unauthorized reason=" in agent.log(), "the second one is in trouble")
    assert [d.event.deployment_id for d in hivel.deployments()] == [f"main:{JOB}#1"]
    states = {controller["name"]: controller for controller in agent.json("status")["controllers"]}
    assert (states["main"]["state"], states["second"]["state"]) == ("ok", "unauthorized")
    assert reason in states["second"]["last_error"]
    jenkins.add_builds(JOB, 1, repo=REPO)
    wait_until(lambda: len(hivel.deployments()) == 2, "the first one goes on")
    file.write_text("sandbox-token\n")
    wait_until(lambda: len(hivel.deployments()) == 4, "the second one is back")
    assert processes[0].poll() is None


@pytest.mark.parametrize("text", [IMPATIENT, HANGING], ids=["impatient", "hanging"])
def test_a_reload_does_not_wait_for_ever_for_a_poll_and_takes_the_new_configuration(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, processes: list[subprocess.Popen[str]], text: str
) -> None:
    waiting = never_answer(jenkins)
    processes.append(program(agent, text))
    wait_for_start(agent)
    assert waiting.wait(120)
    jenkins.break_with(None)
    jenkins.add_builds(JOB, 1, repo=REPO)
    agent.config.write_text(agent.config.read_text().replace('name = "main"', 'name = "other"'))
    processes[0].send_signal(signal.SIGHUP)
    wait_until(lambda: len(hivel.deployments()) == 1, "the new configuration is at work")
    assert hivel.deployments()[0].event.deployment_id == f"other:{JOB}#1"
    assert processes[0].poll() is None
    processes[0].terminate()
    assert processes[0].wait(120) == 0


def test_signals_in_a_hurry_neither_kill_nor_are_lost(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, processes: list[subprocess.Popen[str]]
) -> None:
    processes.append(agent.start())
    wait_for_start(agent)
    for _ in range(200):
        processes[0].send_signal(signal.SIGHUP)
        # Between two signals, so that they meet every moment of a reload.
        wait_until(iter([False, True]).__next__, "a moment is over")
        assert processes[0].poll() is None, "a SIGHUP killed the daemon"
    jenkins.add_builds(JOB, 3, repo=REPO)
    wait_until(lambda: len(hivel.deployments()) == 3, "it still works")
    processes[0].send_signal(signal.SIGHUP)
    processes[0].terminate()
    assert processes[0].wait(120) == 0
    assert "Traceback" not in agent.log()


# ---- the event loop and SQLite

LOCKED = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(agent: Agent) -> Iterator[None]:
    """Another process holds SQLite's write lock during the block."""
    command = [sys.executable, "-c", LOCKED, str(agent.outbox)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        yield


def monitoring(agent: Agent) -> str:
    found = re.search(r"what=monitoring url=(http://\S+)", agent.log())
    assert found is not None, agent.log()
    return found[1]


def ready(agent: Agent) -> tuple[int, dict[str, dict[str, Any]]]:
    answer = httpx.get(f"{monitoring(agent)}/readyz")
    return answer.status_code, {check["name"]: check for check in answer.json()["checks"]}


@pytest.fixture
def doors(jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path) -> Doors:
    jenkins.add_job(JOB)
    return Doors.opened(tmp_path, jenkins=jenkins_server, hivel=hivel_server, poll_interval="600s")


REPORT = {
    "deployment_id": "one", "repo_url": "https://git.example.test/a", "branch": "main", "environment": "eu",
    "status": "success",
}  # fmt: skip


# Whoever waits for a locked outbox waits until the test releases the lock, however slow the machine is.
PATIENT = """
import agent.outbox.sqlite.connection as connection
connection._PATIENCE.seconds = connection.BUSY_DEADLINE_S = connection.STOPPING_DEADLINE_S = 600
from agent.main import main
main()
"""


@pytest.mark.parametrize("what", ["report", "delivery"])
def test_who_waits_for_the_write_lock_keeps_nobody_else_waiting(
    doors: Doors, hivel: LocalHivel, processes: list[subprocess.Popen[str]], what: str
) -> None:
    """Health, readiness and metrics are answered, and a stop is heard, while the lock is still held."""
    process = program(doors, PATIENT)
    processes.append(process)
    wait_for_start(doors)
    if what == "delivery":
        hivel.fault(Fault(kind="slow", delay=1))
        for number in range(3):
            doors.post({**REPORT, "deployment_id": f"sent-{number}"})
        wait_until(lambda: len(hivel.requests()) == 3, "the events are on their way")
    with ThreadPoolExecutor() as threads:
        with locked(doors):
            waiting = threads.submit(doors.post, REPORT)
            if what == "delivery":
                wait_until(lambda: len(hivel.deployments()) == 3, "Hivel has answered")
            with httpx.Client(base_url=monitoring(doors), timeout=60) as client:
                for page in ("/healthz", "/readyz", "/metrics") * 20:
                    assert client.get(page).status_code == 200, page
            assert not waiting.done(), "nothing waited for the lock"
            process.terminate()
            wait_until(lambda: "event=stopping" in doors.log(), "the stop is heard")
            assert not waiting.done(), "nothing waited for the lock"
        assert waiting.result(120).status_code == 202
    assert process.wait(120) == 0
    assert "level=error" not in doors.log()
    stored = {each["deployment_id"] for each in doors.json("queue", "list")}
    assert "one" in stored
    assert doors.json("status")["events"]["delivered"] == (3 if what == "delivery" else 0)


# ---- a disk without room

OFTEN = "import agent.daemon.life; agent.daemon.life.HOUSEKEEPING_S = 0.1; from agent.main import main; main()"


@pytest.mark.root
def test_a_disk_on_which_a_report_found_no_room_is_looked_at_again_when_nobody_reports_any_more(
    doors: Doors, processes: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=4m", "tmpfs") as disk:
        doors.config.write_text(doors.config.read_text().replace("outbox.db", f"{disk.folder}/outbox.db"))
        processes.append(program(doors, OFTEN))
        wait_for_start(doors)
        wait_until(lambda: ready(doors)[0] == 200, "it is ready")
        disk.fill()
        reports = ({**REPORT, "deployment_id": f"one-{n}"} for n in itertools.count())
        wait_until(lambda: doors.post(next(reports)).status_code == 503, "there is no room")
        assert "no space left" in ready(doors)[1]["outbox"]["reason"]
        disk.make_room()
        wait_until(lambda: ready(doors)[0] == 200, "it is ready again")
        processes[0].kill()
        processes[0].wait()


# ---- mistakes

BROKEN = """
import pathlib
from agent.daemon import composition, life
from agent.main import main

life.HOUSEKEEPING_S = 0.1
mended = pathlib.Path({file!r})
right = composition.{place}

async def wrong(self, *args):
    if not mended.exists():
        raise RuntimeError("nobody expected this")
    return await right(self, *args)

composition.{place} = wrong
main()
"""


def mistakes(agent: Agent, where: str) -> int:
    text = httpx.get(f"{monitoring(agent)}/metrics").text
    found = re.search(rf'(?m)^hivel_agent_unexpected_errors_total{{where="{where}"}} (\S+)$', text)
    return 0 if found is None else int(float(found[1]))


@pytest.mark.parametrize(
    ("place", "work"),
    [
        ("Parts.deliver", "delivery"),
        ("Controller.poll", "polls of main"),
        ("Reporting.take", "reports"),
        ("Reporting.release", "held events"),
        ("Parts.tidy", "housekeeping"),
    ],
)
def test_a_mistake_in_some_work_is_said_counted_seen_and_over_when_the_work_succeeds(
    agent: Agent,
    jenkins: LocalJenkins,
    hivel: LocalHivel,
    processes: list[subprocess.Popen[str]],
    place: str,
    work: str,
) -> None:
    mended = agent.folder / "mended"
    processes.append(program(agent, BROKEN.format(file=str(mended), place=place)))
    wait_for_start(agent)
    jenkins.add_builds(JOB, 3, repo=REPO)
    wait_until(lambda: mistakes(agent, work) >= 3, "it came up several times")
    status, checks = ready(agent)
    assert status == 503
    wrong = {name: check["reason"] for name, check in checks.items() if not check["ok"]}
    assert list(wrong) == [f"work: {work}"]
    assert "RuntimeError: nobody expected this" in wrong[f"work: {work}"]
    agent.wait_for_log("nobody expected this")
    [line] = [line for line in agent.log().splitlines() if "nobody expected this" in line]
    assert "level=error" in line and "Traceback" in line and work in line
    if work not in ("delivery", "polls of main"):
        wait_until(lambda: len(hivel.deployments()) == 3, "everything else goes on")
    mended.touch()
    wait_until(lambda: ready(agent)[0] == 200, "it is ready again")
    wait_until(lambda: len(hivel.deployments()) == 3, "everything has arrived")
    assert mistakes(agent, work) >= 3
    agent.wait_for_log('event="works again"')


# ---- the clock


@pytest.mark.parametrize("years", [-3, 3])
def test_a_clock_that_is_set_by_years_stops_neither_polls_nor_deliveries(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, processes: list[subprocess.Popen[str]], years: int
) -> None:
    clock = agent.folder / "clock"
    clock.write_text("0")
    processes.append(program(agent, SKEWED.format(file=str(clock))))
    jenkins.add_builds(JOB, 1, repo=REPO)
    wait_until(lambda: len(hivel.deployments()) == 1, "the first build has arrived")
    clock.write_text(str(years * 365 * 86_400))
    jenkins.add_builds(JOB, 1, repo=REPO)
    wait_until(lambda: len(hivel.deployments()) == 2, "the second build has arrived too")
    agent.wait_for_log("the system clock was changed")
    clock.write_text("0")
    jenkins.add_builds(JOB, 1, repo=REPO)
    wait_until(lambda: len(hivel.deployments()) == 3, "and the third, when the clock is right again")
    assert "Traceback" not in agent.log()
