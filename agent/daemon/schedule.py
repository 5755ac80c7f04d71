"""What the daemon does at intervals, by APScheduler and by the clock that nobody sets.

APScheduler asks one question about the time, ``datetime.now(its time zone)``, and goes by the wall clock. When that is
set back a year, nothing is started for a year. When it is set forward by years, as on a machine that starts without
knowing the time, APScheduler's own interval trigger counts every run in between. So it gets a time zone in which now is
what the steady clock says, and a trigger that makes up for any number of missed runs by one.
"""

from __future__ import annotations

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
    """A time zone whose now is the steady clock's, counted from some day or other.

    Its times can be compared, subtracted and added to. Converting other times to it makes no sense.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def fromutc(self, _: datetime) -> datetime:
        """``datetime.now(zone)`` calls this with what the wall clock says."""
        return (_BEGINNING + timedelta(seconds=self._clock.monotonic())).replace(tzinfo=self)

    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(0)

    def dst(self, _: datetime | None) -> timedelta:
        return timedelta(0)

    def tzname(self, _: datetime | None) -> str:
        return "steady"


class _Every(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """Every so many seconds; after a stall one run, and from then on every so many seconds again."""

    def __init__(self, seconds: float) -> None:
        self._interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        """One interval after the run before, or after now when that is over already."""
        due = (previous or now) + self._interval
        return due if due > now else now + self._interval


class Repeated:
    """Something that is done at intervals, never twice at the same time."""

    def __init__(self, job: Job, zone: tzinfo) -> None:
        self._job = job
        self._zone = zone

    def bring_forward(self, in_s: float = 0.0) -> None:
        """Do it in so many seconds, and at its intervals after that."""
        self._job.modify(next_run_time=datetime.now(self._zone) + timedelta(seconds=in_s))

    def end(self) -> None:
        """Begin it no more; a run under way comes to its end."""
        self._job.remove()


class Schedule:
    """``async with Schedule(clock) as schedule: schedule.every(15, poll, name="polls")``."""

    def __init__(self, clock: Clock) -> None:
        self._zone = _SteadyTime(clock)
        # Without a limit for being late: it would be measured on the wall clock, and a late run be left out.
        self._scheduler = AsyncIOScheduler(timezone=self._zone, job_defaults={"misfire_grace_time": None})

    def every(
        self, seconds: float, work: Callable[[], Awaitable[None]], *, name: str, first_in_s: float = 0.0
    ) -> Repeated:
        """Do it every so many seconds. A run that is due while the one before goes on is left out.

        What ``work`` raises ends up in APScheduler's log and nowhere else.
        """
        now = datetime.now(self._zone)
        # What is begun at the same time stays together: it wakes the event loop once and not several times.
        together = now.replace(microsecond=now.microsecond // _TOGETHER_US * _TOGETHER_US)
        first = together + timedelta(seconds=first_in_s)
        job = self._scheduler.add_job(work, _Every(seconds), next_run_time=first, name=name)
        return Repeated(job, self._zone)

    async def __aenter__(self) -> Self:
        self._scheduler.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._scheduler.shutdown(wait=False)
