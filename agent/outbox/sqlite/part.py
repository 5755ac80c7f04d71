"""What all parts of the engine share: the connection, the clock, and the numbers of projects."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from agent.model.causes import cause_of
from agent.model.keys import Project
from agent.outbox.marks import refuse_marked
from agent.outbox.rows import deployment_of
from agent.outbox.sqlite.connection import damaged, in_words, open_outbox
from agent.outbox.sqlite.marks import mark_of
from agent.outbox.sqlite.transactions import Block, Transactions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from agent.model.deployment import Deployment
    from agent.model.times import Clock

# Numbers with more digits are not build or deployment numbers: they do not fit into SQLite's integers.
MOST_DIGITS = 18
_FORMER = "SELECT project_id, former_id FROM former_names WHERE project_id = ?"
_MANY_FORMER = (
    "SELECT project_id, former_id FROM json_each(?1) AS asked CROSS JOIN former_names ON project_id = asked.value"
)
# The number of projects kept in the cache: a few megabytes.
_PROJECTS = 20_000


class Part:
    """One part of the engine; :class:`agent.outbox.sqlite.engine.SqliteOutbox` combines them."""

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
        self._rollbacks = 0
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

    def transaction(self) -> Block:
        """A block that is all or nothing, and durable when the outermost block ends. It excludes all other writers."""
        return self._transactions.nested

    def _writing(self) -> Block:
        """A transaction, or a part of the current one."""
        return self._transactions.joined

    def _all(self, sql: str, values: Any = ()) -> list[Any]:
        """All rows at once: an unfinished statement would keep the log from being written back."""
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise in_words(error, self.path) from error

    def _one(self, sql: str, values: Any = ()) -> Any:
        """The only row, or None."""
        found = self._all(sql, values)
        return found[0] if found else None

    # ---- projects

    def _project_id(self, project: Project) -> int | None:
        """None if nothing is stored for this project."""
        self._forget_after_rollback()
        known = self._ids.get(project)
        if known is None:
            row = self._one(
                "SELECT id FROM projects WHERE provider = ? AND scope = ? AND name = ?",
                (project.provider, project.scope, project.name),
            )
            if row is None:
                return None
            known = self._remember(row[0], project)
        return known

    def _made_project_id(self, project: Project) -> int:
        """Insert the project if necessary. Call it within a transaction."""
        known = self._project_id(project)
        if known is None:
            inserted = self._connection.execute(
                "INSERT INTO projects (provider, scope, name) VALUES (?, ?, ?)",
                (project.provider, project.scope, project.name),
            )
            known = self._remember(int(inserted.lastrowid or 0), project)
        return known

    def _known_project_ids(self) -> dict[Project, int]:
        """The cache of :meth:`_made_project_id`. Looking there first is faster."""
        self._forget_after_rollback()
        return self._ids

    def _project(self, project_id: int) -> Project:
        self._forget_after_rollback()
        known = self._projects.get(project_id)
        if known is None:
            row = self._one("SELECT provider, scope, name FROM projects WHERE id = ?", (project_id,))
            if row is None:
                raise damaged(self.path, "a project is missing")
            known = Project(*row)
            self._remember(project_id, known)
        return known

    def _names(self, projects: Iterable[Project]) -> dict[Project, list[Project]]:
        """All names under which these projects may be stored, each one's own first."""
        names = {project: [project] for project in projects}
        known = [each for project in names if (each := self._project_id(project)) is not None]
        if len(known) == 1:
            found = self._all(_FORMER, known)
        else:
            found = self._all(_MANY_FORMER, (msgspec.json.encode(known).decode(),)) if known else []
        for project_id, former_id in found:
            names[self._project(project_id)].append(self._project(former_id))
        return names

    def _remember(self, project_id: int, project: Project) -> int:
        if len(self._ids) >= _PROJECTS:
            self._ids.clear()
            self._projects.clear()
        self._ids[project] = project_id
        self._projects[project_id] = project
        return project_id

    def _forget_after_rollback(self) -> None:
        """Clear the cache: an inserted project may be gone and its number used again."""
        if self._rollbacks != self._transactions.rollbacks:
            self._rollbacks = self._transactions.rollbacks
            self._ids.clear()
            self._projects.clear()

    # ---- rows

    def _deployments(self, rows: Iterable[Any]) -> list[Deployment]:
        """Deployments from rows of :data:`agent.outbox.rows.COLUMNS`."""
        with self._readable():
            return [deployment_of(row, self._project(row[1])) for row in rows]

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Raises :class:`agent.outbox.values.DamagedError` if a deployment that is read in the block is not valid."""
        try:
            yield
        except (KeyError, msgspec.MsgspecError) as error:
            raise damaged(self.path, f"a deployment is not valid: {error}") from error


def _contains(text: str | None, part: str) -> bool:
    """Whether a text contains this casefolded text, ignoring case. SQLite's own function only knows a to z."""
    return text is not None and part in text.casefold()
