"""Only some folders of a controller are asked: what that costs, what can be wrong with them, and when they change."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.responses import Response

from agent.config.credentials import Token
from agent.config.settings import JenkinsSettings
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.sandbox.jenkins import LocalJenkins
from agent.sandbox.server import LocalServer
from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.poller import Poller
from tests.integration.support import REPO, FakeClock, event, ids, ingest_of, poll

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JOBS = ("deploy/shop", "services/cart", "other/tool")


@pytest.fixture
def watched(jenkins: LocalJenkins, clock: FakeClock) -> LocalJenkins:
    """Three folders, each with a job that was built before anybody polled."""
    for job in JOBS:
        jenkins.add_job(job)
        jenkins.add_builds(job, 2, repo=REPO)
    clock.advance(s=60)
    return jenkins


@pytest.fixture
def within(controller: JenkinsSettings) -> Callable[..., JenkinsSettings]:
    return lambda *roots: replace(controller, roots=roots)


def build(jenkins: LocalJenkins, clock: FakeClock, *jobs: str) -> None:
    """A build of each, from its start to its end."""
    for job in jobs:
        number = jenkins.start_build(job, repo=REPO)
        clock.advance(s=20)
        jenkins.finish_build(job, number)
    clock.advance(s=10)


def paths(jenkins: LocalJenkins) -> list[str]:
    """What was asked for since the last time."""
    found = [request.path for request in jenkins.requests]
    jenkins.clear_requests()
    return found


@pytest.mark.parametrize(
    ("roots", "asked"),
    [
        ((), ["/api/json"]),
        (("deploy",), ["/job/deploy/api/json"]),
        (("deploy", "services"), ["/job/deploy/api/json", "/job/services/api/json"]),
        (("deploy/shop-team", "deploy", "deploy"), ["/job/deploy/api/json"]),
    ],
)
def test_a_poll_in_which_nothing_happened_is_one_request_for_each_root(
    watched: LocalJenkins, within: Callable[..., JenkinsSettings], outbox: SqliteOutbox, clock: FakeClock,
    roots: tuple[str, ...], asked: list[str],
) -> None:  # fmt: skip
    client = JenkinsClient(within(*roots), clock)
    poller = Poller(within(*roots), client, ingest_of(outbox))
    poller.poll()
    paths(watched)
    for _ in range(3):
        clock.advance(s=15)
        assert poller.poll().complete
        assert paths(watched) == asked
    build(watched, clock, "deploy/shop")
    assert poller.poll().enqueued == ["main:deploy/shop#3"]
    assert paths(watched) == [*asked, "/job/deploy/job/shop/api/json"]
    client.close()


def test_jobs_elsewhere_are_neither_listed_nor_read(
    watched: LocalJenkins, within: Callable[..., JenkinsSettings], outbox: SqliteOutbox, clock: FakeClock
) -> None:
    poll(within("deploy", "services"), outbox)
    build(watched, clock, *JOBS)
    assert poll(within("deploy", "services"), outbox).jobs == 2
    assert ids(outbox) == ["main:deploy/shop#3", "main:services/cart#3"]
    assert not [path for path in paths(watched) if "other" in path or path == "/api/json"]


def test_a_running_build_within_a_root_is_followed_by_the_one_question_about_executors(
    watched: LocalJenkins, within: Callable[..., JenkinsSettings], outbox: SqliteOutbox, clock: FakeClock
) -> None:
    poll(within("deploy"), outbox)
    running = watched.start_build("deploy/shop", repo=REPO)
    watched.start_build("other/tool", repo=REPO)
    poll(within("deploy"), outbox)
    paths(watched)
    clock.advance(s=15)
    assert poll(within("deploy"), outbox).enqueued == []
    assert paths(watched) == ["/job/deploy/api/json", "/computer/api/json"]
    watched.finish_build("deploy/shop", running)
    assert poll(within("deploy"), outbox).enqueued == ["main:deploy/shop#3"]


def test_a_root_may_be_a_nested_folder_or_a_multibranch_project(
    watched: LocalJenkins, within: Callable[..., JenkinsSettings], outbox: SqliteOutbox, clock: FakeClock
) -> None:
    watched.add_job("a/b c/d/e")
    watched.add_folder("services/web", "multibranch")
    watched.add_job("services/web/main")
    roots = within("a/b c", "services/web")
    assert poll(roots, outbox).jobs == 2
    build(watched, clock, "a/b c/d/e", "services/web/main")
    assert poll(roots, outbox).enqueued == ["main:a/b c/d/e#1", "main:services/web/main#1"]
    client = JenkinsClient(roots, clock)
    client.snapshot()
    assert (client.is_branch_job("services/web/main"), client.is_branch_job("a/b c/d/e")) == (True, False)
    client.close()


# ---- what can be wrong with a root


def test_a_root_that_is_not_there_is_told_and_keeps_the_others_from_nothing(
    watched: LocalJenkins, within: Callable[..., JenkinsSettings], outbox: SqliteOutbox, clock: FakeClock
) -> None:
    roots = within("deploy", "missing")
    poll(roots, outbox)
    build(watched, clock, "deploy/shop")
    report = poll(roots, outbox)
    assert report.enqueued == ["main:deploy/shop#3"]
    [problem] = report.problems
    assert problem.startswith("root missing: HTTP 404 from /job/missing/api/json")
    [state] = outbox.controllers()
    assert (state.state, state.last_error) == ("error", problem)
    watched.add_job("missing/late")
    build(watched, clock, "missing/late")
    assert poll(roots, outbox).enqueued == ["main:missing/late#1"]
    assert outbox.controllers()[0].state == "ok"


@pytest.mark.parametrize(
    ("root", "problem"),
    [
        (
            "missing",
            "root missing: HTTP 404 from /job/missing/api/json: it does not exist, or this user may not see it",
        ),
        ("deploy/shop", "root deploy/shop: it is a job, not a folder; set [[jenkins]] roots to the folder that"),
    ],
)
def test_when_no_root_can_be_read_that_is_the_state_of_the_controller(
    watched: LocalJenkins, within: Callable[..., JenkinsSettings], outbox: SqliteOutbox, root: str, problem: str
) -> None:
    report = poll(within(root), outbox)
    assert not report.complete and problem in report.problems[0]
    [state] = outbox.controllers()
    assert state.state == "error" and problem in (state.last_error or "")


def test_a_root_that_cannot_be_read_for_a_while_is_caught_up_with(
    watched: LocalJenkins, within: Callable[..., JenkinsSettings], outbox: SqliteOutbox, clock: FakeClock
) -> None:
    """Its jobs are not gone: another one with builds that look like theirs is not taken for one of them."""
    roots = within("deploy", "services")
    poll(roots, outbox)
    build(watched, clock, "services/cart")
    poll(roots, outbox)
    for answer in (
        Response(status_code=403),
        Response(status_code=504),
        Response(b"{}", media_type="application/json"),
    ):
        watched.break_with(lambda path, _, a=answer: a if path == "/job/services/api/json" else None)  # type: ignore[misc]
        build(watched, clock, "deploy/shop", "services/cart")
        report = poll(roots, outbox)
        assert [each.partition("#")[0] for each in report.enqueued] == ["main:deploy/shop"]
        assert report.problems[0].startswith("root services: ")
    watched.break_with(None)
    assert poll(roots, outbox).enqueued == [f"main:services/cart#{number}" for number in (4, 5, 6)]


def test_a_token_that_is_revoked_is_no_trouble_of_one_root(
    watched: LocalJenkins, within: Callable[..., JenkinsSettings], outbox: SqliteOutbox
) -> None:
    watched.break_with(lambda path, _: Response(status_code=401) if "services" in path else None)
    assert not poll(within("deploy", "services"), outbox).complete
    assert outbox.controllers()[0].state == "unauthorized"


# ---- builds elsewhere that something within names


def test_the_build_that_caused_a_deployment_is_asked_for_wherever_it_is(
    watched: LocalJenkins, within: Callable[..., JenkinsSettings], outbox: SqliteOutbox, clock: FakeClock
) -> None:
    poll(within("deploy"), outbox)
    cause = watched.start_build("other/tool", repo=REPO, commit="c" * 40)
    watched.finish_build("other/tool", cause)
    caused = {"_class": "hudson.model.Cause$UpstreamCause", "upstreamProject": "other/tool", "upstreamBuild": cause}
    number = watched.start_build("deploy/shop", causes=[caused])
    clock.advance(s=30)
    watched.finish_build("deploy/shop", number)
    poll(within("deploy"), outbox)
    assert event(outbox, "main:deploy/shop#3")["commit_hash"] == "c" * 40


# ---- roots that change


def test_roots_that_are_taken_away_and_given_back_lose_and_double_nothing(
    watched: LocalJenkins, within: Callable[..., JenkinsSettings], outbox: SqliteOutbox, clock: FakeClock
) -> None:
    poll(within(), outbox)
    build(watched, clock, *JOBS)
    poll(within(), outbox)
    running = watched.start_build("services/cart", repo=REPO)
    poll(within(), outbox)
    for _ in range(3):
        build(watched, clock, *JOBS)
        assert [each.partition("#")[0] for each in poll(within("deploy"), outbox).enqueued] == ["main:deploy/shop"]
    watched.finish_build("services/cart", running)
    poll(within(), outbox)
    expected = [f"main:{job}#{number}" for job in JOBS for number in (3, 4, 5, 6)] + ["main:services/cart#7"]
    assert sorted(ids(outbox)) == sorted(expected)


def test_the_jobs_of_a_root_that_is_added_are_read_since_the_first_poll_as_jobs_that_appear(
    watched: LocalJenkins, within: Callable[..., JenkinsSettings], outbox: SqliteOutbox, clock: FakeClock
) -> None:
    poll(within("deploy"), outbox)
    build(watched, clock, "services/cart")
    poll(within("deploy"), outbox)
    build(watched, clock, "services/cart")
    assert poll(within("deploy", "services"), outbox).enqueued == [f"main:services/cart#{n}" for n in (3, 4)]
    assert poll(within("services"), outbox).enqueued == []


def test_a_job_outside_the_roots_does_not_count_as_gone(
    watched: LocalJenkins, within: Callable[..., JenkinsSettings], outbox: SqliteOutbox, clock: FakeClock
) -> None:
    """One timer starts both: builds with the same number at the same millisecond, and still two jobs."""
    poll(within("other"), outbox)
    now = clock.now_ms()
    watched.add_job("deploy/twin")
    watched.set_next_build_number("deploy/twin", 3)
    for job in ("other/tool", "deploy/twin"):
        watched.finish_build(job, watched.start_build(job, repo=REPO, timestamp=now), duration=1_000)
    clock.advance(s=15)
    poll(within("other"), outbox)
    assert poll(within("deploy"), outbox).renamed == 0
    build(watched, clock, "other/tool")
    poll(within(), outbox)
    assert ids(outbox) == ["main:other/tool#3", "main:deploy/twin#3", "main:other/tool#4"]


def test_a_job_that_is_moved_into_a_root_is_the_job_that_it_was(
    watched: LocalJenkins, within: Callable[..., JenkinsSettings], outbox: SqliteOutbox, clock: FakeClock
) -> None:
    poll(within(), outbox)
    build(watched, clock, "other/tool")
    assert poll(within(), outbox).enqueued == ["main:other/tool#3"]
    poll(within("deploy"), outbox)
    watched.rename_job("other/tool", "deploy/tool")
    build(watched, clock, "deploy/tool")
    report = poll(within("deploy"), outbox)
    assert (report.enqueued, report.renamed) == (["main:deploy/tool#4"], 1)


steps = st.lists(
    st.tuples(st.sets(st.sampled_from(["deploy", "services", "other"]), max_size=3), st.sets(st.sampled_from(JOBS))),
    min_size=1, max_size=6,
)  # fmt: skip


@settings(max_examples=25)
@given(steps)
def test_whatever_the_roots_were_every_build_is_reported_once_when_all_are_asked(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[set[str], set[str]]]
) -> None:
    clock = FakeClock()
    jenkins = LocalJenkins(now_ms=clock.now_ms)
    for job in JOBS:
        jenkins.add_job(job)
        jenkins.add_builds(job, 2, repo=REPO)
    clock.advance(s=60)
    folder: Path = tmp_path_factory.mktemp("roots")
    with LocalServer(jenkins.app) as server, SqliteOutbox(folder / "outbox.db", clock) as outbox:
        everything = JenkinsSettings(
            "main", server.url + "/", "hivel-agent", Token("sandbox-token"), 15_000, "now", timeout_ms=5_000
        )
        poll(replace(everything, roots=("deploy",)), outbox)
        expected = []
        for roots, jobs in steps:
            build(jenkins, clock, *sorted(jobs))
            expected += [f"main:{job}#{jenkins.next_build_number(job) - 1}" for job in jobs]
            poll(replace(everything, roots=tuple(sorted(roots))), outbox)
        poll(everything, outbox)
        assert sorted(ids(outbox)) == sorted(expected)
