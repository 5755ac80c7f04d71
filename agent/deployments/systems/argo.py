"""Reads the fields of a report from the JSON of Argo CD's Application and Argo Workflows' Workflow."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from agent.deployments.systems.words import branch_of_target, first, run_name
from agent.model.git import branch_name, is_commit
from agent.model.part import Part
from agent.model.status import normalise_argocd

if TYPE_CHECKING:
    from collections.abc import Callable

# Fields of a report and the usual names of workflow parameters for them ("-" and "_" are equal).
_PARAMETERS = {
    "repo_url": ("repo_url", "repository_url", "git_url", "repo", "repository", "git_repo"),
    "branch": ("branch", "git_branch"),
    "commit_hash": ("commit_hash", "commit_sha", "git_commit", "commit", "sha"),
    "environment": ("environment", "deploy_env", "deploy_environment", "env"),
    "image": ("image",),
    "pr_number": ("pr_number", "pull_request"),
}


def read(system: str, text: str) -> dict[str, str]:
    """The fields of a report; "" means unknown.

    Raises :class:`ValueError` with what is wrong with the JSON.
    """
    if system not in _RESOURCES:
        raise ValueError(f"the JSON of a resource can be read for {' and '.join(_RESOURCES)} only, not for {system}")
    kind, _ = _RESOURCES[system]
    try:
        resource = json.loads(text)
    except RecursionError:
        raise ValueError(f"this is not the JSON of one {kind}: it is nested too deeply") from None
    except ValueError as error:
        hint = "it is empty" if not text.strip() else str(error)
        raise ValueError(f"this is not the JSON of one {kind}: {hint}") from None
    return read_resource(system, Part(resource, ""))


def read_resource(system: str, resource: Part) -> dict[str, str]:
    """The fields of a report from decoded JSON, as :func:`read`."""
    kind, fields_of = _RESOURCES[system]
    # The output of Argo's own command-line tools lacks the kind.
    found = resource.text("kind") or kind
    if found != kind:
        raise ValueError(f"this is not the JSON of one {kind}: its kind is {found!r:.60}")
    if not resource.text("metadata.name"):
        raise ValueError(f"this is not the JSON of one {kind}: it has no metadata.name")
    return fields_of(resource)


def full_name(resource: Part) -> str:
    """The namespace and name of a resource: ``argocd/shop``."""
    return "/".join(filter(None, [resource.text("metadata.namespace"), resource.text("metadata.name")]))


# ---- Argo CD


def _application(resource: Part) -> dict[str, str]:
    """What the last sync deployed."""
    sync, health = resource.at("status.operationState"), resource.text("status.health.status")
    phase, started = sync.text("phase"), sync.text("startedAt")
    cluster = resource.text("spec.destination.name")
    images = resource.items("status.summary.images")
    return {
        "job": resource.text("metadata.name"),
        # A sync is identified by its start: an Application runs one at a time, and often several for one revision.
        "run": run_name("argocd", full_name(resource), started),
        "status": normalise_argocd(phase, health).value if phase or health else "",
        # Argo CD calls the cluster that it runs in "in-cluster", which says nothing about the environment.
        "environment": (cluster if cluster != "in-cluster" else "") or resource.text("spec.destination.namespace"),
        "image": images[0].scalar() if len(images) == 1 else "",
        "start_time": started,
        "end_time": sync.text("finishedAt"),
        **_source_and_revision(resource),
    }


def _source_and_revision(resource: Part) -> dict[str, str]:
    """Repository, branch and commit of the last finished sync. The revision in status.sync may not be deployed yet."""
    deployed, newest = resource.at("status.operationState.syncResult"), resource.at("status.sync")
    if sources := resource.items("spec.sources"):
        # A chart comes from a registry, not from git. A source with a "ref" only provides files for the others.
        index, source = min(
            enumerate(sources), key=lambda each: (bool(each[1].text("chart")), bool(each[1].text("ref")))
        )
        revisions = deployed.items("revisions") or newest.items("revisions")
        revision = revisions[index].scalar() if index < len(revisions) else ""
    else:
        source = resource.at("spec.source")
        revision = deployed.text("revision") or newest.text("revision")
    if source.text("chart"):  # its revision is a version
        return {"repo_url": source.text("repoURL")}
    return {
        "repo_url": source.text("repoURL"),
        "branch": branch_of_target(source.text("targetRevision")),
        "commit_hash": revision,
    }


# ---- Argo Workflows


def _workflow(resource: Part) -> dict[str, str]:
    """The whole workflow. Repository, branch and so on come from parameters, if there are any."""
    uid, started = resource.text("metadata.uid"), resource.text("status.startedAt")
    labels = resource.at("metadata.labels")
    return {
        "job": labels.member("workflows.argoproj.io/cron-workflow").scalar()
        or labels.member("workflows.argoproj.io/workflow-template").scalar()
        or resource.text("metadata.name"),
        # A retried workflow keeps its uid and has a new start.
        "run": run_name("argo_workflows", full_name(resource), f"{uid}@{started}" if uid and started else ""),
        "status": resource.text("status.phase"),
        "start_time": started,
        "end_time": resource.text("status.finishedAt"),
        **_parameters(resource),
    }


def _parameters(resource: Part) -> dict[str, str]:
    # A workflow from a template has the template's values in its status, and the given ones in its spec.
    template = resource.items("status.storedWorkflowTemplateSpec.arguments.parameters")
    values: dict[str, str] = {}
    for parameter in template + resource.items("spec.arguments.parameters"):
        if value := parameter.at("value").scalar():
            values[parameter.text("name").lower().replace("-", "_")] = value
    told = {field: first(values, *names) for field, names in _PARAMETERS.items()}
    revision = first(values, "revision", "git_revision")
    if is_commit(revision):
        told["commit_hash"] = told["commit_hash"] or revision
    told["branch"] = branch_name(told["branch"] or revision) or ""
    return told


_RESOURCES: dict[str, tuple[str, Callable[[Part], dict[str, str]]]] = {
    "argocd": ("Application", _application),
    "argo_workflows": ("Workflow", _workflow),
}
