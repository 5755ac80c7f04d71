"""The outbox in an SQLite file: all parts of the engine on one connection."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Self

from agent.outbox.sql.backfills import Backfills
from agent.outbox.sql.cursors import Cursors
from agent.outbox.sql.gaps import Gaps
from agent.outbox.sqlite.deliveries import Deliveries
from agent.outbox.sqlite.deployments import Deployments
from agent.outbox.sqlite.housekeeping import Housekeeping
from agent.outbox.sqlite.pages import Pages

if TYPE_CHECKING:
    from pathlib import Path

    from agent.outbox.interface import Outbox


class SqliteOutbox(Deployments, Pages, Deliveries, Cursors, Backfills, Gaps, Housekeeping):
    """One connection to the outbox. Each thread that works at the same time needs its own."""

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def copy_to(self, path: Path) -> None:
        """Write everything to another database. When this returns, that file is complete and has no log.

        Raises :class:`sqlite3.Error`.
        """
        with closing(sqlite3.connect(path, isolation_level=None)) as copy:
            self._connection.backup(copy)
            copy.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def find_damage(self) -> str | None:
        """Describe the damage in the file; None if it is sound. Reads the whole file: 1 s for a few hundred megabytes.

        Raises :class:`agent.outbox.values.DamagedError`.
        """
        said = self._one("PRAGMA quick_check(1)")[0]
        return None if said == "ok" else str(said)


if TYPE_CHECKING:

    def _keeps_what_is_promised(outbox: SqliteOutbox) -> Outbox:
        return outbox
