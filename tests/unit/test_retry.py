"""When a deployment is tried again, and when it is given up."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.settings import DeliverySettings
from agent.delivery.answers import Outcome, Verdict
from agent.delivery.retry import Backoff, given_up
from tests.unit.deliveries import NOW, claimed

WEEK_S = 7 * 86_400
BACKOFF = Backoff(initial_ms=5_000, max_ms=900_000)


@given(
    attempts=st.integers(-5, 10**6),
    retry_after_ms=st.none() | st.integers(0, 10**15),
    initial_ms=st.integers(1, 10**6),
    max_ms=st.integers(1, 10**9),
    seed=st.integers(),
)
def test_a_delay_is_never_negative_and_never_beyond_the_longest(
    attempts: int, retry_after_ms: int | None, initial_ms: int, max_ms: int, seed: int
) -> None:
    delay = Backoff(initial_ms, max_ms).delay_ms(attempts, retry_after_ms, random.Random(seed))
    assert isinstance(delay, int)
    assert 0 <= delay <= max_ms


@pytest.mark.parametrize(
    ("attempts", "ceiling"), [(1, 5_000), (2, 10_000), (3, 20_000), (8, 640_000), (9, 900_000), (10**9, 900_000)]
)
def test_the_delay_is_spread_over_all_of_an_interval_that_doubles(attempts: int, ceiling: int) -> None:
    rng = random.Random(7)
    delays = [BACKOFF.delay_ms(attempts, rng=rng) for _ in range(2000)]
    assert max(delays) <= ceiling
    quarters = Counter(min(delay * 4 // ceiling, 3) for delay in delays)
    assert all(400 < quarters[quarter] < 600 for quarter in range(4)), quarters


def test_retry_after_is_waited_for_but_a_week_is_not() -> None:
    rng = random.Random(7)
    assert all(60_000 <= BACKOFF.delay_ms(1, 60_000, rng) <= 60_000 for _ in range(50))
    assert BACKOFF.delay_ms(1, WEEK_S * 1000, rng) == 900_000


def test_a_short_retry_after_does_not_shorten_the_backoff() -> None:
    with_it = BACKOFF.delay_ms(5, 1, random.Random(7))
    assert with_it == BACKOFF.delay_ms(5, None, random.Random(7))
    assert with_it > 1


def test_without_a_source_of_randomness_delays_still_differ() -> None:
    assert len({BACKOFF.delay_ms(9) for _ in range(20)}) > 1


# ---- giving up

UNAVAILABLE = Outcome(Verdict.RETRY, "HTTP 503: (empty)")
TEN_TIMES = replace(DeliverySettings(), max_attempts=10)
AN_HOUR = replace(DeliverySettings(), max_age_ms=3_600_000)


@pytest.mark.parametrize(
    ("settings", "attempts", "age_ms", "reason"),
    [
        (DeliverySettings(), 10**6, 10**12, None),
        (TEN_TIMES, 8, 10**12, None),
        (TEN_TIMES, 9, 0, "gave up after 10 attempts ([delivery] max_attempts); last attempt: HTTP 503: (empty)"),
        (AN_HOUR, 10**6, 3_600_000, None),
        (AN_HOUR, 0, 3_660_000, "gave up after 1h 1m ([delivery] max_age); last attempt: HTTP 503: (empty)"),
    ],
)
def test_it_is_given_up_only_where_the_settings_say_so(
    settings: DeliverySettings, attempts: int, age_ms: int, reason: str | None
) -> None:
    outcome = given_up(claimed(1, attempts=attempts), UNAVAILABLE, settings, NOW + age_ms)
    assert outcome == (UNAVAILABLE if reason is None else replace(UNAVAILABLE, verdict=Verdict.FAILED, reason=reason))


@pytest.mark.parametrize("verdict", [Verdict.DELIVERED, Verdict.FAILED, Verdict.PAUSED])
def test_nothing_else_is_given_up(verdict: Verdict) -> None:
    outcome = Outcome(verdict, "for a reason")
    assert given_up(claimed(1, attempts=50), outcome, TEN_TIMES, NOW) is outcome
