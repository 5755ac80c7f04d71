"""Transactions of an outbox file. A transaction excludes all other writers."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from agent.outbox.sql import blocks
from agent.outbox.sqlite.connection import in_words

if TYPE_CHECKING:
    from pathlib import Path

    from agent.outbox.values import OutboxError


class Transactions(blocks.Transactions):
    """The blocks of one connection to a file."""

    connection: sqlite3.Connection
    failures = sqlite3.Error

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        super().__init__(path)
        self.connection = connection
        self.path = path

    def in_words(self, error: sqlite3.Error) -> OutboxError:
        """The error for people."""
        return in_words(error, self.path)

    def _begin(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
