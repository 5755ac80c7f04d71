"""Announcements of other agents, heard on a connection of the real PostgreSQL."""

from __future__ import annotations

import select
from contextlib import closing
from typing import TYPE_CHECKING

from agent.outbox.leases import Agent
from agent.outbox.postgresql.connection import Connection
from agent.outbox.postgresql.hints import Hints
from agent.outbox.postgresql.leases import Leases

if TYPE_CHECKING:
    from agent.outbox.postgresql.server import Server

LIMIT_S = 120


def test_an_agent_hears_that_another_one_leaves(server: Server) -> None:
    with closing(Hints(Connection(server))) as hints:
        listening = hints.open()
        assert listening is not None and not hints.heard()
        with Connection(server) as connection:
            Leases(connection).leave(Agent("00000000-0000-0000-0000-000000000001", "one", "0", 1))
        assert select.select([listening], [], [], LIMIT_S)[0] == [listening]
        assert hints.heard() and not hints.heard()
