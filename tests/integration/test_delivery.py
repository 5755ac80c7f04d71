"""The dispatcher against a local Hivel over real connections: what arrives, what waits, what a person has to mend."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from agent.config.credentials import Token
from agent.config.settings import DeliverySettings, HivelSettings
from agent.delivery import claims
from agent.delivery import dispatcher as dispatching
from agent.delivery.dispatcher import Dispatcher
from agent.delivery.hivel import HivelClient
from agent.model.deployment import State
from agent.model.status import Status
from agent.outbox.offloop import OffLoop
from agent.outbox.sqlite.connection import in_words
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import OutboxError
from agent.sandbox.hivel import Fault
from agent.sandbox.server import LocalServer
from tests.deployments import NOON, enqueue, rewrite, rows, states
from tests.unit.deliveries import STORED, ScriptedHivel

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

    from agent.delivery.answers import Answer
    from agent.delivery.breaker import CircuitBreaker
    from agent.outbox.values import Claimed
    from agent.sandbox.hivel import LocalHivel
    from tests.integration.support import FakeClock


@pytest.fixture
def outbox(tmp_path: Path, clock: FakeClock) -> Iterator[SqliteOutbox]:
    outbox = SqliteOutbox(tmp_path / "outbox.db", clock)
    yield outbox
    outbox.close()


class Delivery:
    """A daemon's delivery whose passes the test calls itself."""

    def __init__(self, outbox: SqliteOutbox, hivel: HivelSettings, settings: DeliverySettings) -> None:
        self._hivel, self._settings = hivel, settings
        self.outbox = outbox
        self._dispatcher: Dispatcher | None = None

    @property
    def dispatcher(self) -> Dispatcher:
        assert self._dispatcher is not None
        return self._dispatcher

    def passes(self, count: int = 1) -> CircuitBreaker:
        """Run the dispatcher, each time with connections of its own; the breaker lives on between passes."""

        async def run() -> CircuitBreaker:
            clock = self.outbox.clock
            async with HivelClient(self._hivel, self._settings, clock) as client, OffLoop() as off_loop:
                if self._dispatcher is None:
                    self._dispatcher = Dispatcher(
                        self.outbox, client, self._settings, off_loop=off_loop, clock=clock, rng=random.Random(1)
                    )
                self._dispatcher._sender, self._dispatcher._claims._off_loop = client, off_loop
                for _ in range(count):
                    await self._dispatcher.run()
                return self._dispatcher.breaker

        return asyncio.run(run())


@pytest.fixture
def delivery(outbox: SqliteOutbox, hivel_settings: HivelSettings, delivery_settings: DeliverySettings) -> Delivery:
    return Delivery(outbox, hivel_settings, delivery_settings)


@contextmanager
def unwritable(outbox: SqliteOutbox) -> Iterator[None]:
    """As a file system that was remounted read-only."""
    outbox._connection.execute("PRAGMA query_only = ON")
    yield
    outbox._connection.execute("PRAGMA query_only = OFF")


def test_everything_due_is_delivered_once(outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery) -> None:
    enqueue(outbox, range(500))
    delivery.passes(2)
    assert states(outbox) == {"delivered": 500}
    assert {d.times_posted for d in hivel.deployments()} == {1}
    assert len(hivel.requests()) == 500


def test_one_poisoned_event_does_not_hold_others_back(
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery, clock: FakeClock
) -> None:
    hivel.fault(Fault(kind="status", status=500, match="#3"))
    enqueue(outbox, range(1, 9))
    for number in range(10, 15):
        assert delivery.passes().state == "open"
        clock.advance(s=60)
        enqueue(outbox, [number])
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
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery, clock: FakeClock, fault: Fault
) -> None:
    hivel.fault(fault)
    enqueue(outbox, range(50))
    breaker = delivery.passes(5)
    assert breaker.state == "outage"
    tried = len(hivel.requests())
    assert tried <= 3 + 4  # what tripped the breaker, and what was in flight
    assert states(outbox) == {"pending": 50}
    hivel.clear_faults()
    clock.advance(s=900)
    assert delivery.passes().state == "open"
    assert states(outbox) == {"delivered": 50}
    assert len(hivel.deployments()) == 50


def test_a_timeout_after_hivel_stored_the_event_is_settled_by_the_next_attempt(
    outbox: SqliteOutbox, hivel: LocalHivel, hivel_settings: HivelSettings, delivery_settings: DeliverySettings,
    clock: FakeClock,
) -> None:  # fmt: skip
    delivery = Delivery(outbox, hivel_settings, replace(delivery_settings, timeout_ms=300))
    hivel.fault(Fault(kind="silent", stored=True, times=1))
    enqueue(outbox, [1])
    delivery.passes()
    assert states(outbox) == {"pending": 1}
    clock.advance(s=900)
    delivery.passes()
    assert states(outbox) == {"delivered": 1}
    assert [d.times_posted for d in hivel.deployments()] == [2]


def test_an_event_that_is_already_there_counts_as_delivered(
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery
) -> None:
    hivel.fault(Fault(kind="status", status=409, stored=True, times=1))
    hivel.fault(Fault(kind="status", status=422, body={"error": "deployment_id already exists"}, times=1))
    enqueue(outbox, [1, 2])
    delivery.passes()
    assert states(outbox) == {"delivered": 2}
    assert all("Hivel already had this deployment_id" in (row.reason or "") for row in rows(outbox))


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_event_that_hivel_refuses_is_failed_and_others_go_on(
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery, status: int
) -> None:
    body = {"message": "Validation failed", "error": "branch must not be main"}
    hivel.fault(Fault(kind="status", status=status, body=body, match="#2"))
    enqueue(outbox, range(1, 4))
    delivery.passes()
    assert states(outbox) == {"delivered": 2, "failed": 1}
    [failed] = rows(outbox, State.FAILED)
    assert failed.reason == f"HTTP {status}: Validation failed: branch must not be main"


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
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery, clock: FakeClock, fault: Fault, advice: str
) -> None:
    hivel.fault(fault)
    enqueue(outbox, range(20))
    assert delivery.passes().state == "paused"
    asked = len(hivel.requests())
    assert asked <= 4
    clock.advance(s=900)
    assert delivery.passes().state == "paused"
    assert len(hivel.requests()) == asked + 1
    assert {row.attempts for row in rows(outbox)} == {0}
    state = outbox.delivery_state()
    assert state is not None and state.state == "paused" and advice in (state.reason or "")
    hivel.clear_faults()
    clock.advance(s=900)
    assert delivery.passes().state == "open"
    assert states(outbox) == {"delivered": 20}


def test_a_new_token_in_the_file_is_taken_up_without_a_restart(
    outbox: SqliteOutbox, hivel: LocalHivel, hivel_server: LocalServer, delivery_settings: DeliverySettings,
    clock: FakeClock, tmp_path: Path,
) -> None:  # fmt: skip
    file = tmp_path / "token"
    file.write_text("old-token\n")
    delivery = Delivery(outbox, HivelSettings(hivel_server.url, Token.from_file(file)), delivery_settings)
    enqueue(outbox, [1])
    assert delivery.passes().state == "paused"
    file.write_text("sandbox-token\n")
    clock.advance(s=900)
    assert delivery.passes().state == "open"
    assert states(outbox) == {"delivered": 1}


def test_retry_after_is_obeyed_but_never_beyond_the_longest_backoff(
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery, clock: FakeClock
) -> None:
    enqueue(outbox, [1])
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
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery, clock: FakeClock
) -> None:
    hivel.fault(Fault(kind="status", status=503))
    enqueue(outbox, range(30))
    delivery.passes()
    for _ in range(4):
        before = len(hivel.requests())
        clock.advance(s=900)
        delivery.passes()
        assert len(hivel.requests()) == before + 1


def test_hivel_being_down_is_an_outage_and_its_return_is_noticed(
    outbox: SqliteOutbox, hivel: LocalHivel, hivel_server: LocalServer, delivery: Delivery, clock: FakeClock
) -> None:
    hivel_server.stop()
    enqueue(outbox, range(10))
    breaker = delivery.passes()
    assert (breaker.state, "cannot connect" in (breaker.reason or "")) == ("outage", True)
    hivel_server.start()
    clock.advance(s=900)
    delivery.passes()
    assert states(outbox) == {"delivered": 10}


def test_a_clock_that_jumps_back_for_years_makes_nobody_wait(
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery, clock: FakeClock
) -> None:
    enqueue(outbox, [1])
    clock.jump(ms=-5 * 365 * 86_400_000)
    delivery.passes()
    assert states(outbox) == {"delivered": 1}


def test_the_spelling_of_canceled_is_applied_when_sending(
    outbox: SqliteOutbox, hivel: LocalHivel, hivel_settings: HivelSettings, delivery_settings: DeliverySettings
) -> None:
    for number, spelling in ((1, "canceled"), (2, "cancelled")):
        enqueue(outbox, [number], status=Status.CANCELED)
        settings = replace(delivery_settings, canceled_spelling=spelling)
        Delivery(outbox, hivel_settings, settings).passes()
    assert ['"status":"canceled"' in d.raw for d in hivel.deployments()] == [True, False]
    assert ['"status":"cancelled"' in d.raw for d in hivel.deployments()] == [False, True]


def test_delivery_goes_on_while_outcomes_cannot_be_stored_and_nothing_is_sent_again(
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery
) -> None:
    enqueue(outbox, range(500))
    with unwritable(outbox):
        delivery.passes(3)
    assert len(hivel.requests()) == 500
    assert "cannot be written" in str(delivery.dispatcher.trouble)
    assert states(outbox) == {"pending": 500}
    delivery.passes()
    assert delivery.dispatcher.trouble is None
    assert states(outbox) == {"delivered": 500}
    assert len(hivel.requests()) == 500


def test_no_more_outcomes_are_kept_in_memory_than_there_is_room_for(
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "UNSETTLED_AT_MOST", 20)
    enqueue(outbox, range(100))
    with unwritable(outbox):
        delivery.passes(3)
    assert 20 <= len(hivel.requests()) <= 20 + 4
    delivery.passes(20)
    assert states(outbox) == {"delivered": 100}
    assert len(hivel.requests()) == 100


def test_after_an_outage_the_oldest_event_goes_first(
    outbox: SqliteOutbox, hivel: LocalHivel, hivel_settings: HivelSettings, delivery_settings: DeliverySettings,
    clock: FakeClock,
) -> None:  # fmt: skip
    one_at_a_time = Delivery(outbox, hivel_settings, replace(delivery_settings, concurrency=1))
    hivel.fault(Fault(kind="status", status=503))
    enqueue(outbox, [1, 2, 3])
    one_at_a_time.passes(3)
    for number in range(4, 8):
        clock.advance(s=10)
        enqueue(outbox, [number])
        one_at_a_time.passes()
    hivel.clear_faults()
    while one_at_a_time.passes().state != "open":
        clock.advance(s=60)
    probe, *others = [int(d.event.deployment_id.rpartition("#")[2]) for d in hivel.deployments()]
    assert others == sorted({1, 2, 3, 4, 5, 6, 7} - {probe})


def test_no_more_events_go_out_in_a_minute_than_the_rate_allows(
    outbox: SqliteOutbox, hivel: LocalHivel, hivel_settings: HivelSettings, delivery_settings: DeliverySettings,
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    waited = []

    async def wait_for(awaitable: Coroutine[Any, Any, Any], seconds: float) -> None:
        awaitable.close()
        waited.append(seconds)
        clock.advance(s=seconds)

    monkeypatch.setattr(dispatching.asyncio, "wait_for", wait_for)
    slowly = Delivery(outbox, hivel_settings, replace(delivery_settings, concurrency=1, per_minute=60))
    enqueue(outbox, range(10))
    slowly.passes()
    assert states(outbox) == {"delivered": 10}
    assert sum(waited) == pytest.approx(10.0, abs=1.0)


def test_an_event_is_given_up_only_where_the_settings_say_so(
    outbox: SqliteOutbox, hivel: LocalHivel, hivel_settings: HivelSettings, delivery_settings: DeliverySettings,
    clock: FakeClock,
) -> None:  # fmt: skip
    hivel.fault(Fault(kind="status", status=500, match="#1"))
    others = iter(random.Random(1).sample(range(100, 10_000), 120))
    enqueue(outbox, [1])
    for settings, reason in [
        (delivery_settings, None),
        (replace(delivery_settings, max_attempts=40), "attempts ([delivery] max_attempts); last attempt: HTTP 500"),
        (replace(delivery_settings, max_age_ms=3_600_000), "([delivery] max_age); last attempt: HTTP 500"),
    ]:
        delivery = Delivery(outbox, hivel_settings, settings)
        for _ in range(40):
            enqueue(outbox, [next(others)])
            delivery.passes()
            clock.advance(s=900)
        [row] = [row for row in rows(outbox) if row.deployment_id.endswith("#1")]
        assert row.state == ("pending" if reason is None else "failed")
        if reason is not None:
            assert reason in (row.reason or "")
            assert outbox.replay([row]) == [True]


@pytest.mark.parametrize("fault", [Fault(kind="status", status=401), Fault(kind="status", status=503)])
def test_a_process_that_starts_during_an_outage_sends_one_probe_first(
    outbox: SqliteOutbox, hivel: LocalHivel, hivel_settings: HivelSettings, delivery_settings: DeliverySettings,
    delivery: Delivery, fault: Fault,
) -> None:  # fmt: skip
    hivel.fault(fault)
    enqueue(outbox, range(50))
    delivery.passes(3)
    before, since = len(hivel.requests()), delivery.dispatcher.breaker.since
    restarted = Delivery(outbox, hivel_settings, delivery_settings)
    assert restarted.passes(3).state == delivery.dispatcher.breaker.state
    assert len(hivel.requests()) == before + 1
    assert restarted.dispatcher.breaker.since == since


def test_a_new_token_in_the_file_is_tried_at_once(
    outbox: SqliteOutbox,
    hivel: LocalHivel,
    hivel_server: LocalServer,
    delivery_settings: DeliverySettings,
    tmp_path: Path,
) -> None:
    file = tmp_path / "token"
    file.write_text("an-old-one\n")
    delivery = Delivery(outbox, HivelSettings(hivel_server.url, Token.from_file(file)), delivery_settings)
    enqueue(outbox, range(20))
    delivery.passes(5)
    assert states(outbox) == {"pending": 20}
    refused = len(hivel.requests())
    file.write_text("sandbox-token\n")
    assert delivery.passes().state == "open"
    assert states(outbox) == {"delivered": 20}
    assert len(hivel.requests()) == refused + 20


def test_a_stop_sends_nothing_more_and_settles_what_was_sent(
    outbox: SqliteOutbox, hivel: LocalHivel, hivel_settings: HivelSettings, delivery_settings: DeliverySettings
) -> None:
    enqueue(outbox, range(200))

    async def run() -> None:
        clock = outbox.clock
        async with HivelClient(hivel_settings, delivery_settings, clock) as client, OffLoop() as off_loop:
            dispatcher = Dispatcher(outbox, client, delivery_settings, off_loop=off_loop, clock=clock)
            running = asyncio.create_task(dispatcher.run())
            while not hivel.requests():
                await asyncio.wait({running}, timeout=0.001)
            dispatcher.stop()
            await running

    asyncio.run(run())
    delivered = outbox.counts().delivered
    assert 0 < delivered < 200
    assert len(hivel.deployments()) == delivered


def test_attempts_tell_when_how_long_and_what_was_answered(
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery, clock: FakeClock
) -> None:
    hivel.fault(Fault(kind="status", status=503, body="try later", times=1))
    enqueue(outbox, [1])
    delivery.passes()
    clock.advance(s=900)
    delivery.passes()
    [row] = rows(outbox)
    [first] = outbox.attempts(row)
    assert (first.n, first.at, first.http_status, first.verdict, first.answer) == (1, NOON, 503, "retry", "try later")
    assert (row.attempts, row.settled_at, row.reason) == (2, NOON + 900_000, None)


def test_of_years_of_attempts_the_first_and_the_last_are_kept(
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery, clock: FakeClock
) -> None:
    hivel.fault(Fault(kind="status", status=503))
    enqueue(outbox, [1])
    for _ in range(100):
        delivery.passes()
        clock.advance(s=900)
    [row] = rows(outbox)
    assert row.attempts == 100
    assert [attempt.n for attempt in outbox.attempts(row)] == [1, *range(81, 101)]


# ---- what changes meanwhile


class Meanwhile:
    """An application before which something happens as soon as a request has come in."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.happens: Callable[[], None] = lambda: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        happens, self.happens = self.happens, lambda: None
        happens()
        await self._app(scope, receive, send)


@pytest.fixture
def meanwhile(hivel: LocalHivel) -> Meanwhile:
    return Meanwhile(hivel.app)


@pytest.fixture
def hivel_server(meanwhile: Meanwhile) -> Iterator[LocalServer]:
    with LocalServer(meanwhile) as server:
        yield server


def another_process(outbox: SqliteOutbox, do: Callable[[SqliteOutbox], object]) -> Callable[[], None]:
    """Do something with the outbox as a poller or the command line does."""

    def work() -> None:
        other = SqliteOutbox(outbox.path, outbox.clock)
        do(other)
        other.close()

    return work


@pytest.mark.parametrize("answer", ["new", "was there"])
def test_a_deployment_that_changes_in_flight_says_what_hivel_got(
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery, meanwhile: Meanwhile, answer: str
) -> None:
    """And that what is known since is something else."""
    if answer == "was there":
        hivel.fault(Fault(kind="status", status=409, stored=True, times=1))
    enqueue(outbox, [1], environment="production", image="acme/shop:1.2.2")
    meanwhile.happens = another_process(
        outbox, lambda other: rewrite(other, 1, environment="staging", image="acme/shop:1.2.3")
    )
    delivery.passes(2)
    [row] = rows(outbox)
    assert (row.state, row.revision, row.sent_revision) == (State.DELIVERED, 2, 1)
    assert (row.content.environment, row.content.image) == ("production", "acme/shop:1.2.2")
    [sent] = hivel.deployments()
    assert (sent.event.environment, sent.event.image, sent.times_posted) == ("production", "acme/shop:1.2.2", 1)


def test_of_what_was_there_before_its_second_revision_nobody_knows_which_one_hivel_has(
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery, clock: FakeClock
) -> None:
    hivel.fault(Fault(kind="reset", stored=True, times=1))
    enqueue(outbox, [1], environment="production")
    delivery.passes()
    rewrite(outbox, 1, environment="staging")
    hivel.fault(Fault(kind="status", status=409, times=1))
    clock.advance(s=900)
    delivery.passes()
    [row] = rows(outbox)
    assert (row.state, row.revision, row.sent_revision) == (State.DELIVERED, 2, 0)


@pytest.mark.parametrize("status", [422, 503], ids=["refused", "again"])
def test_an_answer_to_an_old_revision_leaves_the_new_one_pending_and_due(
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery, meanwhile: Meanwhile, status: int
) -> None:
    hivel.fault(Fault(kind="status", status=status, body={"error": "no such branch"}, times=1))
    enqueue(outbox, [1], branch="wrong")
    meanwhile.happens = another_process(outbox, lambda other: rewrite(other, 1, branch="right"))
    delivery.passes(2)
    [row] = rows(outbox)
    assert (row.state, row.revision, row.sent_revision) == (State.DELIVERED, 2, 2)
    assert [d.event.branch for d in hivel.deployments()] == ["right"]
    assert [attempt.http_status for attempt in outbox.attempts(row)] == [status]
    assert row.attempts == 2


def test_what_was_discarded_is_never_sent_until_it_is_replayed(
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery, clock: FakeClock
) -> None:
    enqueue(outbox, [1, 2])
    assert outbox.discard([row for row in rows(outbox) if row.run.number == "1"], "by hand") == [True]
    delivery.passes()
    clock.advance(s=86_400)
    delivery.passes()
    assert states(outbox) == {"delivered": 1, "discarded": 1}
    assert [d.event.build_number for d in hivel.deployments()] == ["2"]
    assert outbox.replay(rows(outbox, State.DISCARDED)) == [True]
    delivery.passes()
    assert states(outbox) == {"delivered": 2}


def test_what_is_discarded_in_flight_and_arrives_is_delivered(
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery, meanwhile: Meanwhile
) -> None:
    """What Hivel has, Hivel has."""
    enqueue(outbox, [1])
    meanwhile.happens = another_process(outbox, lambda other: other.discard(rows(other), "by hand"))
    delivery.passes(2)
    assert states(outbox) == {"delivered": 1}
    assert len(hivel.requests()) == 1


@pytest.mark.parametrize("status", [422, 503, 401], ids=["refused", "again", "paused"])
def test_what_is_discarded_in_flight_and_does_not_arrive_stays_discarded(
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery, meanwhile: Meanwhile, clock: FakeClock, status: int
) -> None:
    hivel.fault(Fault(kind="status", status=status, times=1))
    enqueue(outbox, [1])
    meanwhile.happens = another_process(outbox, lambda other: other.discard(rows(other), "by hand"))
    delivery.passes()
    clock.advance(s=900)
    delivery.passes()
    assert states(outbox) == {"discarded": 1}
    assert len(hivel.requests()) == 1


def test_a_deployment_that_makes_no_event_is_set_aside_and_others_go_on(
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery
) -> None:
    enqueue(outbox, [1, 3])
    enqueue(outbox, [2], repo_url=None)
    delivery.passes()
    assert states(outbox) == {"delivered": 2, "failed": 1}
    [failed] = rows(outbox, State.FAILED)
    assert failed.reason == "cannot create the event: no repo_url"


def test_the_loop_goes_on_while_another_process_holds_the_write_lock(
    outbox: SqliteOutbox, hivel: LocalHivel, hivel_settings: HivelSettings, delivery_settings: DeliverySettings
) -> None:
    """For longer than everything takes: all is sent, and nothing is settled yet."""
    enqueue(outbox, range(50))

    async def run() -> None:
        clock = outbox.clock
        async with HivelClient(hivel_settings, delivery_settings, clock) as client, OffLoop() as off_loop:
            dispatcher = Dispatcher(outbox, client, delivery_settings, off_loop=off_loop, clock=clock)
            await dispatcher.run()
            more = SqliteOutbox(outbox.path, clock)
            enqueue(more, range(100, 150))
            holder = sqlite3.connect(outbox.path, isolation_level=None)
            holder.execute("BEGIN IMMEDIATE")
            running = asyncio.create_task(dispatcher.run())
            while len(hivel.requests()) < 100:
                await asyncio.wait({running}, timeout=0.001)
            for _ in range(1_000):
                await asyncio.sleep(0)
            assert not running.done()
            assert more.counts().delivered == 50
            holder.execute("ROLLBACK")
            await running
            holder.close()
            more.close()

    asyncio.run(run())
    assert states(outbox) == {"delivered": 100}
    assert len(hivel.requests()) == 100


# ---- an outbox that is out of order for a while


def test_what_was_in_flight_when_the_outbox_could_not_be_read_is_sent_again(
    outbox: SqliteOutbox, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the error is told as what it is, not as a group of exceptions in which nobody would find the damage."""
    enqueue(outbox, [1, 2])
    hivel, never = ScriptedHivel(), asyncio.Event()

    async def silent_once(_: Claimed) -> Answer:
        hivel.answer = hivel.always(STORED)
        monkeypatch.setattr(outbox, "claim", cannot_be_read)
        await never.wait()
        return STORED

    def cannot_be_read(limit: int, *, besides: object = ()) -> Any:
        raise in_words(sqlite3.DatabaseError("database disk image is malformed"), outbox.path)

    async def run() -> None:
        async with OffLoop() as off_loop:
            dispatcher = Dispatcher(outbox, hivel, DeliverySettings(), off_loop=off_loop, clock=clock)
            hivel.answer = silent_once
            with pytest.raises(OutboxError, match="malformed"):
                await dispatcher.run()
            assert len(hivel.sent) == 2
            monkeypatch.undo()
            await dispatcher.run()

    asyncio.run(run())
    assert states(outbox) == {"delivered": 2}


@pytest.mark.parametrize("when", ["before the answer was stored", "after it was"])
def test_a_clock_that_was_set_back_while_nothing_could_be_stored_makes_nobody_wait(
    outbox: SqliteOutbox, hivel: LocalHivel, delivery: Delivery, clock: FakeClock, when: str
) -> None:
    hivel.fault(Fault(kind="status", status=503, times=1))
    enqueue(outbox, [1])
    if when == "before the answer was stored":
        with unwritable(outbox):
            delivery.passes()
            clock.jump(ms=-5 * 365 * 86_400_000)
    else:
        delivery.passes()
        with unwritable(outbox):
            clock.jump(ms=-5 * 365 * 86_400_000)
            delivery.passes()
    delivery.passes()
    clock.advance(s=900)
    delivery.passes()
    assert states(outbox) == {"delivered": 1}
