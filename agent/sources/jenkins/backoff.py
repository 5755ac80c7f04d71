"""Backoff: longer and longer pauses while a controller is down, or while a job or build cannot be read."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Container, Hashable

    from agent.model.times import Clock

Key = TypeVar("Key", bound="Hashable")

# Maximum pauses in seconds: for a whole controller (all its builds wait), and for a single job or build.
LONGEST_PAUSE_S = 300.0
LONGEST_BACKOFF_S = 3600.0


class Pause:
    """Doubles the time between polls of a controller that does not answer, with jitter, up to five minutes."""

    def __init__(self, interval_s: float, clock: Clock, rng: random.Random | None = None) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._rng = rng or random.Random()
        self._failures = 0
        self._until = 0.0

    def over(self) -> bool:
        """Whether the pause is over."""
        return self._clock.monotonic() >= self._until

    def failed(self, retry_after_ms: int | None = None) -> None:
        """No answer: double the pause, or wait as long as Retry-After says, at most an hour."""
        wait_s = _delay_s(self._interval_s, self._failures, LONGEST_PAUSE_S, self._rng)
        self._failures += 1
        self._until = self._clock.monotonic() + _at_least(wait_s, retry_after_ms)

    def answered(self) -> None:
        """It answered: end the pause."""
        self._failures = 0
        self._until = 0.0


@dataclass(frozen=True)
class Failing(Generic[Key]):
    """Something that could not be read ``failures`` times in a row. ``next_try_at``: UTC ms by the current clock."""

    key: Key
    reason: str
    failures: int
    next_try_at: int


@dataclass(frozen=True)
class _Failed:
    reason: str
    failures: int
    until: float


class Backoffs(Generic[Key]):
    """One backoff for each item of a controller that cannot be read: a job by name, a build by job and number.

    The first retry is after one poll interval at the latest. Then the time doubles up to ``longest_s`` (default: an
    hour), with jitter. Not thread-safe.
    """

    def __init__(
        self,
        interval_s: float,
        clock: Clock,
        rng: random.Random | None = None,
        *,
        longest_s: float = LONGEST_BACKOFF_S,
    ) -> None:
        self._interval_s = interval_s
        self._longest_s = longest_s
        self._clock = clock
        self._rng = rng or random.Random()
        self._failed: dict[Key, _Failed] = {}

    def due(self, key: Key) -> bool:
        """Whether the item may be requested now."""
        failed = self._failed.get(key)
        return failed is None or self._clock.monotonic() >= failed.until

    def failed(self, key: Key, reason: str, retry_after_ms: int | None = None) -> None:
        """The item could not be read: double its wait, and add the Retry-After, at most an hour.

        During a Retry-After the whole controller is left alone. Afterwards, items that did not fail are requested
        first.
        """
        before = self._failed.get(key)
        failures = before.failures if before else 0
        wait_s = _delay_s(self._interval_s, failures, self._longest_s, self._rng) + _at_least(0.0, retry_after_ms)
        self._failed[key] = _Failed(reason, failures + 1, self._clock.monotonic() + wait_s)

    def succeeded(self, key: Key) -> None:
        """The item was read."""
        self._failed.pop(key, None)

    def keep_only(self, present: Container[Key]) -> None:
        """Forget items that no longer exist."""
        self._failed = {key: failed for key, failed in self._failed.items() if key in present}

    def failing(self) -> list[Failing[Key]]:
        """The items that could not be read, in the order of their next retry."""
        now, now_ms = self._clock.monotonic(), self._clock.now_ms()
        found = [
            Failing(key, failed.reason, failed.failures, now_ms + round(max(failed.until - now, 0.0) * 1000))
            for key, failed in self._failed.items()
        ]
        return sorted(found, key=lambda each: each.next_try_at)


def _delay_s(interval_s: float, failures: int, longest_s: float, rng: random.Random) -> float:
    """The wait after ``failures`` earlier failures: between half and all of the interval doubled that many times."""
    ceiling = min(interval_s * 2 ** min(failures, 20), max(longest_s, interval_s))
    return rng.uniform(ceiling / 2, ceiling)


def _at_least(wait_s: float, retry_after_ms: int | None) -> float:
    return max(wait_s, min((retry_after_ms or 0) / 1000, LONGEST_BACKOFF_S))
