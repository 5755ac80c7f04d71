"""GitHub's API: deployments with their statuses, and the workflow runs that created them.

API answers contain the same objects as webhooks, so the bodies of the missed webhooks are made from them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agent.model.part import Part
from agent.model.times import rfc3339
from agent.sources.webhooks.gaps.api import quoted_path
from agent.sources.webhooks.gaps.errors import GoneError
from agent.sources.webhooks.gaps.values import MOST_OPEN, Step, moment, needed_moment, needed_number
from agent.sources.webhooks.values import Delivery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from agent.sources.webhooks.gaps.api import Api
    from agent.sources.webhooks.gaps.values import Cursor

PER_PAGE = 100
MOST_PAGES = 50
# Lists are read again until nothing new is found: what is deleted meanwhile moves the rest to an earlier page.
MOST_PASSES = 3
MOST_STATUS_PAGES = 3
_ENDS = ("success", "failure", "error")
_STARTS = ("in_progress",)
# The job of a deployment by Actions. Deployments of other tools may link to a run, but not to a job of it.
_JOB = re.compile(r"/actions/runs/\d+/jobs?/(\d+)")
# The older form links to a check run. The check run of a job has the id of the job.
_CHECK_RUN = re.compile(r"/runs/(\d+)(?:\?|$)")


async def deployments(api: Api, project: str, cursor: Cursor) -> AsyncIterator[Step]:
    """Deployments, in the order of their creation, that ended."""
    reading = _Reading(api, project)
    repository = (await api.get(reading.path)).body
    listed = await reading.listed("/deployments", "", cursor.listed_from)
    for number in cursor.open:
        if number not in listed and (found := await reading.one(f"/deployments/{number}")) is not None:
            listed[number] = found
    cursor = replace(cursor, open=tuple(number for number in cursor.open if number in listed))
    for number, deployment in _oldest_first(listed):
        created_at = needed_moment(deployment, "created_at")
        cursor = replace(cursor, at=max(cursor.at, created_at))
        still_open = tuple(each for each in cursor.open if each != number)
        try:
            webhooks, ended_at = await reading.webhooks(deployment, repository)
        except (ValueError, GoneError) as error:
            cursor = replace(cursor, open=still_open)
            yield Step(cursor, problem=f"deployment {number}: {error}")
            continue
        if ended_at is None:
            cursor = replace(cursor, open=(*still_open, number)[-MOST_OPEN:])
            yield Step(cursor)
        else:
            cursor = replace(cursor, open=still_open)
            yield Step(cursor, webhooks, ended_at)


async def workflow_runs(api: Api, project: str, cursor: Cursor) -> AsyncIterator[Step]:
    """Workflow runs, in the order of their creation, that were completed. Only their last attempts."""
    reading = _Reading(api, project)
    repository = (await api.get(reading.path)).body
    created = {"created": f">={rfc3339(cursor.listed_from)[:19]}Z"}
    listed = await reading.listed("/actions/runs", "workflow_runs", cursor.listed_from, created)
    for number in cursor.open:
        if number not in listed and (found := await reading.one(f"/actions/runs/{number}")) is not None:
            listed[number] = found
    cursor = replace(cursor, open=tuple(number for number in cursor.open if number in listed))
    for number, run in _oldest_first(listed):
        cursor = replace(cursor, at=max(cursor.at, needed_moment(run, "created_at")))
        still_open = tuple(each for each in cursor.open if each != number)
        if run.text("status") != "completed":
            cursor = replace(cursor, open=(*still_open, number)[-MOST_OPEN:])
            yield Step(cursor)
            continue
        cursor = replace(cursor, open=still_open)
        ended_at = needed_moment(run, "updated_at")
        workflow = {"id": run.member("workflow_id").value, "name": run.text("name"), "path": run.text("path")}
        body = {"action": "completed", "workflow_run": run.value, "workflow": workflow, "repository": repository.value}
        yield Step(cursor, (Delivery("workflow_run", "", Part(body, ""), ended_at),), ended_at)


class _Reading:
    """One look at a repository. What several deployments need is requested once."""

    def __init__(self, api: Api, project: str) -> None:
        self.path = f"/repos/{quoted_path(project)}"
        self._api = api
        self._runs: dict[tuple[str, str], object] = {}

    async def one(self, path: str) -> Part | None:
        """None if it does not exist."""
        try:
            return (await self._api.get(self.path + path)).body
        except GoneError:
            return None

    async def listed(
        self, path: str, member: str, from_ms: int, query: Mapping[str, str] | None = None
    ) -> dict[str, Part]:
        """What was created since ``from_ms``, by id. ``member``: of the answer; "": the answer is the list."""

        async def page(number: int) -> list[Part]:
            reply = await self._api.get(self.path + path, {**(query or {}), "per_page": PER_PAGE, "page": number})
            return Part({"list": reply.body.value}, "").items("list") if not member else reply.body.items(member)

        return await newest_first(page, from_ms)

    async def webhooks(self, deployment: Part, repository: Part) -> tuple[tuple[Delivery, ...], int | None]:
        """The webhooks of a deployment's start and end, and its end; no end: it still runs, or was never started."""
        statuses = await self._statuses(needed_number(deployment, "id"))
        end = next((each for each in statuses if each.text("state") in _ENDS), None)
        if end is None:
            over = any(each.text("state") == "inactive" for each in statuses)
            return (), 0 if over else None
        context = await self._context(end, statuses)
        start = next((each for each in statuses[: statuses.index(end)] if each.text("state") in _STARTS), None)
        webhooks = tuple(
            self._webhook(deployment, status, repository, context) for status in (start, end) if status is not None
        )
        return webhooks, webhooks[-1].received_at

    async def _statuses(self, deployment: str) -> list[Part]:
        """The statuses of a deployment, oldest first."""
        found: dict[str, Part] = {}
        for page in range(1, MOST_STATUS_PAGES + 1):
            path = f"{self.path}/deployments/{deployment}/statuses"
            reply = await self._api.get(path, {"per_page": PER_PAGE, "page": page})
            statuses = Part({"statuses": reply.body.value}, "").items("statuses")
            found |= {needed_number(each, "id"): each for each in statuses}
            if len(statuses) < PER_PAGE:
                break
        return [status for _, status in _oldest_first(found)]

    def _webhook(self, deployment: Part, status: Part, repository: Part, context: dict[str, Any]) -> Delivery:
        body = {
            "action": "created",
            "deployment": deployment.value,
            "deployment_status": status.value,
            "repository": repository.value,
            **context,
        }
        return Delivery("deployment_status", "", Part(body, ""), needed_moment(status, "created_at"))

    async def _context(self, end: Part, statuses: Sequence[Part]) -> dict[str, Any]:
        """What the webhook of a deployment by Actions says about its job and run; empty for other deployments."""
        for status in (end, *reversed(statuses)):
            for link in (status.text("log_url"), status.text("target_url")):
                if found := _JOB.search(link):
                    job = (await self._api.get(f"{self.path}/actions/jobs/{found[1]}")).body
                    return await self._of_job(job)
                if (found := _CHECK_RUN.search(link)) and (job_or_none := await self.one(f"/actions/jobs/{found[1]}")):
                    return await self._of_job(job_or_none)
        return {}

    async def _of_job(self, job: Part) -> dict[str, Any]:
        run_id, attempt = needed_number(job, "run_id"), job.number("run_attempt") or "1"
        if (run_id, attempt) not in self._runs:
            run = await self.one(f"/actions/runs/{run_id}/attempts/{attempt}")
            names = ("head_branch", "head_sha", "run_attempt")
            brief = {"id": job.member("run_id").value} | {name: job.member(name).value for name in names}
            self._runs[run_id, attempt] = brief if run is None else run.value
        run_value = self._runs[run_id, attempt]
        check_run = {
            name: job.member(name).value
            for name in ("id", "name", "status", "conclusion", "started_at", "completed_at", "html_url", "head_sha")
        }
        workflow = {"name": job.text("workflow_name")}
        return {"workflow_run": run_value, "check_run": check_run, "workflow": workflow}


async def newest_first(page: Callable[[int], Awaitable[list[Part]]], from_ms: int) -> dict[str, Part]:
    """All that was created since ``from_ms``, from numbered pages that list what was created last first."""
    found: dict[str, Part] = {}
    for _ in range(MOST_PASSES):
        known, pages = len(found), 0
        for number in range(1, MOST_PAGES + 1):
            parts, pages = await page(number), number
            created = {needed_number(each, "id"): (each, needed_moment(each, "created_at")) for each in parts}
            found |= {key: each for key, (each, at) in created.items() if at >= from_ms}
            if len(parts) < PER_PAGE or any(at < from_ms for _, at in created.values()):
                break
        if pages == 1 or len(found) == known:
            break
    return found


def _oldest_first(parts: dict[str, Part]) -> list[tuple[str, Part]]:
    return sorted(parts.items(), key=lambda item: (moment(item[1], "created_at") or 0, int(item[0])))
