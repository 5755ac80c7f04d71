"""Stages of one name in one build: attempts of a deployment (retry, a loop), or several of them at the same time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.deployments.stages import UNFINISHED, result_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.model.build import Stage

# From the best to the worst: of what ran at the same time the worst counts.
_WORSE = ("SUCCESS", "NOT_BUILT", UNFINISHED, "ABORTED", "UNSTABLE", "FAILURE")


@dataclass(frozen=True)
class Attempt:
    """A stage that ran, and its word as a build's result. ``of``: how many attempts it stands for."""

    stage: Stage
    result: str
    of: int = 1


def each_attempt(stages: Iterable[Stage]) -> list[Attempt]:
    """Every stage that ran; those of one name in the order in which they began."""
    return [attempt for attempts in _by_name(stages) for attempt in attempts]


def last_attempts(stages: Iterable[Stage]) -> list[Attempt]:
    """One for each name: the last that began, and if others ran at the same time, all of them as one."""
    return [_last(attempts) for attempts in _by_name(stages)]


def _by_name(stages: Iterable[Stage]) -> list[list[Attempt]]:
    """Names in the order in which they are listed first."""
    found: dict[str, list[Attempt]] = {}
    for stage in stages:
        if (result := result_of(stage)) is not None:
            found.setdefault(stage.name, []).append(Attempt(stage, result))
    return [sorted(attempts, key=lambda attempt: attempt.stage.started_at) for attempts in found.values()]


def _last(attempts: list[Attempt]) -> Attempt:
    """Cells of a matrix have one name and run at the same time: the one that began last does not speak for all."""
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
    """A stage that began and did not end ran on."""
    return math.inf if stage.started_at and not stage.ended_at else stage.ended_at
