"""What all parts of the engine share: the connection, the clock, and the numbers of projects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.outbox.postgresql.connection import Connection
from agent.outbox.postgresql.migrations import migrate
from agent.outbox.postgresql.transactions import Block, Fence, Transactions

if TYPE_CHECKING:
    from agent.model.times import Clock
    from agent.outbox.postgresql.server import Server


class Part:
    """One part of the engine; :class:`agent.outbox.postgresql.engine.PostgresqlOutbox` combines them."""

    def __init__(self, server: Server, clock: Clock, *, max_size: int = 0, read_only: bool = False) -> None:
        """Connect, and create or migrate the tables. Raises :class:`OutboxError`.

        ``max_size`` in bytes; 0: no limit. ``read_only``: this object never writes.
        """
        self.server = server
        self.clock = clock
        self.max_size = max_size
        self._connection = Connection(server)
        self._transactions = Transactions(self._connection, read_only=read_only)
        try:
            migrate(self._connection)
        except BaseException:
            self._connection.close()
            raise

    @property
    def connection(self) -> Connection:
        """The connection, for what is stored beside the outbox: it takes part in the current transaction."""
        return self._connection

    def fence(self, fence: Fence | None) -> None:
        """From now on begin each write transaction with this check."""
        self._transactions.fence = fence

    def transaction(self) -> Block:
        """A block that is all or nothing, and durable when the outermost block ends."""
        return self._transactions.nested

    def _writing(self) -> Block:
        """A transaction, or a part of the current one."""
        return self._transactions.joined

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
