"""One Jenkins that several replicas serve: what of it is late, what is answered for all, and what becomes of builds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from click.testing import CliRunner

from agent.cli.sandbox import command
from agent.config.credentials import Token
from agent.config.settings import JenkinsSettings
from agent.sandbox.jenkins import LocalJenkins, ReplicatedJenkins
from agent.sandbox.server import LocalServer
from agent.sources.jenkins.client import JenkinsClient
from tests.integration.support import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

JOB = "deploy/shop"
PAGE = "/job/deploy/job/shop/"
ROOT = {"tree": "jobs[jobs[fullName,nextBuildNumber]]"}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def made(now_ms: Callable[[], int]) -> LocalJenkins:
    jenkins = LocalJenkins(now_ms=now_ms)
    jenkins.add_job(JOB)
    return jenkins


@pytest.fixture
def several(clock: FakeClock) -> ReplicatedJenkins:
    """The second replica, which is the one that answers if it is up, lags by a minute."""
    return ReplicatedJenkins(made, (0, 60_000), now_ms=clock.now_ms, route=max)


@pytest.fixture
def client(several: ReplicatedJenkins) -> Iterator[httpx.Client]:
    auth = (several.username, several.token)
    with LocalServer(several.app) as server, httpx.Client(base_url=server.url, auth=auth) as client:
        yield client


def next_number(client: httpx.Client) -> int:
    number: int = client.get("/api/json", params=ROOT).json()["jobs"][0]["jobs"][0]["nextBuildNumber"]
    return number


def builds(client: httpx.Client) -> list[dict[str, Any]]:
    listed = client.get(f"{PAGE}api/json", params={"tree": "builds[number,building,result,timestamp]"}).json()["builds"]
    return [{name: value for name, value in build.items() if name != "_class"} for build in listed]


def start(several: ReplicatedJenkins) -> int:
    return several.change(lambda jenkins: jenkins.start_build(JOB))


def test_the_list_of_jobs_is_late_and_what_is_asked_about_a_job_is_not(
    several: ReplicatedJenkins, client: httpx.Client, clock: FakeClock
) -> None:
    started_at = clock.now_ms()
    number = start(several)
    clock.advance(s=59)
    assert next_number(client) == 1
    assert client.get(f"{PAGE}{number}/api/json", params={"tree": "number"}).status_code == 404
    assert builds(client) == [{"number": 1, "building": True, "result": None, "timestamp": started_at}]
    running = client.get("/computer/api/json", params={"tree": "computer[oneOffExecutors[currentExecutable[number]]]"})
    assert '"number":1' in running.text
    clock.advance(s=1)
    assert next_number(client) == 2
    assert client.get(f"{PAGE}{number}/api/json", params={"tree": "timestamp"}).json()["timestamp"] == started_at


@pytest.mark.parametrize(
    "path",
    [f"{PAGE}api/json", f"{PAGE}api/xml?tree=name", "/job/deploy/api/json", "/computer/api/json", "/queue/api/json"],
)
def test_what_is_answered_for_all_replicas_is_refused_without_a_tree(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 400


@pytest.mark.parametrize("path", ["/api/json", "/whoAmI/api/json"])
def test_what_one_replica_answers_needs_no_tree(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 200


def test_the_builds_of_a_replica_that_ends_stand_still_until_they_are_adopted(
    several: ReplicatedJenkins, client: httpx.Client, clock: FakeClock
) -> None:
    numbers = [start(several), start(several)]
    orphans = several.stop_replica(1)
    assert orphans == [(JOB, 1)]
    assert [(build["number"], build["building"], build["result"]) for build in builds(client)] == [
        (2, True, None),
        (1, False, None),
    ]
    several.adopt(orphans)
    several.start_replica(1)
    assert [build["building"] for build in builds(client)] == [True, True]
    for number in numbers:
        several.change(lambda jenkins, number=number: jenkins.finish_build(JOB, number))
    assert [build["result"] for build in builds(client)] == ["SUCCESS", "SUCCESS"]
    assert next_number(client) == 3  # it read everything when it started


def test_without_a_replica_there_is_no_connection(several: ReplicatedJenkins, client: httpx.Client) -> None:
    for index in (0, 1):
        several.stop_replica(index)
    with pytest.raises(httpx.TransportError):
        client.get("/api/json")


def test_failing_over_again_and_again_leaves_every_build_running(
    several: ReplicatedJenkins, client: httpx.Client
) -> None:
    for _ in range(3):
        start(several)
    for _ in range(8):
        several.fail_over()
    assert [build["building"] for build in builds(client)] == [True] * 3


def test_a_client_that_keeps_cookies_stays_with_its_replica(clock: FakeClock) -> None:
    turns = iter([0, 1, 0, 1, 1, 0])
    several = ReplicatedJenkins(made, (0, 60_000), now_ms=clock.now_ms, sticky=True, route=lambda _: next(turns))
    start(several)
    auth = (several.username, several.token)
    with LocalServer(several.app) as server:
        with httpx.Client(base_url=server.url, auth=auth) as client:
            assert [next_number(client) for _ in range(3)] == [2, 2, 2]
        with httpx.Client(base_url=server.url, auth=auth) as client:
            assert [next_number(client) for _ in range(3)] == [1, 1, 1]
            several.stop_replica(1)
            assert next_number(client) == 2


def test_the_agent_keeps_to_the_replica_that_it_was_given(clock: FakeClock) -> None:
    turns = iter([1, 0, 0])
    several = ReplicatedJenkins(made, (0, 60_000), now_ms=clock.now_ms, sticky=True, route=lambda _: next(turns))
    start(several)
    with LocalServer(several.app) as server:
        settings = JenkinsSettings(
            name="main", url=f"{server.url}/", username=several.username, token=Token(several.token),
            poll_interval_ms=15_000, since="now", timeout_ms=5_000,
        )  # fmt: skip
        client = JenkinsClient(settings)
        assert [client.snapshot().jobs[0].next_build_number for _ in range(3)] == [1, 1, 1]
        client.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lag", "6s"], "require --replicas 2 or more"),
        (["--replicas", "2", "--lag", "soon"], "--lag: 'soon' is not a duration"),
        (["--replicas", "2", "--lag", "1h"], "longer than 10m"),
        (["--replicas", "0"], "0 is not in the range"),
    ],
)
def test_options_that_mean_nothing_are_refused(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(command, ["jenkins", *arguments])
    assert (result.exit_code, words in result.output) == (2, True), result.output
