"""Stores what webhooks deliver: a report or a start, together with the delivery, in one transaction."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from agent.model import times
from agent.model.report import ReportError
from agent.outbox.hooks import HookDelivery, HookStart, Verdict
from agent.sources.reports.accept import tell
from agent.sources.webhooks.values import Ended, Ignored, Invalid, Started

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.settings import WebhookSettings
    from agent.outbox.offloop import OffLoop
    from agent.sources.reports.accept import Reports, Taken
    from agent.sources.webhooks.values import Delivery, Meaning

# A repeated delivery with one of these gets the same answer. Others are read again: a rule may have been added.
_SETTLED = (Verdict.STORED, Verdict.STARTED)


class HookStorage:
    """Stores deliveries on a connection of its own, so that they do not wait for other work."""

    def __init__(self, reports: Reports, off_loop: OffLoop) -> None:
        self._reports = reports
        self._off_loop = off_loop

    async def accept(self, hook: WebhookSettings, delivery: Delivery, meaning: Meaning | Invalid) -> HookDelivery:
        """Store a delivery; it is on the disk when this returns. Raises :class:`agent.outbox.values.OutboxError`."""
        return await self._off_loop(partial(store, self._reports, hook, delivery, meaning))


def store(reports: Reports, hook: WebhookSettings, delivery: Delivery, meaning: Meaning | Invalid) -> HookDelivery:
    """Store a delivery and its meaning, unless it is repeated. Raises :class:`agent.outbox.values.OutboxError`."""
    storing = _Storing(reports, hook, delivery)
    with reports.outbox.transaction():
        known = reports.outbox.hook_delivery(hook.name, delivery.id)
        if known is not None and known.verdict in _SETTLED:
            return known
        noted = storing.effect_of(meaning)
        reports.outbox.note_hook_delivery(noted)
    tell(storing.taken)
    return noted


class _Storing:
    """One delivery, within a transaction. ``taken``: the results of its reports."""

    def __init__(self, reports: Reports, hook: WebhookSettings, delivery: Delivery) -> None:
        self._reports = reports
        self._outbox = reports.outbox
        self._hook = hook
        self._delivery = delivery
        self.taken: list[Taken] = []

    def effect_of(self, meaning: Meaning | Invalid) -> HookDelivery:
        """Store what a delivery means; returns the delivery as it is stored."""
        match meaning:
            case Ended():
                return self._ended(meaning)
            case Started():
                return self._started(meaning)
            case Ignored(reason=reason):
                return self._noted(Verdict.IGNORED, reason=reason)
            case Invalid(reason=reason):
                return self._noted(Verdict.REFUSED, reason=reason)

    def _ended(self, ended: Ended) -> HookDelivery:
        key = self._key(ended.start)
        known = self._outbox.hook_start(key) if ended.start else None
        start = None if known is None else known.at
        report = dict(ended.report) if start is None else _with_start(ended.report, start)
        try:
            taken = self._take(report)
        except ReportError as error:
            return self._noted(Verdict.REFUSED, reason=str(error))
        if ended.start and start is None:
            self._outbox.note_hook_start(HookStart(key=key, report=msgspec.json.encode(report).decode()))
        return self._noted(Verdict.STORED, deployment_id=taken.deployment_id, state=taken.state.value)

    def _started(self, started: Started) -> HookDelivery:
        """Remember the start. If the end was announced first, its report is accepted again with the start."""
        key = self._key(started.key)
        known = self._outbox.hook_start(key)
        at = started.at if known is None or known.at is None else min(known.at, started.at)
        self._outbox.note_hook_start(HookStart(key=key, at=at))
        if known is None or not known.report:
            return self._noted(Verdict.STARTED)
        try:
            taken = self._take(_with_start(msgspec.json.decode(known.report, type=dict[str, str]), at))
        except (ReportError, msgspec.MsgspecError):  # the deployment exists, with its end as its start
            return self._noted(Verdict.STARTED)
        return self._noted(Verdict.STARTED, deployment_id=taken.deployment_id, state=taken.state.value)

    def _take(self, report: Mapping[str, object]) -> Taken:
        """Accept a report. Raises :class:`agent.model.report.ReportError`; nothing of it is then stored."""
        parsed = self._reports.parse(report)
        with self._outbox.transaction():
            said = self._reports.read(parsed, source=f"webhook:{self._hook.name}", at=self._delivery.received_at)
            [taken] = self._reports.accept([said])
        self.taken.append(taken)
        return taken

    def _key(self, key: str) -> str:
        return f"{self._hook.platform}:{key}"

    def _noted(self, verdict: Verdict, *, reason: str = "", deployment_id: str = "", state: str = "") -> HookDelivery:
        return HookDelivery(
            hook=self._hook.name, delivery_id=self._delivery.id, at=self._delivery.received_at,
            event=self._delivery.event, verdict=verdict, reason=reason, deployment_id=deployment_id, state=state,
        )  # fmt: skip


def _with_start(report: Mapping[str, str], at: int) -> dict[str, str]:
    """The report with this start, unless it is after the end."""
    end = report.get("end_time")
    if end is not None and at > times.parse_moment(end):
        return dict(report)
    return {**report, "start_time": times.rfc3339(at)}
