"""Deployments that ended within a span, and their sums by week.

A trigger notes, in the same transaction, that a week has changed (table ``changes``). Then its sums no longer count.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import msgspec
import psycopg

from agent.model.weeks import week_of
from agent.outbox.postgresql.errors import in_words
from agent.outbox.postgresql.names import named
from agent.outbox.postgresql.part import Part
from agent.outbox.rows import STATUSES
from agent.outbox.sql import weeks
from agent.outbox.sql.weeks import weeks_of
from agent.outbox.values import Deployed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.outbox.postgresql.connection import Row
    from agent.outbox.tally import DeployedWeek

_COLUMNS = (
    "id, status, environment, repo_url, commit_hash, first_commit_at, started_at, ended_at,"
    " coalesce(is_hotfix(branch), false)"
)
_SPAN = f"SELECT {_COLUMNS} FROM deployments WHERE ended_at >= %s AND ended_at < %s AND state <> 'discarded'"  # noqa: S608


class Weeks(Part, weeks.Weeks):
    """See :class:`agent.outbox.interface.Looking`."""

    def deployed(
        self, since: int, until: int, *, environment: str | None = None, repo_url: str | None = None
    ) -> Iterator[Deployed]:
        """Deployments that ended at or after ``since`` and before ``until``, without discarded ones, by end and number.

        They are read through a connection of their own until the iterator is exhausted or closed.
        """
        given = {named("environment"): environment, named("repo_url"): repo_url}
        conditions = {sql: value for sql, value in given.items() if value is not None}
        sql = " AND ".join([_SPAN, *conditions])
        with self._reading() as connection:
            yield from _deployed(connection, f"{sql} ORDER BY ended_at, id", (since, until, *conditions.values()))

    def deployed_by_week(
        self, since: int, until: int, *, environment: str | None = None, repo_url: str | None = None
    ) -> Iterator[Deployed | DeployedWeek]:
        """The same deployments, added up by week where possible, by environment and repository."""
        if since >= until:
            return
        if "" in (environment, repo_url):  # sums do not distinguish '' and NULL
            yield from self.deployed(since, until, environment=environment, repo_url=repo_url)
            return
        given = {named("environment"): environment, named("repo_url"): repo_url}
        conditions = {sql: value for sql, value in given.items() if value is not None}
        within = " AND ".join(["week >= %s", "week <= %s", *conditions])
        values = (week_of(since), week_of(until - 1), *conditions.values())
        sql = (
            "SELECT environment, repo_url, week, CASE WHEN s.week IS NULL THEN w.body END FROM"  # noqa: S608
            f" (SELECT * FROM weeks WHERE {within}) AS w FULL JOIN"
            f" (SELECT DISTINCT environment, repo_url, week FROM changes WHERE {within}) AS s"
            " USING (environment, repo_url, week) ORDER BY environment, repo_url, week"
        )
        with self._reading() as connection, connection.cursor(name="weeks") as cursor:
            found = cursor.execute(sql, values * 2)
            try:
                for place, of_place in groupby(found, key=lambda row: row[:2]):
                    bodies = (row[2:] for row in of_place)
                    yield from weeks_of(place, bodies, (since, until), partial(_within, connection))
            except msgspec.MsgspecError as error:
                raise self._damaged(f"the sums of a week cannot be read: {error}") from error

    @contextmanager
    def _reading(self) -> Iterator[psycopg.Connection[Row]]:
        """All statements of the block read the same state, through another connection. This outbox can go on."""
        if self._connection.in_transaction:
            with self._connection.words():
                yield self._connection.usual()
            return
        with self._connection.another() as other:
            try:
                connection = other.usual()
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                yield connection
            except psycopg.Error as error:
                raise in_words(error, other.name) from error
            except KeyError as error:
                raise self._damaged(f"a deployment has the unknown status {error}") from error

    def _within(self, place: tuple[str, str], since: int, until: int) -> Iterator[Deployed]:
        return _within(self._connection.usual(), place, since, until)


def _within(connection: psycopg.Connection[Row], place: tuple[str, str], since: int, until: int) -> Iterator[Deployed]:
    """The deployments of a place. '' is also no environment and no repository."""
    environment, repo_url = place
    texts = [_SPAN, *(named(column) if name else f"(name_key({column}) = '' OR name_key({column}) IS NULL)"
             for column, name in (("environment", environment), ("repo_url", repo_url)))]  # fmt: skip
    values = (since, until, *(name for name in place if name))
    yield from _deployed(connection, f"{' AND '.join(texts)} ORDER BY ended_at, id", values)


def _deployed(connection: psycopg.Connection[Row], sql: str, values: tuple[object, ...]) -> Iterator[Deployed]:
    statuses = STATUSES
    with connection.cursor(name="deployed") as cursor:
        cursor.itersize = 2_000
        for number, status, place, repo, commit, first, began, ended, hotfix in cursor.execute(sql, values):
            yield Deployed(number, statuses[status], place, repo, commit, first, began, ended, hotfix)
