"""The polls of one controller: at intervals, and at once after a report or a wake-up."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import structlog

from agent.daemon.watchdog import Watched, patience_of_poll
from agent.outbox.values import LeaseLostError

if TYPE_CHECKING:
    from agent.daemon.composition import Controller
    from agent.daemon.schedule import Repeated, Schedule
    from agent.daemon.work import Work
    from agent.model.times import Clock
    from agent.sources.jenkins.poller import PollReport
    from agent.sources.jenkins.traffic import Traffic

log = structlog.get_logger("service")

# Shortest time between two polls, however many reports arrive. While Jenkins is slow, it is `poll_interval`.
LEAST_GAP_S = 1.0


@dataclass
class PollRecord:
    """The polls of one controller so far, in monotonic seconds. ``finished_at`` None: none succeeded yet."""

    started_at: float
    ready_within_s: float
    polls: int = 0
    seconds: float = 0.0
    finished_at: float | None = None


class Polls:
    """Runs the poller of one controller at its interval."""

    def __init__(self, controller: Controller, work: Work, clock: Clock) -> None:
        settings = controller.settings
        self.name = settings.name
        self._controller = controller
        self.setting_s = settings.poll_interval_ms / 1000
        self._work = work
        self._clock = clock
        self._repeated: Repeated | None = None
        self._running = False
        self._news = False
        self._woken = False
        self._ended = False
        self._began_at = -inf
        self.record = PollRecord(clock.monotonic(), 5 * self.setting_s + 120)
        self.watched = Watched(f"polls of {self.name}", patience_of_poll(settings), lambda: controller.poller.progress)

    def begin(self, schedule: Schedule) -> Repeated:
        """Start polling."""
        self._repeated = schedule.every(self.setting_s, self._run, name=self.watched.name)
        return self._repeated

    def wake(self) -> None:
        """Poll now, or when the current poll is over."""
        if self._is_over():
            return
        if self._running:
            self._news = True
        elif self._repeated is not None:
            self._woken = True
            gap_s = self.setting_s if self.interval_s > self.setting_s else LEAST_GAP_S
            self._repeated.bring_forward(max(0.0, self._began_at + gap_s - self._clock.monotonic()))

    @property
    def interval_s(self) -> float:
        """The current poll interval in seconds."""
        return self._controller.poller.interval_s

    @property
    def traffic(self) -> Traffic:
        """The requests to Jenkins so far."""
        return self._controller.client.traffic

    def _is_time(self) -> bool:
        """Whether this run of the schedule polls.

        The schedule uses the configured interval; while Jenkins is slow, most runs are skipped.
        """
        slack_s = self.setting_s / 2
        return self._woken or self._clock.monotonic() >= self._began_at + self.interval_s - slack_s

    def stop(self) -> None:
        """Stop the current poll after its current job."""
        self._controller.poller.stop()

    def end(self) -> None:
        """Start no more polls, and abort the current one."""
        self._ended = True
        if self._repeated is not None:
            self._repeated.end()
        self._controller.end()

    def _is_over(self) -> bool:
        return self._ended or self._work.over.is_set()

    def cancel(self) -> None:
        """Abort the requests of the current poll."""
        self._controller.cancel()

    async def _run(self) -> None:
        if self._is_over():
            return
        with self._work.doing(self.watched) as run:
            if not self._is_time() or not self._controller.poller.due():
                run.idle = True
                return
            self._running, self._news, self._woken = True, False, False
            self._began_at = self._clock.monotonic()
            try:
                self._note(await self._controller.poll())
            except LeaseLostError as error:  # the next poll of the agent that has the lease finds the same builds
                run.idle = True
                log.warning("poll ended without a result", controller=self.name, reason=str(error))
            finally:
                self._running = False
            if self._news:
                self.wake()

    def _note(self, report: PollReport) -> None:
        finished = self._clock.monotonic()
        self.record.polls += 1
        self.record.seconds += finished - self._began_at
        if report.complete:
            self.record.finished_at = finished
