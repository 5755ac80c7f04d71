"""Folders in memory, a quiet log, and how many random stories were played."""

from __future__ import annotations

import logging
import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from agent.sandbox.jenkins import LocalJenkins
from tests.engines import ENGINES
from tests.integration.support import FakeClock
from tests.simulation.engines import Engines, Sqlite, new_postgresql
from tests.simulation.support import Agent, Story, memory_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulation.engines import Engine


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Writing and capturing the log of a thousand polls takes longer than the polls."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session", params=ENGINES)
def engines(request: pytest.FixtureRequest) -> Iterator[Engines]:
    """Makes the outbox of a story."""
    if request.param == "sqlite":
        yield Engines("sqlite", Sqlite)
        return
    with new_postgresql(request.getfixturevalue("cluster")) as make:
        yield Engines("postgresql", make)


@pytest.fixture
def engine(engines: Engines, folder: Path, clock: FakeClock) -> Iterator[Engine]:
    with closing(engines(folder, clock)) as engine:
        yield engine


@pytest.fixture
def folder() -> Iterator[Path]:
    with memory_folder() as name:
        yield Path(name)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def jenkins(clock: FakeClock) -> LocalJenkins:
    return LocalJenkins(now_ms=clock.now_ms)


@pytest.fixture
def new_story(engine: Engine, clock: FakeClock, jenkins: LocalJenkins) -> Iterator[Story]:
    """A Jenkins without jobs that the agent did not see yet."""
    agent = Agent(engine, {"main": jenkins})
    yield Story(clock, jenkins, agent)
    agent.kill()


@pytest.fixture
def story(new_story: Story) -> Story:
    """A Jenkins with a job ``deploy/shop``, builds #1 to #3 of which were history when the agent first came."""
    new_story.jenkins.add_job("deploy/shop")
    new_story.jenkins.add_builds("deploy/shop", 3, repo="https://github.example.test/acme/shop.git")
    new_story.later(minutes=1)
    assert new_story.poll() == []
    new_story.later()
    return new_story


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Stories that are told in detail are slow on PostgreSQL: they run there only with ``HIVEL_STORIES``."""
    if "HIVEL_STORIES" in os.environ:
        return
    left_out = [item for item in items if _is_told(item) and "[postgresql" in item.name]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _is_told(item: pytest.Item) -> bool:
    return item.path.parent == Path(__file__).parent and "engine" in getattr(item, "fixturenames", ())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    from tests.simulation import played

    for kind, of_it in played.by_kind.items():
        terminalreporter.write_line(f"random stories of {kind}: {of_it}")
