"""``hivel-agent audit`` as a process, against the recorded Jenkins; and outboxes of before it."""

from __future__ import annotations

import csv
import io
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from agent.model.endings import Ended, Ending
from agent.outbox.sqlite import connection, migrations
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.sandbox.hivel import LocalHivel
from agent.sandbox.jenkins import LocalJenkins
from agent.sandbox.server import LocalServer
from tests.integration.support import REPO, Agent, FakeClock, poll, rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config.settings import JenkinsSettings

RECORDED = Path(__file__).parent.parent / "data" / "recorded-jenkins"
RULES = """
[[deployment]]
job = "re:^pipe-"
stage = "Publish*"
without_stages = "none"

[[deployment]]
job = "**"
"""


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Agent, LocalJenkins, LocalServer]]:
    """An agent after one pass over the recorded Jenkins."""
    jenkins, hivel = LocalJenkins.from_folder(RECORDED), LocalHivel()
    with LocalServer(jenkins.app) as server, LocalServer(hivel.app) as hivel_server:
        agent = Agent.configured(tmp_path_factory.mktemp("audited"), jenkins=server, hivel=hivel_server, extra=RULES)
        agent.run("once")
        yield agent, jenkins, server
    hivel.close()


def found(agent: Agent, *arguments: str) -> Any:
    return agent.json("audit", "--since", "2020-01-01", *arguments)


def test_every_number_of_the_recorded_jenkins_is_accounted_for(
    audited: tuple[Agent, LocalJenkins, LocalServer],
) -> None:
    agent, jenkins, _ = audited
    result = found(agent)
    assert (result["unaccounted"], result["problems"]) == (0, [])
    for job in result["jobs"]:
        assert job["given_away"] == jenkins.next_build_number(job["job"]) - 1
        assert sum(job["numbers"].values()) == job["given_away"]
        numbers = [n for builds in job["builds"] for n in range(builds["first"], builds["last"] + 1)]
        assert numbers == list(range(1, job["given_away"] + 1))
    events = sum(job["numbers"].get("event", 0) for job in result["jobs"])
    rows = agent.json("queue", "list", "--limit", "1000")
    assert events == len({row["deployment_id"] for row in rows}) > 50


def test_the_text_names_jobs_counts_and_reasons(audited: tuple[Agent, LocalJenkins, LocalServer]) -> None:
    agent, _, _ = audited
    done = agent.run("audit", "--since", "2020-01-01")
    assert done.returncode == 0, done.stderr
    assert "NO DEPLOYMENT" in done.stdout
    why = '[[deployment]] number 1, job = "re:^pipe-": no stage that matches "Publish*" ran; these ran: Build'
    assert any(builds["detail"].startswith(why) for job in found(agent)["jobs"] for builds in job["builds"])
    assert "0 unaccounted for" in done.stdout


def test_the_csv_has_a_line_for_each_range(audited: tuple[Agent, LocalJenkins, LocalServer]) -> None:
    agent, _, _ = audited
    done = agent.run("audit", "--since", "2020-01-01", "--csv", "--job", "team-a/**")
    lines = list(csv.DictReader(io.StringIO(done.stdout)))
    assert lines
    assert all(line["job"].startswith("team-a/") for line in lines)
    builds = [b for job in found(agent, "--job", "team-a/**")["jobs"] for b in job["builds"]]
    assert [(int(line["first"]), line["outcome"]) for line in lines] == [(b["first"], b["outcome"]) for b in builds]


def test_a_number_that_is_unaccounted_for_is_exit_code_1(
    audited: tuple[Agent, LocalJenkins, LocalServer], tmp_path: Path
) -> None:
    agent, _, server = audited
    other = Agent.configured(tmp_path, jenkins=server, hivel="http://127.0.0.1:9", extra=RULES)
    with closing(sqlite3.connect(agent.outbox)) as old, closing(sqlite3.connect(other.outbox)) as new:
        old.backup(new)
        new.execute("DELETE FROM endings WHERE ending != 'read'")
        new.commit()
    done = other.run("audit")
    assert done.returncode == 1
    assert "UNACCOUNTED" in done.stdout


def test_a_jenkins_that_does_not_answer_is_exit_code_1_and_said(tmp_path: Path, clock: FakeClock) -> None:
    agent = Agent.configured(tmp_path, jenkins="http://127.0.0.1:9", hivel="http://127.0.0.1:9")
    SqliteOutbox(agent.outbox, clock).close()
    done = agent.run("audit")
    assert done.returncode == 1
    assert "main: cannot read the build counters: " in done.stdout
    assert "Traceback" not in done.stderr


def test_an_outbox_of_version_6_gets_its_endings_when_it_is_opened(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "outbox.db"
    with monkeypatch.context() as older:
        first = migrations._scripts()[:1]
        older.setattr(migrations, "_scripts", lambda: first)
        older.setattr(migrations, "VERSION", 6)
        connection.open_outbox(path).close()
    with closing(sqlite3.connect(path)) as old:
        old.executemany(
            "INSERT INTO jobs (controller, full_name, next_build_number, looked_at) VALUES ('main', ?, ?, 5)",
            [("deploy/shop", 8), ("deploy/new", 1)],
        )
        old.commit()
        assert old.execute("PRAGMA user_version").fetchone() == (6,)
    with SqliteOutbox(path, clock) as outbox:
        assert outbox.endings("main", "deploy/shop") == [Ended(1, 7, Ending.BEFORE_AUDIT, 5)]
        assert outbox.endings("main", "deploy/new") == []
        cursor = outbox.job("main", "deploy/shop")
        assert cursor is not None
        assert (cursor.absent, cursor.no_rule_since) == (False, None)


def test_the_log_says_once_of_builds_that_are_not_reported_why(
    controller: JenkinsSettings, outbox: SqliteOutbox, jenkins: LocalJenkins, clock: FakeClock
) -> None:
    for job in ("deploy/shop", "lab/shop"):
        jenkins.add_job(job)
        jenkins.add_builds(job, 3)
    clock.advance(s=60)
    controller = replace(controller, since="now")
    told = []
    for rules in ((rule("deploy/**"),), (rule("deploy/**"),), (rule(),), (rule(),)):
        with capture_logs() as logs:
            poll(controller, outbox, *rules)
        told.append([(log["event"], log.get("reason")) for log in logs if "not reported" in log["event"]])
        jenkins.add_builds("lab/shop", 1, repo=REPO)
        clock.advance(s=60)
    assert told == [
        [("builds from before the first poll are not reported", None)],
        [],
        [("builds are not reported", "no rule")],
        [],
    ]
