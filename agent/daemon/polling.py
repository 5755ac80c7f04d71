"""The polls of one controller as the daemon makes them: regularly, and at once when somebody has news."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.daemon.watchdog import Watched, patience_of_poll

if TYPE_CHECKING:
    from agent.daemon.composition import Controller
    from agent.daemon.schedule import Repeated, Schedule
    from agent.daemon.work import Work
    from agent.model.times import Clock
    from agent.sources.jenkins.poller import PollReport

# However often somebody has news: Jenkins is asked no more often than this.
LEAST_GAP_S = 1.0


@dataclass
class PollRecord:
    """The polls of one controller so far. Monotonic seconds; ``finished_at`` None: none went through yet."""

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
        self._interval_s = settings.poll_interval_ms / 1000
        self._work = work
        self._clock = clock
        self._repeated: Repeated | None = None
        self._running = False
        self._news = False
        self._began_at = -LEAST_GAP_S
        self.record = PollRecord(clock.monotonic(), 5 * self._interval_s + 120)
        self.watched = Watched(f"polls of {self.name}", patience_of_poll(settings), lambda: controller.poller.progress)

    def begin(self, schedule: Schedule) -> Repeated:
        """Poll from now on."""
        self._repeated = schedule.every(self._interval_s, self._run, name=self.watched.name)
        return self._repeated

    def wake(self) -> None:
        """Look now, or as soon as the poll under way is over."""
        if self._work.over.is_set():
            return
        if self._running:
            self._news = True
        elif self._repeated is not None:
            self._repeated.bring_forward(max(0.0, self._began_at + LEAST_GAP_S - self._clock.monotonic()))

    def stop(self) -> None:
        """Let the poll under way end after the job that it looks at."""
        self._controller.poller.stop()

    def cancel(self) -> None:
        """Let the poll under way wait for no answer any more."""
        self._controller.cancel()

    async def _run(self) -> None:
        if self._work.over.is_set():
            return
        with self._work.doing(self.watched) as run:
            if not self._controller.poller.due():
                run.idle = True
                return
            self._running, self._news = True, False
            self._began_at = self._clock.monotonic()
            try:
                self._note(await self._controller.poll())
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
