"""GitLab's API: deployments, and by rule pipelines with their jobs. The missed hooks are made from them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agent.model.part import Part
from agent.model.times import rfc3339
from agent.sources.webhooks.gaps.api import quoted
from agent.sources.webhooks.gaps.errors import GoneError
from agent.sources.webhooks.gaps.values import Step, moment, needed_moment, needed_number, needed_text
from agent.sources.webhooks.values import Delivery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent.sources.webhooks.gaps.api import Api, Reply
    from agent.sources.webhooks.gaps.values import Cursor

PER_PAGE = 100
_ENDS = ("success", "failed", "canceled")
MOST_JOB_PAGES = 10
# The ref of a pipeline for a merge request.
_MERGE_REQUEST = re.compile(r"refs/merge-requests/(\d+)/")


async def deployments(api: Api, project: str, cursor: Cursor) -> AsyncIterator[Step]:
    """Deployments that ended, in the order of their last changes. What runs changes again, and is read then."""
    path = f"/projects/{quoted(project)}"
    about = (await api.get(path)).body
    async for deployment, updated_at in _by_change(api, f"{path}/deployments", cursor.listed_from):
        cursor = replace(cursor, at=max(cursor.at, updated_at))
        yield _step(deployment, about, cursor)


async def pipelines(api: Api, project: str, cursor: Cursor) -> AsyncIterator[Step]:
    """Pipelines that ended and jobs that ended, as far as rules are about them, in the order of the last changes."""
    path = f"/projects/{quoted(project)}"
    about = (await api.get(path)).body
    async for pipeline, updated_at in _by_change(api, f"{path}/pipelines", cursor.listed_from):
        reading = _Pipeline(api, path, about, pipeline)
        try:
            webhooks = [*await reading.jobs(), *await reading.itself()]
        except (ValueError, GoneError) as error:
            webhooks = []
            yield Step(cursor, problem=f"pipeline {needed_number(pipeline, 'id')}: {error}")
        for webhook in webhooks:  # the pipeline is read again if the look ends here
            yield Step(cursor, (webhook,), webhook.received_at)
        cursor = replace(cursor, at=max(cursor.at, updated_at))
        yield Step(cursor)


async def _by_change(api: Api, path: str, after: int) -> AsyncIterator[tuple[Part, int]]:
    """What changed since ``after``, in the order of the last changes, and when each changed.

    Each page starts at the last change of the one before. What changes meanwhile moves to the end, and moves nothing
    else to another page.
    """
    page, seen = 1, set[tuple[str, int]]()
    while True:
        query: dict[str, str | int] = {"order_by": "updated_at", "sort": "asc", "updated_after": rfc3339(after)}
        reply = await api.get(path, query | {"per_page": PER_PAGE, "page": page})
        listed = _items(reply)
        last = after
        for each in listed:
            number, updated_at = needed_number(each, "id"), needed_moment(each, "updated_at")
            last = max(last, updated_at)
            if (number, updated_at) not in seen:
                seen.add((number, updated_at))
                yield each, updated_at
        if len(listed) < PER_PAGE:
            return
        # One millisecond earlier: others may have changed at the same time.
        after, page = (last - 1, 1) if last - 1 > after else (after, page + 1)


def _items(reply: Reply) -> list[Part]:
    return Part({"list": reply.body.value}, "").items("list")


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
        "project": _project(about),
        "ref": deployment.text("ref"),
        "short_sha": deployment.text("sha")[:8],
        "commit_url": f"{web_url}/-/commit/{deployment.text('sha')}",
    }
    end = _webhook(body, deployment.text("status"), ended_at)
    return (end,) if started_at is None else (_webhook(body, "running", started_at), end)


def _project(about: Part) -> dict[str, object]:
    names = ("id", "name", "path_with_namespace", "web_url", "default_branch")
    return {name: about.member(name).value for name in names}


class _Pipeline:
    """One pipeline of a project, as far as rules are about it."""

    def __init__(self, api: Api, path: str, about: Part, listed: Part) -> None:
        self._api = api
        self._path = path
        self._about = about
        self._listed = listed
        self._number = needed_number(listed, "id")

    async def jobs(self) -> list[Delivery]:
        """The Job Hooks of jobs that ended."""
        found = []
        for page in range(1, MOST_JOB_PAGES + 1):
            query: dict[str, str | int] = {"include_retried": "true", "per_page": PER_PAGE, "page": page}
            listed = _items(await self._api.get(f"{self._path}/pipelines/{self._number}/jobs", query))
            found += [self._job(each) for each in listed if each.text("status") in _ENDS and self._is_wanted(each)]
            if len(listed) < PER_PAGE:
                break
        return found

    async def itself(self) -> list[Delivery]:
        """The Pipeline Hook, if the pipeline has ended."""
        if self._listed.text("status") not in _ENDS or not self._has_rule(self._listed.text("name") or "pipeline"):
            return []
        pipeline = (await self._api.get(f"{self._path}/pipelines/{self._number}")).body
        merge_request = await self._merge_request()
        ended_at = moment(pipeline, "finished_at") or needed_moment(pipeline, "updated_at")
        names = ("id", "iid", "ref", "tag", "sha", "status", "created_at", "queued_duration")
        attributes = {name: pipeline.member(name).value for name in names} | {
            "name": self._listed.member("name").value,
            "finished_at": rfc3339(ended_at),
            "url": pipeline.member("web_url").value,
        }
        body = {"object_kind": "pipeline", "object_attributes": attributes, "merge_request": merge_request}
        return [Delivery("pipeline hook", "", Part(body | {"project": _project(self._about)}, ""), ended_at)]

    async def _merge_request(self) -> object:
        """Only its webhook has the branch of a pipeline for a merge request."""
        found = _MERGE_REQUEST.match(self._listed.text("ref"))
        if found is None:
            return None
        request = (await self._api.get(f"{self._path}/merge_requests/{found[1]}")).body
        return {name: request.member(name).value for name in ("iid", "source_branch")}

    def _job(self, job: Part) -> Delivery:
        ended_at = moment(job, "finished_at") or needed_moment(self._listed, "updated_at")
        body = {
            "object_kind": "build",
            "ref": job.text("ref"),
            "sha": job.text("commit.id") or self._listed.text("sha"),
            "build_id": job.member("id").value,
            "build_name": needed_text(job, "name"),
            "build_status": job.text("status"),
            "build_started_at": job.member("started_at").value,
            "build_finished_at": rfc3339(ended_at),
            "project": _project(self._about),
        }
        return Delivery("job hook", "", Part(body, ""), ended_at)

    def _is_wanted(self, job: Part) -> bool:
        return self._has_rule(job.text("name"))

    def _has_rule(self, name: str) -> bool:
        return self._api.hook.rule_of(self._about.text("path_with_namespace"), name) is not None


def _webhook(body: dict[str, Any], status: str, at: int) -> Delivery:
    return Delivery("deployment hook", "", Part(body | {"status": status, "status_changed_at": rfc3339(at)}, ""), at)
