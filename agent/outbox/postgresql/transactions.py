"""Write blocks: all or nothing, and durable when the outermost block ends.

Other writers are not excluded: rows of a run are guarded by locks, see :meth:`Transactions.lock`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import psycopg

from agent.outbox.postgresql.errors import in_words
from agent.outbox.values import OutboxError

if TYPE_CHECKING:
    from collections.abc import Collection

    from agent.outbox.postgresql.connection import Connection

# In one round trip. A process that stands still within a transaction must not hold its locks for long.
_BEGIN = (
    "BEGIN; SET LOCAL lock_timeout = '10s'; SET LOCAL idle_in_transaction_session_timeout = '30s';"
    " SET LOCAL synchronous_commit = on"
)
_LOCK = "SELECT pg_advisory_xact_lock(%s, each) FROM (SELECT unnest(%s::integer[]) AS each ORDER BY 1) AS all_of_them"
# The first number of the advisory locks of runs.
_RUNS = 0x48_49_56


class Fence(Protocol):
    """What a write transaction begins with, for example a look at a lease."""

    def check(self, connection: Connection) -> None:
        """Raises :class:`OutboxError` if nothing may be written: then the transaction does not begin."""
        ...


class Transactions:
    """The blocks of one connection.

    ``rollbacks`` grows with each rollback. Caches of row numbers are then invalid. ``fence``: checked at the begin of
    each transaction.
    """

    def __init__(self, connection: Connection, *, read_only: bool = False) -> None:
        self.connection = connection
        self.rollbacks = 0
        self.fence: Fence | None = None
        self._read_only = read_only
        self._depth = 0
        self._spoiled = False
        self._locked = set[int]()
        # Blocks have no state, so one object of each kind is enough.
        self.joined = Block(self, savepoint=False)
        self.nested = Block(self, savepoint=True)

    def lock(self, keys: Collection[int]) -> None:
        """Exclude other writers with one of these keys (32 bits) until the transaction ends."""
        wanted = set(keys) - self._locked
        if wanted and self.connection.in_transaction:
            self.connection.execute(_LOCK, (_RUNS, sorted(wanted)))
            self._locked |= wanted

    def enter(self, *, savepoint: bool) -> None:
        """Begin a block."""
        try:
            if not self._depth:
                self._begin()
            elif self._spoiled or not self.connection.in_transaction:
                raise self._nothing_stored()
            elif savepoint:
                self.connection.execute(f"SAVEPOINT block{self._depth}")
        except psycopg.Error as error:
            raise in_words(error, self.connection.name) from error
        self._depth += 1

    def leave(self, raised: BaseException | None, *, savepoint: bool) -> None:
        """End a block."""
        self._depth -= 1
        lost = raised is not None or self._spoiled or not self._is_sound()
        try:
            if self._depth and not savepoint:
                self._spoiled = lost
            elif self._depth:
                self._end_of_savepoint(lost=lost)
            else:
                self._end(lost=lost)
            if isinstance(raised, psycopg.Error):
                raise raised
        except psycopg.Error as error:
            raise in_words(error, self.connection.name) from error
        if lost and raised is None:
            raise self._nothing_stored()

    def _begin(self) -> None:
        self._locked.clear()
        if self._read_only:
            raise OutboxError(f"the outbox {self.connection.name} was opened for reading only")
        self.connection.execute(_BEGIN)
        if self.fence is not None:
            try:
                self.fence.check(self.connection)
            except BaseException:
                self._roll_back()
                raise

    def _nothing_stored(self) -> OutboxError:
        return OutboxError(
            f"the outbox {self.connection.name} stored nothing, because a part of the transaction failed"
        )

    def _is_sound(self) -> bool:
        return self.connection.in_transaction and not self.connection.failed

    def _end_of_savepoint(self, *, lost: bool) -> None:
        if not self.connection.in_transaction:  # the connection is broken
            self._spoiled = True
            return
        self._spoiled = False
        if lost:
            self.rollbacks += 1
            self.connection.execute(f"ROLLBACK TO block{self._depth}")
        self.connection.execute(f"RELEASE block{self._depth}")

    def _end(self, *, lost: bool) -> None:
        self._spoiled = False
        committed = False
        try:
            if not lost:
                self.connection.execute("COMMIT")
                committed = True
        finally:
            if not committed:
                self.rollbacks += 1
                self._roll_back()

    def _roll_back(self) -> None:
        """Without a new connection: what was begun ends with the old one."""
        if self.connection.in_transaction:
            try:
                self.connection.execute("ROLLBACK")
            except psycopg.Error:
                self.connection.close()


class Block:
    """A write block. Raises :class:`OutboxError` if the outbox cannot be written; nothing of the block is then stored.

    If the connection breaks while the outermost block is committed, it is unknown whether the block is stored. All
    callers can repeat it then: facts, ids and settlements that are stored already change nothing.

    Within another block, a block with a savepoint is all or nothing. A block without a savepoint is part of the outer
    block: once it has failed, the outer block stores nothing, even if the exception is caught in between.
    """

    def __init__(self, transactions: Transactions, *, savepoint: bool) -> None:
        self._transactions = transactions
        self._savepoint = savepoint

    def __enter__(self) -> None:
        self._transactions.enter(savepoint=self._savepoint)

    def __exit__(self, kind: object, raised: BaseException | None, trace: Any) -> None:
        self._transactions.leave(raised, savepoint=self._savepoint)
