"""A task, and the file beside the outbox that keeps tasks for the time after a restart."""

from __future__ import annotations

import enum
import threading
from typing import TYPE_CHECKING

import msgspec
import structlog

from agent.config.writing import NewFile, write_one

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

log = structlog.get_logger("web")

_ENDED = "the agent was stopped or restarted in the middle; select the deployments that are left to continue"


class TaskState(enum.StrEnum):
    """How far a task is."""

    WAITING = "waiting"  # for the task before it
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"  # the outbox could not be used any more
    INTERRUPTED = "interrupted"  # the agent was stopped or restarted


class Refusal(msgspec.Struct, frozen=True):
    """A deployment that was not changed, and why. ``id``: its number."""

    id: int
    deployment_id: str | None
    reason: str


class Task(msgspec.Struct, frozen=True):
    """An action on many deployments. ``selection``: how they were selected. Times are UTC milliseconds.

    ``done`` and ``refused`` count deployments. ``refusals``: the first ones of the refused. ``problem``: why the task
    does not go on, or why it ended too early.
    """

    number: int
    what: str
    who: str
    address: str
    selection: str
    reason: str
    total: int
    started_at: int
    state: TaskState = TaskState.WAITING
    done: int = 0
    refused: int = 0
    refusals: tuple[Refusal, ...] = ()
    ended_at: int | None = None
    problem: str | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more happens."""
        return self.state not in (TaskState.WAITING, TaskState.RUNNING)

    @property
    def left(self) -> int:
        """The deployments that were not tried yet."""
        return self.total - self.done - self.refused


def interrupted(task: Task, now_ms: int | None) -> Task:
    """The task after the end of its process; ``now_ms`` None: nobody knows when that was."""
    return msgspec.structs.replace(task, state=TaskState.INTERRUPTED, ended_at=now_ms, problem=_ENDED)


class TaskFile:
    """Loads and saves tasks. A failure is logged: the tasks themselves are more important."""

    def __init__(self, outbox: Path) -> None:
        self._path = outbox.with_name(outbox.name + "-tasks.json")
        self._lock = threading.Lock()

    def load(self) -> list[Task]:
        """The kept tasks. Those that were not over have been interrupted, because their process has ended."""
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=list[Task])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError, ValueError) as error:
            log.warning("cannot read the tasks from before the start", file=str(self._path), reason=str(error))
            return []
        return [each if each.over else interrupted(each, None) for each in kept]

    def save(self, tasks: Sequence[Task]) -> None:
        """Replace the kept tasks."""
        try:
            with self._lock:
                write_one(NewFile(self._path, msgspec.json.encode(tasks), 0o600))
        except OSError as error:
            reason = error.strerror or str(error)
            log.warning("cannot save the tasks for after a restart", file=str(self._path), reason=reason)
