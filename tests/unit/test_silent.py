"""Which pauses make a job silent: those that a person who knows the job would wonder about."""

from __future__ import annotations

from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.inspect.silent import RETIRED_MS, is_silent, usual_pause

DAY = 86_400_000
START = 1_700_000_000_000
WEEKDAYS = [START + (week * 7 + day) * DAY for week in range(6) for day in range(5)]
QUARTERLY = [START + quarter * 90 * DAY + build * DAY for quarter in range(4) for build in range(5)]
WEEKLY = [START + week * 7 * DAY for week in range(8)]


def settings(**changes: Any) -> Any:
    return SimpleNamespace(**({"silent_after_ms": 14 * DAY, "silent_least": 5} | changes))


@pytest.mark.parametrize(
    ("ends", "days", "silent"),
    [
        pytest.param(WEEKDAYS, 3, False, id="a weekend of a job that deploys on every weekday"),
        pytest.param(WEEKDAYS, 13, False, id="and its holidays"),
        pytest.param(WEEKDAYS, 15, True, id="and then nothing more"),
        pytest.param(WEEKLY, 21, False, id="a weekly release that was left out twice"),
        pytest.param(WEEKLY, 29, True, id="and never came again"),
        pytest.param(QUARTERLY, 90, False, id="the time between two quarterly releases of several builds"),
        pytest.param(QUARTERLY, 360, True, id="a year without one"),
        pytest.param(WEEKDAYS[:4], 60, False, id="too few deployments to know"),
        pytest.param(WEEKDAYS, 14 + 91, False, id="so long that it is retired"),
    ],
)
def test_what_a_person_would_wonder_about(ends: list[int], days: int, silent: bool) -> None:
    assert is_silent(ends, ends[-1] + days * DAY, settings()) is silent


def test_what_is_long_and_how_many_are_needed_is_set() -> None:
    assert is_silent(WEEKDAYS[:4], WEEKDAYS[3] + 60 * DAY, settings(silent_least=4))
    assert not is_silent(WEEKDAYS, WEEKDAYS[-1] + 15 * DAY, settings(silent_after_ms=16 * DAY))


@given(st.lists(st.integers(0, 100 * DAY), min_size=1, max_size=60), st.integers(0, 400 * DAY))
def test_no_job_is_silent_that_only_pauses_as_it_does_and_none_before_the_shortest_time(
    pauses: list[int], quiet: int
) -> None:
    ends = list(accumulate(pauses, initial=START))
    usual = usual_pause(ends)
    assert sum(pause <= usual for pause in pauses) >= 0.9 * len(pauses)
    if is_silent(ends, ends[-1] + quiet, settings(silent_least=2)):
        assert quiet > 14 * DAY and quiet > 4 * usual
        assert quiet <= max(14 * DAY, 4 * usual) + RETIRED_MS


def test_builds_that_end_together_have_no_pause() -> None:
    assert usual_pause([START]) == 0
    assert usual_pause([START, START, START]) == 0
