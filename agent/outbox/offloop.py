"""An outbox beside an event loop: what may wait for a disk or a lock is done in a thread."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, Self, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Runner(Protocol):
    """How a task of the event loop has something done that must not hold up the loop: see :class:`OffLoop`."""

    async def __call__(self, function: Callable[[*Ts], T], /, *args: *Ts) -> T:
        """Call the function; its result, or its exception."""
        ...


class OffLoop:
    """One thread for one outbox: ``await off_loop(outbox.settle, settlements)``.

    Calls are done one after another, in the order in which they were made. Tasks may be cancelled at any time: when a
    call returns or raises, its function has come to its end, or never began.
    """

    def __init__(self, name: str = "outbox") -> None:
        """``name`` is that of the thread."""
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def __call__(self, function: Callable[[*Ts], T], /, *args: *Ts) -> T:
        """Call the function in the thread; its result, or its exception."""
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
                waiting.exception()  # nobody will ask for it
            raise

    async def close(self) -> None:
        """Wait for what is under way; nothing can be called afterwards."""
        await asyncio.to_thread(self._executor.shutdown)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
