"""The daemon as one of several agents: it polls the controllers whose leases it has, while it has them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from agent.daemon.polling import Polls
from agent.daemon.watchdog import STALLED_S, Watched
from agent.outbox.shared import Hint
from agent.outbox.values import OutboxError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from agent.daemon.composition import Controller
    from agent.daemon.schedule import Repeated, Schedule
    from agent.daemon.work import Work
    from agent.fleet.leases import Leases
    from agent.model.times import Clock
    from agent.outbox.leases import Fence
    from agent.outbox.offloop import Runner

log = structlog.get_logger("fleet")

# How long a stop waits for current polls before it gives the leases away. A poll that needs longer stores nothing more;
# the next agent reads the same builds.
POLLS_END_S = 1.0
# When many controllers come at once, so much time is between their first polls, and so between all later ones. Without
# it, the first polls of hundreds of controllers would hold up the renewal of their leases until these expire.
BETWEEN_S = 0.01


class Hints(Protocol):
    """Announcements of agents and verbs. None of them is needed."""

    def open(self) -> int | None:
        """Returns a file descriptor to wait for; None: there will be no hints."""
        ...

    def heard(self) -> set[Hint]:
        """What was announced. Does not block."""
        ...

    def close(self) -> None:
        """Wait no longer."""
        ...


@dataclass(frozen=True)
class FleetParts:
    """``opened``: a controller with its own connection to the outbox, which writes only under this lease."""

    leases: Leases
    hints: Hints
    off_loop: Runner
    opened: Callable[[Fence], AbstractAsyncContextManager[Controller]]


class Shift:
    """The polls of one controller under one lease, from its begin to its end."""

    def __init__(self, fence: Fence) -> None:
        self.fence = fence
        self.polls: Polls | None = None
        self.over = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def end(self) -> None:
        """Stop polling. The task ends when the current poll has ended."""
        if self.over.is_set():
            return
        self.over.set()
        if self.polls is not None:
            self.polls.end()


class FleetWork:
    """Renews the leases of this agent, and begins and ends polls as they come and go."""

    def __init__(self, parts: FleetParts, work: Work, clock: Clock) -> None:
        self.leases = parts.leases
        self._parts = parts
        self._work = work
        self._clock = clock
        self._shifts: dict[str, Shift] = {}
        self._schedule: Schedule | None = None
        self._repeated: Repeated | None = None
        self._trust: asyncio.TimerHandle | None = None
        self._listening: int | None = None
        self._hinted = False
        self._running = False
        self._next_begin = clock.monotonic()
        self.watched = Watched("leases", 10 * STALLED_S)
        self.changed: Callable[[], None] = lambda: None
        self.due: Callable[[], None] = lambda: None

    @property
    def polls(self) -> list[Polls]:
        """The polls of the controllers whose leases this agent has."""
        return [shift.polls for shift in self._shifts.values() if shift.polls is not None and not shift.over.is_set()]

    @property
    def leaving(self) -> bool:
        """Whether a person asked this agent to leave the work to the others."""
        return self.leases.leaving

    def begin(self, schedule: Schedule) -> Repeated:
        """Start to renew."""
        self._schedule = schedule
        self._repeated = schedule.every(self.leases.interval_s, self._turn, name=self.watched.name)
        return self._repeated

    async def end(self, within_s: float, *, leave: bool) -> None:
        """End all polls. ``leave``: give the leases to the other agents now; otherwise they stay with this process."""
        self._forget_hints()
        if self._trust is not None:
            self._trust.cancel()
        tasks = [shift.task for shift in self._shifts.values() if shift.task is not None]
        for shift in self._shifts.values():
            shift.end()
        if tasks:
            await asyncio.wait(tasks, timeout=POLLS_END_S)
        if leave:
            try:
                await self._parts.off_loop(self.leases.leave)
            except OutboxError as error:  # the leases expire soon
                log.warning("cannot give the controllers to other agents now", reason=str(error))
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)

    # ---- renewals

    async def _turn(self) -> None:
        if self._work.over.is_set():
            return
        leaving = self.leases.leaving
        with self._work.doing(self.watched):
            self._hinted, self._running = False, True
            try:
                again_in_s = await self._parts.off_loop(self.leases.turn)
            finally:
                self._running = False
                self._reconcile()
            if self._repeated is not None and (self._hinted or again_in_s < self.leases.interval_s):
                self._repeated.bring_forward(0.0 if self._hinted else again_in_s)
            await self._listen()
        if leaving != self.leases.leaving:
            log.info("handed over" if self.leases.leaving else "taking part again", agent=self.leases.me.name)

    async def _listen(self) -> None:
        if self._listening is None and not self._work.over.is_set():
            with suppress(OutboxError):  # the turn has said what is wrong
                self._listening = await self._parts.off_loop(self._parts.hints.open)
            if self._listening is not None:
                asyncio.get_running_loop().add_reader(self._listening, self._on_hint)

    def _on_hint(self) -> None:
        try:
            heard = self._parts.hints.heard()
        except OutboxError:
            self._forget_hints()
            return
        if Hint.DUE in heard:
            self.due()
        self._hinted |= Hint.LEASES in heard
        if self._hinted and not self._running and self._repeated is not None and not self._work.over.is_set():
            self._hinted = False
            self._repeated.bring_forward()

    def _forget_hints(self) -> None:
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening = None
        self._parts.hints.close()

    # ---- polls

    def _reconcile(self) -> None:
        """Poll what the leases allow, and nothing else."""
        if self._work.over.is_set():
            return
        if self._trust is not None:
            self._trust.cancel()
        allowed = {name: fence for name in self.leases.mine if (fence := self.leases.fence(name)) is not None}
        for name, shift in self._shifts.items():
            if allowed.get(name) != shift.fence and not shift.over.is_set():
                log.info("polls end", controller=name, epoch=shift.fence.epoch)
                shift.end()
        for name, fence in allowed.items():
            if name not in self._shifts:
                self._begin_shift(name, fence)
        if allowed:
            later = self.leases.trust_left_s + 0.001
            self._trust = asyncio.get_running_loop().call_later(later, self._reconcile)
        self.changed()

    def _begin_shift(self, name: str, fence: Fence) -> None:
        shift = self._shifts[name] = Shift(fence)
        shift.task = asyncio.create_task(self._poll(shift))
        shift.task.add_done_callback(lambda _: self._ended(name, shift))

    async def _poll(self, shift: Shift) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(shift.over.wait(), self._wait_s())
        try:
            async with self._parts.opened(shift.fence) as controller:
                if self._schedule is None or shift.over.is_set():
                    return
                shift.polls = Polls(controller, self._work, self._clock)
                log.info("polls begin", controller=shift.fence.controller, epoch=shift.fence.epoch)
                shift.polls.begin(self._schedule)
                self.changed()
                await shift.over.wait()
        except OutboxError as error:  # the next turn tries again
            self._work.cannot_store(self.watched.name, error)

    def _wait_s(self) -> float:
        """How long until the next controller is polled for the first time."""
        now = self._clock.monotonic()
        begin = max(now, self._next_begin)
        self._next_begin = begin + BETWEEN_S
        return begin - now

    def _ended(self, name: str, shift: Shift) -> None:
        """The lease may have come back meanwhile: then a new shift begins with the next turn."""
        if self._shifts.get(name) is shift:
            del self._shifts[name]
        self._work.storing.note(f"polls of {name}", None)  # whoever polls it now has its own problems
        if shift.task is not None and not shift.task.cancelled() and (error := shift.task.exception()) is not None:
            log.error("polls ended by an unexpected error", controller=name, reason=repr(error))
        if shift.over.is_set():
            self._reconcile()
