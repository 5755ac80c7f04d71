"""How often a controller is polled: less often while its answers are slow for what they usually are."""

from __future__ import annotations

from collections import deque
from statistics import median

# Slow: so many times what is usual, and this much more at least: from 5 to 20 ms is no reason for anything.
SLOW_TIMES = 3.0
SLOW_LEAST_S = 0.5
# As usual again: not more than half of that.
CALM_TIMES = 1.5
CALM_LEAST_S = 0.25
# What is usual is the median of so many polls; without so many there is no judgement. What stays slow becomes usual.
REMEMBERED = 240
LEAST_POLLS = 10
# The interval doubles with each slow answer, at most so often, and to no more than five minutes.
MOST_DOUBLINGS = 3
LONGEST_INTERVAL_S = 300.0


class Pace:
    """The interval of the polls of one controller, between ``interval_s`` and eight times that or five minutes."""

    def __init__(self, interval_s: float) -> None:
        self._usual_interval_s = interval_s
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._doublings = 0

    @property
    def interval_s(self) -> float:
        """From the beginning of one poll to that of the next."""
        longest = max(LONGEST_INTERVAL_S, self._usual_interval_s)
        return min(self._usual_interval_s * float(2**self._doublings), longest)

    @property
    def slowed(self) -> bool:
        """Whether the interval is longer than the setting says."""
        return self._doublings > 0

    def answered(self, seconds: float) -> None:
        """The list of jobs came after so many seconds."""
        if len(self._seconds) >= LEAST_POLLS:
            usual = median(self._seconds)
            if seconds > max(SLOW_TIMES * usual, usual + SLOW_LEAST_S):
                self._doublings = min(self._doublings + 1, MOST_DOUBLINGS)
            elif seconds <= max(CALM_TIMES * usual, usual + CALM_LEAST_S):
                self._doublings = max(self._doublings - 1, 0)
        self._seconds.append(seconds)
