"""The outbox of a verb that looks at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.model.times import Clock
from agent.outbox.sqlite.connection import OutboxError
from agent.outbox.sqlite.store import Outbox

if TYPE_CHECKING:
    from agent.config.settings import Settings


def existing_outbox(settings: Settings) -> Outbox:
    """Open the outbox, but do not make one: it would belong to whoever looked first, not to the service."""
    if not settings.outbox.exists():
        raise OutboxError(f"there is no outbox {settings.outbox} yet; hivel-agent run or once makes it")
    return Outbox(settings.outbox, Clock())
