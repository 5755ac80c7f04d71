"""What the JSON of a resource tells of a deployment: Argo CD's Application, Argo Workflows' Workflow."""

from __future__ import annotations

import json
from types import NoneType
from typing import TYPE_CHECKING

from agent.git import branch_name, is_commit
from agent.hook.systems import branch_of_target, first, run_name
from agent.status import normalise_argocd

if TYPE_CHECKING:
    from collections.abc import Callable

# Fields that a workflow's parameters tell, by the names that people give them ("-" and "_" are the same).
_PARAMETERS = {
    "repo_url": ("repo_url", "repository_url", "git_url", "repo", "repository", "git_repo"),
    "branch": ("branch", "git_branch"),
    "commit_hash": ("commit_hash", "commit_sha", "git_commit", "commit", "sha"),
    "environment": ("environment", "deploy_env", "deploy_environment", "env"),
    "image": ("image",),
    "pr_number": ("pr_number", "pull_request"),
}


def read(system: str, text: str) -> dict[str, str]:
    """The fields of a report; "" is what the resource does not tell.

    Raises :class:`ValueError` that says what is wrong with the JSON.
    """
    if system not in _RESOURCES:
        raise ValueError(f"only {' and '.join(_RESOURCES)} are read from the JSON of a resource, not {system}")
    kind, fields_of = _RESOURCES[system]
    return fields_of(_resource(kind, text))


def _application(resource: object) -> dict[str, str]:
    """Argo CD's Application: what its last sync deployed."""
    phase, health = _text(resource, "status.operationState.phase"), _text(resource, "status.health.status")
    started = _text(resource, "status.operationState.startedAt")
    name, namespace = _text(resource, "metadata.name"), _text(resource, "metadata.namespace")
    cluster = _text(resource, "spec.destination.name")
    images = _list(resource, "status.summary.images")
    return {
        "job": name,
        # A sync is known by its start: an Application has one at a time, and often several of one revision.
        "run": run_name("argocd", _path(namespace, name), started),
        "status": normalise_argocd(phase, health).value if phase or health else "",
        # in-cluster is how Argo CD calls the cluster that it runs in itself, whatever is deployed there.
        "environment": (cluster if cluster != "in-cluster" else "") or _text(resource, "spec.destination.namespace"),
        "image": images[0] if len(images) == 1 and isinstance(images[0], str) else "",
        "start_time": started,
        "end_time": _text(resource, "status.operationState.finishedAt"),
        **_application_source(resource),
    }


def _application_source(resource: object) -> dict[str, str]:
    sources = _list(resource, "spec.sources")
    revisions: list[object] = []
    index = 0
    if sources:
        # A chart is in a registry and not in git; a source with a "ref" only lends its files to the others.
        told = [(bool(_text(source, "chart")), bool(_text(source, "ref"))) for source in sources]
        index = told.index(min(told))
        revisions = _list(resource, "status.operationState.syncResult.revisions") or _list(
            resource, "status.sync.revisions"
        )
    source = sources[index] if sources else _member_of(resource, "spec.source")
    # What was deployed; the revision of status.sync may be a newer one that waits.
    revision = (
        _as_text(revisions[index], "a revision")
        if len(revisions) > index
        else _text(resource, "status.operationState.syncResult.revision") or _text(resource, "status.sync.revision")
    )
    is_chart = bool(_text(source, "chart"))
    return {
        "repo_url": _text(source, "repoURL"),
        "branch": "" if is_chart else branch_of_target(_text(source, "targetRevision")),
        "commit_hash": "" if is_chart else revision,
    }


def _workflow(resource: object) -> dict[str, str]:
    """Argo Workflows' Workflow; repository, branch and the like are parameters, if it has them."""
    name, namespace = _text(resource, "metadata.name"), _text(resource, "metadata.namespace")
    uid, started = _text(resource, "metadata.uid"), _text(resource, "status.startedAt")
    labels = _member_of(resource, "metadata.labels")
    template = _labelled(labels, "workflows.argoproj.io/cron-workflow", "workflows.argoproj.io/workflow-template")
    return {
        "job": template or name,
        # A workflow that is tried again keeps its uid, and has a new start.
        "run": run_name(
            "argo_workflows",
            _path(namespace, name),
            f"{uid}@{started}" if uid and started else "",
        ),
        "status": _text(resource, "status.phase"),
        "start_time": started,
        "end_time": _text(resource, "status.finishedAt"),
        **_parameters(resource),
    }


def _parameters(resource: object) -> dict[str, str]:
    values: dict[str, str] = {}
    # A workflow made of a template has the template's own values in its status, and in its spec what was given.
    template = _list(resource, "status.storedWorkflowTemplateSpec.arguments.parameters")
    for parameter in template + _list(resource, "spec.arguments.parameters"):
        name = _text(parameter, "name").lower().replace("-", "_")
        values[name] = _as_text(_member_of(parameter, "value"), f"the value of the parameter {name}")
    told = {field: first(values, *names) for field, names in _PARAMETERS.items()}
    revision = first(values, "revision", "git_revision")
    if is_commit(revision):
        told["commit_hash"] = told["commit_hash"] or revision
    told["branch"] = branch_name(told["branch"] or revision) or ""
    return told


def _resource(kind: str, text: str) -> object:
    try:
        resource = json.loads(text)
    except RecursionError:
        raise ValueError(f"this is no {kind}: the JSON is nested too deeply") from None
    except ValueError as error:
        hint = "it is empty" if not text.strip() else str(error)
        raise ValueError(f"this is not the JSON of one {kind}: {hint}") from None
    if not isinstance(resource, dict):
        raise _wrong(f"this is no {kind}: the JSON", resource, "an object")
    # Argo's own command lines leave out the kind.
    found = _text(resource, "kind") or kind
    if found != kind:
        raise ValueError(f"this is no {kind}: its kind is {found!r}; give the JSON of one {kind}")
    if not _text(resource, "metadata.name"):
        raise ValueError(f"this is no {kind}: it has no metadata.name")
    return resource


def _path(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


def _member_of(value: object, path: str) -> object:
    """What is at a path of names in nested objects; None where there is nothing."""
    for name in path.split("."):
        if value is None:
            return None
        if not isinstance(value, dict):
            raise _wrong(f"what holds {name} in {path}", value, "an object")
        value = value.get(name)
    return value


def _text(value: object, path: str) -> str:
    found = _member_of(value, path)
    if found is None or isinstance(found, str):
        return found or ""
    raise _wrong(path, found, "a text")


def _list(value: object, path: str) -> list[object]:
    found = _member_of(value, path)
    if found is None or isinstance(found, list):
        return found or []
    raise _wrong(path, found, "a list")


def _labelled(labels: object, *names: str) -> str:
    """The first label that there is. Their names have dots in them."""
    if labels is None:
        return ""
    if not isinstance(labels, dict):
        raise _wrong("metadata.labels", labels, "an object")
    return next((_as_text(labels[name], f"the label {name}") for name in names if labels.get(name)), "")


def _as_text(value: object, what: str) -> str:
    """A scalar as text: Argo takes numbers and booleans where it wants a text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, str | int | float):
        return "" if value is None else str(value)
    raise _wrong(what, value, "a text")


def _wrong(what: str, found: object, wanted: str) -> ValueError:
    kinds: dict[type, str] = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        NoneType: "null",
    }
    return ValueError(f"{what} is {kinds.get(type(found), 'a number')}, not {wanted}")


_RESOURCES: dict[str, tuple[str, Callable[[object], dict[str, str]]]] = {
    "argocd": ("Application", _application),
    "argo_workflows": ("Workflow", _workflow),
}
