"""Deliveries of webhooks, and the starts that they announced."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from agent.outbox.hooks import KEEP_MS, MOST_DELIVERIES, HookDelivery, HookStart, Verdict
from agent.outbox.values import Keep

if TYPE_CHECKING:
    from agent.outbox.interface import Outbox
    from tests.engines import Engine

KEEP = Keep(KEEP_MS, 400 * 86_400_000, 3650 * 86_400_000)


def delivery(name: str, at: int = 1_000, hook: str = "github", verdict: Verdict = Verdict.STORED) -> HookDelivery:
    return HookDelivery(
        hook=hook, delivery_id=name, at=at, event="deployment_status", verdict=verdict, reason="because",
        deployment_id="id", state="pending",
    )  # fmt: skip


def test_a_delivery_is_found_by_its_webhook_and_its_id(engine: Engine, outbox: Outbox) -> None:
    outbox.note_hook_delivery(delivery("one"))
    with closing(engine.open()) as other:
        assert other.hook_delivery("github", "one") == delivery("one")
        assert other.hook_delivery("gitlab", "one") is None
        assert other.hook_delivery("github", "two") is None


def test_a_repeated_delivery_replaces_the_earlier_one_and_is_the_newest(outbox: Outbox) -> None:
    outbox.note_hook_delivery(delivery("one", verdict=Verdict.IGNORED))
    outbox.note_hook_delivery(delivery("two"))
    outbox.note_hook_delivery(delivery("one"))
    assert outbox.hook_delivery("github", "one") == delivery("one")
    assert [each.delivery_id for each in outbox.hook_deliveries(10)] == ["one", "two"]


def test_deliveries_without_an_id_are_all_kept_and_never_found(outbox: Outbox) -> None:
    outbox.note_hook_delivery(delivery("", at=1))
    outbox.note_hook_delivery(delivery("", at=2))
    assert outbox.hook_delivery("github", "") is None
    assert [each.at for each in outbox.hook_deliveries(10)] == [2, 1]


def test_the_newest_deliveries_come_first_of_one_webhook_or_of_all(outbox: Outbox) -> None:
    for name, hook in (("a", "github"), ("b", "gitlab"), ("c", "github")):
        outbox.note_hook_delivery(delivery(name, hook=hook))
    assert [each.delivery_id for each in outbox.hook_deliveries(2)] == ["c", "b"]
    assert [each.delivery_id for each in outbox.hook_deliveries(10, "github")] == ["c", "a"]


def test_a_start_is_replaced(outbox: Outbox) -> None:
    assert outbox.hook_start("key") is None
    outbox.note_hook_start(HookStart(key="key", report='{"a": "b"}'))
    assert outbox.hook_start("key") == HookStart(key="key", at=None, report='{"a": "b"}')
    outbox.note_hook_start(HookStart(key="key", at=1_000))
    assert outbox.hook_start("key") == HookStart(key="key", at=1_000, report="")


def test_a_delivery_is_stored_with_the_rest_of_its_transaction_or_not_at_all(outbox: Outbox) -> None:
    with pytest.raises(ZeroDivisionError), outbox.transaction():
        outbox.note_hook_delivery(delivery("one"))
        outbox.note_hook_start(HookStart(key="key", at=1 // 0))
    assert outbox.hook_deliveries(10) == []
    assert outbox.hook_start("key") is None


def test_what_is_older_than_30_days_is_deleted(engine: Engine, outbox: Outbox) -> None:
    now = engine.clock.now_ms()
    outbox.note_hook_delivery(delivery("old", at=now))
    outbox.note_hook_start(HookStart(key="old", at=1))
    engine.clock.advance(ms=KEEP_MS + 1)
    outbox.note_hook_delivery(delivery("new", at=engine.clock.now_ms()))
    outbox.note_hook_start(HookStart(key="new", at=1))
    while outbox.prune(KEEP):
        pass
    assert [each.delivery_id for each in outbox.hook_deliveries(10)] == ["new"]
    assert outbox.hook_start("old") is None
    assert outbox.hook_start("new") is not None


def test_only_the_newest_deliveries_are_kept(engine: Engine, outbox: Outbox) -> None:
    now = engine.clock.now_ms()
    with outbox.transaction():
        for number in range(MOST_DELIVERIES + 3):
            outbox.note_hook_delivery(delivery(str(number), at=now))
    while outbox.prune(KEEP):
        pass
    kept = outbox.hook_deliveries(2 * MOST_DELIVERIES)
    assert (len(kept), kept[-1].delivery_id) == (MOST_DELIVERIES, "3")
