"""Repeated gap repair: each stream once an hour, and soon after an outage of the agent."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from agent.config.file import ConfigError
from agent.model.times import describe_duration
from agent.model.trouble import Trouble
from agent.sources.webhooks.gaps.api import Api
from agent.sources.webhooks.gaps.look import Seen, Store, Subject, look, tell
from agent.sources.webhooks.gaps.streams import stream_of, subjects

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.config.settings import Platform, WebhookSettings
    from agent.model.times import Clock
    from agent.sources.webhooks.gaps.values import Cursor
    from agent.sources.webhooks.values import Reader

INTERVAL_S = 3600.0
# After the start of the agent or an outage: webhooks that the platforms send again arrive first.
SOON_S = 30.0
# Two looks at a stream are at least this far apart.
LEAST_S = 300.0
# Backoff after a failed look: the first wait, which doubles up to the interval.
FIRST_RETRY_S = 60.0
# A look that used all its requests is continued after this time.
CONTINUE_S = 60.0


class Positions(Store, Protocol):
    """The store of the daemon. Every method raises :class:`agent.outbox.values.OutboxError`."""

    async def position(self, subject: Subject) -> Cursor:
        """How far the subject was read. The first call for it stores the current time: nothing earlier is taken."""
        ...

    async def looked(self, subject: Subject, error: str | None) -> None:
        """Store that a look ended now: successfully, or with this error."""
        ...


@dataclass
class _Due:
    """When a subject is read next, in seconds of the monotonic clock."""

    at: float
    failures: int = 0
    last: float | None = None


class GapRepair:
    """Looks at all subjects when they are due. ``counts``: looks by hook and result (ok, error)."""

    def __init__(
        self,
        hooks: Sequence[WebhookSettings],
        readers: Mapping[Platform, Reader],
        store: Positions,
        clock: Clock,
        rng: random.Random | None = None,
    ) -> None:
        self._readers = readers
        self._store = store
        self._clock = clock
        self._rng = rng or random.Random()
        begin = clock.monotonic() + SOON_S
        self._due = {subject: _Due(begin) for subject in subjects(hooks)}
        self._trouble = {subject: Trouble(f"gap repair of {subject}", clock) for subject in self._due}
        self._waits: dict[str, float] = {}  # by hook: rate limits
        self._looks: asyncio.Future[list[BaseException | None]] | None = None
        self._stopped = False
        self.counts: Counter[tuple[str, str]] = Counter(
            {(subject.hook.name, result): 0 for subject in self._due for result in ("ok", "error")}
        )

    @property
    def subjects(self) -> list[Subject]:
        """Everything that is read."""
        return list(self._due)

    def soon(self, hook: str | None = None) -> None:
        """Webhooks may have been lost: read this hook's projects, or all, in a short while."""
        now = self._clock.monotonic()
        for subject, due in self._due.items():
            if hook in (None, subject.hook.name) and not due.failures:
                earliest = now if due.last is None else due.last + LEAST_S
                due.at = min(due.at, max(now + SOON_S, earliest))

    async def run(self) -> None:
        """Look at everything that is due. Failures of a platform are logged and counted.

        Raises :class:`agent.outbox.values.OutboxError`.
        """
        now = self._clock.monotonic()
        due: dict[str, list[Subject]] = {}
        for subject, each in self._due.items():
            if each.at <= now and self._waits.get(subject.hook.name, 0.0) <= now:
                due.setdefault(subject.hook.name, []).append(subject)
        if not due or self._stopped:
            return
        # All looks end before an error of one is raised: none may still run when the next run begins.
        self._looks = asyncio.gather(*(self._hook(subjects) for subjects in due.values()), return_exceptions=True)
        try:
            results = await self._looks
        except asyncio.CancelledError:
            if not self._stopped:
                raise
        else:
            for error in results:
                if error is not None:
                    raise error
        finally:
            self._looks = None

    def stop(self) -> None:
        """Start no more looks, and abort the requests of the current ones."""
        self._stopped = True
        if self._looks is not None:
            self._looks.cancel()

    async def _hook(self, due: Sequence[Subject]) -> None:
        """The looks of one hook, one after the other: platforms limit requests for each token."""
        if (token := due[0].hook.api_token) is not None:
            token.reload()
        try:
            api = Api(due[0].hook, self._clock)
        except (ConfigError, OSError) as error:
            for subject in due:
                await self._looked(subject, error=str(error))
            return
        async with api:
            for subject in due:
                if self._waits.get(subject.hook.name, 0.0) <= self._clock.monotonic():
                    await self._look(api, subject)

    async def _look(self, api: Api, subject: Subject) -> None:
        cursor = await self._store.position(subject)
        reader = self._readers[subject.hook.platform]
        seen = await look(api, subject, stream_of(subject), cursor, reader=reader, store=self._store)
        tell(subject, seen)
        await self._looked(subject, error=seen.error, seen=seen)

    async def _looked(self, subject: Subject, *, error: str | None, seen: Seen | None = None) -> None:
        due, now = self._due[subject], self._clock.monotonic()
        due.last = now
        due.failures = due.failures + 1 if error else 0
        if error:
            wait_s = min(FIRST_RETRY_S * 2 ** min(due.failures - 1, 16), INTERVAL_S)
        else:
            wait_s = CONTINUE_S if seen is not None and seen.unfinished else INTERVAL_S
        due.at = now + self._rng.uniform(0.9, 1.0) * wait_s
        if seen is not None and seen.wait_ms is not None:
            self._waits[subject.hook.name] = now + seen.wait_ms / 1000
        self.counts[subject.hook.name, "error" if error else "ok"] += 1
        advice = "" if not error else f"; the next try is in {describe_duration(round(wait_s * 1000))}"
        self._trouble[subject].note("", None if error is None else error + advice)
        await self._store.looked(subject, error)
