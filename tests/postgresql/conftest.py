"""Databases for tests, in the cluster of ``tests/conftest.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.conftest import clock, controller, hivel, hivel_server, jenkins, jenkins_server
from tests.postgresql.cluster import Cluster, missing, running_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.outbox.postgresql.server import Server

__all__ = ["clock", "controller", "hivel", "hivel_server", "jenkins", "jenkins_server"]


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """One for this test alone, which may stop it."""
    if (why := missing()) is not None:
        pytest.skip(why)
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """The name of a database with an empty outbox."""
    name = cluster.new_outbox()
    yield name
    cluster.drop(name)


@pytest.fixture
def server(cluster: Cluster, database: str) -> Server:
    """The same as the engine takes it."""
    return cluster.server(database)
