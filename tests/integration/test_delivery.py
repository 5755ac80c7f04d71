"""The drain against a local Hivel over real connections: what arrives, what waits, what a person has to mend."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from agent.config.credentials import Token
from agent.config.settings import HivelSettings
from agent.delivery import dispatcher as draining
from agent.delivery.dispatcher import Drain
from agent.delivery.hivel import HivelClient
from agent.model.status import Status
from agent.outbox.sqlite.store import State
from agent.sandbox.hivel import Fault
from tests.integration.support import NOON
from tests.integration.test_outbox import entry

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from agent.config.settings import DeliverySettings
    from agent.delivery.breaker import Gate
    from agent.outbox.sqlite.store import Outbox
    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.server import LocalServer
    from tests.integration.support import FakeClock


class Delivery:
    """A daemon's delivery whose passes the test calls itself."""

    def __init__(self, outbox: Outbox, hivel: HivelSettings, settings: DeliverySettings) -> None:
        self._hivel, self._settings = hivel, settings
        self.outbox = outbox
        self._drain: Drain | None = None

    @property
    def drain(self) -> Drain:
        assert self._drain is not None
        return self._drain

    def passes(self, count: int = 1) -> Gate:
        """Run the drain, each time with connections of its own; the gate lives on between passes."""

        async def run() -> Gate:
            async with HivelClient(
                self._hivel, timeout_ms=self._settings.timeout_ms, concurrency=self._settings.concurrency
            ) as client:
                if self._drain is None:
                    self._drain = Drain(self.outbox, client, self._settings, random.Random(1))
                self._drain._sender = client
                for _ in range(count):
                    await self._drain.run()
                return self._drain.gate

        return asyncio.run(run())


@pytest.fixture
def delivery(outbox: Outbox, hivel_settings: HivelSettings, delivery_settings: DeliverySettings) -> Delivery:
    return Delivery(outbox, hivel_settings, delivery_settings)


def states(outbox: Outbox) -> dict[str, int]:
    counts = outbox.counts()
    return {state.value: n for state in State if (n := getattr(counts, state.value))}


def test_everything_due_is_delivered_once(outbox: Outbox, hivel: LocalHivel, delivery: Delivery) -> None:
    outbox.enqueue(entry(number) for number in range(500))
    delivery.passes(2)
    assert states(outbox) == {"delivered": 500}
    assert {d.times_posted for d in hivel.deployments()} == {1}
    assert len(hivel.requests()) == 500


def test_one_poisoned_event_does_not_hold_others_back(
    outbox: Outbox, hivel: LocalHivel, delivery: Delivery, clock: FakeClock
) -> None:
    hivel.fault(Fault(kind="status", status=500, match="#3"))
    outbox.enqueue(entry(number) for number in range(1, 9))
    for number in range(10, 15):
        assert delivery.passes().state == "open"
        clock.advance(s=60)
        outbox.enqueue([entry(number)])
    delivery.passes()
    assert states(outbox) == {"pending": 1, "delivered": 12}


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="status", status=503),
        Fault(kind="status", status=429),
        Fault(kind="status", status=408),
        Fault(kind="reset"),
        Fault(kind="reset", stored=True),
        Fault(kind="cut"),
        Fault(kind="status", status=200, body="{}"),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status or ''} {'stored' if fault.stored else ''}",
)
def test_an_outage_loses_nothing_and_doubles_nothing(
    outbox: Outbox, hivel: LocalHivel, delivery: Delivery, clock: FakeClock, fault: Fault
) -> None:
    hivel.fault(fault)
    outbox.enqueue(entry(number) for number in range(50))
    gate = delivery.passes(5)
    assert gate.state == "outage"
    tried = len(hivel.requests())
    assert tried <= 3 + 4  # what shut the gate, and what was in flight
    assert states(outbox) == {"pending": 50}
    hivel.clear_faults()
    clock.advance(s=900)
    assert delivery.passes().state == "open"
    assert states(outbox) == {"delivered": 50}
    assert len(hivel.deployments()) == 50


def test_a_timeout_after_hivel_stored_the_event_is_settled_by_the_next_attempt(
    outbox: Outbox, hivel: LocalHivel, hivel_settings: HivelSettings, delivery_settings: DeliverySettings,
    clock: FakeClock,
) -> None:  # fmt: skip
    delivery = Delivery(outbox, hivel_settings, replace(delivery_settings, timeout_ms=300))
    hivel.fault(Fault(kind="silent", stored=True, times=1))
    outbox.enqueue([entry(1)])
    delivery.passes()
    assert states(outbox) == {"pending": 1}
    clock.advance(s=900)
    delivery.passes()
    assert states(outbox) == {"delivered": 1}
    assert [d.times_posted for d in hivel.deployments()] == [2]


def test_an_event_that_is_already_there_counts_as_delivered(
    outbox: Outbox, hivel: LocalHivel, delivery: Delivery
) -> None:
    hivel.fault(Fault(kind="status", status=409, stored=True, times=1))
    hivel.fault(Fault(kind="status", status=422, body={"error": "deployment_id already exists"}, times=1))
    outbox.enqueue([entry(1), entry(2)])
    delivery.passes()
    assert states(outbox) == {"delivered": 2}
    assert all("was already there" in (row.reason or "") for row in outbox.rows(None, 10))


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_event_that_hivel_refuses_is_failed_and_others_go_on(
    outbox: Outbox, hivel: LocalHivel, delivery: Delivery, status: int
) -> None:
    body = {"message": "Validation failed", "error": "branch must not be main"}
    hivel.fault(Fault(kind="status", status=status, body=body, match="#2"))
    outbox.enqueue(entry(number) for number in range(1, 4))
    delivery.passes()
    assert states(outbox) == {"delivered": 2, "failed": 1}
    [failed] = outbox.rows(State.FAILED, 10)
    assert failed.reason == f"HTTP {status}: Validation failed: branch must not be main"
    assert failed.source is not None


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        (Fault(kind="status", status=401), "token_file"),
        (Fault(kind="status", status=403), "token_file"),
        (Fault(kind="status", status=404), "app.hivel.ai"),
        (Fault(kind="redirect", location="https://login.example.test/"), "https://login.example.test/"),
        (Fault(kind="html"), "login page"),
    ],
    ids=["401", "403", "404", "redirect", "login page"],
)
def test_a_wrong_configuration_pauses_everything_and_burns_no_attempt(
    outbox: Outbox, hivel: LocalHivel, delivery: Delivery, clock: FakeClock, fault: Fault, advice: str
) -> None:
    hivel.fault(fault)
    outbox.enqueue(entry(number) for number in range(20))
    assert delivery.passes().state == "paused"
    asked = len(hivel.requests())
    assert asked <= 4
    clock.advance(s=900)
    assert delivery.passes().state == "paused"
    assert len(hivel.requests()) == asked + 1
    assert {row.attempts for row in outbox.rows(None, 100)} == {0}
    state = outbox.delivery_state()
    assert state is not None and state.state == "paused" and advice in (state.reason or "")
    hivel.clear_faults()
    clock.advance(s=900)
    assert delivery.passes().state == "open"
    assert states(outbox) == {"delivered": 20}


def test_a_new_token_in_the_file_is_taken_up_without_a_restart(
    outbox: Outbox, hivel: LocalHivel, hivel_server: LocalServer, delivery_settings: DeliverySettings,
    clock: FakeClock, tmp_path: Path,
) -> None:  # fmt: skip
    file = tmp_path / "token"
    file.write_text("old-token\n")
    delivery = Delivery(outbox, HivelSettings(hivel_server.url, Token.from_file(file)), delivery_settings)
    outbox.enqueue([entry(1)])
    assert delivery.passes().state == "paused"
    file.write_text("sandbox-token\n")
    clock.advance(s=900)
    assert delivery.passes().state == "open"
    assert states(outbox) == {"delivered": 1}


def test_retry_after_is_obeyed_but_never_beyond_the_longest_backoff(
    outbox: Outbox, hivel: LocalHivel, delivery: Delivery, clock: FakeClock
) -> None:
    outbox.enqueue([entry(1)])
    hivel.fault(Fault(kind="status", status=429, retry_after=120, times=1))
    delivery.passes()
    clock.advance(s=119)
    delivery.passes()
    assert len(hivel.requests()) == 1
    clock.advance(s=1)
    hivel.fault(Fault(kind="status", status=503, retry_after=7 * 86_400, times=1))
    delivery.passes()
    assert len(hivel.requests()) == 2
    clock.advance(s=900)
    delivery.passes()
    assert states(outbox) == {"delivered": 1}


def test_after_an_outage_one_probe_goes_first(
    outbox: Outbox, hivel: LocalHivel, delivery: Delivery, clock: FakeClock
) -> None:
    hivel.fault(Fault(kind="status", status=503))
    outbox.enqueue(entry(number) for number in range(30))
    delivery.passes()
    for _ in range(4):
        before = len(hivel.requests())
        clock.advance(s=900)
        delivery.passes()
        assert len(hivel.requests()) == before + 1


def test_hivel_being_down_is_an_outage_and_its_return_is_noticed(
    outbox: Outbox, hivel: LocalHivel, hivel_server: LocalServer, delivery: Delivery, clock: FakeClock
) -> None:
    hivel_server.stop()
    outbox.enqueue(entry(number) for number in range(10))
    gate = delivery.passes()
    assert (gate.state, "cannot connect" in (gate.reason or "")) == ("outage", True)
    hivel_server.start()
    clock.advance(s=900)
    delivery.passes()
    assert states(outbox) == {"delivered": 10}


def test_a_clock_that_jumps_back_for_years_makes_nobody_wait(
    outbox: Outbox, hivel: LocalHivel, delivery: Delivery, clock: FakeClock
) -> None:
    outbox.enqueue([entry(1)])
    clock.jump(ms=-5 * 365 * 86_400_000)
    delivery.passes()
    assert states(outbox) == {"delivered": 1}


def test_the_spelling_of_canceled_is_applied_when_sending(
    outbox: Outbox, hivel: LocalHivel, hivel_settings: HivelSettings, delivery_settings: DeliverySettings
) -> None:
    from msgspec.structs import replace as with_fields

    for number, spelling in ((1, "canceled"), (2, "cancelled")):
        template = entry(number)
        assert template.event is not None
        outbox.enqueue([replace(template, event=with_fields(template.event, status=Status.CANCELED))])
        settings = replace(delivery_settings, canceled_spelling=spelling)
        Delivery(outbox, hivel_settings, settings).passes()
    assert ['"status":"canceled"' in d.raw for d in hivel.deployments()] == [True, False]
    assert ['"status":"cancelled"' in d.raw for d in hivel.deployments()] == [False, True]


def test_delivery_goes_on_while_outcomes_cannot_be_stored_and_nothing_is_sent_again(
    outbox: Outbox, hivel: LocalHivel, delivery: Delivery
) -> None:
    outbox.enqueue(entry(number) for number in range(500))
    outbox.connection.execute("PRAGMA query_only = ON")
    delivery.passes(3)
    assert len(hivel.requests()) == 500
    assert "cannot be written" in str(delivery.drain.trouble)
    assert states(outbox) == {"pending": 500}
    outbox.connection.execute("PRAGMA query_only = OFF")
    delivery.passes()
    assert delivery.drain.trouble is None
    assert states(outbox) == {"delivered": 500}
    assert len(hivel.requests()) == 500


def test_no_more_outcomes_are_kept_in_memory_than_there_is_room_for(
    outbox: Outbox, hivel: LocalHivel, delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "UNSETTLED_AT_MOST", 20)
    outbox.enqueue(entry(number) for number in range(100))
    outbox.connection.execute("PRAGMA query_only = ON")
    delivery.passes(3)
    assert 20 <= len(hivel.requests()) <= 20 + 4
    outbox.connection.execute("PRAGMA query_only = OFF")
    delivery.passes(20)
    assert states(outbox) == {"delivered": 100}
    assert len(hivel.requests()) == 100


def test_after_an_outage_the_oldest_event_goes_first(
    outbox: Outbox, hivel: LocalHivel, hivel_settings: HivelSettings, delivery_settings: DeliverySettings,
    clock: FakeClock,
) -> None:  # fmt: skip
    one_at_a_time = Delivery(outbox, hivel_settings, replace(delivery_settings, concurrency=1))
    hivel.fault(Fault(kind="status", status=503))
    outbox.enqueue([entry(1), entry(2), entry(3)])
    one_at_a_time.passes(3)
    for number in range(4, 8):
        clock.advance(s=10)
        outbox.enqueue([entry(number)])
        one_at_a_time.passes()
    hivel.clear_faults()
    while one_at_a_time.passes().state != "open":
        clock.advance(s=60)
    probe, *others = [int(d.event.deployment_id.rpartition("#")[2]) for d in hivel.deployments()]
    assert others == sorted({1, 2, 3, 4, 5, 6, 7} - {probe})


def test_no_more_events_go_out_in_a_minute_than_the_rate_allows(
    outbox: Outbox, hivel: LocalHivel, hivel_settings: HivelSettings, delivery_settings: DeliverySettings,
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    waited = []

    async def wait_for(awaitable: Coroutine[Any, Any, Any], seconds: float) -> None:
        awaitable.close()
        waited.append(seconds)
        clock.advance(s=seconds)

    monkeypatch.setattr(draining.asyncio, "wait_for", wait_for)
    slowly = Delivery(outbox, hivel_settings, replace(delivery_settings, concurrency=1, per_minute=60))
    outbox.enqueue(entry(number) for number in range(10))
    slowly.passes()
    assert states(outbox) == {"delivered": 10}
    assert sum(waited) == pytest.approx(10.0, abs=1.0)


def test_an_event_is_given_up_only_where_the_settings_say_so(
    outbox: Outbox, hivel: LocalHivel, hivel_settings: HivelSettings, delivery_settings: DeliverySettings,
    clock: FakeClock,
) -> None:  # fmt: skip
    hivel.fault(Fault(kind="status", status=500, match="#1"))
    outbox.enqueue([entry(1)])
    for settings, reason in [
        (delivery_settings, None),
        (replace(delivery_settings, max_attempts=40), "times, [delivery] max_attempts; at last HTTP 500"),
        (replace(delivery_settings, max_age_ms=3_600_000), "longer than [delivery] max_age; at last HTTP 500"),
    ]:
        delivery = Delivery(outbox, hivel_settings, settings)
        for _ in range(40):
            outbox.enqueue([entry(clock.now_ms() % 10_000_000 + 100)])
            delivery.passes()
            clock.advance(s=900)
        [row] = [row for row in outbox.rows(None, 1000) if row.deployment_id.endswith("#1")]
        assert row.state == ("pending" if reason is None else "failed")
        if reason is not None:
            assert reason in (row.reason or "")
            assert outbox.replay(row)


@pytest.mark.parametrize("fault", [Fault(kind="status", status=401), Fault(kind="status", status=503)])
def test_a_process_that_starts_during_an_outage_sends_one_probe_first(
    outbox: Outbox, hivel: LocalHivel, hivel_settings: HivelSettings, delivery_settings: DeliverySettings,
    delivery: Delivery, fault: Fault,
) -> None:  # fmt: skip
    hivel.fault(fault)
    outbox.enqueue(entry(number) for number in range(50))
    delivery.passes(3)
    before, since = len(hivel.requests()), delivery.drain.gate.since
    restarted = Delivery(outbox, hivel_settings, delivery_settings)
    assert restarted.passes(3).state == delivery.drain.gate.state
    assert len(hivel.requests()) == before + 1
    assert restarted.drain.gate.since == since


def test_a_new_token_in_the_file_is_tried_at_once(
    outbox: Outbox, hivel: LocalHivel, hivel_server: LocalServer, delivery_settings: DeliverySettings, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("an-old-one\n")
    delivery = Delivery(outbox, HivelSettings(hivel_server.url, Token.from_file(file)), delivery_settings)
    outbox.enqueue(entry(number) for number in range(20))
    delivery.passes(5)
    assert states(outbox) == {"pending": 20}
    refused = len(hivel.requests())
    file.write_text("sandbox-token\n")
    assert delivery.passes().state == "open"
    assert states(outbox) == {"delivered": 20}
    assert len(hivel.requests()) == refused + 20


def test_a_stop_sends_nothing_more_and_settles_what_was_sent(
    outbox: Outbox, hivel: LocalHivel, hivel_settings: HivelSettings, delivery_settings: DeliverySettings
) -> None:
    outbox.enqueue(entry(number) for number in range(200))

    async def run() -> None:
        async with HivelClient(hivel_settings, timeout_ms=2_000, concurrency=4) as client:
            drain = Drain(outbox, client, delivery_settings)
            running = asyncio.create_task(drain.run())
            while not hivel.requests():
                await asyncio.wait({running}, timeout=0.001)
            drain.stop()
            await running

    asyncio.run(run())
    delivered = outbox.counts().delivered
    assert 0 < delivered < 200
    assert len(hivel.deployments()) == delivered


def test_attempts_tell_when_how_long_and_what_was_answered(
    outbox: Outbox, hivel: LocalHivel, delivery: Delivery, clock: FakeClock
) -> None:
    hivel.fault(Fault(kind="status", status=503, body="try later", times=1))
    outbox.enqueue([entry(1)])
    delivery.passes()
    clock.advance(s=900)
    delivery.passes()
    row = outbox.find("1")
    assert row is not None
    first, second = outbox.attempts(row)
    assert (first.at, first.http_status, first.verdict, first.answer) == (NOON, 503, "retry", "try later")
    assert (second.http_status, second.verdict) == (200, "delivered")
    assert "stored successfully" in second.answer
