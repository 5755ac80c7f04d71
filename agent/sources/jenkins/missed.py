"""Missed builds: reads one after all if it appears in a list."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from agent.model.endings import Ending

if TYPE_CHECKING:
    from agent.outbox.interface import Outbox
    from agent.outbox.values import JobCursor


class MissedBuilds:
    """The missed builds of one controller during one poll."""

    def __init__(self, controller: str, outbox: Outbox) -> None:
        self._controller = controller
        self._outbox = outbox
        self._numbers: dict[str, list[range]] = {}

    def has(self, cursor: JobCursor, number: int) -> bool:
        """Whether this build was recorded as missed. Cheap for jobs without missed builds."""
        name = cursor.full_name
        if name not in self._jobs:
            return False
        if name not in self._numbers:
            endings = self._outbox.endings(self._controller, name)
            self._numbers[name] = [range(e.first, e.last + 1) for e in endings if e.ending is Ending.UNREADABLE]
        return any(number in missed for missed in self._numbers[name])

    @cached_property
    def _jobs(self) -> frozenset[str]:
        return frozenset(each.full_name for each in self._outbox.missed() if each.controller == self._controller)
