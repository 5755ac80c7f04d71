"""Being gentle to a controller: longer and longer pauses while it is down."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.model.times import Clock

LONGEST_PAUSE_S = 300.0


class Pause:
    """Doubles the time between polls of a controller that does not answer, with jitter, up to five minutes."""

    def __init__(self, interval_s: float, clock: Clock, rng: random.Random | None = None) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._rng = rng or random.Random()
        self._failures = 0
        self._until = 0.0

    def over(self) -> bool:
        """Whether it is time to ask again."""
        return self._clock.monotonic() >= self._until

    def failed(self) -> None:
        """It did not answer: wait longer than the last time."""
        longest = min(self._interval_s * 2 ** min(self._failures, 20), max(LONGEST_PAUSE_S, self._interval_s))
        self._failures += 1
        self._until = self._clock.monotonic() + self._rng.uniform(longest / 2, longest)

    def answered(self) -> None:
        """It is there again."""
        self._failures = 0
        self._until = 0.0
