"""Gives HTTP requests access to the current life of the daemon. Between two lives, requests wait for the next one."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


class NobodyThereError(Exception):
    """No life was available within the time limit. The message is for users."""


class Handover(Generic[T]):
    """Holds an object of the current life. Requests can arrive at any time, also when there is none."""

    def __init__(self) -> None:
        self._present: T | None = None
        self._given = asyncio.Event()

    @property
    def present(self) -> T | None:
        """None: there is no life now."""
        return self._present

    @contextmanager
    def given(self, present: T) -> Iterator[None]:
        """Give this object to requests during the block. Later requests wait."""
        self._present = present
        self._given.set()
        try:
            yield
        finally:
            self._present = None
            self._given.clear()

    async def get(self, within_s: float) -> T:
        """The object, now or within ``within_s`` seconds. Use it before the next await: it can be withdrawn.

        Raises :class:`NobodyThereError`.
        """
        try:
            async with asyncio.timeout(within_s):
                while self._present is None:
                    await self._given.wait()
        except TimeoutError:
            raise NobodyThereError(
                "the agent is not ready: it starts, reloads, or repairs or converts its outbox; try again later"
            ) from None
        return self._present
