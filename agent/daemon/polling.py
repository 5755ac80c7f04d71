"""The polls of one controller as the daemon makes them: regularly, and at once when somebody has news."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from agent.daemon.every import Every
from agent.daemon.watchdog import Watched, patience_of_poll

if TYPE_CHECKING:
    from apscheduler.job import Job
    from apscheduler.schedulers.asyncio import AsyncIOScheduler

    from agent.config.settings import JenkinsSettings
    from agent.daemon.work import Work
    from agent.model.times import Clock
    from agent.sources.jenkins.poller import Poller, PollReport

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
    """Runs one poller as a job of the scheduler."""

    def __init__(self, settings: JenkinsSettings, poller: Poller, work: Work, clock: Clock) -> None:
        self.name = settings.name
        self._settings = settings
        self._poller = poller
        self._work = work
        self._clock = clock
        self._job: Job | None = None
        self._running = False
        self._news = False
        self._began_at = -LEAST_GAP_S
        self.record = PollRecord(clock.monotonic(), 5 * settings.poll_interval_ms / 1000 + 120)
        self.watched = Watched(f"polls of {self.name}", patience_of_poll(settings), lambda: poller.requests)

    def schedule(self, scheduler: AsyncIOScheduler, now: datetime) -> None:
        """Poll from now on."""
        every = Every(self._settings.poll_interval_ms / 1000)
        self._job = scheduler.add_job(self._run, every, next_run_time=now, name=self.watched.name)

    def wake(self) -> None:
        """Look now, or as soon as the poll under way is over."""
        if self._running:
            self._news = True
        elif self._job is not None:
            wait_s = max(0.0, self._began_at + LEAST_GAP_S - self._clock.monotonic())
            self._job.modify(next_run_time=datetime.now(UTC) + timedelta(seconds=wait_s))

    def stop(self) -> None:
        """End the poll under way after the job that it looks at."""
        self._poller.stop()

    async def _run(self) -> None:
        with self._work.doing(self.name, self.watched):
            if self._work.over.is_set() or not self._poller.due():
                return
            self._running, self._news = True, False
            self._began_at = self._clock.monotonic()
            try:
                self._note(await asyncio.to_thread(self._poller.poll))
                self._work.storing.note(self.name, None)
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
