"""Stores what gap repair finds, in the same way as webhooks, and how far it has read."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from agent.daemon.hooks import Arrived, store
from agent.model.report import ReportError
from agent.outbox.hooks import Verdict
from agent.outbox.values import GapLook
from agent.sources.reports.pairing import WEBHOOK, paired, reported_by_jobs
from agent.sources.webhooks.gaps.api import Api
from agent.sources.webhooks.gaps.look import Result, Took, look
from agent.sources.webhooks.gaps.streams import stream_of, subjects
from agent.sources.webhooks.gaps.values import Cursor
from agent.sources.webhooks.platforms import READERS
from agent.sources.webhooks.values import Ended, Ignored, Started

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from agent.config.settings import WebhookSettings
    from agent.model.deployment import Deployment
    from agent.sources.reports.accept import Reports
    from agent.sources.reports.parse import Parsed
    from agent.sources.webhooks.gaps.look import Seen, Subject
    from agent.sources.webhooks.values import Delivery, Meaning

    Off = Callable[..., Awaitable[Any]]

# After a longer stop of the agent, what is older is not taken.
LONGEST_GAP_MS = 30 * 86_400_000
# The name of these events in the list of deliveries.
EVENT = "found by gap repair"


class GapStore:
    """The outbox of gap repair, on a connection of its own. See :class:`agent.sources.webhooks.gaps.repair.Positions`.

    ``off_loop`` runs a call that may wait. ``dry_run``: nothing is stored. ``keep_position``: only deployments are.
    """

    def __init__(self, reports: Reports, off_loop: Off, *, dry_run: bool = False, keep_position: bool = False) -> None:
        self._reports = reports
        self._outbox = reports.outbox
        self._off_loop = off_loop
        self._dry_run = dry_run
        self._keeps_position = dry_run or keep_position
        self._listed: set[tuple[str, str]] = set()  # of a dry run: two streams can have the same deployment

    async def position(self, subject: Subject) -> Cursor:
        """How far the subject was read. The first call stores the current time."""
        cursor: Cursor = await self._off_loop(partial(self._position, subject))
        return cursor

    async def take(self, hook: WebhookSettings, webhooks: Sequence[tuple[Delivery, Meaning]]) -> Took:
        """Store a deployment if it is missing."""
        took: Took = await self._off_loop(partial(self._take, hook, webhooks))
        return took

    async def save(self, subject: Subject, cursor: Cursor, found: int) -> None:
        """Store how far a look has read."""

        def change(look: GapLook) -> GapLook:
            return GapLook(
                look.hook, look.project, look.stream, cursor.begun, cursor.at, cursor.open, look.found + found,
                look.looked_at, look.error,
            )  # fmt: skip

        await self._off_loop(partial(self._change, subject, change))

    async def looked(self, subject: Subject, error: str | None) -> None:
        """Store that a look ended now."""

        def change(look: GapLook) -> GapLook:
            looked_at = self._outbox.clock.now_ms() if error is None else look.looked_at
            return GapLook(
                look.hook, look.project, look.stream, look.begun, look.at, look.open, look.found, looked_at, error
            )

        await self._off_loop(partial(self._change, subject, change))

    # ---- in the thread of the outbox

    def _position(self, subject: Subject) -> Cursor:
        now = self._outbox.clock.now_ms()
        look = self._outbox.gap_look(subject.hook.name, subject.project, subject.stream)
        if look is None:
            look = GapLook(subject.hook.name, subject.project, subject.stream, begun=now, at=now)
            if not self._dry_run:
                self._outbox.save_gap_look(look)
        return Cursor(look.begun, max(look.at, now - LONGEST_GAP_MS), look.open)

    def _change(self, subject: Subject, change: Callable[[GapLook], GapLook]) -> None:
        if self._keeps_position:
            return
        with self._outbox.transaction():
            look = self._outbox.gap_look(subject.hook.name, subject.project, subject.stream)
            now = self._outbox.clock.now_ms()
            known = look or GapLook(subject.hook.name, subject.project, subject.stream, begun=now, at=now)
            changed = change(known)
            if changed != look:
                self._outbox.save_gap_look(changed)

    def _take(self, hook: WebhookSettings, webhooks: Sequence[tuple[Delivery, Meaning]]) -> Took:
        meaning = webhooks[-1][1]
        if not isinstance(meaning, Ended):
            return Took(Result.IGNORED, reason=meaning.reason if isinstance(meaning, Ignored) else "it has not ended")
        with self._outbox.transaction():
            try:
                parsed = self._reports.parse(meaning.report)
            except ReportError as error:
                return Took(Result.REFUSED, reason=str(error))
            if reported_by_jobs(parsed, self._outbox):
                return Took(Result.IGNORED, reason="jobs of this workflow run reported deployments")
            if (known := self._known(parsed, hook)) is not None:
                return Took(Result.KNOWN, known.deployment_id or "")
            if self._dry_run:
                return self._would_take(meaning.report)
            return self._stored(hook, webhooks)

    def _would_take(self, report: Mapping[str, str]) -> Took:
        name = report.get("run", ""), report.get("environment", "")
        result = Result.KNOWN if name in self._listed else Result.FOUND
        self._listed.add(name)
        return Took(result, name[0])

    def _stored(self, hook: WebhookSettings, webhooks: Sequence[tuple[Delivery, Meaning]]) -> Took:
        now = self._outbox.clock.now_ms()
        late = [
            Arrived(hook, replace(delivery, id="", event=EVENT, received_at=now), each)
            for delivery, each in webhooks
            if isinstance(each, Started | Ended)
        ]
        noted = store(self._reports, late)[-1]
        if isinstance(noted, Exception):
            return Took(Result.REFUSED, reason=f"unexpected error: {type(noted).__name__}: {noted}")
        if noted.verdict is not Verdict.STORED:
            return Took(Result.REFUSED, reason=noted.reason)
        return Took(Result.FOUND, noted.deployment_id)

    def _known(self, parsed: Parsed, hook: WebhookSettings) -> Deployment | None:
        """The deployment of this run and environment, if it is stored, also under the name that ``emit`` gives it."""
        stored = self._outbox.of_run(paired(parsed, f"{WEBHOOK}{hook.name}", self._outbox, ()).run)
        environment = parsed.said.environment
        return next((each for each in stored if each.content.environment == environment), None)


def repaired(
    reports: Reports, hook: WebhookSettings, since: int | None, *, dry_run: bool
) -> list[tuple[Subject, Seen]]:
    """Look at all projects of a hook now. ``since``: take what ended since then (UTC ms); None: since the last look.

    Raises :class:`agent.outbox.values.OutboxError`.
    """

    async def run() -> list[tuple[Subject, Seen]]:
        store = GapStore(reports, _here, dry_run=dry_run, keep_position=since is not None)
        found = []
        async with Api(hook, reports.outbox.clock) as api:
            for subject in subjects([hook]):
                cursor = await store.position(subject) if since is None else Cursor(since, since)
                stream, reader = stream_of(subject), READERS[hook.platform]
                found.append((subject, await look(api, subject, stream, cursor, reader=reader, store=store)))
        return found

    return asyncio.run(run())


async def _here(call: Callable[..., Any], *arguments: Any) -> Any:
    """Runs a call in this thread: nothing else waits for it."""
    return call(*arguments)
