"""The gate before Hivel: when it shuts, when a probe may go, and what opens it."""

from __future__ import annotations

import itertools
import random

import pytest

from agent.delivery.answers import Backoff, Judgement, Verdict
from agent.delivery.breaker import Gate, GateState
from agent.model.times import Clock
from agent.outbox.sqlite.store import DeliveryState

START = 1769817600000
DELIVERED = Judgement(Verdict.DELIVERED)
FAILED = Judgement(Verdict.FAILED, "HTTP 400: wrong")
REFUSED = Judgement(Verdict.RETRY, "connection refused")
BUSY = Judgement(Verdict.RETRY, "HTTP 429: slow down", retry_after_ms=60_000)
UNAUTHORIZED = Judgement(Verdict.PAUSED, "HTTP 401: who are you")


class FakeClock(Clock):
    """Stands still until it is told; the wall clock can be set apart from the other one."""

    def __init__(self) -> None:
        self.wall_ms = START
        self.seconds = 100.0

    def now_ms(self) -> int:
        return self.wall_ms

    def monotonic(self) -> float:
        return self.seconds

    def pass_time(self, seconds: float) -> None:
        self.seconds += seconds
        self.wall_ms += round(seconds * 1000)


class Longest(random.Random):
    """No jitter: the longest delay there can be."""

    def uniform(self, a: float, b: float) -> float:
        return b


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def gate(clock: FakeClock) -> Gate:
    return Gate(Backoff(initial_ms=5_000, max_ms=40_000), clock, Longest())


def shut_by_outage(gate: Gate) -> None:
    for row in (1, 2, 3):
        gate.record(row, REFUSED)


def wait_for_probe(gate: Gate, clock: FakeClock) -> float:
    """Let time pass until a probe may go; the seconds that it took."""
    seconds = 0.0
    while not gate.may_probe():
        clock.pass_time(0.5)
        seconds += 0.5
    return seconds


def test_a_new_gate_is_open(gate: Gate) -> None:
    assert gate.snapshot() == DeliveryState("open", START, None, None)


@pytest.mark.parametrize("judgement", [DELIVERED, FAILED])
def test_an_answer_that_hivel_read_the_event_leaves_the_gate_open(gate: Gate, judgement: Judgement) -> None:
    assert gate.record(1, judgement) is False
    assert gate.snapshot() == DeliveryState("open", START, None, None)


def test_three_different_events_without_a_success_are_an_outage(gate: Gate, clock: FakeClock) -> None:
    clock.pass_time(1)
    assert [gate.record(row, REFUSED) for row in (1, 2)] == [False, False]
    assert gate.state is GateState.OPEN
    assert gate.record(3, REFUSED) is True
    assert gate.snapshot() == DeliveryState("outage", START + 1000, "connection refused", START + 1000 + 5_000)


def test_one_event_alone_is_no_outage_however_often_it_fails(gate: Gate) -> None:
    assert not any(gate.record(1, REFUSED) for _ in range(20))
    assert gate.state is GateState.OPEN


@pytest.mark.parametrize("judgement", [DELIVERED, FAILED])
def test_a_success_in_between_starts_the_count_again(gate: Gate, judgement: Judgement) -> None:
    for row, outcome in enumerate([REFUSED, REFUSED, judgement, REFUSED, REFUSED]):
        gate.record(row, outcome)
    assert gate.state is GateState.OPEN
    gate.record(9, REFUSED)
    assert gate.state is GateState.OUTAGE


def test_retry_after_shuts_the_gate_at_once_for_as_long_as_it_says_within_limits(gate: Gate, clock: FakeClock) -> None:
    assert gate.record(1, BUSY) is True
    assert gate.snapshot() == DeliveryState("outage", START, "HTTP 429: slow down", START + 40_000)
    assert wait_for_probe(gate, clock) == 40


def test_a_wrong_configuration_pauses_at_once(gate: Gate) -> None:
    assert gate.record(1, UNAUTHORIZED) is True
    assert gate.snapshot() == DeliveryState("paused", START, "HTTP 401: who are you", START + 5_000)


@pytest.mark.parametrize("judgement", [REFUSED, UNAUTHORIZED])
def test_probes_that_fail_come_ever_more_seldom_up_to_the_longest_backoff(
    gate: Gate, clock: FakeClock, judgement: Judgement
) -> None:
    rows = itertools.count(1)
    while gate.state is GateState.OPEN:
        gate.record(next(rows), judgement)
    waits = []
    for _ in range(6):
        assert not gate.may_probe()
        waits.append(wait_for_probe(gate, clock))
        assert gate.record(1, judgement) is True
    assert waits == [5, 10, 20, 40, 40, 40]


def test_the_state_keeps_its_beginning_while_probes_fail(gate: Gate, clock: FakeClock) -> None:
    shut_by_outage(gate)
    wait_for_probe(gate, clock)
    gate.record(1, Judgement(Verdict.RETRY, "HTTP 503: (empty)"))
    assert gate.snapshot() == DeliveryState("outage", START, "HTTP 503: (empty)", START + 5_000 + 10_000)


@pytest.mark.parametrize("shut", [REFUSED, BUSY, UNAUTHORIZED])
@pytest.mark.parametrize("judgement", [DELIVERED, FAILED])
def test_a_probe_that_hivel_read_opens_the_gate(
    gate: Gate, clock: FakeClock, shut: Judgement, judgement: Judgement
) -> None:
    for row in (1, 2, 3):
        gate.record(row, shut)
    wait_for_probe(gate, clock)
    now = clock.now_ms()
    assert gate.record(1, judgement) is True
    assert gate.snapshot() == DeliveryState("open", now, None, None)


def test_after_an_outage_it_takes_three_events_again_and_the_backoff_begins_anew(gate: Gate, clock: FakeClock) -> None:
    shut_by_outage(gate)
    for _ in range(3):
        wait_for_probe(gate, clock)
        gate.record(1, REFUSED)
    gate.record(1, DELIVERED)
    assert [gate.record(row, REFUSED) for row in (1, 2, 3)] == [False, False, True]
    assert wait_for_probe(gate, clock) == 5


def test_a_pause_that_becomes_an_outage_is_another_state(gate: Gate, clock: FakeClock) -> None:
    gate.record(1, UNAUTHORIZED)
    wait_for_probe(gate, clock)
    assert gate.record(1, REFUSED) is True
    assert gate.snapshot() == DeliveryState("outage", START + 5_000, "connection refused", START + 15_000)


def test_probes_that_fail_now_in_one_way_and_now_in_another_come_less_and_less_often(
    gate: Gate, clock: FakeClock
) -> None:
    waits = []
    for judgement in [UNAUTHORIZED, REFUSED, UNAUTHORIZED, REFUSED, UNAUTHORIZED]:
        gate.record(1, judgement)
        waits.append(wait_for_probe(gate, clock))
    assert waits == [5, 10, 20, 40, 40]


@pytest.mark.parametrize("jump_ms", [-86_400_000, 86_400_000])
def test_a_wall_clock_that_jumps_moves_no_probe(gate: Gate, clock: FakeClock, jump_ms: int) -> None:
    shut_by_outage(gate)
    clock.wall_ms += jump_ms
    assert not gate.may_probe()
    assert wait_for_probe(gate, clock) == 5


@pytest.mark.parametrize("judgements", [[REFUSED], [UNAUTHORIZED], [UNAUTHORIZED, REFUSED]])
def test_events_that_were_in_flight_when_the_gate_shut_are_no_probes(
    gate: Gate, clock: FakeClock, judgements: list[Judgement]
) -> None:
    for row, judgement in zip(range(8), itertools.cycle(judgements), strict=False):  # as many as are sent at once
        gate.record(row, judgement)
    assert wait_for_probe(gate, clock) == 5
