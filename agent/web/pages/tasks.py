"""``/tasks`` and ``/tasks/NUMBER``: actions on many deployments, and how far they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.responses import RedirectResponse

from agent.model.terminal import printable
from agent.model.times import rfc3339
from agent.web.forms import read_form
from agent.web.page import Action, Page, RefusedError
from agent.web.rendering import Shown, Table
from agent.web.selections import What
from agent.web.task_file import Refusal  # noqa: TC001 - a field of a struct

if TYPE_CHECKING:
    from starlette.responses import Response

    from agent.web.page import Visit
    from agent.web.task_file import Task

LONGEST_REASON = 500


class TaskView(msgspec.Struct, frozen=True):
    """``/tasks/NUMBER.json``. ``state``: waiting, running, done, stopped or interrupted. Times are RFC 3339.

    ``total``, ``done``, ``refused`` and ``left`` count deployments. ``refusals``: the first ones that were refused.
    ``problem``: why it does not go on, or why it ended too early. After an interruption, ``done`` can be too low.
    """

    number: int
    what: What
    who: str
    selection: str
    reason: str | None
    state: str
    total: int
    done: int
    refused: int
    left: int
    refusals: list[Refusal]
    started_at: str
    ended_at: str | None
    problem: str | None


class TasksView(msgspec.Struct, frozen=True):
    """``/tasks.json``: the newest first."""

    tasks: list[TaskView]


async def show_all(visit: Visit) -> Shown:
    """The latest tasks."""
    view = TasksView([_view(task) for task in visit.tasks.all()])
    columns = ("number", "what", "who", "selection", "state", "total", "done", "refused", "started_at", "ended_at")
    return Shown(
        "tasks.html", "Tasks", view, Table(columns, [[getattr(each, name) for name in columns] for each in view.tasks])
    )


async def show(visit: Visit) -> Shown:
    """One task."""
    number = visit.request.path_params["number"]
    task = visit.tasks.get(number)
    if task is None:
        raise RefusedError(404, f"there is no task {number}, or it is older than the tasks that are kept")
    view = _view(task)
    table = Table(
        ("id", "deployment_id", "reason"), [(each.id, each.deployment_id, each.reason) for each in view.refusals]
    )
    return Shown("task.html", f"Task {number}", view, table, {"over": task.over, "What": What})


async def start(visit: Visit) -> Response:
    """Starts what the confirmation page asked for, once, however often its form is sent."""
    form = await read_form(visit.request)
    key, reason = form.get("selection", ""), printable(form.get("reason", "").strip())
    task = visit.tasks.started_by(key)
    if task is None:
        task = await _start(visit, key, reason)
    return RedirectResponse(visit.renderer.url(f"/tasks/{task.number}"), 303)


async def _start(visit: Visit, key: str, reason: str) -> Task:
    selection = visit.tasks.selections.look(key)
    if selection is None:
        raise RefusedError(
            409,
            "this confirmation is not valid any more, because the agent was restarted or it is too old. "
            "Nothing was changed. Select the deployments again",
        )
    if selection.what is What.DISCARD and not reason:
        raise RefusedError(
            400, "a reason is required to discard deployments. Nothing was changed. Go back and enter one"
        )
    if len(reason) > LONGEST_REASON:
        raise RefusedError(400, f"the reason has more than {LONGEST_REASON} characters. Nothing was changed")
    visit.tasks.selections.drop(key)
    return await visit.tasks.start(key, selection, who=visit.visitor.name, address=visit.address, reason=reason)


def _view(task: Task) -> TaskView:
    return TaskView(
        number=task.number,
        what=What(task.what),
        who=task.who,
        selection=task.selection,
        reason=task.reason or None,
        state=task.state.value,
        total=task.total,
        done=task.done,
        refused=task.refused,
        left=task.left,
        refusals=list(task.refusals),
        started_at=rfc3339(task.started_at),
        ended_at=None if task.ended_at is None else rfc3339(task.ended_at),
        problem=task.problem,
    )


PAGES = (Page("/tasks", show_all), Page("/tasks/{number:number}", show))
START = Action("/tasks", start)
