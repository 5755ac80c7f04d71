"""The HTTP intake, over real sockets: of a daemon where processes matter, of an application where time does."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
from structlog.testing import capture_logs

from agent.config.credentials import Token
from agent.config.file import ConfigError, load
from agent.config.settings import Address, IntakeSettings
from agent.daemon import listener
from agent.daemon.listener import Listener
from agent.model.report import FIELDS, MOST_BYTES, ReportError
from agent.outbox.offloop import OffLoop
from agent.outbox.sqlite import connection as outbox_connection
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.sources import posted
from agent.sources.reports.intake import Intake
from tests.engines import on_both_engines
from tests.integration.doors import INTAKE_TOKEN, TEAM_TOKEN, Doors
from tests.integration.reporting import ids, poison, reports_of, settings_of
from tests.integration.support import REPO, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from agent.config.settings import JenkinsSettings
    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer
    from agent.sources.reports.accept import Taken
    from tests.engines import Engine

REPORT = {
    "deployment_id": "one", "repo_url": "https://git.example.test/a", "branch": "main", "environment": "eu",
    "status": "success",
}  # fmt: skip
FOR_EVER = "600s"


# ---- the daemon


@pytest.fixture
def configured(jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path) -> Doors:
    jenkins.add_job("deploy/shop")
    jenkins.add_job("build/shop")
    teams = 'token_file = "intake.token"\nteams = { payments = "payments.token" }\n'
    return Doors.opened(tmp_path, jenkins=jenkins_server, hivel=hivel_server, intake=teams, poll_interval=FOR_EVER)


@pytest.fixture
def daemon(configured: Doors) -> Iterator[Doors]:
    process = configured.begin()
    yield configured
    process.kill()
    process.wait()


def test_a_report_is_answered_with_202_its_id_and_its_state_and_reaches_hivel(
    daemon: Doors, hivel: LocalHivel, jenkins: LocalJenkins
) -> None:
    answer = daemon.post(REPORT)
    assert (answer.status_code, answer.json()) == (202, {"deployment_id": "one", "state": "pending"})
    wait_until(lambda: [d.event.deployment_id for d in hivel.deployments()] == ["one"], "the event has arrived")
    number = jenkins.start_build("deploy/shop", repo=REPO)
    held = daemon.post({"job": "deploy/shop", "build_number": number, "status": "SUCCESS"})
    assert (held.status_code, held.json()) == (202, {"deployment_id": "main:deploy/shop#1", "state": "held"})


@on_both_engines
def test_what_was_answered_with_202_survives_a_kill_at_once(
    configured: Doors, hivel_server: LocalServer, engine: Engine
) -> None:
    configured.store_in(engine.url)
    hivel_server.stop()
    for number in range(5):
        process = configured.begin()
        answer = configured.post({**REPORT, "deployment_id": f"kept-{number}"})
        process.kill()
        process.wait()
        assert answer.status_code == 202
        stored = [row["deployment_id"] for row in configured.json("queue", "list")]
        assert f"kept-{number}" in stored


@pytest.mark.parametrize("token", [None, "wrong", INTAKE_TOKEN + "x", INTAKE_TOKEN[:-1], "Bearer"])
def test_no_token_or_a_wrong_one_is_401_on_loopback_too(daemon: Doors, token: str | None) -> None:
    for path in ("/v1/events", "/v1/wake"):
        answer = daemon.post(REPORT, path=path, token=token)
        assert answer.status_code == 401
        assert "a token is required: send Authorization: Bearer" in answer.json()["error"]
    assert daemon.json("queue", "list") == []


def test_another_scheme_is_401(daemon: Doors) -> None:
    for value in (INTAKE_TOKEN, f"Basic {INTAKE_TOKEN}", f"Bearer  {INTAKE_TOKEN}", "Bearer ä"):
        answer = httpx.post(daemon.intake + "/v1/events", json=REPORT, headers={"Authorization": value.encode()})
        assert answer.status_code == 401, value


def test_the_scheme_may_be_written_in_any_case(daemon: Doors) -> None:
    for scheme in ("bearer", "BEARER", "Bearer"):
        headers = {"Authorization": f"{scheme} {INTAKE_TOKEN}"}
        assert httpx.post(daemon.intake + "/v1/events", json=REPORT, headers=headers).status_code == 202, scheme


def test_a_slash_behind_the_path_neither_loses_the_report_nor_goes_without_a_token(daemon: Doors) -> None:
    """It was a redirect before any token was looked at, and `curl` without `-L` ends with 0."""
    assert daemon.post(REPORT, path="/v1/events/").status_code == 202
    assert daemon.post(b"", path="/v1/wake/").status_code == 202
    assert [row["deployment_id"] for row in daemon.json("queue", "list")] == ["one"]
    for path in ("/v1/events/", "/v1/wake/"):
        assert daemon.post(REPORT, path=path, token=None).status_code == 401
        assert httpx.get(daemon.intake + path).status_code == 405


def test_a_team_has_its_own_token_and_the_log_names_the_team(daemon: Doors) -> None:
    assert daemon.post(REPORT, token=TEAM_TOKEN).status_code == 202
    wait_until(lambda: "team=payments" in daemon.log(), "the log names the team")


def test_what_a_team_may_not_report_is_403_with_a_line_in_the_log(configured: Doors) -> None:
    text = configured.config.read_text()
    bound = 'payments = {token_file = "payments.token", jobs = ["pay/**"], environments = ["eu"]}'
    configured.config.write_text(text.replace('payments = "payments.token"', bound))
    assert "the team payments may report jobs pay/**, environments eu" in configured.run("check", "--offline").stdout
    process = configured.begin()
    try:
        report = {**REPORT, "deployment_id": None, "build_number": 1}
        answer = configured.post({**report, "job": "deploy/shop"}, token=TEAM_TOKEN)
        words = "job: team payments is not allowed to report 'deploy/shop'; see [intake.teams.payments] jobs"
        assert (answer.status_code, answer.json()) == (403, {"error": words})
        assert configured.post({**report, "job": "pay/a"}, token=TEAM_TOKEN).status_code == 202
        assert configured.post({**report, "job": "pay/a", "environment": "us"}, token=TEAM_TOKEN).status_code == 403
        assert configured.post({**report, "job": "deploy/shop"}).status_code == 202
        configured.wait_for_log('event="report not allowed"', 2)
        assert configured.log().count('event="report not allowed"') == 2
    finally:
        process.kill()
        process.wait()


def test_no_token_is_in_the_log_or_in_the_outbox(daemon: Doors) -> None:
    for token in (INTAKE_TOKEN, TEAM_TOKEN, "a-wrong-token"):
        daemon.post(REPORT, token=token)
        daemon.post(b"{nonsense", token=token)
        daemon.post({**REPORT, "colour": 1}, token=token)
        daemon.post(REPORT, path="/v1/nowhere", token=token)
    wait_until(lambda: "missing or wrong token" in daemon.log(), "the refusal is in the log")
    for name in ("agent.log", "outbox.db", "outbox.db-wal"):
        content = (daemon.folder / name).read_bytes()
        for token in (INTAKE_TOKEN, TEAM_TOKEN, "a-wrong-token"):
            assert token.encode() not in content, name


def test_a_wake_makes_the_poller_look_now_and_not_after_its_interval(
    daemon: Doors, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    """The interval is ten minutes; the builds are at Hivel within seconds."""
    for number in (1, 2):
        wait_until(lambda: polls(daemon) >= 1, "the first poll is over")
        jenkins.add_builds("deploy/shop", 1, repo=REPO)
        began = time.monotonic()
        answer = daemon.post(b"whatever a plugin sends", path="/v1/wake?controller=main" if number == 1 else "/v1/wake")
        assert (answer.status_code, answer.json()) == (202, {"woken": ["main"]})
        wait_until(lambda number=number: len(hivel.deployments()) == number, "the event has arrived")
        print(f"from the wake to Hivel: {time.monotonic() - began:.2f} s")  # noqa: T201


def test_a_wake_of_a_controller_that_is_not_there_wakes_nobody(daemon: Doors) -> None:
    assert daemon.post(b"", path="/v1/wake?controller=other").json() == {"woken": []}


def test_a_report_of_a_whole_build_wakes_the_poller_of_its_controller(
    daemon: Doors, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    """A build that ended is confirmed at once, in a job without a rule, too."""
    number = jenkins.start_build("build/shop", repo=REPO)
    jenkins.finish_build("build/shop", number, "FAILURE")
    assert daemon.post({"job": "build/shop", "build_number": number, "status": "SUCCESS"}).json()["state"] == "held"
    wait_until(lambda: len(hivel.deployments()) == 1, "the event has arrived")
    [arrived] = hivel.deployments()
    assert (arrived.event.deployment_id, arrived.event.status) == (f"main:build/shop#{number}", "failed")


def test_a_storm_of_wakes_is_a_poll_each_second_and_no_more(daemon: Doors) -> None:
    wait_until(lambda: polls(daemon) >= 1, "the first poll is over")
    before, began = polls(daemon), time.monotonic()
    headers = {"Authorization": f"Bearer {INTAKE_TOKEN}"}
    with httpx.Client() as client:
        while time.monotonic() < began + 2.5:
            assert client.post(daemon.intake + "/v1/wake", headers=headers).status_code == 202
    wait_until(lambda: polls(daemon) > before, "it has polled")
    assert 1 <= polls(daemon) - before <= (time.monotonic() - began) + 1
    assert "level=error" not in daemon.log()


def polls(daemon: Doors) -> int:
    """How often the daemon has polled, as its metrics tell."""
    url = re.findall(r"what=monitoring url=(\S+)", daemon.log())[-1]
    text = httpx.get(url + "/metrics").text
    return int(float(re.findall(r"(?m)^hivel_agent_poll_duration_seconds_count\S* (\S+)$", text)[0]))


def test_connections_that_ask_nothing_keep_nobody_out_and_take_no_memory(daemon: Doors) -> None:
    pid = int(daemon.json("status")["daemon_pid"])
    assert daemon.post(REPORT).status_code == 202
    address = urlsplit(daemon.intake)
    before = resident_kb(pid)
    with ExitStack() as stack:
        for number in range(listener.MOST_CONNECTIONS + 50):
            client = socket.create_connection((address.hostname or "", address.port or 0))
            client.sendall(b"POST /v1/events HTTP/1.1\r\nHost: x\r\n" if number % 2 else b"")
            stack.enter_context(client)
        for _ in range(20):
            assert daemon.post({**REPORT, "image": "x" * 60_000}).status_code == 400
        assert daemon.post(REPORT).status_code == 202
        grown = resident_kb(pid) - before
    assert grown < 20_000, f"{grown} kB more"


def resident_kb(pid: int) -> int:
    from pathlib import Path

    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


def test_many_reports_at_once_are_all_stored(daemon: Doors) -> None:
    answers: list[int] = []

    def report(first: int) -> None:
        with httpx.Client(headers={"Authorization": f"Bearer {INTAKE_TOKEN}"}, timeout=30) as client:
            for number in range(first, first + 25):
                body = {**REPORT, "deployment_id": f"n-{number}"}
                answers.append(client.post(daemon.intake + "/v1/events", json=body).status_code)

    threads = [threading.Thread(target=report, args=(100 * thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [202] * 200
    assert len(daemon.json("queue", "list", "--limit", "1000")) == 200


def test_a_client_that_goes_away_in_the_middle_leaves_no_traceback(daemon: Doors) -> None:
    address = urlsplit(daemon.intake)
    head = f"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {INTAKE_TOKEN}\r\nContent-Length: 500\r\n\r\n"
    for sent in (head + "{", head[:40], "GARBAGE\r\n\r\n", "\x00" * 100):
        with socket.create_connection((address.hostname or "", address.port or 0)) as client:
            client.sendall(sent.encode())
    assert daemon.post(REPORT).status_code == 202
    assert "Traceback" not in daemon.log()


# ---- which configurations are right


@pytest.mark.parametrize("listen", ["0.0.0.0:9470", "192.0.2.1:9470", "[::]:9470", "ci.example.com:9470"])
def test_only_a_loopback_listener_may_do_without_a_token(configured: Doors, listen: str) -> None:
    text = configured.config.read_text()
    open_to_all = re.sub(r"(?s)\[intake\].*", f'[intake]\nlisten = "{listen}"\nrequire_token = false\n', text)
    configured.config.write_text(open_to_all)
    with pytest.raises(ConfigError, match=r"intake\.require_token: must be true, because .* is not a loopback address"):
        load(configured.config)
    for loopback in ("127.0.0.1:9470", "localhost:9470", "[::1]:9470"):
        configured.config.write_text(open_to_all.replace(listen, loopback))
        settings = load(configured.config)
        assert settings.intake is not None and settings.intake.tokens == ()


def test_an_intake_without_any_token_is_a_wrong_configuration(configured: Doors) -> None:
    text = re.sub(r"(?s)\[intake\].*", "[intake]\n", configured.config.read_text())
    configured.config.write_text(text)
    assert configured.run("run").returncode == 2
    with pytest.raises(ConfigError, match=r"intake\.token_file: no token"):
        load(configured.config)


def test_without_a_required_token_everybody_on_the_machine_reports(configured: Doors) -> None:
    text = configured.config.read_text()
    configured.config.write_text(
        re.sub(r"(?s)\[intake\].*", '[intake]\nlisten = "127.0.0.1:0"\nrequire_token = false\n', text)
    )
    process = configured.begin()
    try:
        assert configured.post(REPORT, token=None).status_code == 202
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def without_token(configured: Doors) -> Iterator[Doors]:
    text = configured.config.read_text()
    configured.config.write_text(
        re.sub(r"(?s)\[intake\].*", '[intake]\nlisten = "127.0.0.1:0"\nrequire_token = false\n', text)
    )
    process = configured.begin()
    yield configured
    process.kill()
    process.wait()


def test_without_a_required_token_no_web_page_reports(without_token: Doors) -> None:
    """Whoever looks at a page of somebody else has a browser that reaches loopback addresses."""
    daemon, port = without_token, urlsplit(without_token.intake).port
    body, own = json.dumps(REPORT).encode(), {"Content-Type": "application/json"}
    sent: list[tuple[dict[str, str], int, str]] = [
        ({"Content-Type": "text/plain"}, 415, "Content-Type"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "Content-Type"),
        ({}, 415, "Content-Type"),
        ({**own, "Origin": "https://evil.example.test"}, 403, "web pages"),
        ({**own, "Origin": "null"}, 403, "web pages"),
        ({**own, "Sec-Fetch-Site": "cross-site"}, 403, "web pages"),
        ({**own, "Host": f"evil.example.test:{port}"}, 403, "Host"),
        ({**own, "Host": "["}, 403, "Host"),
    ]
    for headers, status, words in sent:
        answer = httpx.post(daemon.intake + "/v1/events", content=body, headers=headers)
        assert (answer.status_code, words in answer.json()["error"]) == (status, True), (headers, answer.text)
        if status == 403:
            assert httpx.post(daemon.intake + "/v1/wake", headers=headers).status_code == 403, headers
    assert daemon.json("queue", "list") == []
    daemon.wait_for_log("request refused", 13)
    assert daemon.log().count("request refused") == 13


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "127.8.8.8", "LOCALHOST."])
def test_without_a_required_token_builds_report_under_every_name_of_this_machine(
    without_token: Doors, host: str
) -> None:
    headers = {"Host": f"{host}:{urlsplit(without_token.intake).port}", "Content-Type": "application/json; charset=x"}
    body = json.dumps(REPORT).encode()
    assert httpx.post(without_token.intake + "/v1/events", content=body, headers=headers).status_code == 202
    assert httpx.post(without_token.intake + "/v1/wake", headers={"Host": host}).status_code == 202


# ---- the application alone


class Server:
    """The intake in a thread of the test, as the daemon serves it. ``app`` gets the thread of the outbox."""

    def __init__(self, app: Callable[[OffLoop], Any]) -> None:
        self._app = app
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        async with OffLoop() as off_loop, Listener(self._app(off_loop), Address("127.0.0.1", 0)) as listening:
            self.port = listening.port
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> Server:
        self._thread.start()
        assert self._ready.wait(120)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def post(self, path: str = "/v1/events", **request: Any) -> httpx.Response:
        headers = {"Authorization": "Bearer secret"}
        return httpx.post(f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=120, **request)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=120)


@pytest.fixture
def serve(controller: JenkinsSettings, outbox: SqliteOutbox) -> Iterator[Callable[[], Server]]:
    """Serve the intake, with whatever was changed in its modules before."""
    reports = reports_of(settings_of(outbox.path, controller), outbox)
    tokens = (("", Token("secret")), ("payments", Token("of payments")))
    with ExitStack() as stack:

        def accepting(off_loop: OffLoop) -> Callable[[dict[str, object], str], Awaitable[Taken]]:
            def accept(report: dict[str, object], team: str) -> Taken:
                return reports.take(report, source="intake", at=outbox.clock.now_ms(), principal=team)

            return partial(off_loop, accept)

        def start() -> Server:
            address = IntakeSettings(Address("127.0.0.1", 0), tokens)
            return stack.enter_context(Server(lambda off_loop: Intake(address, accepting(off_loop), lambda _: []).app))

        yield start


@pytest.fixture
def server(serve: Callable[[], Server]) -> Server:
    return serve()


def test_a_body_of_more_than_64_kb_is_413(server: Server, outbox: SqliteOutbox) -> None:
    whole = b'{"deployment_id": "one"}'
    assert server.post(content=whole.ljust(MOST_BYTES)).status_code == 400  # it has no repository
    answer = server.post(content=whole.ljust(MOST_BYTES + 1))
    assert (answer.status_code, answer.json()["error"]) == (413, "the body has more than 65536 bytes")

    def without_end() -> Iterator[bytes]:
        for _ in range(10_000):
            yield b" " * 10_000

    assert server.post(content=without_end()).status_code == 413
    assert ids(outbox) == []


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "the report is not JSON"),
        (b"{", "the report is not JSON"),
        (b"\xff", "the report is not UTF-8: invalid start byte at byte 0"),
        (b"[" * 60_000, "the report is not JSON"),
        (b"[]", "the report is a list; it must be an object with the fields of the event"),
        (b"null", "the report is null"),
        (b'{"colour": "red"}', "unknown field 'colour'; the fields are provider, controller, job"),
        (b'{"job": {}}', "job: text is expected, not an object"),
        (b'{"job": 7}', "job: text is expected, not a number"),
        (b'{"build_number": []}', "build_number: text or a number is expected, not a list"),
        (b'{"pr_numbers": [1, "2"]}', "pr_numbers: a list of whole numbers above 0 is expected"),
        (b'{"job": "a", "build_number": "-1"}', "build_number: '-1' is not a build number"),
        (b'{"job": "a", "build_number": 1e400}', "build_number: 'inf' is not a build number"),
        (b'{"job": "a", "build_number": NaN}', "build_number: 'nan' is not a build number"),
        (b'{"job": "a", "build_number": 1, "end_time": "soon"}', "end_time: 'soon' is not a time"),
        (b'{"job": "a", "build_number": 1, "start_time": 1e300}', "start_time: '1e+300' is not a time"),
        (b'{"job": "a", "build_number": 1, "event_type": "started"}', "event_type: must be 'completed'"),
        (b'{"provider": "cvs", "run": "1"}', "provider: 'cvs' is not a known provider"),
        (
            b'{"job": "a", "build_number": 1, "status": "sucess"}',
            "status: 'sucess' is not a status of jenkins; use one of success, failure, unstable, aborted, not_built, ",
        ),
        (
            b'{"provider": "github_actions", "run": "1", "status": "ABORTED"}',
            "status: 'ABORTED' is not a status of github_actions; use one of success, failure, timed_out, ",
        ),
        (b'{"run": "1"}', "invalid report: no repo_url, no environment, no branch"),
        (b"{}", "deployment_id: the report does not identify a deployment"),
        (b'{"build_url": "https://[your-jenkins]/job/a/"}', "build_url: 'https://[your-jenkins]/job/a/' is not a URL"),
        (b'{"branch": "' + b"x" * 1001 + b'"}', "branch: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'"),
        (b'{"job": "a", "build_number": 12345678901}', "build_number: '12345678901' is not a build number"),
    ],
)
def test_a_wrong_report_is_400_and_names_the_field(
    server: Server, outbox: SqliteOutbox, body: bytes, complaint: str
) -> None:
    answer = server.post(content=body)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")
    assert answer.json()["error"].startswith(complaint)
    assert ids(outbox) == []


@pytest.mark.parametrize("value", ["\x00", "\ud800", "'; DROP TABLE events;--", "$(id)", "é" * 10_000, -1, 2**70, 1.5])
def test_hostile_values_are_stored_or_refused_and_never_an_error_of_the_server(server: Server, value: Any) -> None:
    for field in FIELDS:
        for report in ({**REPORT, field: value}, {"job": "a", "build_number": 1, "stage": "s", field: value}):
            answer = server.post(content=json.dumps(report).encode())
            assert answer.status_code in (202, 400), answer.text


@pytest.mark.parametrize("digits", [19, 20, 100, 4_301, 60_000])
def test_a_number_of_any_length_is_stored_or_refused_in_every_field(
    server: Server, outbox: SqliteOutbox, digits: int
) -> None:
    """No column of 64 bits holds it, and Python reads no more than 4,300 digits."""
    number = "9" * digits
    for field in FIELDS:
        for value in (number, f'"{number}"', f"[{number}]"):
            for rest in (REPORT, {"job": "a", "build_number": 1}):
                fields = {name: each for name, each in rest.items() if name != field}
                body = json.dumps(fields)[:-1] + f', "{field}": {value}}}'
                assert server.post(content=body.encode()).status_code in (202, 400), (field, value[:30])
    assert server.post(json=REPORT).status_code == 202
    assert "one" in ids(outbox)


def test_other_paths_are_404_and_other_methods_405(server: Server) -> None:
    url = f"http://127.0.0.1:{server.port}"
    for path in ("/", "/v1", "/v1/event", "/v1/events/x", "/metrics"):
        answer = httpx.post(url + path)
        told = {"error": "unknown path; the paths are /v1/events and /v1/wake"}
        assert (answer.status_code, answer.json()) == (404, told)
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        for path in ("/v1/events", "/v1/wake"):
            answer = httpx.request(method, url + path)
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
            assert answer.json() == {"error": "only POST is allowed"}


def test_a_body_that_does_not_come_is_408(serve: Callable[[], Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posted, "PATIENCE_S", 0.1)
    with serve().connect() as client:
        client.sendall(
            b"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nContent-Length: 9\r\n\r\n{"
        )
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the body did not arrive in time" in answer


EVENTS = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"


def test_when_all_connections_are_being_answered_one_more_gets_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MOST_CONNECTIONS", 3)
    waiting: list[asyncio.Event] = []

    async def accept(_: dict[str, object], __: str) -> Taken:
        waiting.append(asyncio.Event())
        await waiting[-1].wait()
        raise ReportError("it waited")

    settings = IntakeSettings(Address("127.0.0.1", 0), (("", Token("secret")),))
    with Server(lambda _: Intake(settings, accept, lambda _: []).app) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(3)]
        for client in clients:
            client.sendall(EVENTS + b"Content-Length: 2\r\n\r\n{}")
        wait_until(lambda: len(waiting) == 3, "all requests have arrived")
        for _ in range(3):
            with server.connect() as client:
                answer = client.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 5" in answer
        for each in waiting:
            server._loop.call_soon_threadsafe(each.set)
        for client in clients:
            assert client.recv(100).startswith(b"HTTP/1.1 400 ")


def test_for_a_new_connection_the_oldest_whose_request_has_not_arrived_is_closed(
    serve: Callable[[], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MOST_CONNECTIONS", 3)
    server = serve()
    with ExitStack() as stack:
        sending = [stack.enter_context(server.connect()) for _ in range(3)]
        for client in sending:
            client.sendall(EVENTS + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        assert server.post(json=REPORT).status_code == 202
        with pytest.raises(OSError):
            if sending[0].recv(100) == b"":
                raise ConnectionResetError
        for client in sending[1:]:
            client.sendall(b"{}\n")
            assert client.recv(100).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("begun", [b"", b"POST /v1/ev", b"POST /v1/events HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_without_a_question_is_closed(
    serve: Callable[[], Server], monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    """So that two hundred of them do not keep everybody else out for ever."""
    monkeypatch.setattr(listener, "PATIENCE_S", 0.2)
    with serve().connect() as client:
        client.sendall(begun)
        assert client.recv(100) == b""


def test_a_question_that_comes_byte_by_byte_gets_no_more_time_with_each_byte(
    serve: Callable[[], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "PATIENCE_S", 0.3)
    with serve().connect() as client:
        client.settimeout(0.05)
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() < began + 10:
                client.sendall(b"P")
                try:
                    if client.recv(100) == b"":
                        raise ConnectionResetError
                except TimeoutError:
                    continue
        assert time.monotonic() < began + 5


def test_a_body_without_end_is_not_read_for_ever(serve: Callable[[], Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PATIENCE_S", 0.3)
    with serve().connect() as client:
        client.sendall(
            b"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nContent-Length: 1000000000\r\n\r\n"
        )
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() < began + 10:
                client.sendall(b" " * 10_000)
        assert time.monotonic() < began + 5


def test_a_connection_that_asks_again_and_again_stays_open(
    serve: Callable[[], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "PATIENCE_S", 0.3)
    server = serve()
    with httpx.Client(headers={"Authorization": "Bearer secret"}) as client:
        began = time.monotonic()
        while time.monotonic() < began + 1:
            assert client.post(f"http://127.0.0.1:{server.port}/v1/events", json=REPORT).status_code == 202


def test_a_full_disk_is_503_and_says_when_to_come_back(server: Server, outbox: SqliteOutbox) -> None:
    pages = outbox._connection.execute("PRAGMA page_count").fetchone()[0]
    outbox._connection.execute(f"PRAGMA max_page_count = {pages}")
    body = {**REPORT, "image": "x" * 200, "logs_url": "y" * 200}
    answers = [server.post(json={**body, "deployment_id": f"n-{number}"}) for number in range(60)]
    full = [answer for answer in answers if answer.status_code != 202]
    assert full and {answer.status_code for answer in full} == {503}
    assert full[0].headers["retry-after"] == "5"
    assert "there is no space left for the outbox" in full[0].json()["error"]
    assert len(ids(outbox)) == len(answers) - len(full), "what was answered with 202 is there, and nothing else"
    outbox._connection.execute("PRAGMA max_page_count = 1000000")
    assert server.post(json={**body, "deployment_id": "last"}).status_code == 202


def test_an_outbox_that_another_process_locks_is_503(
    server: Server, outbox: SqliteOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_connection, "BUSY_DEADLINE_S", 0.1)
    with SqliteOutbox(outbox.path, outbox.clock) as other, other.transaction():
        answer = server.post(json=REPORT)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert server.post(json=REPORT).status_code == 202


def test_while_another_process_locks_the_outbox_everybody_else_gets_an_answer(
    server: Server, outbox: SqliteOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop never waits for SQLite: it is the one of the monitoring and of the deliveries, too."""
    monkeypatch.setattr(outbox_connection, "BUSY_DEADLINE_S", 30)
    answers: list[int] = []
    reporter = threading.Thread(target=lambda: answers.append(server.post(json=REPORT).status_code))
    with SqliteOutbox(outbox.path, outbox.clock) as other, other.transaction():
        reporter.start()
        began = time.monotonic()
        for _ in range(10):
            assert server.post("/v1/wake").status_code == 202
            assert server.post(content=b"{").status_code == 400
        assert answers == []
        print(f"20 answers while the outbox was locked: {time.monotonic() - began:.2f} s")  # noqa: T201
    reporter.join()
    assert answers == [202]


def test_an_outbox_that_is_full_is_503_and_what_is_known_already_is_no_more(
    server: Server, outbox: SqliteOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "max_size", 1)
    answer = server.post(json=REPORT)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "is full" in answer.json()["error"]
    assert ids(outbox) == []


def test_what_nobody_expected_is_503_and_in_the_log_with_its_trace(
    server: Server, outbox: SqliteOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch)
    with capture_logs() as logs:
        answer = server.post(json={**REPORT, "deployment_id": "poison"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json() == {
        "error": "the report cannot be stored now: internal error of the agent (KeyError); see its log"
    }
    assert [(line["event"], line["exc_info"]) for line in logs] == [("report cannot be stored", True)]
    assert server.post(json=REPORT).status_code == 202
    assert ids(outbox) == ["one"]


def test_the_answer_names_the_deployment_that_the_report_is_about(server: Server, outbox: SqliteOutbox) -> None:
    """Of a held one the id that it will most likely get."""
    given = {"repo_url": "r", "branch": "b", "given": ["repo_url", "branch"]}
    build = {"job": "deploy/shop", "build_number": 7, "status": "SUCCESS", **given}
    told = [
        server.post(json={**build, **fields}).json()
        for fields in ({"environment": "eu"}, {"environment": "us"}, {"environment": "eu", "image": "i:1"},
                       {"environment": "eu", "stage": "Deploy"}, {"environment": "eu", "stage": "Verify"})
    ]  # fmt: skip
    base = "main:deploy/shop#7"
    assert [(each["deployment_id"], each["state"]) for each in told] == [
        (base, "held"), (f"{base}:us", "held"), (f"{base}:eu", "held"), (f"{base}:eu", "pending"),
        (f"{base}:eu:Verify", "pending"),
    ]  # fmt: skip


def test_the_team_whose_token_it_was_is_kept_with_what_was_said(server: Server, outbox: SqliteOutbox) -> None:
    url = f"http://127.0.0.1:{server.port}/v1/events"
    httpx.post(url, json=REPORT, headers={"Authorization": "Bearer of payments"}).raise_for_status()
    [row] = outbox.all_deployments()
    [fact] = outbox.facts(row.run)
    assert (fact.principal, fact.source) == ("payments", "intake")


def test_what_is_refused_is_in_the_log_with_the_reason(server: Server) -> None:
    with capture_logs() as logs:
        server.post(content=b"{}")
        httpx.post(f"http://127.0.0.1:{server.port}/v1/events", json=REPORT)
    assert [(line["event"], line["client"]) for line in logs] == [
        ("invalid report", "127.0.0.1"), ("request refused", "127.0.0.1"),
    ]  # fmt: skip
