"""The engines of the outbox that tests run with. A new one is added here, and nowhere else."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from agent.outbox.sqlite.engine import SqliteOutbox
from tests.integration.support import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.outbox.interface import Outbox
    from tests.postgresql.cluster import Cluster

ENGINES = ["postgresql", "sqlite"]
# For tests with the fixture `engine`, which is SQLite where a test does not say this.
on_both_engines = pytest.mark.parametrize("engine", ENGINES, indirect=True)


class Engine(Protocol):
    """Where one outbox is; whatever is opened of it has the same data. ``url``: of the database; None: it is a file."""

    clock: FakeClock
    url: str | None

    def open(self, *, max_size: int = 0) -> Outbox:
        """One more way to it."""

    def make_empty(self) -> None:
        """Begin anew. Nothing that was opened may be used any more."""

    def let_claims_run_out(self) -> None:
        """So much time passes that another agent may claim what an agent had claimed that was killed."""


class Sqlite:
    """A file: a copy of an empty one, for that is faster than to make one."""

    url = None

    def __init__(self, folder: Path, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.path = folder / "outbox.db"
        self.make_empty()

    def open(self, *, max_size: int = 0) -> SqliteOutbox:
        return SqliteOutbox(self.path, self.clock, max_size=max_size)

    def make_empty(self) -> None:
        for file in self.path.parent.glob("outbox.db*"):
            file.unlink()
        shutil.copy(_empty(), self.path)

    def let_claims_run_out(self) -> None:
        """One agent at a time has the file, so nothing has to run out."""


@cache
def _empty() -> Path:
    folder = _FOLDERS.setdefault("empty", TemporaryDirectory(prefix="hivel-empty-"))
    path = Path(folder.name) / "outbox.db"
    SqliteOutbox(path, FakeClock()).close()
    return path


_FOLDERS: dict[str, TemporaryDirectory[str]] = {}  # deleted when the process ends


class Postgresql:
    """A database that is made empty."""

    def __init__(
        self, cluster: Cluster, database: str, url: str | None = None, *, clock: FakeClock | None = None
    ) -> None:
        """``url``: how it is reached; None: directly."""
        self.clock = clock or FakeClock()
        self.cluster = cluster
        self.database = database
        self.url = url or cluster.url(database)
        self.make_empty()

    def open(self, *, max_size: int = 0) -> Any:
        from agent.outbox.postgresql.engine import PostgresqlOutbox
        from agent.outbox.postgresql.server import Server

        return PostgresqlOutbox(Server(self.url), self.clock, max_size=max_size)

    def make_empty(self) -> None:
        self.cluster.empty(self.database)

    def let_claims_run_out(self) -> None:
        self.cluster.execute("UPDATE deployments SET claimed_until = 0", self.database)


@contextmanager
def traced(outbox: Any) -> Iterator[list[str]]:
    """The statements of the block."""
    statements: list[str] = []
    if isinstance(outbox, SqliteOutbox):
        outbox._connection.set_trace_callback(statements.append)
        yield statements
        outbox._connection.set_trace_callback(None)
        return
    with pytest.MonkeyPatch.context() as patch:
        execute = outbox.connection.execute

        def noted(sql: str, values: Any = None) -> Any:
            statements.append(sql)
            return execute(sql, values)

        patch.setattr(outbox.connection, "execute", noted)
        yield statements
