"""Runs calls of the outbox in a thread, because they may wait for a disk or a lock and block the event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Protocol, Self, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Runner(Protocol):
    """The type of a function that runs blocking calls for the event loop: see :class:`OffLoop`."""

    async def __call__(self, function: Callable[[*Ts], T], /, *args: *Ts) -> T:
        """Call the function; returns its result or raises its exception."""
        ...


class OffLoop:
    """One thread for one outbox: ``await off_loop(outbox.settle, settlements)``.

    Calls run one after another, in the order in which they were made. Tasks may be cancelled at any time: when an
    ``await`` returns or raises, the function has finished or never started.
    """

    def __init__(self, name: str = "outbox", threads: Executor | None = None) -> None:
        """``name`` is the name of the thread. ``threads``: it has none of its own, and each call takes one of these."""
        self._own = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name) if threads is None else None
        self._executor = threads or self._own
        self._turn = nullcontext() if threads is None else asyncio.Lock()

    async def __call__(self, function: Callable[[*Ts], T], /, *args: *Ts) -> T:
        """Call the function in the thread; returns its result or raises its exception."""
        async with self._turn:
            return await self._call(function, *args)

    async def _call(self, function: Callable[[*Ts], T], /, *args: *Ts) -> T:
        if self._executor is None:
            raise RuntimeError("closed")
        call = self._executor.submit(function, *args)
        waiting = asyncio.wrap_future(call)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            call.cancel()
            while not waiting.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({waiting})
            if not waiting.cancelled():
                waiting.exception()  # marks the exception as retrieved: nobody will await this future
            raise

    async def close(self) -> None:
        """Wait for the running call. No calls are possible afterwards."""
        async with self._turn:
            self._executor = None
        if self._own is not None:
            await asyncio.to_thread(self._own.shutdown)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
