"""CircleCI: ``job-completed`` and ``workflow-completed``. A rule says which jobs and workflows are deployments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.deployments.systems.words import run_name
from agent.sources.webhooks.platforms.deployment import by_rule, time
from agent.sources.webhooks.values import Ignored, required

if TYPE_CHECKING:
    from agent.config.settings import WebhookSettings
    from agent.model.part import Part
    from agent.sources.webhooks.values import Delivery, Meaning


@dataclass(frozen=True)
class _Project:
    """``id``: as in the variables of a job. ``name``: for rules and for people."""

    id: str
    name: str


def read(delivery: Delivery, hook: WebhookSettings) -> Meaning:
    """The end of a job or workflow."""
    body = delivery.body
    event = delivery.event or body.text("type")
    if event == "job-completed":
        return _job(body, hook)
    if event == "workflow-completed":
        return _workflow(body, hook)
    if not event:
        raise ValueError("type is missing")
    return Ignored(f"the event {event!r:.60} is not the end of a job or workflow")


def _job(body: Part, hook: WebhookSettings) -> Meaning:
    project, job, workflow = _project(body), body.at("job"), body.at("workflow")
    name, within, job_number = required(job, "name"), workflow.text("name"), required(job, "number")
    report = {
        "provider": "circleci",
        "job": name,
        "build_number": job_number,
        "run": run_name("circleci", project.id, job_number),  # a job that is run again has a new number
        "status": required(job, "status"),
        "logs_url": workflow.text("url"),
        "start_time": time(job, "started_at"),
        "end_time": time(job, "stopped_at") or time(body, "happened_at"),
        **_source(body.at("pipeline")),
    }
    return by_rule(hook, project.name, (name, f"{within}/{name}"), report)


def _workflow(body: Part, hook: WebhookSettings) -> Meaning:
    project, workflow = _project(body), body.at("workflow")
    name = required(workflow, "name")
    report = {
        "provider": "circleci",
        "job": name,
        "build_number": body.number("pipeline.number"),
        "run": run_name("circleci", project.id, required(workflow, "id")),
        "status": required(workflow, "status"),
        "logs_url": workflow.text("url"),
        "start_time": time(workflow, "created_at"),
        "end_time": time(workflow, "stopped_at") or time(body, "happened_at"),
        **_source(body.at("pipeline")),
    }
    return by_rule(hook, project.name, (name,), report)


def _project(body: Part) -> _Project:
    """The slug is ``github/acme/shop``, but for GitHub App, GitLab and Bitbucket Data Center it has internal ids."""
    system, _, path = required(body, "project.slug").partition("/")
    if not path:
        raise ValueError(f"project.slug: {system!r:.60} is not a slug such as github/acme/shop")
    if system != "circleci":
        return _Project(path, path)
    name = "/".join(filter(None, [body.text("organization.name"), body.text("project.name")]))
    return _Project(required(body, "project.id"), name or path)


def _source(pipeline: Part) -> dict[str, str]:
    """Repository, branch and commit. GitHub App, GitLab and Bitbucket Data Center have them in the trigger."""
    vcs, git = pipeline.at("vcs"), pipeline.at("trigger_parameters.git")
    branch, tag = (vcs.text(name) or git.text(name) for name in ("branch", "tag"))
    # The "branch" of a pull request from a fork is pull/7.
    pull_request = branch.removeprefix("pull/") if branch.startswith("pull/") else ""
    return {
        "repo_url": vcs.text("target_repository_url") or git.text("checkout_url"),
        "branch": tag if pull_request else branch or tag,
        "commit_hash": vcs.text("revision") or git.text("checkout_sha"),
        "pr_number": pull_request if pull_request.isascii() and pull_request.isdigit() else "",
    }
