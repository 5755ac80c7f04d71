"""CircleCI: pipelines with one workflow and one job each. Webhooks write slugs and providers in another way."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from agent.model.times import rfc3339
from agent.sandbox.platforms.model import Deployed, Webhook, uuid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_PAGE = 20
_APP = "https://circleci.example.test"
_PROJECT = re.compile(r"/api/v2/project/gh/([^/]+/[^/]+)(/pipeline)?")
_OTHER = re.compile(r"/api/v2/(pipeline|workflow)/([0-9a-f-]+)(/workflow|/job)?")


def answer(path: str, query: Mapping[str, str], deployed: Sequence[Deployed]) -> object | None:
    """The JSON of a page; None: it does not exist."""
    if found := _PROJECT.fullmatch(path):
        mine = [each for each in deployed if each.project == found[1]]
        if not mine:
            return None
        return _pipelines(mine, query) if found[2] else project(found[1])
    found = _OTHER.fullmatch(path)
    if found is None:
        return None
    kind, number, rest = found.groups()
    one = next((each for each in deployed if uuid(kind, each.number) == number), None)
    pages: dict[tuple[str, str | None], Callable[[Deployed], object]] = {
        ("pipeline", None): pipeline,
        ("pipeline", "/workflow"): lambda each: _items([workflow(each)]),
        ("workflow", None): workflow,
        ("workflow", "/job"): lambda each: _items([job(each)]),
    }
    made = pages.get((kind, rest))
    return None if one is None or made is None else made(one)


def _pipelines(mine: Sequence[Deployed], query: Mapping[str, str]) -> object:
    newest_first = sorted(mine, key=lambda each: (each.created_at, each.number), reverse=True)
    start = int(query.get("page-token", "0"))
    more = start + _PAGE < len(newest_first)
    return _items(
        [pipeline(each) for each in newest_first[start : start + _PAGE]], str(start + _PAGE) if more else None
    )


def _items(items: Sequence[object], token: str | None = None) -> dict[str, Any]:
    return {"items": items, "next_page_token": token}


def webhooks(each: Deployed) -> list[Webhook]:
    """The webhooks of a job's and its workflow's end. CircleCI sends none at the start."""
    if each.ended_at is None:
        return []
    common: dict[str, Any] = {
        "happened_at": rfc3339(each.ended_at),
        "webhook": {"id": uuid("webhook"), "name": "Hivel"},
        "project": {"id": uuid("project", each.project), "name": _name(each), "slug": f"github/{each.project}"},
        "organization": {"id": uuid("organization"), "name": each.project.partition("/")[0]},
        "pipeline": {
            "id": uuid("pipeline", each.number),
            "number": each.number,
            "created_at": rfc3339(each.created_at),
            "trigger": {"type": "webhook"},
            "vcs": _vcs(each, "github"),
        },
        "workflow": {
            **{key: workflow(each)[key] for key in ("id", "name", "status", "created_at", "stopped_at")},
            "url": f"{_APP}/pipelines/github/{each.project}/{each.number}/workflows/{uuid('workflow', each.number)}",
        },
    }
    told = {key: value for key, value in job(each).items() if key not in ("job_number", "type", "project_slug")}
    return [
        _webhook(each, "job-completed", common | {"job": told | {"number": each.job_number}}),
        _webhook(each, "workflow-completed", common),
    ]


def _webhook(each: Deployed, event: str, body: Mapping[str, Any]) -> Webhook:
    headers = {"circleci-event-type": event, "User-Agent": "CircleCI-Webhook/1.0"}
    return Webhook(headers, {"id": uuid("delivery", event, each.number), "type": event, **body})


def _name(each: Deployed) -> str:
    return each.project.rpartition("/")[2]


def project(name: str) -> dict[str, Any]:
    return {
        "id": uuid("project", name),
        "slug": f"gh/{name}",
        "name": name.rpartition("/")[2],
        "organization_id": uuid("organization"),
        "organization_name": name.partition("/")[0],
        "vcs_info": {"vcs_url": f"https://github.example.test/{name}", "provider": "GitHub", "default_branch": "main"},
    }


def pipeline(each: Deployed) -> dict[str, Any]:
    return {
        "id": uuid("pipeline", each.number),
        "project_slug": f"gh/{each.project}",
        "number": each.number,
        "state": "created",
        "created_at": rfc3339(each.created_at),
        "updated_at": rfc3339(each.created_at),
        "trigger": {"type": "webhook"},
        "vcs": _vcs(each, "GitHub"),
    }


def _vcs(each: Deployed, provider: str) -> dict[str, Any]:
    url = f"https://github.example.test/{each.project}"
    return {
        "provider_name": provider,
        "target_repository_url": url,
        "origin_repository_url": url,
        "branch": each.branch,
        "revision": each.commit,
    }


def workflow(each: Deployed) -> dict[str, Any]:
    return {
        "id": uuid("workflow", each.number),
        "pipeline_id": uuid("pipeline", each.number),
        "pipeline_number": each.number,
        "project_slug": f"gh/{each.project}",
        "name": "deliver",
        "status": "running" if each.ended_at is None else each.outcome,
        "created_at": rfc3339(each.created_at),
        "stopped_at": None if each.ended_at is None else rfc3339(each.ended_at),
    }


def job(each: Deployed) -> dict[str, Any]:
    return {
        "id": uuid("job", each.number),
        "job_number": each.job_number,
        "name": each.job,
        "type": "build",
        "project_slug": f"gh/{each.project}",
        "status": "running" if each.ended_at is None else each.outcome,
        "started_at": rfc3339(each.started_at),
        "stopped_at": None if each.ended_at is None else rfc3339(each.ended_at),
    }
