"""Something that goes on being wrong: said when it begins, once an hour, and when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from agent.model.times import Clock

log = structlog.get_logger("service")

REPEAT_S = 3600.0


class Trouble:
    """One thing that can be wrong for several who do it, such as the storing of events."""

    def __init__(self, what: str, clock: Clock) -> None:
        self._what = what
        self._clock = clock
        self._reasons: dict[str, str] = {}  # by who met it
        self._said_at: dict[str, float] = {}  # by reason

    @property
    def reason(self) -> str | None:
        """Why it does not work; None: it works for everybody."""
        return next(iter(self._reasons.values()), None)

    def note(self, who: str, reason: str | None) -> None:
        """It is wrong for ``who`` for this reason, or with None all right again."""
        if reason is None:
            if self._reasons.pop(who, None) is not None and not self._reasons:
                self._said_at.clear()
                log.info("works again", what=self._what)
            return
        self._reasons[who] = reason
        now = self._clock.monotonic()
        if reason not in self._said_at or now - self._said_at[reason] >= REPEAT_S:
            self._said_at[reason] = now
            log.error("does not work", what=self._what, reason=reason)
