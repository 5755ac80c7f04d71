"""GitHub: deployments that jobs with ``environment:`` or other tools create, and by rule whole workflows.

https://docs.github.com/en/webhooks/webhook-events-and-payloads
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.deployments.systems.words import is_retry, run_name
from agent.model.git import branch_name
from agent.sources.webhooks.times import moment, required_moment, written
from agent.sources.webhooks.values import Ended, Ignored, Started, filled, required

if TYPE_CHECKING:
    from agent.config.settings import WebhookSettings
    from agent.model.part import Part
    from agent.sources.webhooks.values import Delivery, Meaning

PROVIDER = "github_actions"
_FINAL = ("success", "failure", "error")
# A workflow that waits for approval completes again afterwards.
_NO_END = ("action_required",)


def read(delivery: Delivery, hook: WebhookSettings) -> Meaning:
    """What a delivery means. Raises :class:`ValueError` with the field if the body has another shape."""
    body, action = delivery.body, delivery.body.text("action")
    if delivery.event == "ping":
        return Ignored("ping: the webhook works")
    if delivery.event not in ("deployment_status", "workflow_run"):
        return Ignored(f"event {delivery.event or '(none)'!r:.60} is not used; deployment_status and workflow_run are")
    if hook.refuses_project(project := required(body, "repository.full_name")):
        return Ignored(f"project {project} is not in projects of the webhook")
    if delivery.event == "workflow_run":
        if action != "completed":
            return Ignored(f"the workflow has not ended: action {action!r:.60}")
        return _workflow(body, project, hook)
    return _deployment(body, project, hook)


# ---- deployment_status


def _deployment(body: Part, project: str, hook: WebhookSettings) -> Meaning:
    state = required(body, "deployment_status.state")
    environment = body.text("deployment.environment") or required(body, "deployment_status.environment")
    if hook.refuses_environment(environment):
        return Ignored(f"environment {environment} is not in environments of the webhook")
    if body.at("deployment.transient_environment").value is True and not hook.transient:
        return Ignored(f"environment {environment} is transient; to report it, set transient = true")
    changed_at = required_moment(body, "deployment_status.created_at")
    key = f"{required(body, 'repository.html_url')}#{required(body, 'deployment.id')}"
    if state == "in_progress":
        return Started(key, changed_at)
    if state not in _FINAL:
        return Ignored(f"the deployment has not ended: state {state!r:.60}")
    started_at = moment(body, "check_run.started_at") or moment(body, "deployment.created_at") or changed_at
    return Ended(
        filled({
            "provider": PROVIDER,
            "run": _run(body, project),
            "job": body.text("check_run.name"),
            "build_number": body.number("workflow_run.run_number"),
            "status": state,
            "environment": environment,
            "repo_url": body.text("repository.html_url"),
            "branch": _branch(body),
            "commit_hash": body.text("deployment.sha"),
            "pr_number": _pull_request(body),
            "image": _image(body),
            "logs_url": _logs_url(body),
            "start_time": written(min(started_at, changed_at)),
            "end_time": written(changed_at),
        }),
        start=key,
    )  # fmt: skip


def _run(body: Part, project: str) -> str:
    """The name that ``emit`` gives to the same job, if the deployment was created by GitHub Actions."""
    run_id = body.number("workflow_run.id")
    if not run_id:
        return run_name(PROVIDER, project, f"deployment-{required(body, 'deployment.id')}")
    attempt = body.number("workflow_run.run_attempt")
    return run_name(PROVIDER, project, run_id, body.text("check_run.name"), attempt=attempt)


def _branch(body: Part) -> str:
    """The branch or tag. Tools can deploy a commit without naming its branch."""
    ref, commit = body.text("deployment.ref"), body.text("deployment.sha")
    return (
        branch_name(ref, commit=commit, is_name=not commit.startswith(ref))
        or branch_name(body.text("workflow_run.head_branch"), is_name=True)
        or body.text("repository.default_branch")
    )


def _image(body: Part) -> str:
    """Tools can send any payload with a deployment: an object, or text."""
    payload = body.at("deployment.payload").value
    image = payload.get("image") if isinstance(payload, dict) else None
    return image if isinstance(image, str) else ""


def _logs_url(body: Part) -> str:
    status = body.member("deployment_status")
    return status.text("log_url") or status.text("target_url") or body.text("workflow_run.html_url")


def _pull_request(body: Part) -> str:
    """The first of the run's pull requests. GitHub lists none of forks."""
    return next((each.number("number") for each in body.items("workflow_run.pull_requests")), "")


# ---- workflow_run


def _workflow(body: Part, project: str, hook: WebhookSettings) -> Meaning:
    run = body.member("workflow_run")
    names = [body.text("workflow.name") or run.text("name"), body.text("workflow.path") or run.text("path")]
    names.append(names[1].rpartition("/")[2])
    environment = next((found for name in names if name and (found := hook.environment_of(project, name))), "")
    if not environment:
        return Ignored(f"no rule of the webhook says to which environment workflow {names[0]!r:.100} deploys")
    if hook.refuses_environment(environment):
        return Ignored(f"environment {environment} is not in environments of the webhook")
    conclusion = required(body, "workflow_run.conclusion")
    if conclusion in _NO_END:
        return Ignored(f"the workflow has not ended: conclusion {conclusion!r:.60}")
    attempt = run.number("run_attempt")
    page = run.text("html_url")
    return Ended(
        filled({
            "provider": PROVIDER,
            "run": run_name(PROVIDER, project, required(body, "workflow_run.id"), attempt=attempt),
            "job": names[0],
            "build_number": run.number("run_number"),
            "status": conclusion,
            "environment": environment,
            "repo_url": required(body, "repository.html_url"),
            "branch": run.text("head_branch") or body.text("repository.default_branch"),
            "commit_hash": run.text("head_sha"),
            "pr_number": _pull_request(body),
            "logs_url": f"{page}/attempts/{attempt}" if page and is_retry(attempt) else page,
            "start_time": written(moment(run, "run_started_at") or moment(run, "created_at")),
            "end_time": written(required_moment(body, "workflow_run.updated_at")),
        })
    )  # fmt: skip
