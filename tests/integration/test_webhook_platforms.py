"""Argo CD, Argo Rollouts, CircleCI and Azure DevOps: a signed request to a real daemon becomes an event at Hivel.

`tests/integration/test_webhooks.py` has GitHub and GitLab.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from agent.model import times
from tests import webhooks
from tests.integration.hooked import Hooked
from tests.integration.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from agent.model.event import DeploymentEvent
    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.server import LocalServer

SECRET = "secret-of-a-webhook-0123456789"
RULE = (
    '[[webhook.rule]]\nname = "{}"\nenvironment = "production"\n'
    'repo_url = "https://git.example.com/shop"\nbranch = "main"\n'
)
PLATFORMS = ("argocd", "argo_rollouts", "circleci", "azure_devops")
RULES = {"argo_rollouts": "shop", "circleci": "build-and-test", "azure_devops": "*/build"}
CONFIGURATION = '[webhooks]\nlisten = "127.0.0.1:0"\n' + "".join(
    f'[[webhook]]\nname = "{name}"\nplatform = "{name}"\nsecret_file = "{name}.secret"\n'
    + (RULE.format(RULES[name]) if name in RULES else "")
    for name in PLATFORMS
)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")


@pytest.fixture
def daemon(jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path) -> Iterator[Hooked]:
    agent = Hooked.opened(tmp_path, jenkins=jenkins_server, hivel=hivel_server, extra=CONFIGURATION)
    for name in PLATFORMS:
        (tmp_path / f"{name}.secret").write_text(f"{SECRET}\n")
        (tmp_path / f"{name}.secret").chmod(0o600)
    process = agent.begin()
    yield agent
    process.kill()
    process.wait()


def recent(body: Any) -> Any:
    """The body with all its times moved, so that the last one was a minute ago."""
    text = json.dumps(body)
    last = max(times.parse_moment(each) for each in _TIME.findall(text))
    by = time.time_ns() // 1_000_000 - 60_000 - last
    return json.loads(_TIME.sub(lambda found: times.rfc3339(times.parse_moment(found[0]) + by), text))


def headers(platform: str, body: Any, secret: str = SECRET) -> dict[str, str]:
    """As the platform signs a delivery, or shows that it knows the secret."""
    if platform == "circleci":
        digest = hmac.new(secret.encode(), webhooks.encoded(body), hashlib.sha256).hexdigest()
        return {"circleci-event-type": body["type"], "circleci-signature": f"v1={digest}"}
    if platform == "azure_devops":
        return {"Authorization": f"Basic {base64.b64encode(f'hooks:{secret}'.encode()).decode()}"}
    return {"Authorization": f"Bearer {secret}"}


def send(daemon: Hooked, platform: str, body: Any, secret: str = SECRET) -> httpx.Response:
    return daemon.post(platform, body, headers(platform, body, secret))


ENDS = [
    ("argocd", "application", "success", "shop-production", "https://git.example.com/acme/shop.git",
     r"argocd:argocd/shop#.*:shop-production"),
    ("argo_rollouts", "completed", "success", "production", "https://git.example.com/shop",
     r"argo_rollouts:shop-production/shop#6f488cc88d@17:production"),
    ("argo_rollouts", "aborted", "failed", "production", "https://git.example.com/shop",
     r"argo_rollouts:shop-production/shop#5d5d5d5d5d@17:production"),
    ("circleci", "job-completed", "success", "production", "https://github.com/acme/shop",
     r"circleci:acme/shop#6:production"),
    ("azure_devops", "stage-state-changed.completed", "success", "production", "https://git.example.com/shop",
     r"azure_devops:acme/efd47cfd-d35f-40ba-b424-e1ab432fdc68#480/build:production"),
]  # fmt: skip


def test_a_signed_end_of_a_deployment_on_each_platform_reaches_hivel_once(daemon: Hooked, hivel: LocalHivel) -> None:
    for platform, file, status, environment, repo_url, name in ENDS:
        changes = {"rollout__status__currentPodHash": "5d5d5d5d5d"} if file == "aborted" else {}
        body = recent(webhooks.body(f"{platform}/{file}", **changes))
        refused = send(daemon, platform, body, secret="another-secret-0123456789")
        first, again = send(daemon, platform, body), send(daemon, platform, body)
        assert refused.status_code == 401
        assert (first.status_code, again.status_code) == (202, 202), first.text
        found = first.json()["deployment_id"]
        assert again.json()["deployment_id"] == found
        assert re.fullmatch(name, found)
        wait_until(partial(arrived, hivel, found), "the event has arrived")
        event = events(hivel)[found]
        assert (event.status, event.environment, event.repo_url) == (status, environment, repo_url)
        assert event.branch == "main"
    assert len(hivel.deployments()) == len(ENDS)


def arrived(hivel: LocalHivel, deployment_id: str) -> bool:
    return deployment_id in events(hivel)


def events(hivel: LocalHivel) -> dict[str, DeploymentEvent]:
    return {each.event.deployment_id: each.event for each in hivel.deployments()}


def test_the_start_of_a_stage_of_azure_devops_is_the_start_of_its_deployment(daemon: Hooked, hivel: LocalHivel) -> None:
    now = time.time_ns() // 1_000_000
    running = webhooks.body("azure_devops/stage-state-changed.running", createdDate=times.rfc3339(now - 300_000))
    completed = webhooks.body("azure_devops/stage-state-changed.completed", createdDate=times.rfc3339(now - 60_000))
    assert send(daemon, "azure_devops", running).status_code == 202
    assert send(daemon, "azure_devops", completed).status_code == 202
    wait_until(lambda: len(hivel.deployments()) == 1, "the event has arrived")
    event = hivel.deployments()[0].event
    assert (event.start_time, event.end_time) == (times.rfc3339(now - 300_000), times.rfc3339(now - 60_000))


IGNORED: list[tuple[str, str, dict[str, Any], str]] = [
    ("argocd", "application", {"status__operationState__phase": "Running"}, "the sync is not over"),
    ("argo_rollouts", "completed", {"event": "paused"}, "is not the end of an update"),
    ("circleci", "ping", {}, "is not the end of a job or workflow"),
    ("azure_devops", "run-state-changed", {}, "no [[webhook.rule]] of azure_devops matches shop-ci"),
]
REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    ("argocd", "application", {"status": []}, "status is a list, not an object"),
    ("argo_rollouts", "completed", {"rollout": "shop"}, "rollout is text, not an object"),
    ("circleci", "job-completed", {"job": None}, "job.name is missing"),
    ("azure_devops", "stage-state-changed.completed", {"resource": 7}, "resource is a number, not an object"),
]


def test_what_is_no_deployment_is_answered_with_the_reason_and_another_shape_with_the_field(
    daemon: Hooked, hivel: LocalHivel
) -> None:
    for platform, file, changes, reason in IGNORED:
        answer = send(daemon, platform, recent(webhooks.body(f"{platform}/{file}", **changes)))
        assert answer.status_code == 200, answer.text
        assert reason in answer.json()["ignored"]
    for platform, file, changes, field in REFUSED:
        answer = send(daemon, platform, webhooks.body(f"{platform}/{file}", **changes))
        assert answer.status_code == 400, answer.text
        assert field in answer.json()["error"]
    assert not hivel.deployments()
