"""Counts the deployments of one repository in one environment, week by week. No I/O, no clock.

The definitions are in docs/dora.md. The deployments come in the order of their ends, so that one pass is enough and
only the measured times are kept in memory. A week can also come as its sums, which were made of its deployments before:
the counts are the same.
"""

from __future__ import annotations

import sys
from array import array
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agent.model.status import Status
from agent.model.weeks import DAY_MS, begin_of, week_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.outbox.values import Deployed

    # Numbers of eight bytes each.
    Packed = bytes | bytearray | array[int]


class Unrecovered(NamedTuple):
    """A failed deployment without a later success. ``number``: its row number."""

    number: int
    ended_at: int


class Sums(msgspec.Struct, frozen=True, array_like=True):
    """The deployments that ended in one week, added up. Times are in milliseconds, see :func:`packed`.

    ``recovery``: for failed deployments that were followed by a success in the same week. ``unrecovered``: the others.
    ``commits``: successful deployments with a commit. ``keys``: their commits, each once, in the order in which they
    came. ``order``: the places in ``keys`` of all of them; empty if no commit came twice. ``rollbacks`` and ``rework``:
    how many there are if none of the commits was deployed before this week. ``marks``: for each of ``commits`` 1 if it
    is a hotfix; empty if none is. ``hotfixes``: successful ones without a commit.
    """

    first_ended_at: int
    last_ended_at: int
    success: int
    failed: int
    canceled: int
    unknown: int
    days: int
    durations: bytes
    lead: bytes
    recovery: bytes
    first_success_at: int | None
    unrecovered: tuple[Unrecovered, ...]
    commits: int
    rollbacks: int
    keys: bytes
    order: bytes
    rework: int = 0
    marks: bytes = b""
    hotfixes: int = 0
    byte_order: str = sys.byteorder

    def of_span(self, since: int, until: int) -> bool:
        """Whether all of it is within this span, and was added up by this kind of machine."""
        return since <= self.first_ended_at and self.last_ended_at < until and self.byte_order == sys.byteorder

    @property
    def deployments(self) -> int:
        """How many there are."""
        return self.success + self.failed + self.canceled + self.unknown


class DeployedWeek(NamedTuple):
    """The sums of one week of one place. ``environment`` and ``repo_url`` are '' for deployments without one."""

    environment: str
    repo_url: str
    week: int
    sums: Sums


def sums_of(rows: Sequence[Deployed]) -> Sums:
    """Add up deployments of one week and one place, at least one. They are in the order of their ends."""
    series = Series()
    for row in rows:
        series.add(row)
    [tally] = series.weeks.values()
    successful = [row for row in rows if row.status is Status.SUCCESS]
    commits = [commit_key(row.commit_hash) for row in successful if row.commit_hash]
    marks = bytes(row.hotfix for row in successful if row.commit_hash)
    keys = {key: place for place, key in enumerate(dict.fromkeys(commits))}
    return Sums(
        first_ended_at=rows[0].ended_at,
        last_ended_at=rows[-1].ended_at,
        success=tally.success,
        failed=tally.failed,
        canceled=tally.canceled,
        unknown=tally.unknown,
        days=tally.days,
        durations=packed(sorted(unpacked(tally.durations))),
        lead=packed(sorted(unpacked(tally.lead))),
        recovery=packed(tally.recovery),
        first_success_at=successful[0].ended_at if successful else None,
        unrecovered=tuple(series.open),
        commits=len(commits),
        rollbacks=tally.rollbacks,
        keys=packed(keys),
        order=b"" if len(keys) == len(commits) else packed(keys[key] for key in commits),
        rework=tally.rework,
        marks=marks if any(marks) else b"",
        hotfixes=sum(row.hotfix for row in successful if not row.commit_hash),
    )


def packed(values: Iterable[int]) -> bytes:
    """Eight bytes for each, in the order of the machine's bytes."""
    return array("q", values).tobytes()


def unpacked(values: Packed) -> memoryview[int]:
    """The numbers themselves, without a copy."""
    return memoryview(values).cast("B").cast("q")


def commit_key(commit: str) -> int:
    """A number for a commit, the same in all processes. Two commits of a repository do not have the same one."""
    return int.from_bytes(blake2b(commit.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big", signed=True)


class Tally:
    """The deployments that ended in one week. Times are in milliseconds."""

    __slots__ = (
        "canceled",
        "commits",
        "days",
        "durations",
        "failed",
        "in_order",
        "lead",
        "recovery",
        "rework",
        "rollbacks",
        "success",
        "unknown",
    )

    def __init__(self) -> None:
        self.success = self.failed = self.canceled = self.unknown = 0
        self.days = 0
        """Days with a successful deployment."""
        self.durations: Packed = array("q")
        self.lead: Packed = array("q")
        self.in_order = False
        """Whether durations and lead times are sorted."""
        self.recovery = array("q")
        """For each failed deployment of this week that was followed by a success: how long that took."""
        self.commits = 0
        """Successful deployments whose commit is known."""
        self.rollbacks = 0
        self.rework = 0
        """Rollbacks, and successful deployments of hotfixes; one that is both counts once."""

    @classmethod
    def of(cls, sums: Sums) -> Tally:
        """The same from the sums, without the successes of later weeks."""
        tally = cls()
        tally.success, tally.failed = sums.success, sums.failed
        tally.canceled, tally.unknown = sums.canceled, sums.unknown
        tally.days = sums.days
        tally.durations, tally.lead, tally.in_order = sums.durations, sums.lead, True
        tally.recovery.frombytes(sums.recovery)
        tally.commits, tally.rollbacks, tally.rework = sums.commits, sums.rollbacks, sums.rework
        return tally

    @classmethod
    def total(cls, weeks: Iterable[Tally]) -> Tally:
        """The deployments of all these weeks."""
        total = cls()
        durations, lead = bytearray(), bytearray()
        for week in weeks:
            total.success += week.success
            total.failed += week.failed
            total.canceled += week.canceled
            total.unknown += week.unknown
            total.days += week.days
            durations += week.durations
            lead += week.lead
            total.recovery += week.recovery
            total.commits += week.commits
            total.rollbacks += week.rollbacks
            total.rework += week.rework
        total.durations, total.lead = durations, lead
        return total


class Series:
    """The deployments of one repository in one environment."""

    __slots__ = (
        "_current",
        "_day",
        "_durations",
        "_lead",
        "_newest",
        "_seen",
        "_succeeded_at",
        "_week",
        "_week_ends_at",
        "open",
        "weeks",
    )

    def __init__(self) -> None:
        self.weeks: dict[int, Tally] = {}
        self.open: list[Unrecovered] = []
        """The failed deployments without a later success, in the order of their ends."""
        self._week = Tally()
        self._durations = self._lead = array("q")  # of that week
        self._week_ends_at: int | None = None
        self._day: int | None = None  # of the last successful deployment
        self._succeeded_at: int | None = None
        self._seen = set[int]()
        self._newest: int | None = None  # the commit that was deployed here for the first time most recently
        self._current: int | None = None  # the commit of the last successful deployment

    def add(self, row: Deployed) -> None:
        """Count the next deployment. It ended at the same time as the one before, or later."""
        if self._week_ends_at is None or row.ended_at >= self._week_ends_at:
            week = week_of(row.ended_at)
            self._week = self.weeks[week] = Tally()
            self._week.durations = self._durations = array("q")
            self._week.lead = self._lead = array("q")
            self._week_ends_at = begin_of(week + 1)
        tally, status = self._week, row.status
        if status is Status.SUCCESS:
            self._succeed(tally, row)
        elif status is Status.FAILED:
            tally.failed += 1
            if self._succeeded_at == row.ended_at:
                tally.recovery.append(0)
            else:
                self.open.append(Unrecovered(row.number, row.ended_at))
        elif status is Status.CANCELED:
            tally.canceled += 1
        else:
            tally.unknown += 1

    def add_week(self, week: int, sums: Sums) -> None:
        """Count the deployments of the next week."""
        tally = self.weeks[week] = Tally.of(sums)
        self._week_ends_at = self._succeeded_at = None
        if sums.first_success_at is not None:
            self._recover(sums.first_success_at)
        self.open += sums.unrecovered
        if not sums.commits:
            return
        keys = unpacked(sums.keys).tolist()
        order = unpacked(sums.order) if sums.order else range(len(keys))
        if self._seen.isdisjoint(keys):
            self._newest, self._current = keys[-1], keys[order[-1]]
            self._seen.update(keys)
            return
        tally.commits = tally.rollbacks = 0
        tally.rework = sums.hotfixes
        marks = sums.marks or bytes(sums.commits)
        for place, mark in zip(order, marks, strict=True):
            self._deploy(tally, keys[place], hotfix=mark == 1)

    def _succeed(self, tally: Tally, row: Deployed) -> None:
        ended_at = row.ended_at
        tally.success += 1
        day = ended_at // DAY_MS
        if day != self._day:
            self._day = day
            tally.days += 1
        if ended_at >= row.started_at:
            self._durations.append(ended_at - row.started_at)
        if row.first_commit_at is not None and ended_at >= row.first_commit_at:
            self._lead.append(ended_at - row.first_commit_at)
        if self.open:
            self._recover(ended_at)
        self._succeeded_at = ended_at
        if row.commit_hash:
            self._deploy(tally, commit_key(row.commit_hash), hotfix=row.hotfix)
        else:
            tally.rework += row.hotfix

    def _recover(self, ended_at: int) -> None:
        for failed in self.open:
            self.weeks[week_of(failed.ended_at)].recovery.append(ended_at - failed.ended_at)
        self.open.clear()

    def _deploy(self, tally: Tally, key: int, *, hotfix: bool) -> None:
        tally.commits += 1
        is_rollback = key in self._seen and key not in (self._newest, self._current)
        if key not in self._seen:
            self._seen.add(key)
            self._newest = key
        tally.rollbacks += is_rollback
        tally.rework += is_rollback or hotfix
        self._current = key
