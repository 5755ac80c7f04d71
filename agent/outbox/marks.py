"""The mark of an outbox that was copied, or is a copy. An agent never works on two outboxes with the same content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent.outbox.values import MovedError, OutboxError

# What triggers say when something is written to an outbox with the mark of a source.
READ_ONLY = "it is moved to another outbox, or was moved, and does not change"


@dataclass(frozen=True)
class Mark:
    """``copy`` identifies the copy in both outboxes; ``other`` names the other outbox.

    ``progress``: of a target, see :class:`agent.outbox.tables.Progress`.
    """

    copy: str
    role: Literal["source", "target"]
    other: str
    complete: bool = False
    progress: str = ""


def refuse_marked(name: str, mark: Mark | None, *, as_inbox: bool = False) -> None:
    """Raises :class:`MovedError` if no agent may work on this outbox.

    ``as_inbox``: only reports are kept in it, for an agent whose outbox is elsewhere.
    """
    if mark is None:
        return
    if mark.role == "target":
        if not mark.complete:
            raise MovedError(
                f"the outbox {name} is an incomplete copy of {mark.other}; repeat the same hivel-agent outbox copy to"
                " finish it"
            )
    elif not mark.complete:
        raise MovedError(
            f"the outbox {name} is being moved to {mark.other}; repeat the same hivel-agent outbox copy to finish this,"
            f" or give it up with hivel-agent outbox unmark --from {name}"
        )
    elif not as_inbox:
        raise MovedError(
            f"the outbox {name} was moved to {mark.other}; set [outbox] to that one. To use this one again, copy that"
            f" one back, or, if no agent has worked on it, run hivel-agent outbox unmark --from {name}"
        )


def source_again(name: str, mark: Mark | None, target: str) -> Mark | None:
    """The mark of the source if a copy to ``target`` has begun; None: a new one can begin.

    Raises :class:`OutboxError` if the outbox may not be copied.
    """
    if mark is not None and mark.role == "source" and mark.other == target:
        return mark
    refuse_marked(name, mark)
    return None


def target_again(name: str, mark: Mark | None, copy: str) -> Mark | None:
    """The mark of the target if this copy has begun; None: it has not. Raises :class:`OutboxError`."""
    if mark is not None and mark.role == "target" and mark.copy == copy:
        return mark
    if mark is not None and mark.role == "target" and not mark.complete:
        raise OutboxError(
            f"the outbox {name} has a part of another copy, of {mark.other}; name an empty database, or drop this one"
        )
    return None


def may_be_unmarked(name: str, mark: Mark | None, *, confirmed: bool) -> None:
    """Raises :class:`OutboxError` unless the outbox may be used again."""
    if mark is None or mark.role == "target":
        refuse_marked(name, mark)
        raise OutboxError(f"the outbox {name} has no mark: it was not moved")
    if mark.complete and not confirmed:
        raise OutboxError(
            f"the outbox {name} was moved to {mark.other}. If an agent has worked there, both would send events again"
            " that the other one has sent, and what is new there would be missing here. If no agent has, repeat the"
            " command with --yes, and delete that outbox"
        )
