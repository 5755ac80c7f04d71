"""Write blocks: all or nothing, and durable when the outermost block ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from agent.outbox.values import OutboxError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.outbox.sql.base import Connection


class Transactions(ABC):
    """The blocks of one connection.

    ``rollbacks`` grows with each rollback. Caches of row numbers are then invalid. ``enqueued`` is called after each
    commit with which a deployment became due.
    """

    connection: Connection
    failures: type[Exception]
    """The errors of the engine."""

    def __init__(self, name: object) -> None:
        """``name``: of the outbox, for messages."""
        self.name = name
        self.rollbacks = 0
        self.enqueued: Callable[[], object] = _nobody_waits
        self._something_due = False
        self._depth = 0
        self._spoiled = False
        # Blocks have no state, so one object of each kind is enough.
        self.joined = Block(self, savepoint=False)
        self.nested = Block(self, savepoint=True)

    def note_due(self) -> None:
        """With the current transaction, something becomes due."""
        self._something_due = True

    @abstractmethod
    def in_words(self, error: Any) -> OutboxError:
        """An error of the engine with a message for people."""

    @abstractmethod
    def _begin(self) -> None:
        """Begin a transaction."""

    def _is_sound(self) -> bool:
        """Whether the transaction can be committed."""
        return self.connection.in_transaction

    def _commit(self) -> None:
        """Make the transaction durable."""
        self.connection.execute("COMMIT")

    def _roll_back(self) -> None:
        """End the transaction, if there still is one."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def enter(self, *, savepoint: bool) -> None:
        """Begin a block."""
        try:
            if not self._depth:
                self._begin()
            elif self._spoiled or not self.connection.in_transaction:
                raise self._nothing_stored()
            elif savepoint:
                self.connection.execute(f"SAVEPOINT block{self._depth}")
        except self.failures as error:
            raise self.in_words(error) from error
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
            if isinstance(raised, self.failures):
                raise raised
        except self.failures as error:
            raise self.in_words(error) from error
        if lost and raised is None:
            raise self._nothing_stored()

    def _nothing_stored(self) -> OutboxError:
        return OutboxError(f"the outbox {self.name} stored nothing, because a part of the transaction failed")

    def _end_of_savepoint(self, *, lost: bool) -> None:
        # The engine may have rolled back everything: the disk is full, or the connection is broken.
        if not self.connection.in_transaction:
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
                self._commit()
                committed = True
        finally:
            due, self._something_due = self._something_due and not lost, False
            if not committed:
                self.rollbacks += 1
                self._roll_back()
            if due:  # perhaps also if COMMIT raised an error: it may be stored all the same
                self.enqueued()


def _nobody_waits() -> None:
    """For who sends nothing."""


class Block:
    """A write block. Raises :class:`OutboxError` if the outbox cannot be written; nothing of the block is then stored.

    If a connection to a server breaks while the outermost block is committed, it is unknown whether the block is
    stored. All callers can repeat it then: facts, ids and settlements that are stored already change nothing.

    Within another block, a block with a savepoint is all or nothing. A block without a savepoint is part of the outer
    block: once it has failed, the outer block stores nothing, even if the exception is caught in between.
    """

    def __init__(self, transactions: Transactions, *, savepoint: bool) -> None:
        self._transactions = transactions
        self._savepoint = savepoint

    def __enter__(self) -> None:
        self._transactions.enter(savepoint=self._savepoint)

    def __exit__(self, kind: object, raised: BaseException | None, trace: object) -> None:
        self._transactions.leave(raised, savepoint=self._savepoint)
