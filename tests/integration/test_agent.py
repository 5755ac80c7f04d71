"""The agent as a process, through its command line, with a Jenkins and a Hivel beside it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from agent import __version__
from agent.sandbox.hivel import Fault
from tests.integration.support import REPO, Agent, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer

RULES = '[[deployment]]\njob = "deploy/**"\n'


@pytest.fixture
def agent(jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path) -> Agent:
    jenkins.add_job("deploy/shop")
    return Agent.configured(tmp_path, jenkins=jenkins_server, hivel=hivel_server, extra=RULES)


# ---- once


def test_once_polls_delivers_and_exits_with_0(agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel) -> None:
    jenkins.add_builds("deploy/shop", 3, repo=REPO)
    done = agent.run("once")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "3 events enqueued" in done.stdout and "3 delivered" in done.stdout
    assert sorted(d.event.deployment_id for d in hivel.deployments()) == [f"main:deploy/shop#{n}" for n in (1, 2, 3)]
    assert agent.run("once").returncode == 0
    assert len(hivel.requests()) == 3


def test_once_exits_with_1_when_an_event_could_not_be_derived(agent: Agent, jenkins: LocalJenkins) -> None:
    jenkins.add_builds("deploy/shop", 1)
    assert agent.run("once").returncode == 1
    [failed] = agent.json("queue", "list", "--state", "failed")
    assert failed["deployment_id"] == "main:deploy/shop#1"
    assert failed["reason"].startswith("no repo_url, no branch in the build; set repo_url and branch in the rule")


def test_once_exits_with_1_when_the_delivery_is_paused(agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel) -> None:
    jenkins.add_builds("deploy/shop", 1, repo=REPO)
    hivel.fault(Fault(kind="status", status=401))
    done = agent.run("once")
    assert done.returncode == 1
    assert "paused" in done.stdout and "token" in done.stdout


def test_once_exits_with_0_while_events_merely_wait_for_hivel(
    agent: Agent, jenkins: LocalJenkins, hivel_server: LocalServer
) -> None:
    jenkins.add_builds("deploy/shop", 5, repo=REPO)
    hivel_server.stop()
    assert agent.run("once").returncode == 0
    assert agent.json("status")["events"]["pending"] == 5


def test_once_exits_with_1_when_jenkins_cannot_be_polled(agent: Agent, jenkins_server: LocalServer) -> None:
    jenkins_server.stop()
    done = agent.run("once")
    assert done.returncode == 1
    assert "no answer from" in done.stdout and "Traceback" not in done.stderr
    assert agent.json("status")["controllers"][0]["state"] == "unreachable"


# ---- replay


def test_a_mended_rule_and_replay_deliver_a_build_that_jenkins_has_discarded(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    jenkins.add_builds("deploy/shop", 1, parameters={"ENVIRONMENT": "qa"})
    agent.run("once")
    jenkins.delete_build("deploy/shop", 1)
    still_wrong = agent.run("replay", "--failed", "--yes")
    assert (still_wrong.returncode, "not replayed" in still_wrong.stdout) == (1, True)
    agent.config.write_text(agent.config.read_text() + f'repo_url = "{REPO}"\nbranch = "main"\n')
    assert agent.run("replay", "--failed", "--yes").returncode == 0
    assert agent.run("once").returncode == 0
    [arrived] = hivel.deployments()
    assert (arrived.event.environment, arrived.event.repo_url, arrived.event.branch) == ("qa", REPO, "main")


def test_an_event_that_hivel_refused_is_sent_again_with_fresh_attempts(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    jenkins.add_builds("deploy/shop", 1, repo=REPO)
    hivel.fault(Fault(kind="status", status=400, times=1))
    assert agent.run("once").returncode == 1
    assert agent.json("replay", "main:deploy/shop#1") == [
        {"id": 1, "deployment_id": "main:deploy/shop#1", "replayed": True, "reason": None, "note": None}
    ]
    assert agent.json("queue", "list")[0]["attempts"] == 0
    assert agent.run("once").returncode == 0
    assert len(hivel.deployments()) == 1


def test_delivered_events_are_sent_again_only_when_asked_for(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    jenkins.add_builds("deploy/shop", 2, repo=REPO)
    agent.run("once")
    assert agent.json("replay", "--failed", "--yes") == []
    assert agent.run("replay", "--all-delivered").returncode == 2
    assert [o["replayed"] for o in agent.json("replay", "1")] == [True]
    assert agent.run("once").returncode == 0
    assert sorted(d.times_posted for d in hivel.deployments()) == [1, 2]
    assert len(agent.json("replay", "--all-delivered", "--since", "2020-01-01", "--yes")) == 2


def test_replaying_what_is_not_there_replays_nothing(agent: Agent, jenkins: LocalJenkins) -> None:
    jenkins.add_builds("deploy/shop", 1)
    agent.run("once")
    done = agent.run("replay", "1", "nonsense")
    assert done.returncode == 1
    assert "'nonsense'" in done.stderr


# ---- the daemon


def test_the_daemon_delivers_stops_cleanly_and_goes_on_where_it_was(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    jenkins.add_builds("deploy/shop", 2, repo=REPO)
    for expected, number in ((2, signal.SIGTERM), (3, signal.SIGINT)):
        process = agent.start()
        wait_until(lambda expected=expected: len(hivel.deployments()) == expected, "the events have arrived")
        process.send_signal(number)
        assert process.wait(120) == 0
        assert not agent.outbox.with_name("outbox.db-wal").exists()
        assert agent.json("status")["daemon_pid"] is None
        jenkins.add_builds("deploy/shop", 1, repo=REPO)
    assert {d.times_posted for d in hivel.deployments()} == {1}
    assert agent.json("status")["events"]["pending"] == 0


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("verb", ["run", "once"])
def test_a_second_agent_on_the_same_outbox_refuses_to_start(agent: Agent, verb: str) -> None:
    done = agent.run(verb)
    assert done.returncode == 1
    assert f"already uses the outbox {agent.outbox}" in done.stderr
    assert agent.json("status")["daemon_pid"] > 0


@pytest.mark.usefixtures("daemon")
def test_replay_while_the_daemon_runs_is_taken_up_by_it(agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel) -> None:
    hivel.fault(Fault(kind="status", status=400, times=1))
    jenkins.add_builds("deploy/shop", 1, repo=REPO)
    wait_until(lambda: agent.json("status")["events"]["failed"] == 1, "the event has failed")
    assert agent.run("replay", "--failed", "--yes").returncode == 0
    wait_until(lambda: len(hivel.deployments()) == 1, "the event has arrived")


@pytest.mark.usefixtures("daemon")
def test_one_controller_being_down_does_not_keep_another_from_being_polled(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel, tmp_path: Path
) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    dead = '[[jenkins]]\nname = "dead"\nurl = "http://127.0.0.1:9"\nsince = "2020-01-01"\n\n'
    two = Agent(folder)
    two.config.write_text(agent.config.read_text().replace("[[jenkins]]", dead + "[[jenkins]]", 1))
    for name in ("hivel.token", "jenkins.token"):
        (folder / name).write_text("sandbox-token")
    jenkins.add_builds("deploy/shop", 1, repo=REPO)
    assert two.run("once").returncode == 1
    assert {c["name"]: c["state"] for c in two.json("status")["controllers"]} == {"dead": "unreachable", "main": "ok"}
    assert two.json("status")["events"]["delivered"] == 1


@pytest.mark.usefixtures("daemon")
def test_no_token_is_in_the_log_or_the_outbox(agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel) -> None:
    hivel.fault(Fault(kind="status", status=401, times=1))
    jenkins.add_builds("deploy/shop", 1, repo="https://user:hunter2@github.example.test/acme/shop.git")
    wait_until(lambda: len(hivel.deployments()) == 1, "the event has arrived")
    for file in (agent.folder / "agent.log", agent.outbox, agent.outbox.with_name("outbox.db-wal")):
        content = file.read_bytes() if file.exists() else b""
        assert b"sandbox-token" not in content and b"hunter2" not in content, file


# ---- looking at it


def test_queue_show_tells_everything_about_one_event(agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel) -> None:
    jenkins.add_builds("deploy/shop", 1, repo=REPO)
    hivel.fault(Fault(kind="status", status=422, body={"message": "Validation failed", "error": "odd"}))
    agent.run("once")
    shown = agent.json("queue", "show", "main:deploy/shop#1")
    assert shown["event"]["state"] == "failed"
    assert shown["event"]["event"]["environment"] == "production"
    assert [(a["http_status"], a["verdict"]) for a in shown["attempts"]] == [(422, "failed")]
    assert shown["source"]["job"] == "deploy/shop"
    text = agent.run("queue", "show", "1").stdout
    assert "HTTP 422: Validation failed: odd" in text and '"job": "deploy/shop"' in text
    missing = agent.run("queue", "show", "2")
    assert (missing.returncode, "there is no event '2'" in missing.stderr) == (1, True)


def test_tables_show_the_newest_events_first(agent: Agent, jenkins: LocalJenkins) -> None:
    jenkins.add_builds("deploy/shop", 3, repo=REPO)
    agent.run("once")
    lines = agent.run("queue", "list", "--limit", "2").stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["ID", "STATE", "DEPLOYMENT_ID"],
        ["3", "delivered", "main:deploy/shop#3"],
        ["2", "delivered", "main:deploy/shop#2"],
    ]
    assert "3 delivered" in agent.run("status").stdout


def test_looking_at_an_outbox_that_is_not_there_does_not_make_one(agent: Agent) -> None:
    for verb in (["status"], ["queue", "list"], ["replay", "--failed"]):
        done = agent.run(*verb)
        assert (done.returncode, "there is no outbox" in done.stderr) == (1, True)
    assert not agent.outbox.exists()


def test_check_tells_who_answers_and_sends_no_event(agent: Agent, hivel: LocalHivel) -> None:
    done = agent.run("check")
    assert done.returncode == 0, done.stdout
    assert "Jenkins 2.516.2" in done.stdout
    assert "as hivel-agent: 1 job(s) visible, 1 of them match a rule" in done.stdout
    assert "accepts the token (no event was sent)" in done.stdout
    assert hivel.deployments() == []


def test_check_says_what_is_wrong_and_how_to_mend_it(
    agent: Agent, hivel: LocalHivel, jenkins_server: LocalServer
) -> None:
    (agent.folder / "hivel.token").write_text("an-old-one")
    (agent.folder / "jenkins.token").write_text("an-old-one")
    (agent.folder / "jenkins.token").chmod(0o644)
    done = agent.run("check")
    assert done.returncode == 1
    assert "the token is not accepted: check [hivel] token_file" in done.stdout
    assert "wrong user or API token; check [[jenkins]] username and token_file" in done.stdout
    assert f"chmod 600 {agent.folder / 'jenkins.token'}" in done.stdout
    jenkins_server.stop()
    assert [f["level"] for f in agent.json("check") if f["subject"] == "jenkins main"] == ["error"]


@pytest.mark.parametrize("verb", [["run"], ["once"], ["status"], ["queue", "list"], ["check"], ["replay", "--failed"]])
def test_a_wrong_configuration_is_exit_code_2_and_names_the_key(agent: Agent, verb: list[str]) -> None:
    agent.config.write_text(agent.config.read_text().replace("poll_interval", "poll_intervall"))
    done = agent.run(*verb)
    assert done.returncode == 2
    message = "jenkins[0].poll_intervall: unknown key; did you mean poll_interval?"
    assert done.stderr == f"hivel-agent: {agent.config}:10: {message}\n"


def test_the_configuration_is_found_by_variable_and_by_option_on_either_side(agent: Agent) -> None:
    config = str(agent.config)
    import subprocess
    import sys

    program = [sys.executable, "-m", "agent"]
    for arguments, extra in ((["check"], {"HIVEL_AGENT_CONFIG": config}), (["--config", config, "check"], {})):
        done = subprocess.run([*program, *arguments], env=agent.environment() | extra, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_version_is_told_without_a_configuration(agent: Agent) -> None:
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-m", "agent", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"hivel-agent, version {__version__}\n"


ENDLESS = "[[deployment]]\njob = 're:^(\\w+-?)+$'\n"


def test_check_warns_of_a_rule_that_a_very_long_name_can_keep_busy(tmp_path: Path) -> None:
    rules = "[[deployment]]\njob = 're:.*a.*b.*c.*d'\n\n[[deployment]]\njob = 're:^(?!.*test).*deploy'\n"
    agent = Agent.configured(tmp_path, jenkins="http://127.0.0.1:1", hivel="http://127.0.0.1:1", extra=rules)
    findings = {each["subject"]: each for each in agent.json("check", "--offline")}
    assert findings["rules"]["level"] == "warning"
    assert "[[deployment]] number 1, job: " in findings["rules"]["message"]
    assert agent.run("check", "--offline").returncode == 0


@pytest.mark.parametrize(
    "verb", ["check --offline", "run", "once", "preview --since 1h", "backfill --since 1h", "audit"]
)
def test_a_rule_that_a_short_name_keeps_busy_for_ever_is_refused_before_any_name_is_matched(
    tmp_path: Path, verb: str
) -> None:
    agent = Agent.configured(tmp_path, jenkins="http://127.0.0.1:1", hivel="http://127.0.0.1:1", extra=ENDLESS)
    done = agent.run(*verb.split())
    assert done.returncode == (1 if verb.startswith("check") else 2), done.stdout + done.stderr
    said = " ".join((done.stdout + done.stderr).split())
    assert r"[[deployment]] number 1, job: '" in said
    assert "takes more than 1 s for a name of " in said
    assert "Traceback" not in said
