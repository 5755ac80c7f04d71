"""What came of attempts and is not in the outbox yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.model.deployment import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.outbox.values import Claimed, Settlement


class Unsettled:
    """Settlements that wait to be stored, mostly for some milliseconds; while the outbox cannot be written, for long.

    The outbox says that their deployments are due: nothing may be sent again for that.
    """

    def __init__(self) -> None:
        self._waiting: list[Settlement] = []
        self._last: dict[int, Settlement] = {}  # of each deployment

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, settlement: Settlement) -> None:
        """The next one to be stored."""
        self._waiting.append(settlement)
        self._last[settlement.claimed.number] = settlement

    def oldest(self, limit: int) -> list[Settlement]:
        """Those to be stored first."""
        return self._waiting[:limit]

    def stored(self, batch: Sequence[Settlement]) -> None:
        """They, the oldest, are in the outbox now."""
        del self._waiting[: len(batch)]
        for settlement in batch:
            number = settlement.claimed.number
            if self._last.get(number) is settlement:
                del self._last[number]

    def delivered(self) -> set[int]:
        """The numbers of those that Hivel has: whatever their revision is by now, nothing more is sent."""
        return {number for number, last in self._last.items() if last.state is State.DELIVERED}

    def undelivered(self) -> int:
        """How many deployments were tried last without success."""
        return sum(last.state is not State.DELIVERED for last in self._last.values())

    def answers(self, claimed: Claimed, now_ms: int, latest_ms: int) -> bool:
        """Whether this very revision was refused, or has to wait; a newer one may go.

        A wait beyond ``latest_ms`` was given by a clock that was set back since.
        """
        last = self._last.get(claimed.number)
        if last is None or last.claimed.revision != claimed.revision:
            return False
        return last.state is not State.PENDING or now_ms < (last.next_attempt_at or now_ms) <= latest_ms

    def attempts(self, number: int) -> int:
        """How often the deployment was tried beyond what the outbox knows."""
        if number not in self._last:
            return 0
        return sum(s.counts_as_attempt for s in self._waiting if s.claimed.number == number)
