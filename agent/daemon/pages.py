"""The daemon as the pages see it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from agent.outbox.values import OutboxError
from agent.web.backend import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agent.config.settings import Settings
    from agent.daemon.life import Life
    from agent.ingest.ingest import Ingest
    from agent.inspect.asked import Asked
    from agent.inspect.silent import SilentJob
    from agent.model.times import Clock
    from agent.outbox.interface import Outbox

T = TypeVar("T")

# Time limit for the outbox; after it the page says so.
PATIENCE_S = 5.0
_SLOW = f"the outbox did not answer within {PATIENCE_S:g} s; is its disk slow or full?"


class LifeBackend:
    """See :class:`agent.web.backend.Backend`."""

    def __init__(self, life: Life) -> None:
        """Raises :class:`UnavailableError` if the configuration of this life has no pages."""
        if life.parts.pages is None:
            raise UnavailableError("the pages were turned off")
        self._life = life
        self._parts = life.parts.pages

    @property
    def settings(self) -> Settings:
        """See the protocol."""
        return self._life.settings

    @property
    def clock(self) -> Clock:
        """See the protocol."""
        return self._life.clock

    async def read(self, look: Callable[[Outbox], T]) -> T:
        """See the protocol."""
        outbox, off_loop = self._parts.reading
        return await _in_time(off_loop(look, outbox))

    async def change(self, act: Callable[[Ingest], T]) -> T:
        """See the protocol."""
        ingest, off_loop = self._parts.changing
        return await _in_time(off_loop(act, ingest))

    def asked(self) -> Sequence[Asked]:
        """See the protocol."""
        return self._life.asked()

    def silent_jobs(self) -> Sequence[SilentJob]:
        """See the protocol."""
        return self._life.silent_jobs

    def problems(self) -> Sequence[str]:
        """See the protocol."""
        reason = self._life.work.storing.reason
        failing = [f"{work}: {reason}" for work, reason in self._life.unexpected.reasons.items()]
        return [*([] if reason is None else [f"events cannot be stored: {reason}"]), *failing]

    def wake(self, controller: str) -> None:
        """See the protocol."""
        self._life.wake(controller)


async def _in_time(working: Awaitable[T]) -> T:
    """A call that hangs goes on, because cancelling does not end it; one that has not begun never does."""
    work = asyncio.ensure_future(working)
    await asyncio.wait({work}, timeout=PATIENCE_S)
    if not work.done():
        work.add_done_callback(lambda late: late.cancelled() or late.exception())
        work.cancel()
        raise UnavailableError(_SLOW)
    try:
        return work.result()
    except OutboxError as error:
        raise UnavailableError(str(error)) from error
