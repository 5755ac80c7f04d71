"""Counters and log lines for the outcome of each attempt."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from agent.delivery.answers import Outcome, Verdict
from agent.delivery.breaker import BreakerState, CircuitBreaker

if TYPE_CHECKING:
    from agent.outbox.values import Claimed

log = structlog.get_logger("delivery")


@dataclass
class Tally:
    """Counters since the process started. ``retries`` by :attr:`Outcome.kind`: ``http_503``, ``timeout``, …"""

    delivered: int = 0
    failed: int = 0
    retries: Counter[str] = field(default_factory=Counter)

    @property
    def attempts(self) -> int:
        """The number of finished attempts."""
        return self.delivered + self.failed + self.retries.total()

    def record(self, outcome: Outcome) -> None:
        """Count an attempt."""
        match outcome.verdict:
            case Verdict.DELIVERED:
                self.delivered += 1
            case Verdict.FAILED:
                self.failed += 1
            case Verdict.RETRY | Verdict.PAUSED:
                self.retries[outcome.kind] += 1


def log_outcome(claimed: Claimed, outcome: Outcome, breaker: CircuitBreaker, before: BreakerState) -> None:
    """Log each delivered or failed deployment and each change of the breaker; failed probes are not logged.

    A deployment that is retried is logged after 1, 2, 4, 8, … attempts.
    """
    if breaker.state is not before:
        write = log.info if breaker.state is BreakerState.OPEN else log.error
        write("delivery state changed", state=breaker.state.value, reason=breaker.reason)
    tries = claimed.attempts + 1
    match outcome.verdict:
        case Verdict.DELIVERED:
            log.info("delivered", deployment_id=claimed.deployment_id, remark=outcome.reason or "new")
        case Verdict.FAILED:
            log.error("failed", deployment_id=claimed.deployment_id, reason=outcome.reason)
        case Verdict.RETRY | Verdict.PAUSED if breaker.state is BreakerState.OPEN and _is_power_of_two(tries):
            log.warning("not delivered yet", deployment_id=claimed.deployment_id, tries=tries, reason=outcome.reason)


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0
