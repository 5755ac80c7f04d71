"""How often a controller is polled, by how long its answers take."""

from __future__ import annotations

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sources.jenkins.pace import LEAST_POLLS, LONGEST_INTERVAL_S, REMEMBERED, Pace

seconds = st.floats(0, 100)


def used_to(interval_s: float, usual_s: float, polls: int = 20) -> Pace:
    """A controller that answered so fast for a while."""
    pace = Pace(interval_s)
    for _ in range(polls):
        pace.answered(usual_s)
    return pace


@pytest.mark.parametrize(
    ("interval_s", "expected"),
    [
        (15, [30, 60, 120, 120]),  # eight times
        (60, [120, 240, 300, 300]),  # five minutes
        (300, [300, 300, 300, 300]),
        (600, [600, 600, 600, 600]),  # a setting that is longer counts
    ],
)
def test_the_interval_doubles_with_each_slow_answer_within_bounds(interval_s: float, expected: list[float]) -> None:
    pace = used_to(interval_s, 0.2)
    found = []
    for _ in expected:
        pace.answered(5)
        found.append(pace.interval_s)
    assert found == expected


def test_the_interval_is_halved_with_each_answer_that_is_as_usual_and_kept_between() -> None:
    pace = used_to(15, 1.0)
    found = []
    for answer in (5, 5, 5, 2, 1, 2, 1.4, 0.1, 1):
        pace.answered(answer)
        found.append(pace.interval_s)
    assert found == [30, 60, 120, 120, 60, 60, 30, 15, 15]


def test_a_controller_that_is_fast_may_be_some_times_slower_for_a_moment() -> None:
    pace = used_to(15, 0.005)
    for answer in (0.02, 0.2, 0.4):
        pace.answered(answer)
    assert not pace.slowed
    pace.answered(0.6)
    assert pace.slowed


def test_nothing_is_judged_by_a_few_answers() -> None:
    pace = used_to(15, 0.1, LEAST_POLLS - 1)
    pace.answered(60)
    assert not pace.slowed


def test_what_stays_slow_becomes_usual() -> None:
    pace = used_to(15, 0.2, REMEMBERED)
    for _ in range(REMEMBERED):
        pace.answered(5)
    assert not pace.slowed


@given(st.floats(0.05, 1000), st.lists(seconds, max_size=300))
def test_the_interval_stays_within_its_bounds_and_comes_back_whatever_the_answers_were(
    interval_s: float, answers: list[float]
) -> None:
    pace = Pace(interval_s)
    for answer in answers:
        before = pace.interval_s
        pace.answered(answer)
        assert interval_s <= pace.interval_s <= min(8 * interval_s, max(LONGEST_INTERVAL_S, interval_s))
        assert before / 2 <= pace.interval_s <= 2 * before
        assert pace.slowed == (pace.interval_s > interval_s) or interval_s >= LONGEST_INTERVAL_S
    for _ in range(3):
        pace.answered(0)
    assert not pace.slowed


@given(seconds, st.integers(0, 300))
def test_who_always_answers_alike_is_always_polled_alike(usual_s: float, polls: int) -> None:
    assert not used_to(15, usual_s, polls).slowed


@given(st.lists(seconds, min_size=LEAST_POLLS, max_size=REMEMBERED), seconds)
def test_only_what_is_slow_for_that_controller_makes_the_interval_longer(answers: list[float], last: float) -> None:
    pace = Pace(15)
    for answer in answers:
        pace.answered(answer)
    before, usual = pace.interval_s, median(answers)
    pace.answered(last)
    if pace.interval_s > before:
        assert last > 3 * usual and last > usual + 0.5
    if last > 3 * usual + 0.5:
        assert pace.interval_s == min(2 * before, 120)
