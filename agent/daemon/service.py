"""The daemon, and the single pass of ``once``: where poller, outbox and delivery are put together."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from agent import __version__
from agent.config.file import ConfigError, load
from agent.daemon.every import Every
from agent.daemon.monitoring import application
from agent.daemon.polling import Polls
from agent.daemon.systemd import notify, notify_reloading, watchdog_s
from agent.daemon.watchdog import Watchdog, Watched, patience_of_drain
from agent.daemon.work import Work
from agent.delivery.dispatcher import Drain
from agent.delivery.hivel import HivelClient
from agent.ingest.takeup import TakeUp
from agent.inspect.status import delivery_status
from agent.model.times import Drift
from agent.outbox.sqlite.connection import RunLock, in_words
from agent.outbox.sqlite.repair import repair, unfinished
from agent.outbox.sqlite.retention import Retention
from agent.outbox.sqlite.store import Outbox
from agent.outbox.values import DamagedError
from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.poller import Poller
from agent.sources.reports.intake import Intake
from agent.sources.reports.spool import Spool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from starlette.types import ASGIApp

    from agent.config.settings import Address, Settings
    from agent.inspect.status import DeliveryStatus
    from agent.model.times import Clock
    from agent.model.trouble import Trouble
    from agent.outbox.sqlite.store import Counts
    from agent.sources.jenkins.poller import PollReport

log = structlog.get_logger("service")

# How long a stop waits for polls and deliveries that are under way. systemd's own patience is 90 seconds.
STOP_S = 25.0
RETENTION_S = 60
CLOCK_LOOK_S = 5.0
CLOCK_WAS_SET_MS = 1_000
# So many steps of retention at a time, with deliveries in between.
RETENTION_STEPS = 100


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
    """Poll and deliver until SIGTERM or SIGINT; SIGHUP reads the configuration anew.

    A damaged outbox is repaired, at the start and later. Raises
    :class:`agent.outbox.values.AlreadyRunningError` or
    :class:`agent.outbox.values.OutboxError` when it cannot start.
    """
    # Until the event loop listens: what it would be told to read was just read.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # One event loop for all lives: it keeps the signals that come between two of them.
    with RunLock(settings.outbox), asyncio.Runner() as runner:
        problem = None
        next_settings: Settings | None = settings
        while next_settings is not None:
            settings = next_settings
            _mend(settings, clock, problem)
            problem = None
            daemon = _Daemon(settings, clock)
            try:
                next_settings = runner.run(daemon.run())
            except (DamagedError, sqlite3.Error) as error:
                problem = _damage(error, settings.outbox)
                if daemon.stopped:  # the next start will meet it again, and has the time to mend it
                    return


def once(settings: Settings, clock: Clock) -> OnceReport:
    """One poll of each controller and one drain of what is due. Raises like :func:`run`."""
    with RunLock(settings.outbox):
        _mend(settings, clock, None)
        try:
            return asyncio.run(_once(settings, clock))
        except (DamagedError, sqlite3.Error) as error:  # damage in the depth of the file shows when it is read
            _mend(settings, clock, _damage(error, settings.outbox))
        return asyncio.run(_once(settings, clock))


def _damage(error: DamagedError | sqlite3.Error, path: Path) -> str:
    """What is broken in the file, in SQLite's words. Raises the error in ours when it is something else."""
    if isinstance(error, sqlite3.Error) and not isinstance(in_our_words := in_words(error, path), DamagedError):
        raise in_our_words from error
    return str(error.__cause__ or error)


def _mend(settings: Settings, clock: Clock, problem: str | None) -> None:
    """Repair the outbox where somebody met damage, or where it cannot be opened for it."""
    path = settings.outbox
    if problem is None and unfinished(path):
        problem = "its repair was interrupted"
    if problem is None:
        try:
            Outbox(path, clock).close()
        except DamagedError as error:
            problem = _damage(error, path)
    if problem is not None:
        done = repair(path, clock, problem, [controller.name for controller in settings.controllers])
        log.error(
            "outbox was damaged", problem=problem, moved_to=str(done.moved_to), events_recovered=done.events,
            advice="builds that ended in the last week are read again; for older ones: hivel-agent backfill",
        )  # fmt: skip


async def _once(settings: Settings, clock: Clock) -> OnceReport:
    with _pollers(settings, clock) as pollers, Outbox(settings.outbox, clock) as outbox:
        take_reports(*_reports_of(settings, outbox))
        polls = await asyncio.gather(*(asyncio.to_thread(poller.poll) for poller in pollers))
        outbox.release_overdue(settings.hold_for_ms)
        async with _hivel(settings) as hivel:
            drain = Drain(outbox, hivel, settings.delivery)
            await drain.run()
        if drain.trouble is not None:
            raise drain.trouble
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
            take = partial(take_reports, *_reports_of(settings, outbox))
            pollers.append(Poller(controller, settings.rules, client, outbox, settings.options, take_reports=take))
        yield pollers


def _reports_of(settings: Settings, outbox: Outbox) -> tuple[TakeUp, Spool | None]:
    takeup = TakeUp(settings, outbox)
    return takeup, None if settings.spool is None else Spool(settings.spool, outbox, takeup)


def _hivel(settings: Settings) -> HivelClient:
    return HivelClient(
        settings.hivel, timeout_ms=settings.delivery.timeout_ms, concurrency=settings.delivery.concurrency
    )


class _Daemon:
    """One life of the daemon between two readings of the configuration; also what monitoring looks at."""

    outbox: Outbox
    drain: Drain
    polls: Sequence[Polls]

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self.clock = clock
        self._work = Work(settings.outbox, clock)
        self._next: Settings | None = None
        self.stopped = False
        self._watchdog = Watchdog(clock)

    @property
    def storing(self) -> Trouble:
        """Whether the outbox can be written."""
        return self._work.storing

    async def run(self) -> Settings | None:
        """Returns when it was told to stop, or with the settings to go on with. Raises :class:`DamagedError`."""
        settings, clock = self._settings, self.clock
        async with AsyncExitStack() as stack:
            self._listen_to_signals()
            pollers = stack.enter_context(_pollers(settings, clock))
            self.polls = [
                Polls(controller, poller, self._work, clock)
                for controller, poller in zip(settings.controllers, pollers, strict=True)
            ]
            self.outbox = stack.enter_context(Outbox(settings.outbox, clock))
            self.drain = Drain(self.outbox, await stack.enter_async_context(_hivel(settings)), settings.delivery)
            takeup, spool = _reports_of(settings, self.outbox)
            await stack.enter_async_context(_listening("monitoring", settings.monitoring, application(self)))
            if settings.intake is not None:
                intake = Intake(settings.intake, takeup, clock, self._wake)
                await stack.enter_async_context(_listening("intake", settings.intake.address, intake.app))
            scheduler = self._schedule(takeup, spool)
            minding = asyncio.create_task(self._mind_the_clock(scheduler))
            stack.callback(minding.cancel)
            log.info("started", version=__version__, outbox=str(settings.outbox), controllers=len(pollers))
            notify("READY=1")
            await self._work.over.wait()
            await self._end(scheduler)
            pending = None if self._work.damage else self.outbox.counts().pending
        if self.stopped:
            log.info("stopped", pending=pending)
            return None
        if self._work.damage is not None:
            raise self._work.damage
        return self._next

    async def _end(self, scheduler: AsyncIOScheduler) -> None:
        """APScheduler would cancel running jobs; here they come to their end, within bounds."""
        if self.stopped:
            log.info("stopping")
            notify("STOPPING=1")
        scheduler.pause()
        self.drain.stop()
        for polls in self.polls:
            polls.stop()
        if late := await self._work.finish(STOP_S):
            # Nothing is lost by it: what was not committed will be read again, what was not settled sent again.
            log.warning("stopped in the middle of something", late=late)
            if self.stopped:
                os._exit(0)
            os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - this very program, anew
        scheduler.shutdown(wait=False)

    # ---- signals

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _stop(self) -> None:
        self.stopped = True
        self._work.over.set()

    def _reload(self) -> None:
        notify_reloading()
        try:
            fresh = load(self._settings.file)
        except ConfigError as error:
            log.error("the new configuration is wrong, the one before stays", reason=str(error))
            notify("READY=1")
            return
        if fresh.outbox != self._settings.outbox:
            log.error("another [outbox] path needs a restart", path=str(fresh.outbox))
            fresh = replace(fresh, outbox=self._settings.outbox)
        log.info("configuration read anew", file=str(fresh.file))
        self._next = fresh
        self._work.over.set()

    def _wake(self, controller: str | None) -> list[str]:
        """Let the poller of this controller, or all of them, look now; returns the names of those."""
        woken = [polls for polls in self.polls if controller in (None, polls.name)]
        for polls in woken:
            polls.wake()
        return [polls.name for polls in woken]

    # ---- what is done again and again

    def _schedule(self, takeup: TakeUp, spool: Spool | None) -> AsyncIOScheduler:
        # A stalled machine must not skip a run (misfire), nor make up for it many times over (coalesce).
        scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        )
        now = datetime.now(UTC)
        for polls in self.polls:
            self._watchdog.watch(polls.watched)
            polls.schedule(scheduler, now)
        settings = self._settings
        seconds = settings.delivery.interval_ms / 1000
        drain = Watched("delivery", patience_of_drain(settings.delivery), lambda: self.drain.progress)
        self._watchdog.watch(drain)
        scheduler.add_job(self._drain, Every(seconds), [drain], next_run_time=now, name="drain")
        scheduler.add_job(self._take, Every(seconds), [takeup, spool], next_run_time=now, name="reports")
        retention = Retention(self.outbox, settings.keep_delivered_ms, settings.keep_ids_ms)
        scheduler.add_job(self._retain, Every(RETENTION_S), [retention], name="retention")
        if (every := watchdog_s()) is not None:
            scheduler.add_job(self._watchdog.feed, Every(every / 3), next_run_time=now, name="watchdog")
        scheduler.start()
        return scheduler

    async def _mind_the_clock(self, scheduler: AsyncIOScheduler) -> None:
        """APScheduler goes by the wall clock: were it set back a year, nothing would be done for a year."""
        drift = Drift(self.clock)
        while True:
            await asyncio.sleep(CLOCK_LOOK_S)
            if abs(set_by := drift.ms()) > CLOCK_WAS_SET_MS:
                log.warning("the clock was set", by_seconds=set_by // 1000)
                drift = Drift(self.clock)
                for job in scheduler.get_jobs():
                    job.modify(next_run_time=datetime.now(UTC))

    async def _drain(self, watched: Watched) -> None:
        with self._work.doing(watched.name, watched):
            await self.drain.run()
            self.storing.note(watched.name, None if self.drain.trouble is None else str(self.drain.trouble))

    async def _take(self, takeup: TakeUp, spool: Spool | None) -> None:
        with self._work.doing("reports"):
            for controller in take_reports(takeup, spool):
                self._wake(controller)
            for deployment_id in self.outbox.release_overdue(self._settings.hold_for_ms):
                log.warning("goes out without the poller's word", deployment_id=deployment_id)
            self.storing.note("reports", None)

    async def _retain(self, retention: Retention) -> None:
        with self._work.doing("retention"):
            for _ in range(RETENTION_STEPS):
                if self._work.over.is_set() or not retention.step():
                    break
                await asyncio.sleep(0.01)
            self.storing.note("retention", None)


def take_reports(takeup: TakeUp, spool: Spool | None) -> set[str]:
    """Make events of the reports that wait; returns the names of the controllers whose builds reported themselves."""
    taken = takeup.take_stored() + (spool.take() if spool is not None else [])
    return {each.controller for each in taken if each.controller is not None}


@asynccontextmanager
async def _listening(what: str, address: Address | None, app: ASGIApp) -> AsyncIterator[None]:
    """A port that is taken must not keep events from being delivered."""
    from agent.daemon.listener import Listener  # noqa: PLC0415 - `once` listens to nobody

    if address is None:
        yield
        return
    try:
        listener = Listener(app, address.host, address.port)
    except OSError as error:
        reason = f"{error.strerror}; set [{what}] listen to another address"
        log.error("cannot listen", what=what, address=str(address), reason=reason)
        yield
        return
    async with listener:
        log.info("listening", what=what, url=f"http://{replace(address, port=listener.port)}")
        yield
