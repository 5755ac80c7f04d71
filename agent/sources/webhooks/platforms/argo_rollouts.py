"""Argo Rollouts: the event and the Rollout as JSON, sent by other-ci/argo-rollouts-notifications.yaml.

Argo Rollouts sends the Rollout as it was before the event (argoproj/argo-rollouts#3535), so its phase is not the
result: the template names the event. An event can repeat; the pod hash and the revision identify the update.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from agent.deployments.systems.argo import full_name
from agent.deployments.systems.words import run_name
from agent.model.times import rfc3339
from agent.sources.webhooks.platforms.deployment import ended, time
from agent.sources.webhooks.values import Ignored, required

if TYPE_CHECKING:
    from agent.config.settings import WebhookSettings
    from agent.model.part import Part
    from agent.sources.webhooks.values import Delivery, Meaning

# The phase that the Rollout has after the event.
_PHASES = {"completed": "Healthy", "aborted": "Degraded"}
_REVISION = "rollout.argoproj.io/revision"


def read(delivery: Delivery, hook: WebhookSettings) -> Meaning:
    """The end of an update."""
    event, rollout = delivery.body.text("event"), delivery.body.at("rollout")
    if event not in _PHASES:
        if event:
            return Ignored(f"the event {event!r:.60} is not the end of an update")
        raise ValueError("event is missing; use the templates of other-ci/argo-rollouts-notifications.yaml")
    if (kind := rollout.text("kind") or "Rollout") != "Rollout":
        raise ValueError(f"rollout.kind is {kind!r:.60}, not 'Rollout'")
    job, pod_hash = required(rollout, "metadata.name"), required(rollout, "status.currentPodHash")
    revision = rollout.at("metadata.annotations").member(_REVISION).scalar()
    project, containers = full_name(rollout), rollout.items("spec.template.spec.containers")
    images = [image for container in containers if (image := container.text("image"))]
    started, ended_at = _times(rollout)
    report = {
        "provider": "argo_rollouts",
        "job": job,
        "run": run_name("argo_rollouts", project, f"{pod_hash}@{revision}" if revision else pod_hash),
        "build_number": revision,
        "status": _PHASES[event],
        "environment": rollout.text("metadata.namespace"),
        "image": images[0] if len(images) == 1 else "",
        "logs_url": _page(hook, project),
        "start_time": started,
        "end_time": ended_at or rfc3339(delivery.received_at),
    }
    return ended(hook, project, report, hook.rule_of(project, job))


def _times(rollout: Part) -> tuple[str, str]:
    """Start and end of the update, as far as the Rollout has them.

    The condition ``Completed`` is False from the start of an update to its end, and True afterwards.
    """
    aborted = time(rollout, "status.abortedAt")
    for condition in rollout.items("status.conditions"):
        if condition.text("type") == "Completed":
            changed, is_over = time(condition, "lastTransitionTime"), condition.text("status") == "True"
            return ("", aborted or changed) if is_over else (changed, aborted)
    return "", aborted


def _page(hook: WebhookSettings, project: str) -> str:
    return f"{hook.pages_url}/rollout/{quote(project.encode('utf-8', 'replace'))}" if hook.pages_url else ""
