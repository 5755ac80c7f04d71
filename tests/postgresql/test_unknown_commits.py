"""The connection is lost at any statement of a settlement, also when only the answer to COMMIT is missing."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agent.model.deployment import State
from agent.outbox.values import OutboxError
from tests.conformance.things import claim_of, deployment, inserted, retry, stored, success
from tests.integration.support import FakeClock, wait_until
from tests.simulation.engines import Trouble, new_postgresql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgresql.cluster import Cluster
    from tests.simulation.engines import Postgresql, Process

MOST_STATEMENTS = 20


@pytest.fixture
def engine(cluster: Cluster) -> Iterator[Postgresql]:
    with new_postgresql(cluster) as make, closing(make(Path(), FakeClock())) as engine:
        yield engine


@pytest.fixture
def process(engine: Postgresql) -> Iterator[Process]:
    process = engine.process(Trouble())
    yield process
    process.kill()


def test_a_failed_attempt_is_counted_once_wherever_the_connection_is_lost(process: Process) -> None:
    outbox, cut = process.outbox, process.trouble.cut
    lost = 0
    for statement in range(1, MOST_STATEMENTS):
        for after in (False, True):
            [one, other] = inserted(outbox, deployment(2 * statement + after), deployment(100 + 2 * statement + after))
            outcomes = [retry(claim_of(outbox, one.number)), success(claim_of(outbox, other.number))]
            cut.set(statement, after=after)
            try:
                outbox.settle(outcomes)
            except OutboxError:
                lost += 1
                outbox.settle(outcomes)
            assert stored(outbox, one.number).attempts == 1, (statement, after)
            assert [attempt.n for attempt in outbox.attempts(one)] == [1]
            assert (stored(outbox, other.number).state, stored(outbox, other.number).attempts) == (State.DELIVERED, 1)
        if not cut.happened:
            break
    assert lost > 4


def test_what_was_stored_before_the_answer_was_lost_is_not_stored_over_what_came_after_it(
    engine: Postgresql, process: Process
) -> None:
    """Somebody replays the deployment meanwhile: then it is sent again, and the next outcome counts."""
    outbox, cut = process.outbox, process.trouble.cut
    for statement in range(1, MOST_STATEMENTS):
        [one] = inserted(outbox, deployment(statement))
        outcome = success(claim_of(outbox, one.number))
        cut.set(statement, after=True)
        try:
            outbox.settle([outcome])
        except OutboxError:
            with closing(engine.open()) as other:
                replayed = other.replay([stored(outbox, one.number)]) == [True]
            outbox.settle([outcome])
            expected = State.PENDING if replayed else State.DELIVERED
            assert stored(outbox, one.number).state is expected, statement
        if not cut.happened:
            break


def test_outcomes_are_kept_until_it_is_known_whether_they_are_stored(engine: Postgresql, process: Process) -> None:
    """The connection is lost while the server waits for a standby before it answers."""
    outbox, execute = process.outbox, partial(engine.cluster.execute, database=engine.database)
    [one] = inserted(outbox, deployment(1))
    outcome = retry(claim_of(outbox, one.number))
    execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    execute("SELECT pg_reload_conf()")
    try:
        with ThreadPoolExecutor(1) as thread:
            settling = thread.submit(outbox.settle, [outcome])
            wait_until(lambda: execute(_WAITING) == [(1,)], "the server waits for a standby")
            cut(process)
            with pytest.raises(OutboxError, match="cannot reach"):
                settling.result()
        for _ in range(2):
            with pytest.raises(OutboxError, match="not known yet"):
                outbox.settle([outcome])
    finally:
        execute("ALTER SYSTEM RESET synchronous_standby_names")
        execute("SELECT pg_reload_conf()")
    wait_until(lambda: execute(_WAITING) == [(0,)], "the server waits no more")
    outbox.settle([outcome])
    assert stored(outbox, one.number).attempts == 1


_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = current_database()"


def cut(process: Process) -> None:
    """The network goes away; the server does not notice."""
    connection: Any = process.outbox
    with closing(socket.socket(fileno=os.dup(connection.connection.usual().fileno()))) as line:
        line.shutdown(socket.SHUT_RDWR)
