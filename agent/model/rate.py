"""So many requests a minute and no more."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.model.times import Clock


class RateLimit:
    """Lets ``per_minute`` requests through in any minute, at most ``burst`` of them at once; 0: any number.

    Thread-safe. It tells how long to wait and leaves the waiting to its caller, who may be a thread or a task.
    """

    def __init__(self, per_minute: int, clock: Clock, *, burst: int | None = None) -> None:
        self._per_second = per_minute / 60
        self._capacity = float(max(1, per_minute if burst is None else burst))
        self._left = self._capacity
        self._clock = clock
        self._at = clock.monotonic()
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """Take the next place; returns in how many seconds the request may be made."""
        if not self._per_second:
            return 0.0
        with self._lock:
            now = self._clock.monotonic()
            self._left = min(self._capacity, self._left + (now - self._at) * self._per_second)
            self._at = now
            self._left -= 1
            return max(0.0, -self._left / self._per_second)
