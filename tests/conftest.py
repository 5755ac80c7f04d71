"""The same examples in every run, others with ``HYPOTHESIS_PROFILE=explore``; without deadlines: how fast a machine is
says nothing about the code. Tests marked ``root`` are skipped where this is not root.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import settings

from agent.daemon import logs
from agent.model import secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgresql.cluster import Cluster

settings.register_profile("same", derandomize=True, deadline=None)
# For what talks to a server for each example.
settings.register_profile("fewer", settings.get_profile("same"), max_examples=30)
settings.register_profile("explore", derandomize=False, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(autouse=True)
def _no_secrets_of_other_tests() -> Iterator[None]:
    """A process knows its secrets for ever; a test's token may be a word of the next one's messages."""
    known = secrets._secrets
    before = set(known._known), known._forms
    yield
    known._known, known._forms = before


@pytest.fixture(autouse=True)
def _no_log_of_other_tests() -> Iterator[None]:
    """A command that a test calls in this process configures the log, and a quiet one would hide the next test's."""
    before, queue, root = structlog.get_config(), logs._queue, logging.getLogger()
    handlers, level = [*root.handlers], root.level
    yield
    structlog.configure(**before)
    logs._queue = queue
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """PostgreSQL, one for all tests of a process. Skips the test, with a reason, where it is not installed."""
    from tests.postgresql.cluster import missing, running_cluster

    if (why := missing()) is not None:
        pytest.skip(why)
    with running_cluster() as cluster:
        yield cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))
