"""A rate limiter: at most N requests a minute."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.model.times import Clock


class RateLimit:
    """Allows ``per_minute`` requests in any minute, at most ``burst`` of them at once. 0: no limit.

    Thread-safe. It returns the time to wait and does not wait itself, because callers may be threads or tasks.
    """

    def __init__(self, per_minute: int, clock: Clock, *, burst: int | None = None) -> None:
        self._per_second = per_minute / 60
        self._capacity = float(max(1, per_minute if burst is None else burst))
        self._left = self._capacity
        self._clock = clock
        self._at = clock.monotonic()
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """Reserve the next request; returns after how many seconds it may be made."""
        if not self._per_second:
            return 0.0
        with self._lock:
            now = self._clock.monotonic()
            self._left = min(self._capacity, self._left + (now - self._at) * self._per_second)
            self._at = now
            self._left -= 1
            return max(0.0, -self._left / self._per_second)
