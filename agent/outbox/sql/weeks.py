"""The deployments of each week, environment and repository, added up: kept for the figures of DORA.

The sums of a week are empty, or count as empty, from the transaction on in which one of its deployments changes. Then
the week is read from its deployments. Housekeeping adds it up again. So the sums are always right.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import msgspec

from agent.model.weeks import begin_of, week_of
from agent.outbox.sql.base import Part
from agent.outbox.tally import DeployedWeek, Sums, sums_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from agent.outbox.values import Deployed

# Limits of one step of housekeeping: weeks that are added up, and deployments that are read.
WEEKS = 50
ROWS = 1_000
# How often the current week is added up, in which most deployments are stored.
CURRENT_MS = 600_000
_ENCODE = msgspec.msgpack.Encoder().encode
_DECODE = msgspec.msgpack.Decoder(Sums).decode


class Weeks(Part):
    """A part that adds up weeks."""

    # When the current week was added up.
    _added_up_at: int | None = None

    @abstractmethod
    def _within(self, place: tuple[str, str], since: int, until: int) -> Iterator[Deployed]:
        """The deployments of an environment and repository that ended then. '' stands also for none."""

    def _add_up_weeks(self, now: int) -> bool:
        """Add up a few weeks that have none of their sums; True if there may be more."""
        waits = self._added_up_at is not None and 0 <= now - self._added_up_at < CURRENT_MS
        found = self._all(
            "SELECT environment, repo_url, week FROM weeks WHERE body IS NULL AND week < ? ORDER BY week LIMIT ?",
            (week_of(now) + (not waits), WEEKS),
        )
        if not found:
            self._added_up_at = self._added_up_at if waits else now
            return False
        key = f"{self._named('environment')} AND {self._named('repo_url')} AND week = ?"
        read = 0
        with self._writing():
            for environment, repo_url, week in found:
                place = (environment, repo_url)
                rows = list(self._within(place, begin_of(week), begin_of(week + 1)))
                read += len(rows)
                if rows:
                    rows.sort(key=lambda row: (row.ended_at, row.number))
                    body = _ENCODE(sums_of(rows))
                    self._connection.execute(f"UPDATE weeks SET body = ? WHERE {key}", (body, *place, week))  # noqa: S608
                else:
                    self._connection.execute(f"DELETE FROM weeks WHERE {key}", (*place, week))  # noqa: S608
                if read >= ROWS:
                    break
        return True


def weeks_of(
    place: tuple[str, str],
    weeks: Iterable[tuple[int, bytes | None]],
    span: tuple[int, int],
    within: Callable[[tuple[str, str], int, int], Iterator[Deployed]],
) -> Iterator[Deployed | DeployedWeek]:
    """The weeks of a place as their sums or, without sums, as their deployments.

    Weeks without sums that follow each other are read together: there is nothing between them. Raises
    :class:`msgspec.MsgspecError`.
    """
    begin: int | None = None
    end = 0
    for week, body in weeks:
        sums = None if body is None else _DECODE(body)
        if sums is None or not sums.of_span(*span):
            begin, end = week if begin is None else begin, week + 1
            continue
        if begin is not None:
            yield from within(place, max(span[0], begin_of(begin)), min(span[1], begin_of(end)))
            begin = None
        yield DeployedWeek(*place, week, sums)
    if begin is not None:
        yield from within(place, max(span[0], begin_of(begin)), min(span[1], begin_of(end)))
