"""Which rows are old enough to be deleted, and walks through tables to find them. No SQL."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from agent.model.deployment import State
from agent.model.fact import Kind

if TYPE_CHECKING:
    from collections.abc import Collection

# Facts with which a build is complete, and states in which a deployment may be deleted.
FINAL = (Kind.FINAL.value, Kind.GONE.value)
SETTLED = (State.DELIVERED.value, State.DISCARDED.value)


class Age(Enum):
    """What a walk does with a row."""

    OLD = "it is deleted"
    YOUNG = "it is too young to be deleted, and so are all later rows"
    STUCK = "it is old, but something keeps it; the next walk checks it again"


@dataclass
class Walk:
    """A walk through a table in key order, step by step.

    It stops before the first row that is too young. After ``period`` (ms) it starts again from the beginning, because
    rows that were kept may be deletable by then.
    """

    start: Any
    position: Any = None
    began_at: int = 0
    rests: bool = True

    def begin(self, now: int, period: int) -> Any:
        """The key after which the next step starts."""
        if self.position is None or (self.rests and not 0 <= now - self.began_at < period):
            self.position, self.began_at, self.rests = self.start, now, False
        return self.position

    def go_on(self, passed: list[tuple[Any, Age]], limit: int) -> bool:
        """Continue after the last row passed; True if there may be more rows that are old enough."""
        done = [position for position, age in passed if age is not Age.YOUNG]
        if done:
            self.position = done[-1]
        more = bool(done) and len(passed) == limit
        self.rests = self.rests or not more
        return more


@dataclass
class Stored:
    """What is stored for a run under one name of its project."""

    is_final: bool = False
    is_followed: bool = False
    received: list[int] = field(default_factory=list)
    deployments: list[tuple[str, int, int]] = field(default_factory=list)  # state, creation time, settlement time


def age_of(stored: Collection[Stored], now: int, cutoff: int) -> Age:
    """Whether what is stored for a run, under all names of its project, may be deleted: older than ``cutoff``."""
    deployments = [each for of_name in stored for each in of_name.deployments]
    received = [time for of_name in stored for time in of_name.received]
    made = [created_at for _, created_at, _ in deployments] or received
    if made and cutoff <= min(made) and max(made) <= now:
        return Age.YOUNG
    if deployments:  # the controller's clock may be ahead: its facts count only after that time
        received = [time for time in received if time <= now]
    last = max([*(settled_at for _, _, settled_at in deployments), *received], default=0)
    kept = any(state not in SETTLED for state, _, _ in deployments) or any(each.is_followed for each in stored)
    return Age.STUCK if kept or last >= cutoff else Age.OLD
