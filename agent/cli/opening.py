"""Opening the outbox for a verb, with the rules of the configuration."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from agent.inspect.derived import rules_of
from agent.inspect.queue import Queue
from agent.model.times import Clock
from agent.outbox.engines import engine_of, is_shared
from agent.outbox.sqlite.connection import refuse_what_is_no_outbox
from agent.outbox.values import OutboxError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from agent.config.settings import Settings
    from agent.ingest.ingest import Ingest
    from agent.outbox.interface import Outbox


def open_outbox(settings: Settings) -> AbstractContextManager[Outbox]:
    """Open the outbox, or create it."""
    if not is_shared(settings):
        refuse_what_is_no_outbox(settings.outbox)
    return closing(engine_of(settings, Clock()).open())


def existing_outbox(settings: Settings) -> AbstractContextManager[Outbox]:
    """Open the outbox, but do not create it: it would belong to this user, not to the service."""
    if not has_outbox(settings):
        raise OutboxError(f"there is no outbox {settings.outbox} yet; hivel-agent run or once creates it")
    return open_outbox(settings)


def has_outbox(settings: Settings) -> bool:
    """Whether the outbox can exist: a file does, or it is in PostgreSQL."""
    return settings.outbox.exists() or is_shared(settings)


def queue_of(settings: Settings, outbox: Outbox) -> Queue:
    """The reader for `queue` and `explain`."""
    return Queue(outbox, rules_of(settings), settings.hold_for_ms)


def ingest_of(settings: Settings, outbox: Outbox) -> Ingest:
    """The intake of facts."""
    from agent.ingest.ingest import Ingest  # noqa: PLC0415 - it loads the log; most verbs only read

    return Ingest(outbox, rules_of(settings), settings.hold_for_ms)
