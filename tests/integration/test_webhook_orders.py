"""A pipeline that reports itself, and its platform's webhook: one deployment, whatever comes first, and how often."""

from __future__ import annotations

import json
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from agent.daemon.hooks import Arrived, store
from agent.deployments.systems.ci import fields, fields_of_resource
from agent.model.part import Part
from agent.outbox.hooks import HookDelivery, Verdict
from agent.sources.reports import accept as accepting
from agent.sources.webhooks.platforms import READERS
from agent.sources.webhooks.values import Delivery, Ended, Started
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


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("stage-state-changed.running.json", "stage-state-changed.completed.json"),
        ("release-deployment-started.json", "release-deployment-completed.json"),
    ],
)
@pytest.mark.parametrize("order", sorted(set(permutations(["start", "end", "end"]))), ids=" ".join)
def test_a_start_of_azure_devops_counts_before_and_after_the_end(
    outbox: SqliteOutbox, monkeypatch: pytest.MonkeyPatch, start: str, end: str, order: tuple[str, ...]
) -> None:
    monkeypatch.setattr(accepting, "refuse_far_times", lambda *_: None)  # the bodies are of other years
    reports = reports_of(settings_of(outbox.path), outbox)
    settings = hook("azure_devops", {"rules": [{"name": "**", "environment": "production", **SOURCE}]})
    bodies = {"start": start, "end": end}
    meanings = {}
    for name, file in bodies.items():
        case = next(case for case in CASES if (case.platform, case.file) == ("azure_devops", file))
        meanings[name] = READERS["azure_devops"](case.delivery, settings)
    assert isinstance(meanings["start"], Started)
    for number, name in enumerate(order):
        sent = Delivery(event="", id=str(number), body=Part(None, ""), received_at=outbox.clock.now_ms())
        [stored] = store(reports, [Arrived(settings, sent, meanings[name])])
        assert isinstance(stored, HookDelivery)
        assert stored.verdict in (Verdict.STORED, Verdict.STARTED)
    (deployment,) = deployments(outbox).values()
    assert deployment.content.started_at == meanings["start"].at
