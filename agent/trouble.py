"""Something that goes on being wrong: said when it begins, once an hour, and when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from agent.times import Clock

log = structlog.get_logger("service")

REPEAT_S = 3600.0


class Trouble:
    """One thing that can be wrong, such as the storing of events. ``reason`` None: it is all right."""

    def __init__(self, what: str, clock: Clock) -> None:
        self._what = what
        self._clock = clock
        self._said_at = 0.0
        self.reason: str | None = None

    def note(self, reason: str | None) -> None:
        """It is wrong for this reason, or with None all right again."""
        now = self._clock.monotonic()
        if reason is None:
            if self.reason is not None:
                log.info("works again", what=self._what)
        elif reason != self.reason or now - self._said_at >= REPEAT_S:
            log.error("does not work", what=self._what, reason=reason)
            self._said_at = now
        self.reason = reason
