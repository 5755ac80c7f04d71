"""``emit --send``: a build on a hosted runner reports to the intake of an agent elsewhere."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.config.credentials import Token
from agent.config.settings import Address, IntakeSettings
from agent.deployments.systems.ci import fields
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.sandbox.server import LocalServer
from agent.sources.reports.intake import Intake
from agent.sources.reports.sending import TRIES, IntakeAt, SendError, Waiting
from tests.integration.answering import Answer, Answering
from tests.integration.network import Authority, Proxy, Server
from tests.integration.reporting import deployments, reports_of, settings_of
from tests.integration.test_emit import SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.sources.reports.accept import Taken

TOKEN = "token-of-the-intake.0123456789"
GITHUB = SYSTEMS["github_actions"]
RUN = "github_actions:acme/shop#9/deploy:production"
PROGRAM = [sys.executable, "-c", "from agent.main import main; main()", "emit"]
REPORT: dict[str, object] = {"provider": "other", "run": "7", "environment": "production"}
ACCEPTED = Answer(202, json.dumps({"deployment_id": "7:production", "state": "pending"}))


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[SqliteOutbox]:
    """The outbox of the agent, with the machine's clock."""
    with SqliteOutbox(tmp_path / "outbox.db", Clock()) as outbox:
        yield outbox


@pytest.fixture
def app(stored: SqliteOutbox) -> Intake:
    reports = reports_of(settings_of(stored.path), stored)

    async def accept(report: dict[str, object], team: str) -> Taken:
        return reports.take(report, source="intake", at=stored.clock.now_ms(), principal=team)

    return Intake(IntakeSettings(Address("127.0.0.1", 0), (("", Token(TOKEN)),)), accept, lambda _: [])


@pytest.fixture
def intake(app: Intake) -> Iterator[str]:
    with LocalServer(app.app) as server:
        yield server.url


def emit(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run it on a runner that has nothing of an agent."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "LANG"} or name.startswith("COV")}
    environment = {**kept, "PYTHONPATH": str(Path(__file__).parents[2]), "HIVEL_TOKEN": TOKEN, **variables}
    return subprocess.run(
        [*PROGRAM, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


class Paused:
    """A clock that pauses at once, and keeps the pauses."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def waiting(self) -> Waiting:
        return Waiting(lambda: sum(self.pauses), self.pauses.append)


def send(url: str, timeout_s: float = 30, paused: Paused | None = None, **environment: str) -> str:
    environment = {"HIVEL_TOKEN": TOKEN, **environment}
    return IntakeAt(url, environment, (paused or Paused()).waiting()).send(REPORT, timeout_s)


# ---- what arrives


@pytest.mark.parametrize("system", [name for name in SYSTEMS if name != "argo_workflows"])
def test_the_intake_makes_the_event_that_emit_on_the_agents_machine_makes(
    stored: SqliteOutbox, intake: str, system: str
) -> None:
    done = emit("--send", intake, "--status", "success", **SYSTEMS[system])
    run = fields(system, SYSTEMS[system])["run"]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"hivel-agent emit: sent to {intake}: {run}:production (pending)\n"
    ((name, row),) = deployments(stored).items()
    assert (name, row.content.status, row.content.environment) == (f"{run}:production", "success", "production")


def test_the_variable_is_enough_and_an_address_may_end_with_the_path_of_the_intake(
    stored: SqliteOutbox, intake: str
) -> None:
    for number, url in enumerate((intake, f"{intake}/", f"{intake}/v1/events")):
        variables = GITHUB | {"GITHUB_RUN_ID": str(number), "HIVEL_AGENT_SEND_URL": url}
        assert emit("--status", "success", **variables).returncode == 0
    assert len(deployments(stored)) == 3


def test_the_variable_of_curl_changes_nothing(tmp_path: Path) -> None:
    """Many a Jenkins sets ``HIVEL_AGENT_URL`` for curl."""
    config = tmp_path / "config.toml"
    config.write_text('[outbox]\npath = "outbox.db"\n')
    SqliteOutbox(tmp_path / "outbox.db", Clock()).close()
    with Answering([ACCEPTED]) as server:
        done = emit(HIVEL_AGENT_URL=server.url, HIVEL_AGENT_CONFIG=str(config), **GITHUB)
    assert (done.stdout, server.requests) == (f"hivel-agent emit: stored in {tmp_path / 'outbox.db'}\n", [])


def test_names_with_quotes_blanks_and_other_letters_arrive_as_they_are(stored: SqliteOutbox, intake: str) -> None:
    branch, environment = """a"b'c\\d $(id)""", "größe 日本語"
    emit("--send", intake, "--branch", branch, "--environment", environment, **GITHUB)
    (row,) = deployments(stored).values()
    assert (row.content.branch, row.content.environment) == (branch, environment)


def test_the_package_needs_none_of_its_dependencies_to_send(stored: SqliteOutbox, intake: str) -> None:
    """``pip install --no-deps`` is enough on a runner."""
    root = str(Path(__file__).parents[2])
    code = f"import sys; sys.path.insert(0, {root!r}); from agent.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, "emit", "--send", intake],
        env={"HIVEL_TOKEN": TOKEN, **GITHUB}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr, list(deployments(stored))) == (0, "", [RUN])


def test_a_repeated_report_is_one_deployment(stored: SqliteOutbox, intake: str) -> None:
    for _ in range(2):
        emit("--send", intake, "--status", "success", **GITHUB)
    assert list(deployments(stored)) == [RUN]


def test_nothing_is_stored_on_the_runner(intake: str, tmp_path: Path) -> None:
    config, spool = tmp_path / "config.toml", tmp_path / "spool"
    spool.mkdir()
    config.write_text('[outbox]\npath = "runner.db"\n[hook]\nspool = "spool"\n')
    SqliteOutbox(tmp_path / "runner.db", Clock()).close()
    for url in (intake, _nobody()):
        emit("--send", url, "--timeout", "0.5", "--config", str(config), **GITHUB)
    with SqliteOutbox(tmp_path / "runner.db", Clock()) as outbox:
        assert (outbox.reports(9), list(spool.iterdir())) == ([], [])


def test_a_dry_run_sends_nothing_and_says_what_the_runner_lacks(stored: SqliteOutbox, intake: str) -> None:
    done = json.loads(emit("--dry-run", "--send", intake, "--status", "success", **GITHUB).stdout)
    assert (done["accepted"], done["report"]["run"]) == (True, "github_actions:acme/shop#9/deploy")
    without = json.loads(emit("--dry-run", "--send", "https://agent.example.test", HIVEL_TOKEN="", **GITHUB).stdout)
    assert (without["accepted"], "HIVEL_TOKEN is empty or not set" in without["reason"]) == (False, True)
    assert deployments(stored) == {}


# ---- what goes wrong


@pytest.mark.parametrize("option", ["--send", "--direct"])
def test_an_address_from_a_variable_that_is_not_set_is_not_taken_for_this_machine(option: str) -> None:
    done = emit(option, "", HIVEL_API_TOKEN="key-of-hivel", **GITHUB)
    assert done.stderr == (
        f"hivel-agent emit: warning: not reported: {option}: '' is not an address; write it like "
        "https://host.example.com\n"
    )


def _nobody() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
def test_a_report_that_is_not_accepted_is_a_warning_and_with_strict_a_failure(intake: str, strict: bool) -> None:
    more = ["--strict"] if strict else []
    done = emit("--send", intake, *more, **GITHUB | {"HIVEL_TOKEN": "another-token"})
    assert (done.returncode, done.stdout) == (int(strict), "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"hivel-agent emit: warning: not reported: {intake}: HTTP 401: a token is required")
    assert "another-token" not in line


def test_an_intake_that_cannot_be_reached_is_tried_again() -> None:
    paused = Paused()
    with pytest.raises(SendError, match=rf"no connection: Connection refused \({TRIES} attempts\)"):
        send(_nobody(), paused=paused)
    assert paused.pauses == [1.0, 2.0, 4.0, 8.0]


def test_a_value_that_only_the_agent_can_judge_is_refused_with_its_words(intake: str) -> None:
    done = emit("--send", intake, "--deployment-id", "nightly", "--environment", "x" * 256, **GITHUB)
    assert "HTTP 400: invalid report: environment is 256 characters long, more than 255" in done.stderr


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://agent.example.test", "would send the token without encryption; use https"),
        ("ftp://agent.example.test", "is not an address; write it like https://host.example.com"),
        ("", "is not an address"),
        ("https://", "is not an address"),
        ("https://[::1", "is not an address"),
        ("https://agent.example.test:x", "is not an address"),
        ("https://agent.example.test/a b", "is not an address"),
        ("https://ägent.example.test", "is not an address"),
        ("https://user:hidden-password@agent.example.test", "the address contains credentials"),
        ("https://agent.example.test/?token=1", "must end with the path"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_before_anything_is_sent(url: str, said: str) -> None:
    with pytest.raises(SendError) as caught:
        send(url)
    assert said in str(caught.value)
    assert "hidden-password" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "  ", "two words", "umlaut-ä", "line\nX-Evil: 1"])
def test_a_token_that_cannot_be_used_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(SendError) as caught:
        send("https://agent.example.test", HIVEL_TOKEN=token)
    assert "HIVEL_TOKEN" in str(caught.value)
    assert not token.strip() or token not in str(caught.value)


def test_an_intake_on_this_machine_may_require_no_token() -> None:
    with Answering([ACCEPTED]) as server:
        assert "7:production (pending)" in send(server.url, HIVEL_TOKEN="")
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(401, '{"error": "no"}'), "HTTP 401: no; the token in HIVEL_TOKEN is missing or wrong"),
        (Answer(403, '{"error": "run: team a"}'), "HTTP 403: run: team a; the team of this token may not report this"),
        (Answer(404, "<html>"), "HTTP 404; there is no intake at this address"),
        (Answer(413, '{"error": "too large"}'), "HTTP 413: too large"),
        (Answer(200, "<html>login</html>"), "HTTP 200: this is not the answer of an agent's intake"),
        (Answer(202, "[1]"), "HTTP 202: this is not the answer of an agent's intake"),
        (Answer(400, "[" * 60_000), "HTTP 400"),
        (Answer(400, json.dumps({"error": f"wrong: {TOKEN}"})), "HTTP 400: wrong: ***"),
    ],
)
def test_an_answer_that_is_final_is_not_asked_for_again(answer: Answer, said: str) -> None:
    with Answering([answer]) as server, pytest.raises(SendError) as caught:
        send(server.url)
    assert (str(caught.value).partition(f"{server.url}: ")[2][: len(said)], len(server.requests)) == (said, 1)
    assert TOKEN not in str(caught.value)


def test_the_token_does_not_follow_a_redirect() -> None:
    with Answering([ACCEPTED]) as other:
        moved = Answer(307, headers={"Location": f"{other.url}/v1/events?key={TOKEN}"})
        with Answering([moved]) as server, pytest.raises(SendError) as caught:
            send(server.url)
    assert other.requests == []
    assert f"redirects to {other.url}/v1/events?key=***; redirects are not followed" in str(caught.value)


def test_an_intake_that_is_away_for_a_moment_is_tried_again_with_the_same_report() -> None:
    paused = Paused()
    answers = [Answer(503, '{"error": "disk full"}', {"Retry-After": "5"}), Answer(502), Answer(429), ACCEPTED]
    with Answering(answers) as server:
        assert send(server.url, paused=paused).endswith("7:production (pending)")
    assert len({request.body for request in server.requests}) == 1
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {TOKEN}"}
    assert paused.pauses == [5.0, 2.0, 4.0]


def test_attempts_end_with_their_number_or_with_the_time() -> None:
    with Answering([Answer(503, '{"error": "disk full"}')]) as server:
        with pytest.raises(SendError, match=rf"HTTP 503: disk full \({TRIES} attempts\)"):
            send(server.url, timeout_s=3_600)
        assert len(server.requests) == TRIES
        with pytest.raises(SendError, match=r"HTTP 503: disk full \(2 attempts\)"):
            send(server.url, timeout_s=3)
    with Answering([Answer(503, headers={"Retry-After": "600"})]) as server:
        with pytest.raises(SendError, match=r"\(1 attempt\)"):
            send(server.url)
        assert len(server.requests) == 1


def test_a_server_that_never_answers_is_given_up() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        done = emit("--send", url, "--timeout", "0.5", **GITHUB)
    assert done.returncode == 0
    assert "no answer within 0.5 s" in done.stderr or "it took longer than 0.5 s" in done.stderr


def test_no_alarm_and_no_connection_is_left(intake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.main import direct
    from agent.sources.reports.emit import main

    monkeypatch.setenv("HIVEL_TOKEN", TOKEN)
    with pytest.raises(SystemExit):
        main(["--send", intake, "--run", "1"], direct)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


# ---- TLS and proxies


def test_a_certificate_has_to_be_trusted_and_the_token_is_not_sent_before(
    app: Intake, stored: SqliteOutbox, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "ca")
    with Server(app.app, authority.issue("127.0.0.1")) as server:
        refused = emit("--send", server.url, **GITHUB)
        assert "the certificate is not trusted: " in refused.stderr
        assert "set SSL_CERT_FILE to the certificate of that authority" in refused.stderr
        assert deployments(stored) == {}
        done = emit("--send", server.url, SSL_CERT_FILE=str(authority.file), **GITHUB)
    assert (done.returncode, done.stderr, list(deployments(stored))) == (0, "", [RUN])


def test_a_proxy_of_the_environment_is_used_and_sees_no_token(
    app: Intake, stored: SqliteOutbox, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "ca")
    with (
        Server(app.app, authority.issue("agent.example.test")) as server,
        Proxy({"agent.example.test:443": server.port}) as proxy,
    ):
        url = proxy.url.replace("http://", "http://me:hidden-password@")
        trust = {"SSL_CERT_FILE": str(authority.file), "HTTPS_PROXY": url}
        done = emit("--send", "https://agent.example.test", **trust, **GITHUB)
    assert (done.returncode, done.stderr, list(deployments(stored))) == (0, "", [RUN])
    assert proxy.requests == ["CONNECT agent.example.test:443"]
    assert proxy.credentials != [None]


@pytest.mark.parametrize("url", ["socks5://me:hidden-password@p.test", "https://me:hidden-password@p.test"])
def test_a_proxy_that_cannot_be_used_is_named_without_its_password(url: str) -> None:
    with pytest.raises(SendError) as caught:
        send("https://agent.example.test", HTTPS_PROXY=url)
    assert "proxy" in str(caught.value)
    assert "hidden-password" not in str(caught.value)


def test_a_proxy_that_refuses_is_named_without_its_password() -> None:
    with Proxy({}, refuse_with="407 Proxy Authentication Required") as proxy:
        url = proxy.url.replace("http://", "http://me:hidden-password@")
        with pytest.raises(SendError, match="407 Proxy Authentication Required") as caught:
            send("https://agent.example.test", HTTPS_PROXY=url)
    assert "hidden-password" not in str(caught.value)
    del caught
    gc.collect()  # would warn of an open socket
