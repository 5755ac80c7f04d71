"""What a delivery of a webhook would become.

In a module of its own, because it loads the sources, and other verbs do not need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.deployments import content as contents
from agent.model import times
from agent.model.ids import limited_id, part_deployment_id, run_id
from agent.model.part import Part
from agent.model.report import ReportError, checked
from agent.outbox.hooks import Verdict
from agent.sources.reports.parse import parse
from agent.sources.webhooks.listener import decoded, meaning_of, payload_of
from agent.sources.webhooks.values import Delivery, Ended, Ignored, Invalid, Started

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.settings import Settings, WebhookSettings

# Events of GitHub by a member that only their bodies have.
_GITHUB = {
    "deployment_status": "deployment_status",
    "workflow_run": "workflow_run",
    "zen": "ping",
    "deployment": "deployment",
}


class HookPreview(msgspec.Struct, frozen=True, kw_only=True):
    """What a delivery would become. ``fields``: of the report, as the event gets them."""

    hook: str
    platform: str
    event: str
    verdict: Verdict
    reason: str = ""
    deployment_id: str = ""
    fields: dict[str, str] = {}


def preview(settings: Settings, hook: WebhookSettings, body: bytes, event: str | None, now_ms: int) -> HookPreview:
    """What a body would become. Nothing is stored, and no signature is required."""
    try:
        part = Part(decoded(payload_of(body) if body.startswith(b"payload=") else body), "")
    except ValueError as error:
        return _preview(hook, event or "", Verdict.REFUSED, reason=str(error))
    name = (_event_of(hook, part) if event is None else event).lower()
    match meaning_of(Delivery(event=name, id="", body=part, received_at=now_ms), hook):
        case Ended(report=report):
            return _ended(settings, hook, name, report, now_ms)
        case Started(at=at):
            reason = f"the start {times.rfc3339(at)} is remembered until the deployment ends"
            return _preview(hook, name, Verdict.STARTED, reason=reason)
        case Ignored(reason=reason):
            return _preview(hook, name, Verdict.IGNORED, reason=reason)
        case Invalid(reason=reason):
            return _preview(hook, name, Verdict.REFUSED, reason=reason)


def _ended(
    settings: Settings, hook: WebhookSettings, event: str, report: Mapping[str, str], now_ms: int
) -> HookPreview:
    fields = dict(report)
    try:
        parsed = parse(checked(fields), settings.controllers)
    except ReportError as error:
        return _preview(hook, event, Verdict.REFUSED, reason=str(error), fields=fields)
    said = parsed.said
    ended_at = said.ended_at or now_ms
    content, _ = contents.of_report(said, settings.options, (said.started_at or ended_at, ended_at))
    if content.problem is not None:
        return _preview(hook, event, Verdict.REFUSED, reason=f"invalid report: {content.problem}", fields=fields)
    parts = [said.environment] if said.environment else []
    name = limited_id(part_deployment_id(run_id(parsed.run), *parts))
    return _preview(hook, event, Verdict.STORED, deployment_id=name, fields=fields)


def _preview(
    hook: WebhookSettings, event: str, verdict: Verdict, *, reason: str = "", deployment_id: str = "",
    fields: Mapping[str, str] | None = None,
) -> HookPreview:  # fmt: skip
    return HookPreview(
        hook=hook.name, platform=hook.platform, event=event, verdict=verdict, reason=reason,
        deployment_id=deployment_id, fields=dict(fields or {}),
    )  # fmt: skip


def _event_of(hook: WebhookSettings, body: Part) -> str:
    """The event that a body probably is of, without its headers."""
    members = body.value if isinstance(body.value, dict) else {}
    if hook.platform == "github":
        return next((event for member, event in _GITHUB.items() if member in members), "")
    return str(members.get("type") or members.get("eventType") or "")
