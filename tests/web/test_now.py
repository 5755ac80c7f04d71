"""`/`: the state, the last 24 hours, and what the circuit breaker does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.sandbox.hivel import Fault
from tests.integration.support import REPO, wait_until
from tests.web.conftest import VIEW_TOKEN

if TYPE_CHECKING:
    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer
    from tests.web.conftest import Site

JOB = "deploy/shop"


def test_what_was_delivered_is_in_the_sentence_and_in_the_hour(site: Site, jenkins: LocalJenkins) -> None:
    jenkins.add_job(JOB)
    jenkins.add_builds(JOB, 3, parameters={"ENVIRONMENT": "staging"}, repo=REPO)
    with site.client(VIEW_TOKEN) as client:
        wait_until(lambda: client.get("/now.json").json()["counts"]["delivered"] == 3, "all are delivered")
        now = client.get("/now.json").json()
        assert now["sentence"].endswith("; 0 wait, 0 failed.")
        assert len(now["hours"]) == 24
        assert sum(each["delivered"] for each in now["hours"]) == 3
        page = client.get("/").text
        assert '<svg role="img"' in page
        assert "3 delivered and 0 failed" in page
        assert "Table of the last 24 hours" in page
        assert len(page) <= 20 * 1024


def test_an_outage_of_hivel_shows_the_reason_and_the_next_attempt_to_those_who_may_view(
    site: Site, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    hivel.fault(Fault(kind="status", status=503))
    jenkins.add_job(JOB)
    jenkins.add_builds(JOB, 5, parameters={"ENVIRONMENT": "staging"}, repo=REPO)
    with site.client(VIEW_TOKEN) as viewer, site.client() as nobody:
        wait_until(lambda: viewer.get("/now.json").json()["delivery"]["state"] == "outage", "delivery has an outage")
        page = viewer.get("/").text
        assert "Hivel cannot be reached; 5 wait, 0 failed." in page
        assert "503" in page
        assert "Next attempt" in page
        page = nobody.get("/").text
        assert "Next attempt" in page
        assert "503" not in page


def test_a_controller_that_cannot_be_polled_is_in_the_sentence(site: Site, jenkins_server: LocalServer) -> None:
    """All counts may be too low then."""
    jenkins_server.stop()
    with site.client() as nobody:
        words = "Controller main cannot be polled, so its builds may be missing."
        wait_until(lambda: words in nobody.get("/").text, "the failure is known")
    jenkins_server.start()
    with site.client(VIEW_TOKEN) as client:
        wait_until(lambda: "cannot be polled" not in client.get("/now.json").json()["sentence"], "it is over")


def test_on_the_first_day_the_page_says_what_to_expect(site: Site, jenkins: LocalJenkins) -> None:
    with site.client(VIEW_TOKEN) as client:
        page = client.get("/").text
        assert "There is no deployment yet." in page and 'href="/build"' in page
        assert "oldest pending" not in page
        jenkins.add_job(JOB)
        jenkins.add_builds(JOB, 1, parameters={"ENVIRONMENT": "staging"}, repo=REPO)
        wait_until(lambda: "There is no deployment yet." not in client.get("/").text, "the first one is there")


def test_the_lists_lead_to_what_answers_the_next_question(site: Site) -> None:
    with site.client(VIEW_TOKEN) as client:
        assert 'Is a deployment missing? <a href="/build">' in client.get("/deployments").text
        assert '<a href="/tasks">Tasks</a>' in client.get("/").text
    with site.client() as nobody:
        assert "/tasks" not in nobody.get("/").text
