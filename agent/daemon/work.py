"""What the daemon does again and again: how it is tracked, and what becomes of its errors."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agent.model.trouble import Trouble
from agent.outbox.sqlite.connection import in_words
from agent.outbox.values import DamagedError, OutboxError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.daemon.watchdog import Watched
    from agent.model.times import Clock


class Work:
    """Everything that is under way, whether the outbox can be written, and the end of it all."""

    def __init__(self, outbox: Path, clock: Clock) -> None:
        self._outbox = outbox
        self._clock = clock
        self._under_way: set[asyncio.Task[object]] = set()
        self.over = asyncio.Event()
        self.storing = Trouble("storing events", clock)
        self.damage: DamagedError | None = None

    @contextmanager
    def doing(self, who: str, watched: Watched | None = None) -> Iterator[None]:
        """Something is under way; what the outbox does wrong is noted, and met again the next time."""
        task = asyncio.current_task()
        if task is not None:
            self._under_way.add(task)
        try:
            yield
        except OutboxError as error:
            self._note(who, error)
        except sqlite3.Error as error:
            in_our_words = in_words(error, self._outbox)
            in_our_words.__cause__ = error
            self._note(who, in_our_words)
        finally:
            if watched is not None:
                watched.runs += 1
            if task is not None:
                self._under_way.discard(task)

    def _note(self, who: str, error: OutboxError) -> None:
        if not isinstance(error, DamagedError):
            self.storing.note(who, str(error))
        elif self.damage is None:  # the file has to be repaired before anything goes on
            self.damage = error
            self.over.set()

    async def finish(self, seconds: float) -> int:
        """Wait for what is under way, also what begins meanwhile; returns how much of it did not end in time."""
        await asyncio.sleep(0)  # a job that was just submitted shows only when it begins
        deadline = self._clock.monotonic() + seconds
        while self._under_way:
            left_s = deadline - self._clock.monotonic()
            await asyncio.wait(self._under_way, timeout=max(left_s, 0))
            if left_s <= 0:
                break
        return len(self._under_way)
