"""Being gentle to a controller: requests per minute, and pauses that grow."""

from __future__ import annotations

import random

import pytest

from agent.jenkins import pace
from agent.jenkins.pace import LONGEST_PAUSE_S, Pause, RateLimit
from agent.times import Clock


class FakeTime(Clock):
    """A clock that goes on by sleeping only."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    time = FakeTime()
    monkeypatch.setattr(pace, "time", time)
    return time


def test_a_burst_goes_through_and_then_no_more_than_so_many_a_minute(time: FakeTime) -> None:
    limit = RateLimit(60)
    for _ in range(60):
        limit.wait()
    assert time.now == 100.0
    for _ in range(120):
        limit.wait()
    assert time.now == pytest.approx(220.0)


def test_no_limit_waits_for_nothing(time: FakeTime) -> None:
    limit = RateLimit(0)
    for _ in range(10_000):
        limit.wait()
    assert time.now == 100.0


def test_pauses_double_up_to_five_minutes_and_end_with_an_answer() -> None:
    clock = FakeTime()
    pause = Pause(15, clock, random.Random(1))
    lengths = []
    for _ in range(10):
        pause.failed()
        before = clock.now
        while not pause.over():
            clock.sleep(0.5)
        lengths.append(clock.now - before)
    assert 7.5 <= lengths[0] <= 15.5
    assert all(LONGEST_PAUSE_S / 2 <= length <= LONGEST_PAUSE_S + 0.5 for length in lengths[-4:])
    pause.failed()
    pause.answered()
    assert pause.over()
