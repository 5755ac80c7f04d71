"""What all parts of the engine share: the connection and the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from agent.outbox.clock import DatabaseClock
from agent.outbox.marks import refuse_marked
from agent.outbox.postgresql.connection import Connection
from agent.outbox.postgresql.migrations import migrate
from agent.outbox.postgresql.transactions import Fence, Transactions
from agent.outbox.sql.marks import mark_of
from agent.outbox.sql.projects import Projects
from agent.outbox.values import DamagedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.model.keys import Project
    from agent.model.times import Clock
    from agent.outbox.postgresql.pool import Pool
    from agent.outbox.postgresql.server import Server

_BY_NAME = (
    "SELECT p.id, p.provider, p.scope, p.name FROM projects AS p"
    " JOIN unnest(%s::text[], %s::text[], %s::text[]) AS asked (provider, scope, name)"
    " ON name_key(p.provider) = name_key(asked.provider) AND name_key(p.scope) = name_key(asked.scope)"
    " AND name_key(p.name) = name_key(asked.name)"
)
_INSERT = (
    "INSERT INTO projects (provider, scope, name) SELECT * FROM unnest(%s::text[], %s::text[], %s::text[])"
    " ORDER BY 1, 2, 3 ON CONFLICT DO NOTHING"
)


class Part(Projects):
    """One part of the engine; :class:`agent.outbox.postgresql.engine.PostgresqlOutbox` combines them."""

    _connection: Connection
    _transactions: Transactions
    _AMONG = "= ANY(?)"
    _FOR_UPDATE = " FOR UPDATE"

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
        try:
            migrate(self._connection)
            with self._connection.words():
                mark = mark_of(self._connection)
            refuse_marked(self._connection.name, mark)
            if isinstance(clock, DatabaseClock):
                clock.tell(self._one("SELECT now_ms()")[0])
        except BaseException:
            self._connection.close()
            raise

    @property
    def connection(self) -> Connection:
        """The connection, for what is stored beside the outbox: it takes part in the current transaction."""
        return self._connection

    def announce(self) -> None:
        """From now on tell all agents of what becomes due: this process does not send it."""
        self._transactions.announces = True

    def fence(self, fence: Fence | None) -> None:
        """From now on begin each write transaction with this check."""
        self._transactions.fence = fence

    # ---- projects

    def _find_projects(self, projects: Sequence[Project]) -> list[Any]:
        return self._all(_BY_NAME, _named(projects))

    def _insert_projects(self, projects: Sequence[Project]) -> None:
        self._connection.execute(_INSERT, _named(projects))

    # ---- rows

    def _listed(self, values: Iterable[int] | Iterable[str]) -> list[Any]:
        return list(values)

    @staticmethod
    def _key(name: str) -> str:
        return f"name_key({name})"

    def _damaged(self, why: object) -> DamagedError:
        return DamagedError(
            f"the outbox {self._connection.name} is damaged ({why}); restore the database from its backup"
        )


def columns_of(rows: Iterable[tuple[object, ...]]) -> list[list[object]]:
    """The values of these rows, of which there is one at least, as arrays for ``unnest``."""
    return [list(column) for column in zip(*rows, strict=True)]


def _named(projects: Sequence[Project]) -> list[list[object]]:
    return columns_of((each.provider, each.scope, each.name) for each in projects)
