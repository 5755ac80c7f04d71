"""The outbox in a PostgreSQL database: all parts of the engine on one connection."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Self

from agent.outbox.postgresql.cursors import Cursors
from agent.outbox.postgresql.deliveries import Deliveries
from agent.outbox.postgresql.deployments import Deployments
from agent.outbox.postgresql.housekeeping import Housekeeping
from agent.outbox.postgresql.pages import Pages
from agent.outbox.sql.backfills import Backfills
from agent.outbox.sql.gaps import Gaps
from agent.outbox.values import OutboxError

if TYPE_CHECKING:
    from agent.outbox.interface import Outbox


class PostgresqlOutbox(Deployments, Pages, Deliveries, Cursors, Backfills, Gaps, Housekeeping):
    """One connection to the outbox. Each thread that works at the same time needs its own."""

    def close(self) -> None:
        """Let go of all claims, and close the connection."""
        with suppress(OutboxError):  # then the claims run out
            self.release_claims()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


if TYPE_CHECKING:

    def _keeps_what_is_promised(outbox: PostgresqlOutbox) -> Outbox:
        return outbox
