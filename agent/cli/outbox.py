"""Opening the outbox for a verb, with the rules of the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.inspect.derived import rules_of
from agent.inspect.queue import Queue
from agent.model.times import Clock
from agent.outbox.sqlite.connection import refuse_what_is_no_outbox
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import OutboxError

if TYPE_CHECKING:
    from agent.config.settings import Settings
    from agent.ingest.ingest import Ingest
    from agent.outbox.interface import Outbox


def open_outbox(settings: Settings) -> SqliteOutbox:
    """Open the outbox, or create it."""
    refuse_what_is_no_outbox(settings.outbox)
    return SqliteOutbox(settings.outbox, Clock(), max_size=settings.max_size_bytes)


def existing_outbox(settings: Settings) -> SqliteOutbox:
    """Open the outbox, but do not create it: it would belong to this user, not to the service."""
    if not settings.outbox.exists():
        raise OutboxError(f"there is no outbox {settings.outbox} yet; hivel-agent run or once creates it")
    return open_outbox(settings)


def queue_of(settings: Settings, outbox: Outbox) -> Queue:
    """The reader for `queue` and `explain`."""
    return Queue(outbox, rules_of(settings), settings.hold_for_ms)


def ingest_of(settings: Settings, outbox: Outbox) -> Ingest:
    """The intake of facts."""
    from agent.ingest.ingest import Ingest  # noqa: PLC0415 - it loads the log; most verbs only read

    return Ingest(outbox, rules_of(settings), settings.hold_for_ms)
