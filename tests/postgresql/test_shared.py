"""One rate limit and one probe for all agents, in the real PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from agent.delivery.claims import CLAIM
from agent.model.deployment import State
from agent.model.times import Clock
from agent.outbox.postgresql.connection import Connection
from agent.outbox.postgresql.engine import PostgresqlOutbox
from agent.outbox.postgresql.shared import Moved, Shared
from agent.outbox.postgresql.transactions import Transactions
from agent.outbox.shared import Look
from agent.outbox.values import DeliveryState, Keep, StoredReport
from tests.conformance import things
from tests.integration.support import FakeClock

if TYPE_CHECKING:
    from agent.outbox.postgresql.server import Server

DAY = 86_400_000


def test_of_several_agents_one_may_send_a_probe(server: Server) -> None:
    def may(_: int) -> bool:
        with Connection(server) as connection:
            return Shared(connection).begin_probe(60_000) is not None

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(may, range(8))) == [False] * 7 + [True]
    with Connection(server) as connection:
        connection.execute("UPDATE probe SET until = now_ms() - 1")
        assert may(0)


def test_the_end_of_a_probe_says_when_the_next_one_may_be_sent(server: Server) -> None:
    with Connection(server) as connection:
        shared = Shared(connection)
        first = shared.begin_probe(60_000)
        assert first is not None
        shared.end_probe(first, 0)
        second = shared.begin_probe(60_000)
        assert second is not None
        shared.end_probe(second, 30_000)
        assert shared.begin_probe(60_000) is None
        shared.end_probe(second, 0)  # it is not the current one any more
        assert shared.begin_probe(60_000) is None


def test_all_agents_together_send_no_more_than_the_limit(server: Server) -> None:
    """Six a minute with three in reserve: the fourth waits ten seconds, the fifth twenty."""
    waits = []
    for _ in range(2):
        with Connection(server) as connection:
            waits += [Shared(connection).reserve(6, 3) for _ in range(3)]
    assert waits[:3] == [0.0, 0.0, 0.0]
    assert all(expected - 5 < wait <= expected for wait, expected in zip(waits[3:], (10, 20, 30), strict=True)), waits
    with Connection(server) as connection:
        assert Shared(connection).reserve(0, 3) == 0.0


def test_a_look_says_when_the_first_pending_deployment_is_due(server: Server) -> None:
    clock = FakeClock()
    with PostgresqlOutbox(server, clock) as outbox:
        shared = Shared(outbox.connection)
        assert shared.look() == Look(None, None)
        things.in_state(outbox, State.DELIVERED, 1)
        things.in_state(outbox, State.HELD, 2)
        assert shared.look() == Look(None, None)
        now = clock.now_ms()
        things.inserted(outbox, things.deployment(3))
        later = [things.retry(claimed, next_attempt_at=now + 5_000) for claimed in outbox.claim(9)]
        outbox.settle(later)
        assert shared.look() == Look(None, now + 5_000)
        things.inserted(outbox, things.deployment(4, next_attempt_at=now))
        seen = shared.look()
        assert seen == Look(None, now) and seen.is_due(now) and not seen.is_due(now - 1)


def test_a_look_says_what_state_an_agent_saved(server: Server) -> None:
    with PostgresqlOutbox(server, Clock()) as outbox:
        state = DeliveryState("outage", 5, "HTTP 503", 9)
        outbox.save_delivery_state(state)
        assert Shared(outbox.connection).look() == Look(state, None)


def test_of_many_pending_deployments_a_look_says_only_that_some_may_be_due(server: Server) -> None:
    with PostgresqlOutbox(server, FakeClock()) as outbox:
        things.inserted(outbox, *map(things.deployment, range(1, CLAIM + 1)))
        shared = Shared(outbox.connection)
        assert not shared.look().many
        things.inserted(outbox, things.deployment(CLAIM + 1))
        assert shared.look() == Look(None, 0, many=True)


def test_a_report_is_known_only_if_its_transaction_was_committed(server: Server) -> None:
    one, other = StoredReport(1, 5, '{"a":1}'), StoredReport(1, 6, '{"a":1}')
    with Connection(server) as connection:
        moved, transactions = Moved(connection), Transactions(connection)
        with transactions.nested:
            moved.note(one)
        with pytest.raises(KeyError), transactions.nested:
            moved.note(other)
            raise KeyError
        assert moved.known([one, other]) == [one]


def test_housekeeping_forgets_reports_that_no_agent_tries_again(server: Server) -> None:
    old, young = StoredReport(1, 5, "old"), StoredReport(2, 5, "young")
    with PostgresqlOutbox(server, Clock()) as outbox:
        moved = Moved(outbox.connection)
        moved.note(old)
        outbox.connection.execute("UPDATE moved_reports SET at = now_ms() - 31 * 86400000::bigint")
        moved.note(young)
        while outbox.prune(Keep(DAY, DAY, DAY)):
            pass
        assert moved.known([old, young]) == [young]
