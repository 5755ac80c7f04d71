"""Announcements of other agents, heard on a connection of the real PostgreSQL."""

from __future__ import annotations

import select
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from agent.model.deployment import State
from agent.model.times import Clock
from agent.outbox.clock import DatabaseClock
from agent.outbox.engines import PostgresqlEngine
from agent.outbox.leases import Agent
from agent.outbox.postgresql.connection import Connection
from agent.outbox.postgresql.engine import PostgresqlOutbox
from agent.outbox.postgresql.hints import Hints
from agent.outbox.postgresql.leases import Leases
from agent.outbox.postgresql.shared import Shared
from agent.outbox.shared import Hint
from tests.conformance import things

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.outbox.postgresql.server import Server

LIMIT_S = 120


def test_an_agent_hears_that_another_one_leaves(server: Server) -> None:
    with closing(Hints(Connection(server))) as hints:
        listening = hints.open()
        assert listening is not None and not hints.heard()
        with Connection(server) as connection:
            Leases(connection).leave(Agent("00000000-0000-0000-0000-000000000001", "one", "0", 1))
        assert select.select([listening], [], [], LIMIT_S)[0] == [listening]
        assert hints.heard() == {Hint.LEASES} and not hints.heard()


@dataclass
class Listener:
    hints: Hints
    listening: int

    def hears(self) -> set[Hint]:
        assert select.select([self.listening], [], [], LIMIT_S)[0] == [self.listening]
        return self.hints.heard()


@pytest.fixture
def listener(server: Server) -> Iterator[Listener]:
    with closing(Hints(Connection(server))) as hints:
        listening = hints.open()
        assert listening is not None
        yield Listener(hints, listening)


def test_agents_hear_what_a_verb_enqueues_once_it_is_there(server: Server, listener: Listener) -> None:
    with PostgresqlOutbox(server, Clock()) as outbox, PostgresqlOutbox(server, Clock()) as other:
        outbox.announce()
        with outbox.transaction():
            things.inserted(outbox, things.deployment(1))
            assert not listener.hints.heard()
        assert listener.hears() == {Hint.DUE}
        assert [each.number for each in other.claim(9)] == [1]
        things.in_state(outbox, State.FAILED, 2)
        outbox.add_report("{}")
        assert not _later(listener, server)


def test_an_agent_does_not_announce_what_it_sends_itself(server: Server, listener: Listener) -> None:
    """The server lets transactions with an announcement commit one after another."""
    with PostgresqlOutbox(server, Clock()) as outbox:
        things.inserted(outbox, things.deployment(1))
        assert not _later(listener, server)


def test_an_agent_that_sends_nothing_can_tell_the_others(server: Server, listener: Listener) -> None:
    with Connection(server) as connection:
        Shared(connection).announce()
    assert listener.hears() == {Hint.DUE}


@pytest.mark.parametrize("sends", [True, False], ids=["daemon", "verb"])
def test_only_who_does_not_send_opens_an_outbox_that_announces(server: Server, listener: Listener, sends: bool) -> None:
    settings: Any = SimpleNamespace(max_size_bytes=0)
    calls: list[int] = []
    enqueued = partial(calls.append, 1) if sends else None
    engine = PostgresqlEngine(server, settings, DatabaseClock(Clock()), enqueued=enqueued)
    with closing(engine.open()) as outbox:
        things.inserted(outbox, things.deployment(1))
    assert (calls, _later(listener, server)) == (([1], set()) if sends else ([], {Hint.DUE}))


def _later(listener: Listener, server: Server) -> set[Hint]:
    """What was announced so far: hints come in the order of the commits."""
    with Connection(server) as connection:
        connection.execute(f"NOTIFY {Hint.LEASES}")
    heard: set[Hint] = set()
    while Hint.LEASES not in heard:
        heard |= listener.hears()
    return heard - {Hint.LEASES}
