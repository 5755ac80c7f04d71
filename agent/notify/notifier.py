"""Sends the notifications that are due, retries them after a failure, and keeps a record over restarts."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import structlog

from agent.config.writing import NewFile, write_one
from agent.model.trouble import Trouble
from agent.notify.memory import Memory, Notification, due, observe, sent
from agent.notify.message import encode, message
from agent.notify.send import SendError, send

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agent.config.settings import NotifySettings
    from agent.model.times import Clock
    from agent.notify.conditions import Condition

log = structlog.get_logger("notify")

# The first retry comes after this time. The time doubles with each failure, up to the longest.
FIRST_RETRY_S = 30.0
LONGEST_RETRY_S = 900.0
RESULTS = ("sent", "failed")


def memory_file(outbox: Path) -> Path:
    """The file beside the outbox that records which notifications were sent."""
    return outbox.with_name(outbox.name + "-notify.json")


class Notifier:
    """Sends notifications, one after the other. ``counts``: attempts by result."""

    def __init__(self, settings: NotifySettings, file: Path, clock: Clock) -> None:
        self._settings = settings
        self._file = file
        self._clock = clock
        self._memory: Memory | None = None
        self._saved: object = None
        self._failures: dict[str, int] = {}
        self._retry_at: dict[str, float] = {}
        self._sending: asyncio.Task[None] | None = None
        self._stopped = False
        self._sends = Trouble("notifications", clock)
        self._remembers = Trouble("recording sent notifications", clock)
        self.counts = Counter(dict.fromkeys(RESULTS, 0))

    async def look(self, conditions: Sequence[Condition], *, complete: bool = True) -> None:
        """Record the conditions that hold now, and send what is due. Failures of a command, server or disk are logged.

        Not ``complete``: there may be other conditions.
        """
        if self._memory is None:
            self._memory = await asyncio.to_thread(self._load)
        self._memory = observe(self._memory, conditions, self._clock.now_ms(), self._settings, complete=complete)
        await self._save()
        for notification in due(self._memory, self._clock.now_ms(), self._settings):
            if self._stopped:
                return
            if self._clock.monotonic() >= self._retry_at.get(notification.key, 0.0):
                await self._report(notification)
                await self._save()

    def stop(self) -> None:
        """Start no more attempts, and cancel the current one."""
        self._stopped = True
        if self._sending is not None:
            self._sending.cancel()

    async def _report(self, notification: Notification) -> None:
        value = message(notification, self._clock.now_ms())
        self._sending = asyncio.ensure_future(send(self._settings, encode(value)))
        try:
            await self._sending
        except asyncio.CancelledError:
            if not self._stopped:
                raise
        except SendError as error:
            self._failed(notification.key, str(error))
        else:
            self._accepted(notification)
        finally:
            self._sending = None

    def _accepted(self, notification: Notification) -> None:
        self._failures.pop(notification.key, None)
        self._retry_at.pop(notification.key, None)
        self.counts["sent"] += 1
        self._sends.note("", None)
        if self._memory is not None:
            self._memory = sent(self._memory, notification, self._clock.now_ms())
        condition = notification.condition
        log.info("notification sent", kind=condition.kind, state=notification.phase, controller=condition.controller)

    def _failed(self, key: str, reason: str) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** min(failures - 1, 16))
        self._retry_at[key] = self._clock.monotonic() + pause_s
        self.counts["failed"] += 1
        self._sends.note("", reason)

    # ---- the file

    def _load(self) -> Memory:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Memory)
        except FileNotFoundError:
            return Memory()
        except (OSError, msgspec.DecodeError, ValueError) as error:
            self._remembers.note("", f"cannot read {self._file}: {error}; notifications may be sent again")
            return Memory()

    async def _save(self) -> None:
        if self._memory is None or (shape := _shape(self._memory)) == self._saved:
            return
        try:
            await asyncio.to_thread(self._write, self._memory)
        except OSError as error:
            self._remembers.note("", f"cannot write {self._file}: {error.strerror or error}")
        else:
            self._saved = shape
            self._remembers.note("", None)

    def _write(self, memory: Memory) -> None:
        write_one(NewFile(self._file, msgspec.json.encode(memory), 0o600))


def _shape(memory: Memory) -> object:
    """The part whose changes are written. Texts and counts change often, and are found again after a restart."""
    episodes = {key: (each.began, each.ripe, each.gone, each.reported) for key, each in memory.episodes.items()}
    noticed = {key: (each.mark, each.at) for key, each in (memory.noticed or {}).items()}
    return episodes, memory.noticed is None, noticed
