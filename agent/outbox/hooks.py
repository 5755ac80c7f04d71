"""The value types of webhooks in the outbox: their deliveries, and the starts that they announced."""

from __future__ import annotations

import enum

import msgspec

# Older deliveries and starts are deleted, and deliveries beyond the newest of this number.
KEEP_MS = 30 * 86_400_000
MOST_DELIVERIES = 20_000


class Verdict(enum.StrEnum):
    """The effect of a delivery."""

    STORED = "stored"  # a deployment ended
    STARTED = "started"  # a deployment began: its time is remembered
    IGNORED = "ignored"  # no deployment, or one that is not wanted
    REFUSED = "refused"  # the body is not valid


class HookDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery of a webhook, and its effect.

    ``delivery_id``: the platform's, the same when it is repeated; "" if it has none. ``at``: UTC ms. ``reason``: why it
    was ignored or refused. ``deployment_id`` and ``state``: of the stored deployment, at that time.
    """

    hook: str
    delivery_id: str
    at: int
    event: str
    verdict: Verdict
    reason: str = ""
    deployment_id: str = ""
    state: str = ""


class HookStart(msgspec.Struct, frozen=True, kw_only=True):
    """The start of a deployment, announced by a platform under a ``key``.

    ``at``: UTC ms; None if the end was announced and the start was not. ``report`` is then the report of the end: it is
    accepted again when the start is announced.
    """

    key: str
    at: int | None = None
    report: str = ""


def row_of_delivery(delivery: HookDelivery) -> tuple[str, str, int, str, str, str, str, str]:
    """The columns of a delivery, the same in every engine."""
    return (
        delivery.hook, delivery.delivery_id, delivery.at, delivery.event, delivery.verdict.value,
        delivery.reason, delivery.deployment_id, delivery.state,
    )  # fmt: skip


def delivery_of(row: tuple[str, str, int, str, str, str, str, str]) -> HookDelivery:
    """The delivery of such a row."""
    hook, delivery_id, at, event, verdict, reason, deployment_id, state = row
    return HookDelivery(
        hook=hook, delivery_id=delivery_id, at=at, event=event, verdict=Verdict(verdict), reason=reason,
        deployment_id=deployment_id, state=state,
    )  # fmt: skip
