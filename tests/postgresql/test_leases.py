"""Leases in the real PostgreSQL: what the database promises to the fleet."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from agent.fleet.leases import TTL_MS
from agent.fleet.leases import Leases as Fleet
from agent.model.times import Clock
from agent.outbox.leases import Agent, Fence
from agent.outbox.postgresql.connection import Connection
from agent.outbox.postgresql.leases import LeaseFence, Leases, longest_stillness_ms
from agent.outbox.postgresql.transactions import Transactions
from agent.outbox.values import LeaseLostError, OutboxError
from tests.integration.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.outbox.postgresql.server import Server
    from tests.postgresql.cluster import Cluster

NAMES = ["a", "b", "c"]
TTL = 15_000


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[[], Connection]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Connection(server))


@pytest.fixture
def table(connect: Callable[[], Connection]) -> Leases:
    return Leases(connect())


@pytest.fixture
def later(cluster: Cluster, database: str) -> Callable[[int], None]:
    """Sets the clock of the database forward. Nothing else has to wait."""
    ahead = 0

    def pass_by(ms: int) -> None:
        nonlocal ahead
        ahead += ms
        cluster.execute(
            "CREATE OR REPLACE FUNCTION now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS"
            f" 'SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint + {ahead}'",
            database,
        )

    return pass_by


def agent(name: str = "host") -> Agent:
    return Agent(str(uuid4()), name, "1.0", 7)


def test_a_controller_has_one_holder_until_its_lease_expires(table, later):
    first, second = agent("one"), agent("two")
    table.declare(NAMES)
    assert table.renew(first, TTL).free == NAMES
    assert table.take(first, NAMES, 3, TTL) == {"a": 1, "b": 1, "c": 1}
    assert table.take(second, NAMES, 3, TTL) == {}
    assert not table.renew(second, TTL).free
    later(10_000)
    assert table.renew(first, TTL).mine == {"a": 1, "b": 1, "c": 1}
    later(10_000)
    view = table.renew(second, TTL)
    assert (view.mine, list(view.free)) == ({}, [])
    assert view.next_expiry_ms is not None and 0 < view.next_expiry_ms <= 5_000
    later(5_001)
    assert table.take(second, ["a", "b"], 2, TTL) == {"a": 2, "b": 2}
    assert table.renew(first, TTL).mine == {"c": 1}


def test_who_comes_first_gets_a_free_controller(table, connect):
    table.declare([f"jenkins-{number}" for number in range(50)])
    tables = [Leases(connect()) for _ in range(4)]

    def take(one: Leases) -> set[str]:
        return set(one.take(agent(), [f"jenkins-{number}" for number in range(50)], 50, TTL))

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(take, tables))
    assert sum(map(len, taken)) == len(set.union(*taken)) == 50


def test_agents_that_take_at_the_same_time_divide_what_is_free_in_one_attempt_each(table, connect):
    """Each wants the same controllers first. What another agent takes at this moment is skipped, not waited for."""
    table.declare(names := [f"jenkins-{number}" for number in range(50)])
    first, second = Transactions(connect()), Transactions(connect())
    with first.nested, second.nested:
        taken = [list(Leases(each.connection).take(agent(), names, 25, TTL)) for each in (first, second)]
    assert taken == [names[:25], names[25:]]


def test_a_transaction_under_a_lease_holds_back_who_takes_it_but_not_its_renewal(table, connect, later):
    first, second = agent(), agent()
    table.declare(["a"])
    table.take(first, ["a"], 1, TTL)
    transactions = Transactions(connect())
    transactions.fence = LeaseFence(Fence("a", first.id, 1))
    with transactions.nested:
        assert table.renew(first, TTL).mine == {"a": 1}
        later(TTL + 1)
        assert table.take(second, ["a"], 1, TTL) == {}
    assert table.take(second, ["a"], 1, TTL) == {"a": 2}


def test_who_stands_still_within_a_transaction_does_not_hold_the_lease_for_long(table, connect, later):
    """A process that is frozen, or a machine that is cut off: nobody ends the transaction but the server."""
    first, second = agent(), agent()
    table.declare(["a"])
    table.take(first, ["a"], 1, TTL)
    transactions = Transactions(connect())
    transactions.fence = LeaseFence(Fence("a", first.id, 1), still_ms=200)
    with pytest.raises(OutboxError), transactions.nested:
        later(TTL + 1)
        wait_until(lambda: table.take(second, ["a"], 1, TTL) == {"a": 2}, "the other agent has the lease", 20)


@pytest.mark.parametrize(("lease_ms", "still_ms"), [(15_000, 10_000), (300_000, 30_000), (500, 3_000)])
def test_a_transaction_may_stand_still_for_less_time_than_its_lease_has_left(lease_ms, still_ms):
    assert longest_stillness_ms(lease_ms) == still_ms


@pytest.mark.parametrize("lost", ["expired", "taken", "released", "taken again by the same agent"])
def test_without_the_lease_a_transaction_does_not_begin(table, connect, later, lost):
    first, second = agent(), agent()
    table.declare(["a"])
    table.take(first, ["a"], 1, TTL)
    if lost == "released":
        table.release(first, ["a"])
    elif lost == "taken again by the same agent":
        table.release(first, ["a"])
        table.take(first, ["a"], 1, TTL)
    else:
        later(TTL + 1)
    if lost == "taken":
        table.take(second, ["a"], 1, TTL)
    connection = connect()
    transactions = Transactions(connection)
    transactions.fence = LeaseFence(Fence("a", first.id, 1))
    with pytest.raises(LeaseLostError, match="lease of controller a was lost"), transactions.nested:
        connection.execute("INSERT INTO hours VALUES (1, 1, 1)")
    assert connection.all("SELECT * FROM hours") == []


def test_an_agent_that_leaves_frees_its_leases_and_wakes_the_others(table, connect):
    listener = connect().usual()
    listener.execute("LISTEN hivel_leases")
    first = agent()
    table.declare(NAMES)
    table.renew(first, TTL)
    table.take(first, NAMES, 3, TTL)
    table.leave(first)
    assert [note.channel for note in listener.notifies(timeout=120, stop_after=1)] == ["hivel_leases"]
    second = agent()
    assert table.take(second, NAMES, 3, TTL) == {"a": 2, "b": 2, "c": 2}
    assert [member.agent.id for member in table.members()] == []


def test_a_renewal_tells_who_is_there_with_this_agent_as_it_is_then(table, later):
    first, second = agent("one"), agent("two")
    table.declare(NAMES)
    assert [each.agent for each in table.renew(first, TTL).members] == [first]
    table.take(first, ["a", "b"], 2, TTL)
    table.renew(second, TTL)
    table.take(second, ["c"], 1, TTL)
    later(TTL + 1)  # the leases of both have expired, and nobody has taken them

    def seen():
        return [(each.agent, each.living, each.leaving, each.holds) for each in table.renew(first, TTL).members]

    assert seen() == [(first, True, False, 2), (second, False, False, 0)]
    table.renew(second, TTL)
    table.ask_to_leave([first.id], leaving=True)
    assert seen() == [(first, True, True, 2), (second, True, False, 1)]
    assert [(each.agent, each.living, each.leaving, each.holds) for each in table.members()] == seen()


def test_agents_see_each_other_and_who_is_gone(table, later):
    first, second = agent("one"), agent("two")
    table.declare(NAMES)
    table.renew(first, TTL)
    table.take(first, ["a", "b"], 2, TTL)
    table.renew(second, TTL)
    assert [(each.agent.name, each.living, each.holds) for each in table.members()] == [
        ("one", True, 2),
        ("two", True, 0),
    ]
    later(TTL + 1)
    table.renew(second, TTL)
    assert [(each.agent.name, each.living, each.holds) for each in table.members()] == [
        ("one", False, 0),
        ("two", True, 0),
    ]


def test_an_agent_that_is_asked_to_leave_gives_its_leases_away_until_it_may_come_back(table, connect):
    first, second = (Fleet(Leases(connect()), agent(name), NAMES, Clock(), TTL_MS) for name in ("one", "two"))
    first.turn()
    assert set(first.mine) == set(NAMES)
    table.ask_to_leave([first.me.id], leaving=True)
    second.turn()
    first.turn()
    assert first.mine == {}
    second.turn()
    assert set(second.mine) == set(NAMES)
    table.ask_to_leave([first.me.id], leaving=False)
    first.turn()
    assert not first.leaving
    assert {lease.controller: (lease.holder, lease.epoch) for lease in table.leases()} == dict.fromkeys(
        NAMES, (second.me.id, 2)
    )


def test_the_statement_of_an_idle_agent_takes_no_longer_with_a_thousand_controllers(table):
    """It reads small tables only; a plan that scans deployments would show here."""
    names = [f"jenkins-{number}" for number in range(1_000)]
    me = agent()
    table.declare(names)
    table.take(me, names, 1_000, TTL)
    assert len(table.renew(me, TTL).mine) == 1_000
