"""Transactions of the outbox in PostgreSQL.

Other writers are not excluded: rows of a run are guarded by locks, see :meth:`Transactions.lock`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import psycopg

from agent.outbox.postgresql.errors import in_words
from agent.outbox.shared import Hint
from agent.outbox.sql import blocks
from agent.outbox.values import OutboxError

if TYPE_CHECKING:
    from collections.abc import Collection

    from agent.outbox.postgresql.connection import Connection

# In one round trip. A process that stands still within a transaction must not hold its locks for long.
_BEGIN = (
    "BEGIN; SET LOCAL lock_timeout = '10s'; SET LOCAL idle_in_transaction_session_timeout = '30s';"
    " SET LOCAL synchronous_commit = on"
)
# The first number of the advisory locks of runs.
_RUNS = 0x48_49_56
_LOCK = f"pg_advisory_xact_lock({_RUNS}, {{}})"


class Fence(Protocol):
    """What a write transaction begins with, for example a look at a lease."""

    def check(self, connection: Connection) -> None:
        """Raises :class:`OutboxError` if nothing may be written: then the transaction does not begin."""
        ...


class Transactions(blocks.Transactions):
    """The blocks of one connection to the server. ``fence``: checked at the begin of each transaction.

    ``announces``: with what became due, all agents are told. The server lets such transactions commit one after
    another, so it is not for those who send what they enqueue.
    """

    connection: Connection
    failures = psycopg.Error

    def __init__(self, connection: Connection, *, read_only: bool = False) -> None:
        super().__init__(connection.name)
        self.connection = connection
        self.fence: Fence | None = None
        self.announces = False
        self._read_only = read_only
        self._locked = set[int]()

    def lock(self, keys: Collection[int]) -> None:
        """Exclude other writers with one of these keys (32 bits) until the transaction ends."""
        wanted = sorted(set(keys) - self._locked)
        if wanted and self.connection.in_transaction:
            self.connection.execute_at_first(f"SELECT {', '.join(map(_LOCK.format, wanted))}")
            self._locked.update(wanted)

    def in_words(self, error: psycopg.Error) -> OutboxError:
        """The error for people."""
        return in_words(error, self.connection.name)

    def _begin(self) -> None:
        self._locked.clear()
        if self._read_only:
            raise OutboxError(f"the outbox {self.connection.name} was opened for reading only")
        self.connection.begin(_BEGIN)
        if self.fence is not None:
            try:
                self.fence.check(self.connection)
            except BaseException:
                self._roll_back()
                raise

    def _is_sound(self) -> bool:
        return self.connection.in_transaction and not self.connection.failed

    def _commit(self) -> None:
        tells = self.announces and self._something_due
        self.connection.end(f"NOTIFY {Hint.DUE}; COMMIT" if tells else "COMMIT")

    def _roll_back(self) -> None:
        """Without a new connection: what was begun ends with the old one."""
        if self.connection.in_transaction:
            try:
                self.connection.end("ROLLBACK")
            except psycopg.Error:
                self.connection.close()
