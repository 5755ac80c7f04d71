"""What the pages need from the agent. The daemon implements it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.config.settings import Settings
    from agent.ingest.ingest import Ingest
    from agent.inspect.asked import Asked
    from agent.inspect.silent import SilentJob
    from agent.model.times import Clock
    from agent.outbox.interface import Outbox

T = TypeVar("T")


class UnavailableError(Exception):
    """The agent or its outbox cannot answer now. The message is for users."""


class Backend(Protocol):
    """The agent with its current configuration. Use it for one request: a reload makes a new one."""

    @property
    def settings(self) -> Settings:
        """The current configuration."""
        ...

    @property
    def clock(self) -> Clock:
        """The clock of the outbox."""
        ...

    async def read(self, look: Callable[[Outbox], T]) -> T:
        """Call ``look`` with an outbox that cannot be written, in a thread; returns its result.

        Raises :class:`UnavailableError` if the outbox cannot be read or does not answer in time.
        """
        ...

    async def change(self, act: Callable[[Ingest], T]) -> T:
        """Call ``act`` with an outbox that can be written, in a thread of its own; returns its result.

        Raises :class:`UnavailableError` if the outbox cannot be written.
        """
        ...

    def asked(self) -> Sequence[Asked]:
        """The requests of the last hour, for each controller."""
        ...

    def silent_jobs(self) -> Sequence[SilentJob]:
        """Jobs that deployed regularly and stopped, as the last hourly search found them."""
        ...

    def problems(self) -> Sequence[str]:
        """Why nothing can be stored, and which work fails; empty: all is well."""
        ...

    def wake(self, controller: str) -> None:
        """Poll this controller now."""
        ...
