"""Outages of hours by a clock that the test owns, ambiguous answers, and events that Hivel always stumbles over."""

from __future__ import annotations

import asyncio
import email.utils
import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from agent.delivery.dispatcher import Dispatcher
from agent.delivery.hivel import HivelClient
from agent.outbox.offloop import OffLoop
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.sandbox.hivel import Fault, LocalHivel
from agent.sandbox.server import LocalServer
from tests.deployments import NOON, enqueue, rows, states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

    from agent.config.settings import DeliverySettings, HivelSettings
    from tests.integration.support import FakeClock

HOURS = 10
WAITING = 200
CONCURRENCY = 4
FAULTS = {
    "refused": None,
    "500": Fault(kind="status", status=500),
    "503": Fault(kind="status", status=503),
    "time-out": Fault(kind="silent"),
    "reset": Fault(kind="reset"),
    "429": Fault(kind="status", status=429),
    "429, Retry-After in seconds": Fault(kind="status", status=429, retry_after=600),
    "429, Retry-After as a date": Fault(
        kind="status", status=429, retry_after=email.utils.formatdate(NOON / 1000 + HOURS * 3600, usegmt=True)
    ),
    "429, Retry-After is nonsense": Fault(kind="status", status=429, retry_after="soon"),
    "429, Retry-After is a week": Fault(kind="status", status=429, retry_after=7 * 86_400),
    "503, Retry-After is a week": Fault(kind="status", status=503, retry_after=7 * 86_400),
}


@pytest.fixture
def outbox(tmp_path: Path, clock: FakeClock) -> Iterator[SqliteOutbox]:
    outbox = SqliteOutbox(tmp_path / "outbox.db", clock)
    yield outbox
    outbox.close()


class Gauge:
    """Counts how many requests an application handles at the same time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.now = self.most = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self._app(scope, receive, send)
        finally:
            self.now -= 1


@pytest.fixture
def gauge(hivel: LocalHivel) -> Gauge:
    return Gauge(hivel.app)


@pytest.fixture
def hivel_server(gauge: Gauge) -> Iterator[LocalServer]:
    with LocalServer(gauge) as server:
        yield server


@pytest.fixture
def delivery_settings(delivery_settings: DeliverySettings) -> DeliverySettings:
    return replace(delivery_settings, concurrency=CONCURRENCY, timeout_ms=5_000)


def deliver(
    outbox: SqliteOutbox, hivel: HivelSettings, settings: DeliverySettings, clock: FakeClock,
    *, seconds: int, step_s: int = 5, until: Callable[[], bool] = lambda: False,
) -> tuple[Dispatcher, int]:  # fmt: skip
    """A daemon's delivery for so many seconds of the test's clock; returns how many passed until it was ``until``."""

    async def run() -> tuple[Dispatcher, int]:
        async with HivelClient(hivel, settings, clock) as client, OffLoop() as off_loop:
            dispatcher = Dispatcher(outbox, client, settings, off_loop=off_loop, clock=clock, rng=random.Random(1))
            for second in range(0, seconds, step_s):
                await dispatcher.run()
                if until():
                    return dispatcher, second
                clock.advance(s=step_s)
            return dispatcher, seconds

    return asyncio.run(run())


@pytest.mark.parametrize("fault", FAULTS, ids=FAULTS)
def test_an_outage_of_hours_costs_few_requests_and_few_lines_and_ends_gently(
    outbox: SqliteOutbox, hivel: LocalHivel, hivel_server: LocalServer, hivel_settings: HivelSettings, gauge: Gauge,
    delivery_settings: DeliverySettings, clock: FakeClock, fault: str,
) -> None:  # fmt: skip
    during = replace(delivery_settings, timeout_ms=100) if fault == "time-out" else delivery_settings
    if (how := FAULTS[fault]) is not None:
        hivel.fault(how)
    else:
        hivel_server.stop()
    enqueue(outbox, range(WAITING))
    with capture_logs() as lines:
        dispatcher, _ = deliver(outbox, hivel_settings, during, clock, seconds=HOURS * 3600)
        assert dispatcher.breaker.state == "outage"
        assert dispatcher.tally.retries.total() <= CONCURRENCY + HOURS * 3600 / 900 * 3
        assert states(outbox) == {"pending": WAITING}
        hivel.clear_faults()
        if how is None:
            hivel_server.start()
        before, gauge.most = len(hivel.requests()), 0
        _, waited_s = deliver(
            outbox, hivel_settings, delivery_settings, clock,
            seconds=3600, until=lambda: outbox.counts().delivered == WAITING,
        )  # fmt: skip
    assert waited_s <= 900
    assert len(hivel.requests()) == before + WAITING
    assert gauge.most <= CONCURRENCY
    assert {d.times_posted for d in hivel.deployments()} == {1}
    said = Counter(line["event"] for line in lines)
    assert said.pop("delivered") == WAITING
    assert said.total() <= 6, lines


def test_during_an_outage_no_two_requests_are_under_way_at_once(
    outbox: SqliteOutbox, hivel: LocalHivel, hivel_settings: HivelSettings, gauge: Gauge,
    delivery_settings: DeliverySettings, clock: FakeClock,
) -> None:  # fmt: skip
    hivel.fault(Fault(kind="status", status=503))
    enqueue(outbox, range(WAITING))
    deliver(outbox, hivel_settings, delivery_settings, clock, seconds=5)
    gauge.most = 0
    deliver(outbox, hivel_settings, delivery_settings, clock, seconds=7200)
    assert gauge.most == 1


def test_a_single_event_that_waits_for_hours_writes_a_handful_of_lines(
    outbox: SqliteOutbox, hivel: LocalHivel, hivel_settings: HivelSettings, delivery_settings: DeliverySettings,
    clock: FakeClock,
) -> None:  # fmt: skip
    """One event is no outage: nobody knows whether it is Hivel or the event."""
    hivel.fault(Fault(kind="status", status=503))
    enqueue(outbox, [1])
    with capture_logs() as lines:
        deliver(outbox, hivel_settings, delivery_settings, clock, seconds=HOURS * 3600)
    [row] = rows(outbox)
    assert row.attempts > 40
    assert len(lines) <= 7, lines
    assert {line["deployment_id"] for line in lines} == {row.deployment_id}


@pytest.mark.parametrize("poisoned", [1, 10, 50])
def test_events_that_hivel_always_stumbles_over_hold_nobody_back(
    outbox: SqliteOutbox, hivel: LocalHivel, hivel_settings: HivelSettings, delivery_settings: DeliverySettings,
    clock: FakeClock, poisoned: int,
) -> None:  # fmt: skip
    """Although they are the oldest, and more than what counts as an outage."""
    hivel.fault(Fault(kind="status", status=500, match="#900"))
    enqueue(outbox, range(90_000, 90_000 + poisoned))
    enqueue(outbox, range(300))
    _, waited_s = deliver(
        outbox, hivel_settings, delivery_settings, clock,
        seconds=7200, until=lambda: outbox.counts().delivered == 300,
    )  # fmt: skip
    assert waited_s <= 180
    assert states(outbox) == {"pending": poisoned, "delivered": 300}
    clock.advance(s=7200)
    enqueue(outbox, range(300, 310))
    _, waited_s = deliver(
        outbox, hivel_settings, delivery_settings, clock, seconds=600, until=lambda: outbox.counts().delivered == 310
    )
    assert waited_s <= 30, "what comes later does not wait either"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (409, {"message": "Conflict"}),
        (400, {"message": "Validation failed", "error": "deployment_id already exists"}),
        (422, {"error": "Deployment already exists"}),
        (422, {"error": "duplicate deployment_id"}),
        (200, {"success": False, "error": "deployment_id already exists"}),
    ],
)
def test_whichever_way_hivel_says_that_it_has_an_event_it_is_delivered_and_marked(
    outbox: SqliteOutbox, hivel: LocalHivel, hivel_settings: HivelSettings, delivery_settings: DeliverySettings,
    clock: FakeClock, status: int, body: dict[str, object],
) -> None:  # fmt: skip
    hivel.fault(Fault(kind="status", status=status, body=body, times=1))
    enqueue(outbox, [1])
    deliver(outbox, hivel_settings, delivery_settings, clock, seconds=1)
    [row] = rows(outbox)
    assert (row.state, row.attempts) == ("delivered", 1)
    assert (row.reason or "").startswith("Hivel already had this deployment_id")


@pytest.mark.parametrize("how", ["reset", "silent", "cut"])
def test_an_answer_that_is_lost_after_hivel_stored_the_event_doubles_nothing(
    outbox: SqliteOutbox, hivel_settings: HivelSettings, delivery_settings: DeliverySettings, clock: FakeClock, how: str
) -> None:
    """Also with a Hivel that answers 409 to whatever it knows; the event is then marked."""
    strict = LocalHivel(strict=True)
    with LocalServer(strict.app) as server:
        settings = replace(hivel_settings, url=server.url)
        if how == "silent":
            delivery_settings = replace(delivery_settings, timeout_ms=500)
        strict.fault(Fault(kind=how, stored=True, times=3))
        enqueue(outbox, range(20))
        deliver(outbox, settings, delivery_settings, clock, seconds=3600, until=lambda: not outbox.counts().pending)
        strict.clear_faults()
    assert states(outbox) == {"delivered": 20}
    assert sorted(d.times_posted for d in strict.deployments()) == [1] * 17 + [2] * 3
    marked = [row for row in rows(outbox) if row.reason]
    assert len(marked) == 3
    assert all("Hivel already had this" in (row.reason or "") and row.attempts == 2 for row in marked)
    strict.close()
