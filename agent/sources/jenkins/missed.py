"""Builds that were missed: one that a list shows after all is taken up."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from agent.model.endings import Ending

if TYPE_CHECKING:
    from agent.outbox.interface import Outbox
    from agent.outbox.values import JobCursor


class MissedBuilds:
    """The missed builds of one controller, as one poll meets them."""

    def __init__(self, controller: str, outbox: Outbox) -> None:
        self._controller = controller
        self._outbox = outbox

    def has(self, cursor: JobCursor, number: int) -> bool:
        """Whether this build of the job was missed. It costs little for a job of which none was."""
        return cursor.full_name in self._jobs and any(
            each.ending is Ending.UNREADABLE and each.first <= number <= each.last
            for each in self._outbox.endings(self._controller, cursor.full_name)
        )

    @cached_property
    def _jobs(self) -> frozenset[str]:
        return frozenset(each.full_name for each in self._outbox.missed() if each.controller == self._controller)
