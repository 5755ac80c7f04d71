"""Write blocks: all or nothing, on the disk when the outermost block ends."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from agent.outbox.sqlite.connection import in_words
from agent.outbox.values import OutboxError

if TYPE_CHECKING:
    from pathlib import Path


class Transactions:
    """The blocks of one connection.

    ``rollbacks`` grows with each rollback. Caches of row numbers are then invalid.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.connection = connection
        self.path = path
        self.rollbacks = 0
        self._depth = 0
        self._spoiled = False
        # Blocks have no state, so one object of each kind is enough.
        self.joined = Block(self, savepoint=False)
        self.nested = Block(self, savepoint=True)

    def enter(self, *, savepoint: bool) -> None:
        """Begin a block."""
        try:
            if not self._depth:
                self.connection.execute("BEGIN IMMEDIATE")
            elif self._spoiled or not self.connection.in_transaction:
                raise self._nothing_stored()
            elif savepoint:
                self.connection.execute("SAVEPOINT block")
        except sqlite3.Error as error:
            raise in_words(error, self.path) from error
        self._depth += 1

    def leave(self, raised: BaseException | None, *, savepoint: bool) -> None:
        """End a block."""
        self._depth -= 1
        lost = raised is not None or self._spoiled or not self.connection.in_transaction
        try:
            if self._depth and not savepoint:
                self._spoiled = lost
            elif self._depth:
                self._end_of_savepoint(lost=lost)
            else:
                self._end(lost=lost)
            if isinstance(raised, sqlite3.Error):
                raise raised
        except sqlite3.Error as error:
            raise in_words(error, self.path) from error
        if lost and raised is None:
            raise self._nothing_stored()

    def _nothing_stored(self) -> OutboxError:
        return OutboxError(f"the outbox {self.path} stored nothing, because a part of the transaction failed")

    def _end_of_savepoint(self, *, lost: bool) -> None:
        if not self.connection.in_transaction:  # SQLite rolled back everything, for example because the disk is full
            self._spoiled = True
            return
        self._spoiled = False
        if lost:
            self.rollbacks += 1
            self.connection.execute("ROLLBACK TO block")
        self.connection.execute("RELEASE block")

    def _end(self, *, lost: bool) -> None:
        self._spoiled = False
        try:
            if not lost:
                self.connection.execute("COMMIT")
        finally:
            if lost or self.connection.in_transaction:
                self.rollbacks += 1
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")


class Block:
    """A write block. Raises :class:`OutboxError` if the file cannot be written; nothing of the block is then stored.

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
