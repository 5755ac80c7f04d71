"""Requests to Jenkins on behalf of a visitor: a few at a time, each with a time limit and clients of its own."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.errors import StoppedError
from agent.web.page import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.config.settings import JenkinsSettings

T = TypeVar("T")

MOST = 3
TIMEOUT_S = 30.0


class Clients:
    """Makes clients for one lookup, and closes them all, which ends their requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[JenkinsClient] = []
        self._is_closed = False

    def __call__(self, settings: JenkinsSettings) -> JenkinsClient:
        """Raises :class:`StoppedError` if the lookup is over."""
        with self._lock:
            if self._is_closed:
                raise StoppedError("the lookup is over")
            client = JenkinsClient(settings)
            self._open.append(client)
            return client

    def close(self) -> None:
        """No more requests."""
        with self._lock:
            self._is_closed = True
            clients = list(self._open)
        for client in clients:
            client.close()


class Lookups:
    """All lookups of this process."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MOST, thread_name_prefix="lookup")
        self._running = 0

    async def run(self, look: Callable[[Clients], T]) -> T:
        """Call ``look`` in a thread; returns its result. Raises :class:`RefusedError` if there are too many, or if it
        takes too long.
        """
        if self._running >= MOST:
            raise RefusedError(429, f"{MOST} builds are being looked up already; try again in a moment")
        clients = Clients()
        self._running += 1
        call = asyncio.get_running_loop().run_in_executor(self._threads, look, clients)
        call.add_done_callback(self._end)
        try:
            await asyncio.wait({call}, timeout=TIMEOUT_S)
            if not call.done():
                raise RefusedError(504, f"Jenkins did not answer within {TIMEOUT_S:g} s")
            return call.result()
        finally:
            clients.close()

    def _end(self, call: asyncio.Future[T]) -> None:
        """The thread has ended; its time may have been over before."""
        self._running -= 1
        if not call.cancelled():
            call.exception()  # marks it as retrieved


LOOKUPS = Lookups()
