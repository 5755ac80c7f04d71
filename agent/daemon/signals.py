"""The daemon's signals: SIGTERM and SIGINT end it, SIGHUP lets it read its configuration anew."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def ignore_reload() -> None:
    """Until the event loop listens: what a SIGHUP would have read anew is being read."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextmanager
def listening(*, stop: Callable[[], None], reload: Callable[[], None]) -> Iterator[None]:
    """Call these in the event loop. After the block the process ends: a SIGHUP comes too late, and kills nobody."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
