"""The daemon, and the single pass of ``once``: where poller, outbox and delivery are put together."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from agent import __version__
from agent.delivery.drain import Drain
from agent.delivery.hivel import HivelClient
from agent.jenkins.client import JenkinsClient
from agent.jenkins.poller import Poller
from agent.outbox.connection import OutboxError, RunLock
from agent.outbox.store import Outbox
from agent.report import delivery_status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config import Settings
    from agent.jenkins.poller import PollReport
    from agent.outbox.store import Counts
    from agent.report import DeliveryStatus
    from agent.times import Clock

log = structlog.get_logger("service")

# How long a stop waits for polls and deliveries that are under way. systemd's own patience is 90 seconds.
STOP_S = 25.0


@dataclass(frozen=True)
class OnceReport:
    """What a single pass did, and what it left behind."""

    polls: list[PollReport]
    delivery: DeliveryStatus
    counts: Counts

    @property
    def needs_attention(self) -> bool:
        """Something failed: a poll, an event, or the delivery is paused. Events that merely wait are no failure."""
        return bool(any(poll.problems for poll in self.polls) or self.counts.failed or self.delivery.state == "paused")


def run(settings: Settings, clock: Clock) -> None:
    """Poll and deliver until SIGTERM or SIGINT.

    Raises :class:`agent.outbox.connection.AlreadyRunningError` or :class:`agent.outbox.connection.OutboxError`
    when it cannot start.
    """
    with RunLock(settings.outbox):
        asyncio.run(_Daemon(settings, clock).run())


def once(settings: Settings, clock: Clock) -> OnceReport:
    """One poll of each controller and one drain of what is due. Raises like :func:`run`."""
    with RunLock(settings.outbox):
        return asyncio.run(_once(settings, clock))


async def _once(settings: Settings, clock: Clock) -> OnceReport:
    with _pollers(settings, clock) as pollers, Outbox(settings.outbox, clock) as outbox:
        polls = await asyncio.gather(*(asyncio.to_thread(poller.poll) for poller in pollers))
        async with _hivel(settings) as hivel:
            drain = Drain(outbox, hivel, settings.delivery)
            await drain.run()
        return OnceReport(list(polls), delivery_status(drain.gate.snapshot()), outbox.counts())


@contextmanager
def _pollers(settings: Settings, clock: Clock) -> Iterator[list[Poller]]:
    """A poller for each controller, each with a connection to the outbox of its own: they run in threads."""
    with ExitStack() as stack:
        pollers = []
        for controller in settings.controllers:
            outbox = stack.enter_context(Outbox(settings.outbox, clock))
            client = JenkinsClient(controller)
            stack.callback(client.close)
            pollers.append(Poller(controller, settings.rules, client, outbox, settings.options))
        yield pollers


def _hivel(settings: Settings) -> HivelClient:
    return HivelClient(
        settings.hivel, timeout_ms=settings.delivery.timeout_ms, concurrency=settings.delivery.concurrency
    )


class _Daemon:
    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._stop = asyncio.Event()
        self._under_way: set[asyncio.Task[object]] = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        settings, clock = self._settings, self._clock
        with _pollers(settings, clock) as pollers, Outbox(settings.outbox, clock) as outbox:
            async with _hivel(settings) as hivel:
                drain = Drain(outbox, hivel, settings.delivery)
                scheduler = self._schedule(pollers, drain)
                log.info("started", version=__version__, outbox=str(settings.outbox), controllers=len(pollers))
                await self._stop.wait()
                log.info("stopping")
                scheduler.pause()
                drain.stop()
                for poller in pollers:
                    poller.stop()
                await self._finish_what_is_under_way()
                scheduler.shutdown(wait=False)
            log.info("stopped", pending=outbox.counts().pending)

    def _schedule(self, pollers: list[Poller], drain: Drain) -> AsyncIOScheduler:
        # A stalled machine must not skip a run (misfire), nor make up for it many times over (coalesce).
        scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        )
        now = datetime.now(UTC)
        for settings, poller in zip(self._settings.controllers, pollers, strict=True):
            seconds = settings.poll_interval_ms / 1000
            scheduler.add_job(
                self._poll, "interval", [poller], seconds=seconds, next_run_time=now, name=f"poll {settings.name}"
            )
        seconds = self._settings.delivery.interval_ms / 1000
        scheduler.add_job(self._drain, "interval", [drain], seconds=seconds, next_run_time=now, name="drain")
        scheduler.start()
        return scheduler

    async def _poll(self, poller: Poller) -> None:
        with self._tracked():
            try:
                if poller.due():
                    await asyncio.to_thread(poller.poll)
            except OutboxError as error:
                log.error("poll not stored, it will be repeated", reason=str(error))

    async def _drain(self, drain: Drain) -> None:
        with self._tracked():
            try:
                await drain.run()
            except OutboxError as error:
                log.error("delivery waits for the outbox", reason=str(error))

    @contextmanager
    def _tracked(self) -> Iterator[None]:
        task = asyncio.current_task()
        if task is not None:
            self._under_way.add(task)
        try:
            yield
        finally:
            if task is not None:
                self._under_way.discard(task)

    async def _finish_what_is_under_way(self) -> None:
        """APScheduler would cancel running jobs; here they come to their end, within bounds."""
        if not self._under_way:
            return
        _, late = await asyncio.wait(self._under_way, timeout=STOP_S)
        if late:
            # Nothing is lost by it: what was not committed will be read again, what was not settled sent again.
            log.warning("stopped in the middle of something", late=len(late))
            os._exit(0)
