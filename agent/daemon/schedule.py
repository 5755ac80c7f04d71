"""Repeated work of the daemon: APScheduler with the monotonic clock.

APScheduler reads the time by ``datetime.now(its time zone)``, which is the wall clock. If that is set back by a year,
nothing runs for a year. If it is set forward by years, as on a machine that starts without knowing the time, the
interval trigger of APScheduler counts every missed run. So APScheduler gets a time zone whose current time is the
monotonic clock, and a trigger that replaces any number of missed runs by one.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Self

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from apscheduler.job import Job

    from agent.model.times import Clock

_TOGETHER_US = 50_000
_BEGINNING = datetime(2000, 1, 1)  # noqa: DTZ001 - any will do; the zone follows


class _SteadyTime(tzinfo):
    """A time zone whose current time is the monotonic clock, counted from an arbitrary day.

    Its times can be compared, subtracted and added. Do not convert other times to it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def fromutc(self, _: datetime) -> datetime:
        """``datetime.now(zone)`` calls this with the time of the wall clock."""
        return (_BEGINNING + timedelta(seconds=self._clock.monotonic())).replace(tzinfo=self)

    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(0)

    def dst(self, _: datetime | None) -> timedelta:
        return timedelta(0)

    def tzname(self, _: datetime | None) -> str:
        return "steady"


class _Every(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """A fixed interval in seconds. After a stall there is one run, then the interval again."""

    def __init__(self, seconds: float) -> None:
        self._interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        """One interval after the previous run, or after now if that time has passed."""
        due = (previous or now) + self._interval
        return due if due > now else now + self._interval


class Repeated:
    """Work that runs at intervals, never twice at the same time."""

    def __init__(self, job: Job, zone: tzinfo) -> None:
        self._job = job
        self._zone = zone
        self._ended = False

    def bring_forward(self, in_s: float = 0.0) -> None:
        """Run in ``in_s`` seconds, then at the interval again. The work may call this at its own end.

        A step of the event loop later, because APScheduler skips a run that is due before it knows that the previous
        one is over.
        """
        due = datetime.now(self._zone) + timedelta(seconds=in_s)
        asyncio.get_running_loop().call_soon(self._run_at, due)

    def _run_at(self, due: datetime) -> None:
        if not self._ended:
            self._job.modify(next_run_time=due)

    def end(self) -> None:
        """Start no more runs; a current run continues to its end."""
        self._ended = True
        self._job.remove()


class Schedule:
    """``async with Schedule(clock) as schedule: schedule.every(15, poll, name="polls")``."""

    def __init__(self, clock: Clock) -> None:
        self._zone = _SteadyTime(clock)
        # No limit for late runs: APScheduler would measure it by the wall clock and skip a late run.
        self._scheduler = AsyncIOScheduler(timezone=self._zone, job_defaults={"misfire_grace_time": None})

    def every(
        self, seconds: float, work: Callable[[], Awaitable[None]], *, name: str, first_in_s: float = 0.0
    ) -> Repeated:
        """Run ``work`` every ``seconds``. A run that is due while the previous one continues is skipped.

        Exceptions of ``work`` go to APScheduler's log and nowhere else.
        """
        now = datetime.now(self._zone)
        # Work that starts at the same time stays together, so that it wakes the event loop only once.
        together = now.replace(microsecond=now.microsecond // _TOGETHER_US * _TOGETHER_US)
        first = together + timedelta(seconds=first_in_s)
        job = self._scheduler.add_job(work, _Every(seconds), next_run_time=first, name=name)
        return Repeated(job, self._zone)

    async def __aenter__(self) -> Self:
        self._scheduler.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._scheduler.shutdown(wait=False)
