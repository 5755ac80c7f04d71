"""Deployments that ended within a span, and their sums by week, which triggers empty when a deployment changes."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager, suppress
from itertools import groupby, product
from typing import TYPE_CHECKING

import msgspec

from agent.model.weeks import week_of
from agent.outbox.rows import STATUSES
from agent.outbox.sql import weeks
from agent.outbox.sql.weeks import weeks_of
from agent.outbox.sqlite.connection import damaged, in_words
from agent.outbox.sqlite.part import Part
from agent.outbox.values import Deployed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.outbox.tally import DeployedWeek

_COLUMNS = (
    "id, status, environment, repo_url, commit_hash, first_commit_at, started_at, ended_at,"
    " branch LIKE 'hotfix/%' OR branch LIKE 'hotfix-%'"
)
_SPAN = f"SELECT {_COLUMNS} FROM deployments WHERE ended_at >= ? AND ended_at < ? AND state <> 'discarded'"  # noqa: S608
_OF_PLACE = f"{_SPAN} AND environment IS ? AND repo_url IS ? ORDER BY ended_at, id"


class Weeks(Part, weeks.Weeks):
    """See :class:`agent.outbox.interface.Looking`."""

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
                for place, of_place in groupby(found, key=lambda row: row[:2]):
                    yield from weeks_of(place, (row[2:] for row in of_place), (since, until), self._within)
            except sqlite3.Error as error:
                raise in_words(error, self.path) from error
            except msgspec.MsgspecError as error:
                raise damaged(self.path, f"the sums of a week cannot be read: {error}") from error

    def _within(self, place: tuple[str, str], since: int, until: int) -> Iterator[Deployed]:
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
