"""What the readers of the platforms' APIs return, and how far they have read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.model.times import parse_moment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agent.model.part import Part
    from agent.sources.webhooks.gaps.api import Api
    from agent.sources.webhooks.values import Delivery

# Each look begins this long before the end of the one before: the platforms' clocks and copies differ a little.
OVERLAP_MS = 600_000
# The first look also lists what began this long before it, because it may have ended since.
FIRST_MS = 86_400_000
# Deployments that have not ended and are asked for again. The oldest are dropped.
MOST_OPEN = 200


@dataclass(frozen=True)
class Cursor:
    """How far a stream of a project was read, in UTC ms by the platform's clock.

    ``begun``: what ended before is never taken. ``at``: what the platform lists before this time was taken, except
    ``open``: the ids of what had not ended.
    """

    begun: int
    at: int
    open: tuple[str, ...] = ()

    @property
    def listed_from(self) -> int:
        """The time from which the next look lists."""
        return self.at - (FIRST_MS if self.at == self.begun else OVERLAP_MS)


@dataclass(frozen=True)
class Step:
    """One run that was read.

    ``deliveries``: the webhooks that the platform would have sent about it, oldest first; empty if it has not ended.
    ``ended_at``: when it ended. ``cursor``: the position once this step is stored. ``problem``: why it cannot be read.
    """

    cursor: Cursor
    deliveries: tuple[Delivery, ...] = ()
    ended_at: int = 0
    problem: str = ""


if TYPE_CHECKING:
    # Reads one kind of runs of a project. Raises :class:`agent.sources.webhooks.gaps.errors.ApiError`, and ValueError
    # for an answer of another shape.
    Stream = Callable[[Api, str, Cursor], AsyncIterator[Step]]


def moment(part: Part, path: str) -> int | None:
    """The time at a path in UTC ms; None if it is missing. Raises :class:`ValueError` for anything else."""
    text = part.text(path)
    if not text:
        return None
    try:
        return parse_moment(text)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{part.at(path).where}: {error}") from None


def needed_moment(part: Part, path: str) -> int:
    """The time at a path in UTC ms. Raises :class:`ValueError` if there is none."""
    found = moment(part, path)
    if found is None:
        raise ValueError(f"{part.at(path).where} is missing")
    return found


def needed_number(part: Part, path: str) -> str:
    """The whole number at a path, as text. Raises :class:`ValueError` if there is none."""
    found = part.number(path)
    if not found:
        raise ValueError(f"{part.at(path).where} is missing")
    return found


def needed_text(part: Part, path: str) -> str:
    """The text at a path. Raises :class:`ValueError` if there is none."""
    found = part.text(path)
    if not found:
        raise ValueError(f"{part.at(path).where} is missing")
    return found
