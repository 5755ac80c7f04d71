"""What goes on being wrong is said when it begins, once an hour, and when it is over."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from agent.model.trouble import Trouble
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
