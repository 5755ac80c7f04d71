"""`/build`: why a build did or did not become an event, and reporting it now."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.responses import Response

from tests.integration.support import REPO, FakeClock, wait_until
from tests.web.conftest import PASSWORD, TOKEN, VIEW_PASSWORD, VIEW_TOKEN, configured, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.types import Receive, Scope, Send

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer
    from tests.web.conftest import Site

JOB = "deploy/shop"
HOSTILE = "deploy/<script>alert(1)</script>"


@contextmanager
def with_history(
    folder: Path, jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, clock: FakeClock
) -> Iterator[Site]:
    """An agent that started to report after the builds of these jobs had ended."""
    for job in (JOB, HOSTILE):
        jenkins.add_job(job)
        jenkins.add_builds(job, 2, parameters={"ENVIRONMENT": "staging", "BRANCH": "s3cret-branch"}, repo=REPO)
    clock.advance(s=3600)
    agent = configured(folder, jenkins_server, hivel_server)
    agent.config.write_text(agent.config.read_text().replace('since = "2020-01-01"', 'since = "now"'))
    with running(agent) as site:
        with site.client(VIEW_TOKEN) as client:
            wait_until(lambda: polled(client), "the first poll is complete")
        yield site


def polled(client: httpx.Client) -> bool:
    [main] = client.get("/controllers.json").json()["controllers"]
    return main["state"] == "ok" and main["jobs"] == 2


@pytest.fixture
def old_site(
    tmp_path: Path, jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, clock: FakeClock
) -> Iterator[Site]:
    with with_history(tmp_path, jenkins, jenkins_server, hivel_server, clock) as site:
        yield site


def answer(client: httpx.Client, build: str) -> Any:
    return client.post("/build.json", data={"build": build}).raise_for_status().json()


def test_a_build_is_explained_by_its_address_its_name_and_its_id(old_site: Site, jenkins_server: LocalServer) -> None:
    with old_site.client(TOKEN) as client:
        for build in (f"{jenkins_server.url}/job/deploy/job/shop/2/console", f"main:{JOB}#2"):
            found = answer(client, build)
            assert found["explanation"]["verdict"].startswith("No event: the build ended before ")
            assert found["explanation"]["build"] == f"main:{JOB}#2"
            assert found["can_report"] is True
        table = client.post("/build.csv", data={"build": f"main:{JOB}#2"}).text
        assert table.startswith("build,verdict,deployment_id,field,value,origin\r\n")
        assert ",environment,staging," in table


def test_a_build_is_reported_once_and_leads_to_its_deployment(old_site: Site, hivel: LocalHivel) -> None:
    with old_site.logged_in(PASSWORD, "Ada") as client:
        page = client.post("/build", data={"build": f"main:{JOB}#2"}).text
        assert "Report this build now" in page
        done = client.post("/build/report", data={"build": f"main:{JOB}#2"})
        assert done.status_code == 200
        assert "/deployments?text=main%3Adeploy%2Fshop%232" in done.text
        wait_until(lambda: hivel.deployments() != [], "Hivel has it")
        again = client.post("/build/report", data={"build": f"main:{JOB}#2"}).text
        assert "already in the outbox" in again
        page = client.post("/build", data={"build": f"main:{JOB}#2"}).text
        assert "Report this build now" not in page
        assert "It is in the outbox: " in page
        assert client.get(page.split('href="/deployments/')[1].partition('"')[0].join(("/deployments/", ""))).is_success
        assert len(hivel.deployments()) == 1
    log = old_site.whole_log()
    assert "build reported" in log
    assert "by=Ada" in log


def test_who_may_only_view_reports_nothing_and_sees_no_values_of_parameters(old_site: Site) -> None:
    with old_site.client(TOKEN) as client:
        client.post("/build/report", data={"build": f"main:{JOB}#2"}).raise_for_status()
        assert "s3cret-branch" in client.post("/build.json", data={"build": f"main:{JOB}#2"}).text
    with old_site.logged_in(VIEW_PASSWORD) as client:
        for path in ("/build", "/build.json", "/build.csv"):
            seen = client.post(path, data={"build": f"main:{JOB}#2"})
            assert seen.status_code == 200
            assert "s3cret-branch" not in seen.text
        assert client.post("/build/report", data={"build": f"main:{JOB}#1"}).status_code == 403
    with old_site.client() as client:
        assert client.get("/build").status_code == 401


def test_an_address_of_another_host_is_refused(shared_site: Site) -> None:
    with shared_site.client(VIEW_TOKEN) as client:
        for build, words in (
            ("https://jenkins.other.test/job/shop/12/", "not the host of a configured controller"),
            ("javascript:alert(1)//://", "not the host of a configured controller"),
            ("file:///etc/passwd", "not the host of a configured controller"),
            ("nothing", "is neither an event in the outbox nor a build"),
            ("", "give the address of a build"),
            ("x" * 2001, "longer than 2000 characters"),
        ):
            refused = client.post("/build.json", data={"build": build})
            assert refused.status_code == 400, build
            assert words in refused.text


def test_a_hostile_name_is_shown_as_text(old_site: Site) -> None:
    with old_site.logged_in() as client:
        page = client.post("/build", data={"build": f"main:{HOSTILE}#1"}).text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
        assert "<script>alert" not in page
        page = client.get("/build", params={"build": '"><script>alert(1)</script>'}).text
        assert "<script>alert" not in page


def test_a_build_that_runs_cannot_be_reported(old_site: Site, jenkins: LocalJenkins) -> None:
    number = jenkins.start_build(JOB)
    with old_site.client(TOKEN) as client:
        found = answer(client, f"main:{JOB}#{number}")
        assert found["can_report"] is False
        refused = client.post("/build/report", data={"build": f"main:{JOB}#{number}"})
        assert refused.status_code == 409
        assert "the build is not final" in refused.text


class Stuck(Response):
    """An answer that waits."""

    def __init__(self, waiting: threading.Semaphore, go_on: threading.Event) -> None:
        super().__init__(status_code=503)
        self._waiting = waiting
        self._go_on = go_on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._waiting.release()
        await asyncio.to_thread(self._go_on.wait, 120)
        await super().__call__(scope, receive, send)


def test_a_fourth_lookup_at_the_same_time_is_refused(old_site: Site, jenkins: LocalJenkins) -> None:
    go_on, waiting = threading.Event(), threading.Semaphore(0)
    jenkins.break_with(lambda path, _: Stuck(waiting, go_on) if "/shop/1/" in path else None)

    def look_up() -> int:
        with old_site.client(TOKEN) as client:
            return client.post("/build", data={"build": f"main:{JOB}#1"}).status_code

    with ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(look_up) for _ in range(3)]
        try:
            assert all(waiting.acquire(timeout=60) for _ in calls)
            assert look_up() == 429
            with old_site.client() as client:
                assert client.get("/controllers").status_code == 200
        finally:
            go_on.set()
        assert [call.result(120) for call in calls] == [200] * 3


def test_a_lookup_does_not_delay_the_end_of_the_daemon(old_site: Site, jenkins: LocalJenkins) -> None:
    go_on, waiting = threading.Event(), threading.Semaphore(0)
    jenkins.break_with(lambda path, _: Stuck(waiting, go_on) if "/shop/1/" in path else None)

    def look_up() -> None:
        with old_site.client(TOKEN) as client, suppress(httpx.HTTPError):
            client.post("/build", data={"build": f"main:{JOB}#1"})

    thread = threading.Thread(target=look_up)
    thread.start()
    try:
        assert waiting.acquire(timeout=60)
        old_site.process.terminate()
        assert old_site.process.wait(120) == 0
        assert not go_on.is_set()
    finally:
        go_on.set()
        thread.join(120)


def test_a_build_with_many_reports_fits_on_a_page(old_site: Site) -> None:
    for number in range(12):
        place = f"{'long-' * 20}{number}"
        done = old_site.agent.run(
            "emit", "--job", JOB, "--build-number", "2", "--environment", place, "--status", "SUCCESS"
        )
        assert done.returncode == 0, done.stderr
    with old_site.client(TOKEN) as client:
        wait_until(lambda: len(answer(client, f"main:{JOB}#2")["explanation"]["facts"]) >= 12, "all reports are stored")
        page = client.post("/build", data={"build": f"main:{JOB}#2"}, headers={"Accept": "text/html"})
        assert "more are not shown here" in page.text
        assert len(page.content) <= 20 * 1024
