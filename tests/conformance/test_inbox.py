"""Reports wait in the inbox until they are taken; what nobody expected is set aside for people to see."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from agent.outbox.values import SetAside, StoredReport
from tests.integration.support import NOON

if TYPE_CHECKING:
    from agent.outbox.interface import Outbox
    from tests.engines import Engine
    from tests.integration.support import FakeClock


def test_reports_come_out_as_they_went_in_the_oldest_first(engine: Engine, outbox: Outbox, clock: FakeClock) -> None:
    for body in ('{"a":1}', "no json", "ä\n☃"):
        outbox.add_report(body)
        clock.advance(ms=5)
    with closing(engine.open()) as other:
        found = other.reports(2)
        assert [(report.received_at, report.body) for report in found] == [(NOON, '{"a":1}'), (NOON + 5, "no json")]
        assert [report.body for report in other.reports(9)] == ['{"a":1}', "no json", "ä\n☃"]


def test_a_report_is_removed_once_it_was_taken(outbox: Outbox) -> None:
    outbox.add_report("1")
    outbox.add_report("2")
    first, second = outbox.reports(9)
    outbox.remove_report(first)
    assert outbox.reports(9) == [second]
    outbox.remove_report(first)
    assert outbox.reports(9) == [second]


def test_a_report_that_came_later_is_never_removed_for_an_older_one(outbox: Outbox, clock: FakeClock) -> None:
    """Though it may have the number of that one."""
    outbox.add_report("first")
    [first] = outbox.reports(9)
    outbox.remove_report(first)
    clock.advance(ms=1)
    outbox.add_report("second")
    outbox.remove_report(first)
    assert [report.body for report in outbox.reports(9)] == ["second"]
    outbox.remove_report(StoredReport(outbox.reports(1)[0].id, first.received_at, "second"))
    assert len(outbox.reports(9)) == 1


def aside(subject: str, at: int, kind: str = "run", body: str | None = None) -> SetAside:
    return SetAside(at, kind, subject, f"KeyError: {at}", body)


def test_what_was_set_aside_is_shown_the_newest_first(outbox: Outbox) -> None:
    things = [aside("a", NOON), aside("b", NOON + 9, "report", "{}"), aside("c", NOON + 5)]
    for each in things:
        outbox.set_aside(each)
    found = outbox.things_set_aside(9)
    assert [replace(each, id=0) for each in found] == [things[1], things[2], things[0]]
    assert len({each.id for each in found}) == 3
    assert outbox.things_set_aside(1) == found[:1]


def test_the_same_subject_is_set_aside_once(outbox: Outbox) -> None:
    for at in (NOON, NOON + 5):
        outbox.set_aside(aside("a", at))
        outbox.set_aside(aside("b", NOON))
        outbox.set_aside(aside("a", NOON, "report"))
    found = [(each.kind, each.subject, each.at) for each in outbox.things_set_aside(9)]
    assert sorted(found) == [("report", "a", NOON), ("run", "a", NOON + 5), ("run", "b", NOON)]


@pytest.mark.parametrize("text", ["\ud800", "a\0b", "x" * 100_000], ids=["half a character", "NUL", "long"])
def test_whatever_made_trouble_can_be_set_aside(outbox: Outbox, text: str) -> None:
    outbox.set_aside(SetAside(NOON, "report", f"report {text}", f"error {text}", text))
    outbox.set_aside(SetAside(NOON, "report", f"report {text}", f"error {text}", text))
    assert len(outbox.things_set_aside(9)) == 1
