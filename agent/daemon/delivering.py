"""Runs the dispatcher: at intervals, and at once when something was enqueued."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from agent.daemon.watchdog import Watched, patience_of_delivery

if TYPE_CHECKING:
    from agent.daemon.composition import Parts
    from agent.daemon.fleet import FleetWork
    from agent.daemon.schedule import Repeated, Schedule
    from agent.daemon.work import Work
    from agent.model.times import Clock

# The least seconds between a run and the next one that something enqueued causes. A run for each of many events would
# cost half as much CPU time again, and commit more often.
BETWEEN_S = 0.2


class Delivering:
    """``fleet``: while this agent leaves the work to others, it only tells them of what it enqueues."""

    def __init__(self, parts: Parts, work: Work, fleet: FleetWork | None, clock: Clock) -> None:
        self._parts = parts
        self._dispatcher = parts.dispatcher
        self._work = work
        self._fleet = fleet
        self._clock = clock
        self._over_at = -inf
        self._repeated: Repeated | None = None
        self._running = False
        self._woken = False
        self._enqueued = False
        self.watched = Watched(
            "delivery", patience_of_delivery(parts.settings.delivery), lambda: parts.dispatcher.progress
        )

    def begin(self, schedule: Schedule) -> Repeated:
        """Start to deliver."""
        self._repeated = schedule.every(self._dispatcher.longest_rest_s, self._run, name=self.watched.name)
        return self._repeated

    def enqueued(self) -> None:
        """This agent has enqueued something: send it now, or soon after the last run."""
        self._enqueued = True
        self.wake()

    def wake(self) -> None:
        """Look now whether something is due, or when the current run is over."""
        if not self._woken and not self._running and self._repeated is not None:
            self._repeated.bring_forward(max(0.0, self._over_at + BETWEEN_S - self._clock.monotonic()))
        self._woken = True

    async def _run(self) -> None:
        self._running, self._woken = True, False
        enqueued, self._enqueued = self._enqueued, False
        try:
            with self._work.doing(self.watched) as run:
                if self._fleet is None or not self._fleet.leaving:
                    await self._parts.deliver()
                else:
                    run.idle = True
                    if enqueued:
                        await self._dispatcher.pass_on()
        finally:
            self._running, self._over_at = False, self._clock.monotonic()
            rest_s = BETWEEN_S if self._woken else self._dispatcher.rest_s
            if self._repeated is not None and rest_s < self._dispatcher.longest_rest_s:
                self._repeated.bring_forward(rest_s)
