"""Waiting for the other agents' announcements (LISTEN). They are hints: without them an agent looks a little later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.outbox.shared import Hint

if TYPE_CHECKING:
    from agent.outbox.postgresql.connection import Connection


class Hints:
    """A connection that only listens. Behind PgBouncer in transaction mode it stays silent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def open(self) -> int | None:
        """Listen; returns the file descriptor to wait for. None: a pooler is in between, and nothing will be heard.

        Raises :class:`agent.outbox.values.OutboxError`.
        """
        opened = self._connection.usual()
        if opened.prepare_threshold is None:
            self._connection.close()
            return None
        with self._connection.words():
            self._connection.execute("; ".join(f"LISTEN {hint}" for hint in Hint))
        return opened.fileno()

    def heard(self) -> set[Hint]:
        """What was announced. Does not block.

        Raises :class:`agent.outbox.values.OutboxError` if the connection is broken.
        """
        with self._connection.words():
            return {Hint(each.channel) for each in self._connection.usual().notifies(timeout=0)}

    def close(self) -> None:
        """Stop listening."""
        self._connection.close()
