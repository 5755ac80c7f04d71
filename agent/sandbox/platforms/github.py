"""GitHub: deployments with statuses, and the runs and jobs of Actions. Answers and webhooks have the same objects."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from agent.model.times import parse_moment
from agent.sandbox.platforms.model import Deployed, Webhook, seconds, uuid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# GitHub has no word for a canceled deployment.
_STATES = {"success": "success", "failed": "failure", "canceled": "error"}
_CONCLUSIONS = {"success": "success", "failed": "failure", "canceled": "cancelled"}
_SERVER = "https://github.example.test"
_PATH = re.compile(r"/repos/([^/]+/[^/]+)(/.*)?")


def answer(path: str, query: Mapping[str, str], deployed: Sequence[Deployed]) -> object | None:
    """The JSON of a page; None: it does not exist."""
    found = _PATH.fullmatch(path)
    mine = [each for each in deployed if found and each.project == found[1]]
    if found is None or not mine:
        return None
    newest_first = sorted(mine, key=lambda each: (each.created_at, each.number), reverse=True)
    rest = found[2] or ""
    if rest == "":
        return repository(mine[0].project)
    if rest == "/deployments":
        return [deployment(each) for each in _paged(newest_first, query)]
    if rest == "/actions/runs":
        since = parse_moment(query.get("created", ">=1970-01-01").removeprefix(">="))
        runs = [each for each in newest_first if each.created_at // 1000 * 1000 >= since and each.by_job]
        return {"total_count": len(runs), "workflow_runs": [run(each) for each in _paged(runs, query)]}
    numbered = {key: function for each in mine for key, function in _pages_of(each).items()}
    made = numbered.get(rest)
    return None if made is None else made()


def _pages_of(each: Deployed) -> dict[str, Any]:
    pages = {
        f"/deployments/{each.number}": lambda: deployment(each),
        f"/deployments/{each.number}/statuses": lambda: statuses(each)[::-1],
    }
    if each.by_job:
        pages[f"/actions/jobs/{each.job_number}"] = lambda: job(each)
        pages[f"/actions/runs/{each.run}"] = lambda: run(each)
        pages[f"/actions/runs/{each.run}/attempts/{each.attempt}"] = lambda: run(each)
    return pages


def _paged(of: Sequence[Deployed], query: Mapping[str, str]) -> Sequence[Deployed]:
    size, page = min(int(query.get("per_page", "30")), 100), int(query.get("page", "1"))
    return of[(page - 1) * size : page * size]


def webhooks(each: Deployed) -> list[Webhook]:
    """The webhooks of a deployment's start and end."""
    sent = []
    for status in statuses(each):
        body: dict[str, Any] = {
            "action": "created",
            "deployment": deployment(each),
            "deployment_status": status,
            "repository": repository(each.project),
        }
        if each.by_job:
            check_run = {key: value for key, value in job(each).items() if key not in ("run_id", "run_attempt")}
            body |= {"workflow_run": run(each), "workflow": {"name": "Deploy"}, "check_run": check_run}
        headers = {
            "X-GitHub-Event": "deployment_status",
            "X-GitHub-Delivery": uuid("github", each.number, status["state"]),
            "User-Agent": "GitHub-Hookshot/sandbox",
        }
        sent.append(Webhook(headers, body))
    return sent


def repository(project: str) -> dict[str, Any]:
    return {
        "id": 186853002,
        "name": project.rpartition("/")[2],
        "full_name": project,
        "html_url": f"{_SERVER}/{project}",
        "default_branch": "main",
    }


def deployment(each: Deployed) -> dict[str, Any]:
    return {
        "id": each.number,
        "sha": each.commit,
        "ref": each.branch,
        "task": "deploy",
        "payload": {},
        "original_environment": each.environment,
        "environment": each.environment,
        "description": None,
        "created_at": seconds(each.created_at),
        "updated_at": seconds(each.changed_at),
        "transient_environment": False,
        "production_environment": each.environment == "production",
    }


def statuses(each: Deployed) -> list[dict[str, Any]]:
    """Oldest first."""
    found = [_status(each, 0, "in_progress", each.started_at)]
    if each.ended_at is not None:
        found.append(_status(each, 1, _STATES[each.outcome], each.ended_at))
    return found


def _status(each: Deployed, index: int, state: str, at: int) -> dict[str, Any]:
    link = f"{_SERVER}/{each.project}/actions/runs/{each.run}/job/{each.job_number}" if each.by_job else ""
    return {
        "id": each.number * 10 + index,
        "state": state,
        "environment": each.environment,
        "target_url": link,
        "log_url": link,
        "created_at": seconds(at),
        "updated_at": seconds(at),
    }


def run(each: Deployed) -> dict[str, Any]:
    return {
        "id": each.run,
        "name": "Deploy",
        "path": ".github/workflows/deploy.yml",
        "head_branch": each.branch,
        "head_sha": each.commit,
        "run_number": each.number,
        "run_attempt": each.attempt,
        "event": "push",
        "status": "in_progress" if each.ended_at is None else "completed",
        "conclusion": None if each.ended_at is None else _CONCLUSIONS[each.outcome],
        "workflow_id": 17248323,
        "html_url": f"{_SERVER}/{each.project}/actions/runs/{each.run}",
        "pull_requests": [],
        "created_at": seconds(each.created_at),
        "updated_at": seconds(each.changed_at),
        "run_started_at": seconds(each.started_at),
    }


def job(each: Deployed) -> dict[str, Any]:
    return {
        "id": each.job_number,
        "run_id": each.run,
        "run_attempt": each.attempt,
        "workflow_name": "Deploy",
        "name": each.job,
        "head_branch": each.branch,
        "head_sha": each.commit,
        "status": "in_progress" if each.ended_at is None else "completed",
        "conclusion": None if each.ended_at is None else _CONCLUSIONS[each.outcome],
        "started_at": seconds(each.started_at),
        "completed_at": None if each.ended_at is None else seconds(each.ended_at),
        "html_url": f"{_SERVER}/{each.project}/actions/runs/{each.run}/job/{each.job_number}",
    }
