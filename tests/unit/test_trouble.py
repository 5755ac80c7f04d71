"""What goes on being wrong is said when it begins, once an hour, and when it is over."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from agent.model.trouble import Trouble, Unexpected
from tests.integration.support import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_what_goes_on_for_hours_is_said_once_an_hour(clock: FakeClock) -> None:
    trouble = Trouble("storing events", clock)
    with capture_logs() as lines:
        for _ in range(4 * 60):
            trouble.note("polls of main", "no room")
            clock.advance(s=60)
        trouble.note("polls of main", None)
    assert [line["event"] for line in lines] == ["does not work"] * 4 + ["works again"]
    assert trouble.reason is None


def test_two_who_meet_different_reasons_in_turn_are_said_once_each(clock: FakeClock) -> None:
    trouble = Trouble("storing events", clock)
    with capture_logs() as lines:
        for _ in range(50):
            trouble.note("polls of main", "no room")
            trouble.note("delivery", "disk I/O error")
    assert [line["reason"] for line in lines] == ["no room", "disk I/O error"]


def test_it_works_again_when_it_works_for_everybody(clock: FakeClock) -> None:
    """A small write that still finds room does not end the trouble of a large one."""
    trouble = Trouble("storing events", clock)
    with capture_logs() as lines:
        for _ in range(50):
            trouble.note("polls of main", "no room")
            trouble.note("polls of other", None)
        assert trouble.reason == "no room"
        trouble.note("polls of main", None)
    assert [line["event"] for line in lines] == ["does not work", "works again"]


def test_what_never_was_wrong_is_not_said_to_work_again(clock: FakeClock) -> None:
    with capture_logs() as lines:
        Trouble("storing events", clock).note("delivery", None)
    assert lines == []


# ---- exceptions that nobody expected


def raised(message: str) -> Exception:
    """An exception as it is caught: with the place where it was raised."""
    with pytest.raises(ValueError, match="invalid literal") as caught:
        int(message)
    return caught.value


def test_an_unexpected_error_is_said_once_with_its_trace_and_counted_from_then_on(clock: FakeClock) -> None:
    unexpected = Unexpected(clock)
    with capture_logs() as lines:
        for number in range(500):
            unexpected.note("delivery", raised(f"number-{number}"))
            clock.advance(s=1)
    [line] = lines
    assert (line["event"], line["work"]) == ("unexpected error", "delivery")
    assert isinstance(line["exc_info"], ValueError)
    assert unexpected.counts == {"delivery": 500}
    assert "number-499" in unexpected.reasons["delivery"]


def test_an_unexpected_error_that_goes_on_is_said_once_an_hour_with_its_count(clock: FakeClock) -> None:
    unexpected = Unexpected(clock)
    with capture_logs() as lines:
        for _ in range(3 * 60):
            unexpected.note("delivery", raised("again"))
            clock.advance(s=60)
    assert [line["times"] for line in lines] == [1, 61, 121]


def test_another_error_or_other_work_is_said_by_itself(clock: FakeClock) -> None:
    unexpected = Unexpected(clock)
    with capture_logs() as lines:
        for work in ("delivery", "reports"):
            unexpected.note(work, raised("here"))
            unexpected.note(work, KeyError("there"))
    assert [line["work"] for line in lines] == ["delivery", "delivery", "reports", "reports"]
    assert unexpected.counts == {"delivery": 2, "reports": 2}


def test_work_that_succeeds_is_right_again_and_other_work_is_not(clock: FakeClock) -> None:
    unexpected = Unexpected(clock)
    unexpected.note("delivery", raised("here"))
    unexpected.note("reports", raised("there"))
    with capture_logs() as lines:
        unexpected.over("delivery")
        unexpected.over("delivery")
        unexpected.over("polls of main")
    assert [(line["event"], line["what"]) for line in lines] == [("works again", "delivery")]
    assert set(unexpected.reasons) == {"reports"}
    assert unexpected.counts["delivery"] == 1, "what was counted stays counted"


def test_work_that_fails_every_other_time_does_not_fill_the_log(clock: FakeClock) -> None:
    unexpected = Unexpected(clock)
    with capture_logs() as lines:
        for _ in range(100):
            unexpected.note("delivery", raised("here"))
            unexpected.over("delivery")
            clock.advance(s=1)
    assert [line["event"] for line in lines] == ["unexpected error", "works again"]
