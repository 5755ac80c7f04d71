"""Pauses that grow: of a controller that does not answer, and of each job or build that cannot be read."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sources.jenkins.backoff import LONGEST_BACKOFF_S, LONGEST_PAUSE_S, Backoffs, Pause
from tests.integration.support import FakeClock

INTERVAL_S = 15.0


class Most(random.Random):
    """The longest that may come."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


class Least(random.Random):
    """The shortest that may come."""

    def uniform(self, a: float, b: float) -> float:
        return min(a, b)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def backoffs(clock: FakeClock) -> Backoffs[str]:
    return Backoffs(INTERVAL_S, clock, Most())


def waited(backoffs: Backoffs[str], clock: FakeClock, key: str = "shop") -> float:
    """How long it takes from now until it is due."""
    seconds = 0.0
    while not backoffs.due(key):
        clock.advance(ms=500)
        seconds += 0.5
    return seconds


# ---- a controller


def test_pauses_double_up_to_five_minutes_and_end_with_an_answer(clock: FakeClock) -> None:
    pause = Pause(INTERVAL_S, clock, random.Random(1))
    lengths = []
    for _ in range(10):
        pause.failed()
        length = 0.0
        while not pause.over():
            clock.advance(ms=500)
            length += 0.5
        lengths.append(length)
    assert 7.5 <= lengths[0] <= 15.5
    assert all(LONGEST_PAUSE_S / 2 <= length <= LONGEST_PAUSE_S + 0.5 for length in lengths[-4:])
    pause.failed()
    pause.answered()
    assert pause.over()


@pytest.mark.parametrize(("asked_s", "waited_s"), [(1, 15), (600, 600), (86_400, LONGEST_BACKOFF_S)])
def test_a_controller_that_asks_for_a_pause_gets_it_within_an_hour(
    clock: FakeClock, asked_s: int, waited_s: float
) -> None:
    pause = Pause(INTERVAL_S, clock, Most())
    pause.failed(retry_after_ms=asked_s * 1000)
    clock.advance(s=waited_s - 0.5)
    assert not pause.over()
    clock.advance(s=0.5)
    assert pause.over()


# ---- jobs and builds


def test_what_never_failed_is_due(backoffs: Backoffs[str]) -> None:
    assert backoffs.due("shop")
    assert backoffs.failing() == []


def test_the_time_doubles_from_the_poll_interval_up_to_an_hour(backoffs: Backoffs[str], clock: FakeClock) -> None:
    lengths = []
    for _ in range(12):
        backoffs.failed("shop", "HTTP 504")
        lengths.append(waited(backoffs, clock))
    assert lengths == [15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600]


def test_the_first_failure_is_tried_again_at_the_next_poll_at_the_latest(clock: FakeClock) -> None:
    for seed in range(20):
        backoffs = Backoffs[str](INTERVAL_S, clock, random.Random(seed))
        backoffs.failed("shop", "HTTP 504")
        assert not backoffs.due("shop")
        assert INTERVAL_S / 2 <= waited(backoffs, clock) <= INTERVAL_S


def test_each_waits_for_itself(backoffs: Backoffs[str], clock: FakeClock) -> None:
    for _ in range(4):
        backoffs.failed("shop", "HTTP 504")
    backoffs.failed("cart", "HTTP 500")
    clock.advance(s=INTERVAL_S)
    assert (backoffs.due("shop"), backoffs.due("cart"), backoffs.due("other")) == (False, True, True)


def test_a_success_ends_it_and_the_next_failure_begins_anew(backoffs: Backoffs[str], clock: FakeClock) -> None:
    for _ in range(5):
        backoffs.failed("shop", "HTTP 504")
    backoffs.succeeded("shop")
    backoffs.succeeded("never failed")
    assert backoffs.due("shop") and backoffs.failing() == []
    backoffs.failed("shop", "HTTP 504")
    assert waited(backoffs, clock) == INTERVAL_S


def test_what_fails_is_told_with_its_reason_and_when_it_is_tried_again(clock: FakeClock) -> None:
    backoffs = Backoffs[tuple[str, int]](INTERVAL_S, clock, Most())
    now = clock.now_ms()
    for _ in range(3):
        backoffs.failed(("shop", 7), "HTTP 504 from /job/shop/7/wfapi/describe")
    backoffs.failed(("cart", 2), "no data received for 30 s")
    told = [(each.key, each.reason, each.failures, each.next_try_at) for each in backoffs.failing()]
    assert told == [
        (("cart", 2), "no data received for 30 s", 1, now + 15_000),
        (("shop", 7), "HTTP 504 from /job/shop/7/wfapi/describe", 3, now + 60_000),
    ]
    clock.advance(s=20)
    assert [each.next_try_at for each in backoffs.failing()] == [clock.now_ms(), now + 60_000]


def test_a_clock_that_is_set_changes_when_it_is_said_to_be_and_not_when_it_is(
    backoffs: Backoffs[str], clock: FakeClock
) -> None:
    backoffs.failed("shop", "HTTP 504")
    clock.jump(ms=-86_400_000)
    assert not backoffs.due("shop")
    assert backoffs.failing()[0].next_try_at == clock.now_ms() + 15_000
    clock.jump(ms=10 * 86_400_000)
    assert waited(backoffs, clock) == INTERVAL_S


def test_what_vanished_is_forgotten(backoffs: Backoffs[str]) -> None:
    for name in ("shop", "cart", "gone"):
        backoffs.failed(name, "HTTP 504")
    backoffs.keep_only({"shop", "cart", "never failed"})
    assert {each.key for each in backoffs.failing()} == {"shop", "cart"}
    assert backoffs.due("gone")


@pytest.mark.parametrize(("asked_ms", "waited_s"), [(None, 15), (0, 15), (90_000, 105), (7 * 86_400_000, 3615)])
def test_a_page_that_asks_for_a_pause_gets_it_within_an_hour_and_its_own_on_top(
    backoffs: Backoffs[str], clock: FakeClock, asked_ms: int | None, waited_s: float
) -> None:
    backoffs.failed("shop", "HTTP 503", asked_ms)
    assert waited(backoffs, clock) == waited_s


def test_an_interval_beyond_an_hour_is_never_shortened(clock: FakeClock) -> None:
    backoffs = Backoffs[str](7_200, clock, Most())
    for _ in range(3):
        backoffs.failed("shop", "HTTP 504")
        assert waited(backoffs, clock) == 7_200


@given(st.floats(1, 3600), st.integers(1, 5000), st.sampled_from([Most(), Least(), random.Random(1)]))
def test_however_often_it_fails_it_waits_half_an_interval_at_least_and_an_hour_at_most(
    interval_s: float, failures: int, rng: random.Random
) -> None:
    clock = FakeClock()
    backoffs = Backoffs[str](interval_s, clock, rng)
    for _ in range(failures):
        backoffs.failed("shop", "HTTP 504")
    [failing] = backoffs.failing()
    assert failing.failures == failures
    wait_ms = failing.next_try_at - clock.now_ms()
    assert interval_s * 500 - 1 <= wait_ms <= LONGEST_BACKOFF_S * 1000 + 1
