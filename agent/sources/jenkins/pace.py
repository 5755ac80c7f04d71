"""Adapts the poll interval: longer while the controller's answers are slower than usual."""

from __future__ import annotations

from collections import deque
from statistics import median

# Slow: this many times the usual time, and at least this much (seconds) more. From 5 to 20 ms is not slow.
SLOW_TIMES = 3.0
SLOW_LEAST_S = 0.5
# Normal again: at most this many times the usual time.
CALM_TIMES = 1.5
CALM_LEAST_S = 0.25
# The usual time is the median of this many polls; until then nothing counts as slow. Lasting slowness becomes usual.
REMEMBERED = 240
LEAST_POLLS = 10
# The interval doubles with each slow answer, at most this many times, and up to five minutes.
MOST_DOUBLINGS = 3
LONGEST_INTERVAL_S = 300.0


class Pace:
    """The poll interval of one controller: ``interval_s`` up to eight times that or five minutes."""

    def __init__(self, interval_s: float) -> None:
        self._usual_interval_s = interval_s
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._doublings = 0

    @property
    def interval_s(self) -> float:
        """Seconds from the start of one poll to the start of the next."""
        longest = max(LONGEST_INTERVAL_S, self._usual_interval_s)
        return min(self._usual_interval_s * float(2**self._doublings), longest)

    @property
    def slowed(self) -> bool:
        """Whether the interval is longer than configured."""
        return self._doublings > 0

    def answered(self, seconds: float) -> None:
        """Record how long the list of jobs took."""
        if len(self._seconds) >= LEAST_POLLS:
            usual = median(self._seconds)
            if seconds > max(SLOW_TIMES * usual, usual + SLOW_LEAST_S):
                self._doublings = min(self._doublings + 1, MOST_DOUBLINGS)
            elif seconds <= max(CALM_TIMES * usual, usual + CALM_LEAST_S):
                self._doublings = max(self._doublings - 1, 0)
        self._seconds.append(seconds)
