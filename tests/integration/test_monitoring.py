"""What monitoring sees after a played story, and that it never stands in the way of the work."""

from __future__ import annotations

import json
import re
import resource
import socket
import sqlite3
import time
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.config.settings import Address
from agent.daemon.monitoring import readiness
from agent.daemon.polling import PollRecord
from agent.daemon.stored import read
from agent.delivery.breaker import BreakerState, CircuitBreaker
from agent.delivery.observers import Tally
from agent.delivery.retry import Backoff
from agent.inspect.asked import ask_daemon
from agent.model.trouble import Trouble, Unexpected
from agent.outbox.values import ControllerState, OutboxError
from agent.sandbox.hivel import Fault
from tests.integration.disks import mounted
from tests.integration.scripted import Scripted
from tests.integration.support import REPO, Agent, wait_until

if TYPE_CHECKING:
    from subprocess import Popen

    from agent.outbox.sqlite.engine import SqliteOutbox
    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer
    from tests.integration.scripted import Connection
    from tests.integration.support import FakeClock

JOB = "deploy/shop"
FOLDER = Path(__file__).parents[2] / "monitoring"


def address(agent: Agent) -> str:
    found = re.search(r"what=monitoring url=(http://\S+)", agent.log())
    assert found is not None, agent.log()
    return found[1]


def page(agent: Agent) -> str:
    answer = httpx.get(f"{address(agent)}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return answer.text


def metrics(agent: Agent) -> dict[str, float]:
    """Values by name and labels as they are written: ``hivel_agent_events{state="failed"}``."""
    values = {}
    for family in text_string_to_metric_families(page(agent)):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            values[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return values


def ready(agent: Agent) -> tuple[int, dict[str, dict[str, Any]]]:
    answer = httpx.get(f"{address(agent)}/readyz")
    content = answer.json()
    assert content["ready"] == (answer.status_code == 200)
    return answer.status_code, {check["name"]: check for check in content["checks"]}


# ---- metrics


@pytest.mark.usefixtures("daemon")
def test_values_are_right_after_a_played_story(agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel) -> None:
    hivel.fault(Fault(kind="status", status=400, match="#2", times=1))
    hivel.fault(Fault(kind="status", status=503, match="#3", times=2))
    hivel.fault(Fault(kind="reset", match="#4", times=1))
    jenkins.add_builds(JOB, 6, repo=REPO)
    wait_until(lambda: metrics(agent)["hivel_agent_delivered_total"] == 5, "five are delivered")
    wait_until(lambda: metrics(agent)['hivel_agent_events{state="delivered"}'] == 5, "and settled")
    now = metrics(agent)
    expected = {
        "hivel_agent_failed_total": 1,
        'hivel_agent_retries_total{reason="http_503"}': 2,
        'hivel_agent_retries_total{reason="network"}': 1,
        'hivel_agent_events{state="failed"}': 1,
        'hivel_agent_events{state="pending"}': 0,
        'hivel_agent_events{state="held"}': 0,
        "hivel_agent_oldest_pending_age_seconds": 0,
        "hivel_agent_delivery_paused": 0,
        "hivel_agent_delivery_outage": 0,
        "hivel_agent_outbox_writable": 1,
        'hivel_agent_controller_up{controller="main"}': 1,
        'hivel_agent_missed_builds_total{controller="main"}': 0,
        'hivel_agent_unexpected_errors_total{where="delivery"}': 0,
        'hivel_agent_unexpected_errors_total{where="polls of main"}': 0,
    }
    assert {name: now[name] for name in expected} == expected
    polls = 'hivel_agent_poll_duration_seconds_count{controller="main"}'
    assert now[polls] >= 1
    assert 0 < now['hivel_agent_poll_duration_seconds_sum{controller="main"}'] < 60
    assert 0 <= now['hivel_agent_poll_age_seconds{controller="main"}'] < 30
    wait_until(lambda: metrics(agent)[polls] > now[polls], "polls are counted on")


@pytest.mark.usefixtures("daemon")
def test_a_pause_an_outage_and_their_waiting_events_are_seen(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    hivel.fault(Fault(kind="status", status=401))
    jenkins.add_builds(JOB, 4, repo=REPO)
    wait_until(lambda: metrics(agent)["hivel_agent_delivery_paused"] == 1, "the delivery is paused")
    assert metrics(agent)['hivel_agent_events{state="pending"}'] == 4
    wait_until(lambda: metrics(agent)["hivel_agent_oldest_pending_age_seconds"] > 0.2, "the oldest grows older")
    assert metrics(agent)['hivel_agent_retries_total{reason="http_401"}'] >= 1
    hivel.clear_faults()
    hivel.fault(Fault(kind="status", status=503))
    wait_until(lambda: metrics(agent)["hivel_agent_delivery_outage"] == 1, "it is an outage now")
    assert metrics(agent)["hivel_agent_delivery_paused"] == 0
    hivel.clear_faults()
    wait_until(lambda: metrics(agent)["hivel_agent_delivery_outage"] == 0, "it is over")
    wait_until(lambda: metrics(agent)["hivel_agent_delivered_total"] == 4, "everything is delivered")


@pytest.mark.usefixtures("daemon")
def test_missed_builds_and_a_controller_that_is_down_are_seen(
    agent: Agent, jenkins: LocalJenkins, jenkins_server: LocalServer, hivel: LocalHivel
) -> None:
    jenkins.add_builds(JOB, 1, repo=REPO)
    wait_until(lambda: len(hivel.deployments()) == 1, "the first build has arrived")
    jenkins.set_next_build_number(JOB, 300)
    jenkins.add_builds(JOB, 1, repo=REPO)
    missed = 'hivel_agent_missed_builds_total{controller="main"}'
    wait_until(lambda: metrics(agent)[missed] > 0, "builds are missed")
    assert metrics(agent)[missed] == agent.json("status")["controllers"][0]["missed_builds"]
    jenkins_server.stop()
    up, age = (f'hivel_agent_{name}{{controller="main"}}' for name in ("controller_up", "poll_age_seconds"))
    wait_until(lambda: metrics(agent)[up] == 0, "the controller is down")
    before = metrics(agent)[age]
    wait_until(lambda: metrics(agent)[age] > before + 0.2, "the last poll is longer and longer ago")


@pytest.mark.usefixtures("daemon")
def test_names_follow_the_conventions_of_prometheus(agent: Agent) -> None:
    families = list(text_string_to_metric_families(page(agent)))
    assert len(families) >= 10
    for family in families:
        assert re.fullmatch(r"hivel_agent(_[a-z]+)+", family.name), family.name
        assert family.documentation.endswith("."), family.name
        assert family.type in ("counter", "gauge", "summary", "histogram", "info"), family.name
        assert not re.search(r"_(ms|milliseconds|minutes|total|count|sum)$", family.name), family.name
        if re.search(r"_(age|duration)_", family.name):
            assert family.name.endswith("_seconds"), family.name
        for sample in family.samples:
            assert family.type != "counter" or sample.name.endswith("_total"), sample.name
            assert set(sample.labels) <= {
                "state",
                "reason",
                "result",
                "controller",
                "version",
                "where",
                "kind",
                "le",
                "builds",
            }, "few labels with few values"


# ---- who connects and says nothing


def test_fifteen_hundred_connections_that_ask_nothing_keep_neither_deliveries_nor_health_from_their_answers(
    agent: Agent, daemon: Popen[str], jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    """They took every file that the daemon may open: no delivery, no poll, and megabytes of log in a minute."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, hard), hard))
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (1_024, 1_024))
    host, port = urlsplit(address(agent)).hostname or "", urlsplit(address(agent)).port or 0
    before = len(agent.log())
    try:
        with ExitStack() as stack:
            for _ in range(1_500):
                stack.enter_context(socket.create_connection((host, port)))
            began = time.monotonic()
            assert httpx.get(f"{address(agent)}/healthz", timeout=120).status_code == 200
            healthy_s = time.monotonic() - began
            jenkins.add_builds(JOB, 20, repo=REPO)
            wait_until(lambda: len(hivel.deployments()) == 20, "all are delivered")
            delivered_s = time.monotonic() - began
            assert httpx.get(f"{address(agent)}/readyz", timeout=120).status_code == 200
            opened = len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))
            memory = re.findall(r"VmHWM:\s+(\d+ kB)", Path(f"/proc/{daemon.pid}/status").read_text())[0]
        logged = len(agent.log()) - before
        print(  # noqa: T201
            f"/healthz after {healthy_s:.2f} s, 20 events after {delivered_s:.1f} s; "
            f"{opened} files open, {memory}, {logged} B of log"
        )
        assert opened < 300
        assert logged < 20_000, agent.log()[before : before + 2_000]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---- health


@pytest.mark.usefixtures("daemon")
def test_health_and_readiness_of_a_daemon_that_works(agent: Agent) -> None:
    health = httpx.get(f"{address(agent)}/healthz")
    assert (health.status_code, health.json()["alive"]) == (200, True)
    wait_until(lambda: ready(agent)[0] == 200, "it is ready")
    assert set(ready(agent)[1]) == {"outbox", "delivery", "jenkins main", "log"}
    assert httpx.get(f"{address(agent)}/").status_code == 404
    assert httpx.post(f"{address(agent)}/metrics").status_code == 405


@pytest.mark.usefixtures("daemon")
def test_a_paused_delivery_is_not_ready_and_says_what_to_mend(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    hivel.fault(Fault(kind="status", status=401))
    jenkins.add_builds(JOB, 1, repo=REPO)
    wait_until(lambda: ready(agent)[0] == 503, "it is not ready")
    check = ready(agent)[1]["delivery"]
    assert check["ok"] is False and "check [hivel] token_file" in check["reason"]
    assert httpx.get(f"{address(agent)}/healthz").status_code == 200
    hivel.clear_faults()
    wait_until(lambda: ready(agent)[0] == 200, "it is ready again")


@pytest.mark.root
def test_an_outbox_that_cannot_be_written_is_not_ready(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=4m", "tmpfs") as disk:
        agent.config.write_text(agent.config.read_text().replace("outbox.db", f"{disk.folder}/outbox.db"))
        process = agent.start()
        try:
            wait_until(lambda: "event=started" in agent.log(), "the daemon has started")
            disk.fill()
            jenkins.add_builds(JOB, 400, repo=REPO)
            wait_until(lambda: ready(agent)[0] == 503, "it is not ready")
            check = ready(agent)[1]["outbox"]
            assert check["ok"] is False and "no space left" in check["reason"]
            assert metrics(agent)["hivel_agent_outbox_writable"] == 0
            disk.make_room()
            wait_until(lambda: ready(agent)[0] == 200, "it is ready again")
            assert metrics(agent)["hivel_agent_outbox_writable"] == 1
        finally:
            process.kill()
            process.wait()


class Played:
    """What monitoring reads of a life of the daemon, as far as readiness needs it."""

    def __init__(self, outbox: SqliteOutbox) -> None:
        self.clock = outbox.clock
        self.settings = SimpleNamespace(max_size_bytes=0)
        self.unexpected = Unexpected(outbox.clock)
        self.work = SimpleNamespace(storing=Trouble("storing events", outbox.clock))
        self.polls = [SimpleNamespace(name="main", record=PollRecord(outbox.clock.monotonic(), ready_within_s=195))]
        self.breaker = CircuitBreaker(Backoff(1_000, 60_000), outbox.clock)
        self.parts = SimpleNamespace(dispatcher=SimpleNamespace(breaker=self.breaker, tally=Tally()))


def test_a_jenkins_that_was_not_polled_for_long_is_not_ready(outbox: SqliteOutbox, clock: FakeClock) -> None:
    life = Played(outbox)
    problem = "no answer from http://jenkins.example.test/: Connection refused"
    outbox.save_controller(ControllerState("main", "unreachable", clock.now_ms(), last_error=problem))
    clock.advance(s=195)
    assert readiness(life, read(outbox)).ready, "a restart of Jenkins is no reason to wake somebody"
    clock.advance(s=1)
    told = readiness(life, read(outbox))
    [check] = [check for check in told.checks if check.name == "jenkins main"]
    assert (told.ready, check.ok) == (False, False)
    assert check.reason == f"no successful poll for 196 s: {problem}"
    life.polls[0].record.finished_at = clock.monotonic()
    assert readiness(life, read(outbox)).ready


def test_an_outage_of_hivel_leaves_the_agent_ready_and_is_told(outbox: SqliteOutbox) -> None:
    """The agent does what it can: it keeps events. To take it out of service would help nobody."""
    life = Played(outbox)
    life.breaker.state, life.breaker.reason = BreakerState.OUTAGE, "HTTP 503"
    told = readiness(life, read(outbox))
    assert told.ready
    assert [check.reason for check in told.checks if check.name == "delivery"] == ["HTTP 503"]


def test_an_outbox_that_cannot_be_read_is_not_ready(outbox: SqliteOutbox) -> None:
    life = Played(outbox)
    with closing(sqlite3.connect(outbox.path)) as connection:
        connection.execute("DROP TABLE controllers")
    with pytest.raises(OutboxError) as caught:
        read(outbox)
    told = readiness(life, caught.value)
    [check] = [check for check in told.checks if check.name == "outbox"]
    assert (told.ready, check.ok) == (False, False)
    assert str(outbox.path) in (check.reason or "")


def test_an_outbox_that_is_full_is_not_ready_until_there_is_room(outbox: SqliteOutbox) -> None:
    life = Played(outbox)
    life.settings.max_size_bytes = outbox.size()
    told = readiness(life, read(outbox))
    [check] = [check for check in told.checks if not check.ok]
    assert (told.ready, check.name) == (False, "outbox")
    assert "is full" in (check.reason or "") and "max_size" in (check.reason or "")
    life.settings.max_size_bytes += 1
    assert readiness(life, read(outbox)).ready


def test_work_that_ended_by_a_mistake_is_not_ready_until_it_succeeds(outbox: SqliteOutbox) -> None:
    life = Played(outbox)
    life.unexpected.note("reports", KeyError("build"))
    told = readiness(life, read(outbox))
    [check] = [check for check in told.checks if not check.ok]
    assert (told.ready, check.name) == (False, "work: reports")
    assert "KeyError: 'build'" in (check.reason or "")
    life.unexpected.over("reports")
    assert readiness(life, read(outbox)).ready


# ---- the port


def test_a_port_that_is_taken_keeps_nothing_from_working(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        mine = f"127.0.0.1:{taken.getsockname()[1]}"
        agent.config.write_text(agent.config.read_text().replace('"127.0.0.1:0"', f'"{mine}"'))
        jenkins.add_builds(JOB, 2, repo=REPO)
        process = agent.start()
        try:
            wait_until(lambda: len(hivel.deployments()) == 2, "the builds have arrived")
        finally:
            process.terminate()
            assert process.wait(120) == 0
    [line] = [line for line in agent.log().splitlines() if "monitoring" in line]
    assert f'event="cannot listen" what=monitoring address={mine}' in line and "[monitoring] listen" in line


def test_without_an_address_no_port_is_open(agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel) -> None:
    agent.config.write_text(agent.config.read_text().replace('"127.0.0.1:0"', '""'))
    jenkins.add_builds(JOB, 1, repo=REPO)
    process = agent.start()
    try:
        wait_until(lambda: len(hivel.deployments()) == 1, "the build has arrived")
        assert listening(process.pid) == []
    finally:
        process.terminate()
        assert process.wait(120) == 0
    assert "monitoring" not in agent.log()


@pytest.mark.usefixtures("agent")
def test_with_an_address_one_port_is_open_and_only_to_this_machine(agent: Agent, daemon: Popen[str]) -> None:
    host, port = address(agent).removeprefix("http://").split(":")
    assert listening(daemon.pid) == [(host, int(port))]
    assert host == "127.0.0.1"


def listening(pid: int) -> list[tuple[str, int]]:
    """Where a process listens, as the kernel knows it."""
    sockets = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    found = []
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
            host, port = fields[1].split(":")
            found.append((socket.inet_ntoa(bytes.fromhex(host)[::-1]), int(port, 16)))
    return found


# ---- the dashboard and the alerts


@pytest.mark.usefixtures("daemon")
def test_dashboard_and_alerts_name_only_what_is_served(agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel) -> None:
    hivel.fault(Fault(kind="status", status=503, times=1))
    jenkins.add_builds(JOB, 1, repo=REPO)
    wait_until(lambda: metrics(agent)["hivel_agent_delivered_total"] == 1, "the build has arrived")
    served = {name.partition("{")[0] for name in metrics(agent)}
    dashboard = (FOLDER / "grafana-dashboard.json").read_text()
    expressions = [t["expr"] for panel in json.loads(dashboard)["panels"] for t in panel.get("targets", [])]
    alerts = (FOLDER / "alerts.yml").read_text()
    there = served | set(re.findall(r"(?m)^# TYPE (\S+)", page(agent)))  # some have no value without webhooks
    for text in (*expressions, alerts):
        named = set(re.findall(r"hivel_agent_[a-z_]+", text))
        assert named, text
        assert named <= there, named - there
    everything = set(re.findall(r"hivel_agent_[a-z_]+", " ".join(expressions)))
    assert served - everything <= {"hivel_agent_build_info"}, "the dashboard leaves something out"


def test_alerts_are_complete_and_even() -> None:
    """No YAML library is needed for what these few lines may hold."""
    lines = (FOLDER / "alerts.yml").read_text().splitlines()
    assert not any("\t" in line for line in lines)
    rules: list[dict[str, str]] = []
    for line in lines:
        if (key := re.fullmatch(r"\s*(- )?([a-z]+):\s*(.*)", line)) is None:
            assert not line.strip() or line.lstrip().startswith("#"), line
        elif key[2] == "alert":
            assert line.startswith("      - "), line
            rules.append({"alert": key[3]})
        elif rules:
            rules[-1][key[2]] = key[3]
            value = key[3]
            assert value.count('"') % 2 == 0 and value.count("{{") == value.count("}}"), line
            assert value.startswith('"') == value.endswith('"'), line
    assert len(rules) >= 6
    for rule in rules:
        assert {"alert", "expr", "for", "severity", "summary", "description"} <= set(rule), rule
        assert re.fullmatch(r"HivelAgent[A-Za-z]+", rule["alert"])
        assert re.fullmatch(r"\d+[mh]", rule["for"])
        assert rule["severity"] in ("warning", "critical")
        assert rule["expr"].count("(") == rule["expr"].count(")")


# ---- what Jenkins was asked


def test_metrics_and_status_tell_what_jenkins_was_asked(agent: Agent, jenkins: LocalJenkins) -> None:
    port = free_port()
    agent.config.write_text(agent.config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
    jenkins.add_builds(JOB, 1, repo=REPO)
    process = agent.start()
    try:
        wait_until(lambda: "event=delivered" in agent.log(), "the build has arrived")
        [controller] = agent.json("status")["controllers"]
        asked = controller["asked"]
        shown = metrics(agent)
        text = agent.run("status").stdout
    finally:
        process.terminate()
        process.wait()
    assert (asked["controller"], asked["interval_ms"], asked["setting_ms"]) == ("main", 200, 200)
    kinds = {each["kind"]: each for each in asked["last_hour"]}
    assert kinds["builds"]["requests"] == 1 and kinds["jobs"]["requests"] >= 1
    served = [request for request in jenkins.requests if request.path == "/job/deploy/job/shop/api/json"]
    assert kinds["builds"]["bytes"] > served[0].size > 0  # with headers
    name = 'hivel_agent_jenkins_answer_seconds_{}{{controller="main",kind="builds"}}'
    assert shown[name.format("count")] == 1
    assert shown[name.format("sum")] > 0
    assert shown['hivel_agent_jenkins_answer_seconds_bucket{controller="main",kind="builds",le="+Inf"}'] == 1
    received = shown['hivel_agent_jenkins_received_bytes_total{controller="main",kind="builds"}']
    assert received == kinds["builds"]["bytes"]
    assert shown['hivel_agent_poll_interval_seconds{controller="main"}'] == 0.2
    assert re.search(r"requests +main: every 200ms; in the last hour \d+ jobs, 1 builds", " ".join(text.split()))
    [controller] = agent.json("status")["controllers"]
    assert controller["asked"] is None  # nobody is there who knows


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n\r\n<html>", b"HTTP/1.1 404 No\r\n\r\n", b"nonsense", b""])
def test_status_goes_without_what_no_daemon_or_another_one_tells(answer: bytes) -> None:
    def send(_: str, connection: Connection) -> bool:
        connection.send(answer)
        return False

    with Scripted(send) as server:
        port = int(server.url.rstrip("/").rpartition(":")[2])
        assert ask_daemon(Address("127.0.0.1", port)) == []
    assert ask_daemon(Address("127.0.0.1", port)) == []


def free_port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
