"""A running agent whose pages have something of every kind to show, with names that attack whoever shows them."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.model.build import Checkout
from agent.model.deployment import State
from agent.model.fact import Report, report
from agent.model.keys import jenkins_run
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import Filter, Page
from agent.sandbox.hivel import Fault, LocalHivel
from agent.sandbox.jenkins import LocalJenkins
from agent.sandbox.server import LocalServer
from tests.integration.filled import HOUR, MINUTE, NOW, REPO, Filled
from tests.integration.support import wait_until
from tests.web.conftest import SETTINGS, Site, configured, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.model.deployment import Deployment
    from tests.integration.support import Agent

DAY = 24 * HOUR
# Each would run a script, break out of an attribute, or reorder the text around it, if it were not shown as text.
SCRIPT = "<img src=x onerror=window.attacked=1>"
HOSTILE_JOB = f'deploy/"{SCRIPT}'
BIDI = "release\u202ednuof"
LONG_REPO = "https://git.example.com/" + "a-group-with-a-long-name/" * 5 + "a-repository-with-a-long-name"
LONG = "a-branch-with-a-name-that-has-no-place-to-break-" * 5
REASON = f"HTTP 422: branch {SCRIPT} is not allowed here"
# A Jenkins that nobody answers for, and one with a name as long as names get.
MORE_CONTROLLERS = """
[[jenkins]]
name = "legacy"
url = "http://127.0.0.1:9"
username = "hivel-agent"
token_file = "jenkins.token"

[[jenkins]]
name = "a-controller-with-a-rather-long-name-eu-central-1"
url = "http://127.0.0.1:9"
username = "hivel-agent"
token_file = "jenkins.token"
"""


@dataclass(frozen=True)
class World:
    """The pages of a daemon, and what it talks to."""

    site: Site
    jenkins: LocalJenkins
    hivel: LocalHivel

    @property
    def outbox(self) -> Path:
        return self.site.agent.outbox

    def deployments(self, *states: State) -> list[Deployment]:
        """The newest ones in these states."""
        with SqliteOutbox(self.outbox, Clock()) as outbox:
            return outbox.query(Filter(states), Page(1_000))

    def counts(self) -> dict[str, int]:
        with SqliteOutbox(self.outbox, Clock()) as outbox:
            counts = outbox.counts()
        return {state.value: getattr(counts, state.value) for state in State}


@dataclass(frozen=True)
class Stage:
    """Everything but the daemon, which can be started several times."""

    agent: Agent
    jenkins: LocalJenkins
    hivel: LocalHivel

    @contextmanager
    def running(self) -> Iterator[World]:
        """The daemon runs in the block, and has read and sent what Jenkins has."""
        with running(self.agent) as site:
            played = World(site, self.jenkins, self.hivel)
            polled = {"main:live/shop#6", "main:live/shop-refused#1"}
            settled = (State.DELIVERED, State.FAILED)
            wait_until(
                lambda: polled <= {str(each.deployment_id) for each in played.deployments(*settled)},
                "what Jenkins has was delivered or refused",
            )
            yield played


@contextmanager
def stage(folder: Path, *, web: str = SETTINGS, failed: int = 0) -> Iterator[Stage]:
    """Something of every kind; ``failed``: so many more that failed for one reason."""
    hivel, jenkins = LocalHivel(), LocalJenkins()
    with ExitStack() as stack:
        stack.callback(hivel.close)
        _play(jenkins)
        body = {"message": "Validation failed", "error": "branch is required"}
        hivel.fault(Fault(kind="status", status=422, body=body, match="shop-refused"))
        jenkins_server = stack.enter_context(LocalServer(jenkins.app))
        hivel_server = stack.enter_context(LocalServer(hivel.app))
        agent = configured(folder, jenkins_server, hivel_server, web)
        # What was asked to wait for an hour does so.
        text = agent.config.read_text().replace('backoff_max = "500ms"', 'backoff_max = "4h"')
        agent.config.write_text(text + MORE_CONTROLLERS)
        with SqliteOutbox(agent.outbox, Clock()) as outbox:
            _fill(Filled(agent, outbox), failed)
        yield Stage(agent, jenkins, hivel)


@contextmanager
def world(folder: Path, *, web: str = SETTINGS, failed: int = 0) -> Iterator[World]:
    """The same with the daemon."""
    with stage(folder, web=web, failed=failed) as prepared, prepared.running() as played:
        yield played


def _play(jenkins: LocalJenkins) -> None:
    """Builds that the daemon finds by itself."""
    for job in ("live/shop", "live/shop-refused", "live/tests"):
        jenkins.add_job(job)
    parameters = {"ENVIRONMENT": "production", "NOTE": SCRIPT}
    jenkins.add_builds("live/shop", 6, repo=REPO, every=DAY, parameters=parameters)
    jenkins.add_builds("live/shop-refused", 1, repo=REPO, parameters=parameters)


def _fill(filled: Filled, failed: int) -> None:
    """What earlier days left."""
    for number in range(1, 61):
        result = "FAILURE" if number % 7 == 0 else "ABORTED" if number % 11 == 0 else "SUCCESS"
        environment = "production" if number % 3 else "staging"
        _built(
            filled, "deploy/shop", number, ended_at=NOW - (61 - number) * DAY, result=result, environment=environment
        )
    _built(filled, HOSTILE_JOB, 1, environment=SCRIPT, branch=BIDI)
    _built(filled, "deploy/" + LONG[:200], 1, branch=LONG)
    _built(filled, "deploy/far", 1, repo=LONG_REPO)
    _built(filled, "deploy/far", 2, repo=LONG_REPO, result="FAILURE")
    filled.settle()
    for number in range(1, 4):
        _built(filled, "deploy/refused", number)
    _built(filled, HOSTILE_JOB, 2, environment=SCRIPT, branch=BIDI)
    filled.settle(State.FAILED, http_status=422, verdict="failed", reason=REASON, answer=f'{{"error": "{SCRIPT}"}}')
    _built(filled, "deploy/none", 1, checkout=False)
    _built(filled, "deploy/old", 1)
    filled.settle(State.FAILED, http_status=400, verdict="failed", reason="HTTP 400: environment is required")
    old = filled.outbox.of_run(filled.run("deploy/old"))
    assert filled.outbox.discard(old, f"it was a test of {SCRIPT}") == [True]
    said = Report(provider="jenkins", status="SUCCESS", repo_url=REPO, branch="main", environment="production")
    filled.accept(report(jenkins_run("legacy", "deploy/held", 1), said, source="emit", at=NOW, principal="shop"))
    _many_failed(filled, failed)
    # Claimed and asked to wait: it stays pending for longer than any test takes.
    _built(filled, "deploy/waits", 1)
    filled.settle(
        State.PENDING, http_status=503, verdict="retry", reason="HTTP 503: try later", next_attempt_at=NOW + 2 * HOUR
    )


def _built(
    filled: Filled,
    job: str,
    number: int,
    *,
    checkout: bool = True,
    ended_at: int = NOW - MINUTE,
    branch: str = "main",
    environment: str = "production",
    repo: str = REPO,
    result: str = "SUCCESS",
) -> None:
    filled.built(
        job,
        number,
        started_at=ended_at - 4 * MINUTE,
        ended_at=ended_at,
        checkouts=(Checkout((repo,), (f"refs/remotes/origin/{branch}",), f"{number:040x}"),) if checkout else (),
        parameters={"ENVIRONMENT": environment},
        url="javascript:window.attacked=1" if job == HOSTILE_JOB else f"https://jenkins.example.com/job/x/{number}/",
        result=result,
    )


def _many_failed(filled: Filled, count: int) -> None:
    with filled.outbox.transaction():
        for number in range(1, count + 1):
            _built(filled, "many/failed", number)
    for _ in range(0, count, 100):
        filled.settle(State.FAILED, http_status=422, verdict="failed", reason="HTTP 422: unknown application")
