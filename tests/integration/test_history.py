"""Backfill, preview and explain: the past of a Jenkins, read on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from starlette.responses import HTMLResponse

from agent.model import fact as facts
from agent.model.fact import Report
from agent.model.keys import Project, Run
from agent.model.times import Clock, rfc3339
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import JobError, Progress, SetAside
from tests.integration.filled import Filled
from tests.integration.reporting import reports_of, settings_of
from tests.integration.support import NOON, REPO, Agent

if TYPE_CHECKING:
    from pathlib import Path

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
    ended = rfc3339(NOON)[:19] + "Z"
    assert f"main:deploy/shop#250  success  production   {ended}" in done.stdout
    assert "4 event(s) would be enqueued" in done.stdout
    planned = agent.json("backfill", "--since", since(1.5), "--dry-run")
    assert sorted(each["deployment_id"] for each in planned["planned"]) == sorted(planned["enqueued"])
    assert agent.json("queue", "list") == []


def test_a_dry_run_without_an_outbox_creates_none(agent: Agent) -> None:
    for file in agent.outbox.parent.glob(f"{agent.outbox.name}*"):
        file.unlink()
    done = agent.json("backfill", "--since", since(1.5), "--dry-run")
    assert len(done["planned"]) == 4
    assert not list(agent.outbox.parent.glob(f"{agent.outbox.name}*"))
    assert agent.json("backfill", "--since", since(1.5))["planned"] == []


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
    assert "4 event(s) since" in shown.stdout and "1 build(s) without a valid event" in shown.stdout
    assert "1 job(s) match no rule:\n  main:tests/unit" in shown.stdout
    assert agent.json("preview", "--since", since(1.5))["unmatched"] == ["main:tests/unit"]
    assert agent.json("queue", "list") == [] and hivel.requests() == []


def test_a_preview_is_of_the_jobs_that_match_and_ends_at_its_limit(agent: Agent, jenkins: LocalJenkins) -> None:
    found = agent.json("preview", "--since", since(9.5), "--job", "deploy/api")
    assert [row["derived"]["deployment_id"] for row in found["rows"]] == ["main:deploy/api#2", "main:deploy/api#1"]
    assert (found["unmatched"], found["limited"]) == ([], False)
    jenkins.clear_requests()
    found = agent.json("preview", "--since", since(300), "--job", "deploy/shop", "--limit", "3")
    assert [row["derived"]["deployment_id"][-3:] for row in found["rows"]] == ["250", "249", "248"]
    assert found["limited"]
    assert len([each for each in jenkins.requests if "/job/shop" in each.path]) == 1, "no page beyond the limit"
    assert "stopped at --limit" in agent.run("preview", "--since", since(9), "--limit", "3").stdout
    assert not agent.json("preview", "--since", since(1.5), "--limit", "4")["limited"]
    nothing = agent.run("preview", "--job", "deploy/shoop")
    assert (nothing.returncode, "no visible job matches 'deploy/shoop'" in nothing.stdout) == (1, True)
    assert agent.run("preview", "--job", "tests/**").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["backfill", "--since", "1h", "--until", "2h"], "--since 1h ("),
        (["backfill", "--since", "2090-01-01"], "--since: 2090-01-01 is in the future"),
        (["preview", "--since", "2090-01-01"], "--since: 2090-01-01 is in the future"),
        (["preview", "--compare", "--since", "2090-01-01"], "--since: 2090-01-01 is in the future"),
        (["preview", "--since", "2026-02-30"], "--since: '2026-02-30' does not exist: day is out of range for month"),
        (["audit", "--since", "2090-01-01"], "--since: 2090-01-01 is in the future"),
        (["preview", "--compare", "--limit", "3"], "--limit cannot be used with --compare"),
        (["preview", "--job", "re:("], "--job: "),
    ],
    ids=str,
)
def test_times_and_limits_that_make_no_sense_are_refused_before_anything_is_asked(
    agent: Agent, jenkins: LocalJenkins, arguments: list[str], complaint: str
) -> None:
    jenkins.clear_requests()
    done = agent.run(*arguments)
    assert (done.returncode, done.stdout, jenkins.requests) == (2, "", [])
    assert f"Error: {complaint}" in done.stderr


def explained(agent: Agent, job: str, number: int) -> str:
    path = "/".join(f"job/{part}" for part in job.split("/"))
    return str(agent.json("explain", f"http://127.0.0.1:8080/{path}/{number}/")["verdict"])


def test_explain_says_that_a_job_is_in_no_folder_that_is_followed(agent: Agent) -> None:
    agent.config.write_text(agent.config.read_text().replace('name = "main"', 'name = "main"\nroots = ["deploy"]'))
    elsewhere = "No event: the job is not in a folder of [[jenkins]] roots: deploy."
    assert explained(agent, "tests/unit", 1) == elsewhere
    assert explained(agent, "deploy/shop", 100) != elsewhere


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
    again = "No event yet: the build was not final at the last poll and will be read again."
    assert explained(agent, "deploy/shop", number) == again
    agent.run("once")
    assert explained(agent, "deploy/shop", number) == "It is in the outbox: delivered."


def delivered(agent: Agent, jenkins: LocalJenkins, clock: FakeClock) -> int:
    """The number of a build that ended and was delivered."""
    number = jenkins.start_build("deploy/shop", repo=REPO)
    clock.advance(s=60)
    jenkins.finish_build("deploy/shop", number)
    agent.run("once")
    return number


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
    assert "environment    qa" in text and "has no event of this build" in text


def test_explaining_something_else_is_a_usage_error(agent: Agent) -> None:
    done = agent.run("explain", "http://127.0.0.1:8080/job/deploy/")
    assert done.returncode == 2
    assert "is the address of job deploy, not of a build; append the build number, or lastBuild" in done.stderr
    done = agent.run("explain", "http://elsewhere.test/job/deploy/job/shop/1/")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'elsewhere.test' is not the host of a configured controller: main (http://127.0.0.1:" in done.stderr
    done = agent.run("explain", "no such event")
    assert (done.returncode, "'no such event' is neither an event in the outbox" in done.stderr) == (
        2,
        True,
    )


def test_explain_takes_ids_numbers_of_events_permalinks_and_blue_ocean(
    agent: Agent, jenkins: LocalJenkins, clock: FakeClock
) -> None:
    number = delivered(agent, jenkins, clock)
    here = "http://127.0.0.1:8080"
    for name in (
        f"main:deploy/shop#{number}",
        "1",
        f"{here}/job/deploy/job/shop/lastBuild/console",
        f"{here}/blue/organizations/jenkins/deploy%2Fshop/detail/shop/{number}/pipeline",
    ):
        told = agent.json("explain", name)
        assert (told["build"], told["verdict"]) == (f"main:deploy/shop#{number}", "It is in the outbox: delivered.")
    assert "ended before" in agent.json("explain", "main:deploy/shop#100")["verdict"], "it is in no outbox"
    done = agent.run("explain", f"{here}/job/deploy/job/shop/lastFailedBuild/")
    assert (done.returncode, "cannot be looked up" in done.stderr) == (1, True)


def test_explain_without_jenkins_says_what_the_outbox_knows_and_fails(
    agent: Agent, jenkins: LocalJenkins, clock: FakeClock
) -> None:
    number = delivered(agent, jenkins, clock)
    jenkins.break_with(lambda *_: HTMLResponse("", 502))
    done = agent.run("explain", f"main:deploy/shop#{number}")
    assert done.returncode == 1
    assert "It is in the outbox: delivered." in done.stdout and "HTTP 502" in done.stdout
    assert f"outbox   main:deploy/shop#{number}: delivered" in done.stdout
    done = agent.run("explain", "main:deploy/shop#100")
    assert done.returncode == 1
    assert "The outbox has no event of this build, and Jenkins cannot be asked: " in done.stdout


def test_explain_of_a_build_of_another_system_asks_nobody(agent: Agent, jenkins: LocalJenkins) -> None:
    run = Run(Project("github_actions", "acme", "acme/shop"), "acme/shop/77/deploy")
    said = Report(provider="github_actions", status="success", repo_url=REPO, branch="main", environment="qa")
    with SqliteOutbox(agent.outbox, Clock()) as outbox:
        Filled(agent, outbox).accept(facts.report(run, said, source="intake", at=NOON))
    jenkins.clear_requests()
    told = agent.json("explain", "acme/shop/77/deploy:qa")
    assert told["verdict"].startswith("It is in the outbox: ")
    assert (told["jenkins"], jenkins.requests) == ("not asked: a build of github_actions", [])


def test_what_a_backfill_enqueues_is_durable(agent: Agent) -> None:
    agent.json("backfill", "--since", since(0.5))
    found = [(each["deployment_id"], each["state"]) for each in agent.json("queue", "list")]
    assert sorted(found) == [("main:deploy/api#2", "pending"), ("main:deploy/shop#250", "pending")]


def test_explain_says_what_the_build_itself_said_and_what_comes_of_both(
    agent: Agent, jenkins: LocalJenkins, clock: FakeClock
) -> None:
    number = jenkins.start_build("deploy/shop", repo=REPO)
    url = f"http://127.0.0.1:8080/job/deploy/job/shop/{number}/"
    with SqliteOutbox(agent.outbox, clock) as outbox:
        Filled(agent, outbox).reported(number=number, at=NOON, environment="staging", image="acme/shop:3")
    told = agent.json("explain", url)
    assert told["verdict"] == "It is in the outbox: held."
    assert told["wanted"] is True
    [fact] = told["facts"]
    assert (fact["source"], fact["kind"], fact["body"]["environment"]) == ("emit", "report", "staging")
    [derived] = told["derived"]
    assert derived["deployment_id"] == f"main:deploy/shop#{number}" == told["outbox"][0]["deployment_id"]
    assert (derived["event"]["environment"], derived["event"]["image"]) == ("staging", "acme/shop:3")
    assert derived["origins"]["environment"] == "the build's own report"
    clock.advance(s=60)
    jenkins.finish_build("deploy/shop", number, result="FAILURE")
    agent.run("once")
    told = agent.json("explain", url)
    assert (told["verdict"], told["wanted"]) == ("It is in the outbox: delivered.", False)
    assert {(each["source"], each["kind"]) for each in told["facts"]} == {("emit", "report"), ("poller", "final")}
    [derived] = told["derived"]
    assert (derived["event"]["status"], derived["event"]["environment"]) == ("failed", "staging")
    text = agent.run("explain", url).stdout
    assert "  fact     " in text and "emit: report provider jenkins, status SUCCESS, environment staging" in text
    assert "status         failed   (result FAILURE -> failed)" in text


def audited(agent: Agent, job: str, number: int) -> tuple[str, str]:
    """Outcome and detail of one number."""
    jobs = agent.json("audit", "--job", job, "--since", "2020-01-01")["jobs"]
    [found] = [b for each in jobs for b in each["builds"] if b["first"] <= number <= b["last"]]
    return found["outcome"], found["detail"]


def test_explain_and_audit_name_who_has_the_id_of_a_build_that_got_no_deployment(
    agent: Agent, jenkins: LocalJenkins, clock: FakeClock
) -> None:
    number = jenkins.start_build("deploy/shop", repo=REPO)
    name = f"main:deploy/shop#{number}"
    with SqliteOutbox(agent.outbox, clock) as outbox:  # as an older version took it
        report = {"deployment_id": name, "status": "success", "environment": "eu", "repo_url": REPO, "branch": "main"}
        reports_of(settings_of(agent.outbox), outbox).take(report, source="intake", at=NOON)
    clock.advance(s=60)
    jenkins.finish_build("deploy/shop", number)
    agent.run("once")
    why = f"its deployment_id {name} is already used by a reported deployment; see queue show"
    assert explained(agent, "deploy/shop", number) == f"No event: {why}."
    assert audited(agent, "deploy/shop", number) == ("no deployment", why)


def test_explain_and_audit_say_that_reported_stages_take_the_place_of_what_the_rule_makes(
    agent: Agent, jenkins: LocalJenkins, clock: FakeClock
) -> None:
    number = jenkins.start_build("deploy/shop", repo=REPO)
    with SqliteOutbox(agent.outbox, clock) as outbox:
        Filled(agent, outbox).reported(number=number, at=NOON, stage="Deploy", environment="staging")
    clock.advance(s=60)
    jenkins.finish_build("deploy/shop", number)
    agent.run("once")
    left_out = f"The build reported itself, so the rule adds no event main:deploy/shop#{number}."
    assert explained(agent, "deploy/shop", number) == f"It is in the outbox: delivered. {left_out}"
    left_out = "the build reported itself, so the rule adds no event"
    assert audited(agent, "deploy/shop", number) == ("event", f"delivered; {left_out}")


def test_explain_names_the_stages_that_ran_where_none_matches_the_rule_as_audit_does(
    agent: Agent, jenkins: LocalJenkins, clock: FakeClock
) -> None:
    staged = 'job = "deploy/**"\nstage = "Deploy*"'
    agent.config.write_text(agent.config.read_text().replace('job = "deploy/**"', staged))
    number = jenkins.start_build("deploy/shop", repo=REPO)
    built = {"name": "Build", "state": "success", "type": "STAGE", "startTimeMillis": 1, "totalDurationMillis": 2}
    jenkins.set_stages("deploy/shop", number, overview={"status": "ok", "data": {"complete": True, "stages": [built]}})
    clock.advance(s=60)
    jenkins.finish_build("deploy/shop", number)
    agent.run("once")
    why = '[[deployment]] number 1, job = "deploy/**": no stage that matches "Deploy*" ran; these ran: Build'
    assert explained(agent, "deploy/shop", number) == f"No event: {why}."
    assert audited(agent, "deploy/shop", number) == ("no deployment", why)


def test_explain_tells_of_a_build_that_jenkins_has_discarded_what_the_outbox_was_told(
    agent: Agent, jenkins: LocalJenkins, clock: FakeClock
) -> None:
    number = delivered(agent, jenkins, clock)
    jenkins.delete_build("deploy/shop", number)
    told = agent.json("explain", f"http://127.0.0.1:8080/job/deploy/job/shop/{number}/")
    assert told["verdict"] == "It is in the outbox: delivered."
    assert told["jenkins"].startswith("Jenkins does not have this build")
    [derived] = told["derived"]
    assert (derived["event"]["repo_url"], derived["origins"]["repo_url"]) == (REPO, "checkout 1 of 1 (origin)")


def test_explain_names_the_job_that_cannot_be_read_and_an_error_that_nobody_expected(
    agent: Agent, jenkins: LocalJenkins, clock: FakeClock
) -> None:
    clock.advance(s=60)
    number = jenkins.start_build("deploy/shop", repo=REPO)
    clock.advance(s=60)
    jenkins.finish_build("deploy/shop", number)
    with SqliteOutbox(agent.outbox, clock) as outbox:
        error = JobError("deploy/shop", "HTTP 504", NOON, NOON + HOUR)
        outbox.save_progress(Progress("main", errors={"deploy/shop": error}))
        again = rfc3339(NOON + HOUR)
        verdict = f"No event yet: the job cannot be read; the next attempt is at {again}: HTTP 504"
        assert explained(agent, "deploy/shop", number) == verdict
        outbox.set_aside(SetAside(NOON, "run", f"main:deploy/shop#{number}", "Traceback\nValueError: odd"))
    assert explained(agent, "deploy/shop", number).startswith("No event: an unexpected error. The build was set aside")
    text = agent.run("explain", f"http://127.0.0.1:8080/job/deploy/job/shop/{number}/").stdout
    assert "ValueError: odd" in text


def test_one_job_that_cannot_be_read_hides_no_other_from_a_preview(agent: Agent, jenkins: LocalJenkins) -> None:
    jenkins.break_with(lambda path, _: HTMLResponse("", 500) if "/job/api" in path else None)
    shown = agent.json("preview", "--since", since(1.5))
    assert {row["job"] for row in shown["rows"]} == {"deploy/shop"}
    [problem] = shown["problems"]
    assert problem.startswith("main: job deploy/api: ")
