"""``once``: one poll of each controller, then one delivery of the due events."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from agent.daemon.composition import assembled
from agent.daemon.outbox_file import make_ready, what_is_broken
from agent.inspect.status import delivery_status
from agent.model.trouble import Unexpected
from agent.outbox.sqlite.connection import RunLock
from agent.outbox.values import DamagedError, OutboxError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from agent.config.settings import Settings
    from agent.inspect.status import DeliveryStatus
    from agent.model.times import Clock
    from agent.outbox.values import Counts
    from agent.sources.jenkins.poller import PollReport

T = TypeVar("T")

# Time limit of a pass; work in progress gets a few seconds more.
LONGEST_MS = 10 * 60_000
# Polls end early enough to leave time for deliveries, also if Jenkins is slow.
_FOR_POLLS = 0.5


@dataclass(frozen=True)
class OnceReport:
    """The result of a pass. ``mistakes``: unexpected errors, by the work that they ended.

    ``unfinished``: work for which there was no time.
    """

    polls: list[PollReport]
    delivery: DeliveryStatus
    counts: Counts
    mistakes: dict[str, str] = field(default_factory=dict)
    unfinished: tuple[str, ...] = ()

    @property
    def needs_attention(self) -> bool:
        """True if a poll or an event failed, or delivery is paused. Pending events are not a failure."""
        failed = self.mistakes or self.unfinished or self.counts.failed or any(poll.problems for poll in self.polls)
        return bool(failed or self.delivery.state == "paused")


def once(settings: Settings, clock: Clock, *, within_ms: int = LONGEST_MS) -> OnceReport:
    """Poll each controller once and deliver the due events. A damaged outbox is repaired.

    Work that is not done after ``within_ms`` is left to the next pass; polls have half of this time.

    Raises :class:`agent.outbox.values.AlreadyRunningError` or :class:`agent.outbox.values.OutboxError` if it cannot
    start.
    """
    with RunLock(settings.outbox):
        make_ready(settings, clock, None)
        try:
            return asyncio.run(_once(settings, clock, within_ms / 1000))
        except DamagedError as error:  # some damage shows only when that part of the file is read
            make_ready(settings, clock, what_is_broken(error))
        return asyncio.run(_once(settings, clock, within_ms / 1000))


async def _once(settings: Settings, clock: Clock, within_s: float) -> OnceReport:
    unexpected = Unexpected(clock)
    unfinished: list[str] = []
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def tried(work: str, coroutine: Coroutine[object, object, T]) -> T | None:
        """Run one kind of work; an unexpected error in it does not stop the others."""
        try:
            return await coroutine
        except OutboxError:
            raise
        except Exception as error:  # noqa: BLE001 - the report contains it
            unexpected.note(work, error)
            return None

    async def tried_until(
        share: float, work: str, coroutine: Coroutine[object, object, T], end: Callable[[], None]
    ) -> T | None:
        """As ``tried``, but only until this share of the time is over."""

        def time_is_over() -> None:
            unfinished.append(work)
            end()

        timer = loop.call_at(began + share * within_s, time_is_over)
        try:
            return await tried(work, coroutine)
        finally:
            timer.cancel()

    async with assembled(replace(settings, web=None), clock) as parts:
        await tried("reports", parts.reporting.take())
        polling = (
            tried_until(_FOR_POLLS, f"polls of {each.settings.name}", each.poll(), each.end)
            for each in parts.controllers
        )
        polls = await asyncio.gather(*polling)
        await tried("held events", parts.reporting.release())
        await tried_until(1.0, "delivery", parts.deliver(), parts.dispatcher.stop)
        return OnceReport(
            [report for report in polls if report is not None],
            delivery_status(parts.dispatcher.breaker.snapshot()),
            await parts.counts(),
            unexpected.reasons,
            tuple(unfinished),
        )
