"""What became of a job's build numbers, as ranges. This is kept when facts and deployments are deleted.

For a build that was read, facts and deployments have more details while they are kept.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_DAY_MS = 86_400_000


class Ending(StrEnum):
    """What became of a build number below a job's cursor. Later members override earlier ones."""

    BEFORE_AUDIT = "before audit"
    """It was read or skipped by a version of the agent that did not record which."""
    FORMER_NAME = "former name"
    """It was read when the job had another name. Its result is no longer known."""
    NO_RULE = "no rule"
    """No rule matched the job at that time."""
    HISTORY = "history"
    """It ended before the agent began to report the job."""
    UNREADABLE = "unreadable"
    """Discarded, deleted, or a number that was never used: Jenkins does not report which."""
    READ = "read"
    """Its facts were stored. Its deployments show the result."""
    NO_DEPLOYMENT = "no deployment"
    """It was read, and no rule derived a deployment from it. Its facts have been deleted."""

    @property
    def weight(self) -> int:
        """The priority among several endings for the same number."""
        return _WEIGHTS[self]


_WEIGHTS = {ending: weight for weight, ending in enumerate(Ending)}


class Ended(msgspec.Struct, frozen=True, order=True):
    """The build numbers ``first`` to ``last`` have the same ending. ``at``: when it was recorded (UTC ms)."""

    first: int
    last: int
    ending: Ending
    at: int

    def touches(self, other: Ended) -> bool:
        """Whether two ranges with equal endings can be merged: they are adjacent and were recorded on the same day."""
        return (self.ending, self.at // _DAY_MS) == (other.ending, other.at // _DAY_MS) and self.last + 1 == other.first


def ranges(numbers: Iterable[int], ending: Ending, at: int) -> list[Ended]:
    """The smallest set of ranges that covers exactly these numbers."""
    found: list[Ended] = []
    for number in sorted(set(numbers)):
        if found and found[-1].last + 1 == number:
            found[-1] = Ended(found[-1].first, number, ending, at)
        else:
            found.append(Ended(number, number, ending, at))
    return found


def without(first: int, last: int, numbers: Collection[int]) -> Iterator[tuple[int, int]]:
    """The ranges that remain of ``first`` to ``last`` without these numbers."""
    begin = first
    for number in sorted({number for number in numbers if first <= number <= last}):
        if begin < number:
            yield begin, number - 1
        begin = number + 1
    if begin <= last:
        yield begin, last


def put(known: Iterable[Ended], new: Iterable[Ended]) -> list[Ended]:
    """Merge ranges so that none overlap. Where two cover the same number, the ending with the higher priority wins."""
    together = sorted(known)
    for each in new:
        together = _put(together, each)
    joined: list[Ended] = []
    for each in together:
        if joined and joined[-1].touches(each):
            joined[-1] = Ended(joined[-1].first, each.last, each.ending, max(joined[-1].at, each.at))
        else:
            joined.append(each)
    return joined


def _put(known: list[Ended], new: Ended) -> list[Ended]:
    left: list[Ended] = []
    begin = new.first  # everything below is done
    for old in known:
        if old.last < new.first or old.first > new.last:
            left.append(old)
        elif old.ending.weight < new.ending.weight:
            left += _pieces(old, (old.first, new.first - 1), (new.last + 1, old.last))
        else:
            left += [*_pieces(new, (begin, old.first - 1)), old]
            begin = old.last + 1
    left += _pieces(new, (begin, new.last))
    return sorted(left)


def _pieces(of: Ended, *spans: tuple[int, int]) -> list[Ended]:
    return [Ended(first, last, of.ending, of.at) for first, last in spans if first <= last]
