"""`/controllers` and `/about`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse

from agent import __version__
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Progress
from tests.conformance.things import content, deployment, inserted, run
from tests.integration.support import wait_until
from tests.web.conftest import TOKEN, VIEW_TOKEN, configured, running

if TYPE_CHECKING:
    from pathlib import Path

    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer
    from tests.web.conftest import Site

DAY = 86_400_000
HOSTILE = "deploy/<img src=x onerror=alert(1)>"


def test_a_controller_shows_its_last_poll_its_followed_builds_and_its_requests(
    site: Site, jenkins: LocalJenkins
) -> None:
    jenkins.add_job(HOSTILE)
    number = jenkins.start_build(HOSTILE)
    with site.client(VIEW_TOKEN) as client:
        wait_until(lambda: client.get("/controllers.json").json()["jobs"]["followed"], "the build is followed")
        # It is stored before the poll ends.
        wait_until(lambda: client.get("/controllers.json").json()["controllers"][0]["polled_at"], "the poll has ended")
        view = client.get("/controllers.json", params={"controller": "main"}).json()
        [main] = view["controllers"]
        assert (main["name"], main["state"], main["open_builds"]) == ("main", "ok", 1)
        assert main["polled_at"] is not None
        assert {"jobs", "builds"} <= {each["kind"] for each in main["asked"]["last_hour"]}
        [followed] = view["jobs"]["followed"]
        assert (followed["job"], followed["number"]) == (HOSTILE, number)
        page = client.get("/controllers").text
        assert "deploy/&lt;img src=x onerror=alert(1)&gt;" in page
        assert "<img" not in page
        assert client.get("/controllers.csv").text.startswith("controller,state,since,polled_at,jobs,")


def test_a_job_without_a_rule_is_listed(
    tmp_path: Path, jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer
) -> None:
    agent = configured(tmp_path, jenkins_server, hivel_server)
    agent.config.write_text(agent.config.read_text().replace('job = "**"', 'job = "deploy/**"'))
    jenkins.add_job("test/unit")
    jenkins.add_builds("test/unit", 3)
    with running(agent) as site, site.client(VIEW_TOKEN) as client:
        wait_until(lambda: client.get("/controllers.json").json()["jobs"]["without_rule"], "the job has no rule")
        assert "test/unit" in client.get("/controllers").text


def test_a_job_that_cannot_be_read_is_listed_with_the_reason(site: Site, jenkins: LocalJenkins) -> None:
    jenkins.add_job("deploy/shop")
    jenkins.add_builds("deploy/shop", 1)
    jenkins.break_with(lambda path, _: PlainTextResponse("no", 500) if "/job/shop/" in path else None)
    with site.client(VIEW_TOKEN) as client:
        wait_until(lambda: client.get("/controllers.json").json()["jobs"]["unreadable"], "the job cannot be read")
        [job] = client.get("/controllers.json").json()["jobs"]["unreadable"]
        assert job["job"] == "deploy/shop"
        assert "500" in job["error"]
        page = client.get("/controllers").text
        assert "Jobs that could not be read (1)" in page


def test_missed_builds_and_silent_jobs_are_listed_and_long_lists_are_cut(
    tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer
) -> None:
    agent = configured(tmp_path, jenkins_server, hivel_server)
    with SqliteOutbox(agent.outbox, Clock()) as outbox:
        missed = {f"deploy/{HOSTILE}/{number}": (3, 7) for number in range(30)}
        outbox.save_progress(Progress("main", missed=missed))
        first = Clock().now_ms() - 40 * DAY
        for day in range(6):
            at = first + day * DAY
            said = content(started_at=at, ended_at=at + 1)
            of = run(day + 1, "deploy/quiet")
            inserted(outbox, deployment(of=of, content=said, build_started_at=at, build_ended_at=at + 1))
    with running(agent) as site, site.client(VIEW_TOKEN) as client:
        wait_until(lambda: client.get("/controllers.json").json()["jobs"]["silent"], "the silent job is found")
        view = client.get("/controllers.json").json()
        assert view["controllers"][0]["missed_builds"] == 90
        assert view["jobs"]["counts"]["missed"] == len(view["jobs"]["missed"]) == 30
        assert [each["job"] for each in view["jobs"]["silent"]] == ["deploy/quiet"]
        page = client.get("/controllers").text
        assert "Missed builds, by job (30)" in page
        assert "20 more are not shown here" in page
        assert 'href="/deployments?job=deploy/quiet&amp;controller=main"' in page.replace("%2F", "/")
        assert "<img" not in page
        assert len(page) <= 20 * 1024


def test_poll_now_starts_a_poll_and_needs_the_right_to_act(site: Site) -> None:
    with site.client(VIEW_TOKEN) as client:
        assert client.post("/controllers/poll", data={"controller": "main"}).status_code == 403
    with site.client(TOKEN) as client:
        answer = client.post("/controllers/poll", data={"controller": "main"})
        assert (answer.status_code, answer.headers["Location"]) == (303, "/controllers?controller=main")
        assert client.post("/controllers/poll", data={"controller": "other"}).status_code == 404
    assert "poll requested" in site.whole_log()


def test_without_a_login_controllers_show_states_and_counts_and_no_names_of_jobs(
    site: Site, jenkins: LocalJenkins
) -> None:
    jenkins.add_job("deploy/secret-project")
    jenkins.start_build("deploy/secret-project")
    with site.client(VIEW_TOKEN) as viewer, site.client() as client:
        wait_until(lambda: "deploy/secret-project" in viewer.get("/controllers").text, "the build is followed")
        page = client.get("/controllers", params={"controller": "main"})
        assert page.status_code == 200
        assert "main" in page.text
        assert "secret-project" not in page.text
        assert "Poll now" not in page.text
        assert client.get("/controllers.json").status_code == 401


def test_an_unknown_controller_is_not_found(shared_site: Site) -> None:
    with shared_site.client(VIEW_TOKEN) as client:
        answer = client.get("/controllers.json", params={"controller": "other"})
        assert (answer.status_code, answer.text) == (404, "controller 'other' is not in the configuration\n")


def test_without_a_fleet_nothing_of_it_is_shown(shared_site: Site) -> None:
    with shared_site.client(TOKEN) as client:
        for path in ("/agents", "/agents.json", "/agents.csv"):
            answer = client.get(path)
            assert answer.status_code == 404 and "its outbox is a file" in answer.text
        assert "/agents" not in client.get("/controllers").text
        assert client.post("/agents/handover", data={"agent": "any"}).status_code == 404


def test_about_shows_the_version_the_configuration_without_secrets_and_the_licenses(shared_site: Site) -> None:
    config = shared_site.agent.config
    config.write_text(config.read_text() + '# a comment with pa55word\n[status]\nDEPLOYED = "success"\n')
    with shared_site.client(VIEW_TOKEN) as client:
        about = client.get("/about.json").json()
        assert about["version"] == __version__
        assert 'token_file = "hivel.token"' in about["configuration"]
        assert "pa55word" not in about["configuration"]
        licenses = {each["name"]: each["license"] for each in about["packages"]}
        assert licenses["htmx"] == "0BSD"
        assert licenses["uvicorn"] == "BSD-3-Clause"
        assert "hivel.token" in client.get("/about").text
        assert client.get("/about.csv").text.startswith("package,version,license\r\n")
    with shared_site.client() as client:
        page = client.get("/about").text
        assert __version__ in page
        assert "hivel.token" not in page
