"""All recorded builds of a real Jenkins, through one ``once``, to what arrives at Hivel byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from starlette.responses import Response

from agent.sandbox.hivel import LocalHivel
from agent.sandbox.jenkins import LocalJenkins
from agent.sandbox.server import LocalServer
from tests.integration.support import Agent

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDED = Path(__file__).parent.parent / "data" / "recorded-jenkins"
RULES = """
[[deployment]]
job = "re:^((?P<kind>pipe|long)-(notbuilt|early-unstable|fail-prod|free)|deploy-param)$"
environment = "{params.ENVIRONMENT}|{kind}"
repo_url = "https://ci:secret@github.example.test/acme/shop"
branch = "{branch}|refs/heads/trunk"
image = "acme/shop:{params.VERSION}"

[[deployment]]
job = "team-a/My Folder With Space/*"
repo_url = "https://github.example.test/acme/shop"
branch = "trunk"

[[deployment]]
job = "**"
"""
SHOP = "https://github.example.test/acme/shop.git"
BY_RULE = "https://github.example.test/acme/shop"


@pytest.fixture(scope="module")
def arrived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Agent, LocalJenkins, dict[str, object]]]:
    """The agent after one pass, the Jenkins, and the JSON that Hivel got by deployment_id."""
    jenkins, hivel = LocalJenkins.from_folder(RECORDED), LocalHivel()
    with LocalServer(jenkins.app) as jenkins_server, LocalServer(hivel.app) as hivel_server:
        folder = tmp_path_factory.mktemp("recorded")
        agent = Agent.configured(folder, jenkins=jenkins_server, hivel=hivel_server, extra=RULES)
        agent.run("once")
        yield agent, jenkins, {d.event.deployment_id: msgspec.json.decode(d.raw) for d in hivel.deployments()}
    hivel.close()


def test_every_final_build_is_delivered_or_failed_with_a_reason(
    arrived: tuple[Agent, LocalJenkins, dict[str, object]],
) -> None:
    agent, jenkins, events = arrived
    final = {
        f"main:{name}#{build['number']}"
        for name, build in jenkins.all_builds()
        if "=" not in name and not build["building"]  # cells of a matrix are no builds of their own
    }
    failed = {
        row["deployment_id"]: row["reason"]
        for row in agent.json("queue", "list", "--limit", "1000")
        if row["state"] == "failed"
    }
    assert events.keys() | failed.keys() == final
    assert not events.keys() & failed.keys()
    assert (len(final), len(events), len(failed)) == (92, 57, 35)
    # It failed before its checkout: other builds tell the repository. The parameter that names the branch has a commit.
    assert failed.pop("main:deploy-free#3").startswith("no branch in the build")
    assert all(reason.startswith("no repo_url, no branch in the build") for reason in failed.values())


def expected(job: str, number: int, **fields: str) -> dict[str, str]:
    common = {"deployment_id": f"main:{job}#{number}", "event_type": "completed", "build_number": str(number)}
    return common | fields


EVENTS = [
    pytest.param(
        expected(
            "deploy-free",
            1,
            status="success",
            repo_url=SHOP,
            environment="staging",
            branch="v1.0.0",
            commit_hash="6dacad59e2225cb80021a8ec0f67c2f0fa6e87e2",
            start_time="2026-11-23T07:33:59.463Z",
            end_time="2026-11-23T07:34:00.544Z",
            logs_url="http://127.0.0.1:8080/job/deploy-free/1/",
        ),
        id="freestyle, a tag checked out",
    ),
    pytest.param(
        expected(
            "deploy-free",
            2,
            status="success",
            repo_url=SHOP,
            environment="production",
            branch="main",
            commit_hash="f95b91056489d8c02e4ef910367506a785e7c393",
            start_time="2026-11-23T07:34:00.714Z",
            end_time="2026-11-23T07:34:01.758Z",
            logs_url="http://127.0.0.1:8080/job/deploy-free/2/",
        ),
        id="freestyle, a branch",
    ),
    pytest.param(
        expected(
            "pipe-deploy",
            6,
            status="success",
            repo_url=SHOP,
            environment="production",
            branch="main",
            commit_hash="87e64cfa39c3831eec90339c6b777c17ee89ff99",
            start_time="2026-11-23T07:43:01.039Z",
            end_time="2026-11-23T07:43:07.168Z",
            logs_url="http://127.0.0.1:8080/job/pipe-deploy/6/",
        ),
        id="pipeline",
    ),
    pytest.param(
        expected(
            "pipe-scripted",
            1,
            status="success",
            repo_url="git@github.example.test:acme/shop.git",
            environment="production",
            branch="main",
            commit_hash="f95b91056489d8c02e4ef910367506a785e7c393",
            start_time="2026-11-23T07:33:19.691Z",
            end_time="2026-11-23T07:33:23.597Z",
            logs_url="http://127.0.0.1:8080/job/pipe-scripted/1/",
        ),
        id="scripted pipeline, scp-like URL",
    ),
    pytest.param(
        expected(
            "pipe-tag",
            1,
            status="success",
            repo_url=SHOP,
            environment="production",
            branch="v1.0.0",
            commit_hash="6dacad59e2225cb80021a8ec0f67c2f0fa6e87e2",
            start_time="2026-11-23T07:33:31.521Z",
            end_time="2026-11-23T07:33:34.705Z",
            logs_url="http://127.0.0.1:8080/job/pipe-tag/1/",
        ),
        id="pipeline on a tag",
    ),
    pytest.param(
        expected(
            "shop-mb/feature%2Fx",
            1,
            status="success",
            repo_url=SHOP,
            environment="production",
            branch="feature/x",
            commit_hash="bd75d1b3bd4ebb76a26a0167d4774226d1d5d5a7",
            start_time="2026-11-23T07:32:45.549Z",
            end_time="2026-11-23T07:32:53.298Z",
            logs_url="http://127.0.0.1:8080/job/shop-mb/job/feature%252Fx/1/",
        ),
        id="branch of a multibranch project",
    ),
    pytest.param(
        expected(
            "shop-mb/größe",
            1,
            status="success",
            repo_url=SHOP,
            environment="production",
            branch="größe",
            commit_hash="de66f9b5ebb9f8994f369f175888f1d29b3b6abf",
            start_time="2026-11-23T07:32:45.528Z",
            end_time="2026-11-23T07:32:53.661Z",
            logs_url="http://127.0.0.1:8080/job/shop-mb/job/gr%C3%B6%C3%9Fe/1/",
        ),
        id="branch with letters beyond ASCII",
    ),
    pytest.param(
        expected(
            "shop-mb/fix%2342",
            1,
            status="success",
            repo_url=SHOP,
            environment="production",
            branch="fix#42",
            commit_hash="a01a24a551e1d4686fdebc3f127ada398d2c2728",
            start_time="2026-11-23T07:32:45.604Z",
            end_time="2026-11-23T07:32:57.064Z",
            logs_url="http://127.0.0.1:8080/job/shop-mb/job/fix%252342/1/",
        ),
        id="branch with a number sign",
    ),
    pytest.param(
        expected(
            "matrix-app",
            1,
            status="failed",
            repo_url=SHOP,
            environment="production",
            branch="main",
            commit_hash="f95b91056489d8c02e4ef910367506a785e7c393",
            start_time="2026-11-23T07:34:04.862Z",
            end_time="2026-11-23T07:34:09.955Z",
            logs_url="http://127.0.0.1:8080/job/matrix-app/1/",
        ),
        id="matrix, FAILURE",
    ),
    pytest.param(
        expected(
            "team-a/backend/api-build",
            1,
            status="success",
            repo_url=SHOP,
            environment="production",
            branch="main",
            commit_hash="f95b91056489d8c02e4ef910367506a785e7c393",
            start_time="2026-11-23T07:33:40.216Z",
            end_time="2026-11-23T07:33:43.687Z",
            logs_url="http://127.0.0.1:8080/job/team-a/job/backend/job/api-build/1/",
        ),
        id="pipeline in folders",
    ),
    pytest.param(
        expected(
            "multi-remote",
            1,
            status="success",
            repo_url=SHOP,
            environment="production",
            branch="main",
            commit_hash="f95b91056489d8c02e4ef910367506a785e7c393",
            start_time="2026-11-23T07:33:28.728Z",
            end_time="2026-11-23T07:33:29.883Z",
            logs_url="http://127.0.0.1:8080/job/multi-remote/1/",
        ),
        id="two remotes: origin",
    ),
    pytest.param(
        expected(
            "pipe-lib-scm",
            1,
            status="success",
            repo_url=SHOP,
            environment="production",
            branch="main",
            commit_hash="87e64cfa39c3831eec90339c6b777c17ee89ff99",
            start_time="2026-11-23T07:40:14.662Z",
            end_time="2026-11-23T07:40:15.485Z",
            logs_url="http://127.0.0.1:8080/job/pipe-lib-scm/1/",
        ),
        id="a shared library and the application",
    ),
    pytest.param(
        expected(
            "deploy-param",
            7,
            status="success",
            repo_url=BY_RULE,
            environment="production",
            branch="trunk",
            image="acme/shop:2.0",
            start_time="2026-11-23T07:34:02.279Z",
            end_time="2026-11-23T07:34:04.737Z",
            logs_url="http://127.0.0.1:8080/job/deploy-param/7/",
        ),
        id="no checkout: the rule says what is deployed",
    ),
    pytest.param(
        expected(
            "pipe-notbuilt",
            1,
            status="unknown",
            repo_url=BY_RULE,
            environment="pipe",
            branch="trunk",
            start_time="2026-11-23T07:33:23.776Z",
            end_time="2026-11-23T07:33:23.842Z",
            logs_url="http://127.0.0.1:8080/job/pipe-notbuilt/1/",
        ),
        id="NOT_BUILT",
    ),
    pytest.param(
        expected(
            "pipe-early-unstable",
            1,
            status="failed",
            repo_url=BY_RULE,
            environment="pipe",
            branch="trunk",
            start_time="2026-11-23T07:34:48.751Z",
            end_time="2026-11-23T07:34:55.631Z",
            logs_url="http://127.0.0.1:8080/job/pipe-early-unstable/1/",
        ),
        id="UNSTABLE",
    ),
    pytest.param(
        expected(
            "pipe-fail-prod",
            1,
            status="failed",
            repo_url=BY_RULE,
            environment="pipe",
            branch="trunk",
            start_time="2026-11-23T07:33:24.225Z",
            end_time="2026-11-23T07:33:26.947Z",
            logs_url="http://127.0.0.1:8080/job/pipe-fail-prod/1/",
        ),
        id="FAILURE of a pipeline",
    ),
    pytest.param(
        expected(
            "long-free",
            1,
            status="canceled",
            repo_url=BY_RULE,
            environment="long",
            branch="trunk",
            start_time="2026-11-23T07:37:23.525Z",
            end_time="2026-11-23T07:37:29.634Z",
            logs_url="http://127.0.0.1:8080/job/long-free/1/",
        ),
        id="ABORTED",
    ),
    pytest.param(
        expected(
            "team-a/My Folder With Space/jöb + 1",
            1,
            status="success",
            repo_url=BY_RULE,
            environment="production",
            branch="trunk",
            start_time="2026-11-23T07:34:43.576Z",
            end_time="2026-11-23T07:34:43.587Z",
            logs_url="http://127.0.0.1:8080/job/team-a/job/My%20Folder%20With%20Space/job/j%C3%B6b%20+%201/1/",
        ),
        id="freestyle, a name with everything",
    ),
]


@pytest.mark.parametrize("event", EVENTS)
def test_the_event_on_the_wire_is_as_the_build_says_field_by_field(
    arrived: tuple[Agent, LocalJenkins, dict[str, object]], event: dict[str, str]
) -> None:
    assert arrived[2][event["deployment_id"]] == event


def test_a_second_pass_sends_nothing(arrived: tuple[Agent, LocalJenkins, dict[str, object]]) -> None:
    agent, _, events = arrived
    done = agent.run("once")
    assert done.returncode == 1  # failed events are there
    assert f"{len(events)} delivered" in done.stdout and " 0 events enqueued" in done.stdout


def test_failed_builds_are_mended_by_a_rule_and_replay(
    arrived: tuple[Agent, LocalJenkins, dict[str, object]],
) -> None:
    agent, jenkins, _ = arrived
    mended = RULES.replace(
        'job = "**"', 'job = "**"\nrepo_url = "https://github.example.test/acme/shop"\nbranch = "{branch}|main"'
    )
    agent.config.write_text(agent.config.read_text().replace(RULES, mended))
    jenkins.break_with(lambda *_: Response(status_code=503))  # Jenkins is not needed for it
    assert agent.run("replay", "--failed", "--yes").returncode == 0
    agent.run("once")
    jenkins.break_with(None)
    assert agent.json("status")["events"] == {
        "pending": 0, "held": 0, "delivered": 92, "failed": 0, "discarded": 0,
    }  # fmt: skip
