"""The poller against a local Jenkins that lives: every test is a story."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import HTMLResponse, RedirectResponse, Response

from agent.model.deployment import State
from agent.outbox.values import OutboxError
from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.look import GRACE_MS
from agent.sources.jenkins.poller import Poller
from agent.sources.jenkins.reader import ASK_FOR_MISSING
from tests.integration.support import NOON, REPO, event, ids, ingest_of, poll, rule

if TYPE_CHECKING:
    from pathlib import Path

    from agent.config.settings import JenkinsSettings
    from agent.outbox.sqlite.engine import SqliteOutbox as Outbox
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer
    from tests.integration.support import FakeClock

HOUR = 3_600_000


@pytest.fixture
def watched(jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock) -> LocalJenkins:
    """A Jenkins with a job ``deploy/shop`` that had its first poll."""
    jenkins.add_job("deploy/shop")
    jenkins.add_builds("deploy/shop", 3, repo=REPO)
    clock.advance(s=60)
    poll(controller, outbox)
    clock.advance(s=15)
    return jenkins


def finish_one(jenkins: LocalJenkins, clock: FakeClock, job: str = "deploy/shop", result: str = "SUCCESS") -> int:
    number = jenkins.start_build(job, repo=REPO)
    clock.advance(s=30)
    jenkins.finish_build(job, number, result)
    return number


def test_history_is_not_reported_when_since_is_now(watched: LocalJenkins, outbox: Outbox) -> None:
    assert ids(outbox) == []


def test_a_finished_build_becomes_one_event(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    finish_one(watched, clock)
    poll(controller, outbox)
    poll(controller, outbox)
    assert ids(outbox) == ["main:deploy/shop#4"]
    assert event(outbox, "main:deploy/shop#4")["start_time"] == "2026-11-23T12:01:15.000Z"
    assert event(outbox, "main:deploy/shop#4")["end_time"] == "2026-11-23T12:01:45.000Z"


def test_a_running_build_is_followed_until_it_is_final(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    number = watched.start_build("deploy/shop", repo=REPO)
    for _ in range(3):
        clock.advance(s=15)
        assert poll(controller, outbox).enqueued == []
    watched.finish_build("deploy/shop", number, "ABORTED")
    assert poll(controller, outbox).enqueued == ["main:deploy/shop#4"]
    assert event(outbox, "main:deploy/shop#4")["status"] == "canceled"


def test_a_build_that_runs_at_the_first_start_is_reported_when_it_ends(
    jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    jenkins.add_job("deploy/shop")
    jenkins.add_builds("deploy/shop", 2, repo=REPO)
    running = jenkins.start_build("deploy/shop", repo=REPO, timestamp=NOON - HOUR)
    clock.advance(s=5)
    poll(controller, outbox)
    clock.advance(s=60)
    jenkins.finish_build("deploy/shop", running)
    poll(controller, outbox)
    assert ids(outbox) == [f"main:deploy/shop#{running}"]


def test_running_builds_are_found_without_the_permission_to_see_executors(
    jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    jenkins.break_with(lambda path, _: Response(status_code=403) if path.startswith("/computer") else None)
    jenkins.add_job("deploy/shop")
    jenkins.add_builds("deploy/shop", 2, repo=REPO)
    running = jenkins.start_build("deploy/shop", repo=REPO)
    clock.advance(s=5)
    poll(controller, outbox)
    jenkins.finish_build("deploy/shop", running)
    poll(controller, outbox)
    assert ids(outbox) == [f"main:deploy/shop#{running}"]


def test_builds_that_finish_out_of_order_are_all_reported(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    first, second = (watched.start_build("deploy/shop", repo=REPO) for _ in range(2))
    clock.advance(s=15)
    watched.finish_build("deploy/shop", second)
    poll(controller, outbox)
    clock.advance(s=15)
    watched.finish_build("deploy/shop", first, "FAILURE")
    poll(controller, outbox)
    assert ids(outbox) == [f"main:deploy/shop#{second}", f"main:deploy/shop#{first}"]


def test_a_provisional_result_is_not_believed(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    number = watched.start_build("deploy/shop", repo=REPO)
    watched.update_build("deploy/shop", number, result="SUCCESS")
    poll(controller, outbox)
    assert ids(outbox) == []
    clock.advance(s=15)
    watched.finish_build("deploy/shop", number, "UNSTABLE")
    poll(controller, outbox)
    assert event(outbox, f"main:deploy/shop#{number}")["status"] == "failed"


@pytest.mark.parametrize(
    "between",
    [
        {"building": False, "inProgress": True, "result": "SUCCESS", "duration": 900},
        {"building": False, "inProgress": False, "result": "SUCCESS", "duration": 0},
        {"building": False, "inProgress": False, "result": None, "duration": 0},
        {"building": True, "inProgress": False, "result": None, "duration": 0},
    ],
    ids=["in progress after building", "no duration yet", "nothing yet", "a pipeline at its start"],
)
def test_a_build_in_between_states_is_read_again(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock, between: dict[str, object]
) -> None:
    number = watched.start_build("deploy/shop", repo=REPO)
    watched.update_build("deploy/shop", number, **between)
    poll(controller, outbox)
    assert ids(outbox) == []
    clock.advance(s=15)
    watched.finish_build("deploy/shop", number, duration=12_000)
    poll(controller, outbox)
    seen = event(outbox, f"main:deploy/shop#{number}")
    assert (seen["status"], seen["end_time"]) == ("success", "2026-11-23T12:01:27.000Z")


def test_a_build_that_stays_odd_is_reported_with_what_is_known(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    number = watched.start_build("deploy/shop", repo=REPO)
    watched.update_build("deploy/shop", number, building=False, inProgress=False, result=None, duration=0)
    poll(controller, outbox)
    clock.advance(ms=GRACE_MS + 1)
    poll(controller, outbox)
    seen = event(outbox, f"main:deploy/shop#{number}")
    assert seen["status"] == "unknown"
    assert seen["start_time"] == seen["end_time"]


def test_a_build_that_vanishes_while_it_runs_is_not_followed_for_ever(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    number = watched.start_build("deploy/shop", repo=REPO)
    poll(controller, outbox)
    watched.delete_build("deploy/shop", number)
    for _ in range(18):
        clock.advance(s=15)
        poll(controller, outbox)
    assert outbox.open_builds("main") == {}
    assert ids(outbox) == []


def test_a_build_that_appears_after_its_number_was_given_away_is_reported(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    finish_one(watched, clock)
    unlisted = Response(b'{"builds":[]}', media_type="application/json")
    watched.break_with(lambda path, _: unlisted if "/job/" in path else None)
    poll(controller, outbox)
    assert ids(outbox) == []
    watched.break_with(None)
    clock.advance(s=15)
    poll(controller, outbox)
    assert ids(outbox) == ["main:deploy/shop#4"]


def test_numbers_that_never_become_builds_are_given_up_after_a_while(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    watched.set_next_build_number("deploy/shop", 50_000)
    for _ in range(18):
        assert poll(controller, outbox).requests <= 3 + ASK_FOR_MISSING
        clock.advance(s=15)
    assert outbox.open_builds("main") == {}
    assert poll(controller, outbox).requests == 1


def test_a_new_branch_is_reported_from_its_first_build(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    watched.add_folder("shop-mb", "multibranch")
    watched.add_job("shop-mb/feature%2Fx")
    number = watched.start_build("shop-mb/feature%2Fx", repo=REPO, branch="detached")
    clock.advance(s=5)
    watched.finish_build("shop-mb/feature%2Fx", number)
    poll(controller, outbox)
    assert event(outbox, "main:shop-mb/feature%2Fx#1")["branch"] == "feature/x"


def test_a_job_deleted_and_created_again_is_reported_although_its_numbers_were_used_before(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    finish_one(watched, clock)
    poll(controller, outbox)
    watched.delete_job("deploy/shop")
    watched.add_job("deploy/shop")
    started = [clock.now_ms()]
    finish_one(watched, clock)
    poll(controller, outbox)
    for _ in range(3):  # up to #4, a number that was reported before
        started.append(clock.now_ms())
        finish_one(watched, clock)
    poll(controller, outbox)
    assert ids(outbox) == [
        "main:deploy/shop#4",
        "main:deploy/shop#1",
        "main:deploy/shop#2",
        "main:deploy/shop#3",
        f"main:deploy/shop#4@{started[3]}",
    ]
    assert event(outbox, f"main:deploy/shop#4@{started[3]}")["deployment_id"] == f"main:deploy/shop#4@{started[3]}"


def test_a_job_created_again_is_told_by_its_builds_even_when_it_passed_the_old_number(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    finish_one(watched, clock)
    poll(controller, outbox)
    watched.delete_job("deploy/shop")
    watched.add_job("deploy/shop")
    for _ in range(6):
        finish_one(watched, clock)
    report = poll(controller, outbox)
    assert len(report.enqueued) == 6


def test_more_builds_than_one_page_are_all_read(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    clock.advance(s=1_000)
    numbers = watched.add_builds("deploy/shop", 275, repo=REPO, every=1_000)
    report = poll(controller, outbox)
    assert sorted(report.enqueued) == sorted(f"main:deploy/shop#{number}" for number in numbers)
    assert len(ids(outbox)) == 275


def test_builds_deleted_between_two_pages_do_not_hide_others(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    clock.advance(s=1_000)
    numbers = watched.add_builds("deploy/shop", 250, repo=REPO, every=1_000)
    doomed = numbers[-60:-20]
    asked = []

    def delete_after_first_page(path: str, query: str) -> None:
        if "builds[" in query.lower():
            asked.append(query)
            if len(asked) == 2:
                for number in doomed:
                    watched.delete_build("deploy/shop", number)

    watched.break_with(delete_after_first_page)
    report = poll(controller, outbox)
    assert set(report.enqueued) >= {f"main:deploy/shop#{n}" for n in numbers if n not in doomed}


def test_since_reports_what_ended_after_it(
    jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    jenkins.add_job("deploy/shop")
    jenkins.add_builds("deploy/shop", 10, repo=REPO, every=HOUR)
    poll(replace(controller, since="150m"), outbox)
    assert ids(outbox) == [f"main:deploy/shop#{n}" for n in (8, 9, 10)]


def test_since_is_fixed_by_the_first_poll_even_when_that_was_interrupted(
    jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    jenkins.add_job("deploy/shop")
    jenkins.add_builds("deploy/shop", 2, repo=REPO, every=60_000)
    jenkins.break_with(lambda path, _: HTMLResponse("", 503) if "/job/" in path else None)
    settings = replace(controller, since="10m")
    assert poll(settings, outbox).problems
    clock.advance(s=20 * 60)
    jenkins.break_with(None)
    poll(settings, outbox)
    assert ids(outbox) == ["main:deploy/shop#1", "main:deploy/shop#2"]


def test_a_job_that_matches_no_rule_is_never_asked_for_its_builds(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    watched.add_job("tests/unit")
    watched.start_build("tests/unit")
    watched.clear_requests()
    poll(controller, outbox, rule("deploy/**"))
    assert [request.path for request in watched.requests] == ["/api/json"]


@pytest.mark.parametrize("jobs", [50, 5_000])
def test_a_poll_costs_one_request_and_one_more_for_each_job_that_moved(
    jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock, jobs: int
) -> None:
    for index in range(jobs):
        jenkins.add_job(f"team-{index % 10}/app-{index}", "freestyle")
    poll(controller, outbox)
    counted = []
    for moved in (0, 1, 10):
        clock.advance(s=15)
        for index in range(moved):
            finish_one(jenkins, clock, f"team-{index % 10}/app-{index}")
        jenkins.clear_requests()
        report = poll(controller, outbox)
        assert (len(report.enqueued), report.jobs, report.requests) == (moved, jobs, len(jenkins.requests))
        counted.append(report.requests)
    assert counted == [1, 2, 11]


def test_many_waiting_builds_cost_one_request_together(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    for index in range(20):
        watched.add_job(f"deploy/app-{index}")
        watched.start_build(f"deploy/app-{index}", repo=REPO)
    poll(controller, outbox)
    assert poll(controller, outbox).requests == 2


def test_folders_deeper_than_the_nested_question_are_read_too(
    jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    deep = "/".join("abcdefghijk")
    jenkins.add_job(deep)
    poll(controller, outbox)
    finish_one(jenkins, clock, deep)
    poll(controller, outbox)
    assert ids(outbox) == [f"main:{deep}#1"]


def test_a_matrix_build_is_one_event_and_its_cells_are_none(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    watched.add_job("matrix-app", "matrix")
    finish_one(watched, clock, "matrix-app")
    poll(controller, outbox)
    assert ids(outbox) == ["main:matrix-app#1"]


def test_two_controllers_with_the_same_job_do_not_collide(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    other = replace(controller, name="other")
    poll(other, outbox)
    finish_one(watched, clock)
    poll(controller, outbox)
    poll(other, outbox)
    assert ids(outbox) == ["main:deploy/shop#4", "other:deploy/shop#4"]


# ---- answers that are not what they seem


class _Answers:
    """What can come instead of Jenkins' JSON, and how the controller is then called."""

    unavailable = HTMLResponse("<html>starting</html>", 503)
    login_page = HTMLResponse("<html>login</html>", 200)
    cut = Response(b'{"jobs":[{"fullName":"de', media_type="application/json")
    other_shape = Response(b'{"jobs":"none"}', media_type="application/json")
    redirect = RedirectResponse("http://127.0.0.1:9/", 302)
    unauthorized = Response(b"", 401)
    forbidden = Response(b"", 403)
    server_error = HTMLResponse("<html>oops</html>", 500)


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ("unavailable", "unreachable"),
        ("login_page", "error"),
        ("cut", "error"),
        ("other_shape", "error"),
        ("redirect", "error"),
        ("unauthorized", "unauthorized"),
        ("forbidden", "unauthorized"),
        ("server_error", "error"),
    ],
)
@pytest.mark.parametrize("where", ["/api/json", "/job/deploy/job/shop/api/json"], ids=["job list", "builds"])
def test_nothing_is_skipped_for_an_answer_that_lies(
    watched: LocalJenkins,
    controller: JenkinsSettings,
    outbox: Outbox,
    clock: FakeClock,
    answer: str,
    state: str,
    where: str,
) -> None:
    finish_one(watched, clock)
    watched.break_with(lambda path, _: getattr(_Answers, answer) if path == where else None)
    report = poll(controller, outbox)
    assert len(report.problems) == 1
    [known] = outbox.controllers()
    if where == "/api/json":
        assert (known.state, bool(known.last_error), outbox.job_errors("main")) == (state, True, {})
    else:
        assert (known.state, known.last_error, set(outbox.job_errors("main"))) == ("ok", None, {"deploy/shop"})
    watched.break_with(None)
    assert poll(controller, outbox).enqueued == ["main:deploy/shop#4"]
    assert [(c.state, c.last_error) for c in outbox.controllers()] == [("ok", None)]
    assert outbox.job_errors("main") == {}


def test_a_job_that_cannot_be_read_does_not_keep_others_from_being_read(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    watched.add_job("deploy/api")
    finish_one(watched, clock, "deploy/api")
    finish_one(watched, clock, "deploy/shop")
    watched.break_with(lambda path, _: HTMLResponse("", 500) if "/job/api" in path else None)
    assert poll(controller, outbox).enqueued == ["main:deploy/shop#4"]
    watched.break_with(None)
    assert poll(controller, outbox).enqueued == ["main:deploy/api#1"]


def test_a_folder_that_is_forbidden_for_a_while_is_caught_up_with(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    empty = Response(b'{"jobs":[]}', media_type="application/json")
    watched.break_with(lambda path, _: empty if path == "/api/json" else None)
    finish_one(watched, clock)
    poll(controller, outbox)
    watched.break_with(None)
    assert poll(controller, outbox).enqueued == ["main:deploy/shop#4"]


def test_half_a_surrogate_pair_in_a_parameter_does_not_hide_the_build(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    number = watched.start_build("deploy/shop", repo=REPO, parameters={"ENVIRONMENT": "qa"})
    watched.finish_build("deploy/shop", number, duration=5)
    broken = (
        b'{"builds":[{"number":4,"result":"SUCCESS","building":false,"timestamp":%d,"duration":5,"actions":['
        b'{"parameters":[{"name":"N","value":"\\ud800"},{"name":"ENVIRONMENT","value":"qa"}]},'
        b'{"remoteUrls":["%s"],"lastBuiltRevision":{"branch":[{"name":"main"}]}}]}]}' % (clock.now_ms(), REPO.encode())
    )
    watched.break_with(lambda path, _: Response(broken, media_type="application/json") if "/job/" in path else None)
    poll(controller, outbox)
    assert event(outbox, "main:deploy/shop#4")["environment"] == "qa"


def test_an_absurd_timestamp_is_recorded_as_failed_and_blocks_nothing(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    odd = finish_one(watched, clock)
    watched.update_build("deploy/shop", odd, timestamp=9_000_000_000_000_000)
    finish_one(watched, clock)
    poll(controller, outbox)
    found = outbox.find(f"main:deploy/shop#{odd}")
    assert found is not None and found.state is State.FAILED and "times outside the years" in (found.reason or "")
    assert outbox.counts().pending == 1


def test_a_body_beyond_all_measure_is_not_read_to_its_end(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.sources.jenkins import transport

    monkeypatch.setattr(transport, "BODY_LIMIT", 200_000)
    huge = Response(b'{"jobs":[' + b" " * 1_000_000 + b"]}", media_type="application/json")
    watched.break_with(lambda *_: huge)
    assert "returned more than 200000 bytes" in poll(controller, outbox).problems[0]


def test_credentials_do_not_follow_a_redirect(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, jenkins_server: object
) -> None:
    from agent.sandbox.jenkins import LocalJenkins as AnotherJenkins
    from agent.sandbox.server import LocalServer

    other = AnotherJenkins()
    with LocalServer(other.app) as elsewhere:
        watched.break_with(lambda *_: RedirectResponse(elsewhere.url + "/api/json", 302))
        report = poll(controller, outbox)
    assert other.requests == []
    assert "redirects to" in report.problems[0]


def test_a_context_path_works(outbox: Outbox, controller: JenkinsSettings, clock: FakeClock) -> None:
    from agent.sandbox.jenkins import LocalJenkins as AnotherJenkins
    from agent.sandbox.server import LocalServer

    jenkins = AnotherJenkins(prefix="/jenkins", now_ms=clock.now_ms)
    jenkins.add_job("deploy/shop")
    with LocalServer(jenkins.app) as server:
        settings = replace(controller, url=server.url + "/jenkins/")
        poll(settings, outbox)
        finish_one(jenkins, clock)
        poll(settings, outbox)
    assert event(outbox, "main:deploy/shop#1")["logs_url"] == "http://127.0.0.1:8080/jenkins/job/deploy/job/shop/1/"


def test_an_ipv6_address_works(outbox: Outbox, jenkins: LocalJenkins, controller: JenkinsSettings) -> None:
    from agent.sandbox.server import LocalServer

    jenkins.add_job("deploy/shop")
    with LocalServer(jenkins.app, "::1") as server:
        assert "[::1]" in server.url
        assert poll(replace(controller, url=server.url + "/"), outbox).jobs == 1


def test_numbers_beyond_all_measure_are_an_error_or_a_failed_event_and_no_crash(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    odd = finish_one(watched, clock)
    watched.update_build("deploy/shop", odd, timestamp=10**40, duration=10**40)
    poll(controller, outbox)
    assert [each.state for each in outbox.all_deployments()] == [State.FAILED]
    watched.set_next_build_number("deploy/shop", 10**40)
    assert "its nextBuildNumber is 1000" in poll(controller, outbox).problems[0]


def test_a_new_jenkins_token_in_the_file_is_taken_up_without_a_restart(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, tmp_path: Path
) -> None:
    from agent.config.credentials import Token

    file = tmp_path / "jenkins.token"
    file.write_text("old")
    client = JenkinsClient(replace(controller, token=Token.from_file(file)))
    poller = Poller(controller, client, ingest_of(outbox))
    assert "wrong user or API token" in poller.poll().problems[0]
    assert not poller.due(), "a Jenkins that refuses is left in peace for a while"
    file.write_text("sandbox-token")
    assert poller.due()
    assert poller.poll().problems == []
    client.close()


def test_the_cursor_stays_when_events_cannot_be_stored(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock, tmp_path: Path
) -> None:
    finish_one(watched, clock)
    outbox._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(OutboxError, match="cannot be written"):
        poll(controller, outbox)
    outbox._connection.execute("PRAGMA query_only = OFF")
    assert poll(controller, outbox).enqueued == ["main:deploy/shop#4"]


def test_after_an_error_of_the_outbox_a_poller_reads_again_what_is_stored(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock, tmp_path: Path
) -> None:
    """Whoever restores a copy, for example, changes what only the poller writes otherwise."""
    client = JenkinsClient(controller, clock)
    poller = Poller(controller, client, ingest_of(outbox))
    poller.poll()
    watched.start_build("deploy/shop", repo=REPO)
    poller.poll()
    assert outbox.open_build_counts() == {"main": 1}
    outbox._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(OutboxError, match="cannot be written"):
        poller.poll()
    outbox._connection.execute("PRAGMA query_only = OFF")
    outbox.save_controller(replace(outbox.controllers()[0], state="unreachable", since=5))
    poller.poll()
    assert (outbox.controllers()[0].state, outbox.controllers()[0].since) == ("ok", clock.now_ms())
    client.close()


def test_a_build_that_is_open_is_followed_by_the_same_poller_also_after_idle_polls(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    client = JenkinsClient(controller, clock)
    poller = Poller(controller, client, ingest_of(outbox))
    for _ in range(3):
        poller.poll()
    for result in ("SUCCESS", "FAILURE"):
        number = watched.start_build("deploy/shop", repo=REPO)
        for _ in range(3):
            clock.advance(s=15)
            assert poller.poll().enqueued == []
        assert outbox.open_build_counts() == {"main": 1}
        watched.finish_build("deploy/shop", number, result)
        assert poller.poll().enqueued == [f"main:deploy/shop#{number}"]
        for _ in range(3):
            clock.advance(s=15)
            poller.poll()
    client.close()


# ---- jobs that change their names, and builds that are gone


@pytest.mark.parametrize("new_name", ["deploy/store", "archive/deploy/shop"], ids=["renamed", "moved"])
def test_a_renamed_or_moved_job_is_the_same_job(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock, new_name: str
) -> None:
    finish_one(watched, clock)
    running = watched.start_build("deploy/shop", repo=REPO)
    poll(controller, outbox)
    watched.rename_job("deploy/shop", new_name)
    clock.advance(s=15)
    poll(controller, outbox)
    watched.finish_build(new_name, running)
    finish_one(watched, clock, new_name)
    poll(controller, outbox)
    assert ids(outbox) == ["main:deploy/shop#4", f"main:{new_name}#5", f"main:{new_name}#6"]
    assert poll(controller, outbox).requests == 1


def test_a_job_renamed_while_another_takes_its_name_is_told_from_it(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    finish_one(watched, clock)
    poll(controller, outbox)
    watched.rename_job("deploy/shop", "deploy/old-shop")
    watched.add_job("deploy/shop")
    finish_one(watched, clock)
    poll(controller, outbox)
    assert ids(outbox) == ["main:deploy/shop#4", "main:deploy/shop#1"]


def test_two_jobs_that_exchange_their_names_are_told_apart(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    watched.add_job("deploy/api")
    for _ in range(2):
        finish_one(watched, clock, "deploy/api")
    finish_one(watched, clock)
    poll(controller, outbox)
    before = ids(outbox)
    watched.rename_job("deploy/api", "deploy/x")
    watched.rename_job("deploy/shop", "deploy/api")
    watched.rename_job("deploy/x", "deploy/shop")
    assert poll(controller, outbox).enqueued == []
    finish_one(watched, clock, "deploy/api")
    finish_one(watched, clock, "deploy/shop")
    poll(controller, outbox)
    assert sorted(ids(outbox)) == sorted([*before, "main:deploy/api#5", "main:deploy/shop#3"])


def test_jobs_whose_builds_started_at_the_same_moment_are_not_taken_for_one(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    for name in ("deploy/one", "deploy/two"):
        watched.add_job(name)
        watched.add_builds(name, 1, repo=REPO)
        poll(controller, outbox)
    assert ids(outbox) == ["main:deploy/one#1", "main:deploy/two#1"]


def test_a_job_created_again_and_built_exactly_as_often_is_told_by_the_next_build(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    watched.delete_job("deploy/shop")
    watched.add_job("deploy/shop")
    for _ in range(3):
        finish_one(watched, clock)
    assert poll(controller, outbox).enqueued == []  # the next number is what it was
    finish_one(watched, clock)
    poll(controller, outbox)
    assert ids(outbox) == [f"main:deploy/shop#{n}" for n in (1, 2, 3, 4)]


def test_builds_discarded_before_they_could_be_read_are_counted_and_said_aloud(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    clock.advance(s=1_000)
    numbers = watched.add_builds("deploy/shop", 250, repo=REPO, every=1_000)
    for number in numbers[:-20]:
        watched.delete_build("deploy/shop", number)
    reported = 0
    for _ in range(18):
        reported += len(poll(controller, outbox).enqueued)
        clock.advance(s=15)
    [missed] = outbox.missed()
    assert (reported, missed.full_name, missed.builds) == (20, "deploy/shop", 230)


def test_a_build_that_jenkins_cannot_read_is_asked_for_again_and_reported_once_it_can(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    first, second = finish_one(watched, clock), finish_one(watched, clock)
    whole = watched._job("deploy/shop").builds.pop(first)
    watched.break_with(lambda path, _: HTMLResponse("", 500) if path.endswith(f"/{first}/api/json") else None)
    for _ in range(10):
        poll(controller, outbox)
        clock.advance(s=30)
    assert ids(outbox) == [f"main:deploy/shop#{second}"]
    watched._job("deploy/shop").builds = {**watched._job("deploy/shop").builds, first: whole}
    watched.break_with(None)
    for _ in range(3):
        poll(controller, outbox)
        clock.advance(s=30)
    assert ids(outbox) == [f"main:deploy/shop#{second}", f"main:deploy/shop#{first}"]


def test_a_controller_that_is_down_is_asked_less_and_less_often(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock, jenkins_server: LocalServer
) -> None:
    client = JenkinsClient(controller)
    poller = Poller(controller, client, ingest_of(outbox))
    jenkins_server.stop()
    asked = 0
    for _ in range(240):  # an hour of polls every 15 seconds
        if poller.due():
            poller.poll()
            asked += 1
        clock.advance(s=15)
    assert 12 <= asked <= 30
    jenkins_server.start()
    clock.advance(s=300)
    assert poller.due() and not poller.poll().problems
    clock.advance(s=15)
    assert poller.due()
    client.close()


def test_no_more_requests_are_made_at_once_than_the_setting_says(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    import threading

    at_once, most, lock = 0, 0, threading.Lock()
    for index in range(30):
        watched.add_job(f"deploy/app-{index}")
        finish_one(watched, clock, f"deploy/app-{index}")
    from agent.sources.jenkins.transport import Transport

    ask = Transport.get

    def counted(self: Transport, *question: Any, **options: Any) -> object:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        try:
            return ask(self, *question, **options)
        finally:
            with lock:
                at_once -= 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transport, "get", counted)
        report = poll(replace(controller, concurrency=3), outbox)
    assert len(report.enqueued) == 30
    assert 1 < most <= 3


def test_a_downstream_deployment_gets_its_commit_from_the_build_that_caused_it(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    watched.add_job("build/shop")
    built = watched.start_build("build/shop", repo=REPO, branch="refs/remotes/origin/release", commit="c" * 40)
    watched.finish_build("build/shop", built)
    cause = {"_class": "hudson.model.Cause$UpstreamCause", "upstreamProject": "build/shop", "upstreamBuild": built}
    deployed = watched.start_build("deploy/shop", causes=[cause])
    watched.finish_build("deploy/shop", deployed)
    poll(controller, outbox, rule("deploy/**"))
    seen = event(outbox, f"main:deploy/shop#{deployed}")
    assert (seen["repo_url"], seen["branch"], seen["commit_hash"]) == (REPO, "release", "c" * 40)


def test_a_renamed_job_whose_builds_contradict_its_cursor_is_read_as_a_new_one(
    watched: LocalJenkins,
    controller: JenkinsSettings,
    outbox: Outbox,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its newest build says that it is the one that is known, the others that it is not: no poll may end there."""
    finish_one(watched, clock)
    poll(controller, outbox)
    watched.rename_job("deploy/shop", "deploy/store")
    watched.add_builds("deploy/store", 1, repo=REPO)
    monkeypatch.setattr("agent.sources.jenkins.reader._contradicts", lambda *_: True)
    report = poll(controller, outbox)
    assert report.problems == []
    assert any(name.startswith("main:deploy/store#") for name in report.enqueued)
