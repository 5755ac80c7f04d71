"""A log that cannot be written, be its disk full, its pipe blocked or closed, takes nothing else along."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from contextlib import closing, contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

import httpx
import pytest

from agent.model.sockets import bind
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from tests.integration.doors import INTAKE_TOKEN, Doors
from tests.integration.support import REPO, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer

JOB = "deploy/shop"
BUILDS = 20
REPORTED = {
    "repo_url": "https://git.example.test/a", "branch": "main", "environment": "eu", "status": "success",
}  # fmt: skip


class Pipe:
    """A pipe to log to. ``fill`` leaves no room in it; what comes out of it is in ``text`` once ``read`` was called."""

    def __init__(self) -> None:
        self._out, self.into = os.pipe()
        self.text = b""
        self._reader: threading.Thread | None = None

    def fill(self) -> None:
        os.set_blocking(self.into, False)
        with suppress(BlockingIOError):
            while True:
                os.write(self.into, b"." * 1024)
        os.set_blocking(self.into, True)

    def read(self) -> None:
        """From now on somebody reads."""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):
            while got := os.read(self._out, 65_536):
                self.text += got

    def close_reader(self) -> None:
        os.close(self._out)

    def close(self) -> None:
        for fd in (self.into, self._out):
            with suppress(OSError):
                os.close(fd)
        if self._reader is not None:
            self._reader.join()

    @property
    def lines(self) -> list[str]:
        return self.text.decode().lstrip(".").splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    with closing(Pipe()) as pipe:
        yield pipe


@pytest.fixture
def doors(jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path) -> Doors:
    """The agent with two addresses that are known without its log."""
    jenkins.add_job(JOB)
    doors = Doors.opened(tmp_path, jenkins=jenkins_server, hivel=hivel_server)
    text = doors.config.read_text()
    for _ in range(text.count('"127.0.0.1:0"')):
        with closing(bind("127.0.0.1", 0)) as free:
            text = text.replace('"127.0.0.1:0"', f'"127.0.0.1:{free.getsockname()[1]}"', 1)
    doors.config.write_text(text)
    return doors


def address(doors: Doors, table: str) -> str:
    found = re.search(rf'(?s)\[{table}\].*?listen = "(.*?)"', doors.config.read_text())
    assert found is not None
    return f"http://{found[1]}"


def readyz(doors: Doors) -> tuple[int, dict[str, dict[str, Any]]]:
    answer = httpx.get(f"{address(doors, 'monitoring')}/readyz", timeout=60)
    return answer.status_code, {check["name"]: check for check in answer.json()["checks"]}


def lost(doors: Doors) -> float:
    text = httpx.get(f"{address(doors, 'monitoring')}/metrics", timeout=60).text
    found = re.search(r"(?m)^hivel_agent_log_lines_lost_total (\S+)$", text)
    assert found is not None, text
    return float(found[1])


@contextmanager
def running(
    doors: Doors, log: int | IO[str], *arguments: str, program: str = "from agent.main import main; main()"
) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", program, "run", "--config", str(doors.config), *arguments]
    process = subprocess.Popen(command, stdout=log, stderr=log, text=True, env=doors.environment())
    try:
        wait_until(lambda: answers(doors), "the daemon answers")
        yield process
    finally:
        process.kill()
        process.wait()


def answers(doors: Doors) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{address(doors, 'monitoring')}/healthz", timeout=60).status_code == 200
    return False


def report(doors: Doors, number: int) -> httpx.Response:
    content = {**REPORTED, "deployment_id": f"reported-{number}"}
    headers = {"Authorization": f"Bearer {INTAKE_TOKEN}"}
    return httpx.post(f"{address(doors, 'intake')}/v1/events", json=content, headers=headers, timeout=60)


def work(doors: Doors, jenkins: LocalJenkins, hivel: LocalHivel) -> None:
    """Builds and reports; each is taken in once and comes to Hivel once."""
    before = len(hivel.requests())
    jenkins.add_builds(JOB, BUILDS, repo=REPO)
    for number in range(before, before + 3):
        assert report(doors, number).status_code == 202
    expected = before + BUILDS + 3
    wait_until(lambda: len(hivel.deployments()) >= expected, "everything has been delivered")
    wait_until(lambda: doors.json("status")["events"]["delivered"] >= expected, "everything is settled")
    assert len(hivel.requests()) == len(hivel.deployments()) == expected


def stop(process: subprocess.Popen[str]) -> int:
    process.terminate()
    return process.wait(120)


def test_a_full_disk_under_the_log(doors: Doors, jenkins: LocalJenkins, hivel: LocalHivel) -> None:
    with open("/dev/full", "w") as full, running(doors, full) as process:  # noqa: PTH123
        work(doors, jenkins, hivel)
        status, checks = readyz(doors)
        assert status == 200, "events are delivered: nobody is to be taken out of service for a log"
        assert "No space left" in checks["log"]["reason"]
        assert lost(doors) >= BUILDS
        assert stop(process) == 0


def test_a_pipe_that_nobody_reads(doors: Doors, jenkins: LocalJenkins, hivel: LocalHivel, pipe: Pipe) -> None:
    """It blocks whoever writes; neither health nor a stop is."""
    pipe.fill()
    with running(doors, pipe.into) as process:
        work(doors, jenkins, hivel)
        assert readyz(doors)[0] == 200
        assert stop(process) == 0


def test_a_pipe_whose_reader_is_gone(doors: Doors, jenkins: LocalJenkins, hivel: LocalHivel, pipe: Pipe) -> None:
    pipe.close_reader()
    with running(doors, pipe.into) as process:
        work(doors, jenkins, hivel)
        status, checks = readyz(doors)
        assert (status, "Broken pipe" in checks["log"]["reason"]) == (200, True)
        assert stop(process) == 0


FEW = "import agent.daemon.log_queue as q; q.MOST_LINES = 10; from agent.main import main; main()"


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
def test_when_a_blocked_log_is_read_again_it_tells_how_many_lines_are_missing(
    doors: Doors, jenkins: LocalJenkins, hivel: LocalHivel, pipe: Pipe, log_format: str
) -> None:
    pipe.fill()
    with running(doors, pipe.into, "--log-format", log_format, program=FEW) as process:
        work(doors, jenkins, hivel)
        missing = lost(doors)
        assert missing > 0
        assert f"{missing:.0f} log lines" in readyz(doors)[1]["log"]["reason"]
        pipe.read()
        wait_until(lambda: readyz(doors)[1]["log"]["reason"] is None, "the log is written again")
        assert lost(doors) >= missing, "the count only grows"
        report(doors, 1_000)
        assert stop(process) == 0
    pipe.close()
    told = [re.search(r'(?:lines=|"lines": ?)(\d+)', line) for line in pipe.lines if "log lines were lost" in line]
    assert sum(int(found[1]) for found in told if found) >= missing
    assert any("reported-1000" in line for line in pipe.lines), "what comes after the gap is written"
    assert "stopped" in pipe.lines[-1], "what is queued at a stop is written"


# ---- verbs that print


VERBS = [["status"], ["status", "--json"], ["queue", "list"], ["once", "--json"], ["--help"]]


def printed_to(doors: Doors, arguments: list[str], out: int, error: int) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "agent", *arguments]
    environment = {**doors.environment(), "HIVEL_AGENT_CONFIG": str(doors.config)}
    return subprocess.run(command, stdout=out, stderr=error, env=environment, timeout=240, check=False)


@pytest.mark.parametrize("arguments", VERBS, ids=" ".join)
def test_a_verb_whose_reader_is_gone_ends_as_others_do_and_says_nothing(
    doors: Doors, pipe: Pipe, arguments: list[str]
) -> None:
    SqliteOutbox(doors.outbox, Clock()).close()
    pipe.close_reader()
    done = printed_to(doors, arguments, pipe.into, subprocess.PIPE)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("arguments", VERBS[:4], ids=" ".join)
def test_a_verb_without_room_for_what_it_prints_says_so(doors: Doors, arguments: list[str]) -> None:
    SqliteOutbox(doors.outbox, Clock()).close()
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = printed_to(doors, arguments, full, subprocess.PIPE)
        silent = printed_to(doors, arguments, full, full)
    finally:
        os.close(full)
    assert (done.returncode, b"Traceback" in done.stderr) == (1, False)
    assert b"cannot write to standard output: No space left on device" in done.stderr
    assert silent.returncode == 1


@pytest.mark.parametrize("arguments", VERBS[:3], ids=" ".join)
def test_a_verb_that_is_started_without_standard_streams_takes_no_file_for_one(
    doors: Doors, arguments: list[str]
) -> None:
    SqliteOutbox(doors.outbox, Clock()).close()
    command = " ".join([sys.executable, "-m", "agent", *arguments, "<&- >&- 2>&-"])
    environment = {**doors.environment(), "HIVEL_AGENT_CONFIG": str(doors.config)}
    assert subprocess.run(["/bin/sh", "-c", command], env=environment, timeout=240, check=False).returncode == 0
    assert doors.json("status")["events"]["pending"] == 0, "nothing was printed into the outbox"
