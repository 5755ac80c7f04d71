"""Feeds systemd's watchdog while all work progresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from agent.daemon.systemd import notify

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.config.settings import DeliverySettings, JenkinsSettings
    from agent.model.times import Clock

log = structlog.get_logger("service")

# Without progress for this time, systemd restarts the agent. Settings that make work slow make it longer.
STALLED_S = 60.0


@dataclass
class Watched:
    """Work that must progress: runs that end without an unexpected exception, or a counter that grows during a run.

    A run that ended with an unexpected exception does not count as progress.
    """

    name: str
    patience_s: float
    progress: Callable[[], int] = lambda: 0
    _runs: int = 0
    _seen: tuple[int, int] | None = None  # runs and progress
    _well_at: float = 0.0
    _moved_at: float = 0.0

    def ended_well(self) -> None:
        """A run ended, or there was nothing to do."""
        self._runs += 1

    def ended_by_mistake(self) -> None:
        """A run ended with an unexpected exception."""
        self._moved_at = self._well_at
        if self._seen is not None:
            self._seen = (self._seen[0], self.progress())

    def stalled(self, now: float) -> bool:
        """Whether there was no progress for longer than ``patience_s``; ``now`` in monotonic seconds."""
        current = (self._runs, self.progress())
        if self._seen is None or current[0] != self._seen[0]:
            self._well_at = self._moved_at = now
        elif current != self._seen:
            self._moved_at = now
        self._seen = current
        return now - self._moved_at > self.patience_s


class Watchdog:
    """Tells systemd that the agent is alive while all watched work progresses."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watched: tuple[Watched, ...] = ()

    def watch(self, *watched: Watched) -> None:
        """Watch these instead of the previous ones."""
        self._watched = watched

    def feed(self) -> bool:
        """Send ``WATCHDOG=1`` unless something stalls; True when it was sent."""
        now = self._clock.monotonic()
        stalled = [watched.name for watched in self._watched if watched.stalled(now)]
        if stalled:
            log.error("no progress; systemd will restart the agent", stalled=", ".join(stalled))
            return False
        notify("WATCHDOG=1")
        return True


def patience_of_poll(settings: JenkinsSettings) -> float:
    """How many seconds the polls of a controller can be without progress."""
    return _patience(settings.poll_interval_ms, settings.timeout_ms, settings.requests_per_minute)


def patience_of_delivery(settings: DeliverySettings) -> float:
    """How many seconds the delivery can be without progress."""
    return _patience(settings.interval_ms, settings.timeout_ms, settings.per_minute)


def _patience(interval_ms: int, timeout_ms: int, per_minute: int) -> float:
    between_two_s = 60 / per_minute if per_minute else 0
    return max(STALLED_S, 3 * interval_ms / 1000, 3 * timeout_ms / 1000, 3 * between_two_s)
