"""When notifications are due: a state machine without I/O, held against its promises over random conditions."""

from __future__ import annotations

import itertools
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.settings import NotifySettings
from agent.notify.conditions import Condition, Kind
from agent.notify.memory import Memory, Phase, due, observe, sent

NOON = 1_795_435_200_000
MINUTE = 60_000
AFTER, REPEAT = 15 * MINUTE, 60 * MINUTE
SETTINGS = NotifySettings(command=("/bin/true",), after_ms=AFTER, repeat_ms=REPEAT)
NEVER_AGAIN = NotifySettings(command=("/bin/true",), after_ms=AFTER, repeat_ms=0)


def down(name: str = "main", since: int = NOON) -> Condition:
    return Condition(kind=Kind.CONTROLLER_DOWN, controller=name, problem=f"{name} is down", since=since)


def failed(count: int = 1) -> Condition:
    return Condition(kind=Kind.EVENTS_FAILED, problem="failed", since=NOON, count=count)


def missed(total: int, since: int = NOON) -> Condition:
    return Condition(kind=Kind.BUILDS_MISSED, controller="main", problem="missed", since=since, count=total, mark=total)


class Told:
    """Plays conditions minute by minute; ``works`` says whether notifications are accepted."""

    def __init__(self, settings: NotifySettings = SETTINGS) -> None:
        self.settings, self.memory, self.now, self.works = settings, Memory(), NOON, True
        self.told: list[tuple[int, Phase, str, int]] = []

    def minutes(self, number: int, *conditions: Condition, complete: bool = True) -> list[tuple[Phase, str, int]]:
        before = len(self.told)
        for _ in range(number):
            self.memory = observe(self.memory, conditions, self.now, self.settings, complete=complete)
            for each in due(self.memory, self.now, self.settings) if self.works else ():
                self.told.append((self.now, each.phase, each.key, each.condition.count))
                self.memory = sent(self.memory, each, self.now)
            self.now += MINUTE
        return [(phase, key.partition("/")[0], count) for _, phase, key, count in self.told[before:]]


def test_a_controller_that_is_down_is_reported_after_a_while_once_and_again_when_it_is_back() -> None:
    told = Told(NEVER_AGAIN)
    assert told.minutes(15, down()) == []
    assert told.minutes(500, down()) == [(Phase.FIRING, "controller_down", 1)]
    assert told.minutes(15) == []
    assert told.minutes(500) == [(Phase.RESOLVED, "controller_down", 1)]
    assert told.memory.episodes == {}


def test_a_short_trouble_is_not_worth_a_notification() -> None:
    told = Told()
    assert [told.minutes(10, down()), told.minutes(60)] == [[], []]


def test_it_is_repeated_after_the_pause() -> None:
    told = Told()
    told.minutes(15 + 180, down())
    times = [(at - NOON) // MINUTE for at, *_ in told.told]
    assert times == [15, 75, 135]


def test_failed_events_are_reported_at_once_and_a_short_absence_is_not_their_end() -> None:
    told = Told(NEVER_AGAIN)
    assert told.minutes(1, failed(3)) == [(Phase.FIRING, "events_failed", 3)]
    for _ in range(20):
        assert told.minutes(5) + told.minutes(5, failed(1)) == []
    assert told.minutes(20) == [(Phase.RESOLVED, "events_failed", 1)]


def test_what_nobody_accepted_is_due_until_somebody_does_and_is_reported_as_over_when_it_is() -> None:
    told = Told()
    told.works = False
    told.minutes(30, down())
    told.works = True
    assert told.minutes(1, down()) == [(Phase.FIRING, "controller_down", 1)]
    told.works = False
    told.minutes(100)
    told.works = True
    assert told.minutes(1) == [(Phase.RESOLVED, "controller_down", 1)]


def test_a_condition_that_came_and_went_while_nothing_was_accepted_is_reported_when_it_is_over() -> None:
    told = Told()
    told.works = False
    told.minutes(30, down())
    told.minutes(30)
    told.works = True
    assert told.minutes(100) == [(Phase.RESOLVED, "controller_down", 1)]


def test_missed_builds_are_a_notice_of_the_new_ones_which_is_not_repeated_and_has_no_end() -> None:
    told = Told()
    told.minutes(1)
    assert told.minutes(300, missed(2)) == [(Phase.NOTICE, "builds_missed", 2)]
    assert told.minutes(300, missed(5)) == [(Phase.NOTICE, "builds_missed", 3)]
    assert told.minutes(300) == []


def test_many_misses_are_reported_together() -> None:
    told = Told()
    told.minutes(1)
    counts = [notice[2] for total in range(1, 61) for notice in told.minutes(1, missed(total))]
    assert len(counts) == 4
    assert sum(counts) + sum(each[2] for each in told.minutes(20, missed(60))) == 60


def test_a_first_start_does_not_report_what_was_missed_long_ago() -> None:
    told = Told()
    assert told.minutes(100, missed(7, since=NOON - 2 * 86_400_000)) == []
    assert told.minutes(100, missed(8)) == [(Phase.NOTICE, "builds_missed", 1)]


def test_a_replaced_outbox_is_a_notice_each_time() -> None:
    told = Told()
    told.minutes(1)
    repair = Condition(kind=Kind.OUTBOX_REPLACED, problem="damaged", since=NOON, count=41, mark=NOON)
    again = msgspec.structs.replace(repair, count=7, mark=NOON + 1)
    assert told.minutes(100, repair) == [(Phase.NOTICE, "outbox_replaced", 41)]
    assert told.minutes(100, again) == [(Phase.NOTICE, "outbox_replaced", 7)]


def test_what_is_unknown_is_not_over() -> None:
    told = Told(NEVER_AGAIN)
    told.minutes(20, down(), failed())
    assert told.minutes(100, complete=False) == []
    assert told.minutes(20, down()) == [(Phase.RESOLVED, "events_failed", 1)]


@pytest.mark.parametrize("by", [-86_400_000 * 365, -REPEAT])
def test_a_clock_that_was_set_back_stops_no_repeats(by: int) -> None:
    told = Told()
    told.minutes(16, down())
    told.now += by
    assert told.minutes(62, down()) == [(Phase.FIRING, "controller_down", 1)]


CONDITIONS = [down("a"), down("b"), failed(), Condition(kind=Kind.DELIVERY_PAUSED, problem="paused", since=NOON)]
STEPS = st.lists(
    st.tuples(
        st.integers(1, 40),
        st.sets(st.sampled_from(range(len(CONDITIONS)))),
        st.booleans(),  # notifications are accepted
        st.booleans(),  # the agent is restarted afterwards
    ),
    max_size=40,
)


@given(STEPS, st.booleans())
def test_whatever_flaps_and_fails_every_condition_is_told_once_and_resolved_once_at_a_bounded_rate(
    steps: list[tuple[int, set[int], bool, bool]], repeats: bool
) -> None:
    told = Told(SETTINGS if repeats else NEVER_AGAIN)
    for minutes, which, works, restart in steps:
        told.works = works
        told.minutes(minutes, *(CONDITIONS[each] for each in which))
        if restart:
            told.memory = msgspec.json.decode(msgspec.json.encode(told.memory), type=Memory)
    told.works = True
    last = steps[-1][1] if steps else set()
    told.minutes(40, *(CONDITIONS[each] for each in last))
    for number, condition in enumerate(CONDITIONS):
        mine = [(at, phase) for at, phase, key, _ in told.told if key == condition.key]
        # Its end is reported only after its time, and what is reported in the end is the truth.
        assert [phase for _, phase in mine[-1:]] in ([Phase.FIRING], [Phase.RESOLVED], [])
        assert (bool(mine) and mine[-1][1] is Phase.FIRING) == (number in last)
        for (first, before), (second, after) in itertools.pairwise(mine):
            if before is after is Phase.FIRING:
                assert repeats and second - first >= REPEAT
            if after is Phase.RESOLVED and before is Phase.FIRING:
                assert second - first >= AFTER
        resolved = [at for at, phase in mine if phase is Phase.RESOLVED]
        assert all(second - first >= AFTER for first, second in itertools.pairwise(resolved))
    assert all(count <= 2 for count in Counter((at, key) for at, _, key, _ in told.told).values())
