"""Being gentle to a controller: how it is asked, how often, over how many connections."""

from __future__ import annotations

import gzip
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from starlette.responses import Response

from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.poller import Poller
from agent.sources.jenkins.transport import Transport
from tests.integration.support import NOON, REPO, ingest_of, poll

if TYPE_CHECKING:
    import requests

    from agent.config.settings import JenkinsSettings
    from agent.outbox.interface import Outbox
    from agent.outbox.values import ControllerState
    from agent.sandbox.jenkins import LocalJenkins
    from tests.integration.support import FakeClock

# What makes a controller load builds that nobody asked for, or all builds of a job.
HEAVY = ("depth", "color", "lastBuild", "lastCompletedBuild", "buildsByBranchName", "allBuilds", "queueItem")


def busy(jenkins: LocalJenkins, clock: FakeClock, jobs: int) -> None:
    """Each job runs a build to its end, and another one that goes on."""
    for index in range(jobs):
        name = f"deploy/app-{index}"
        if clock.now_ms() == NOON:
            jenkins.add_job(name)
        else:
            jenkins.finish_build(name, jenkins.start_build(name, repo=REPO), duration=1_000)
            jenkins.start_build(name, repo=REPO)


def test_every_question_names_what_it_wants_and_loads_nothing_else(
    jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    jenkins.add_folder("deploy/mb", "multibranch")
    jenkins.add_job("deploy/mb/main")
    busy(jenkins, clock, 3)
    for _ in range(3):
        poll(controller, outbox)
        clock.advance(s=30)
        busy(jenkins, clock, 3)
        jenkins.start_build("deploy/mb/main", repo=REPO)
    assert len(jenkins.requests) > 10
    for request in jenkins.requests:
        assert request.query.startswith("tree="), request
        assert not [word for word in HEAVY if word in request.query], request


def test_one_poll_after_another_goes_over_one_connection_and_is_compressed(
    jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    answers: list[requests.Response] = []
    one_at_once = replace(controller, concurrency=1)
    client = JenkinsClient(one_at_once)
    session = client._transport.session
    session.hooks["response"].append(lambda answer, *_, **__: answers.append(answer))
    poller = Poller(one_at_once, client, ingest_of(outbox))
    for _ in range(3):
        busy(jenkins, clock, 3)
        poller.poll()
        clock.advance(s=30)
    assert len(answers) > 6
    assert all("gzip" in answer.request.headers["Accept-Encoding"] for answer in answers)
    assert "gzip" in {answer.headers.get("Content-Encoding") for answer in answers}
    assert _connections(session) == 1
    client.close()


@pytest.mark.parametrize("width", [1, 3, 20])
def test_there_are_no_more_connections_than_questions_at_once(
    jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock, width: int
) -> None:
    settings = replace(controller, concurrency=width)
    client = JenkinsClient(settings)
    poller = Poller(settings, client, ingest_of(outbox))
    for _ in range(3):
        busy(jenkins, clock, 60)
        poller.poll()
        clock.advance(s=30)
    assert outbox.counts().pending == 120
    assert _connections(client._transport.session) <= width
    client.close()


def _connections(session: requests.Session) -> int:
    """How many connections were opened so far."""
    manager = session.adapters["http://"].poolmanager  # type: ignore[attr-defined]
    return sum(manager.pools[key].num_connections for key in manager.pools.keys())  # noqa: SIM118 - it is no dict


def test_no_more_requests_are_made_in_a_minute_than_the_setting_says(
    jenkins: LocalJenkins,
    controller: JenkinsSettings,
    outbox: Outbox,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(Transport, "_wait", lambda _, seconds: waited.append(seconds))
    busy(jenkins, clock, 10)
    poll(controller, outbox)
    clock.advance(s=30)
    busy(jenkins, clock, 10)
    report = poll(replace(controller, requests_per_minute=6), outbox)
    assert (report.requests, len(report.enqueued)) == (11, 10)
    # After a burst of six each one has to wait ten seconds longer than the one before.
    assert sorted(waited) == pytest.approx([10, 20, 30, 40, 50], abs=2)
    waited.clear()
    clock.advance(s=30)
    poll(controller, outbox)
    assert waited == []


def test_a_small_answer_that_unpacks_beyond_all_measure_is_not_read_to_its_end(
    jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.sources.jenkins.transport.BODY_LIMIT", 200_000)
    packed = gzip.compress(b'{"jobs":[' + b" " * 50_000_000 + b"]}")
    assert len(packed) < 200_000
    bomb = Response(packed, media_type="application/json", headers={"Content-Encoding": "gzip"})
    jenkins.break_with(lambda *_: bomb)
    assert "returned more than 200000 bytes" in poll(controller, outbox).problems[0]


def test_the_state_of_a_controller_says_in_words_what_is_wrong_and_since_when(
    jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    def state() -> ControllerState:
        [found] = outbox.controllers()
        return found

    jenkins.add_job("deploy/shop")
    poll(controller, outbox)
    assert (state().state, state().last_error, state().polled_at) == ("ok", None, NOON)
    forbidden = {"X-You-Are-Authenticated-As": "bot", "X-Required-Permission": "hudson.model.Hudson.Read"}
    answers = [
        (Response(b"", 503), "unreachable", "HTTP 503 from /api/json: Jenkins is starting, stopping or overloaded"),
        (Response(b"", 401), "unauthorized", "check [[jenkins]] username and token_file"),
        (Response(b"", 403, forbidden), "unauthorized", "user bot lacks the permission hudson.model.Hudson.Read"),
        (
            Response(b"<html>", 200, media_type="text/html"),
            "error",
            "this may be a login page or a proxy; check [[jenkins]] url",
        ),
    ]
    since = NOON
    for answer, word, reason in answers:
        jenkins.break_with(lambda *_, answer=answer: answer)  # type: ignore[misc]
        for _ in range(2):
            clock.advance(s=15)
            poll(controller, outbox)
            since = since if state().state == word and state().since < clock.now_ms() else clock.now_ms()
            assert (state().state, state().since, state().polled_at) == (word, since, NOON)
            assert reason in (state().last_error or "")
    jenkins.break_with(None)
    clock.advance(s=15)
    poll(controller, outbox)
    assert (state().state, state().since, state().last_error) == ("ok", clock.now_ms(), None)


# ---- a proxy or Jenkins that asks for a rest


def asking(poller_settings: JenkinsSettings, outbox: Outbox) -> tuple[JenkinsClient, Poller]:
    client = JenkinsClient(poller_settings, outbox.clock)
    return client, Poller(poller_settings, client, ingest_of(outbox))


def resting(status: int, value: str) -> Response:
    return Response(b"slow down", status, headers={"Retry-After": value})


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [("90", 90), ("Mon, 23 Nov 2026 12:01:30 GMT", 90), ("86400", 3600), ("Fri, 31 Dec 9999 23:59:59 GMT", 3600)],
)
def test_retry_after_is_obeyed_by_the_poller_within_an_hour(
    jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock,
    status: int, value: str, seconds: int,
) -> None:  # fmt: skip
    jenkins.add_job("deploy/shop")
    jenkins.break_with(lambda *_: resting(status, value))
    client, poller = asking(controller, outbox)
    report = poller.poll()
    assert "(Retry-After)" in report.problems[0]
    jenkins.break_with(None)
    clock.advance(s=seconds - 1)
    assert not poller.due()
    assert not poller.poll().complete  # not even when somebody insists
    assert len(jenkins.requests) == 1
    clock.advance(s=300)  # with the pauses that are its own
    assert poller.due() and poller.poll().complete
    client.close()


@pytest.mark.parametrize("value", ["0", "", "soon", "-5", "Mon, 23 Nov 2020 12:00:00 GMT"])
def test_a_retry_after_that_names_no_time_to_come_is_about_that_page_alone(
    jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock, value: str
) -> None:
    busy(jenkins, clock, 3)
    client, poller = asking(controller, outbox)
    poller.poll()
    clock.advance(s=30)
    busy(jenkins, clock, 3)
    jenkins.break_with(lambda path, _: resting(503, value) if path.startswith("/job/deploy/job/app-1/") else None)
    assert len(poller.poll().enqueued) == 2
    assert poller.due()
    client.close()


def test_a_page_that_asks_for_a_rest_gets_it_from_all_questions_and_the_others_go_first_afterwards(
    jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    """A page that always answers so keeps nobody else waiting for ever, and what is read is stored."""
    one_at_once = replace(controller, concurrency=1)
    busy(jenkins, clock, 3)
    client, poller = asking(one_at_once, outbox)
    poller.poll()
    clock.advance(s=30)
    busy(jenkins, clock, 3)
    jenkins.break_with(lambda path, _: resting(429, "60") if path.startswith("/job/deploy/job/app-1/") else None)
    jenkins.clear_requests()
    enqueued = list(poller.poll().enqueued)
    assert [request.status for request in jenkins.requests].count(429) == 1
    assert jenkins.requests[-1].status == 429
    [state] = outbox.controllers()
    assert state.state == "unreachable" and "asked the agent to wait 1m (Retry-After)" in (state.last_error or "")
    asked_at = [0]
    for second in range(15, 1_200, 15):
        clock.advance(s=15)
        before = len(jenkins.requests)
        if poller.due():
            enqueued += poller.poll().enqueued
        if [request for request in jenkins.requests[before:] if request.status == 429]:
            assert second - asked_at[-1] >= 60
            asked_at.append(second)
    assert sorted(enqueued) == ["main:deploy/app-0#1", "main:deploy/app-2#1"]
    jenkins.break_with(None)
    clock.advance(s=4_000)
    assert poller.poll().enqueued == ["main:deploy/app-1#1"]
    client.close()


def test_a_question_about_executors_that_asks_for_a_rest_is_left_out_afterwards(
    jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    client, poller = asking(controller, outbox)
    jenkins.add_job("deploy/shop")
    poller.poll()
    jenkins.break_with(lambda path, _: resting(503, "60") if path.startswith("/computer") else None)
    number = jenkins.start_build("deploy/shop", repo=REPO)
    poller.poll()
    clock.advance(s=15)
    assert not poller.poll().complete  # it runs: who is on the executors?
    jenkins.finish_build("deploy/shop", number)
    clock.advance(s=61)
    assert poller.poll().enqueued == ["main:deploy/shop#1"]
    client.close()


def test_polls_become_rarer_while_jenkins_is_slow_and_as_usual_afterwards(
    jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    jenkins.add_job("deploy/shop")
    client, poller = asking(controller, outbox)
    seconds = 0.2
    jenkins.break_with(lambda *_: clock.advance(ms=round(seconds * 1000)))  # type: ignore[func-returns-value]
    intervals = []
    for seconds in (*[0.2] * 20, 6, 6, 6, 6, 0.2, 0.2, 0.2):  # noqa: B007 - the hook looks at it
        poller.poll()
        intervals.append(poller.interval_s)
        clock.advance(s=15)
    assert intervals == [15] * 20 + [30, 60, 120, 120, 60, 30, 15]
    client.close()
