"""Whether the agent gets on with its work: systemd's watchdog is fed only then."""

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

# Without any progress for so long, and longer where the settings make things slow, systemd restarts the agent.
STALLED_S = 60.0


@dataclass
class Watched:
    """Work that has to get on: by a run that ends, or by a counter that grows meanwhile."""

    name: str
    patience_s: float
    progress: Callable[[], int]
    runs: int = 0
    seen: tuple[int, int] | None = None
    seen_at: float = 0.0

    def stalled(self, now: float) -> bool:
        """Whether nothing moved for longer than ``patience_s``; ``now`` in monotonic seconds."""
        current = (self.runs, self.progress())
        if current != self.seen:
            self.seen, self.seen_at = current, now
        return now - self.seen_at > self.patience_s


class Watchdog:
    """Tells systemd that the agent is alive, as long as everything that is watched gets on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watched: list[Watched] = []

    def watch(self, watched: Watched) -> Watched:
        """Look at this too."""
        self._watched.append(watched)
        return watched

    def feed(self) -> bool:
        """Send ``WATCHDOG=1`` unless something stalls; True when it was sent."""
        now = self._clock.monotonic()
        stalled = [watched.name for watched in self._watched if watched.stalled(now)]
        if stalled:
            log.error("no progress, systemd will restart the agent", stalled=", ".join(stalled))
            return False
        notify("WATCHDOG=1")
        return True


def patience_of_poll(settings: JenkinsSettings) -> float:
    """So many seconds a controller's polls may go without progress."""
    return _patience(settings.poll_interval_ms, settings.timeout_ms, settings.requests_per_minute)


def patience_of_drain(settings: DeliverySettings) -> float:
    """So many seconds the delivery may go without progress."""
    return _patience(settings.interval_ms, settings.timeout_ms, settings.per_minute)


def _patience(interval_ms: int, timeout_ms: int, per_minute: int) -> float:
    between_two_s = 60 / per_minute if per_minute else 0
    return max(STALLED_S, 3 * interval_ms / 1000, 3 * timeout_ms / 1000, 3 * between_two_s)
