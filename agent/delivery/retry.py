"""When a deployment is tried again, and when the agent gives up."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agent.delivery.answers import Outcome, Verdict
from agent.model.times import describe_duration

if TYPE_CHECKING:
    from agent.config.settings import DeliverySettings
    from agent.outbox.values import Claimed


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with full jitter: a random time up to ``initial_ms``, which doubles with every attempt."""

    initial_ms: int
    max_ms: int

    def delay_ms(self, attempts: int, retry_after_ms: int | None = None, rng: random.Random | None = None) -> int:
        """The wait after attempt number ``attempts`` (from 1): at least ``retry_after_ms``, at most ``max_ms``."""
        ceiling = min(self.max_ms, self.initial_ms * 2 ** min(max(attempts - 1, 0), 40))
        delay = (rng or random).uniform(0, ceiling)
        return int(min(max(delay, retry_after_ms or 0), self.max_ms))


def given_up(claimed: Claimed, outcome: Outcome, settings: DeliverySettings, now_ms: int) -> Outcome:
    """The outcome, or a failure if the deployment has reached ``max_attempts`` or ``max_age`` (both off by default)."""
    if outcome.verdict is not Verdict.RETRY:
        return outcome
    age_ms = now_ms - claimed.created_at
    if settings.max_attempts and claimed.attempts + 1 >= settings.max_attempts:
        limit = f"{claimed.attempts + 1} attempts ([delivery] max_attempts)"
    elif settings.max_age_ms and age_ms > settings.max_age_ms:
        limit = f"{describe_duration(age_ms)} ([delivery] max_age)"
    else:
        return outcome
    return replace(outcome, verdict=Verdict.FAILED, reason=f"gave up after {limit}; last attempt: {outcome.reason}")
