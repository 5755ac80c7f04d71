"""The engines that the suite runs with. A new one is added here, and nowhere else."""

from __future__ import annotations

import shutil
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

import pytest

from agent.outbox.sqlite.engine import SqliteOutbox
from tests.integration.support import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agent.outbox.interface import Outbox


class Engine(Protocol):
    """Where one outbox is; whatever is opened of it has the same data."""

    clock: FakeClock

    def open(self, *, max_size: int = 0) -> Outbox:
        """One more way to it."""


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


ENGINES: dict[str, Callable[[Path], Engine]] = {"sqlite": Sqlite}


@pytest.fixture(scope="session", params=sorted(ENGINES))
def new_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Engine]:
    """Makes an empty outbox each time: for tests by hypothesis, of which each example needs one."""
    return lambda: ENGINES[request.param](tmp_path_factory.mktemp("outbox"))


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
