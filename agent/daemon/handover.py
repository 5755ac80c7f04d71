"""What HTTP requests need of the daemon's present life; who asks between two lives waits for the next one."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


class NobodyThereError(Exception):
    """There was nobody to work with in the time that was given; the message is for people."""


class Handover(Generic[T]):
    """What each life gives from its beginning to its end, while requests come in all the time."""

    def __init__(self) -> None:
        self._present: T | None = None
        self._given = asyncio.Event()

    @property
    def present(self) -> T | None:
        """None: nobody is there right now."""
        return self._present

    @contextmanager
    def given(self, present: T) -> Iterator[None]:
        """Requests can work with this during the block; those that come later have to wait."""
        self._present = present
        self._given.set()
        try:
            yield
        finally:
            self._present = None
            self._given.clear()

    async def get(self, within_s: float) -> T:
        """What is given, now or within so many seconds. Use it before waiting for anything else: it may be taken back.

        Raises :class:`NobodyThereError`.
        """
        try:
            async with asyncio.timeout(within_s):
                while self._present is None:
                    await self._given.wait()
        except TimeoutError:
            raise NobodyThereError(
                "the agent is busy with its outbox (it starts, or repairs or converts the file)"
            ) from None
        return self._present
