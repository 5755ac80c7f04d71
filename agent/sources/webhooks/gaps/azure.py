"""Azure DevOps' API: runs with their stages, and deployments of classic releases.

The bodies of the missed webhooks are made from them. A build of the API is the ``resource`` of ``build.complete``. The
bodies of stages have the build as ``resource.build``, which the platform does not send: it has repository and branch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agent.model.part import Part
from agent.model.times import rfc3339
from agent.sources.webhooks.gaps.api import quoted, quoted_path
from agent.sources.webhooks.gaps.errors import ApiError, GoneError
from agent.sources.webhooks.gaps.values import MOST_OPEN, Step, moment, needed_moment, needed_number, needed_text
from agent.sources.webhooks.values import Delivery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from agent.sources.webhooks.gaps.api import Api
    from agent.sources.webhooks.gaps.values import Cursor

PER_PAGE = 100
MOST_PAGES = 100
# Known by Azure DevOps Server 2019 and all later ones.
_VERSION = {"api-version": "5.1"}
_CLOUD, _CLOUD_RELEASES = "https://dev.azure.com", "https://vsrm.dev.azure.com"
_RELEASE_ENDS = ("succeeded", "failed", "partiallySucceeded")


async def runs(api: Api, project: str, cursor: Cursor) -> AsyncIterator[Step]:
    """Runs that ended, in the order of their ends, and stages that ended, also those of runs that go on."""
    reading = _Reading(api, project)
    listing = {"statusFilter": "completed", "queryOrder": "finishTimeAscending", "minTime": rfc3339(cursor.listed_from)}
    async for build in reading.pages("/_apis/build/builds", listing):
        steps = await reading.steps(build, cursor)
        for step in steps:
            yield step
        ended_at = moment(build, "finishTime")
        cursor = cursor if ended_at is None else replace(cursor, at=max(cursor.at, ended_at))
        yield Step(cursor)  # only now: the run is read again if the look ends before
    query: dict[str, str | int] = {"statusFilter": "inProgress", "queryOrder": "queueTimeDescending", "$top": MOST_OPEN}
    for build in (await reading.get("/_apis/build/builds", query)).items("value"):
        for step in await reading.steps(build, cursor):
            yield step


async def releases(api: Api, project: str, cursor: Cursor) -> AsyncIterator[Step]:
    """Deployments of classic releases that ended, in the order of their last changes."""
    reading = _Reading(api, project)
    base = _CLOUD_RELEASES if api.url == _CLOUD else None
    listing = {"queryOrder": "ascending", "minModifiedTime": rfc3339(cursor.listed_from)}
    path = "/_apis/release/deployments"
    # They are listed in the order of their creation.
    changed = [(needed_moment(each, "lastModifiedOn"), each) async for each in reading.pages(path, listing, base)]
    for changed_at, deployment in sorted(changed, key=lambda item: item[0]):
        cursor = replace(cursor, at=max(cursor.at, changed_at))
        if deployment.text("deploymentStatus") not in _RELEASE_ENDS:
            yield Step(cursor)
            continue
        ended_at = moment(deployment, "completedOn") or changed_at
        yield Step(cursor, (_release_webhook(deployment, project, ended_at),), ended_at)


async def build_of(api: Api, project: str, run: str) -> Part:
    """The build of a run: its repository, branch and commit."""
    path = f"/{quoted_path(project)}/_apis/build/builds/{quoted(run)}"
    return (await api.get(path, _VERSION)).body


def with_build(body: Part, build: Part) -> Part:
    """The body of a stage or run with its build."""
    resource = body.at("resource").value
    if not isinstance(body.value, dict) or not isinstance(resource, dict):
        return body
    return Part(body.value | {"resource": resource | {"build": build.value}}, body.where)


class _Reading:
    """One look at a project."""

    def __init__(self, api: Api, project: str) -> None:
        if not api.hook.is_only_project(project):  # webhooks of stages have the GUID unless ``projects`` is the name
            raise ApiError(f'webhooks have other ids: set projects = ["{project}"] in a [[webhook]] of its own')
        self._api = api
        self._path = f"/{quoted_path(project)}"

    async def get(self, path: str, query: Mapping[str, str | int] | None = None) -> Part:
        return (await self._api.get(self._path + path, {**(query or {}), **_VERSION})).body

    async def pages(self, path: str, query: Mapping[str, str | int], base: str | None = None) -> AsyncIterator[Part]:
        """The values of all pages of a list."""
        token = ""
        for _ in range(MOST_PAGES):
            continued = {"continuationToken": token} if token else {}
            asked: dict[str, str | int] = {**query, **continued, **_VERSION, "$top": PER_PAGE}
            reply = await self._api.get(self._path + path, asked, base=base)
            if reply.body.member("value").is_missing:
                raise ValueError("value is missing")
            for each in reply.body.items("value"):
                yield each
            token = reply.headers.get("x-ms-continuationtoken", "")
            if not token:
                break

    async def steps(self, build: Part, cursor: Cursor) -> list[Step]:
        """A step for each stage of a run that ended since ``begun``, and one for the run."""
        number, ended_at = needed_number(build, "id"), moment(build, "finishTime")
        if ended_at is not None and ended_at < cursor.begun:
            return []
        try:
            timeline = await self.get(f"/_apis/build/builds/{number}/timeline")
            stages = [each for each in timeline.items("records") if each.text("type") == "Stage"]
            ended = [(moment(each, "finishTime"), each) for each in stages if each.text("state") == "completed"]
            # A stage without an end did not run.
            webhooks = [_stage_webhook(build, each, at) for at, each in ended if at is not None]
        except (ValueError, GoneError) as error:
            return [Step(cursor, problem=f"run {number}: {error}")]
        if ended_at is not None:
            webhooks.append(_webhook("build.complete", build.value, ended_at))
        return [Step(cursor, (webhook,), webhook.received_at) for webhook in webhooks]


def _stage_webhook(build: Part, record: Part, ended_at: int) -> Delivery:
    """``identifier`` is the name in the YAML file, which webhooks have; ``name`` is the displayed one."""
    name = record.text("identifier") or needed_text(record, "name")
    page = {"web": {"href": build.text("_links.web.href")}}
    stage = {
        "id": record.member("id").value,
        "name": name,
        "displayName": record.text("name"),
        "state": "completed",
        "result": record.text("result"),
        "startTime": record.member("startTime").value,
        "finishTime": record.member("finishTime").value,
        "_links": page,
    }
    definition = build.member("definition")
    resource = {
        "stage": stage,
        "run": {"id": build.member("id").value, "name": build.text("buildNumber"), "_links": page},
        "pipeline": {name: definition.member(name).value for name in ("id", "name", "url")},
        "build": build.value,
    }
    return _webhook("ms.vss-pipelines.stage-state-changed-event", resource, ended_at)


def _release_webhook(deployment: Part, project: str, ended_at: int) -> Delivery:
    release, environment = deployment.member("release"), deployment.member("releaseEnvironment")
    is_canceled = deployment.text("operationStatus").lower() == "canceled"
    resource: dict[str, Any] = {
        "environment": {
            "id": environment.member("id").value,
            "name": environment.text("name"),
            "status": "canceled" if is_canceled else deployment.text("deploymentStatus"),
            "releaseDefinition": deployment.member("releaseDefinition").value,
            "release": release.value,
        },
        "deployment": deployment.value,
        "project": {"name": project.partition("/")[2]},
    }
    return _webhook("ms.vss-release.deployment-completed-event", resource, ended_at)


def _webhook(event: str, resource: object, at: int) -> Delivery:
    body = {"eventType": event, "resource": resource, "createdDate": rfc3339(at)}
    return Delivery(event, "", Part(body, ""), at)
