"""The engines that the suite runs with. A new one is added here, and nowhere else."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Protocol

import pytest

from agent.outbox.sqlite.engine import SqliteOutbox
from tests.integration.support import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agent.outbox.interface import Outbox
    from tests.postgresql.cluster import Cluster


class Engine(Protocol):
    """Where one outbox is; whatever is opened of it has the same data."""

    clock: FakeClock

    def open(self, *, max_size: int = 0) -> Outbox:
        """One more way to it."""

    def let_claims_run_out(self) -> None:
        """So much time passes that another agent may claim what an agent had claimed that was killed."""


class Sqlite:
    """A file: a copy of an empty one, for that is faster than to make one."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self._path = folder / "outbox.db"
        empty = folder.parent / "empty.db"
        if not empty.exists():
            SqliteOutbox(empty, self.clock).close()
        shutil.copy(empty, self._path)

    def open(self, *, max_size: int = 0) -> Outbox:
        return SqliteOutbox(self._path, self.clock, max_size=max_size)

    def let_claims_run_out(self) -> None:
        """One agent at a time has the file, so nothing has to run out."""


class Postgresql:
    """A database that is made empty."""

    def __init__(self, cluster: Cluster, database: str, url: str | None = None) -> None:
        """``url``: how it is reached; None: directly."""
        self.clock = FakeClock()
        self._url = url or cluster.url(database)
        self._cluster = cluster
        self._database = database
        cluster.empty(database)

    def open(self, *, max_size: int = 0) -> Outbox:
        from agent.outbox.postgresql.engine import PostgresqlOutbox
        from agent.outbox.postgresql.server import Server

        return PostgresqlOutbox(Server(self._url), self.clock, max_size=max_size)

    def let_claims_run_out(self) -> None:
        self._cluster.execute("UPDATE deployments SET claimed_until = 0", self._database)


# `make test-pgbouncer` runs the suite through PgBouncer, instead of with both engines.
ENGINES = ["pgbouncer"] if "THROUGH_PGBOUNCER" in os.environ else ["postgresql", "sqlite"]


@pytest.fixture(scope="session", params=ENGINES)
def new_engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Engine]]:
    """Makes an empty outbox each time: for tests by hypothesis, of which each example needs one."""
    if request.param == "sqlite":
        yield lambda: Sqlite(tmp_path_factory.mktemp("outbox"))
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    database = cluster.new_outbox()
    with ExitStack() as stack:
        url = None
        if request.param == "pgbouncer":
            from tests.postgresql.bouncer import bouncing, missing_bouncer

            if (why := missing_bouncer()) is not None:
                pytest.skip(why)
            url = f"{stack.enter_context(bouncing(cluster))}/{database}"
        yield lambda: Postgresql(cluster, database, url)


@pytest.fixture
def engine(new_engine: Callable[[], Engine]) -> Engine:
    return new_engine()


@pytest.fixture
def clock(engine: Engine) -> FakeClock:
    return engine.clock


@pytest.fixture
def outbox(engine: Engine) -> Iterator[Outbox]:
    with closing(engine.open()) as outbox:
        yield outbox
