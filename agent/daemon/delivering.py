"""Runs the dispatcher: at intervals, and at once when something was enqueued."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.daemon.watchdog import Watched, patience_of_delivery

if TYPE_CHECKING:
    from agent.daemon.composition import Parts
    from agent.daemon.fleet import FleetWork
    from agent.daemon.schedule import Repeated, Schedule
    from agent.daemon.work import Work


class Delivering:
    """``fleet``: while this agent leaves the work to others, it only tells them of what it enqueues."""

    def __init__(self, parts: Parts, work: Work, fleet: FleetWork | None) -> None:
        self._parts = parts
        self._dispatcher = parts.dispatcher
        self._work = work
        self._fleet = fleet
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
        """This agent has enqueued something: send it now."""
        self._enqueued = True
        self.wake()

    def wake(self) -> None:
        """Look now whether something is due, or when the current run is over."""
        if not self._woken and not self._running and self._repeated is not None:
            self._repeated.bring_forward()
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
            self._running = False
            rest_s = 0.0 if self._woken else self._dispatcher.rest_s
            if self._repeated is not None and rest_s < self._dispatcher.longest_rest_s:
                self._repeated.bring_forward(rest_s)
