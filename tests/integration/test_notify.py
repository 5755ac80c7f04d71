"""Notifications through a real command and a real server, and by the daemon as a process."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from agent import __version__
from agent.config.credentials import Token
from agent.config.settings import NotifySettings, TlsSettings
from agent.inspect.findings import Level
from agent.inspect.notifications import notifications
from agent.model.secrets import redact
from agent.notify.conditions import Condition, Kind, read
from agent.notify.message import encode, for_a_test
from agent.notify.notifier import FIRST_RETRY_S, Notifier, memory_file
from agent.notify.send import SendError, send
from agent.outbox.values import ControllerState, DeliveryState
from agent.sandbox.hivel import Fault
from tests.integration.network import Authority, Server
from tests.integration.support import NOON, REPO, wait_until
from tests.integration.test_monitoring import metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request

    from agent.outbox.sqlite.engine import SqliteOutbox
    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from tests.integration.support import Agent, FakeClock

SECRET = "T0key-9f8e7d6c5b4a3210"
BODY = encode(for_a_test(NOON))


def script(folder: Path, text: str) -> Path:
    path = folder / "notify.sh"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


@contextmanager
def chat(status: int = 200, answer: bytes = b"ok") -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that keeps what is posted."""
    posted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append({"path": self.path, "body": json.loads(body), "type": self.headers["Content-Type"]})
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.send_header("Location", f"/elsewhere/{SECRET}")
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hooks/{SECRET}", posted
        server.shutdown()
        thread.join()


def to_command(path: Path, timeout_ms: int = 20_000) -> NotifySettings:
    return NotifySettings(command=(str(path), "an argument; $(not) for a shell"), timeout_ms=timeout_ms)


def problem(settings: NotifySettings) -> str:
    with pytest.raises(SendError) as error:
        asyncio.run(send(settings, BODY))
    return str(error.value)


# ---- a command


def test_a_command_gets_json_on_standard_input_its_arguments_as_they_are_and_no_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVEL_API_TOKEN", SECRET)
    monkeypatch.setenv("JENKINS_API_TOKEN_MAIN", SECRET)
    program = script(tmp_path, f'cat > {tmp_path}/in; echo "$1" > {tmp_path}/arguments; env > {tmp_path}/env\n')
    asyncio.run(send(to_command(program), BODY))
    said = json.loads((tmp_path / "in").read_text())
    assert (said["version"], said["kind"], said["state"], said["agent_version"]) == (1, "test", "notice", __version__)
    assert said["text"].startswith("[notice] This is a test")
    assert (tmp_path / "arguments").read_text() == "an argument; $(not) for a shell\n"
    assert SECRET not in (tmp_path / "env").read_text()


def test_a_command_that_reads_nothing_is_no_failure(tmp_path: Path) -> None:
    asyncio.run(send(to_command(script(tmp_path, "exit 0\n")), BODY))


def test_a_command_that_fails_says_why_without_bounds_to_what_it_says(tmp_path: Path) -> None:
    program = script(tmp_path, "echo no route to mail >&2; head -c 1000000 /dev/zero >&2; exit 75\n")
    words = problem(to_command(program))
    assert words.startswith(f"{program} failed with exit code 75: no route to mail")
    assert len(words) < 400


def test_a_command_that_does_not_end_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    program = script(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/child; wait\n")
    assert "did not finish within 1 s and was killed" in problem(to_command(program, timeout_ms=1000))
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not _runs(child), "the child has ended")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_nobody_waits_for_what_a_command_leaves_running(tmp_path: Path) -> None:
    """The child holds standard error open; the time limit would be a minute."""
    program = script(tmp_path, f"sleep 50 & echo $! > {tmp_path}/child\n")
    asyncio.run(asyncio.wait_for(send(to_command(program, timeout_ms=60_000), BODY), 30))
    os.kill(int((tmp_path / "child").read_text()), 9)


def test_a_command_that_is_not_there_or_no_program_is_an_error_in_words(tmp_path: Path) -> None:
    assert "No such file" in problem(to_command(tmp_path / "none"))
    (tmp_path / "text").write_text("no program")
    assert "Permission denied" in problem(to_command(tmp_path / "text"))


# ---- a URL


def test_a_url_gets_a_post_of_the_same_json() -> None:
    with chat() as (url, posted):
        asyncio.run(send(NotifySettings(url=Token(url)), BODY))
    assert [each["body"] for each in posted] == [json.loads(BODY)]
    assert posted[0]["type"] == "application/json"


def test_a_url_of_an_authority_of_ones_own_needs_its_certificate(tmp_path: Path) -> None:
    async def accept(request: Request) -> Response:
        posted.append(await request.json())
        return Response()

    posted: list[Any] = []
    authority = Authority(tmp_path / "authority")
    app = Starlette(routes=[Route("/hook", accept, methods=["POST"])])
    with Server(app, authority.issue("127.0.0.1")) as server:
        settings = NotifySettings(url=Token(f"{server.url}/hook"))
        assert "set [notify] ca_file" in problem(settings)
        asyncio.run(send(replace(settings, tls=TlsSettings(ca_file=authority.file)), BODY))
    assert posted == [json.loads(BODY)]


@pytest.mark.parametrize("status", [302, 404, 500])
def test_an_answer_that_is_no_success_is_an_error_that_does_not_show_the_url(status: int) -> None:
    with chat(status, f"no such hook {SECRET}".encode()) as (url, posted):
        words = problem(NotifySettings(url=Token(url)))
    assert f"the server answered {status}" in words
    assert "no such hook ***" in words
    assert SECRET not in words and len(posted) == 1


def test_a_server_that_is_not_there_is_an_error_that_does_not_show_the_url() -> None:
    words = problem(NotifySettings(url=Token(f"http://127.0.0.1:1/{SECRET}")))
    assert "cannot connect" in words and SECRET not in words


@pytest.mark.parametrize("url", ["ftp://host/x", "no-url", "http:///path-1", "http://[::1/x"])
def test_what_is_no_url_is_an_error_that_does_not_repeat_it(url: str) -> None:
    words = problem(NotifySettings(url=Token(url)))
    assert "URL" in words and url not in words


def test_the_file_of_the_url_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "notify.url"
    with chat(404) as (old, _), chat() as (new, posted):
        file.write_text(old)
        settings = NotifySettings(url=Token.from_file(file))
        assert "404" in problem(settings)
        file.write_text(new)
        asyncio.run(send(settings, BODY))
        assert len(posted) == 1
    assert SECRET not in redact(f"{new} /hooks/{SECRET} {SECRET}")


# ---- the notifier


DOWN = Condition(kind=Kind.CONTROLLER_DOWN, controller="main", problem="cannot be read", since=NOON)


def test_a_notification_is_tried_again_with_backoff_and_not_told_again_after_a_restart(
    tmp_path: Path, clock: FakeClock
) -> None:
    program = script(tmp_path, f"cat >> {tmp_path}/in; test -e {tmp_path}/works\n")
    settings = to_command(program)
    file = memory_file(tmp_path / "outbox.db")

    async def play() -> None:
        notifier = Notifier(settings, file, clock)
        await notifier.look([DOWN])
        clock.advance(ms=settings.after_ms)
        await notifier.look([DOWN])
        await notifier.look([DOWN])  # too early
        assert notifier.counts == {"sent": 0, "failed": 1}
        clock.advance(s=FIRST_RETRY_S)
        await notifier.look([DOWN])
        clock.advance(s=FIRST_RETRY_S)
        await notifier.look([DOWN])  # twice as long now
        assert notifier.counts == {"sent": 0, "failed": 2}
        (tmp_path / "works").touch()
        restarted = Notifier(settings, file, clock)
        await restarted.look([DOWN])
        assert restarted.counts == {"sent": 1, "failed": 0}
        again = Notifier(settings, file, clock)
        await again.look([DOWN])
        clock.advance(ms=settings.after_ms)
        await again.look([])
        clock.advance(ms=settings.after_ms)
        await again.look([])
        assert again.counts == {"sent": 1, "failed": 0}

    asyncio.run(play())
    said = [json.loads(line) for line in (tmp_path / "in").read_text().splitlines()]
    assert [each["state"] for each in said] == ["firing", "firing", "firing", "resolved"]
    assert len({each["id"] for each in said}) == 1
    assert said[-1]["summary"].startswith("Jenkins controller main can be read again")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "{", '{"episodes": 3}', "\0\xff"])
def test_a_memory_that_cannot_be_read_or_written_stops_no_notification(
    tmp_path: Path, clock: FakeClock, content: str
) -> None:
    settings = to_command(script(tmp_path, f"cat >> {tmp_path}/in\n"))
    file = memory_file(tmp_path / "outbox.db")
    file.write_text(content)
    file.with_name(f".{file.name}.new").mkdir()

    async def play() -> None:
        notifier = Notifier(settings, file, clock)
        for _ in range(3):
            await notifier.look([DOWN])
            clock.advance(ms=settings.after_ms)
        assert notifier.counts == {"sent": 1, "failed": 0}

    asyncio.run(play())


def test_a_stop_ends_the_command_under_way_and_the_notification_stays_due(tmp_path: Path, clock: FakeClock) -> None:
    program = script(tmp_path, f"echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; sleep 1000\n")
    notifier = Notifier(to_command(program, 300_000), memory_file(tmp_path / "outbox.db"), clock)

    async def play() -> None:
        await notifier.look([DOWN])
        clock.advance(ms=900_000)
        looking = asyncio.ensure_future(notifier.look([DOWN]))
        await asyncio.to_thread(wait_until, (tmp_path / "pid").exists, "the command runs")
        notifier.stop()
        await asyncio.wait_for(looking, 20)

    asyncio.run(play())
    assert notifier.counts == {"sent": 0, "failed": 0}
    wait_until(lambda: not _runs(int((tmp_path / "pid").read_text())), "the command has ended")


# ---- what the outbox tells


def test_the_outbox_tells_of_paused_delivery_and_of_controllers_that_are_configured(outbox: SqliteOutbox) -> None:
    assert read(outbox, {"main"}) == []
    outbox.save_delivery_state(DeliveryState("paused", NOON - 5, "401 wrong token", None))
    outbox.save_controller(ControllerState("main", "unreachable", NOON - 7, last_error="connection refused"))
    outbox.save_controller(ControllerState("gone", "unreachable", NOON - 7, last_error="connection refused"))
    paused, down = read(outbox, {"main"})
    assert (paused.kind, paused.since) == (Kind.DELIVERY_PAUSED, NOON - 5)
    assert paused.problem == "Delivery to Hivel is paused: 401 wrong token"
    assert (down.kind, down.controller, down.since) == (Kind.CONTROLLER_DOWN, "main", NOON - 7)


# ---- as its user meets it


@pytest.fixture
def notified(agent: Agent, tmp_path: Path) -> Agent:
    program = script(tmp_path, f"cat >> {tmp_path}/told\n")
    agent.config.write_text(agent.config.read_text() + f'\n[notify]\ncommand = ["{program}"]\nafter = "1s"\n')
    return agent


@pytest.mark.usefixtures("notified", "daemon")
def test_the_daemon_tells_of_failed_events_with_their_reasons(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, tmp_path: Path
) -> None:
    hivel.fault(Fault(kind="status", status=400, match="#1"))
    jenkins.add_builds("deploy/shop", 1, repo=REPO)
    wait_until(lambda: "event=failed" in agent.log(), "it failed")
    wait_until((tmp_path / "told").exists, "it was told", seconds=40)
    wait_until(lambda: metrics(agent)['hivel_agent_notifications_total{result="sent"}'] == 1, "it is counted")
    said = json.loads((tmp_path / "told").read_text())
    assert (said["kind"], said["state"], said["count"]) == ("events_failed", "firing", 1)
    assert said["reasons"][0]["count"] == 1 and "400" in said["reasons"][0]["reason"]
    agent.wait_for_log('event="notification sent" kind=events_failed')


@pytest.fixture
def silent_chat() -> Iterator[tuple[str, threading.Event]]:
    """A server that takes a connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        asked = threading.Event()
        kept = []

        def accept() -> None:
            with suppress(OSError):
                kept.append(server.accept()[0])
                asked.set()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/hooks/{SECRET}", asked
        for connection in kept:
            connection.close()


def test_the_daemon_shows_the_url_nowhere_and_stops_at_once(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, silent_chat: tuple[str, threading.Event]
) -> None:
    """The server never answers; meanwhile events are delivered as ever, and a stop does not wait."""
    url, asked = silent_chat
    (agent.folder / "notify.url").write_text(url)
    notify = '\n[notify]\nurl_file = "notify.url"\nafter = "1s"\ntimeout = "5m"\n'
    agent.config.write_text(agent.config.read_text() + notify)
    hivel.fault(Fault(kind="status", status=400, match="#1"))
    jenkins.add_builds("deploy/shop", 1, repo=REPO)
    process = agent.start()
    try:
        assert asked.wait(120), agent.log()
        jenkins.add_builds("deploy/shop", 3, repo=REPO)
        wait_until(lambda: agent.log().count("event=delivered") == 3, "the others are delivered", seconds=120)
        shown = agent.log() + agent.run("status", "--json").stdout + agent.run("check", "--offline").stdout
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert "event=stopped" in agent.log() and "stopped in the middle" not in agent.log()
    assert SECRET not in shown + agent.log()


def test_notify_test_sends_one_and_says_who_accepted_it(notified: Agent, tmp_path: Path) -> None:
    done = notified.run("notify", "test")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/notify.sh accepted the test notification\n")
    assert json.loads((tmp_path / "told").read_text())["kind"] == "test"


def test_notify_test_that_fails_is_an_error_without_the_url(agent: Agent, tmp_path: Path) -> None:
    assert "has no [notify]" in agent.run("notify", "test").stderr
    (tmp_path / "notify.url").write_text(f"http://127.0.0.1:1/hooks/{SECRET}\n")
    agent.config.write_text(agent.config.read_text() + '\n[notify]\nurl_file = "notify.url"\n')
    done = agent.run("notify", "test")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the test notification was not sent: cannot connect" in done.stderr
    assert SECRET not in done.stderr and "Traceback" not in done.stderr


def test_check_looks_whether_notifications_can_work(tmp_path: Path, agent: Agent) -> None:
    from agent.config.file import load

    def finding(text: str) -> tuple[Level, str]:
        agent.config.write_text(plain + text)
        [found] = notifications(load(agent.config))
        return found.level, found.message

    plain = agent.config.read_text()
    assert finding('\n[notify]\ncommand = ["/bin/sh"]\n')[0] is Level.OK
    assert finding('\n[notify]\ncommand = ["/no/such"]\n') == (
        Level.ERROR, "/no/such does not exist; correct [notify] command",
    )  # fmt: skip
    assert "is not executable; run: chmod 755" in finding(f'\n[notify]\ncommand = ["{agent.config}"]\n')[1]
    assert "cannot read" in finding('\n[notify]\nurl_file = "none"\n')[1]
    (tmp_path / "url").write_text("ftp://x/y")
    assert "must start with https://" in finding('\n[notify]\nurl_file = "url"\n')[1]
