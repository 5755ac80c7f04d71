"""Tracks the repeated work of a life and handles its errors."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.model.trouble import Trouble
from agent.outbox.values import DamagedError, NewerOutboxError, OutboxError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.daemon.watchdog import Watched
    from agent.model.times import Clock
    from agent.model.trouble import Unexpected


@dataclass
class Run:
    """One run of some work. ``idle``: there was nothing to do, so earlier problems stay."""

    idle: bool = False


class Work:
    """All current work, its problems, and its end (``over``)."""

    def __init__(self, clock: Clock, unexpected: Unexpected) -> None:
        self._clock = clock
        self._unexpected = unexpected
        self._under_way: set[asyncio.Task[object]] = set()
        self.over = asyncio.Event()
        self.storing = Trouble("storing events", clock)
        self.damage: DamagedError | None = None

    @contextmanager
    def doing(self, watched: Watched) -> Iterator[Run]:
        """Run the work once. Errors end here: they are recorded, and the next run shows whether they continue."""
        task = asyncio.current_task()
        if task is not None:
            self._under_way.add(task)
        run = Run()
        try:
            yield run
        except OutboxError as error:
            self.cannot_store(watched.name, error)
            watched.ended_well()  # a restart would not help and would lose the results in memory
        except Exception as error:  # noqa: BLE001 - a bug ends this run only
            self._unexpected.note(watched.name, error)
            watched.ended_by_mistake()
        else:
            watched.ended_well()
            if not run.idle:
                self.storing.note(watched.name, None)
                self._unexpected.over(watched.name)
        finally:
            if task is not None:
                self._under_way.discard(task)

    def cannot_store(self, who: str, error: OutboxError) -> None:
        """The outbox cannot be written, for example because the disk is full."""
        if not isinstance(error, DamagedError):
            self.storing.note(who, str(error))
            if isinstance(error, NewerOutboxError):  # nothing of this life may touch the outbox any more
                self.over.set()
        elif self.damage is None:  # the file must be repaired first
            self.damage = error
            self.over.set()

    async def finish(self, seconds: float) -> int:
        """Wait for current work, also what begins meanwhile; returns how many runs did not end in time."""
        await asyncio.sleep(0)  # a job that was just submitted is visible only when it begins
        deadline = self._clock.monotonic() + seconds
        while self._under_way:
            left_s = deadline - self._clock.monotonic()
            await asyncio.wait(self._under_way, timeout=max(left_s, 0))
            if left_s <= 0:
                break
        return len(self._under_way)
