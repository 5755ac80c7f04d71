"""The repeated work of the daemon with one configuration."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from agent.daemon.delivering import Delivering
from agent.daemon.fleet import FleetWork
from agent.daemon.polling import Polls
from agent.daemon.watchdog import STALLED_S, Watched
from agent.daemon.work import Work
from agent.inspect.asked import asked
from agent.outbox.hooks import Verdict
from agent.outbox.values import OutboxError, OutboxFullError

if TYPE_CHECKING:
    from agent.config.settings import Settings, WebhookSettings
    from agent.daemon.composition import Parts
    from agent.daemon.schedule import Repeated, Schedule
    from agent.inspect.asked import Asked
    from agent.inspect.silent import SilentJob
    from agent.model.times import Clock
    from agent.model.trouble import Unexpected
    from agent.outbox.hooks import HookDelivery
    from agent.sources.reports.accept import Taken
    from agent.sources.webhooks.listener import Answers
    from agent.sources.webhooks.values import Delivery, Invalid, Meaning

log = structlog.get_logger("service")

# How often it is checked whether an event was held for long enough: a hundredth of that time, within these bounds.
HELD_S, HELD_AT_MOST_S = 5.0, 60.0
HOUSEKEEPING_S = 60.0
# Silent jobs are a matter of days, and finding them takes some time in a large outbox.
SILENT_S = 3600.0
NOTIFY_S = 15.0
GAPS_S = 15.0
# The state that an earlier process stored is out of date until the first polls and deliveries are over.
FIRST_NOTIFY_S = 60.0
# Number of housekeeping steps in one run, with pauses so that other writers get the lock.
STEPS = 100
BREATH_S = 0.01
# Pause between housekeeping runs.
PATIENT_S = 10 * STALLED_S
# After this part of the time for a stop, requests to Jenkins are aborted.
CANCEL_AFTER = 0.4


class Life:
    """Polls, deliveries, reports and housekeeping with one configuration, and their state for monitoring."""

    def __init__(
        self, settings: Settings, parts: Parts, clock: Clock, unexpected: Unexpected, answers: Answers
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.unexpected = unexpected
        self.answers = answers
        self.parts = parts
        self.work = Work(clock, unexpected)
        self._repeated: list[Repeated] = []
        self._polls = [Polls(controller, self.work, clock) for controller in parts.controllers]
        self.fleet = None if parts.fleet is None else FleetWork(parts.fleet, self.work, clock)
        self.delivering = Delivering(parts, self.work, self.fleet, clock)
        self._reports = Watched("reports", STALLED_S, lambda: parts.reporting.batches)
        self._held = Watched("held events", PATIENT_S)
        self._housekeeping = Watched("housekeeping", PATIENT_S)
        self._silence = Watched("silent jobs", SILENT_S + PATIENT_S)
        # The watchdog does not watch it: a slow command or server must not cause a restart of the agent.
        self._notifications = Watched("notifications", PATIENT_S)
        self._gaps = Watched("gap repair", PATIENT_S)  # neither is this, for the same reason
        self.silent_jobs: list[SilentJob] = []

    @property
    def polls(self) -> list[Polls]:
        """The controllers that this agent polls: all, or in a fleet those whose leases it has."""
        return self._polls if self.fleet is None else self.fleet.polls

    @property
    def watched(self) -> list[Watched]:
        """Work that the watchdog watches."""
        polls = [polls.watched for polls in self.polls]
        fleet = [] if self.fleet is None else [self.fleet.watched]
        return [*polls, *fleet, self.delivering.watched, self._reports, self._held, self._housekeeping, self._silence]

    async def accept(self, report: dict[str, object], team: str) -> Taken:
        """See :meth:`agent.daemon.composition.Reporting.accept`."""
        try:
            return await self.parts.reporting.accept(report, team)
        except OutboxFullError:
            raise  # monitoring shows this already
        except OutboxError as error:
            self.work.cannot_store("intake", error)
            raise

    async def accept_delivery(
        self, hook: WebhookSettings, delivery: Delivery, meaning: Meaning | Invalid
    ) -> HookDelivery:
        """See :meth:`agent.daemon.hooks.HookStorage.accept`."""
        if self.parts.hooks is None:
            raise OutboxError("the configuration has no webhooks any more")
        try:
            noted = await self.parts.hooks.accept(hook, delivery, meaning)
        except OutboxFullError:
            self._may_have_missed(hook)
            raise  # monitoring shows this already
        except OutboxError as error:
            self._may_have_missed(hook)
            self.work.cannot_store("webhooks", error)
            raise
        if noted.verdict is Verdict.REFUSED:  # the API may know what the event lacks
            self._may_have_missed(hook)
        return noted

    def _may_have_missed(self, hook: WebhookSettings) -> None:
        if self.parts.gaps is not None:
            self.parts.gaps.soon(hook.name)

    def wake(self, controller: str | None) -> list[str]:
        """Start a poll of this controller, or of all; returns the names of these controllers."""
        woken = [polls for polls in self.polls if controller in (None, polls.name)]
        for polls in woken:
            polls.wake()
        return [polls.name for polls in woken]

    def asked(self) -> list[Asked]:
        """The requests of the last hour, for each controller."""
        return [
            asked(
                polls.name,
                interval_s=polls.interval_s,
                setting_s=polls.setting_s,
                last_hour=polls.traffic.last_hour(),
            )
            for polls in self.polls
        ]

    # ---- begin and end

    def begin(self, schedule: Schedule) -> None:
        """Start all repeated work."""
        self._expect()
        interval_s = self.settings.delivery.interval_ms / 1000
        self._repeated = [
            *(polls.begin(schedule) for polls in self._polls),
            self.delivering.begin(schedule),
            schedule.every(interval_s, self._take_reports, name="reports"),
            schedule.every(held_s(self.settings.hold_for_ms), self._release, name="held events"),
            schedule.every(HOUSEKEEPING_S, self._tidy, name="housekeeping", first_in_s=HOUSEKEEPING_S),
            schedule.every(SILENT_S, self._look_for_silence, name="silent jobs"),
        ]
        if self.fleet is not None:
            self.fleet.changed = self._expect
            self.fleet.due = self.delivering.wake
            self._repeated.append(self.fleet.begin(schedule))
        if self.parts.gaps is not None:
            self._repeated.append(schedule.every(GAPS_S, self._repair_gaps, name=self._gaps.name, first_in_s=GAPS_S))
        if self.settings.notify is not None:
            first_s = min(FIRST_NOTIFY_S, self.settings.notify.after_ms / 1000)
            self._repeated.append(
                schedule.every(NOTIFY_S, self._notify, name=self._notifications.name, first_in_s=first_s)
            )

    def _expect(self) -> None:
        gaps = [] if self.parts.gaps is None else [self._gaps.name]
        self.unexpected.expect([*(watched.name for watched in self.watched), self._notifications.name, *gaps])

    async def end(self, within_s: float, *, leave: bool = False) -> int:
        """Start no more work and wait for the current work; returns the number of runs that did not end in time.

        ``leave``: the process ends, so the other agents of a fleet take over now.
        """
        self.work.over.set()
        for repeated in self._repeated:
            repeated.end()
        self.parts.dispatcher.stop()
        if self.parts.notifier is not None:
            self.parts.notifier.stop()
        if self.parts.gaps is not None:
            self.parts.gaps.stop()
        for polls in self._polls:
            polls.stop()
        if self.fleet is not None:
            await self.fleet.end(within_s * CANCEL_AFTER, leave=leave)
        if not await self.work.finish(within_s * CANCEL_AFTER):
            return 0
        for polls in self._polls:
            polls.cancel()
        return await self.work.finish(within_s * (1 - CANCEL_AFTER))

    # ---- repeated work

    async def _take_reports(self) -> None:
        with self.work.doing(self._reports):
            for controller in await self.parts.reporting.take():
                self.wake(controller)

    async def _release(self) -> None:
        with self.work.doing(self._held):
            for each in await self.parts.reporting.release():
                log.warning("sending a report that the poller has not confirmed", deployment_id=each.deployment_id)

    async def _tidy(self) -> None:
        with self.work.doing(self._housekeeping):
            if self.work.storing.reason is not None:
                await self.parts.try_writing()
                for who in ("intake", "webhooks"):  # their next success could otherwise be a long time away
                    self.work.storing.note(who, None)
            for _ in range(STEPS):
                if self.work.over.is_set() or not await self.parts.tidy():
                    break
                await asyncio.sleep(BREATH_S)

    async def _look_for_silence(self) -> None:
        with self.work.doing(self._silence):
            self.silent_jobs = await self.parts.silent_jobs()

    async def _notify(self) -> None:
        with self.work.doing(self._notifications):
            await self.parts.notify(self.work.storing.reason)

    async def _repair_gaps(self) -> None:
        with self.work.doing(self._gaps):
            if self.parts.gaps is not None:
                await self.parts.gaps.run()


def held_s(hold_for_ms: int) -> float:
    """Seconds between two looks for events that were held for long enough."""
    return min(max(HELD_S, hold_for_ms / 1000 / 100), HELD_AT_MOST_S)
