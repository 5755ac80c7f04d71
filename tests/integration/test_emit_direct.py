"""``emit --direct``: a build without any agent sends its event to Hivel itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.cli.direct import TRIES, HivelDirect
from agent.deployments.systems.ci import fields
from agent.model import event as events
from agent.model.deployment import event_of
from agent.model.report import ReportError, checked
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.sandbox.hivel import Fault
from agent.sources.reports.sending import SendError
from tests.integration.answering import Answer, Answering
from tests.integration.reporting import deployments, reports_of, settings_of
from tests.integration.support import FakeClock
from tests.integration.test_emit import AN_HOUR_AGO, JENKINS, SAID, SYSTEMS
from tests.integration.test_emit_send import GITHUB, RUN
from tests.integration.test_emit_send import emit as run_emit

if TYPE_CHECKING:
    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.server import LocalServer

KEY = "sandbox-token"
REPORT = checked({
    "provider": "github_actions", "run": "github_actions:acme/shop#9/deploy", "environment": "production",
    "repo_url": "https://github.example.test/acme/shop", "branch": "main", "status": "failure",
    "start_time": AN_HOUR_AGO, "end_time": AN_HOUR_AGO,
})  # fmt: skip


def emit(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run_emit(*arguments, **{"HIVEL_TOKEN": "", "HIVEL_API_TOKEN": KEY, **variables})


class Pausing:
    """A clock whose pauses end at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HIVEL_API_TOKEN", KEY)
        self.clock = FakeClock()
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.advance(s=seconds)

    def send(self, url: str, timeout_s: float = 30) -> str:
        return HivelDirect(url, self.clock, self.sleep).send(REPORT, timeout_s)


@pytest.fixture
def pausing(monkeypatch: pytest.MonkeyPatch) -> Pausing:
    return Pausing(monkeypatch)


# ---- what Hivel gets


STORED = Answer(200, '{"success": true}')


@pytest.mark.parametrize("system", [*SYSTEMS, "jenkins"])
def test_hivel_gets_the_event_that_an_agent_sends(tmp_path: Path, system: str) -> None:
    """The report of the same build is given to an agent, and both events are compared."""
    variables = JENKINS if system == "jenkins" else SYSTEMS[system]
    options = ["--status", "success", "--start-time", AN_HOUR_AGO, "--end-time", AN_HOUR_AGO, *SAID.get(system, [])]
    with Answering([STORED]) as server:
        done = emit("--direct", server.url, *options, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    [request] = server.requests
    assert (request.path, request.headers["x-api-token"]) == ("/api/hooks/v2/deployment", KEY)
    reported = json.loads(emit("--dry-run", *options, **variables).stdout)["report"]
    with SqliteOutbox(tmp_path / "outbox.db", Clock()) as outbox:
        reports_of(settings_of(outbox.path), outbox).take(reported, source="intake", at=Clock().now_ms())
        ((name, row),) = deployments(outbox).items()
    assert json.loads(request.body) == msgspec.json.decode(events.encode(event_of(name, row.content)))
    assert done.stdout == f"hivel-agent emit: sent to {server.url}: {name}\n"
    if system != "jenkins":
        assert name == fields(system, variables)["run"] + ":production"


@pytest.mark.parametrize("word", ["success", "failure", "cancelled", "skipped"])
def test_a_word_of_the_system_is_sent_as_the_status_of_hivels_table(word: str, tmp_path: Path) -> None:
    done = json.loads(emit("--dry-run", "--direct", "--status", word, **GITHUB).stdout)
    expected = {"success": "success", "failure": "failed", "cancelled": "canceled", "skipped": "unknown"}
    assert done["event"]["status"] == expected[word]


def test_a_dry_run_shows_the_event_and_sends_nothing(hivel: LocalHivel, hivel_server: LocalServer) -> None:
    done = json.loads(emit("--dry-run", "--direct", hivel_server.url, "--status", "success", **GITHUB).stdout)
    assert (done["accepted"], done["reason"], done["event"]["deployment_id"]) == (True, None, RUN)
    assert hivel.requests() == []
    without = json.loads(emit("--dry-run", "--direct", HIVEL_API_TOKEN="", **GITHUB).stdout)
    assert "HIVEL_API_TOKEN is empty or not set" in without["reason"]


def test_an_event_that_hivel_has_is_a_success(hivel_server: LocalServer) -> None:
    same = ["--direct", hivel_server.url, "--strict", "--end-time", AN_HOUR_AGO]
    assert emit(*same, "--status", "success", **GITHUB).returncode == 0
    again = emit(*same, "--status", "failure", **GITHUB)
    assert (again.returncode, again.stdout) == (
        0, f"hivel-agent emit: sent to {hivel_server.url}: {RUN} (Hivel already had it)\n",
    )  # fmt: skip


def test_the_variable_of_the_intake_does_not_change_where_it_goes(hivel: LocalHivel, hivel_server: LocalServer) -> None:
    with Answering([Answer(202)]) as server:
        emit("--direct", hivel_server.url, **GITHUB | {"HIVEL_AGENT_SEND_URL": server.url})
    assert (len(hivel.requests()), server.requests) == (1, [])


def test_the_address_of_hivels_page_is_used_without_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEL_API_TOKEN", KEY)
    from agent.sources.reports.emit import _parser

    assert _parser().parse_args(["--direct"]).direct == "https://app.hivel.ai"
    assert _parser().parse_args(["--direct", "https://app.hivel.in"]).direct == "https://app.hivel.in"


# ---- what goes wrong


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
def test_an_event_that_hivel_does_not_take_is_a_warning_and_with_strict_a_failure(
    hivel_server: LocalServer, strict: bool
) -> None:
    more = ["--strict"] if strict else []
    done = emit("--direct", hivel_server.url, *more, **GITHUB | {"HIVEL_API_TOKEN": "wrong-key-of-hivel"})
    assert (done.returncode, done.stdout) == (int(strict), "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"hivel-agent emit: warning: not reported: {hivel_server.url}: HTTP 401: ")
    assert "check HIVEL_API_TOKEN and the key's organization in Hivel" in line
    assert "wrong-key-of-hivel" not in line


def test_send_and_direct_exclude_each_other() -> None:
    done = emit("--direct", "--send", "https://agent.example.test", "--strict", **GITHUB)
    assert (done.returncode, "exclude each other" in done.stderr) == (1, True)


@pytest.mark.parametrize("key", ["", " ", "two words", "ä"])
def test_a_key_that_cannot_be_used_is_refused(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("HIVEL_API_TOKEN", key)
    with pytest.raises(SendError, match="HIVEL_API_TOKEN"):
        HivelDirect("https://app.hivel.ai")


def test_a_key_is_never_sent_without_encryption(pausing: Pausing) -> None:
    with pytest.raises(SendError, match="would send the token without encryption"):
        pausing.send("http://hivel.example.test")


def test_a_report_that_gives_no_event_is_not_sent(
    pausing: Pausing, hivel: LocalHivel, hivel_server: LocalServer
) -> None:
    incomplete = {name: value for name, value in REPORT.items() if name != "branch"}
    with pytest.raises(ReportError, match="invalid report: no branch"):
        HivelDirect(hivel_server.url).send(incomplete, 30)
    assert hivel.requests() == []


def test_an_outage_of_a_moment_is_waited_for(pausing: Pausing, hivel: LocalHivel, hivel_server: LocalServer) -> None:
    hivel.fault(Fault(kind="status", status=503, retry_after=4, times=1))
    hivel.fault(Fault(kind="cut", times=1))  # it was stored, and the answer was lost
    assert pausing.send(hivel_server.url).startswith(f"sent to {hivel_server.url}: {RUN}")
    assert (len(hivel.requests()), len(hivel.deployments())) == (3, 1)
    assert pausing.pauses[0] == 4.0


def test_attempts_end_with_their_number_or_with_the_time(
    pausing: Pausing, hivel: LocalHivel, hivel_server: LocalServer
) -> None:
    hivel.fault(Fault(kind="status", status=503))
    with pytest.raises(SendError, match="HTTP 503"):
        pausing.send(hivel_server.url, timeout_s=3_600)
    assert len(hivel.requests()) == TRIES
    hivel.clear_faults()
    hivel.fault(Fault(kind="status", status=503, retry_after=600))
    with pytest.raises(SendError, match="HTTP 503"):
        pausing.send(hivel_server.url)
    assert len(hivel.requests()) == TRIES + 1


def test_a_refusal_is_final(pausing: Pausing, hivel: LocalHivel, hivel_server: LocalServer) -> None:
    hivel.fault(Fault(kind="status", status=400, body={"message": "Validation failed", "error": "branch is odd"}))
    with pytest.raises(SendError, match="HTTP 400: Validation failed: branch is odd"):
        pausing.send(hivel_server.url)
    assert len(hivel.requests()) == 1


def test_the_key_does_not_follow_a_redirect(pausing: Pausing, hivel: LocalHivel, hivel_server: LocalServer) -> None:
    with Answering([Answer(200, '{"success": true}')]) as other:
        hivel.fault(Fault(kind="redirect", location=other.url))
        with pytest.raises(SendError, match="set the address after --direct to the address of Hivel"):
            pausing.send(hivel_server.url)
    assert other.requests == []


def test_a_server_that_never_answers_is_given_up(hivel: LocalHivel, hivel_server: LocalServer) -> None:
    hivel.fault(Fault(kind="silent"))
    done = emit("--direct", hivel_server.url, "--timeout", "0.9", **GITHUB)
    assert done.returncode == 0
    assert "no answer within" in done.stderr or "it took longer than 0.9 s" in done.stderr
    [_] = done.stderr.splitlines()


def test_a_report_with_an_id_of_its_own_keeps_it(hivel: LocalHivel, hivel_server: LocalServer) -> None:
    emit("--direct", hivel_server.url, "--deployment-id", "nightly-7", **GITHUB)
    assert [each.event.deployment_id for each in hivel.deployments()] == ["nightly-7"]


def test_a_package_without_its_dependencies_says_that_it_is_incomplete() -> None:
    root = str(Path(__file__).parents[2])
    code = f"import sys; sys.path.insert(0, {root!r}); from agent.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, "emit", "--direct"],
        env={"HIVEL_API_TOKEN": KEY, **GITHUB}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, "--direct requires the complete installation; msgspec is missing" in done.stderr) == (
        0, True,
    )  # fmt: skip
