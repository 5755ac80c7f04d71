"""A workflow of GitHub that a rule makes a deployment, and whose jobs have deployments of their own."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest

from agent.config.rules import Pattern
from agent.config.settings import WebhookRule
from agent.daemon.hooks import Arrived, store
from agent.model.part import Part
from agent.outbox.hooks import HookDelivery, Verdict
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.sources.webhooks.platforms.github import read
from agent.sources.webhooks.values import Delivery
from tests import webhooks
from tests.integration.reporting import reports_of, settings_of
from tests.integration.support import NOON, FakeClock
from tests.integration.test_webhook_listener import GITHUB, deployment_status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOOK = replace(GITHUB, rules=(WebhookRule(Pattern.parse("**"), Pattern.parse("Deploy"), "production"),))
RUN = 289782451
WORKFLOW = f"github_actions:acme/shop#{RUN}:production"


class World:
    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.outbox = SqliteOutbox(folder / "outbox.db", self.clock)
        self.reports = reports_of(settings_of(folder / "outbox.db"), self.outbox)

    def arrives(self, event: str, body: Any) -> HookDelivery:
        self.clock.advance(ms=1_000)
        delivery = Delivery(event, "", Part(body, ""), self.clock.now_ms())
        [noted] = store(self.reports, [Arrived(HOOK, delivery, read(delivery, HOOK))])
        assert isinstance(noted, HookDelivery)
        return noted

    def job(self, name: str = "deploy", environment: str = "production", attempt: int = 1) -> HookDelivery:
        number = crc32(f"{name} {environment}".encode())
        return self.arrives("deployment_status", deployment_status(
            check_run__name=name, deployment__environment=environment, deployment__id=number,
            workflow_run__run_attempt=attempt,
        ))  # fmt: skip

    def workflow(self, attempt: int = 1) -> HookDelivery:
        return self.arrives("workflow_run", webhooks.body(
            "github/workflow_run.completed", workflow_run__id=RUN, workflow_run__run_attempt=attempt,
            workflow_run__run_started_at=webhooks.at(NOON - 600_000),
            workflow_run__updated_at=webhooks.at(NOON - 30_000),
        ))  # fmt: skip

    def ids(self) -> list[str | None]:
        return sorted(str(each.deployment_id) for each in self.outbox.all_deployments())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    yield found
    found.outbox.close()


def test_the_workflow_is_ignored_after_its_job(world: World) -> None:
    name = f"github_actions:acme/shop#{RUN}/deploy:production"
    assert world.job().deployment_id == name
    noted = world.workflow()
    assert (noted.verdict, noted.reason) == (
        Verdict.IGNORED, "jobs of this workflow run reported deployments to production",
    )  # fmt: skip
    assert world.ids() == [name]


def test_a_job_after_its_workflow_is_the_same_deployment(world: World) -> None:
    assert world.workflow().deployment_id == WORKFLOW
    for _ in range(2):
        assert world.job().deployment_id == WORKFLOW
    assert world.ids() == [WORKFLOW]
    assert world.workflow().verdict is Verdict.STORED, "repeated"
    assert world.ids() == [WORKFLOW]


@pytest.mark.parametrize("order", list(permutations(("deploy (eu)", "deploy (us)", ""))))
def test_several_jobs_and_their_workflow_are_as_many_deployments_as_jobs(world: World, order: tuple[str, ...]) -> None:
    for name in order:
        world.job(name) if name else world.workflow()
    assert len(world.ids()) == 2


def test_jobs_for_other_environments_and_other_attempts_change_nothing(world: World) -> None:
    world.job(environment="staging")
    world.job(attempt=2)
    assert world.workflow().deployment_id == WORKFLOW
    assert len(world.ids()) == 3
