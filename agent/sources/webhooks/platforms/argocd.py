"""Argo CD: the Application as JSON, sent by Argo CD Notifications (other-ci/argocd-notifications.yaml)."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from agent.deployments.systems.argo import full_name, read_resource
from agent.sources.webhooks.platforms.deployment import ended, moment, time
from agent.sources.webhooks.values import Ignored

if TYPE_CHECKING:
    from agent.config.settings import WebhookRule, WebhookSettings
    from agent.model.part import Part
    from agent.sources.webhooks.values import Delivery, Meaning

_FAILED = ("Failed", "Error")
# A health this long after the sync (ms) is the one after the sync. Argo CD needs a few seconds to compute it. The
# trigger waits twice as long, so that the clocks may differ by half a minute.
SETTLED_MS = 30_000
_OLD = (
    f"status.health.status {{}} can be from before the sync, which ended less than {SETTLED_MS // 1000} s ago; use the "
    "trigger of other-ci/argocd-notifications.yaml, which waits for the health after the sync"
)


def read(delivery: Delivery, hook: WebhookSettings) -> Meaning:
    """The end of the last sync."""
    application = delivery.body
    fields = read_resource("argocd", application)
    project, state = full_name(application), application.at("status.operationState")
    # Read before anything is decided, so that a body of another shape is always refused.
    times = {"start_time": time(state, "startedAt"), "end_time": time(state, "finishedAt")}
    unfinished = _unfinished(application, delivery.received_at)
    unwanted = _unwanted(application, hook)
    if reason := unfinished or unwanted:
        return Ignored(reason)
    rule = hook.rule_of(project, fields["job"])
    report = {"provider": "argocd", **fields, **times, "logs_url": _page(hook, application)}
    return ended(hook, project, _without_chart(report, rule), rule)


def _unfinished(application: Part, received_at: int) -> str:
    """Why the sync has no result yet; "" if it has one. Argo CD sends the Application again when its state changes."""
    state, health = application.at("status.operationState"), application.at("status.health")
    phase, word = state.text("phase"), health.text("status")
    may_be_old = _may_be_old(state, health, received_at)
    if not state.text("startedAt"):
        return "the Application was never synced"
    if phase in _FAILED:
        return ""
    if phase != "Succeeded":
        return f"the sync is not over: status.operationState.phase is {phase or 'missing'}"
    if word not in ("Healthy", "Degraded"):
        return f"the health after the sync is not known yet: status.health.status is {word or 'missing'}"
    return _OLD.format(word) if may_be_old else ""


def _may_be_old(state: Part, health: Part, received_at: int) -> bool:
    """Whether the health can be that of before the sync. Its time does not change if the health is the same again."""
    finished, changed = moment(state, "finishedAt"), moment(health, "lastTransitionTime")
    if finished is None or (changed is not None and changed >= finished):
        return False
    return 0 <= received_at - finished < SETTLED_MS


def _unwanted(application: Part, hook: WebhookSettings) -> str:
    """Why the sync is not a deployment; "" if it is one."""
    operation = application.at("status.operationState.operation")
    sync = operation.at("sync")
    dry_run, resources = sync.member("dryRun").scalar(), sync.items("resources")
    healed = _is_self_heal(application, operation)
    if dry_run == "true":
        return "the sync was a dry run"
    if resources and not hook.partial:
        return "the sync was of selected resources; set partial = true in the webhook to report these"
    if healed and not hook.self_heal:
        return (
            "the sync repaired changes in the cluster (self-heal); set self_heal = true in the webhook to report these"
        )
    return ""


def _is_self_heal(application: Part, operation: Part) -> bool:
    """Whether an automatic sync deployed again what was deployed before. Newer versions of Argo CD count such syncs."""
    automated = operation.at("initiatedBy").member("automated").scalar() == "true"
    attempts = operation.number("sync.autoHealAttemptsCount") or "0"
    same = _deployed(application.at("status.operationState.syncResult")) == _before(application)
    return attempts.strip("0") != "" or (automated and same)


def _before(application: Part) -> tuple[object, ...] | None:
    """What was deployed before this sync, which is in the history too if it succeeded; None if it is not known."""
    started = application.text("status.operationState.startedAt")
    history = application.items("status.history")
    earlier = [entry for entry in history if entry.text("deployStartedAt") not in ("", started)]
    return _deployed(earlier[-1]) if earlier else None


def _deployed(part: Part) -> tuple[object, ...]:
    """Revisions and sources. An image that Argo CD Image Updater changed is in the source, not in the revision."""
    return tuple(part.member(name).value for name in ("revision", "revisions", "source", "sources"))


def _without_chart(report: dict[str, str], rule: WebhookRule | None) -> dict[str, str]:
    """Without the registry of a chart, which has no branch, if the rule names the repository of the code."""
    return {**report, "repo_url": ""} if "branch" not in report and rule is not None and rule.repo_url else report


def _page(hook: WebhookSettings, application: Part) -> str:
    if not hook.pages_url:
        return ""
    return f"{hook.pages_url}/applications/{quote(full_name(application).encode('utf-8', 'replace'))}"
