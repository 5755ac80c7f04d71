"""Counts the deployments of one repository in one environment, week by week. No I/O, no clock.

The definitions are in docs/dora.md. The deployments of each week are added up first, in the order of their ends. Then
the weeks are put together, because recoveries and rollbacks reach beyond a week.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agent.model.status import Status
from agent.model.weeks import DAY_MS, begin_of, week_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from agent.outbox.values import Deployed


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


def by_week(deployed: Iterable[Deployed | DeployedWeek]) -> Iterator[DeployedWeek]:
    """Add up the deployments that are not added up yet, so that all come as weeks."""
    waiting: dict[tuple[str, str], list[Deployed]] = {}  # at each place, those of one week
    for item in deployed:
        if isinstance(item, DeployedWeek):
            if waiting and (rows := waiting.pop(item[:2], None)):
                yield _added_up(rows)
            yield item
            continue
        place = item.environment or "", item.repo_url or ""
        rows = waiting.setdefault(place, [])
        if rows and item.ended_at >= begin_of(week_of(rows[0].ended_at) + 1):
            yield _added_up(rows)
            rows.clear()
        rows.append(item)
    for rows in waiting.values():
        yield _added_up(rows)


def _added_up(rows: Sequence[Deployed]) -> DeployedWeek:
    first = rows[0]
    return DeployedWeek(first.environment or "", first.repo_url or "", week_of(first.ended_at), sums_of(rows))


def sums_of(rows: Sequence[Deployed]) -> Sums:
    """Add up deployments of one week and one place, at least one. They are in the order of their ends."""
    statuses = Counter(row.status for row in rows)
    successful = [row for row in rows if row.status is Status.SUCCESS]
    recovery, unrecovered = _recoveries(rows) if statuses[Status.FAILED] else ([], [])
    commits = [commit_key(row.commit_hash) for row in successful if row.commit_hash]
    marks = bytes(row.hotfix for row in successful if row.commit_hash)
    places = {key: place for place, key in enumerate(dict.fromkeys(commits))}
    rollbacks = _Commits().add(commits)
    hotfixes = sum(row.hotfix for row in successful if not row.commit_hash)
    return Sums(
        first_ended_at=rows[0].ended_at,
        last_ended_at=rows[-1].ended_at,
        success=len(successful),
        failed=statuses[Status.FAILED],
        canceled=statuses[Status.CANCELED],
        unknown=len(rows) - len(successful) - statuses[Status.FAILED] - statuses[Status.CANCELED],
        days=len({row.ended_at // DAY_MS for row in successful}),
        durations=packed(sorted(row.ended_at - row.started_at for row in successful if row.ended_at >= row.started_at)),
        lead=packed(
            sorted(
                row.ended_at - row.first_commit_at
                for row in successful
                if row.first_commit_at is not None and row.ended_at >= row.first_commit_at
            )
        ),
        recovery=packed(recovery),
        first_success_at=successful[0].ended_at if successful else None,
        unrecovered=tuple(unrecovered),
        commits=len(commits),
        rollbacks=sum(rollbacks),
        keys=packed(places),
        order=b"" if len(places) == len(commits) else packed(places[key] for key in commits),
        rework=hotfixes + _rework(rollbacks, marks),
        marks=marks if any(marks) else b"",
        hotfixes=hotfixes,
    )


def _recoveries(rows: Iterable[Deployed]) -> tuple[list[int], list[Unrecovered]]:
    """How long each failed deployment took to the next success, and those that none followed."""
    recovery: list[int] = []
    waiting: list[Unrecovered] = []
    succeeded_at: int | None = None
    for row in rows:
        if row.status is Status.SUCCESS:
            recovery += [row.ended_at - failed.ended_at for failed in waiting]
            waiting.clear()
            succeeded_at = row.ended_at
        elif row.status is Status.FAILED and succeeded_at == row.ended_at:
            recovery.append(0)
        elif row.status is Status.FAILED:
            waiting.append(Unrecovered(row.number, row.ended_at))
    return recovery, waiting


def packed(values: Iterable[int]) -> bytes:
    """Eight bytes for each, in the order of the machine's bytes."""
    return array("q", values).tobytes()


def unpacked(values: bytes) -> array[int]:
    """The numbers themselves."""
    return array("q", values)


def commit_key(commit: str) -> int:
    """A number for a commit, the same in all processes. Two commits of a repository do not have the same one."""
    return int.from_bytes(blake2b(commit.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big", signed=True)


class _Commits:
    """The commits that were deployed to one place, in the order of the deployments."""

    def __init__(self) -> None:
        self._seen = set[int]()
        self._newest: int | None = None  # the commit that was deployed here for the first time most recently
        self._current: int | None = None  # the commit of the last successful deployment

    def add_new(self, keys: Sequence[int], last: int) -> bool:
        """Add commits if none of them was deployed before. ``last``: the one that was deployed last."""
        if not self._seen.isdisjoint(keys):
            return False
        self._seen.update(keys)
        self._newest, self._current = keys[-1], last
        return True

    def add(self, keys: Iterable[int]) -> list[bool]:
        """Add the commits of deployments. For each: whether it is a rollback."""
        return [self._is_rollback(key) for key in keys]

    def _is_rollback(self, key: int) -> bool:
        is_rollback = key in self._seen and key not in (self._newest, self._current)
        if key not in self._seen:
            self._seen.add(key)
            self._newest = key
        self._current = key
        return is_rollback


@dataclass(slots=True)
class Tally:
    """The deployments that ended in one week, or in several. Times are in milliseconds, see :func:`packed`.

    ``days``: days with a successful deployment. ``durations`` and ``lead`` are sorted. ``recovery``: for each failed
    deployment that was followed by a success, how long that took. ``commits``: successful deployments whose commit is
    known. ``rework``: rollbacks, and successful deployments of hotfixes; one that is both counts once.
    """

    success: int = 0
    failed: int = 0
    canceled: int = 0
    unknown: int = 0
    days: int = 0
    commits: int = 0
    rollbacks: int = 0
    rework: int = 0
    durations: bytes = b""
    lead: bytes = b""
    recovery: bytes = b""

    @classmethod
    def of(cls, sums: Sums) -> Tally:
        """One week, without what happened before and after it."""
        return cls(
            sums.success,
            sums.failed,
            sums.canceled,
            sums.unknown,
            sums.days,
            sums.commits,
            sums.rollbacks,
            sums.rework,
            sums.durations,
            sums.lead,
            sums.recovery,
        )

    @classmethod
    def total(cls, weeks: Collection[Tally]) -> Tally:
        """All these weeks."""
        return cls(
            sum(week.success for week in weeks),
            sum(week.failed for week in weeks),
            sum(week.canceled for week in weeks),
            sum(week.unknown for week in weeks),
            sum(week.days for week in weeks),
            sum(week.commits for week in weeks),
            sum(week.rollbacks for week in weeks),
            sum(week.rework for week in weeks),
            # The pieces are in order already, which makes sorting fast.
            packed(sorted(unpacked(b"".join(week.durations for week in weeks)))),
            packed(sorted(unpacked(b"".join(week.lead for week in weeks)))),
            b"".join(week.recovery for week in weeks),
        )


class Series:
    """The deployments of one repository in one environment: ``weeks`` by their numbers, in the order of time.

    ``open``: the failed deployments without a later success, in the order of their ends.
    """

    def __init__(self, weeks: Iterable[tuple[int, Sums]]) -> None:
        self.weeks: dict[int, Tally] = {}
        self.open: list[Unrecovered] = []
        self._commits = _Commits()
        for number, sums in weeks:
            tally = self.weeks[number] = Tally.of(sums)
            if sums.first_success_at is not None:
                self._recover(sums.first_success_at)
            self.open += sums.unrecovered
            if sums.commits:
                self._deploy(tally, sums)

    def _recover(self, ended_at: int) -> None:
        for failed in self.open:
            self.weeks[week_of(failed.ended_at)].recovery += packed([ended_at - failed.ended_at])
        self.open.clear()

    def _deploy(self, tally: Tally, sums: Sums) -> None:
        """Look for rollbacks again if a commit of this week was deployed in an earlier one."""
        keys = unpacked(sums.keys)
        order = unpacked(sums.order) if sums.order else range(len(keys))
        if self._commits.add_new(keys, keys[order[-1]]):
            return
        rollbacks = self._commits.add(keys[place] for place in order)
        marks = sums.marks or bytes(sums.commits)
        tally.rollbacks = sum(rollbacks)
        tally.rework = sums.hotfixes + _rework(rollbacks, marks)


def _rework(rollbacks: Iterable[bool], marks: bytes) -> int:
    return sum(is_rollback or mark == 1 for is_rollback, mark in zip(rollbacks, marks, strict=True))
