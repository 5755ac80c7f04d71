"""The clock of agents that share an outbox: that of the database."""

from __future__ import annotations

from agent.model.times import Clock


class DatabaseClock(Clock):
    """The time of the database, as it was last told, plus the time that has passed on this machine since.

    So all agents have the same time, whatever their machines' clocks say: what one of them lets wait for a minute waits
    for a minute. Before it is told a time, it is the machine's clock.
    """

    def __init__(self, own: Clock) -> None:
        self.own = own
        self._told: tuple[int, float] | None = None

    def tell(self, now_ms: int) -> None:
        """It is this time in the database now."""
        self._told = now_ms, self.own.monotonic()

    def now_ms(self) -> int:
        """See :class:`Clock`."""
        if self._told is None:
            return self.own.now_ms()
        told_ms, at_s = self._told
        return told_ms + int((self.own.monotonic() - at_s) * 1000)

    def monotonic(self) -> float:
        """See :class:`Clock`."""
        return self.own.monotonic()

    def of_files_ms(self) -> int:
        """See :class:`Clock`."""
        return self.own.of_files_ms()

    def own_ahead_ms(self) -> int:
        """How far this machine's clock is ahead of the database's; negative: behind."""
        return self.own.now_ms() - self.now_ms()
