"""What all parts of the engine share: the connection and the clock."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import msgspec

from agent.model.causes import cause_of
from agent.outbox.marks import refuse_marked
from agent.outbox.sql.marks import mark_of
from agent.outbox.sql.projects import Projects
from agent.outbox.sqlite.connection import damaged, in_words, open_outbox
from agent.outbox.sqlite.transactions import Transactions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from agent.model.keys import Project
    from agent.model.times import Clock
    from agent.outbox.sqlite.connection import PatientConnection
    from agent.outbox.values import DamagedError

_BY_NAME = "SELECT id, provider, scope, name FROM projects WHERE provider = ? AND scope = ? AND name = ?"
_INSERT = "INSERT INTO projects (provider, scope, name) VALUES (?, ?, ?)"


class Part(Projects):
    """One part of the engine; :class:`agent.outbox.sqlite.engine.SqliteOutbox` combines them."""

    _connection: PatientConnection
    _transactions: Transactions
    _AMONG = "IN (SELECT value FROM json_each(?) AS asked)"
    _FOR_UPDATE = ""

    def __init__(
        self, path: Path, clock: Clock, *, max_size: int = 0, read_only: bool = False, as_inbox: bool = False
    ) -> None:
        """Open or create the file. ``max_size`` in bytes; 0: no limit. Raises :class:`OutboxError`.

        ``read_only``: this object never writes, so that nobody ever waits for it. Readers do not block writers.
        ``as_inbox``: only reports are kept in it, because the outbox is elsewhere. It may have been moved there.
        """
        self.path = path
        self.clock = clock
        self.max_size = max_size
        self._connection = open_outbox(path)
        self._refuse_moved(as_inbox=as_inbox)
        if read_only:
            self._connection.execute("PRAGMA query_only = ON")
        self._transactions = Transactions(self._connection, path)
        self._ids: dict[Project, int] = {}
        self._projects: dict[int, Project] = {}
        self._connection.create_function("contains", 2, _contains, deterministic=True)
        self._connection.create_function("cause_of", 1, cause_of, deterministic=True)

    def _refuse_moved(self, *, as_inbox: bool) -> None:
        try:
            refuse_marked(str(self.path), mark_of(self._connection), as_inbox=as_inbox)
        except BaseException as error:
            self._connection.close()
            if isinstance(error, sqlite3.Error):
                raise in_words(error, self.path) from error
            raise

    # ---- projects

    def _find_projects(self, projects: Sequence[Project]) -> list[Any]:
        return [row for each in projects for row in self._all(_BY_NAME, (each.provider, each.scope, each.name))]

    def _insert_projects(self, projects: Sequence[Project]) -> None:
        self._connection.executemany(_INSERT, [(each.provider, each.scope, each.name) for each in projects])

    def _made_project_id(self, project: Project) -> int:
        """Insert the project if necessary. Call it within a transaction."""
        return self._made_project_ids([project])[project]

    def _known_project_ids(self) -> dict[Project, int]:
        """The cache of :meth:`_made_project_id`. Looking there first is faster."""
        self._forget_after_rollback()
        return self._ids

    # ---- rows

    def _listed(self, values: Iterable[int] | Iterable[str]) -> str:
        return msgspec.json.encode(list(values)).decode()

    @staticmethod
    def _key(name: str) -> str:
        return name

    def _damaged(self, why: object) -> DamagedError:
        return damaged(self.path, why)


def _contains(text: str | None, part: str) -> bool:
    """Whether a text contains this casefolded text, ignoring case. SQLite's own function only knows a to z."""
    return text is not None and part in text.casefold()
