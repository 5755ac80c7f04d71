"""The deployments of each week, environment and repository, added up: kept for the figures of DORA.

Triggers empty the sums of a week, in the same transaction, when one of its deployments changes. Housekeeping adds them
up again. So the sums are always right, and a week without sums is read from its deployments.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager, suppress
from itertools import groupby, product
from typing import TYPE_CHECKING

import msgspec

from agent.model.weeks import begin_of, week_of
from agent.outbox.rows import STATUSES
from agent.outbox.sqlite.connection import damaged, in_words
from agent.outbox.sqlite.part import Part
from agent.outbox.tally import DeployedWeek, Sums, sums_of
from agent.outbox.values import Deployed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Limits of one step of housekeeping: weeks that are added up, and deployments that are read.
WEEKS = 50
ROWS = 1_000
# How often the current week is added up, in which most deployments are stored.
CURRENT_MS = 600_000
_COLUMNS = (
    "id, status, environment, repo_url, commit_hash, first_commit_at, started_at, ended_at,"
    " branch LIKE 'hotfix/%' OR branch LIKE 'hotfix-%'"
)
_SPAN = f"SELECT {_COLUMNS} FROM deployments WHERE ended_at >= ? AND ended_at < ? AND state <> 'discarded'"  # noqa: S608
_OF_PLACE = f"{_SPAN} AND environment IS ? AND repo_url IS ? ORDER BY ended_at, id"
_ENCODE = msgspec.msgpack.Encoder().encode
_DECODE = msgspec.msgpack.Decoder(Sums).decode


class Weeks(Part):
    """See :class:`agent.outbox.interface.Looking`."""

    # When the current week was added up.
    _added_up_at: int | None = None

    def deployed(
        self, since: int, until: int, *, environment: str | None = None, repo_url: str | None = None
    ) -> Iterator[Deployed]:
        """Deployments that ended at or after ``since`` and before ``until``, without discarded ones, by end and number.

        The statement stays open until the iterator is exhausted or closed.
        """
        given = {"environment = ?": environment, "repo_url = ?": repo_url}
        conditions = {sql: value for sql, value in given.items() if value is not None}
        sql = " AND ".join([_SPAN, *conditions])
        return self._deployed(f"{sql} ORDER BY ended_at, id", (since, until, *conditions.values()))

    def deployed_by_week(
        self, since: int, until: int, *, environment: str | None = None, repo_url: str | None = None
    ) -> Iterator[Deployed | DeployedWeek]:
        """The same deployments, added up by week where possible, by environment and repository.

        Within the iteration this outbox cannot write: all is read from one state of it.
        """
        if since >= until:
            return
        if "" in (environment, repo_url):  # sums do not distinguish '' and NULL
            yield from self.deployed(since, until, environment=environment, repo_url=repo_url)
            return
        first, last = week_of(since), week_of(until - 1)
        given = {"environment = ?": environment, "repo_url = ?": repo_url}
        conditions = {sql: value for sql, value in given.items() if value is not None}
        sql = " AND ".join(
            ["SELECT environment, repo_url, week, body FROM weeks WHERE week >= ? AND week <= ?", *conditions]
        )
        with self._reading(), closing(self._connection.cursor()) as cursor:
            try:
                found = cursor.execute(
                    f"{sql} ORDER BY environment, repo_url, week", (first, last, *conditions.values())
                )
                for place, weeks in groupby(found, key=lambda row: row[:2]):
                    yield from self._of_place(place, (row[2:] for row in weeks), (since, until))
            except sqlite3.Error as error:
                raise in_words(error, self.path) from error
            except msgspec.MsgspecError as error:
                raise damaged(self.path, f"the sums of a week cannot be read: {error}") from error

    def _of_place(
        self, place: tuple[str, str], weeks: Iterable[tuple[int, bytes | None]], span: tuple[int, int]
    ) -> Iterator[Deployed | DeployedWeek]:
        """Weeks without sums that follow each other are read together: there is nothing between them."""
        begin: int | None = None
        end = 0
        for week, body in weeks:
            sums = None if body is None else _DECODE(body)
            if sums is None or not sums.of_span(*span):
                begin, end = week if begin is None else begin, week + 1
                continue
            if begin is not None:
                yield from self._rows(place, max(span[0], begin_of(begin)), min(span[1], begin_of(end)))
                begin = None
            yield DeployedWeek(*place, week, sums)
        if begin is not None:
            yield from self._rows(place, max(span[0], begin_of(begin)), min(span[1], begin_of(end)))

    def _rows(self, place: tuple[str, str], since: int, until: int) -> Iterator[Deployed]:
        """The deployments of a place. Those without environment or repository come in no order."""
        for environment, repo_url in product(*((name,) if name else (None, "") for name in place)):
            yield from self._deployed(_OF_PLACE, (since, until, environment, repo_url))

    def _deployed(self, sql: str, values: tuple[object, ...]) -> Iterator[Deployed]:
        statuses = STATUSES
        with closing(self._connection.cursor()) as cursor:
            try:
                for number, status, place, repo, commit, first, began, ended, hotfix in cursor.execute(sql, values):
                    yield Deployed(number, statuses[status], place, repo, commit, first, began, ended, hotfix == 1)
            except sqlite3.Error as error:
                raise in_words(error, self.path) from error
            except KeyError as error:
                raise damaged(self.path, f"a deployment has the unknown status {error}") from error

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """All statements of the block read the same state."""
        if self._connection.in_transaction:
            yield
            return
        self._all("BEGIN")
        try:
            yield
        finally:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    # ---- housekeeping

    def _add_up_weeks(self, now: int) -> bool:
        """Add up a few weeks that have none of their sums; True if there may be more."""
        waits = self._added_up_at is not None and 0 <= now - self._added_up_at < CURRENT_MS
        found = self._all(
            "SELECT id, environment, repo_url, week FROM weeks WHERE body IS NULL AND week < ? ORDER BY week LIMIT ?",
            (week_of(now) + (not waits), WEEKS),
        )
        if not found:
            self._added_up_at = self._added_up_at if waits else now
            return False
        read = 0
        with self._writing():
            for number, environment, repo_url, week in found:
                rows = list(self._rows((environment, repo_url), begin_of(week), begin_of(week + 1)))
                read += len(rows)
                if rows:
                    rows.sort(key=lambda row: (row.ended_at, row.number))
                    body = _ENCODE(sums_of(rows))
                    self._connection.execute("UPDATE weeks SET body = ? WHERE id = ?", (body, number))
                else:
                    self._connection.execute("DELETE FROM weeks WHERE id = ?", (number,))
                if read >= ROWS:
                    break
        return True
