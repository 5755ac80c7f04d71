"""``preview --compare``: what the events of the last days would say under other rules, or read by another version."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import HTMLResponse

from agent.model.times import rfc3339
from agent.outbox.sqlite.engine import SqliteOutbox
from tests.integration.filled import Filled
from tests.integration.support import NOON, REPO, Agent, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer
    from tests.integration.support import FakeClock

HOUR = 3_600_000
SHOP, API = "deploy/shop", "deploy/api"
RULES = '[[deployment]]\njob = "deploy/**"\nenvironment = "production"\n'
FOR_EVER = '[outbox]\nkeep_deployments = "36500d"\n'
STAGES: dict[str, Any] = {
    "status": "ok",
    "data": {
        "complete": True,
        "stages": [
            {"name": "Deploy qa", "state": "failure", "startTimeMillis": NOON, "totalDurationMillis": 2_000},
            {"name": "Deploy live", "state": "success", "startTimeMillis": NOON + 2_000, "totalDurationMillis": 2_000},
        ],
    },
}
BY_STAGES = '[[deployment]]\njob = "deploy/**"\nstage = "re:^Deploy (?P<environment>.+)$"\n'


@pytest.fixture
def agent(jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path) -> Agent:
    """Four builds of two jobs are delivered; a third job matches no rule."""
    for job in (SHOP, API, "tests/unit"):
        jenkins.add_job(job)
    jenkins.add_builds(SHOP, 3, repo=REPO, every=HOUR)
    jenkins.add_builds(API, 1, repo=REPO, result="FAILURE")
    jenkins.add_builds("tests/unit", 2, repo=REPO)
    agent = Agent.configured(tmp_path, jenkins=jenkins_server, hivel=hivel_server, extra=RULES)
    text = agent.config.read_text()
    agent.config.write_text(text.replace("[outbox]\n", FOR_EVER))
    assert agent.run("once").returncode == 0
    jenkins.clear_requests()
    return agent


def with_rules(agent: Agent, rules: str) -> Agent:
    """The same outbox under other rules."""
    head, _, _ = agent.config.read_text().partition("[[deployment]]")
    agent.config.write_text(head + rules)
    return agent


def compared(agent: Agent, *arguments: str) -> dict[str, Any]:
    since = () if "--since" in arguments else ("--since", rfc3339(NOON - 14 * 24 * HOUR))
    told: dict[str, Any] = agent.json("preview", "--compare", *since, *arguments)
    return told


def counts(told: dict[str, Any]) -> dict[str, int]:
    return {change: count for change, count in told["counts"].items() if count}


def ids(told: dict[str, Any], change: str) -> list[str]:
    return sorted(
        each["difference"]["deployment_id"] for each in told["events"] if each["difference"]["change"] == change
    )


def rows(agent: Agent) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(agent.outbox)) as file:
        return [
            *file.execute("SELECT * FROM deployments ORDER BY id"),
            *file.execute("SELECT * FROM facts ORDER BY id"),
        ]


def without_facts(agent: Agent) -> None:
    """What housekeeping does of builds that were delivered a month ago."""
    with closing(sqlite3.connect(agent.outbox)) as file, file:
        file.execute("DELETE FROM facts")


def test_the_same_rules_and_the_same_jenkins_differ_in_nothing(agent: Agent) -> None:
    done = agent.run("preview", "--compare", "--since", rfc3339(NOON - 24 * HOUR))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"4 event(s) of builds that ended since {rfc3339(NOON - 24 * HOUR)}: 4 same\n"


def test_an_event_that_would_say_something_else_is_shown_with_both_values(agent: Agent) -> None:
    before = rows(agent)
    other = RULES.replace('"production"', '"live"') + 'branch = "release"\n'
    done = with_rules(agent, other).run("preview", "--compare", "--since", rfc3339(NOON - 24 * HOUR))
    assert done.returncode == 1
    assert "4 event(s)" in done.stdout and "4 changed" in done.stdout
    assert "changed: environment, branch  (4)" in done.stdout
    assert "main:deploy/api#1  delivered\n    environment  production -> live\n    branch       main -> release" in (
        done.stdout
    )
    told = compared(agent)
    assert counts(told) == {"changed": 4}
    assert told["fields"] == {"environment": 4, "branch": 4}
    assert told["jobs"] == [], "as many deployments and failures as before"
    assert rows(agent) == before, "it only reads"


def test_jobs_that_lose_or_get_their_rule_have_gone_and_new_events_and_other_figures(agent: Agent) -> None:
    told = compared(with_rules(agent, '[[deployment]]\njob = "tests/*"\n'))
    assert counts(told) == {"gone": 4, "new": 2}
    assert ids(told, "new") == ["main:tests/unit#1", "main:tests/unit#2"]
    assert {each["difference"]["reason"] for each in told["events"]} == {"", "no [[deployment]] rule matches the job"}
    figures = {each["job"]: [each[key] for key in each if key not in ("controller", "job")] for each in told["jobs"]}
    assert figures == {SHOP: [3, 0, 0, 0], API: [1, 0, 1, 0], "tests/unit": [0, 2, 0, 0]}
    text = agent.run("preview", "--compare", "--since", rfc3339(NOON - 24 * HOUR)).stdout
    assert "gone: no [[deployment]] rule matches the job  (4)" in text and "new: would become an event  (2)" in text
    assert "DEPLOYMENTS A WEEK" in text and "100% -> -" in text


def test_a_rule_for_stages_in_the_place_of_one_for_builds(agent: Agent, jenkins: LocalJenkins) -> None:
    """The event of the whole build is another deployment than those of its stages, also in Hivel."""
    for number in (1, 2, 3):
        jenkins.set_stages(SHOP, number, overview=STAGES)
    told = compared(with_rules(agent, BY_STAGES))
    assert ids(told, "gone") == [f"main:deploy/shop#{n}" for n in (1, 2, 3)]
    expected = [f"main:deploy/shop#{n}:{environment}" for n in (1, 2, 3) for environment in ("live", "qa")]
    assert ids(told, "new") == expected
    [figures] = [each for each in told["jobs"] if each["job"] == SHOP]
    assert (figures["deployments_before"], figures["deployments_now"]) == (3, 6)
    assert (figures["failures_before"], figures["failures_now"]) == (0, 3)
    # No plugin tells the stages of the other job: the whole build counts, in the environment that its name says.
    assert counts(told) == {"gone": 3, "new": 6, "same": 1}


def test_a_build_that_jenkins_deleted_is_compared_by_what_was_kept_of_it_else_it_is_said(
    agent: Agent, jenkins: LocalJenkins
) -> None:
    jenkins.delete_build(SHOP, 1)
    jenkins.delete_job(API)
    with_rules(agent, RULES + 'branch = "release"\n')
    assert counts(compared(agent)) == {"changed": 4}
    without_facts(agent)
    told = compared(agent)
    assert counts(told) == {"changed": 2, "not comparable": 2}
    assert told["not_comparable"] == {
        "its facts are deleted, and Jenkins no longer has the build": 1,
        "its facts are deleted, and the agent cannot see the job in Jenkins": 1,
    }
    with_rules(agent, RULES)
    assert agent.run("preview", "--compare", "--since", rfc3339(NOON - 24 * HOUR)).returncode == 0


def test_what_jenkins_says_now_counts_as_a_newer_version_reads_it(agent: Agent, jenkins: LocalJenkins) -> None:
    jenkins.update_build(SHOP, 2, result="FAILURE")
    told = compared(agent)
    assert counts(told) == {"same": 3, "changed": 1}
    [event] = told["events"]
    assert event["difference"]["fields"] == [{"field": "status", "sent": "success", "known": "failed"}]
    assert [(each["failures_before"], each["failures_now"]) for each in told["jobs"]] == [(0, 1)]


def test_without_jenkins_the_kept_builds_are_compared(agent: Agent, jenkins: LocalJenkins) -> None:
    with_rules(agent, RULES + 'branch = "release"\n')
    told = compared(agent, "--offline")
    assert (counts(told), jenkins.requests) == ({"changed": 4}, [])
    # Nobody asked for stages when the builds were read, so nobody knows what this rule would make of them.
    told = compared(with_rules(agent, BY_STAGES), "--offline")
    assert (counts(told), jenkins.requests) == ({"not comparable": 4}, [])
    assert told["not_comparable"] == {"the stages of the build were not read from Jenkins": 4}


def test_what_builds_said_of_themselves_does_not_look_changed(
    agent: Agent, jenkins: LocalJenkins, clock: FakeClock
) -> None:
    clock.advance(s=60)
    number = jenkins.start_build(SHOP, repo=REPO)
    with SqliteOutbox(agent.outbox, clock) as outbox:
        filled = Filled(agent, outbox)
        at = clock.now_ms()
        filled.reported(number=number, at=at, environment="eu", image="shop:4", branch="release", given=("branch",))
        filled.reported(
            job="lab/own", number=7, at=at, stage="roll out", environment="eu", given=("repo_url", "branch")
        )
        filled.reported(number=number, at=at + 1, stage="smoke", environment="test", given=("repo_url", "branch"))
    clock.advance(s=60)
    jenkins.finish_build(SHOP, number)
    agent.run("once")
    told = compared(agent)
    assert (told["events"], counts(told)) == ([], {"same": 7})
    told = compared(with_rules(agent, RULES + '[environments]\neu = "europe"\n'))
    assert (counts(told), told["fields"]) == ({"same": 5, "changed": 2}, {"environment": 2})
    without_facts(agent)
    told = compared(agent)
    assert told["not_comparable"] == {
        "its report is deleted": 2,
        "its facts are deleted, and the agent cannot see the job in Jenkins": 1,
    }
    assert told["events"] == []


def test_builds_that_the_agent_has_yet_to_read_and_its_prehistory_are_not_new(
    agent: Agent, jenkins: LocalJenkins, clock: FakeClock
) -> None:
    clock.advance(s=60)
    jenkins.finish_build(SHOP, jenkins.start_build(SHOP, repo=REPO))
    told = compared(agent)
    assert (counts(told), told["not_read"]) == ({"same": 4}, 1)
    with closing(sqlite3.connect(agent.outbox)) as file, file:
        file.execute("DELETE FROM deployments WHERE run = '1'")
        file.execute("DELETE FROM facts WHERE run = '1'")
        file.execute("UPDATE controllers SET report_from = ?", (NOON - HOUR - 60_000,))
    told = compared(agent)
    assert counts(told) == {"same": 2, "new": 1}, "the build of the other job is no prehistory"
    assert told["not_read"] == 2


def test_a_renamed_job_is_the_same_job(agent: Agent, jenkins: LocalJenkins) -> None:
    jenkins.rename_job(SHOP, "deploy/store")
    agent.run("once")
    assert counts(compared(agent)) == {"same": 4}


def test_jenkins_is_asked_once_for_a_hundred_builds_of_a_job_and_no_more_than_wanted(
    agent: Agent, jenkins: LocalJenkins
) -> None:
    compared(agent)
    assert len(jenkins.requests) == 3, [each.path for each in jenkins.requests]
    told = compared(agent, "--builds", "2")
    assert counts(told) == {"same": 4}, "of the third, what is kept does"
    without_facts(agent)
    told = compared(agent, "--builds", "2")
    assert counts(told) == {"same": 3, "not comparable": 1}
    assert told["not_comparable"] == {"only the newest builds of the job were read from Jenkins: see --builds": 1}


def test_a_job_that_cannot_be_read_is_a_problem_and_its_events_are_not_said_to_be_gone(
    agent: Agent, jenkins: LocalJenkins
) -> None:
    without_facts(agent)
    jenkins.break_with(lambda path, _: HTMLResponse("", 500) if "/job/api" in path else None)
    told = compared(agent)
    assert counts(told) == {"same": 3, "not comparable": 1}
    assert told["not_comparable"] == {"it could not be read from Jenkins: see the problems": 1}
    assert told["problems"][0].startswith("main: job deploy/api: ")
    jenkins.stop()
    done = agent.run("preview", "--compare", "--since", rfc3339(NOON - 24 * HOUR))
    assert done.returncode == 1 and "main: " in done.stdout and done.stderr == ""


def test_it_runs_beside_a_daemon_at_work(agent: Agent, jenkins: LocalJenkins) -> None:
    daemon = agent.start()
    try:
        wait_until(lambda: "event=started" in agent.log(), "the daemon runs")
        assert counts(compared(agent)) == {"same": 4}
    finally:
        daemon.terminate()
        assert daemon.wait(120) == 0


def test_what_makes_no_sense_without_the_comparison_is_a_usage_error(agent: Agent) -> None:
    for option in (("--offline",), ("--builds", "3")):
        done = agent.run("preview", *option)
        assert (done.returncode, "need --compare" in done.stderr) == (2, True)


def test_without_an_outbox_there_is_nothing_to_compare_with(agent: Agent) -> None:
    agent.outbox.unlink()
    done = agent.run("preview", "--compare")
    assert (done.returncode, "there is no outbox" in done.stderr) == (1, True)
