"""GitLab's API: deployments, from which the bodies of the missed Deployment Hooks are made."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agent.model.part import Part
from agent.model.times import rfc3339
from agent.sources.webhooks.gaps.api import quoted
from agent.sources.webhooks.gaps.values import Step, moment, needed_moment, needed_number
from agent.sources.webhooks.values import Delivery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent.sources.webhooks.gaps.api import Api
    from agent.sources.webhooks.gaps.values import Cursor

PER_PAGE = 100
_ENDS = ("success", "failed", "canceled")
_PROJECT = ("id", "name", "path_with_namespace", "web_url", "default_branch")


async def deployments(api: Api, project: str, cursor: Cursor) -> AsyncIterator[Step]:
    """Deployments that ended, in the order of their last changes.

    Each page starts at the last change of the one before. A deployment that changes meanwhile moves to the end, and
    moves no other to another page. What has not ended changes again, and is read then.
    """
    path = f"/projects/{quoted(project)}"
    about = (await api.get(path)).body
    after, page, seen = cursor.listed_from, 1, set[tuple[str, int]]()
    while True:
        query: dict[str, str | int] = {"order_by": "updated_at", "sort": "asc", "updated_after": rfc3339(after)}
        reply = await api.get(f"{path}/deployments", query | {"per_page": PER_PAGE, "page": page})
        listed = Part({"deployments": reply.body.value}, "").items("deployments")
        last = after
        for deployment in listed:
            number, updated_at = needed_number(deployment, "id"), needed_moment(deployment, "updated_at")
            last = max(last, updated_at)
            if (number, updated_at) not in seen:
                seen.add((number, updated_at))
                cursor = replace(cursor, at=max(cursor.at, updated_at))
                yield _step(deployment, about, cursor)
        if len(listed) < PER_PAGE:
            return
        # One millisecond earlier: others may have changed at the same time.
        after, page = (last - 1, 1) if last - 1 > after else (after, page + 1)


def _step(deployment: Part, about: Part, cursor: Cursor) -> Step:
    if deployment.text("status") not in _ENDS:
        return Step(cursor)
    try:
        webhooks = _webhooks(deployment, about)
    except ValueError as error:
        return Step(cursor, problem=f"deployment {needed_number(deployment, 'id')}: {error}")
    return Step(cursor, webhooks, webhooks[-1].received_at)


def _webhooks(deployment: Part, about: Part) -> tuple[Delivery, ...]:
    deployable = deployment.member("deployable")
    web_url, job = about.text("web_url"), deployable.number("id")
    started_at = moment(deployable, "started_at")
    ended_at = moment(deployable, "finished_at") or needed_moment(deployment, "updated_at")
    body = {
        "object_kind": "deployment",
        "deployment_id": deployment.member("id").value,
        "deployable_id": deployable.member("id").value,
        "deployable_url": deployable.text("web_url") or (f"{web_url}/-/jobs/{job}" if web_url and job else None),
        "environment": deployment.text("environment.name"),
        "environment_tier": deployment.text("environment.tier") or None,
        "project": {
            name: about.member(name).value
            for name in ("id", "name", "path_with_namespace", "web_url", "default_branch")
        },
        "ref": deployment.text("ref"),
        "short_sha": deployment.text("sha")[:8],
        "commit_url": f"{web_url}/-/commit/{deployment.text('sha')}",
    }
    end = _webhook(body, deployment.text("status"), ended_at)
    return (end,) if started_at is None else (_webhook(body, "running", started_at), end)


def _webhook(body: dict[str, Any], status: str, at: int) -> Delivery:
    return Delivery("deployment hook", "", Part(body | {"status": status, "status_changed_at": rfc3339(at)}, ""), at)
