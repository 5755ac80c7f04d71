"""Pages of an outbox in PostgreSQL whose sets are too large to be read."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.outbox.postgresql import pages
from agent.outbox.postgresql.engine import PostgresqlOutbox
from agent.outbox.values import Filter, Page
from tests.conformance.test_pages import CHOICES, ROWS, walked
from tests.conformance.things import content, deployment, inserted, run
from tests.integration.support import FakeClock

if TYPE_CHECKING:
    from tests.postgresql.cluster import Cluster

PAGES = (Page(5), Page(5, before=6), Page(5, after=3), Page(2, before=9, after=2))


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> str:
    return cluster.new_outbox()


@settings(max_examples=25)
@given(rows=ROWS, choices=st.lists(CHOICES, min_size=1, max_size=4), chosen=st.integers(0, 3), steps=st.integers(1, 4))
def test_pages_that_stop_early_lead_to_everything_that_matches(
    cluster: Cluster, database: str, rows: list[Any], choices: list[dict[str, Any]], chosen: int, steps: int
) -> None:
    """Forwards and back, whatever the limits are: nothing is left out, and nothing comes twice."""
    cluster.empty(database)
    with (
        pytest.MonkeyPatch.context() as patch,
        closing(PostgresqlOutbox(cluster.server(database), FakeClock())) as outbox,
    ):
        patch.setattr(pages, "CHOSEN", chosen)
        patch.setattr(pages, "WALKED", steps)
        for n, (state, job, controller, environment, repo_url, status, ended_at) in enumerate(rows, 1):
            said = content(environment, repo_url=repo_url, status=status, ended_at=ended_at)
            of, reason = run(n, job, controller=controller), "HTTP 400" if n % 2 else None
            inserted(outbox, deployment(of=of, state=state, content=said, reason=reason))
        for which in [Filter(**each) for each in choices]:
            expected = [each.number for each in outbox.query(which, Page(99))]
            assert [n for page in walked(outbox, which) for n in page] == expected
            assert [n for page in walked(outbox, which, back=True) for n in page[::-1]] == expected[::-1]
            for page in PAGES:
                counted = outbox.search(which, page, count_to=99).count
                assert counted.n == len(expected) if not counted.more else counted.n <= len(expected)
