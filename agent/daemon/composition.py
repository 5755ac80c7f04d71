"""Builds sources, outbox and delivery from the settings.

Each user of the outbox has its own connection and thread. So no part waits for the disk, the lock or the Jenkins of
another part, and the event loop waits for none of them. The coroutines here run their work in these threads.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from agent.daemon.changes import Changes
from agent.daemon.fleet import FleetParts
from agent.daemon.gaps import GapStore
from agent.daemon.hooks import HookStorage
from agent.daemon.stored import read
from agent.delivery.dispatcher import Dispatcher
from agent.delivery.hivel import HivelClient
from agent.fleet.leases import Leases
from agent.ingest.ingest import Ingest
from agent.inspect.derived import rules_of
from agent.inspect.silent import silent_jobs
from agent.notify import conditions
from agent.notify.notifier import Notifier, memory_file
from agent.outbox.engines import PostgresqlEngine, engine_of, moved_by, shared_by
from agent.outbox.offloop import OffLoop
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.sqlite.rescue import rescue
from agent.outbox.values import Keep, OutboxError, OutboxFullError
from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.poller import Poller
from agent.sources.reports.accept import Reports
from agent.sources.reports.inbox import take_batch
from agent.sources.reports.kept import LocalInbox
from agent.sources.reports.spool import Spool
from agent.sources.webhooks.gaps.completion import Completion
from agent.sources.webhooks.gaps.repair import GapRepair
from agent.sources.webhooks.gaps.streams import subjects
from agent.sources.webhooks.platforms import READERS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from concurrent.futures import Executor
    from pathlib import Path

    from agent.config.settings import JenkinsSettings, Settings, WebhooksSettings
    from agent.daemon.stored import Stored
    from agent.inspect.silent import SilentJob
    from agent.model.deployment import Deployment
    from agent.model.times import Clock
    from agent.outbox.engines import Engine
    from agent.outbox.interface import Outbox
    from agent.outbox.leases import Agent, Fence
    from agent.outbox.sqlite.rescue import Rescue
    from agent.outbox.values import Counts
    from agent.sources.jenkins.poller import PollReport
    from agent.sources.reports.accept import Taken


# After the outbox could not be reached, reports are kept on this machine for this time without another attempt.
AWAY_S = 5.0
# So many connections serve the polls of all controllers of an agent: a poll waits for Jenkins most of the time.
POLL_CONNECTIONS = 8
# And so many threads. With one for each of hundreds of controllers, the thread that renews the leases would have to
# wait for too long.
POLL_THREADS = 64


@dataclass(frozen=True)
class Controller:
    """A Jenkins controller with its client, poller and thread."""

    settings: JenkinsSettings
    client: JenkinsClient
    poller: Poller
    off_loop: OffLoop

    async def poll(self) -> PollReport:
        """Run one poll. Raises :class:`agent.outbox.values.OutboxError`."""
        return await self.off_loop(self.poller.poll)

    def cancel(self) -> None:
        """Abort the requests of the current poll."""
        self.client.close()

    def end(self) -> None:
        """Stop the current poll after its current job, and abort its requests."""
        self.poller.stop()
        self.cancel()


@dataclass(frozen=True)
class KeptReports:
    """The inbox on this machine of an outbox elsewhere. ``local`` belongs to the thread of ``off_loop``."""

    local: SqliteOutbox
    off_loop: OffLoop
    inbox: LocalInbox


class Reporting:
    """Reports of builds, and the deployments that are held until the poller confirms them."""

    def __init__(self, settings: Settings, outbox: Outbox, off_loop: OffLoop, kept: KeptReports | None = None) -> None:
        """``kept``: the inbox is on this machine, and the outbox elsewhere."""
        self.kept = kept
        self._away_until = -inf
        log = settings.outbox.with_name(settings.outbox.name + "-wal")  # each commit changes this file
        self._changes = Changes(log, *([] if settings.spool is None else [settings.spool]))
        self.ingest = Ingest(outbox, rules_of(settings), settings.hold_for_ms)
        self._reports = Reports(settings, self.ingest)
        self._spool = None if settings.spool is None else Spool(settings.spool, self._reports)
        self._off_loop = off_loop
        self.batches = 0

    async def accept(self, report: dict[str, object], team: str) -> Taken:
        """Store a report from the intake; ``team``: the owner of the token.

        Raises :class:`agent.model.report.ReportError` and :class:`agent.outbox.values.OutboxError`.
        """
        if self.kept is None:
            return await self._off_loop(self._take, report, team)
        clock = self._reports.outbox.clock
        if clock.monotonic() >= self._away_until:
            try:
                return await self._off_loop(self._take, report, team)
            except OutboxFullError:
                raise
            except OutboxError:
                self._away_until = clock.monotonic() + AWAY_S
        return await self.kept.off_loop(self._reports.keep, report, self.kept.local, team)

    def _take(self, report: dict[str, object], team: str) -> Taken:
        at = self._reports.outbox.clock.now_ms()
        return self._reports.take(report, source="intake", at=at, principal=team)

    async def take(self) -> set[str]:
        """Process all reports in the inbox and the spool; returns the controllers of the reported builds.

        Reports from the intake are stored between batches and do not wait for the end.
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
        """Process one batch; an empty list: there are no more reports."""
        taken = take_batch(self._reports, None if self.kept is None else self.kept.inbox)
        if taken is not None and self.kept is not None:
            self.kept.inbox.committed()
        if taken is None and self._spool is not None:
            return self._spool.take()
        return taken or []

    async def release(self) -> list[Deployment]:
        """Release deployments that were held for ``hold_for``."""
        return await self._off_loop(self.ingest.release)


@dataclass(frozen=True)
class PageParts:
    """What the pages work with: a page never waits for an action, nor the work of the agent for either."""

    reading: tuple[Outbox, OffLoop]
    changing: tuple[Ingest, OffLoop]


@dataclass(frozen=True)
class Parts:
    """All parts that work on one outbox."""

    controllers: tuple[Controller, ...]
    dispatcher: Dispatcher
    reporting: Reporting
    housekeeping: tuple[Outbox, OffLoop]
    keep: Keep
    settings: Settings
    looking: tuple[Outbox, OffLoop]
    pages: PageParts | None = None
    hooks: HookStorage | None = None
    gaps: GapRepair | None = None
    notifier: Notifier | None = None
    fleet: FleetParts | None = None

    async def deliver(self) -> None:
        """Send the events that are due.

        Raises :class:`agent.outbox.values.OutboxError`, also if results cannot be stored. They stay in memory, and a
        later call stores them.
        """
        await self.dispatcher.run()
        if self.dispatcher.trouble is not None:
            raise self.dispatcher.trouble

    async def tidy(self) -> bool:
        """Delete one batch of old data; True: there may be more."""
        outbox, off_loop = self.housekeeping
        return await off_loop(outbox.prune, self.keep)

    async def try_writing(self) -> None:
        """Raises :class:`agent.outbox.values.OutboxError` if the outbox cannot be written."""
        outbox, off_loop = self.housekeeping
        await off_loop(outbox.try_writing)

    async def rescue(self, path: Path) -> Rescue:
        """Write the outbox to a new file of its name. Raises :class:`agent.outbox.values.OutboxError`."""
        if (kept := self.reporting.kept) is not None:
            return await kept.off_loop(rescue, kept.local, path, kept.local.clock)
        outbox, off_loop = self.looking
        if not isinstance(outbox, SqliteOutbox):
            raise OutboxError("only an outbox in a file can be written to a new one")
        return await off_loop(rescue, outbox, path, outbox.clock)

    async def stored(self) -> Stored:
        """Read the monitoring data from the outbox. Raises :class:`agent.outbox.values.OutboxError`."""
        outbox, off_loop = self.looking
        return await off_loop(read, outbox)

    async def silent_jobs(self) -> list[SilentJob]:
        """Jobs that deployed regularly and stopped. Raises :class:`agent.outbox.values.OutboxError`."""
        outbox, off_loop = self.looking
        return await off_loop(silent_jobs, self.settings, outbox)

    async def notify(self, trouble: str | None) -> None:
        """Send the notifications that are due. ``trouble``: why nothing can be stored; None: everything can.

        Raises :class:`agent.outbox.values.OutboxError` when the outbox cannot be read, after what is due without it.
        """
        if self.notifier is None:
            return
        outbox, off_loop = self.looking
        found = [] if trouble is None else [conditions.unwritable(trouble, outbox.clock.now_ms())]
        names = {controller.name for controller in self.settings.controllers}
        try:
            found += await off_loop(conditions.read, outbox, names)
        except OutboxError:
            await self.notifier.look(found, complete=False)
            raise
        await self.notifier.look(found)

    async def counts(self) -> Counts:
        """How many deployments are in each state. Raises :class:`agent.outbox.values.OutboxError`."""
        outbox, off_loop = self.looking
        return await off_loop(outbox.counts)


@asynccontextmanager
async def assembled(
    settings: Settings, clock: Clock, me: Agent | None = None, enqueued: Callable[[], None] | None = None
) -> AsyncIterator[Parts]:
    """Open all parts, and close them at the end of the block after their current work.

    ``me``: this process as one of the agents that share the outbox; None: it has the outbox for itself. ``enqueued`` is
    called in the event loop when a part has enqueued something. Raises :class:`agent.outbox.values.OutboxError`.
    """
    async with AsyncExitStack() as stack:
        loop = asyncio.get_running_loop()
        engine = engine_of(settings, clock, None if enqueued is None else partial(loop.call_soon_threadsafe, enqueued))
        clock = engine.clock
        opener = _Opener(settings, clock, engine, stack)
        shared = isinstance(engine, PostgresqlEngine)
        alone = not isinstance(engine, PostgresqlEngine) or me is None
        controllers = [await opener.controller(each) for each in settings.controllers] if alone else []
        storing, off_loop = await opener.outbox("reports")
        yield Parts(
            controllers=tuple(controllers),
            dispatcher=await opener.dispatcher(),
            reporting=Reporting(settings, storing, off_loop, await opener.kept(storing) if shared else None),
            housekeeping=(storing, off_loop),
            keep=Keep(settings.keep_delivered_ms, settings.keep_deployments_ms, settings.keep_ids_ms),
            settings=settings,
            looking=await opener.outbox("monitoring"),
            pages=None if settings.web is None else await opener.pages(),
            hooks=None if settings.webhooks is None else await opener.hooks(settings.webhooks),
            gaps=None if settings.webhooks is None else await opener.gaps(settings.webhooks),
            notifier=None
            if settings.notify is None
            else Notifier(settings.notify, memory_file(settings.outbox), clock),
            fleet=None if me is None or not isinstance(engine, PostgresqlEngine) else await opener.fleet(engine, me),
        )


def keep_report(settings: Settings, clock: Clock, report: dict[str, object], team: str) -> Taken:
    """Keep a report on this machine before the outbox elsewhere was reached for the first time.

    Raises like :meth:`Reporting.accept`.
    """
    with SqliteOutbox(settings.outbox, clock, max_size=settings.max_size_bytes, as_inbox=True) as local:
        reports = Reports(settings, Ingest(local, rules_of(settings), settings.hold_for_ms))
        return reports.keep(report, local, team)


@dataclass(frozen=True)
class _Opener:
    """Opens parts and registers their closing. ``threads``: in which they work; None: each has its own."""

    settings: Settings
    clock: Clock
    engine: Engine
    stack: AsyncExitStack
    threads: Executor | None = None

    async def outbox(self, whose: str, *, read_only: bool = False) -> tuple[Outbox, OffLoop]:
        """A connection and its thread."""
        off_loop = await self.stack.enter_async_context(OffLoop(whose, self.threads))
        outbox = await off_loop(partial(self.engine.open, read_only=read_only))
        self.stack.push_async_callback(off_loop, outbox.close)
        return outbox, off_loop

    async def pages(self) -> PageParts:
        outbox, off_loop = await self.outbox("actions")
        ingest = Ingest(outbox, rules_of(self.settings), self.settings.hold_for_ms)
        return PageParts(reading=await self.outbox("pages", read_only=True), changing=(ingest, off_loop))

    async def hooks(self, webhooks: WebhooksSettings) -> HookStorage:
        outbox, off_loop = await self.outbox("webhooks")
        ingest = Ingest(outbox, rules_of(self.settings), self.settings.hold_for_ms)
        completion = await self.stack.enter_async_context(Completion(webhooks.hooks, self.clock))
        return HookStorage(Reports(self.settings, ingest), off_loop, completion)

    async def gaps(self, webhooks: WebhooksSettings) -> GapRepair | None:
        if not subjects(webhooks.hooks):
            return None
        outbox, off_loop = await self.outbox("gap repair")
        ingest = Ingest(outbox, rules_of(self.settings), self.settings.hold_for_ms)
        return GapRepair(webhooks.hooks, READERS, GapStore(Reports(self.settings, ingest), off_loop), self.clock)

    async def controller(self, controller: JenkinsSettings) -> Controller:
        outbox, off_loop = await self.outbox(f"polls of {controller.name}")
        client = JenkinsClient(controller, self.clock)
        self.stack.callback(client.close)
        if isinstance(self.engine, PostgresqlEngine):  # reports are on this machine's disk: another thread moves them
            ingest = Ingest(outbox, rules_of(self.settings), self.settings.hold_for_ms)
            return Controller(controller, client, Poller(controller, client, ingest), off_loop)
        reporting = Reporting(self.settings, outbox, off_loop)
        poller = Poller(controller, client, reporting.ingest, take_reports=reporting.take_batch)
        return Controller(controller, client, poller, off_loop)

    async def kept(self, storing: Outbox) -> KeptReports:
        """The inbox on this machine, for its own thread and for that of ``storing``."""
        off_loop = await self.stack.enter_async_context(OffLoop("kept reports"))
        path, most = self.settings.outbox, self.settings.max_size_bytes
        local, moving = [
            await off_loop(partial(SqliteOutbox, path, self.clock, max_size=most, as_inbox=True)) for _ in range(2)
        ]
        for each in (local, moving):
            self.stack.push_async_callback(off_loop, each.close)
        return KeptReports(local, off_loop, LocalInbox(moving, moved_by(storing)))

    async def fleet(self, engine: PostgresqlEngine, me: Agent) -> FleetParts:
        """The leases of this agent, in a thread of their own: a renewal waits for nothing else."""
        off_loop = await self.stack.enter_async_context(OffLoop("leases"))
        connections = engine.connections()
        self.stack.push_async_callback(off_loop, connections.close)
        names = [each.name for each in self.settings.controllers]
        leases = Leases(connections.leases, me, names, self.clock, self.settings.lease_ms)
        polls = engine.pooled(POLL_CONNECTIONS)
        self.stack.push_async_callback(off_loop, polls.close)
        threads = ThreadPoolExecutor(POLL_THREADS, "polls")
        self.stack.callback(threads.shutdown, wait=False)

        @asynccontextmanager
        async def opened(fence: Fence) -> AsyncIterator[Controller]:
            settings = next(each for each in self.settings.controllers if each.name == fence.controller)
            async with AsyncExitStack() as stack:
                opener = replace(self, engine=polls.under(fence), stack=stack, threads=threads)
                yield await opener.controller(settings)

        return FleetParts(leases, connections.hints, off_loop, opened)

    async def dispatcher(self) -> Dispatcher:
        outbox, off_loop = await self.outbox("delivery")
        settings = self.settings
        hivel = await self.stack.enter_async_context(HivelClient(settings.hivel, settings.delivery, self.clock))
        shared = shared_by(outbox) if isinstance(self.engine, PostgresqlEngine) else None
        return Dispatcher(outbox, hivel, settings.delivery, off_loop=off_loop, clock=self.clock, shared=shared)
