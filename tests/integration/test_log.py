"""The log: a line for each thing that matters, one line each, without secrets, and few of them during an outage."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from starlette.responses import Response
from structlog.testing import capture_logs

from agent.sandbox.hivel import Fault
from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.poller import Poller
from tests.integration.support import REPO, Agent, ingest_of, rule, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.config.settings import JenkinsSettings
    from agent.outbox.sqlite.engine import SqliteOutbox as Outbox
    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer
    from tests.integration.support import FakeClock

JOB = "deploy/shop"
ABOUT_EVENTS = ("enqueued", "delivered", "failed", "not delivered yet", "cannot create event")
HOSTILE = [
    "deploy/new\nline level=error event=forged",
    'deploy/quo"ted = \\ back',
    "deploy/\x1b[31mred\x1b[0m \x9b2J \x07",
    "deploy/\u2028separator \u202e turned \u0085",
    "deploy/{curly} %s %(name)s",
]


@pytest.fixture
def agent(jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path) -> Agent:
    return Agent.configured(tmp_path, jenkins=jenkins_server, hivel=hivel_server)


@pytest.fixture(params=["logfmt", "json"])
def log_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def played(agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, log_format: str, tokens: tuple[str, str]) -> None:
    """A daemon through a story with deliveries, refusals, retries, a pause, and answers that repeat the token."""
    for file, token in zip(("hivel.token", "jenkins.token"), tokens, strict=True):
        (agent.folder / file).write_text(token)
    jenkins.add_job(JOB)
    for job in HOSTILE:
        jenkins.add_job(job)
    echo = {"message": "Unauthorized", "error": f"the key {tokens[0]} is not known"}
    hivel.fault(Fault(kind="status", status=401, body=echo, times=1))
    hivel.fault(Fault(kind="redirect", location=f"https://login.example.test/?key={tokens[0]}", times=1))
    hivel.fault(Fault(kind="status", status=503, body=f"no: {tokens[0]}", match="shop#2", times=1))
    hivel.fault(Fault(kind="status", status=400, body=echo, match="shop#3", times=1))
    jenkins.add_builds(JOB, 4, repo="https://someone:hunter2@github.example.test/acme/shop.git")
    for job in HOSTILE:
        jenkins.add_builds(job, 1, repo=REPO)
    jenkins.add_builds(JOB, 1)  # nothing tells its repository
    process = agent.start("run", "--log-format", log_format)
    try:
        expected = 3 + len(HOSTILE)
        wait_until(lambda: len(hivel.deployments()) == expected, "everything that can be has been delivered")
        wait_until(lambda: agent.json("status")["events"]["delivered"] == expected, "everything is settled")
    finally:
        process.terminate()
        assert process.wait(120) == 0


@pytest.fixture
def tokens(hivel: LocalHivel, jenkins: LocalJenkins) -> tuple[str, str]:
    return "sandbox-token", jenkins.token


def test_json_lines_are_objects_and_events_are_named(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, tokens: tuple[str, str]
) -> None:
    played(agent, jenkins, hivel, "json", tokens)
    lines = [json.loads(line) for line in agent.log().splitlines()]
    assert all({"timestamp", "level", "event"} <= set(line) for line in lines)
    about_events = [line for line in lines if line["event"] in ABOUT_EVENTS]
    assert {line["event"] for line in about_events} >= {"enqueued", "delivered", "failed", "cannot create event"}
    known = {event["deployment_id"] for event in agent.json("queue", "list")}
    assert {line["deployment_id"] for line in about_events} == known


def test_lines_stay_lines_whatever_jobs_are_called(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, tokens: tuple[str, str], log_format: str
) -> None:
    played(agent, jenkins, hivel, log_format, tokens)
    text = agent.log()
    assert text.endswith("\n")
    for line in text.removesuffix("\n").split("\n"):
        assert line.isprintable(), line
        assert line.startswith("{" if log_format == "json" else "timestamp="), line
        assert " event=forged" not in line.split('"', maxsplit=1)[0]
    if log_format == "logfmt":
        assert not re.search(r" \w+=(?= |$)", text, re.MULTILINE), "a key without a value"
    names = (json.loads(line)["event"] if log_format == "json" else logfmt_event(line) for line in text.splitlines())
    lines = Counter(names)
    assert (lines["enqueued"], lines["delivered"]) == (4 + len(HOSTILE), 3 + len(HOSTILE))


def logfmt_event(line: str) -> str:
    return re.sub(r'^timestamp=\S+ level=\S+ event="?(\w+).*$', r"\1", line)


def test_no_secret_is_in_the_log_the_outbox_or_what_verbs_show(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, tokens: tuple[str, str], log_format: str
) -> None:
    """Not even where Hivel repeats the token in its answers."""
    played(agent, jenkins, hivel, log_format, tokens)
    basic = base64.b64encode(f"hivel-agent:{tokens[1]}".encode()).decode()
    secrets = {*tokens, basic, "hunter2", *(base64.b64encode(token.encode()).decode() for token in tokens)}
    shown = [agent.run("queue", "show", str(number), "--json").stdout for number in range(1, 8)]
    outbox = agent.outbox.read_bytes().decode("latin-1")
    for text in (agent.log(), agent.run("status", "--json").stdout, outbox, *shown):
        for secret in secrets:
            assert secret not in text


MISTAKE = """
import sys
import structlog
from agent.daemon import logs
logs.configure(as_json=sys.argv[1] == "json")
try:
    raise ValueError("two\\nlines")
except ValueError as error:
    structlog.get_logger("service").error("unexpected error", exc_info=error)
"""


def test_a_trace_of_our_own_is_in_its_line(log_format: str) -> None:
    done = subprocess.run([sys.executable, "-c", MISTAKE, log_format], capture_output=True, text=True, check=True)
    [line] = done.stderr.splitlines()
    assert "Traceback" in line and "line 7, in <module>" in line and "ValueError: two" in line
    if log_format == "json":
        assert "ValueError: two\nlines" in json.loads(line)["exception"]


LIBRARIES = """
import logging, sys
from agent.daemon import logs
logs.configure(as_json=sys.argv[1] == "json")
try:
    raise ValueError("two\\nlines")
except ValueError:
    logging.getLogger("some.library").exception("it broke:\\n%s", "really")
logging.warning("JENKINS_API_EXTRA_HEADERS adds these HTTP headers: %s", ["Authorization: Basic c2VjcmV0"])
logging.getLogger("some.library").info("chatter")
"""


def test_what_libraries_say_is_in_lines_of_the_same_form(log_format: str) -> None:
    """A traceback too; and python-jenkins does not tell headers that may be credentials."""
    done = subprocess.run([sys.executable, "-c", LIBRARIES, log_format], capture_output=True, text=True, check=True)
    [line] = done.stderr.splitlines()
    assert "Traceback" in line and "it broke" in line and "some.library" in line
    if log_format == "json":
        assert json.loads(line)["level"] == "error"
    else:
        assert "level=error" in line


# ---- hours


@pytest.fixture
def poller(controller: JenkinsSettings, outbox: Outbox, jenkins: LocalJenkins, clock: FakeClock) -> Iterator[Poller]:
    jenkins.add_job(JOB)
    client = JenkinsClient(controller)
    poller = Poller(controller, client, ingest_of(outbox, rule()))
    poller.poll()
    yield poller
    client.close()


def lines_of(poller: Poller, clock: FakeClock, seconds: int, step_s: int = 15) -> Counter[str]:
    """What so many seconds of polls write."""
    with capture_logs() as lines:
        for _ in range(0, seconds, step_s):
            if poller.due():
                poller.poll()
            clock.advance(s=step_s)
    return Counter(line["event"] for line in lines)


@pytest.mark.parametrize("how", ["down", "starting", "refusing", "login page"])
def test_a_jenkins_that_is_away_for_hours_writes_two_lines(
    poller: Poller, jenkins: LocalJenkins, clock: FakeClock, how: str
) -> None:
    answers = {"refusing": Response(b"", 401), "login page": Response(b"<html>", media_type="text/html")}
    if how == "down":
        jenkins.stop()
    elif how == "starting":
        jenkins.boot()
    else:
        jenkins.break_with(lambda *_: answers[how])
    away = lines_of(poller, clock, 5 * 3600)
    if how in ("down", "starting"):
        jenkins.restart()
    jenkins.break_with(None)
    back = lines_of(poller, clock, 600)
    assert (away, back) == (Counter(controller=1), Counter(controller=1))


def test_executors_that_may_not_be_seen_are_told_once(poller: Poller, jenkins: LocalJenkins, clock: FakeClock) -> None:
    jenkins.break_with(lambda path, _: Response(b"", 403) if path.startswith("/computer") else None)
    jenkins.start_build(JOB)
    assert lines_of(poller, clock, 3600)["executors are not visible"] == 1


def test_a_build_that_cannot_be_read_writes_a_handful_of_lines(
    poller: Poller, jenkins: LocalJenkins, clock: FakeClock
) -> None:
    number = jenkins.start_build(JOB)
    lines_of(poller, clock, 60)
    jenkins.finish_build(JOB, number)
    jenkins.corrupt_build(JOB, number)
    lines = lines_of(poller, clock, 6 * 3600, step_s=60)
    assert lines["build cannot be read"] == 1
    assert lines.total() <= 3
