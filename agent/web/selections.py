"""What a person chose, exactly: an action on these deployments in the state in which the person saw them.

The confirmation page remembers the selection here. The confirmed action changes these deployments and no others, and
none that changed in the meantime.
"""

from __future__ import annotations

import enum
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from agent.ingest.replay import Outcome, discard, replay
from agent.model.deployment import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.ingest.ingest import Ingest
    from agent.model.deployment import Deployment

# Deployments of one action.
MOST = 50_000
# Deployments of all selections that wait for a confirmation: 20 MB.
_MOST_WAITING = 150_000
_CHANGED = "it has changed since it was selected"


class What(enum.StrEnum):
    """What can be done with many deployments."""

    REPLAY = "replay"
    DISCARD = "discard"

    @property
    def done(self) -> str:
        """*12 deployments were* …"""
        return "replayed" if self is What.REPLAY else "discarded"

    @property
    def states(self) -> tuple[State, ...]:
        """The states that it applies to."""
        if self is What.REPLAY:
            return State.FAILED, State.DELIVERED, State.DISCARDED
        return State.FAILED, State.PENDING


class Chosen(NamedTuple):
    """A deployment as it was when it was selected."""

    number: int
    state: State
    revision: int
    settled_at: int | None

    @classmethod
    def of(cls, row: Deployment) -> Chosen:
        """The deployment as it is now."""
        return cls(row.number, row.state, row.revision, row.settled_at)


@dataclass(frozen=True)
class Selection:
    """``words``: how the deployments were selected, for people. ``chosen``: oldest first."""

    what: What
    words: str
    chosen: tuple[Chosen, ...]


class Selections:
    """Selections that wait for a confirmation. The oldest ones are dropped when there are too many."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, Selection] = OrderedDict()

    def keep(self, selection: Selection) -> str:
        """Returns its key, which nobody can guess."""
        key = secrets.token_urlsafe(16)
        self._waiting[key] = selection
        while len(self._waiting) > 1 and sum(len(each.chosen) for each in self._waiting.values()) > _MOST_WAITING:
            self._waiting.popitem(last=False)
        return key

    def look(self, key: str) -> Selection | None:
        """The selection; None: it was dropped."""
        return self._waiting.get(key)

    def drop(self, key: str) -> None:
        """Forget a selection: it has been confirmed."""
        self._waiting.pop(key, None)


def act(ingest: Ingest, what: What, chosen: Sequence[Chosen], *, by: str, reason: str) -> list[Outcome]:
    """Replay or discard these deployments in one transaction, except those that have changed."""
    with ingest.outbox.transaction():
        rows = ingest.outbox.with_numbers([each.number for each in chosen])
        now = [(each, rows.get(each.number)) for each in chosen]
        same = [row for each, row in now if row is not None and Chosen.of(row) == each]
        left = [(each, row) for each, row in now if row is None or Chosen.of(row) != each]
        done = replay(ingest, same, by) if what is What.REPLAY else discard(ingest.outbox, same, by, reason)
        return done + [_refused(each, row) for each, row in left]


def _refused(chosen: Chosen, row: Deployment | None) -> Outcome:
    if row is None:
        return Outcome(chosen.number, None, done=False, reason="it was deleted since it was selected")
    now = f"{_CHANGED}: it is {row.state} now" if row.state is not chosen.state else _CHANGED
    return Outcome(row.number, row.deployment_id, done=False, reason=now)
