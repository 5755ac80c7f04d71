"""A few connections that many users share, each for one statement or transaction at a time."""

from __future__ import annotations

from contextlib import suppress
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any

import psycopg

from agent.outbox.postgresql.connection import connect

if TYPE_CHECKING:
    from agent.outbox.postgresql.server import Server


class Pool:
    """At most ``most`` connections. Threads wait for a free one, so nobody who has one may wait for a second one."""

    def __init__(self, server: Server, most: int) -> None:
        self._server = server
        self._places = BoundedSemaphore(most)
        self._free: list[psycopg.Connection[Any]] = []

    def take(self) -> psycopg.Connection[Any]:
        """A connection in autocommit mode. Raises :class:`agent.outbox.values.OutboxError`."""
        self._places.acquire()
        try:
            return self._pop() or connect(self._server)
        except BaseException:
            self._places.release()
            raise

    def give(self, connection: psycopg.Connection[Any]) -> None:
        """Give it back. One that is closed, or in which a statement was not read to its end, is forgotten."""
        if connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE:
            self._free.append(connection)
        else:
            with suppress(psycopg.Error):
                connection.close()
        self._places.release()

    def clear(self) -> None:
        """Close those that nobody uses now."""
        while (connection := self._pop()) is not None:
            with suppress(psycopg.Error):
                connection.close()

    def _pop(self) -> psycopg.Connection[Any] | None:
        try:
            return self._free.pop()
        except IndexError:
            return None
