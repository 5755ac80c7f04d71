"""The daemon: a sequence of lives, each with its configuration. The listeners stay open in between."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from agent import __version__
from agent.config.file import ConfigError, load
from agent.daemon import logs, signals
from agent.daemon.composition import assembled, keep_report
from agent.daemon.handover import Handover, NobodyThereError
from agent.daemon.life import Life
from agent.daemon.listener import Listeners
from agent.daemon.monitoring import PATIENCE_S, application
from agent.daemon.outbox_file import make_ready, what_is_broken
from agent.daemon.pages import LifeBackend
from agent.daemon.schedule import Schedule
from agent.daemon.systemd import notify, notify_reloading, watchdog_s
from agent.daemon.watchdog import Watchdog
from agent.inspect.expressions import refuse_endless
from agent.model.times import Drift
from agent.model.trouble import Trouble, Unexpected
from agent.outbox.clock import DatabaseClock
from agent.outbox.engines import is_shared, myself, name_of
from agent.outbox.sqlite.connection import RunLock, wait_for_locks
from agent.outbox.values import DamagedError, MovedError, OutboxError
from agent.sources.reports.intake import Intake
from agent.sources.webhooks.listener import Answers, Hooks
from agent.web.app import application as web_application
from agent.web.backend import UnavailableError
from agent.web.task_file import TaskFile
from agent.web.tasks import Tasks

if TYPE_CHECKING:
    from pathlib import Path

    from agent.config.settings import Settings, WebhookSettings
    from agent.model.times import Clock
    from agent.outbox.hooks import HookDelivery
    from agent.outbox.sqlite.connection import Moved
    from agent.sources.reports.accept import Taken
    from agent.sources.webhooks.values import Delivery, Invalid, Meaning

log = structlog.get_logger("service")

# How long a stop waits for current polls and deliveries. systemd waits longer: TimeoutStopSec in the unit.
STOP_S = 25.0
# How long a report waits for the next life before the intake answers 503.
REPORT_WAITS_S = 10.0
# The same for a delivery of a webhook: platforms wait for 10 s, and send it again.
DELIVERY_WAITS_S = 5.0
CLOCK_LOOK_S = 60.0
FILE_LOOK_S = 2.0
# Pause between attempts to reach an outbox that is elsewhere, before the first one succeeded.
AWAY_LOOK_S = 2.0
CLOCK_WAS_SET_MS = 1_000
CLOCKS_DIFFER_MS = 10_000


def run(settings: Settings, clock: Clock) -> None:
    """Poll and deliver until SIGTERM or SIGINT; SIGHUP reads the configuration again.

    A damaged outbox is repaired, at the start and later. Raises :class:`agent.outbox.values.AlreadyRunningError` or
    :class:`agent.outbox.values.OutboxError` if it cannot start.
    """
    signals.ignore_reload()
    wait_for_locks(stopping=False)
    with RunLock(settings.outbox) as lock:
        asyncio.run(_Service(settings, clock, lock).run())


class _Service:
    """Everything that exists as long as the process: listeners, schedule, watchdog, signals."""

    def __init__(self, settings: Settings, clock: Clock, lock: RunLock) -> None:
        self._settings = settings
        self._lock = lock
        self._own_clock = clock
        self._clock = clock = DatabaseClock(clock) if is_shared(settings) else clock
        self._fresh: Settings | None = None  # for the next life
        self._stopping = asyncio.Event()
        self._life: Handover[Life] = Handover()
        self._unexpected = Unexpected(clock)
        self._watchdog = Watchdog(clock)
        self._schedule = Schedule(clock)
        self._listeners = Listeners()
        self._answers = Answers()
        self._monitoring = application(partial(self._life.get, PATIENCE_S))
        self._tasks = Tasks(TaskFile(settings.outbox), self._backend, clock)
        self._drift = Drift(self._own_clock)
        self._clocks_differ = False
        self._me = myself() if is_shared(settings) else None
        self._away = Trouble("opening the outbox", clock)
        self._one_reload = asyncio.Lock()
        self._reloading: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Run until a stop is requested. Raises :class:`agent.outbox.values.OutboxError`."""
        with signals.listening(stop=self._stop, reload=self._reload):
            async with self._schedule, self._listeners:
                if (limit_s := watchdog_s()) is not None:
                    self._schedule.every(limit_s / 3, self._feed_watchdog, name="watchdog")
                self._schedule.every(CLOCK_LOOK_S, self._look_at_clock, name="clock")
                self._schedule.every(FILE_LOOK_S, self._look_at_file, name="outbox file")
                await self._listen()
                await self._mend(None)
                while not self._stopping.is_set():
                    if self._fresh is not None:
                        self._settings, self._fresh = self._fresh, None
                        await self._listen()
                    problem = await self._live()
                    if problem is not None and not self._stopping.is_set():
                        await self._mend(problem)

    async def _listen(self) -> None:
        """Listen at the configured addresses. Requests between two lives wait for the next life."""
        await self._listeners.listen("monitoring", self._settings.monitoring, self._monitoring)
        settings = self._settings.intake
        if settings is None:
            await self._listeners.close("intake")
        else:
            intake = Intake(settings, self._accept, self._wake)
            await self._listeners.listen("intake", settings.address, intake.app)
        webhooks = self._settings.webhooks
        if webhooks is None or webhooks.address is None:
            await self._listeners.close("webhooks")
        else:
            hooks = Hooks(webhooks.hooks, self._accept_delivery, self._clock, self._answers)
            await self._listeners.listen("webhooks", webhooks.address, hooks.app)
        web = self._settings.web
        if web is None:
            await self._listeners.close("web")
        else:
            pages = web_application(web, self._backend, self._clock, self._tasks)
            await self._listeners.listen("web", web.address, pages)

    async def _mend(self, problem: str | None) -> None:
        """Repair the outbox if it is damaged. A stop waits ``STOP_S`` for it, as for other work."""
        mending = asyncio.ensure_future(asyncio.to_thread(make_ready, self._settings, self._clock, problem))
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({mending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await asyncio.wait({mending}, timeout=STOP_S)
        if not mending.done():
            self._leave_in_the_middle(of=1)
        await mending
        self._lock.follow()

    # ---- one life

    async def _live(self) -> str | None:
        """Run one life; returns the damage of the outbox if the life ended because of it."""
        try:
            async with assembled(self._settings, self._clock, self._me, self._enqueued) as parts:
                self._away.note("outbox", None)
                life = Life(self._settings, parts, self._clock, self._unexpected, self._answers)
                with self._life.given(life):
                    self._begin(life)
                    await life.work.over.wait()
                    pending = await self._end(life)
                    moved = await self._rescue(life)
            if moved is not None and not self._stopping.is_set():
                await self._mend(None)  # the other file can be of an older version or damaged
                return None
            if life.work.damage is not None:
                return what_is_broken(life.work.damage)
        except DamagedError as error:
            return what_is_broken(error)
        except OutboxError as error:
            if self._me is None or isinstance(error, MovedError):
                raise
            await self._wait_for_outbox(error)
            return None
        if self._stopping.is_set():
            log.info("stopped", pending=pending)
        return None

    async def _wait_for_outbox(self, error: OutboxError) -> None:
        """The outbox is elsewhere and cannot be reached. Meanwhile the intake keeps reports on this machine."""
        self._away.note("outbox", str(error))
        notify("READY=1")
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), AWAY_LOOK_S)

    async def _rescue(self, life: Life) -> Moved | None:
        """If the outbox file was deleted or replaced, write it to a new file, however long that takes."""
        while (moved := self._lock.moved()) is not None:
            try:
                done = await life.parts.rescue(self._settings.outbox)
            except OutboxError as error:
                life.work.storing.note("outbox file", str(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), FILE_LOOK_S)
                if self._stopping.is_set():
                    return moved
            else:
                log.error(
                    "outbox file is gone", how=f"it was {moved.value} while the agent was using it",
                    outbox=str(self._settings.outbox), written_to=str(done.file),
                    advice="to start with an empty outbox, stop the agent before you delete the file"
                    if done.in_place
                    else "the agent continues with the new file; the content of the old one is kept in written_to",
                )  # fmt: skip
                return moved
        return None

    def _begin(self, life: Life) -> None:
        self._watchdog.watch(*life.watched)
        life.begin(self._schedule)
        log.info(
            "started",
            version=__version__,
            outbox=name_of(self._settings),
            controllers=len(self._settings.controllers),
        )
        notify("READY=1")
        if self._stopping.is_set() or self._fresh is not None:  # a signal came first
            life.work.over.set()

    async def _end(self, life: Life) -> int | None:
        """End the life; returns the number of pending events, None if it is not known."""
        if late := await life.end(STOP_S, leave=self._stopping.is_set()):
            self._leave_in_the_middle(of=late)
        self._watchdog.watch()
        if not self._stopping.is_set():
            return None
        await self._listeners.close_all()
        try:
            return (await life.parts.counts()).pending
        except OutboxError:
            return None

    def _leave_in_the_middle(self, *, of: int) -> None:
        """Exit during unfinished work.

        Nothing is lost: builds without a commit are read again, events without a result are sent again.
        """
        log.warning("stopping before all work has finished", unfinished=of)
        logs.flush()
        if self._stopping.is_set():
            os._exit(0)
        signals.ignore_reload()
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - restarts this program

    # ---- access of requests to the current life

    async def _accept(self, report: dict[str, object], team: str) -> Taken:
        if self._away.reason is not None:
            return await asyncio.to_thread(keep_report, self._settings, self._clock, report, team)
        try:
            life = await self._life.get(REPORT_WAITS_S)
        except NobodyThereError as error:
            raise OutboxError(str(error)) from None
        return await life.accept(report, team)

    async def _accept_delivery(
        self, hook: WebhookSettings, delivery: Delivery, meaning: Meaning | Invalid
    ) -> HookDelivery:
        try:
            life = await self._life.get(DELIVERY_WAITS_S)
        except NobodyThereError as error:
            raise OutboxError(str(error)) from None
        return await life.accept_delivery(hook, delivery, meaning)

    async def _backend(self) -> LifeBackend:
        try:
            return LifeBackend(await self._life.get(PATIENCE_S))
        except NobodyThereError as error:
            raise UnavailableError(str(error)) from None

    def _wake(self, controller: str | None) -> list[str]:
        """Start polls now. Between two lives nothing is needed: a life starts with polls."""
        if (life := self._life.present) is not None:
            return life.wake(controller)
        return [known.name for known in self._settings.controllers if controller in (None, known.name)]

    def _enqueued(self) -> None:
        """Send it now. A life begins with a look at what is due."""
        if (life := self._life.present) is not None:
            life.delivering.enqueued()

    # ---- signals

    def _stop(self) -> None:
        if not self._stopping.is_set():
            log.info("stopping")
            notify("STOPPING=1")
            wait_for_locks(stopping=True)
        self._stopping.set()
        self._end_life()

    def _reload(self) -> None:
        notify_reloading()
        self._reloading.add(reloading := asyncio.ensure_future(self._read_again()))
        reloading.add_done_callback(self._reloading.discard)

    async def _read_again(self) -> None:
        """Read the configuration for the next life. In a thread, because the trial of slow patterns can take a while.

        One at a time, so that the last signal decides.
        """
        async with self._one_reload:
            try:
                fresh = await asyncio.to_thread(_loaded, self._settings.file)
            except ConfigError as error:
                log.error("configuration not reloaded, the previous one stays in use", reason=str(error))
                if self._life.present is not None:
                    notify("READY=1")
                return
            if fresh.outbox != self._settings.outbox:
                log.error("restart the agent to change [outbox] path", path=str(fresh.outbox))
                fresh = replace(fresh, outbox=self._settings.outbox)
            log.info("configuration reloaded", file=str(fresh.file))
            self._fresh = fresh
            self._end_life()

    def _end_life(self) -> None:
        if (life := self._life.present) is not None:
            life.work.over.set()

    # ---- repeated work of the process

    async def _feed_watchdog(self) -> None:
        if (life := self._life.present) is not None and not life.work.over.is_set():
            self._watchdog.watch(*life.watched)  # in a fleet, controllers come and go
        self._watchdog.feed()

    async def _look_at_file(self) -> None:
        """Check that the outbox file was not deleted or replaced.

        The content of a deleted file is lost when the process ends. So the life ends and the file is rescued.
        """
        life, moved = self._life.present, self._lock.moved()
        if life is not None and moved is not None and not life.work.over.is_set():
            life.work.storing.note("outbox file", f"the outbox {self._settings.outbox} was {moved.value}")
            life.work.over.set()

    async def _look_at_clock(self) -> None:
        """Log that the system clock was changed, or is not that of the database.

        The agent does not depend on it, but readers of times in the log and in events do.
        """
        if abs(set_by := self._drift.ms()) > CLOCK_WAS_SET_MS:
            log.warning("the system clock was changed", by_seconds=set_by // 1000)
            self._drift = Drift(self._own_clock)
        if isinstance(self._clock, DatabaseClock):
            ahead_ms, differed = self._clock.own_ahead_ms(), self._clocks_differ
            self._clocks_differ = abs(ahead_ms) > CLOCKS_DIFFER_MS
            if self._clocks_differ and not differed:
                log.warning("the clock of this machine differs from the database's, which the agent uses",
                            ahead_by_seconds=ahead_ms // 1000)  # fmt: skip


def _loaded(file: Path) -> Settings:
    """The settings of the file. Raises :class:`agent.config.file.ConfigError`."""
    settings = load(file)
    refuse_endless(settings)
    return settings
