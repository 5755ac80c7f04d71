"""Background tasks: actions on many deployments, with progress. They survive a reload of the configuration."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from msgspec.structs import replace

from agent.web.backend import UnavailableError
from agent.web.selections import Selections, act
from agent.web.task_file import Refusal, Task, TaskState, interrupted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.ingest.ingest import Ingest
    from agent.ingest.replay import Outcome
    from agent.model.times import Clock
    from agent.web.backend import Backend
    from agent.web.selections import Chosen, Selection
    from agent.web.task_file import TaskFile

log = structlog.get_logger("web")

# Deployments in one transaction. Other writers wait for it, and get their turn in the pause after it.
BATCH = 100
PAUSE_S = 0.02
# How often a batch is tried while the outbox cannot be used, and the pause before the next try.
TRIES = 60
RETRY_S = 1.0
SAVE_EVERY_S = 1.0
MOST_TASKS = 50
MOST_REFUSALS = 100


class Tasks:
    """The tasks of this process, which run one after another, and the latest ones of earlier processes."""

    def __init__(self, file: TaskFile, present: Callable[[], Awaitable[Backend]], clock: Clock) -> None:
        """``present`` returns the agent with its current configuration: see :func:`agent.web.app.application`."""
        self.selections = Selections()
        self._file = file
        self._present = present
        self._clock = clock
        self._tasks = {task.number: task for task in file.load()}
        self._of_key: dict[str, int] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._saved_at = 0.0

    def all(self) -> list[Task]:
        """The newest first."""
        return sorted(self._tasks.values(), key=lambda task: -task.number)

    def get(self, number: int) -> Task | None:
        """One task; None: it never existed, or it is older than the ones that are kept."""
        return self._tasks.get(number)

    def started_by(self, key: str) -> Task | None:
        """The task that a confirmation has started already: a form can be sent twice."""
        return self._tasks.get(self._of_key.get(key, 0))

    async def start(self, key: str, selection: Selection, *, who: str, address: str, reason: str) -> Task:
        """Begin a task in the background. ``key``: of the confirmed selection."""
        task = Task(
            number=max(self._tasks, default=0) + 1,
            what=selection.what.value,
            who=who,
            address=address,
            selection=selection.words,
            reason=reason,
            total=len(selection.chosen),
            started_at=self._clock.now_ms(),
        )
        self._tasks[task.number] = task
        self._of_key[key] = task.number
        self._forget_old()
        log.info("task started", **_told(task), selection=task.selection, reason=reason or None)
        running = asyncio.create_task(self._run(task.number, selection))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        await self._save()
        return task

    def _forget_old(self) -> None:
        for number in sorted(self._tasks)[:-MOST_TASKS]:
            if self._tasks[number].over:
                del self._tasks[number]
        self._of_key = {key: number for key, number in self._of_key.items() if number in self._tasks}

    # ---- one task

    async def _run(self, number: int, selection: Selection) -> None:
        try:
            async with self._turn:
                self._change(number, state=TaskState.RUNNING)
                await self._work(number, selection)
        except asyncio.CancelledError:
            self._tasks[number] = interrupted(self._tasks[number], self._clock.now_ms())
            self._file.save(self.all())
            raise
        except Exception as error:
            log.exception("task failed", task=number)
            problem = f"an error in the agent, {type(error).__name__}; its log has more"
            self._change(number, state=TaskState.STOPPED, problem=problem)
        finally:
            self._change(number, ended_at=self._clock.now_ms())
            task = self._tasks[number]
            log.info("task ended", **_told(task), state=task.state.value, done=task.done, refused=task.refused)
        await self._save()

    async def _work(self, number: int, selection: Selection) -> None:
        task, chosen = self._tasks[number], selection.chosen
        for first in range(0, len(chosen), BATCH):
            batch = _Batch(selection, chosen[first : first + BATCH], task.who, task.reason)
            outcomes = await self._done(number, batch)
            if outcomes is None:
                self._change(number, state=TaskState.STOPPED)
                return
            self._count(number, outcomes)
            if self._clock.monotonic() >= self._saved_at + SAVE_EVERY_S:
                await self._save()
            await asyncio.sleep(PAUSE_S)
        self._change(number, state=TaskState.DONE)

    async def _done(self, number: int, batch: _Batch) -> list[Outcome] | None:
        """The outcomes of a batch; None: the outbox could not be used for a minute, and the task has the reason."""
        for _ in range(TRIES):
            problem = None
            try:
                await (await self._present()).change(batch)
            except UnavailableError as error:
                problem = str(error)
            self._change(number, problem=None if batch.outcomes is not None else problem)
            if batch.outcomes is not None:
                return batch.outcomes
            await asyncio.sleep(RETRY_S)
        return None

    def _count(self, number: int, outcomes: list[Outcome]) -> None:
        task = self._tasks[number]
        refused = [Refusal(each.id, each.deployment_id, each.reason or "") for each in outcomes if not each.done]
        self._change(
            number,
            done=task.done + len(outcomes) - len(refused),
            refused=task.refused + len(refused),
            refusals=(*task.refusals, *refused)[:MOST_REFUSALS],
        )

    def _change(self, number: int, **changes: Any) -> None:
        self._tasks[number] = replace(self._tasks[number], **changes)

    async def _save(self) -> None:
        self._saved_at = self._clock.monotonic()
        await asyncio.to_thread(self._file.save, self.all())


@dataclass
class _Batch:
    """What is done in one transaction. ``outcomes`` are set when it is stored, also if nobody waits any more."""

    selection: Selection
    chosen: tuple[Chosen, ...]
    who: str
    reason: str
    outcomes: list[Outcome] | None = None

    def __call__(self, ingest: Ingest) -> None:
        """Call it again after a failure: what an earlier call has stored is not done twice."""
        if self.outcomes is None:
            self.outcomes = act(ingest, self.selection.what, self.chosen, by=self.who, reason=self.reason)


def _told(task: Task) -> dict[str, Any]:
    return {"task": task.number, "what": task.what, "who": task.who, "client": task.address, "deployments": task.total}
