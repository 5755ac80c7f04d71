"""Statistics of requests to a controller: number by kind, bytes, durations."""

from __future__ import annotations

import enum
import threading
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.model.times import Clock

# Upper bounds of the histogram buckets in seconds; one more bucket is above the last.
BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
HOUR_MIN = 60


class Kind(enum.StrEnum):
    """The kinds of requests."""

    JOBS = "jobs"  # the list of jobs: of the controller, a root, or a deep folder
    BUILDS = "builds"  # the builds of one job
    BUILD = "build"  # one build
    STAGES = "stages"  # the stages of a build
    COMPUTER = "computer"  # the executors
    WHOAMI = "whoami"


@dataclass
class Tally:
    """Counters of requests, answered or not. ``bytes``: received, headers included. Times are in seconds."""

    requests: int = 0
    bytes: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))

    def add(self, size: int, seconds: float) -> None:
        """Count one request."""
        self.requests += 1
        self.bytes += size
        self.seconds += seconds
        self.slowest_s = max(self.slowest_s, seconds)
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1

    @classmethod
    def sum_of(cls, tallies: Iterable[Tally]) -> Tally:
        """The sum of several tallies."""
        total = cls()
        for each in tallies:
            total.requests += each.requests
            total.bytes += each.bytes
            total.seconds += each.seconds
            total.slowest_s = max(total.slowest_s, each.slowest_s)
            total.buckets = [a + b for a, b in zip(total.buckets, each.buckets, strict=True)]
        return total


class Traffic:
    """The requests to one controller by kind, in total and for the last hour.

    Thread-safe.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._total: dict[Kind, Tally] = {}
        self._minutes: deque[tuple[int, dict[Kind, Tally]]] = deque()

    def note(self, kind: Kind, size: int, seconds: float) -> None:
        """Record a finished request. ``size``: received bytes."""
        with self._lock:
            self._total.setdefault(kind, Tally()).add(size, seconds)
            minute = self._forget_what_is_old()
            if not self._minutes or self._minutes[-1][0] != minute:
                self._minutes.append((minute, {}))
            self._minutes[-1][1].setdefault(kind, Tally()).add(size, seconds)

    def total(self) -> dict[Kind, Tally]:
        """All requests so far."""
        with self._lock:
            return {kind: Tally.sum_of([tally]) for kind, tally in self._total.items()}

    def last_hour(self) -> dict[Kind, Tally]:
        """With a resolution of one minute."""
        with self._lock:
            self._forget_what_is_old()
            kinds = {kind for _, tallies in self._minutes for kind in tallies}
            return {
                kind: Tally.sum_of(tallies[kind] for _, tallies in self._minutes if kind in tallies)
                for kind in Kind
                if kind in kinds
            }

    def _forget_what_is_old(self) -> int:
        minute = int(self._clock.monotonic() // 60)
        while self._minutes and self._minutes[0][0] <= minute - HOUR_MIN:
            self._minutes.popleft()
        return minute
