"""``once``: a single poll of each controller, and a single delivery of what is due."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.daemon.composition import assembled
from agent.daemon.damage import mend, what_is_broken
from agent.inspect.status import delivery_status
from agent.outbox.sqlite.connection import RunLock
from agent.outbox.values import DamagedError

if TYPE_CHECKING:
    from agent.config.settings import Settings
    from agent.inspect.status import DeliveryStatus
    from agent.model.times import Clock
    from agent.outbox.values import Counts
    from agent.sources.jenkins.poller import PollReport


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


def once(settings: Settings, clock: Clock) -> OnceReport:
    """One poll of each controller and one delivery of what is due. A damaged outbox is repaired.

    Raises :class:`agent.outbox.values.AlreadyRunningError` or
    :class:`agent.outbox.values.OutboxError` when it cannot start.
    """
    with RunLock(settings.outbox):
        mend(settings, clock, None)
        try:
            return asyncio.run(_once(settings, clock))
        except DamagedError as error:  # damage in the depth of the file shows when it is read
            mend(settings, clock, what_is_broken(error))
        return asyncio.run(_once(settings, clock))


async def _once(settings: Settings, clock: Clock) -> OnceReport:
    async with assembled(settings, clock) as parts:
        await parts.reporting.take()
        polls = await asyncio.gather(*(controller.poll() for controller in parts.controllers))
        await parts.reporting.release()
        await parts.deliver()
        return OnceReport(polls, delivery_status(parts.dispatcher.breaker.snapshot()), await parts.counts())
