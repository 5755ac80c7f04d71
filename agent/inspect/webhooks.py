"""Webhooks for people: the last deliveries, and what a webhook lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.config.credentials import TokenError
from agent.inspect.findings import Finding, Level
from agent.model import times
from agent.outbox.hooks import Verdict  # noqa: TC001 - a field of a struct

if TYPE_CHECKING:
    from agent.config.settings import Settings, WebhookSettings
    from agent.outbox.hooks import HookDelivery
    from agent.outbox.interface import Outbox


class DeliveryView(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery for people. Times are RFC 3339."""

    at: str
    hook: str
    event: str
    verdict: Verdict
    reason: str
    deployment_id: str
    state: str
    delivery_id: str


# ---- deliveries


class HookStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A configured webhook and its last delivery with a valid signature; None: none is stored."""

    name: str
    platform: str
    path: str
    last_at: str | None = None
    last_verdict: Verdict | None = None
    last_reason: str = ""


def hook_statuses(settings: Settings, outbox: Outbox) -> list[HookStatus]:
    """Each configured webhook with its last delivery."""
    return [_status(hook, outbox) for hook in (() if settings.webhooks is None else settings.webhooks.hooks)]


def _status(hook: WebhookSettings, outbox: Outbox) -> HookStatus:
    last = next(iter(outbox.hook_deliveries(1, hook.name)), None)
    return HookStatus(
        name=hook.name,
        platform=hook.platform,
        path=f"/v1/hooks/{hook.name}",
        last_at=None if last is None else times.rfc3339(last.at),
        last_verdict=None if last is None else last.verdict,
        last_reason="" if last is None else last.reason,
    )


def deliveries(outbox: Outbox, limit: int, hook: str | None = None) -> list[DeliveryView]:
    """The last deliveries, newest first."""
    return [_view(each) for each in outbox.hook_deliveries(limit, hook)]


def _view(each: HookDelivery) -> DeliveryView:
    return DeliveryView(
        at=times.rfc3339(each.at), hook=each.hook, event=each.event, verdict=each.verdict, reason=each.reason,
        deployment_id=each.deployment_id, state=each.state, delivery_id=each.delivery_id,
    )  # fmt: skip


# ---- check


def webhooks(settings: Settings) -> list[Finding]:
    """What each webhook lacks; empty without webhooks."""
    if settings.webhooks is None:
        return []
    address, hooks = settings.webhooks.address, settings.webhooks.hooks
    found = []
    if address is None:
        words = "no platform can reach the webhooks: set [webhooks] listen, such as 127.0.0.1:9472 behind a proxy"
        found.append(Finding(Level.WARNING, "webhooks", words))
    if not hooks:
        found.append(Finding(Level.WARNING, "webhooks", "[webhooks] listen is set, but there is no [[webhook]]"))
    return found + [finding for hook in hooks for finding in _hook(hook, listens=address is not None)]


def _hook(hook: WebhookSettings, *, listens: bool) -> list[Finding]:
    subject = f"webhook {hook.name}"
    problems = [*_secrets(hook, subject), *_rules(hook, subject), *_repair(hook, subject)]
    if listens and not any(each.level is Level.ERROR for each in problems):
        problems.insert(0, Finding(Level.OK, subject, f"{hook.platform} can send deliveries to /v1/hooks/{hook.name}"))
    return problems


def _secrets(hook: WebhookSettings, subject: str) -> list[Finding]:
    problems = []
    for secret in hook.secrets:
        try:
            secret.reveal()
        except TokenError as error:
            problems.append(str(error))
    level = Level.ERROR if len(problems) == len(hook.secrets) else Level.WARNING
    return [Finding(level, subject, f"its secret cannot be read: {problem}") for problem in problems]


def _rules(hook: WebhookSettings, subject: str) -> list[Finding]:
    if hook.platform == "circleci" and not hook.rules:
        words = "its jobs and workflows have no environment: without [[webhook.rule]], all deliveries are ignored"
        return [Finding(Level.WARNING, subject, words)]
    refused = [rule for rule in hook.rules if hook.refuses_environment(rule.environment)]
    return [
        Finding(Level.WARNING, subject, f"the rule for {rule.name.text} has the environment {rule.environment}, "
                                        "which is not in environments: its deployments are ignored")
        for rule in refused
    ]  # fmt: skip


def _repair(hook: WebhookSettings, subject: str) -> list[Finding]:
    if hook.repair and hook.api_token is None:
        words = "repair asks the API of the platform, which requires a token: set api_token_file"
        return [Finding(Level.WARNING, subject, words)]
    if hook.api_token is not None and not hook.repair:
        words = "it has a token for the API, but repair names no project: missed deployments are not looked for"
        return [Finding(Level.WARNING, subject, words)]
    if hook.api_token is not None and hook.api_token.problem is not None:
        return [Finding(Level.WARNING, subject, f"missed deployments cannot be asked for: {hook.api_token.problem}")]
    if hook.platform.startswith("argo") and hook.repair:
        return [Finding(Level.WARNING, subject, "repair: Argo has no list of past deployments, and is not asked")]
    others = [each for each in hook.repair if hook.platform == "azure_devops" and not hook.is_only_project(each)]
    if others:
        words = (
            f"missed deployments of {others[0]} cannot be asked for, because webhooks have other ids: set projects = "
            f'["{others[0]}"] in a [[webhook]] of its own'
        )
        return [Finding(Level.WARNING, subject, words)]
    return []
