"""What all parts of the engine share: the connection, the clock, and the numbers of projects."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec

from agent.model.keys import Project
from agent.outbox.marks import refuse_marked
from agent.outbox.postgresql.connection import Connection
from agent.outbox.postgresql.marks import mark_of
from agent.outbox.postgresql.migrations import migrate
from agent.outbox.postgresql.transactions import Block, Fence, Transactions
from agent.outbox.rows import deployment_of
from agent.outbox.values import DamagedError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from agent.model.deployment import Deployment
    from agent.model.times import Clock
    from agent.outbox.postgresql.connection import Row
    from agent.outbox.postgresql.pool import Pool
    from agent.outbox.postgresql.server import Server

# Numbers with more digits are not build or deployment numbers: they do not fit into a bigint.
MOST_DIGITS = 18
# The number of projects kept in the cache: a few megabytes.
_PROJECTS = 20_000
_BY_NAME = (
    "SELECT p.provider, p.scope, p.name, p.id FROM projects AS p"
    " JOIN unnest(%s::text[], %s::text[], %s::text[]) AS asked (provider, scope, name)"
    " ON name_key(p.provider) = name_key(asked.provider) AND name_key(p.scope) = name_key(asked.scope)"
    " AND name_key(p.name) = name_key(asked.name)"
)
_INSERT = (
    "INSERT INTO projects (provider, scope, name) SELECT * FROM unnest(%s::text[], %s::text[], %s::text[])"
    " ORDER BY 1, 2, 3 ON CONFLICT DO NOTHING"
)


class Part:
    """One part of the engine; :class:`agent.outbox.postgresql.engine.PostgresqlOutbox` combines them."""

    def __init__(
        self, server: Server, clock: Clock, *, max_size: int = 0, read_only: bool = False, pool: Pool | None = None
    ) -> None:
        """Connect, and create or migrate the tables. Raises :class:`OutboxError`.

        ``max_size`` in bytes; 0: no limit. ``read_only``: this object never writes. ``pool``: None: it has a connection
        for itself.
        """
        self.server = server
        self.clock = clock
        self.max_size = max_size
        self.holder = uuid4()
        """Whose claims these are: see :meth:`agent.outbox.postgresql.deliveries.Deliveries.claim`."""
        self._connection = Connection(server, pool)
        self._transactions = Transactions(self._connection, read_only=read_only)
        self._ids: dict[Project, int] = {}
        self._projects: dict[int, Project] = {}
        self._rollbacks = 0
        try:
            migrate(self._connection)
            refuse_marked(self._connection.name, mark_of(self._connection))
        except BaseException:
            self._connection.close()
            raise

    @property
    def connection(self) -> Connection:
        """The connection, for what is stored beside the outbox: it takes part in the current transaction."""
        return self._connection

    def fence(self, fence: Fence | None) -> None:
        """From now on begin each write transaction with this check."""
        self._transactions.fence = fence

    def transaction(self) -> Block:
        """A block that is all or nothing, and durable when the outermost block ends."""
        return self._transactions.nested

    def _writing(self) -> Block:
        """A transaction, or a part of the current one."""
        return self._transactions.joined

    def _all(self, sql: str, values: Any = None) -> list[Row]:
        return self._connection.all(sql, values)

    def _one(self, sql: str, values: Any = None) -> Any:
        """The first row, or None."""
        return self._connection.one(sql, values)

    def _many(self, sql: str, values: Collection[Any]) -> None:
        """The statement for each of these values."""
        if values:
            self._connection.execute_many(sql, list(values))

    # ---- projects

    def _project_id(self, project: Project) -> int | None:
        """None if nothing is stored for this project."""
        return self._project_ids([project]).get(project)

    def _project_ids(self, projects: Iterable[Project]) -> dict[Project, int]:
        """The numbers of those for which something is stored."""
        self._forget_after_rollback()
        asked = list(dict.fromkeys(projects))
        if missing := [each for each in asked if each not in self._ids]:
            for *names, number in self._all(_BY_NAME, _columns(missing)):
                self._remember(number, Project(*names))
        return {each: self._ids[each] for each in asked if each in self._ids}

    def _made_project_ids(self, projects: Iterable[Project]) -> dict[Project, int]:
        """Insert projects if necessary. Call it within a transaction.

        They stay if the transaction is rolled back only if another one has inserted them, so the cache is cleared then.
        """
        asked = list(dict.fromkeys(projects))
        found = self._project_ids(asked)
        if missing := [each for each in asked if each not in found]:
            self._connection.execute(_INSERT, _columns(missing))
            found |= self._project_ids(missing)
        return found

    def _project(self, project_id: int) -> Project:
        self._know_projects([project_id])
        return self._projects[project_id]

    def _know_projects(self, numbers: Iterable[int]) -> None:
        """Read the projects that are not in the cache in one statement."""
        self._forget_after_rollback()
        missing = {each for each in numbers if each not in self._projects}
        if missing:
            found = self._all("SELECT id, provider, scope, name FROM projects WHERE id = ANY(%s)", (list(missing),))
            for number, *names in found:
                self._remember(number, Project(*names))
            if not missing <= self._projects.keys():
                raise self._damaged("a project is missing")

    def _names(self, projects: Iterable[Project]) -> dict[Project, list[Project]]:
        """All names under which these projects may be stored, each one's own first."""
        names = {project: [project] for project in projects}
        known = self._project_ids(names)
        if known:
            found = self._all(
                "SELECT project_id, former_id FROM former_names WHERE project_id = ANY(%s) ORDER BY 1, 2",
                (list(known.values()),),
            )
            self._know_projects(each for pair in found for each in pair)
            for project_id, former_id in found:
                names[self._projects[project_id]].append(self._projects[former_id])
        return names

    def _remember(self, project_id: int, project: Project) -> int:
        if len(self._ids) >= _PROJECTS:
            self._ids.clear()
            self._projects.clear()
        self._ids[project] = project_id
        self._projects[project_id] = project
        return project_id

    def _forget_after_rollback(self) -> None:
        """Clear the cache: a project that the transaction inserted is gone."""
        if self._rollbacks != self._transactions.rollbacks:
            self._rollbacks = self._transactions.rollbacks
            self._ids.clear()
            self._projects.clear()

    # ---- rows

    def _deployments(self, rows: Collection[Row]) -> list[Deployment]:
        """Deployments from rows of :data:`agent.outbox.rows.COLUMNS`."""
        self._know_projects(row[1] for row in rows)
        projects = self._projects
        with self._readable():
            return [deployment_of(row, projects[row[1]]) for row in rows]

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Raises :class:`DamagedError` if a deployment that is read in the block is not valid."""
        try:
            yield
        except (KeyError, msgspec.MsgspecError) as error:
            raise self._damaged(f"a deployment is not valid: {error}") from error

    def _damaged(self, why: str) -> DamagedError:
        return DamagedError(
            f"the outbox {self._connection.name} is damaged ({why}); restore the database from its backup"
        )


def _columns(projects: Iterable[Project]) -> tuple[list[str], list[str], list[str]]:
    listed = list(projects)
    return [each.provider for each in listed], [each.scope for each in listed], [each.name for each in listed]
