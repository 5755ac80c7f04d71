"""Outcomes of attempts that are not stored in the outbox yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.model.deployment import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.outbox.values import Claimed, Settlement


class Unsettled:
    """Settlements that wait to be stored: usually for milliseconds, longer while the outbox cannot be written.

    The outbox still shows their deployments as due, so claims have to be checked against this list.
    """

    def __init__(self) -> None:
        self._waiting: list[Settlement] = []
        self._last: dict[int, Settlement] = {}  # by deployment number

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, settlement: Settlement) -> None:
        """Append a settlement."""
        self._waiting.append(settlement)
        self._last[settlement.claimed.number] = settlement

    def oldest(self, limit: int) -> list[Settlement]:
        """The first ``limit`` settlements."""
        return self._waiting[:limit]

    def stored(self, batch: Sequence[Settlement]) -> None:
        """Remove a batch, which must be the oldest settlements, after it was stored."""
        del self._waiting[: len(batch)]
        for settlement in batch:
            number = settlement.claimed.number
            if self._last.get(number) is settlement:
                del self._last[number]

    def delivered(self) -> set[int]:
        """Numbers of deployments that Hivel has. They are not sent again, whatever their revision is now."""
        return {number for number, last in self._last.items() if last.state is State.DELIVERED}

    def undelivered(self) -> int:
        """The number of deployments whose last attempt was not a success."""
        return sum(last.state is not State.DELIVERED for last in self._last.values())

    def answers(self, claimed: Claimed, now_ms: int, latest_ms: int) -> bool:
        """Whether this revision needs no attempt now: it failed, or its backoff has not ended.

        A newer revision may be sent. A wait beyond ``latest_ms`` is ignored: the clock was set back after it was set.
        """
        last = self._last.get(claimed.number)
        if last is None or last.claimed.revision != claimed.revision:
            return False
        return last.state is not State.PENDING or now_ms < (last.next_attempt_at or now_ms) <= latest_ms

    def attempts(self, number: int) -> int:
        """The number of attempts of the deployment that the outbox does not know yet."""
        if number not in self._last:
            return 0
        return sum(s.counts_as_attempt for s in self._waiting if s.claimed.number == number)
