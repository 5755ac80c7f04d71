"""The circuit breaker before Hivel: when it trips, when a probe may go, and what opens it."""

from __future__ import annotations

import itertools
import random

import pytest

from agent.delivery.answers import Outcome, Verdict
from agent.delivery.breaker import BreakerState, CircuitBreaker
from agent.delivery.retry import Backoff
from agent.model.times import Clock
from agent.outbox.values import DeliveryState
from tests.unit.deliveries import claimed

START = 1769817600000
DELIVERED = Outcome(Verdict.DELIVERED)
FAILED = Outcome(Verdict.FAILED, "HTTP 400: wrong")
REFUSED = Outcome(Verdict.RETRY, "connection refused")
BUSY = Outcome(Verdict.RETRY, "HTTP 429: slow down", retry_after_ms=60_000)
UNAUTHORIZED = Outcome(Verdict.PAUSED, "HTTP 401: who are you")


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
def breaker(clock: FakeClock) -> CircuitBreaker:
    return CircuitBreaker(Backoff(initial_ms=5_000, max_ms=40_000), clock, Longest())


def moved(breaker: CircuitBreaker, number: int, outcome: Outcome) -> bool:
    """Record an outcome; whether there is something new to tell."""
    before = breaker.snapshot()
    breaker.record(claimed(number), outcome)
    return breaker.snapshot() != before


def trip(breaker: CircuitBreaker) -> None:
    for row in (1, 2, 3):
        breaker.record(claimed(row), REFUSED)


def wait_for_probe(breaker: CircuitBreaker, clock: FakeClock) -> float:
    """Let time pass until a probe may go; the seconds that it took."""
    seconds = 0.0
    while not breaker.may_probe():
        clock.pass_time(0.5)
        seconds += 0.5
    return seconds


def test_a_new_breaker_is_open(breaker: CircuitBreaker) -> None:
    assert breaker.snapshot() == DeliveryState("open", START, None, None)


@pytest.mark.parametrize("outcome", [DELIVERED, FAILED])
def test_an_answer_that_hivel_read_the_event_leaves_the_breaker_open(breaker: CircuitBreaker, outcome: Outcome) -> None:
    assert not moved(breaker, 1, outcome)
    assert breaker.snapshot() == DeliveryState("open", START, None, None)


def test_three_different_events_without_a_success_are_an_outage(breaker: CircuitBreaker, clock: FakeClock) -> None:
    clock.pass_time(1)
    assert [moved(breaker, row, REFUSED) for row in (1, 2)] == [False, False]
    assert breaker.state is BreakerState.OPEN
    assert moved(breaker, 3, REFUSED)
    assert breaker.snapshot() == DeliveryState("outage", START + 1000, "connection refused", START + 1000 + 5_000)


def test_one_event_alone_is_no_outage_however_often_it_fails(breaker: CircuitBreaker) -> None:
    assert not any(moved(breaker, 1, REFUSED) for _ in range(20))
    assert breaker.state is BreakerState.OPEN


@pytest.mark.parametrize("outcome", [DELIVERED, FAILED])
def test_a_success_in_between_starts_the_count_again(breaker: CircuitBreaker, outcome: Outcome) -> None:
    for row, one in enumerate([REFUSED, REFUSED, outcome, REFUSED, REFUSED]):
        breaker.record(claimed(row), one)
    assert breaker.state is BreakerState.OPEN
    breaker.record(claimed(9), REFUSED)
    assert breaker.state is BreakerState.OUTAGE


def test_retry_after_trips_the_breaker_at_once_for_as_long_as_it_says_within_limits(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    assert moved(breaker, 1, BUSY)
    assert breaker.snapshot() == DeliveryState("outage", START, "HTTP 429: slow down", START + 40_000)
    assert wait_for_probe(breaker, clock) == 40


def test_a_wrong_configuration_pauses_at_once(breaker: CircuitBreaker) -> None:
    assert moved(breaker, 1, UNAUTHORIZED)
    assert breaker.snapshot() == DeliveryState("paused", START, "HTTP 401: who are you", START + 5_000)


@pytest.mark.parametrize("outcome", [REFUSED, UNAUTHORIZED])
def test_probes_that_fail_come_ever_more_seldom_up_to_the_longest_backoff(
    breaker: CircuitBreaker, clock: FakeClock, outcome: Outcome
) -> None:
    rows = itertools.count(1)
    while breaker.state is BreakerState.OPEN:
        breaker.record(claimed(next(rows)), outcome)
    waits = []
    for _ in range(6):
        assert not breaker.may_probe()
        waits.append(wait_for_probe(breaker, clock))
        assert moved(breaker, 1, outcome)
    assert waits == [5, 10, 20, 40, 40, 40]


def test_the_state_keeps_its_beginning_while_probes_fail(breaker: CircuitBreaker, clock: FakeClock) -> None:
    trip(breaker)
    wait_for_probe(breaker, clock)
    breaker.record(claimed(1), Outcome(Verdict.RETRY, "HTTP 503: (empty)"))
    assert breaker.snapshot() == DeliveryState("outage", START, "HTTP 503: (empty)", START + 5_000 + 10_000)


@pytest.mark.parametrize("shut", [REFUSED, BUSY, UNAUTHORIZED])
@pytest.mark.parametrize("outcome", [DELIVERED, FAILED])
def test_a_probe_that_hivel_read_opens_the_breaker(
    breaker: CircuitBreaker, clock: FakeClock, shut: Outcome, outcome: Outcome
) -> None:
    for row in (1, 2, 3):
        breaker.record(claimed(row), shut)
    wait_for_probe(breaker, clock)
    now = clock.now_ms()
    assert moved(breaker, 1, outcome)
    assert breaker.snapshot() == DeliveryState("open", now, None, None)


def test_after_an_outage_it_takes_three_events_again_and_the_backoff_begins_anew(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    trip(breaker)
    for _ in range(3):
        wait_for_probe(breaker, clock)
        breaker.record(claimed(1), REFUSED)
    breaker.record(claimed(1), DELIVERED)
    assert [moved(breaker, row, REFUSED) for row in (1, 2, 3)] == [False, False, True]
    assert wait_for_probe(breaker, clock) == 5


def test_a_pause_that_becomes_an_outage_is_another_state(breaker: CircuitBreaker, clock: FakeClock) -> None:
    breaker.record(claimed(1), UNAUTHORIZED)
    wait_for_probe(breaker, clock)
    assert moved(breaker, 1, REFUSED)
    assert breaker.snapshot() == DeliveryState("outage", START + 5_000, "connection refused", START + 15_000)


def test_probes_that_fail_now_in_one_way_and_now_in_another_come_less_and_less_often(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    waits = []
    for outcome in [UNAUTHORIZED, REFUSED, UNAUTHORIZED, REFUSED, UNAUTHORIZED]:
        breaker.record(claimed(1), outcome)
        waits.append(wait_for_probe(breaker, clock))
    assert waits == [5, 10, 20, 40, 40]


@pytest.mark.parametrize("jump_ms", [-86_400_000, 86_400_000])
def test_a_wall_clock_that_jumps_moves_no_probe(breaker: CircuitBreaker, clock: FakeClock, jump_ms: int) -> None:
    trip(breaker)
    clock.wall_ms += jump_ms
    assert not breaker.may_probe()
    assert wait_for_probe(breaker, clock) == 5


@pytest.mark.parametrize("outcomes", [[REFUSED], [UNAUTHORIZED], [UNAUTHORIZED, REFUSED]])
def test_events_that_were_in_flight_when_the_breaker_tripped_are_no_probes(
    breaker: CircuitBreaker, clock: FakeClock, outcomes: list[Outcome]
) -> None:
    for row, outcome in zip(range(8), itertools.cycle(outcomes), strict=False):  # as many as are sent at once
        breaker.record(claimed(row), outcome)
    assert wait_for_probe(breaker, clock) == 5


@pytest.mark.parametrize("state", ["outage", "paused"])
def test_what_an_earlier_process_tripped_stays_so_and_may_be_probed_at_once(
    breaker: CircuitBreaker, clock: FakeClock, state: str
) -> None:
    breaker.resume(DeliveryState(state, START - 60_000, "HTTP 503: (empty)", START + 900_000))
    assert breaker.snapshot() == DeliveryState(state, START - 60_000, "HTTP 503: (empty)", None)
    assert breaker.may_probe()
    breaker.record(claimed(1), DELIVERED)
    assert breaker.state is BreakerState.OPEN


def test_a_deployment_that_failed_often_says_nothing_about_hivel(breaker: CircuitBreaker) -> None:
    for row in range(10):
        breaker.record(claimed(row, attempts=2), REFUSED)
    assert breaker.state is BreakerState.OPEN
