"""What a part of the outbox needs of its engine: a connection, its transactions and errors, and the clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agent.model.times import Clock
    from agent.outbox.sql.blocks import Block, Transactions
    from agent.outbox.values import DamagedError


class Result(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""
        ...

    def fetchall(self) -> list[Any]:
        """The rows."""
        ...


class Connection(Protocol):
    """A connection of an engine. Statements have a question mark in the place of each value.

    All methods raise the errors of the engine.
    """

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun and not ended."""
        ...

    def execute(self, sql: str, values: Any = (), /) -> Result:
        """One statement."""
        ...

    def executemany(self, sql: str, values: Iterable[Sequence[Any]], /) -> object:
        """The statement for each of these values."""
        ...


class Part(ABC):
    """One part of an engine. Each engine derives its own base from it and combines the parts."""

    clock: Clock
    _connection: Connection
    _transactions: Transactions
    _AMONG: str
    """The condition that a column has one of the values of a list: see :meth:`_listed`."""
    _FOR_UPDATE: str
    """The end of a SELECT whose rows nobody else may change until the transaction ends."""

    def transaction(self) -> Block:
        """A block that is all or nothing, and durable when the outermost block ends."""
        return self._transactions.nested

    def when_enqueued(self, call: Callable[[], object]) -> None:
        """Call this after each transaction with which a deployment became due, in the thread of the transaction."""
        self._transactions.enqueued = call

    def _writing(self) -> Block:
        """A transaction, or a part of the current one."""
        return self._transactions.joined

    def _all(self, sql: str, values: Any = ()) -> list[Any]:
        """All rows at once: an unfinished statement would keep the log of SQLite from being written back."""
        try:
            return self._connection.execute(sql, values).fetchall()
        except self._transactions.failures as error:
            raise self._transactions.in_words(error) from error

    def _one(self, sql: str, values: Any = ()) -> Any:
        """The first row, or None."""
        found = self._all(sql, values)
        return found[0] if found else None

    @abstractmethod
    def _listed(self, values: Iterable[int] | Iterable[str]) -> object:
        """The value of ``_AMONG``."""

    @staticmethod
    @abstractmethod
    def _key(name: str) -> str:
        """What the indexes have of a column of names, or of the mark of a name: conditions use it for both."""

    def _named(self, column: str) -> str:
        """The condition that a column has this name."""
        return f"{self._key(column)} = {self._key('?')}"

    @property
    def _of_job(self) -> str:
        """The condition on the controller and the name of a job."""
        return f"controller = ? AND {self._named('full_name')}"

    @property
    def _job_key(self) -> str:
        """What makes a row of a job unique."""
        return f"controller, {self._key('full_name')}"

    @abstractmethod
    def _damaged(self, why: object) -> DamagedError:
        """The error for rows that cannot be read."""


def upsert(table: str, keys: str, columns: Sequence[str]) -> str:
    """The statement that inserts a row with these columns, or changes the one with the same keys.

    ``keys``: what the index of the table has. Columns of which it has only the key of the name do not differ then.
    """
    changed = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in keys.split(", "))
    marks = ", ".join("?" for _ in columns)
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608
        f" ON CONFLICT ({keys}) DO UPDATE SET {changed}"
    )
