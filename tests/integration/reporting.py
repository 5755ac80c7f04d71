"""The doors without a daemon: reports go to an ingest, and what became of them is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agent.config.credentials import Token
from agent.config.rules import Options
from agent.config.settings import DeliverySettings, HivelSettings, Settings
from agent.deployments.derive import Rules
from agent.deployments.provisional import shown_ids
from agent.ingest.ingest import Ingest
from agent.model import event as events
from agent.model.deployment import State, event_of
from agent.outbox.values import Settlement
from agent.sources.reports import accept
from agent.sources.reports.accept import Reports
from tests.deployments import rows

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from agent.config.rules import Rule
    from agent.config.settings import JenkinsSettings
    from agent.model.deployment import Deployment
    from agent.outbox.interface import Outbox
    from agent.outbox.values import Claimed, RunState

HOUR = 3_600_000


def settings_of(
    path: Path, *controllers: JenkinsSettings, rules: tuple[Rule, ...] = (), options: Options | None = None
) -> Settings:
    """What a daemon on the outbox at ``path`` would have."""
    return Settings(
        file=path, hivel=HivelSettings("http://hivel.test", Token("t")), controllers=controllers, rules=rules,
        options=options or Options(), outbox=path, delivery=DeliverySettings(), hold_for_ms=HOUR,
    )  # fmt: skip


def ingest_of(settings: Settings, outbox: Outbox) -> Ingest:
    """The way into the outbox under these settings."""
    polled = frozenset(controller.name for controller in settings.controllers)
    return Ingest(outbox, Rules(settings.rules, settings.options, polled), settings.hold_for_ms)


def reports_of(settings: Settings, outbox: Outbox) -> Reports:
    """What all doors give reports to."""
    return Reports(settings, ingest_of(settings, outbox))


def deployments(outbox: Outbox) -> dict[str, Deployment]:
    """All deployments by their ids as people see them, in the order in which they were enqueued."""
    found = list(reversed(rows(outbox)))
    held = outbox.load({row.run for row in found if not row.frozen})
    ids = {number: name for state in held.values() for number, name in provisional(state).items()}
    shown = {row.deployment_id or ids[row.number]: row for row in found}
    assert len(shown) == len(found), found
    return shown


def provisional(state: RunState) -> dict[int, str]:
    """As people see them: held deployments wait for the first controller's poller."""
    return shown_ids(state.facts, state.deployments, Rules((), Options(), frozenset(["main"])))


def ids(outbox: Outbox) -> list[str]:
    """The deployment_ids in the outbox in the order in which they were enqueued."""
    return list(deployments(outbox))


def states(outbox: Outbox) -> dict[str, str]:
    """The states of all deployments by their ids."""
    return {name: row.state.value for name, row in deployments(outbox).items()}


def event(outbox: Outbox, deployment_id: str) -> dict[str, Any]:
    """The event that Hivel gets of a deployment, or got."""
    made = event_of(deployment_id, deployments(outbox)[deployment_id].content)
    content: dict[str, Any] = msgspec.json.decode(events.encode(made))
    return content


def deliver(outbox: Outbox, *claimed: Claimed) -> None:
    """Settle everything that is due, or what was claimed before."""
    now = outbox.clock.now_ms()
    due = claimed or outbox.claim(99)
    outbox.settle([Settlement(each, State.DELIVERED, True, now, 1, 200, "delivered", "") for each in due])


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report of the deployment ``poison`` raises what nobody expects."""
    parse = accept.parse

    def raising(report: Any, controllers: tuple[JenkinsSettings, ...]) -> Any:
        if report.get("deployment_id") == "poison":
            raise KeyError("nobody expected it")
        return parse(report, controllers)

    monkeypatch.setattr(accept, "parse", raising)
