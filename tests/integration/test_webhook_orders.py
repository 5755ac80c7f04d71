"""A pipeline that reports itself, and its platform's webhook: one deployment, whatever comes first, and how often."""

from __future__ import annotations

import json
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from agent.deployments.systems.ci import fields, fields_of_resource
from agent.sources.reports import accept as accepting
from agent.sources.webhooks.platforms import READERS
from agent.sources.webhooks.values import Ended
from tests.integration.reporting import deployments, reports_of, settings_of
from tests.unit.test_systems import AZURE_RELEASE, CIRCLECI
from tests.unit.webhook_cases import CASES, delivery, hook

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.settings import Platform
    from agent.outbox.sqlite.engine import SqliteOutbox

SOURCE = {"repo_url": "https://git.example.com/acme/shop", "branch": "main"}


def webhook(platform: Platform, file: str, environment: str) -> Mapping[str, str]:
    case = next(case for case in CASES if (case.platform, case.file) == (platform, file))
    rule = {"name": "**", "environment": environment, **SOURCE}
    found = READERS[platform](delivery(platform, case.body, case.received_at), hook(platform, {"rules": [rule]}))
    assert isinstance(found, Ended)
    return found.report


def emitted(platform: Platform) -> Mapping[str, str]:
    """What ``emit`` reports of the same run, in the environment that the vendor documents."""
    if platform == "argocd":
        body = next(case.body for case in CASES if case.file == "application.json")
        return fields_of_resource("argocd", json.dumps(body))
    if platform == "circleci":
        return fields("circleci", CIRCLECI | {"CIRCLE_BUILD_NUM": "6"}) | {"status": "success"}
    return {**SOURCE, **fields("azure_devops", AZURE_RELEASE)}


@pytest.mark.parametrize(
    ("platform", "file", "environment", "name"),
    [
        ("argocd", "application.json", "shop-production", "argocd:argocd/shop#2026-11-23T09:00:00Z:shop-production"),
        ("circleci", "job-completed.json", "staging", "circleci:acme/shop#6:staging"),
        ("azure_devops", "release-deployment-completed.json", "Prod EU",
         "azure_devops:acme/Shop#release-118/Prod EU:Prod EU"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("order", sorted(set(permutations(["emit", "webhook", "webhook"]))), ids=" ".join)
def test_a_report_and_a_webhook_of_one_run_are_one_deployment(
    outbox: SqliteOutbox,
    monkeypatch: pytest.MonkeyPatch,
    platform: Platform,
    file: str,
    environment: str,
    name: str,
    order: tuple[str, ...],
) -> None:
    monkeypatch.setattr(accepting, "refuse_far_times", lambda *_: None)  # the bodies are of other years
    reports = reports_of(settings_of(outbox.path), outbox)
    said = {"emit": emitted(platform), "webhook": webhook(platform, file, environment)}
    for source in order:
        taken = reports.take(said[source], source=source, at=outbox.clock.now_ms())
        assert taken.deployment_id == name
    assert list(deployments(outbox)) == [name]
