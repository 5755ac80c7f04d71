"""The daemon, and the single pass of ``once``: where poller, outbox and delivery are put together."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from agent import __version__
from agent.config import ConfigError, load
from agent.delivery.drain import Drain
from agent.delivery.hivel import HivelClient
from agent.jenkins.client import JenkinsClient
from agent.jenkins.poller import Poller
from agent.monitoring import PollRecord, application
from agent.notify import notify, notify_reloading, watchdog_s
from agent.outbox.connection import DamagedError, OutboxError, RunLock, in_words
from agent.outbox.repair import repair, unfinished
from agent.outbox.retention import Retention
from agent.outbox.store import Outbox
from agent.report import delivery_status
from agent.trouble import Trouble
from agent.watchdog import Watchdog, Watched, patience_of_drain, patience_of_poll

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from agent.config import Address, Settings
    from agent.jenkins.poller import PollReport
    from agent.outbox.store import Counts
    from agent.report import DeliveryStatus
    from agent.times import Clock

log = structlog.get_logger("service")

# How long a stop waits for polls and deliveries that are under way. systemd's own patience is 90 seconds.
STOP_S = 25.0
RETENTION_S = 60
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

    A damaged outbox is repaired, at the start and later. Raises :class:`agent.outbox.connection.AlreadyRunningError`
    or :class:`agent.outbox.connection.OutboxError` when it cannot start.
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
            except DamagedError as error:
                problem = str(error.__cause__ or error)


def once(settings: Settings, clock: Clock) -> OnceReport:
    """One poll of each controller and one drain of what is due. Raises like :func:`run`."""
    with RunLock(settings.outbox):
        _mend(settings, clock, None)
        return asyncio.run(_once(settings, clock))


def _mend(settings: Settings, clock: Clock, problem: str | None) -> None:
    """Repair the outbox where somebody met damage, or where it cannot be opened for it."""
    path = settings.outbox
    if problem is None and unfinished(path):
        problem = "its repair was interrupted"
    if problem is None:
        try:
            Outbox(path, clock).close()
        except DamagedError as error:
            problem = str(error.__cause__ or error)
    if problem is not None:
        done = repair(path, clock, problem, [controller.name for controller in settings.controllers])
        log.error(
            "outbox was damaged", problem=problem, moved_to=str(done.moved_to), events_recovered=done.events,
            advice="builds that ended in the last week are read again; for older ones: hivel-agent backfill",
        )  # fmt: skip


async def _once(settings: Settings, clock: Clock) -> OnceReport:
    with _pollers(settings, clock) as pollers, Outbox(settings.outbox, clock) as outbox:
        polls = await asyncio.gather(*(asyncio.to_thread(poller.poll) for poller in pollers))
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
            pollers.append(Poller(controller, settings.rules, client, outbox, settings.options))
        yield pollers


def _hivel(settings: Settings) -> HivelClient:
    return HivelClient(
        settings.hivel, timeout_ms=settings.delivery.timeout_ms, concurrency=settings.delivery.concurrency
    )


class _Daemon:
    """One life of the daemon between two readings of the configuration; also what monitoring looks at."""

    outbox: Outbox
    drain: Drain

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self.clock = clock
        self._over = asyncio.Event()
        self._next: Settings | None = None
        self._damage: DamagedError | None = None
        self._under_way: set[asyncio.Task[object]] = set()
        self.storing = Trouble("storing events", clock)
        self.polls = {
            controller.name: PollRecord(clock.monotonic(), 5 * controller.poll_interval_ms / 1000 + 120)
            for controller in settings.controllers
        }
        self._watchdog = Watchdog(clock)

    async def run(self) -> Settings | None:
        """Returns when it was told to stop, or with the settings to go on with. Raises :class:`DamagedError`."""
        self._listen_to_signals()
        settings, clock = self._settings, self.clock
        async with AsyncExitStack() as stack:
            pollers = stack.enter_context(_pollers(settings, clock))
            self.outbox = stack.enter_context(Outbox(settings.outbox, clock))
            self.drain = Drain(self.outbox, await stack.enter_async_context(_hivel(settings)), settings.delivery)
            await stack.enter_async_context(_monitoring(settings.monitoring, self))
            scheduler = self._schedule(pollers)
            log.info("started", version=__version__, outbox=str(settings.outbox), controllers=len(pollers))
            notify("READY=1")
            await self._over.wait()
            await self._end(scheduler, pollers)
            pending = None if self._damage else self.outbox.counts().pending
        if self._damage is not None:
            raise self._damage
        if self._next is None:
            log.info("stopped", pending=pending)
        return self._next

    async def _end(self, scheduler: AsyncIOScheduler, pollers: list[Poller]) -> None:
        """APScheduler would cancel running jobs; here they come to their end, within bounds."""
        if self._next is None and self._damage is None:
            log.info("stopping")
            notify("STOPPING=1")
        scheduler.pause()
        await asyncio.sleep(0)  # what the scheduler began a moment ago makes its first step, and is under way
        self.drain.stop()
        for poller in pollers:
            poller.stop()
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=STOP_S)
            if late:
                # Nothing is lost by it: what was not committed will be read again, what was not settled sent again.
                log.warning("stopped in the middle of something", late=len(late))
                os._exit(0 if self._next is None and self._damage is None else 1)
        scheduler.shutdown(wait=False)

    # ---- signals

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._over.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

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
        self._over.set()

    # ---- what is done again and again

    def _schedule(self, pollers: list[Poller]) -> AsyncIOScheduler:
        # A stalled machine must not skip a run (misfire), nor make up for it many times over (coalesce).
        scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        )
        now = datetime.now(UTC)
        for settings, poller in zip(self._settings.controllers, pollers, strict=True):
            name, seconds = f"polls of {settings.name}", settings.poll_interval_ms / 1000
            watched = self._watchdog.watch(Watched(name, patience_of_poll(settings), partial(_requests, poller)))
            scheduler.add_job(self._poll, "interval", [poller, watched], seconds=seconds, next_run_time=now, name=name)
        drain = Watched("delivery", patience_of_drain(self._settings.delivery), lambda: self.drain.progress)
        seconds = self._settings.delivery.interval_ms / 1000
        scheduler.add_job(
            self._drain, "interval", [self._watchdog.watch(drain)], seconds=seconds, next_run_time=now, name="drain"
        )
        retention = Retention(self.outbox, self._settings.keep_delivered_ms, self._settings.keep_ids_ms)
        scheduler.add_job(self._retain, "interval", [retention], seconds=RETENTION_S, name="retention")
        if (every := watchdog_s()) is not None:
            scheduler.add_job(self._watchdog.feed, "interval", seconds=every / 3, next_run_time=now, name="watchdog")
        scheduler.start()
        return scheduler

    async def _poll(self, poller: Poller, watched: Watched) -> None:
        with self._working(watched):
            if not poller.due():
                return
            started = self.clock.monotonic()
            report = await asyncio.to_thread(poller.poll)
            self.storing.note(None if self.drain.trouble is None else str(self.drain.trouble))
            finished = self.clock.monotonic()
            record = self.polls[report.controller]
            record.polls += 1
            record.seconds += finished - started
            if report.complete:
                record.finished_at = finished

    async def _drain(self, watched: Watched) -> None:
        with self._working(watched):
            await self.drain.run()
            if self.drain.trouble is not None:
                self.storing.note(str(self.drain.trouble))

    async def _retain(self, retention: Retention) -> None:
        with self._working(None):
            for _ in range(RETENTION_STEPS):
                if self._over.is_set() or not retention.step():
                    return
                await asyncio.sleep(0.01)

    @contextmanager
    def _working(self, watched: Watched | None) -> Iterator[None]:
        """Something is under way; what the outbox does wrong is noted, and met again the next time."""
        task = asyncio.current_task()
        if task is not None:
            self._under_way.add(task)
        try:
            yield
        except DamagedError as error:
            self._damaged(error)
        except OutboxError as error:
            self.storing.note(str(error))
        except sqlite3.Error as error:
            in_our_words = in_words(error, self._settings.outbox)
            if isinstance(in_our_words, DamagedError):
                in_our_words.__cause__ = error
                self._damaged(in_our_words)
            else:
                self.storing.note(str(in_our_words))
        finally:
            if watched is not None:
                watched.runs += 1
            if task is not None:
                self._under_way.discard(task)

    def _damaged(self, error: DamagedError) -> None:
        if self._damage is None:
            self._damage = error
            self._over.set()


def _requests(poller: Poller) -> int:
    return poller.requests


@asynccontextmanager
async def _monitoring(address: Address | None, daemon: _Daemon) -> AsyncIterator[None]:
    """A port that is taken must not keep events from being delivered."""
    from agent.listener import Listener  # noqa: PLC0415 - `once` listens to nobody

    if address is None:
        yield
        return
    try:
        listener = Listener(application(daemon), address.host, address.port)
    except OSError as error:
        log.error(
            "monitoring is off", address=str(address),
            reason=f'{error.strerror}; set [monitoring] listen to another address, or to "" for none',
        )  # fmt: skip
        yield
        return
    async with listener:
        log.info("monitoring", url=f"http://{replace(address, port=listener.port)}/metrics")
        yield
