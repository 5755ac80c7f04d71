"""Azure DevOps: runs of one pipeline with one stage each, and deployments of classic releases.

Written from the documentation of the API and of the service hooks. Webhooks know their project by its GUID, and nothing
of branch and commit.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from agent.model.times import parse_moment, rfc3339
from agent.sandbox.platforms.model import Deployed, Page, Webhook, uuid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SERVER = "https://azure.example.test"
_PIPELINE = "shop-ci"
_RESULTS = {"success": "succeeded", "failed": "failed", "canceled": "canceled"}
_PATH = re.compile(r"/([^/]+/[^/]+)/_apis/(build/builds|release/deployments)(?:/(\d+)(/timeline)?)?")


def answer(path: str, query: Mapping[str, str], deployed: Sequence[Deployed]) -> object | None:
    """The JSON of a page; None: it does not exist."""
    found = _PATH.fullmatch(path)
    mine = [each for each in deployed if found and unquote(found[1]) in (each.project, _by_guid(each.project))]
    if found is None or not mine:
        return None
    if found[2] == "release/deployments":
        return None if found[3] else _releases([each for each in mine if not each.by_job], query)
    runs = [each for each in mine if each.by_job]
    if found[3] is None:
        return _builds(runs, query)
    one = next((each for each in runs if each.run == int(found[3])), None)
    if one is None:
        return None
    return {"records": [job_record(one), stage(one)]} if found[4] else build(one)


def _builds(runs: Sequence[Deployed], query: Mapping[str, str]) -> Page:
    is_over = query.get("statusFilter") == "completed"
    since = parse_moment(query.get("minTime", "1970-01-01"))
    chosen = [each for each in runs if (each.ended_at is not None) == is_over and each.changed_at >= since]
    return _page(chosen, query, key=lambda each: (each.changed_at, each.number), made=build)


def _releases(deployed: Sequence[Deployed], query: Mapping[str, str]) -> Page:
    since = parse_moment(query.get("minModifiedTime", "1970-01-01"))
    chosen = [each for each in deployed if each.changed_at >= since]
    return _page(chosen, query, key=lambda each: (0, each.number), made=release_deployment)


def _page(
    chosen: Sequence[Deployed],
    query: Mapping[str, str],
    *,
    key: Callable[[Deployed], tuple[int, int]],
    made: Callable[[Deployed], object],
) -> Page:
    """In the order of the key. The token is the key of the next one."""
    first = tuple(int(each) for each in query.get("continuationToken", "0-0").split("-"))
    rest = sorted((each for each in chosen if key(each) >= first), key=key)
    size = min(int(query.get("$top", "50")), 200)
    headers = {"x-ms-continuationtoken": "{}-{}".format(*key(rest[size]))} if len(rest) > size else {}
    return Page({"count": len(rest[:size]), "value": [made(each) for each in rest[:size]]}, headers)


def webhooks(each: Deployed) -> list[Webhook]:
    """The service hooks of the start and the end of a stage, or of a deployment of a release."""
    if not each.by_job:
        return _release_webhooks(each)
    ended = [] if each.ended_at is None else [("completed", each.ended_at, {"result": _RESULTS[each.outcome]})]
    return [_stage_webhook(each, *word) for word in (("running", each.started_at, {}), *ended)]


def _stage_webhook(each: Deployed, state: str, at: int, result: Mapping[str, str]) -> Webhook:
    links = {"web": {"href": _page_of(each)}}
    resource = {
        "stage": {"id": stage(each)["id"], "name": each.job, "displayName": stage(each)["name"], "state": state}
        | {"_links": links, **result},
        "run": {"id": each.run, "name": _build_number(each)},
        "pipeline": _definition(each),
    }
    return _webhook(each, "ms.vss-pipelines.stage-state-changed-event", resource, at)


def _release_webhooks(each: Deployed) -> list[Webhook]:
    of = release_deployment(each)
    environment = {
        "id": each.number,
        "name": each.environment,
        "release": {name: value for name, value in of["release"].items() if name != "artifacts"},
        "releaseDefinition": of["releaseDefinition"],
    }
    common = {"project": {"name": each.project.partition("/")[2]}}
    started = common | {"environment": environment | {"status": "inProgress"}}
    sent = [_webhook(each, "ms.vss-release.deployment-started-event", started, each.started_at)]
    if each.ended_at is not None:
        status = _RESULTS[each.outcome].replace("failed", "rejected")
        ended = common | {"environment": environment | {"status": status}, "deployment": of}
        sent.append(_webhook(each, "ms.vss-release.deployment-completed-event", ended, each.ended_at))
    return sent


def _webhook(each: Deployed, event: str, resource: object, at: int) -> Webhook:
    body = {
        "id": uuid("azure", event, each.number, at),
        "eventType": event,
        "resource": resource,
        "createdDate": rfc3339(at),
    }
    return Webhook({"User-Agent": "VSServices/sandbox"}, body)


def _by_guid(project: str) -> str:
    return f"{project.partition('/')[0]}/{uuid('project', project)}"


def _page_of(each: Deployed) -> str:
    return f"{_SERVER}/{_by_guid(each.project)}/_build/results?buildId={each.run}"


def _build_number(each: Deployed) -> str:
    return f"20261123.{each.number}"


def _definition(each: Deployed) -> dict[str, Any]:
    url = f"{_SERVER}/{_by_guid(each.project)}/_apis/pipelines/7?revision=2"
    return {"id": 7, "name": _PIPELINE, "url": url}


def build(each: Deployed) -> dict[str, Any]:
    over = {} if each.ended_at is None else {"finishTime": rfc3339(each.ended_at), "result": _RESULTS[each.outcome]}
    organisation, _, name = each.project.partition("/")
    return {
        "id": each.run,
        "buildNumber": _build_number(each),
        "status": "completed" if over else "inProgress",
        **over,
        "queueTime": rfc3339(each.created_at),
        "startTime": rfc3339(each.started_at),
        "definition": _definition(each),
        "project": {"id": uuid("project", each.project), "name": name},
        "sourceBranch": f"refs/heads/{each.branch}",
        "sourceVersion": each.commit,
        "reason": "individualCI",
        "repository": {
            "id": uuid("repository", each.project),
            "type": "TfsGit",
            "url": f"{_SERVER}/{organisation}/{quote(name)}/_git/{quote(name)}",
        },
        "_links": {"web": {"href": _page_of(each)}},
    }


def stage(each: Deployed) -> dict[str, Any]:
    """The record of the stage in the timeline."""
    return _record(each, "Stage") | {"identifier": each.job}


def job_record(each: Deployed) -> dict[str, Any]:
    """The record of a job of the stage."""
    return _record(each, "Job") | {"identifier": f"{each.job}.deploy", "parentId": stage(each)["id"]}


def _record(each: Deployed, kind: str) -> dict[str, Any]:
    over = each.ended_at is not None
    return {
        "id": uuid(kind, each.number),
        "parentId": None,
        "type": kind,
        "name": f"Stage {each.job}",
        "attempt": each.attempt,
        "state": "completed" if over else "inProgress",
        "result": _RESULTS[each.outcome] if over else None,
        "startTime": rfc3339(each.started_at),
        "finishTime": None if each.ended_at is None else rfc3339(each.ended_at),
    }


def release_deployment(each: Deployed) -> dict[str, Any]:
    over = each.ended_at is not None
    web = f"{_SERVER}/{_by_guid(each.project)}/_release?releaseId={each.run}"
    artifact = {
        "isPrimary": True,
        "definitionReference": {
            "branch": {"id": f"refs/heads/{each.branch}"},
            "sourceVersion": {"id": each.commit},
        },
    }
    return {
        "id": each.number,
        "attempt": each.attempt,
        "release": {
            "id": each.run,
            "name": f"Release-{each.number}",
            "_links": {"web": {"href": web}},
            "artifacts": [artifact],
        },
        "releaseDefinition": {"id": 1, "name": "shop-cd"},
        "releaseEnvironment": {"id": each.number, "name": each.environment},
        # A canceled deployment has failed; the operation was canceled.
        "deploymentStatus": _RESULTS[each.outcome].replace("canceled", "failed") if over else "inProgress",
        "operationStatus": "Canceled" if over and each.outcome == "canceled" else "Approved",
        "queuedOn": rfc3339(each.created_at),
        "startedOn": rfc3339(each.started_at),
        "completedOn": None if each.ended_at is None else rfc3339(each.ended_at),
        "lastModifiedOn": rfc3339(each.changed_at),
    }
