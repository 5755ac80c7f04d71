"""GitLab: projects, deployments, and pipelines with one job. Webhooks have other shapes and times than the API."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from agent.model.times import parse_moment, rfc3339
from agent.sandbox.platforms.model import Deployed, Webhook, seconds, uuid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SERVER = "https://gitlab.example.test"
_NUMBERED = re.compile(r"/pipelines/(\d+)(/jobs)?")
_PATH = re.compile(r"/api/v4/projects/([^/]+)(/.*)?")


def answer(path: str, query: Mapping[str, str], deployed: Sequence[Deployed]) -> object | None:
    """The JSON of a page; None: it does not exist."""
    found = _PATH.fullmatch(path)
    mine = [each for each in deployed if found and each.project == unquote(found[1])]
    if found is None or not mine:
        return None
    if not found[2]:
        return project(mine[0].project)
    if numbered := _NUMBERED.fullmatch(found[2]):
        one = next((each for each in mine if each.by_job and each.run == int(numbered[1])), None)
        return None if one is None else [job(one)] if numbered[2] else pipeline(one)
    made = {"/deployments": deployment, "/pipelines": pipeline}.get(found[2])
    if made is None:
        return None
    if made is pipeline:
        mine = [each for each in mine if each.by_job]
    after = parse_moment(query.get("updated_after", "1970-01-01"))
    order = "updated_at" if query.get("order_by") == "updated_at" else "id"
    chosen = sorted(
        (each for each in mine if each.changed_at >= after),
        key=lambda each: (each.changed_at if order == "updated_at" else 0, each.number),
        reverse=query.get("sort") == "desc",
    )
    size, page = min(int(query.get("per_page", "20")), 100), int(query.get("page", "1"))
    return [made(each) for each in chosen[(page - 1) * size : page * size]]


def webhooks(each: Deployed) -> list[Webhook]:
    """The Deployment Hooks of a deployment's start and end."""
    ends = [] if each.ended_at is None else [(each.outcome, each.ended_at)]
    return [_webhook(each, status, at) for status, at in (("running", each.started_at), *ends)]


def _webhook(each: Deployed, status: str, at: int) -> Webhook:
    web_url = f"{_SERVER}/{each.project}"
    body = {
        "object_kind": "deployment",
        "status": status,
        "status_changed_at": seconds(at).replace("T", " ").replace("Z", " +0000"),
        "deployment_id": each.number,
        "deployable_id": each.job_number if each.by_job else None,
        "deployable_url": f"{web_url}/-/jobs/{each.job_number}" if each.by_job else None,
        "environment": each.environment,
        "environment_tier": each.environment,
        "project": project(each.project),
        "short_sha": each.commit[:8],
        "commit_url": f"{web_url}/-/commit/{each.commit}",
        "ref": each.branch,
    }
    headers = {
        "X-Gitlab-Event": "Deployment Hook",
        "Idempotency-Key": uuid("gitlab", each.number, status),
        "X-Gitlab-Event-UUID": uuid("gitlab event", each.number, status),
        "User-Agent": "GitLab/sandbox",
    }
    return Webhook(headers, body)


def project(name: str) -> dict[str, Any]:
    return {
        "id": 69310893,
        "name": name.rpartition("/")[2],
        "path_with_namespace": name,
        "web_url": f"{_SERVER}/{name}",
        "default_branch": "main",
    }


def pipeline(each: Deployed) -> dict[str, Any]:
    """All that a single pipeline has. The real list has no ``finished_at`` and no ``queued_duration``."""
    return {
        "id": each.run,
        "iid": each.number,
        "name": "Deploy",
        "ref": each.branch,
        "tag": False,
        "sha": each.commit,
        "status": "running" if each.ended_at is None else each.outcome,
        "created_at": rfc3339(each.created_at),
        "updated_at": rfc3339(each.changed_at),
        "started_at": rfc3339(each.started_at),
        "finished_at": None if each.ended_at is None else rfc3339(each.ended_at),
        "queued_duration": (each.started_at - each.created_at) // 1000,
        "web_url": f"{_SERVER}/{each.project}/-/pipelines/{each.run}",
    }


def job(each: Deployed) -> dict[str, Any]:
    return {
        "id": each.job_number,
        "name": each.job,
        "ref": each.branch,
        "commit": {"id": each.commit},
        "status": "running" if each.ended_at is None else each.outcome,
        "web_url": f"{_SERVER}/{each.project}/-/jobs/{each.job_number}",
        "created_at": rfc3339(each.created_at),
        "started_at": rfc3339(each.started_at),
        "finished_at": None if each.ended_at is None else rfc3339(each.ended_at),
    }


def deployment(each: Deployed) -> dict[str, Any]:
    return {
        "id": each.number,
        "iid": each.number,
        "ref": each.branch,
        "sha": each.commit,
        "status": "running" if each.ended_at is None else each.outcome,
        "created_at": rfc3339(each.created_at),
        "updated_at": rfc3339(each.changed_at),
        "environment": {"id": 1, "name": each.environment, "tier": each.environment},
        "deployable": job(each) if each.by_job else None,
    }
