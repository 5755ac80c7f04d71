"""Stores what webhooks deliver: a report or a start, together with the delivery, in one transaction."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from agent.model import times
from agent.model.report import ReportError
from agent.outbox.hooks import HookDelivery, HookStart, Verdict
from agent.outbox.values import OutboxError
from agent.sources.reports.accept import tell
from agent.sources.reports.pairing import reported_by_jobs
from agent.sources.webhooks.values import Ended, Ignored, Invalid, Started

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.config.settings import WebhookSettings
    from agent.outbox.offloop import OffLoop
    from agent.sources.reports.accept import Reports, Taken
    from agent.sources.reports.parse import Parsed
    from agent.sources.webhooks.gaps.completion import Completion
    from agent.sources.webhooks.values import Delivery, Meaning

# A repeated delivery with one of these gets the same answer. Others are read again: a rule may have been added.
_SETTLED = (Verdict.STORED, Verdict.STARTED)

# Characters of a reason that are kept. Reasons contain names of a body, which can have megabytes.
_LONGEST_REASON = 1_000
# Longer keys are hashed: an index of PostgreSQL cannot hold them, and the whole transaction would fail.
_LONGEST_KEY = 400

# Deliveries that are stored in one transaction. In between, other work gets the lock of the outbox.
_TOGETHER = 32


class HookStorage:
    """Stores deliveries on a connection of its own, those that wait together in one transaction."""

    def __init__(self, reports: Reports, off_loop: OffLoop, completion: Completion | None = None) -> None:
        self._reports = reports
        self._off_loop = off_loop
        self._completion = completion
        self._waiting: list[tuple[Arrived, asyncio.Future[HookDelivery]]] = []
        self._work: asyncio.Task[None] | None = None

    async def accept(self, hook: WebhookSettings, delivery: Delivery, meaning: Meaning | Invalid) -> HookDelivery:
        """Store a delivery; it is on the disk when this returns. Raises :class:`agent.outbox.values.OutboxError`."""
        if self._completion is not None:
            meaning = await self._completion.completed(hook, delivery, meaning)
        stored: asyncio.Future[HookDelivery] = asyncio.get_running_loop().create_future()
        self._waiting.append((Arrived(hook, delivery, meaning), stored))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._store())
        return await stored

    async def _store(self) -> None:
        while self._waiting:
            together, self._waiting = self._waiting[:_TOGETHER], self._waiting[_TOGETHER:]
            try:
                found = await self._off_loop(store, self._reports, [arrived for arrived, _ in together])
            except Exception as error:  # noqa: BLE001 - raised in the requests
                found = [error for _ in together]
            for (_, stored), result in zip(together, found, strict=True):
                if stored.done():  # the request was cancelled
                    continue
                if isinstance(result, Exception):
                    stored.set_exception(result)
                else:
                    stored.set_result(result)


@dataclass(frozen=True)
class Arrived:
    """A delivery with its webhook and its meaning."""

    hook: WebhookSettings
    delivery: Delivery
    meaning: Meaning | Invalid


def store(reports: Reports, arrived: Sequence[Arrived]) -> list[HookDelivery | Exception]:
    """Store deliveries and their meanings, without repeated ones; returns each as it is stored.

    Raises :class:`agent.outbox.values.OutboxError`; then nothing is stored. After an unexpected exception only the
    delivery that caused it is not stored: the exception is in its place.
    """
    found: list[HookDelivery | Exception] = []
    taken: list[Taken] = []
    with reports.outbox.transaction():
        for each in arrived:
            storing = _Storing(reports, each.hook, each.delivery)
            try:
                with reports.outbox.transaction():
                    found.append(storing.stored(each.meaning))
            except OutboxError:
                raise
            except Exception as error:  # noqa: BLE001 - a bug must not affect the others
                found.append(error)
            else:
                taken += storing.taken
    tell(taken)
    return found


class _Storing:
    """One delivery, within a transaction. ``taken``: the results of its reports."""

    def __init__(self, reports: Reports, hook: WebhookSettings, delivery: Delivery) -> None:
        self._reports = reports
        self._outbox = reports.outbox
        self._hook = hook
        self._delivery = delivery
        self.taken: list[Taken] = []

    def stored(self, meaning: Meaning | Invalid) -> HookDelivery:
        """Store a delivery, unless it is repeated."""
        known = self._outbox.hook_delivery(self._hook.name, self._delivery.id)
        if known is not None and known.verdict in _SETTLED:
            return known
        noted = self._effect_of(meaning)
        self._outbox.note_hook_delivery(noted)
        return noted

    def _effect_of(self, meaning: Meaning | Invalid) -> HookDelivery:
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
            parsed = self._reports.parse(report)
            if reported_by_jobs(parsed, self._outbox):
                where = parsed.said.environment
                return self._noted(Verdict.IGNORED, reason=f"jobs of this workflow run reported deployments to {where}")
            taken = self._take(parsed)
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
            report = _with_start(msgspec.json.decode(known.report, type=dict[str, str]), at)
            taken = self._take(self._reports.parse(report))
        except (ReportError, msgspec.MsgspecError):  # the deployment exists, with its end as its start
            return self._noted(Verdict.STARTED)
        return self._noted(Verdict.STARTED, deployment_id=taken.deployment_id, state=taken.state.value)

    def _take(self, parsed: Parsed) -> Taken:
        """Accept a report. Raises :class:`agent.model.report.ReportError`; nothing of it is then stored."""
        with self._outbox.transaction():
            said = self._reports.read(parsed, source=f"webhook:{self._hook.name}", at=self._delivery.received_at)
            [taken] = self._reports.accept([said])
        self.taken.append(taken)
        return taken

    def _key(self, key: str) -> str:
        """Of this webhook only: another one, with the secret of another team, must not change its starts."""
        name = f"{self._hook.name}:{key}"
        return name if len(name) <= _LONGEST_KEY else hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()

    def _noted(self, verdict: Verdict, *, reason: str = "", deployment_id: str = "", state: str = "") -> HookDelivery:
        return HookDelivery(
            hook=self._hook.name, delivery_id=self._delivery.id, at=self._delivery.received_at,
            event=self._delivery.event, verdict=verdict, reason=_shortened(reason), deployment_id=deployment_id,
            state=state,
        )  # fmt: skip


def _shortened(reason: str) -> str:
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[: _LONGEST_REASON - 1]}…"


def _with_start(report: Mapping[str, str], at: int) -> dict[str, str]:
    """The report with this start, unless it is after the end."""
    end = report.get("end_time")
    if end is not None and at > times.parse_moment(end):
        return dict(report)
    return {**report, "start_time": times.rfc3339(at)}
