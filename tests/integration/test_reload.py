"""Reading the configuration anew keeps the listeners open: nobody who asks or reports meanwhile is turned away."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest

from tests.integration.doors import INTAKE_TOKEN, TEAM_TOKEN, Doors
from tests.integration.filled import configured
from tests.integration.support import Agent, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer

UNIT = Path(__file__).parents[2] / "systemd/hivel-agent.service"
REPORT = {"repo_url": "https://git.example.test/a", "branch": "main", "environment": "eu", "status": "success"}


@pytest.fixture
def doors(jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path) -> Doors:
    jenkins.add_job("deploy/shop")
    return Doors.opened(tmp_path, jenkins=jenkins_server, hivel=hivel_server)


@pytest.fixture
def daemon(doors: Doors) -> Iterator[Popen[str]]:
    process = doors.begin()
    yield process
    process.kill()
    process.wait()


def reload(doors: Doors, daemon: Popen[str]) -> None:
    """SIGHUP, and wait until the new configuration is at work."""
    before = doors.log().count("event=started")
    daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: doors.log().count("event=started") > before, "the new configuration is at work")


def monitoring(doors: Doors) -> str:
    return re.findall(r"what=monitoring url=(\S+)", doors.log())[-1]


@contextmanager
def again_and_again(act: Callable[[int], None], errors: list[Exception]) -> Iterator[list[int]]:
    """Do it in a thread until the block ends; yields the numbers of what was done. The first error ends it."""
    over, done = threading.Event(), list[int]()

    def work() -> None:
        while not over.is_set():
            try:
                act(len(done))
            except Exception as error:  # noqa: BLE001 - the test looks at it
                errors.append(error)
                return
            done.append(len(done))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


def test_no_report_and_no_question_is_turned_away_during_three_reloads(
    doors: Doors, daemon: Popen[str], hivel: LocalHivel
) -> None:
    """Over connections that are kept, and over new ones."""
    headers = {"Authorization": f"Bearer {INTAKE_TOKEN}"}
    errors: list[Exception] = []
    with ExitStack() as stack:
        kept = stack.enter_context(httpx.Client(headers=headers, timeout=120))

        def report(post: Callable[..., httpx.Response], name: str) -> Callable[[int], None]:
            def act(number: int) -> None:
                answer = post(doors.intake + "/v1/events", json={**REPORT, "deployment_id": f"{name}-{number}"})
                assert answer.status_code == 202, (answer.status_code, answer.text)

            return act

        def post(url: str, **body: object) -> httpx.Response:
            return httpx.post(url, headers=headers, timeout=120, **body)  # type: ignore[arg-type]

        def look(number: int) -> None:
            page = ("/healthz", "/metrics")[number % 2]
            answer = httpx.get(monitoring(doors) + page, timeout=120)
            assert answer.status_code == 200, (page, answer.status_code, answer.text)

        acts = (report(kept.post, "kept"), report(post, "new"), look)
        done = [stack.enter_context(again_and_again(act, errors)) for act in acts]
        for _ in range(3):
            before = [len(each) for each in done]
            wait_until(
                lambda before=before: errors or all(len(d) > n for d, n in zip(done, before, strict=True)), "all work"
            )
            reload(doors, daemon)
        before = [len(each) for each in done]
        wait_until(lambda: errors or all(len(d) > n for d, n in zip(done, before, strict=True)), "all go on")
    assert errors == []
    assert doors.log().count("event=listening") == 2, "the sockets were opened once"
    expected = {f"{name}-{number}" for name, each in zip(("kept", "new"), done, strict=False) for number in each}
    wait_until(lambda: {d.event.deployment_id for d in hivel.deployments()} == expected, "everything has arrived")
    assert {d.times_posted for d in hivel.deployments()} == {1}
    assert "Traceback" not in doors.log()


def test_a_report_that_is_under_way_during_a_reload_is_answered(doors: Doors, daemon: Popen[str]) -> None:
    """Its first half was sent before, its second half comes after."""
    body = json.dumps({**REPORT, "deployment_id": "half"}).encode()
    address = urlsplit(doors.intake)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=120) as connection:
        head = f"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {INTAKE_TOKEN}\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:20])
        wait_until(lambda: httpx.get(monitoring(doors) + "/healthz").status_code == 200, "the first half has arrived")
        reload(doors, daemon)
        connection.sendall(body[20:])
        assert connection.recv(1000).startswith(b"HTTP/1.1 202")


def test_new_tokens_count_after_a_reload_on_the_same_socket(doors: Doors, daemon: Popen[str]) -> None:
    assert doors.post({**REPORT, "deployment_id": "one"}).status_code == 202
    (doors.folder / "intake.token").write_text(f"{TEAM_TOKEN}\n")
    reload(doors, daemon)
    assert doors.post({**REPORT, "deployment_id": "two"}).status_code == 401
    assert doors.post({**REPORT, "deployment_id": "two"}, token=TEAM_TOKEN).status_code == 202
    assert doors.log().count("event=listening") == 2


def test_another_address_is_listened_to_after_a_reload_and_the_former_is_not(doors: Doors, daemon: Popen[str]) -> None:
    former = doors.intake
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = doors.config.read_text()
    doors.config.write_text(text.replace('[intake]\nlisten = "127.0.0.1:0"', f'[intake]\nlisten = "127.0.0.1:{port}"'))
    reload(doors, daemon)
    assert doors.intake.endswith(f":{port}")
    assert doors.post({**REPORT, "deployment_id": "one"}).status_code == 202
    with pytest.raises(httpx.ConnectError):
        httpx.post(former + "/v1/events")
    doors.config.write_text(text[: text.index("[intake]")])
    reload(doors, daemon)
    with pytest.raises(httpx.ConnectError):
        httpx.post(doors.intake + "/v1/events")


def test_a_rule_that_a_name_keeps_busy_for_ever_is_a_wrong_configuration(doors: Doors, daemon: Popen[str]) -> None:
    doors.config.write_text(doors.config.read_text() + "\n[[deployment]]\njob = 're:^(\\w+-?)+$'\n")
    daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: "configuration not reloaded" in doors.log(), "the log says so")
    assert "takes more than 1 s for a name of" in doors.log()
    assert doors.post({**REPORT, "deployment_id": "one"}).status_code == 202
    assert doors.log().count("event=started") == 1


def test_the_trial_of_a_rule_at_a_reload_holds_nobody_up(doors: Doors, daemon: Popen[str]) -> None:
    doors.config.write_text(doors.config.read_text() + "\n[[deployment]]\njob = 're:^(\\w+-?)+$'\n")
    daemon.send_signal(signal.SIGHUP)
    trials: list[int] = []

    def started() -> bool:
        trials[:] = [
            int(pid) for each in Path(f"/proc/{daemon.pid}/task").glob("*/children") for pid in read(each).split()
        ]
        return bool(trials)

    wait_until(started, "the trial runs")
    os.kill(trials[0], signal.SIGSTOP)
    try:
        assert doors.post({**REPORT, "deployment_id": "one"}).status_code == 202
        assert "configuration not reloaded" not in doors.log()
    finally:
        os.kill(trials[0], signal.SIGCONT)
    wait_until(lambda: "configuration not reloaded" in doors.log(), "the log says so")


def read(file: Path) -> str:
    """The text of a file of a thread, which may be gone by now."""
    with suppress(OSError):
        return file.read_text()
    return ""


def test_a_wrong_configuration_changes_nothing(doors: Doors, daemon: Popen[str]) -> None:
    doors.config.write_text("this is no configuration")
    daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: "configuration not reloaded" in doors.log(), "the log says so")
    assert doors.post({**REPORT, "deployment_id": "one"}).status_code == 202
    assert doors.log().count("event=started") == 1


def exec_reload(agent: Agent, daemon: Popen[bytes]) -> bool:
    """Run the ExecReload= lines of the unit as systemd does: in order, until one fails. Whether all succeeded."""
    lines = [line for line in UNIT.read_text().splitlines() if line.startswith("ExecReload=")]
    assert len(lines) == 2
    here = {"/opt/hivel-agent/bin/hivel-agent": "hivel-agent", "/etc/hivel-agent/config.toml": str(agent.config)}
    for line in lines:
        command = shlex.split(line.partition("=")[2].replace("$MAINPID", str(daemon.pid)))
        words = [here.get(word, word) for word in command]
        words = [sys.executable, "-m", "agent", *words[1:]] if words[0] == "hivel-agent" else words
        if subprocess.run(words, env=agent.environment(), capture_output=True, timeout=240, check=False).returncode:
            return False
    return True


def test_a_reload_of_the_service_fails_on_a_wrong_configuration_and_signals_nobody(tmp_path: Path) -> None:
    agent = configured(tmp_path)
    right = agent.config.read_text()
    # Whoever runs the tests may ignore SIGHUP, as nohup does, and children inherit that.
    with Popen(["env", "--default-signal=HUP", "sleep", "600"]) as daemon:
        agent.config.write_text(right + "nonsense = 1\n")
        assert not exec_reload(agent, daemon)
        assert daemon.poll() is None
        agent.config.write_text(right)
        assert exec_reload(agent, daemon)
        assert daemon.wait(60) == -signal.SIGHUP
