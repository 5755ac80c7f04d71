"""The daemon's signals: SIGTERM and SIGINT end it, SIGHUP makes it read its configuration again."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def ignore_reload() -> None:
    """Ignore SIGHUP until the event loop handles it: the configuration is being read anyway."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextmanager
def listening(*, stop: Callable[[], None], reload: Callable[[], None]) -> Iterator[None]:
    """Call these in the event loop during the block. After it the process ends, and a SIGHUP is ignored."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        yield
    finally:
        # The end of the loop would restore the default action. The mask is for the moment in between, and only for
        # this thread; a thread that has not ended yet could still get the signal.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        loop.remove_signal_handler(signal.SIGHUP)
        ignore_reload()
