"""Where sources, outbox and delivery are put together from the settings, and nowhere else.

Everything that uses the outbox has a connection and a thread of its own, so that nobody waits for another one's disk,
lock or Jenkins, and the event loop waits for none of them. What is awaited here is done in these threads.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from agent.daemon.changes import Changes
from agent.daemon.stored import read
from agent.delivery.dispatcher import Dispatcher
from agent.delivery.hivel import HivelClient
from agent.ingest.ingest import Ingest
from agent.inspect.derived import rules_of
from agent.inspect.silent import silent_jobs
from agent.outbox.offloop import OffLoop
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.sqlite.rescue import rescue
from agent.outbox.values import Keep
from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.poller import Poller
from agent.sources.reports.accept import Reports
from agent.sources.reports.inbox import take_batch
from agent.sources.reports.spool import Spool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agent.config.settings import JenkinsSettings, Settings
    from agent.daemon.stored import Stored
    from agent.inspect.silent import SilentJob
    from agent.model.deployment import Deployment
    from agent.model.times import Clock
    from agent.outbox.sqlite.rescue import Rescue
    from agent.outbox.values import Counts
    from agent.sources.jenkins.poller import PollReport
    from agent.sources.reports.accept import Taken


@dataclass(frozen=True)
class Controller:
    """One Jenkins controller with what polls it."""

    settings: JenkinsSettings
    client: JenkinsClient
    poller: Poller
    off_loop: OffLoop

    async def poll(self) -> PollReport:
        """Look once. Raises :class:`agent.outbox.values.OutboxError`."""
        return await self.off_loop(self.poller.poll)

    def cancel(self) -> None:
        """Let the poll under way wait for no answer of Jenkins any more."""
        self.client.close()

    def end(self) -> None:
        """Let the poll under way look at no other job, and wait for no answer."""
        self.poller.stop()
        self.cancel()


class Reporting:
    """What builds report by themselves, and the deployments that wait for their poller's word."""

    def __init__(self, settings: Settings, outbox: SqliteOutbox, off_loop: OffLoop) -> None:
        log = settings.outbox.with_name(settings.outbox.name + "-wal")  # every commit changes it
        self._changes = Changes(log, *([] if settings.spool is None else [settings.spool]))
        self.ingest = Ingest(outbox, rules_of(settings), settings.hold_for_ms)
        self._reports = Reports(settings, self.ingest)
        self._spool = None if settings.spool is None else Spool(settings.spool, self._reports)
        self._off_loop = off_loop
        self.batches = 0

    async def accept(self, report: dict[str, object], team: str) -> Taken:
        """Store what a build posted; ``team`` is the one whose token it had.

        Raises :class:`agent.model.report.ReportError` and :class:`agent.outbox.values.OutboxError`.
        """
        at = self._reports.outbox.clock.now_ms()
        return await self._off_loop(partial(self._reports.take, report, source="intake", at=at, principal=team))

    async def take(self) -> set[str]:
        """Take all that waits in the inbox and in the spool; returns the controllers whose builds reported.

        Reports that are posted meanwhile do not have to wait until it is done.
        """
        woken: set[str] = set()
        if not self._changes.noticed():
            return woken
        while taken := await self._off_loop(self.take_batch):
            woken.update(each.controller for each in taken if each.controller is not None)
            self.batches += 1
        self._changes.looked()
        return woken

    def take_batch(self) -> list[Taken]:
        """Take some; none when there are no more."""
        taken = take_batch(self._reports)
        if taken is None and self._spool is not None:
            return self._spool.take()
        return taken or []

    async def release(self) -> list[Deployment]:
        """Let go what waited long enough for its poller's word."""
        return await self._off_loop(self.ingest.release)


@dataclass(frozen=True)
class Parts:
    """Everything that works on one outbox."""

    controllers: tuple[Controller, ...]
    dispatcher: Dispatcher
    reporting: Reporting
    housekeeping: tuple[SqliteOutbox, OffLoop]
    keep: Keep
    settings: Settings
    looking: tuple[SqliteOutbox, OffLoop]

    async def deliver(self) -> None:
        """Send what is due.

        Raises :class:`agent.outbox.values.OutboxError`, also for outcomes that cannot be stored: they are kept in
        memory and stored by a later call.
        """
        await self.dispatcher.run()
        if self.dispatcher.trouble is not None:
            raise self.dispatcher.trouble

    async def tidy(self) -> bool:
        """Delete a little of what is old; True when there may be more."""
        outbox, off_loop = self.housekeeping
        return await off_loop(outbox.prune, self.keep)

    async def try_writing(self) -> None:
        """Raises :class:`agent.outbox.values.OutboxError` when nothing can be stored."""
        outbox, off_loop = self.housekeeping
        await off_loop(outbox.try_writing)

    async def rescue(self, path: Path) -> Rescue:
        """Write everything to a file that has its name. Raises :class:`agent.outbox.values.OutboxError`."""
        outbox, off_loop = self.looking
        return await off_loop(rescue, outbox, path, outbox.clock)

    async def stored(self) -> Stored:
        """What the outbox knows, for monitoring. Raises :class:`agent.outbox.values.OutboxError`."""
        outbox, off_loop = self.looking
        return await off_loop(read, outbox)

    async def silent_jobs(self) -> list[SilentJob]:
        """Jobs that used to deploy. Raises :class:`agent.outbox.values.OutboxError`."""
        outbox, off_loop = self.looking
        return await off_loop(silent_jobs, self.settings, outbox)

    async def counts(self) -> Counts:
        """How many deployments are in each state. Raises :class:`agent.outbox.values.OutboxError`."""
        outbox, off_loop = self.looking
        return await off_loop(outbox.counts)


@asynccontextmanager
async def assembled(settings: Settings, clock: Clock) -> AsyncIterator[Parts]:
    """All parts, until the block ends; what they have begun by then comes to its end.

    Raises :class:`agent.outbox.values.OutboxError`.
    """
    async with AsyncExitStack() as stack:
        opener = _Opener(settings, clock, stack)
        controllers = [await opener.controller(controller) for controller in settings.controllers]
        storing, off_loop = await opener.outbox("reports")
        yield Parts(
            controllers=tuple(controllers),
            dispatcher=await opener.dispatcher(),
            reporting=Reporting(settings, storing, off_loop),
            housekeeping=(storing, off_loop),
            keep=Keep(settings.keep_delivered_ms, settings.keep_deployments_ms, settings.keep_ids_ms),
            settings=settings,
            looking=await opener.outbox("monitoring"),
        )


@dataclass(frozen=True)
class _Opener:
    """Opens what has to be closed again."""

    settings: Settings
    clock: Clock
    stack: AsyncExitStack

    async def outbox(self, whose: str) -> tuple[SqliteOutbox, OffLoop]:
        """A connection, and the thread in which it is used."""
        settings = self.settings
        off_loop = await self.stack.enter_async_context(OffLoop(whose))
        opened = partial(SqliteOutbox, settings.outbox, self.clock, max_size=settings.max_size_bytes)
        outbox = await off_loop(opened)
        self.stack.push_async_callback(off_loop, outbox.close)
        return outbox, off_loop

    async def controller(self, controller: JenkinsSettings) -> Controller:
        outbox, off_loop = await self.outbox(f"polls of {controller.name}")
        settings = self.settings
        client = JenkinsClient(controller, self.clock)
        self.stack.callback(client.close)
        reporting = Reporting(settings, outbox, off_loop)
        poller = Poller(controller, client, reporting.ingest, take_reports=reporting.take_batch)
        return Controller(controller, client, poller, off_loop)

    async def dispatcher(self) -> Dispatcher:
        outbox, off_loop = await self.outbox("delivery")
        settings = self.settings
        hivel = await self.stack.enter_async_context(HivelClient(settings.hivel, settings.delivery, self.clock))
        return Dispatcher(outbox, hivel, settings.delivery, off_loop=off_loop, clock=self.clock)
