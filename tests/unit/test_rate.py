"""So many requests a minute and no more."""

from __future__ import annotations

import pytest

from agent.model.rate import RateLimit
from agent.model.times import Clock


class FakeTime(Clock):
    """A clock that goes on by sleeping only."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_burst_goes_through_and_then_no_more_than_so_many_a_minute() -> None:
    time = FakeTime()
    limit = RateLimit(60, time)
    for _ in range(60):
        time.sleep(limit.reserve())
    assert time.now == 100.0
    for _ in range(120):
        time.sleep(limit.reserve())
    assert time.now == pytest.approx(220.0)


def test_a_smaller_burst_spreads_the_requests_evenly() -> None:
    time = FakeTime()
    limit = RateLimit(120, time, burst=1)
    moments = []
    for _ in range(5):
        time.sleep(limit.reserve())
        moments.append(time.now)
    assert moments == pytest.approx([100.0, 100.5, 101.0, 101.5, 102.0])


def test_those_who_wait_at_the_same_time_wait_behind_each_other() -> None:
    limit = RateLimit(60, FakeTime(), burst=1)
    assert [limit.reserve() for _ in range(4)] == pytest.approx([0.0, 1.0, 2.0, 3.0])


def test_no_limit_waits_for_nothing() -> None:
    limit = RateLimit(0, FakeTime())
    assert {limit.reserve() for _ in range(10_000)} == {0.0}
