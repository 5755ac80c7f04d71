"""Logging of lasting problems: when one begins, once an hour, and when it ends."""

from __future__ import annotations

import traceback
from collections import Counter
from typing import TYPE_CHECKING

import structlog

from agent.model.secrets import redact

if TYPE_CHECKING:
    from collections.abc import Collection

    from agent.model.times import Clock

log = structlog.get_logger("service")

REPEAT_S = 3600.0


class Trouble:
    """One problem that several components can have, for example storing events."""

    def __init__(self, what: str, clock: Clock) -> None:
        self._what = what
        self._clock = clock
        self._reasons: dict[str, str] = {}  # by component
        self._said_at: dict[str, float] = {}  # by reason

    @property
    def reason(self) -> str | None:
        """Why it fails now; None if it works for all components."""
        return next(iter(self._reasons.values()), None)

    def note(self, who: str, reason: str | None) -> None:
        """Record that it fails for ``who`` for this reason or, with None, that it works again."""
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


class Unexpected:
    """Unexpected exceptions, which are bugs of the agent, by the task that they ended.

    Each is logged once with its traceback, and then once an hour while it recurs. ``counts`` has their number.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._said_at: dict[tuple[str, str, str], float] = {}  # by task, exception type and place in the code
        self._said: set[str] = set()  # tasks whose recovery was not logged yet
        self.counts: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}  # by task that has not succeeded since

    def expect(self, works: Collection[str]) -> None:
        """Set the tasks that exist from now on; others are forgotten."""
        for work in works:
            self.counts.setdefault(work, 0)
        self.reasons = {work: reason for work, reason in self.reasons.items() if work in works}

    def note(self, work: str, error: Exception) -> None:
        """Record that the task ended with this exception."""
        self.counts[work] += 1
        self.reasons[work] = redact(f"unexpected error: {type(error).__name__}: {error}; see the log for the traceback")
        key = (work, type(error).__name__, _place(error))
        now = self._clock.monotonic()
        if key not in self._said_at or now - self._said_at[key] >= REPEAT_S:
            self._said_at[key] = now
            self._said.add(work)
            log.error("unexpected error", work=work, times=self.counts[work], exc_info=error,
                      advice="this is a bug in the agent: please report it with this log line")  # fmt: skip

    def over(self, work: str) -> None:
        """Record that the task succeeded."""
        if self.reasons.pop(work, None) is not None and work in self._said:
            self._said.remove(work)
            log.info("works again", what=work)


def _place(error: Exception) -> str:
    """Where it was raised. The message may differ each time."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
