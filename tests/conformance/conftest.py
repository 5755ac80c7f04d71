"""An empty outbox for each test, in each engine."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests import engines
from tests.engines import Postgresql, Sqlite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.outbox.interface import Outbox
    from tests.engines import Engine
    from tests.integration.support import FakeClock
    from tests.postgresql.cluster import Cluster


# `make test-pgbouncer` runs the suite through PgBouncer, instead of with both engines.
ENGINES = ["pgbouncer"] if "THROUGH_PGBOUNCER" in os.environ else engines.ENGINES


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


@pytest.fixture(autouse=True)
def _fewer_examples_with_a_server(request: pytest.FixtureRequest) -> Iterator[None]:
    """An example takes ten times as long there as with a file, which plays them all."""
    engine = getattr(request.node, "callspec", None) and request.node.callspec.params.get("new_engine")
    if engine in (None, "sqlite") or "HYPOTHESIS_PROFILE" in os.environ:
        yield
        return
    settings.load_profile("fewer")
    yield
    settings.load_profile("same")


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
