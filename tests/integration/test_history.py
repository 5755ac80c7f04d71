"""Backfill, preview and explain: the past of a Jenkins, read on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from starlette.responses import HTMLResponse

from agent.model.times import rfc3339
from tests.integration.support import NOON, REPO, Agent, ids

if TYPE_CHECKING:
    from pathlib import Path

    from agent.outbox.sqlite.store import Outbox
    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer
    from tests.integration.support import FakeClock

HOUR = 3_600_000
RULES = '[[deployment]]\njob = "deploy/**"\n'


@pytest.fixture
def agent(jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path) -> Agent:
    """A Jenkins with two jobs and history; the agent reports from now on."""
    jenkins.add_job("deploy/shop")
    jenkins.add_job("deploy/api")
    jenkins.add_job("tests/unit")
    jenkins.add_builds("deploy/shop", 250, repo=REPO, every=HOUR)
    jenkins.add_builds("deploy/api", 2, repo=REPO, every=HOUR)
    jenkins.add_builds("tests/unit", 2)
    agent = Agent.configured(tmp_path, jenkins=jenkins_server, hivel=hivel_server, extra=RULES)
    agent.config.write_text(agent.config.read_text().replace('"2020-01-01"', '"now"'))
    assert agent.run("once").returncode == 0
    return agent


def since(hours: float) -> str:
    """So long before the clock of the local Jenkins."""
    return rfc3339(NOON - int(hours * HOUR))


def test_backfill_reports_the_span_page_by_page_and_doubles_nothing(agent: Agent, hivel: LocalHivel) -> None:
    done = agent.json("backfill", "--since", since(199.5))
    assert (len(done["enqueued"]), done["known"], done["problems"]) == (202, 0, [])
    again = agent.json("backfill", "--since", since(249.5))
    assert (len(again["enqueued"]), again["known"]) == (50, 202)
    assert agent.run("once").returncode == 0
    assert len(hivel.deployments()) == 252
    assert {d.times_posted for d in hivel.deployments()} == {1}


def test_backfill_takes_only_what_is_asked_for(agent: Agent) -> None:
    done = agent.json("backfill", "--since", since(5.5), "--until", since(2.5), "--job", "deploy/shop")
    assert sorted(done["enqueued"]) == [f"main:deploy/shop#{n}" for n in (245, 246, 247)]


def test_a_dry_run_stores_nothing(agent: Agent) -> None:
    done = agent.run("backfill", "--since", since(1.5), "--dry-run")
    assert done.returncode == 0
    assert "would report  main:deploy/shop#250" in done.stdout and "4 event(s) would be reported" in done.stdout
    assert agent.json("queue", "list") == []


def test_an_interrupted_backfill_goes_on_where_it_was(agent: Agent, jenkins: LocalJenkins) -> None:
    jenkins.break_with(lambda path, _: HTMLResponse("", 503) if "/job/shop" in path else None)
    first = agent.json("backfill", "--since", "30d")
    assert len(first["enqueued"]) == 2 and first["problems"]
    jenkins.break_with(None)
    second = agent.json("backfill", "--since", "30d")
    assert (second["jobs_done_before"], len(second["enqueued"]), second["problems"]) == (1, 250, [])
    third = agent.json("backfill", "--since", "30d")
    assert (third["jobs_done_before"], third["enqueued"]) == (0, [])


def test_backfill_of_a_renamed_job_knows_what_was_reported_under_its_old_name(
    agent: Agent, jenkins: LocalJenkins, clock: FakeClock
) -> None:
    number = jenkins.start_build("deploy/api", repo=REPO)
    clock.advance(s=30)
    jenkins.finish_build("deploy/api", number)
    agent.run("once")
    jenkins.rename_job("deploy/api", "deploy/gateway")
    agent.run("once")
    done = agent.json("backfill", "--since", since(100), "--job", "deploy/gateway")
    assert (sorted(done["enqueued"]), done["known"]) == (["main:deploy/gateway#1", "main:deploy/gateway#2"], 1)


def test_preview_shows_what_would_be_sent_and_the_jobs_that_match_no_rule(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    jenkins.add_builds("deploy/api", 1)
    shown = agent.run("preview", "--since", since(1.5))
    assert shown.returncode == 0
    assert "main:deploy/shop#250" in shown.stdout and "main:deploy/shop#248" not in shown.stdout
    assert "4 event(s) since" in shown.stdout and "1 build(s) of which none can be made" in shown.stdout
    assert "1 job(s) match no rule:\n  main:tests/unit" in shown.stdout
    assert agent.json("preview", "--since", since(1.5))["unmatched"] == ["main:tests/unit"]
    assert agent.json("queue", "list") == [] and hivel.requests() == []


def explained(agent: Agent, job: str, number: int) -> str:
    path = "/".join(f"job/{part}" for part in job.split("/"))
    return str(agent.json("explain", f"http://127.0.0.1:8080/{path}/{number}/")["verdict"])


def test_explain_says_why_a_build_did_or_did_not_become_an_event(
    agent: Agent, jenkins: LocalJenkins, clock: FakeClock
) -> None:
    assert explained(agent, "tests/unit", 1) == "No event: no [[deployment]] rule matches the job."
    assert "ended before" in explained(agent, "deploy/shop", 100)
    assert "cannot be read" in explained(agent, "deploy/shop", 999)
    clock.advance(s=60)
    number = jenkins.start_build("deploy/shop", repo=REPO)
    agent.run("once")
    assert explained(agent, "deploy/shop", number) == "No event yet: the build is not final."
    clock.advance(s=60)
    jenkins.finish_build("deploy/shop", number)
    assert explained(agent, "deploy/shop", number) == "No event yet: the build is followed and will be read again."
    agent.run("once")
    assert explained(agent, "deploy/shop", number) == "It is in the outbox: delivered."


def test_explain_says_where_every_field_came_from(agent: Agent, jenkins: LocalJenkins) -> None:
    number = jenkins.start_build("deploy/shop", repo=REPO, parameters={"ENVIRONMENT": "qa"})
    jenkins.finish_build("deploy/shop", number)
    url = f"http://127.0.0.1:8080/job/deploy/job/shop/{number}/"
    told = agent.json("explain", url)
    assert told["rule"] == '[[deployment]] number 1, job = "deploy/**"'
    [derived] = told["derived"]
    assert derived["event"].keys() <= derived["origins"].keys() | {"event_type"}
    assert "ENVIRONMENT" in derived["origins"]["environment"]
    text = agent.run("explain", url).stdout
    assert "environment    qa" in text and "does not know it" in text


def test_explaining_something_else_is_a_usage_error(agent: Agent) -> None:
    done = agent.run("explain", "http://127.0.0.1:8080/job/deploy/")
    assert (done.returncode, "is no URL of a build" in done.stderr) == (2, True)


def test_what_a_backfill_enqueues_is_durable(agent: Agent, outbox: Outbox) -> None:
    agent.json("backfill", "--since", since(0.5))
    assert sorted(ids(outbox)) == ["main:deploy/api#2", "main:deploy/shop#250"]
