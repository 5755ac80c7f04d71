"""CircleCI's API: pipelines with their workflows and jobs, from which the bodies of the missed webhooks are made."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agent.model.part import Part
from agent.sources.webhooks.gaps.api import quoted, quoted_path
from agent.sources.webhooks.gaps.errors import GoneError
from agent.sources.webhooks.gaps.values import MOST_OPEN, Step, moment, needed_moment, needed_text
from agent.sources.webhooks.values import Delivery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from agent.sources.webhooks.gaps.api import Api
    from agent.sources.webhooks.gaps.values import Cursor

MOST_PAGES = 100
MOST_PASSES = 3
# Workflows that run or wait. All other words are ends.
_OPEN = ("running", "failing", "on_hold", "not_run")
# The API abbreviates the first part of a slug, webhooks do not.
_LONG = {"gh": "github", "bb": "bitbucket"}
_PUBLIC = "circleci.com"


async def pipelines(api: Api, project: str, cursor: Cursor) -> AsyncIterator[Step]:
    """Jobs and workflows that ended, of pipelines in the order of their creation."""
    reading = _Reading(api, project)
    about = (await api.get(f"/project/{reading.slug}")).body
    listed = await reading.listed(cursor.listed_from)
    for number in cursor.open:
        if number not in listed and (found := await reading.pipeline(number)) is not None:
            listed[number] = found
    cursor = replace(cursor, open=tuple(number for number in cursor.open if number in listed))
    oldest_first = sorted(listed.items(), key=lambda item: (moment(item[1], "created_at") or 0, item[0]))
    for number, pipeline in oldest_first:
        still_open = tuple(each for each in cursor.open if each != number)
        try:
            webhooks, is_over = await reading.webhooks(about, pipeline)
        except (ValueError, GoneError) as error:
            webhooks, is_over = [], True
            yield Step(cursor, problem=f"pipeline {number}: {error}")
        for webhook in webhooks:  # the pipeline is read again if the look ends here
            yield Step(cursor, (webhook,), webhook.received_at)
        at = max(cursor.at, needed_moment(pipeline, "created_at"))
        cursor = replace(cursor, at=at, open=still_open if is_over else (*still_open, number)[-MOST_OPEN:])
        yield Step(cursor)


class _Reading:
    """One look at a project."""

    def __init__(self, api: Api, project: str) -> None:
        # `acme/shop` is a project on GitHub; others are written with the first part of their slug.
        self.slug = quoted_path(project if project.count("/") != 1 else f"gh/{project}")
        self._api = api

    async def pipeline(self, number: str) -> Part | None:
        """None if it does not exist."""
        try:
            return (await self._api.get(f"/pipeline/{quoted(number)}")).body
        except GoneError:
            return None

    async def listed(self, from_ms: int) -> dict[str, Part]:
        """The pipelines that were created since ``from_ms``, by id. They are listed newest first."""
        found: dict[str, Part] = {}
        for _ in range(MOST_PASSES):
            known, pages, token = len(found), 0, ""
            for _page in range(MOST_PAGES):
                query = {"page-token": token} if token else {}
                reply = (await self._api.get(f"/project/{self.slug}/pipeline", query)).body
                pages += 1
                created = [(each, needed_moment(each, "created_at")) for each in listed(reply)]
                found |= {needed_text(each, "id"): each for each, at in created if at >= from_ms}
                token = reply.text("next_page_token")
                if not token or any(at < from_ms for _, at in created):
                    break
            if pages == 1 or len(found) == known:
                break
        return found

    async def items(self, path: str) -> list[Part]:
        """All items of a list with pages."""
        found: list[Part] = []
        token = ""
        for _ in range(MOST_PAGES):
            reply = (await self._api.get(path, {"page-token": token} if token else {})).body
            found += listed(reply)
            token = reply.text("next_page_token")
            if not token:
                break
        return found

    async def webhooks(self, about: Part, pipeline: Part) -> tuple[list[Delivery], bool]:
        """The webhooks of a pipeline's jobs and workflows that ended, and whether all have ended."""
        found, is_over = list[Delivery](), True
        for workflow in await self.items(f"/pipeline/{quoted(needed_text(pipeline, 'id'))}/workflow"):
            is_over = is_over and workflow.text("status") not in _OPEN
            found += await self._of_workflow(about, pipeline, workflow)
        return found, is_over

    async def _of_workflow(self, about: Part, pipeline: Part, workflow: Part) -> list[Delivery]:
        jobs = await self.items(f"/workflow/{quoted(needed_text(workflow, 'id'))}/job")
        body = self._body(about, pipeline, workflow)
        found = []
        for job in jobs:
            stopped_at = moment(job, "stopped_at")
            if stopped_at is not None and not job.member("job_number").is_missing:  # approvals have no number
                names = ("id", "name", "status", "started_at", "stopped_at")
                values = {name: job.member(name).value for name in names} | {"number": job.member("job_number").value}
                found.append(_webhook("job-completed", body | {"job": values}, stopped_at))
        stopped_at = moment(workflow, "stopped_at")
        if stopped_at is not None and workflow.text("status") not in _OPEN:
            found.append(_webhook("workflow-completed", body, stopped_at))
        return found

    def _body(self, about: Part, pipeline: Part, workflow: Part) -> dict[str, Any]:
        first, _, rest = about.text("slug").partition("/")
        slug = f"{_LONG.get(first, first)}/{rest}"
        host = urlsplit(self._api.url).hostname or ""
        server = f"https://app.{_PUBLIC}" if host == _PUBLIC else self._api.url.removesuffix("/api/v2")
        number, workflow_id = pipeline.number("number"), needed_text(workflow, "id")
        vcs = pipeline.member("vcs").value
        if isinstance(vcs, dict) and isinstance(vcs.get("provider_name"), str):
            vcs = vcs | {"provider_name": vcs["provider_name"].lower()}
        told = {name: pipeline.member(name).value for name in ("id", "number", "created_at", "trigger")}
        parameters = pipeline.member("trigger_parameters").value
        return {
            "project": {"id": about.member("id").value, "name": about.member("name").value, "slug": slug},
            "organization": {
                "id": about.member("organization_id").value,
                "name": about.member("organization_name").value,
            },
            "pipeline": told
            | ({"vcs": vcs} if vcs else {})
            | ({"trigger_parameters": parameters} if parameters else {}),
            "workflow": {
                **{name: workflow.member(name).value for name in ("id", "name", "status", "created_at", "stopped_at")},
                "url": f"{server}/pipelines/{slug}/{number}/workflows/{workflow_id}",
            },
        }


def listed(reply: Part) -> list[Part]:
    """The items of a page. Raises :class:`ValueError` if it has no list of them."""
    if reply.member("items").is_missing:
        raise ValueError("items is missing")
    return reply.items("items")


def _webhook(event: str, body: Mapping[str, Any], at: int) -> Delivery:
    return Delivery(event, "", Part({"type": event, **body}, ""), at)
