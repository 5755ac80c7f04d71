"""Stages with the same name in one build: attempts of one deployment (retry, a loop), or concurrent stages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.deployments.stages import UNFINISHED, result_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.model.build import Stage

# From best to worst: of concurrent stages the worst result counts.
_WORSE = ("SUCCESS", "NOT_BUILT", UNFINISHED, "ABORTED", "UNSTABLE", "FAILURE")


@dataclass(frozen=True)
class Attempt:
    """A stage that ran, and its status as a build result. ``of``: the number of attempts that it stands for."""

    stage: Stage
    result: str
    of: int = 1


def each_attempt(stages: Iterable[Stage]) -> list[Attempt]:
    """Every stage that ran; those with the same name in the order of their starts."""
    return [attempt for attempts in _by_name(stages) for attempt in attempts]


def last_attempts(stages: Iterable[Stage]) -> list[Attempt]:
    """One for each name: the last to start. Concurrent ones are merged into one."""
    return [_last(attempts) for attempts in _by_name(stages)]


def _by_name(stages: Iterable[Stage]) -> list[list[Attempt]]:
    """Grouped by name, in the order of first appearance."""
    found: dict[str, list[Attempt]] = {}
    for stage in stages:
        if (result := result_of(stage)) is not None:
            found.setdefault(stage.name, []).append(Attempt(stage, result))
    return [sorted(attempts, key=lambda attempt: attempt.stage.started_at) for attempts in found.values()]


def _last(attempts: list[Attempt]) -> Attempt:
    """Matrix cells have the same name and run concurrently, so the last one to start is not enough."""
    together: list[Attempt] = []
    until = -math.inf
    for attempt in attempts:
        if attempt.stage.started_at >= until:
            together = []
        together.append(attempt)
        until = max(until, _end(attempt.stage))
    worst = max(together, key=lambda attempt: _WORSE.index(attempt.result))
    ends = [attempt.stage.ended_at for attempt in together]
    started_at, ended_at = together[0].stage.started_at, 0 if 0 in ends else max(ends)
    return Attempt(replace(worst.stage, started_at=started_at, ended_at=ended_at), worst.result, len(attempts))


def _end(stage: Stage) -> float:
    """A stage without an end counts as still running."""
    return math.inf if stage.started_at and not stage.ended_at else stage.ended_at
