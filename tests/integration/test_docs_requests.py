"""The table of docs/operations.md about requests to Jenkins, counted: each row is a story of one poll."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.support import REPO, poll, rule
from tests.integration.test_enrich import OVERVIEW, WFAPI, stage_rule

if TYPE_CHECKING:
    from agent.config.settings import JenkinsSettings
    from agent.outbox.interface import Outbox
    from agent.sandbox.jenkins import LocalJenkins
    from tests.integration.support import FakeClock

JOB = "deploy/shop"


@pytest.fixture
def watched(jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock) -> LocalJenkins:
    """A Jenkins that had its first poll."""
    for name in (JOB, "deploy/api", "lab/try"):
        jenkins.add_job(name)
        jenkins.add_builds(name, 3, repo=REPO)
    clock.advance(s=60)
    poll(controller, outbox)
    clock.advance(s=15)
    return jenkins


def test_nothing_happened(watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox) -> None:
    assert poll(controller, outbox).requests == 1
    roots = replace(controller, roots=("deploy", "lab"))
    poll(roots, outbox)
    assert poll(roots, outbox).requests == 2


def test_builds_of_jobs_that_deploy_and_of_others(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    for name in (JOB, "deploy/api", "lab/try"):
        watched.add_builds(name, 1, repo=REPO)
    assert poll(controller, outbox, rule("deploy/**")).requests == 1 + 2


@pytest.mark.parametrize(("builds", "requests"), [(99, 1), (100, 2), (189, 2), (190, 3)])
def test_many_builds_of_one_job(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock, builds: int, requests: int
) -> None:
    clock.advance(s=10_000)
    watched.add_builds(JOB, builds, repo=REPO, every=1_000)
    assert poll(controller, outbox).requests == 1 + requests


def test_builds_are_followed(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock
) -> None:
    started = {name: watched.start_build(name, repo=REPO) for name in (JOB, "deploy/api")}
    poll(controller, outbox)
    clock.advance(s=15)
    assert poll(controller, outbox).requests == 1 + 1, "both still run"
    watched.finish_build(JOB, started[JOB])
    clock.advance(s=15)
    assert poll(controller, outbox).requests == 1 + 1 + 1, "one has ended"


def test_a_deployment_that_other_builds_started(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox
) -> None:
    watched.add_job("build/shop")
    built = watched.start_build("build/shop", repo=REPO)
    watched.finish_build("build/shop", built)
    cause = {"_class": "hudson.model.Cause$UpstreamCause", "upstreamProject": "build/shop", "upstreamBuild": built}
    watched.finish_build(JOB, watched.start_build(JOB, causes=[cause]))
    assert poll(controller, outbox, rule("deploy/**")).requests == 1 + 1 + 1


@pytest.mark.parametrize(("pages", "requests"), [({"overview": OVERVIEW}, 1), ({"wfapi": WFAPI}, 2)])
def test_a_rule_with_stage(
    watched: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, pages: dict[str, Any], requests: int
) -> None:
    """Without the first plugin, its page is asked for in vain."""
    [number] = watched.add_builds(JOB, 1, repo=REPO)
    watched.set_stages(JOB, number, **pages)
    assert poll(controller, outbox, stage_rule()).requests == 1 + 1 + requests


def test_jobs_in_many_folders(jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox) -> None:
    jenkins.add_job("a/b/c/d/e/f/g/job")
    poll(controller, outbox)
    assert poll(controller, outbox).requests == 1
    for name in ("h/job", "i/job", "i/j/k/job"):
        jenkins.add_job(f"a/b/c/d/e/f/g/{name}")
    poll(controller, outbox)
    assert poll(controller, outbox).requests == 1 + 2, "h and i are of the eighth level"


@pytest.mark.parametrize(("since", "requests"), [("now", 2), ("30d", 1 + 2)])
def test_the_very_first_poll(
    jenkins: LocalJenkins, controller: JenkinsSettings, outbox: Outbox, clock: FakeClock, since: str, requests: int
) -> None:
    for name in (JOB, "deploy/api", "lab/try"):
        jenkins.add_job(name)
        jenkins.add_builds(name, 3, repo=REPO)
    clock.advance(s=60)
    assert poll(replace(controller, since=since), outbox, rule("deploy/**")).requests == requests
