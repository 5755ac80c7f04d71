"""The outbox in a file of SQLite: all parts of the engine behind one connection."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Self

from agent.outbox.sqlite.backfills import Backfills
from agent.outbox.sqlite.cursors import Cursors
from agent.outbox.sqlite.deliveries import Deliveries
from agent.outbox.sqlite.deployments import Deployments
from agent.outbox.sqlite.housekeeping import Housekeeping
from agent.outbox.sqlite.looking import Looking

if TYPE_CHECKING:
    from pathlib import Path

    from agent.outbox.interface import Outbox


class SqliteOutbox(Deployments, Looking, Deliveries, Cursors, Backfills, Housekeeping):
    """One connection to the outbox. Use one for each thread that works at the same time as another."""

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def copy_to(self, path: Path) -> None:
        """Write everything to another database, which is complete and without a log when this returns.

        Raises :class:`sqlite3.Error`.
        """
        with closing(sqlite3.connect(path, isolation_level=None)) as copy:
            self._connection.backup(copy)
            copy.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def find_damage(self) -> str | None:
        """What is broken in the file, None for a sound one. Reads all of it: a second for each few hundred megabytes.

        Raises :class:`agent.outbox.values.DamagedError`.
        """
        said = self._one("PRAGMA quick_check(1)")[0]
        return None if said == "ok" else str(said)


if TYPE_CHECKING:

    def _keeps_what_is_promised(outbox: SqliteOutbox) -> Outbox:
        return outbox
