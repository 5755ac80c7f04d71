"""GitLab: deployments, and by rule pipelines and jobs.

https://docs.gitlab.com/user/project/integrations/webhook_events/
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agent.deployments.systems.words import run_name
from agent.model.git import branch_name
from agent.sources.webhooks.times import moment, required_moment, written
from agent.sources.webhooks.values import Ended, Ignored, Started, filled, required

if TYPE_CHECKING:
    from agent.config.settings import WebhookSettings
    from agent.model.part import Part
    from agent.sources.webhooks.values import Delivery, Meaning

PROVIDER = "gitlab_ci"
_FINAL = ("success", "failed", "canceled")
# Longer times in the queue are not believed.
_LONGEST_QUEUED_S = 30 * 86_400


def read(delivery: Delivery, hook: WebhookSettings) -> Meaning:
    """What a delivery means. Raises :class:`ValueError` with the field if the body has another shape."""
    body = delivery.body
    kind = body.text("object_kind")
    if not kind and not body.text("event_name"):
        raise ValueError(
            "object_kind is missing: the agent reads GitLab's own bodies; remove the custom webhook template"
        )
    reader = {"deployment": _deployment, "build": _job, "pipeline": _pipeline}.get(kind)
    if reader is None:
        return Ignored(f"event {kind or delivery.event!r:.60} is not used; deployments, jobs and pipelines are")
    project = _project(body)
    if hook.refuses_project(project):
        return Ignored(f"project {project} is not in projects of the webhook")
    return reader(body, project, hook)


def _project(body: Part) -> str:
    """The full path. Older versions send it only in the address of the project."""
    path = body.text("project.path_with_namespace") or urlsplit(body.text("repository.homepage")).path.strip("/")
    return path or required(body, "project.path_with_namespace")


def _page(body: Part) -> str:
    return body.text("project.web_url") or body.text("repository.homepage") or required(body, "project.web_url")


def _refused(environment: str, hook: WebhookSettings) -> Ignored | None:
    if hook.refuses_environment(environment):
        return Ignored(f"environment {environment} is not in environments of the webhook")
    return None


def _start_of_job(body: Part, job: str) -> str:
    return f"{_page(body)}#{job}"


# ---- Deployment Hook


def _deployment(body: Part, project: str, hook: WebhookSettings) -> Meaning:
    status, environment = required(body, "status"), required(body, "environment")
    if (refused := _refused(environment, hook)) is not None:
        return refused
    changed_at = required_moment(body, "status_changed_at")
    job = body.number("deployable_id")  # none: created by the API
    name = job or f"deployment-{required(body, 'deployment_id')}"
    if status == "running":
        return Started(_start_of_job(body, name), changed_at)
    if status not in _FINAL:
        return Ignored(f"the deployment has not ended: status {status!r:.60}")
    return Ended(
        filled({
            "provider": PROVIDER,
            "run": run_name(PROVIDER, project, name),
            "build_number": job,
            "status": status,
            "environment": environment,
            "repo_url": _page(body),
            "branch": _branch(body.text("ref"), body),
            "commit_hash": body.text("commit_url").rstrip("/").rpartition("/")[2],
            "logs_url": body.text("deployable_url"),
            "end_time": written(changed_at),
        }),
        start=_start_of_job(body, name),
    )  # fmt: skip


def _branch(ref: str, body: Part) -> str:
    """The branch or tag. Before 2025, deployments had none."""
    return branch_name(ref, is_name=True) or body.text("project.default_branch")


# ---- Job Hook


def _job(body: Part, project: str, hook: WebhookSettings) -> Meaning:
    """By rule a deployment. Without a rule, the exact start of a deployment that has a Deployment Hook of its own."""
    name, status, job = required(body, "build_name"), required(body, "build_status"), required(body, "build_id")
    started_at = moment(body, "build_started_at")
    environment = hook.environment_of(project, name)
    if not environment:
        if body.text("environment.name") and started_at is not None:
            return Started(_start_of_job(body, job), started_at)
        return Ignored(f"no rule of the webhook says to which environment job {name!r:.100} deploys")
    if (refused := _refused(environment, hook)) is not None:
        return refused
    if body.text("environment.action") in ("stop", "prepare", "verify", "access"):
        return Ignored(
            f"job {name!r:.100} does not deploy: its environment has action {body.text('environment.action')}"
        )
    if status not in _FINAL:
        return Ignored(f"the job has not ended: build_status {status!r:.60}")
    page = _page(body)
    return Ended(
        filled({
            "provider": PROVIDER,
            "run": run_name(PROVIDER, project, job),
            "job": name,
            "build_number": job,
            "status": status,
            "environment": environment,
            "repo_url": page,
            "branch": _branch(body.text("ref"), body),
            "commit_hash": body.text("sha"),  # commit.id is the number of the pipeline
            "logs_url": f"{page}/-/jobs/{job}",
            "start_time": written(started_at),
            "end_time": written(required_moment(body, "build_finished_at")),
        })
    )  # fmt: skip


# ---- Pipeline Hook


def _pipeline(body: Part, project: str, hook: WebhookSettings) -> Meaning:
    pipeline = body.member("object_attributes")
    name = pipeline.text("name") or "pipeline"
    status, number = required(body, "object_attributes.status"), required(body, "object_attributes.id")
    environment = hook.environment_of(project, name)
    if not environment:
        return Ignored(f"no rule of the webhook says to which environment pipeline {name!r:.100} deploys")
    if (refused := _refused(environment, hook)) is not None:
        return refused
    if status not in _FINAL:
        return Ignored(f"the pipeline has not ended: status {status!r:.60}")
    page = _page(body)
    started_at = required_moment(body, "object_attributes.created_at")
    queued = pipeline.member("queued_duration").value
    queued_ms = round(queued * 1000) if isinstance(queued, int | float) and 0 <= queued <= _LONGEST_QUEUED_S else 0
    return Ended(
        filled({
            "provider": PROVIDER,
            "run": run_name(PROVIDER, project, f"pipeline-{number}"),
            "job": name,
            "build_number": pipeline.number("iid") or number,
            "status": status,
            "environment": environment,
            "repo_url": page,
            "branch": body.text("merge_request.source_branch") or _branch(pipeline.text("ref"), body),
            "commit_hash": pipeline.text("sha"),
            "pr_number": body.number("merge_request.iid"),
            "logs_url": pipeline.text("url") or f"{page}/-/pipelines/{number}",
            "start_time": written(started_at + queued_ms),
            "end_time": written(required_moment(body, "object_attributes.finished_at")),
        })
    )  # fmt: skip
